/** The HTTP application: routes on a database, with their schemas, their access and their errors. */

import { fileURLToPath } from "node:url";
import compress from "@fastify/compress";
import cors from "@fastify/cors";
import fastifyStatic from "@fastify/static";
import swagger from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import { Ajv, type Options } from "ajv";
import formats from "ajv-formats";
import fastify, { type FastifyInstance, type FastifyReply, type HTTPMethods } from "fastify";
import { guard } from "./access.js";
import { explain, invalid, Refusal } from "./errors.js";
import { OPENAPI, withOptionalBodies } from "./openapi.js";
import { deviceRoutes } from "./routes/devices.js";
import { fleetRoutes } from "./routes/fleet.js";
import { incidentRoutes } from "./routes/incidents.js";
import { modelRoutes } from "./routes/models.js";
import { ruleRoutes } from "./routes/rules.js";
import { serverRoutes } from "./routes/server.js";
import type { Settings } from "./settings.js";
import { Source, type Connected } from "./source.js";

declare module "fastify" {
  interface FastifyRequest {
    /** Fires when the client goes away before it has its answer. */
    gone: AbortSignal;
  }
}

/** What the dashboard has from npm. */
const VENDOR = {
  "chart.js": "chart.js/dist/chart.umd.min.js",
  "hammer.js": "hammerjs/hammer.min.js",
  "chartjs-plugin-zoom.js": "chartjs-plugin-zoom/dist/chartjs-plugin-zoom.min.js",
};
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export async function application(settings: Settings, connected: Connected): Promise<FastifyInstance> {
  const app = fastify({
    logger: { level: process.env.LOG_LEVEL ?? "warn" },
    forceCloseConnections: true, // a stop ends what runs, in the database too
    routerOptions: { maxParamLength: 16_384 }, // as much as a request's line may hold: the schemas are stricter
    schemaErrorFormatter: invalid,
  }).withTypeProvider<TypeBoxTypeProvider>();

  // What is in a query is text; what is in a body has types.
  const ajv = (options: Options) => formats.default(new Ajv({ useDefaults: true, ...options }));
  const [typed, text] = [ajv({}), ajv({ coerceTypes: "array" })];
  app.setValidatorCompiler(({ schema, httpPart }) => (httpPart === "body" ? typed : text).compile(schema as object));
  // What the database says is what the client gets: the schemas describe it, they do not filter.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.removeContentTypeParser("text/plain"); // bodies are JSON
  app.setErrorHandler((error: Error, request, reply) => {
    const { status, body } = explain(error);
    if (status >= 500 && !request.gone.aborted) request.log.error(error);
    return reply.status(status).send(body);
  });
  app.setNotFoundHandler(() => {
    throw new Refusal(404, "no such route", { hint: "GET /docs" });
  });
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

  await app.register(compress);
  await app.register(cors, { origin: settings.origins, methods: ["GET", "POST", "DELETE"] });
  await app.register(swagger, {
    openapi: { ...OPENAPI, security: settings.tokens ? [{ token: [] }] : [] },
    transformObject: withOptionalBodies,
  });
  await app.register(swaggerUi, { routePrefix: "/docs" });
  await app.register(fastifyStatic, { root: here("../../dashboard"), prefix: "/" });
  for (const [name, file] of Object.entries(VENDOR)) {
    app.get(`/vendor/${name}`, { schema: { hide: true } }, (_request, reply) => reply.sendFile(file, here("../node_modules")));
  }

  await app.register(async (api) => {
    const known = new Map<string, string[]>();
    api.addHook("onRoute", ({ url, method }) => void known.set(url, [...(known.get(url) ?? []), method].flat()));
    api.addHook("onRequest", guard(settings));
    api.addHook("preValidation", async (request) => {
      if (request.method === "POST" && request.body === undefined) request.body = {}; // it says nothing either
    });
    const source = new Source(connected);
    for (const routes of [modelRoutes, deviceRoutes, incidentRoutes, ruleRoutes, fleetRoutes, serverRoutes]) {
      await api.register(routes, { source });
    }
    refuseOtherMethods(api, known);
  });
  return app;
}

/** A route that is asked by another method says by which it may be. */
function refuseOtherMethods(api: FastifyInstance, known: Map<string, string[]>): void {
  for (const [url, methods] of [...known]) {
    const others = api.supportedMethods.filter((one) => !methods.includes(one) && one !== "OPTIONS");
    const refuse = async (_request: unknown, reply: FastifyReply) => {
      reply.header("Allow", methods.join(", "));
      throw new Refusal(405, `this route takes ${methods.join(" or ")}`, { hint: "GET /docs" });
    };
    api.route({ url, method: others as HTTPMethods[], schema: { hide: true }, onRequest: refuse, handler: refuse });
  }
}
