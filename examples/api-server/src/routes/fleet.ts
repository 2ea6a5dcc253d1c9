/** All devices together. */

import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { Type } from "typebox";
import * as documents from "../documents.js";
import { missing } from "../errors.js";
import type { Source } from "../source.js";
import * as statements from "../statements.js";
import { given, Incident, limit, note, shown } from "./schemas.js";

export const fleetRoutes: FastifyPluginAsyncTypebox<{ source: Source }> = async (app, { source }) => {
  const querystring = given({});

  app.get(
    "/fleet/health",
    { schema: { ...shown("fleet", "The fleet in one document", documents.FleetHealth), querystring } },
    (request) => source.read<documents.FleetHealth>(request, statements.fleetHealth()),
  );

  app.get(
    "/fleet/alerts",
    { schema: { ...shown("fleet", "Devices to look at, and why", documents.FleetAlerts), querystring } },
    async (request) => source.read<documents.FleetAlerts>(request, statements.fleetAlerts(await source.names(request))),
  );

  app.get(
    "/fleet/sparks",
    {
      schema: {
        ...shown("fleet", "The last six hours of devices, each in a few points of one metric", documents.Sparks, "For lines beside a list."),
        querystring: given({
          device: Type.Array(documents.Uuid, { minItems: 1, maxItems: 100, description: "May be given several times." }),
        }),
      },
    },
    (request) => source.read<documents.Sparks>(request, statements.sparks(request.query.device)),
  );

  app.get(
    "/fleet/capacity",
    {
      schema: {
        ...shown("fleet", "When limits are reached", documents.Capacity, "What is reached first comes first; what is not in sight comes last."),
        querystring: given({ limit }),
      },
    },
    async (request) =>
      source.read<documents.Capacity>(request, statements.capacity(await source.names(request), request.query.limit)),
  );

  app.get(
    "/fleet/incidents",
    {
      schema: {
        ...shown(
          "fleet",
          "The same trouble of many devices as one",
          documents.FleetIncidents,
          "One kind and metric, on at least five devices and a tenth of the fleet, each within 15 minutes of the one before.",
        ),
        querystring,
      },
    },
    (request) => source.read<documents.FleetIncidents>(request, statements.fleetIncidents()),
  );

  for (const [path, does] of [
    ["acknowledge", "Say that somebody knows of the same trouble of many devices"],
    ["resolve", "End the same trouble of many devices"],
  ] as const) {
    app.post(
      `/fleet/incidents/:id/${path}`,
      {
        config: { level: "act" },
        schema: {
          ...shown("fleet", does, documents.SaidOfAll, "Of the incidents that are one with the one of that number, those that are not resolved."),
          params: Incident,
          querystring,
          body: given({ note: Type.Optional(note) }),
        },
      },
      async (request) => {
        const { id } = request.params;
        const found = await source.write<documents.SaidOfAll | undefined>(request, statements.sayOfAll(path, id, request.body.note));
        return found ?? missing(`incident ${id} is not one of many that are the same and not resolved`, "GET /fleet/incidents");
      },
    );
  }
};
