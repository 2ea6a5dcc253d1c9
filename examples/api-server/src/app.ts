/** The HTTP application: routes on a database, with their schemas and their errors. */

import { fileURLToPath } from "node:url";
import fastifyStatic from "@fastify/static";
import swagger from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import fastify, { type FastifyInstance } from "fastify";
import type { Database } from "./database.js";
import { explain } from "./errors.js";
import { routes } from "./routes.js";

declare module "fastify" {
  interface FastifyRequest {
    /** Fires when the client goes away before it has its answer. */
    gone: AbortSignal;
  }
}

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/**
 * @param primary where models are trained
 * @param reads where all else is asked: the primary too, or a read-only standby
 */
export async function application(primary: Database, reads: Database): Promise<FastifyInstance> {
  const app = fastify({
    logger: { level: process.env.LOG_LEVEL ?? "warn" },
    forceCloseConnections: true, // a stop ends what runs, in the database too
    routerOptions: { maxParamLength: 16_384 }, // as much as a request's line may hold: the schemas are stricter
  }).withTypeProvider<TypeBoxTypeProvider>();

  // What the database says is what the client gets: the schemas describe it, they do not filter.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setErrorHandler((error: Error, request, reply) => {
    const { status, body } = explain(error);
    if (status >= 500 && !request.gone.aborted) request.log.error(error);
    return reply.status(status).send(body);
  });
  app.setNotFoundHandler((_request, reply) =>
    reply.status(404).send({ error: "Not Found", message: "no such route", hint: "GET /docs" }),
  );
  app.decorateRequest("gone");
  app.addHook("onRequest", async (request, reply) => {
    const controller = new AbortController();
    request.gone = controller.signal;
    reply.raw.on("close", () => {
      if (!reply.raw.writableFinished) controller.abort();
    });
  });
  app.addHook("onSend", async (_request, reply) => {
    reply.header("X-Content-Type-Options", "nosniff");
  });

  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0", // whose schemas are JSON schemas
      info: {
        title: "pyml",
        description: "Anomalies and forecasts of device telemetry. Each route is one SQL statement.",
        version: "1",
      },
    },
  });
  await app.register(swaggerUi, { routePrefix: "/docs" });
  await app.register(fastifyStatic, { root: here("../../dashboard"), prefix: "/" });
  app.get("/vendor/chart.js", { schema: { hide: true } }, (_request, reply) =>
    reply.sendFile("chart.js/dist/chart.umd.min.js", here("../node_modules")),
  );
  await app.register(routes, { primary, reads });
  return app;
}
