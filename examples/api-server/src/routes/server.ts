/** Whether all is well, for people and for Prometheus. */

import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { Type } from "typebox";
import * as documents from "../documents.js";
import { exposition, type Measured } from "../metrics.js";
import type { Source } from "../source.js";
import * as statements from "../statements.js";
import { given } from "./schemas.js";

export const serverRoutes: FastifyPluginAsyncTypebox<{ source: Source }> = async (app, { source }) => {
  app.get(
    "/health",
    {
      schema: {
        tags: ["server"],
        summary: "Whether everything that pyml stands on is well",
        description: "503 where it cannot work.",
        querystring: given({}),
        response: {
          200: documents.Health,
          503: Type.Union([documents.Health, documents.Problem]),
          "4xx": documents.Problem,
          "5xx": documents.Problem,
        },
      },
    },
    async (request, reply) => {
      const found = await source.read<documents.Health>(request, statements.health());
      return reply.status(found.status === "down" ? 503 : 200).send(found);
    },
  );

  app.get(
    "/metrics",
    {
      schema: {
        tags: ["server"],
        summary: "The fleet in figures, as Prometheus reads them",
        querystring: given({}),
        response: {
          200: { description: "Prometheus' text format.", content: { "text/plain": { schema: Type.String() } } },
          "4xx": documents.Problem,
          "5xx": documents.Problem,
        },
      },
    },
    async (request, reply) => {
      const text = exposition(await source.read<Measured>(request, statements.metrics()));
      return reply.type("text/plain; version=0.0.4; charset=utf-8").send(text);
    },
  );
};
