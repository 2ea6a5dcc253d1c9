/** The routes: what each takes, the one statement that it is, and the document it gives. */

import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import type { FastifyRequest } from "fastify";
import { Type, type TSchema } from "typebox";
import { call, type Database, type Statement } from "./database.js";
import * as documents from "./documents.js";
import * as statements from "./statements.js";

const Device = Type.Object({
  device: Type.String({ minLength: 1, maxLength: 1000, description: "The device's id in the history." }),
});
const Incident = Type.Object({ id: Type.Integer({ description: "The incident's number." }) });
/** Ranges are the database's business: it answers with what is allowed and what to do. */
const hours = Type.Optional(Type.Integer());
const field = Type.Optional(Type.String({ description: "A metric's name or a dotted path." }));

const shown = (summary: string, response: TSchema) => ({
  summary,
  response: { 200: response, "4xx": documents.Problem, "5xx": documents.Problem },
});

export const routes: FastifyPluginAsyncTypebox<{ primary: Database; reads: Database }> = async (
  app,
  { primary, reads },
) => {
  const write = <T>(request: FastifyRequest, statement: Statement) =>
    primary.document<T>(statement, request.gone);
  const read = <T>(request: FastifyRequest, statement: Statement) =>
    reads.document<T>(statement, request.gone);

  // A table of names that pyml was not told of may be made at any time: asked once a minute.
  let asked = -Infinity;
  let named = false;
  const names = async (request: FastifyRequest) => {
    if (Date.now() - asked > 60_000) {
      named = await read<boolean>(request, statements.NAMES);
      asked = Date.now();
    }
    return named;
  };

  app.post(
    "/ml/anomalies/train/:device",
    {
      schema: {
        ...shown("Train an Isolation Forest and put it in force", documents.TrainedForest),
        params: Device,
        querystring: Type.Object({ hours, contamination: Type.Optional(Type.Number()) }),
      },
    },
    (request) => {
      const { hours, contamination } = request.query;
      const statement = call("ml_train_forest", { device: request.params.device, hours, contamination });
      return write<documents.TrainedForest>(request, statement);
    },
  );

  app.get(
    "/ml/anomalies/detect/:device",
    {
      schema: {
        ...shown("Anomalies of the last hours, with their reasons", documents.Detection),
        params: Device,
        querystring: Type.Object({ hours }),
      },
    },
    (request) => {
      const { hours } = request.query;
      const statement = call("ml_detect", { device: request.params.device, hours });
      return read<documents.Detection>(request, statement);
    },
  );

  app.post(
    "/ml/forecasts/train/:device",
    {
      schema: {
        ...shown("Train a forecast of a field", documents.TrainedForecast),
        params: Device,
        querystring: Type.Object({ field, hours }),
      },
    },
    (request) => {
      const { field, hours } = request.query;
      const statement = call("ml_train_lstm", { device: request.params.device, field, hours });
      return write<documents.TrainedForecast>(request, statement);
    },
  );

  app.get(
    "/ml/forecasts/predict/:device",
    {
      schema: {
        ...shown("What comes next, with 90 % intervals", documents.Forecast),
        params: Device,
        querystring: Type.Object({ field, horizon: Type.Optional(Type.Integer()) }),
      },
    },
    (request) => {
      const { field, horizon } = request.query;
      const statement = call("ml_forecast", { device: request.params.device, field, horizon });
      return read<documents.Forecast>(request, statement);
    },
  );

  for (const [path, kind] of [
    ["anomalies", "forest"],
    ["forecasts", "lstm"],
  ] as const) {
    app.get(
      `/ml/${path}/model-info/:device`,
      {
        schema: {
          ...shown(`The device's ${kind} models, those in force first`, documents.ModelInfo),
          params: Device,
          querystring: Type.Object({ field }),
        },
      },
      async (request) => {
        const { device } = request.params;
        const statement = statements.modelInfo(device, kind, request.query.field);
        const found = await read<documents.ModelInfo>(request, statement);
        const hint = `POST /ml/${path}/train/${encodeURIComponent(device)}`;
        return found ?? missing(`device ${device} has no ${kind} model`, hint);
      },
    );
  }

  app.get(
    "/devices/:device/twin/anomalies",
    {
      schema: {
        ...shown("z scores: needs no model", documents.TwinAnomalies),
        params: Device,
        querystring: Type.Object({
          field: Type.String({ default: "system.cpuUsage" }),
          hours: Type.Integer({ default: 168 }),
          threshold: Type.Number({ default: 2.5 }),
        }),
      },
    },
    (request) => {
      const { field, hours, threshold } = request.query;
      const statement = statements.twinAnomalies(request.params.device, field, hours, threshold);
      return read<documents.TwinAnomalies>(request, statement);
    },
  );

  app.get(
    "/devices/:device",
    {
      schema: {
        ...shown("One device: its status, history, anomalies and forecast", documents.DevicePage),
        params: Device,
        querystring: Type.Object({
          field,
          hours: Type.Integer({ default: 24 }),
        }),
      },
    },
    async (request) => {
      const { device } = request.params;
      const { field, hours } = request.query;
      const statement = statements.device(await names(request), device, field, hours);
      type Page = documents.DevicePage;
      const found = await read<Omit<Page, "history"> | undefined>(request, statement);
      if (!found) return missing(`device ${device} has no model and was never scanned`, "CALL ml_scan();");
      const readings = read<Page["history"]>(request, statements.history(device, found.field, hours));
      const history = await readings.catch((error: { code?: string }) => {
        // No reading, or no number in that field: an empty chart beside all that is known.
        if (error.code === "ML001" || error.code === "ML003") return [];
        throw error;
      });
      return { ...found, history };
    },
  );

  app.get(
    "/fleet",
    { schema: shown("Every device, its incidents and what is foretold", documents.Fleet) },
    async (request) => read<documents.Fleet>(request, statements.fleet(await names(request))),
  );

  app.get(
    "/fleet/health",
    { schema: shown("The fleet in one document", documents.FleetHealth) },
    (request) => read<documents.FleetHealth>(request, statements.fleetHealth()),
  );

  app.get(
    "/fleet/alerts",
    { schema: shown("Devices to look at, and why", documents.FleetAlerts) },
    async (request) => read<documents.FleetAlerts>(request, statements.fleetAlerts(await names(request))),
  );

  app.get(
    "/incidents",
    {
      schema: {
        ...shown("Incidents, the latest first", documents.Incidents),
        querystring: Type.Object({
          state: Type.Optional(Type.Array(documents.State, { description: "May be given several times." })),
          severity: Type.Optional(documents.Severity),
          kind: Type.Optional(Type.String()),
          device: Type.Optional(Device.properties.device),
          limit: Type.Integer({ default: 100, minimum: 1, maximum: 1000 }),
        }),
      },
    },
    async (request) =>
      read<documents.Incidents>(request, statements.incidents(await names(request), request.query)),
  );

  app.get(
    "/incidents/:id",
    { schema: { ...shown("One incident, with what makes its case", documents.OneIncident), params: Incident } },
    async (request) => {
      const { id } = request.params;
      const statement = statements.incident(await names(request), id);
      const found = await read<documents.OneIncident | undefined>(request, statement);
      return found ?? missing(`there is no incident ${id}`, "GET /incidents");
    },
  );

  for (const [path, does] of [
    ["acknowledge", "Say that somebody knows of an incident"],
    ["resolve", "End an incident"],
  ] as const) {
    app.post(
      `/incidents/:id/${path}`,
      {
        schema: {
          ...shown(does, documents.Said),
          params: Incident,
          // Asked for, be it empty: a browser sends JSON to no site but its own unasked.
          body: Type.Object({ note: Type.Optional(Type.String()) }),
        },
      },
      (request) => {
        const statement = call(`ml_${path}`, { incident_id: request.params.id, note: request.body.note });
        return write<documents.Said>(request, statement);
      },
    );
  }

  app.get(
    "/health",
    {
      schema: {
        summary: "Whether everything that pyml stands on is well; 503 where it cannot work",
        response: { 200: documents.Health, 503: documents.Health },
      },
    },
    async (request, reply) => {
      const found = await read<documents.Health>(request, statements.health());
      return reply.status(found.status === "down" ? 503 : 200).send(found);
    },
  );
};

/** Refuse as the database does where a function of its own finds no model. */
function missing(message: string, hint: string): never {
  throw Object.assign(new Error(message), { code: "ML002", hint });
}
