/** Models: training, detection, forecasts. */

import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { Type } from "typebox";
import { call } from "../database.js";
import * as documents from "../documents.js";
import { missing } from "../errors.js";
import type { Source } from "../source.js";
import * as statements from "../statements.js";
import { Device, field, given, hours, shown, trainingHours } from "./schemas.js";

const TAKES_LONG = "Takes seconds to minutes; ends when the client goes away.";

export const modelRoutes: FastifyPluginAsyncTypebox<{ source: Source }> = async (app, { source }) => {
  app.post(
    "/ml/anomalies/train/:device",
    {
      config: { level: "train" },
      schema: {
        ...shown("models", "Train an Isolation Forest and put it in force", documents.TrainedForest, TAKES_LONG),
        params: Device,
        querystring: given({}),
        body: given({
          hours: Type.Optional(trainingHours),
          contamination: Type.Optional(
            Type.Number({
              minimum: 0.0001,
              maximum: 0.2,
              description: "Share of readings that it may flag on ordinary days; the setting of that name where not given.",
              examples: [0.01],
            }),
          ),
        }),
      },
    },
    (request) => {
      const statement = call("ml_train_forest", { device: request.params.device, ...request.body });
      return source.write<documents.TrainedForest>(request, statement);
    },
  );

  app.get(
    "/ml/anomalies/detect/:device",
    {
      schema: {
        ...shown("models", "Anomalies of the last hours, with their reasons", documents.Detection, "The newest first, 1000 at most."),
        params: Device,
        querystring: given({ hours: hours(24) }),
      },
    },
    (request) => {
      const statement = call("ml_detect", { device: request.params.device, hours: request.query.hours });
      return source.read<documents.Detection>(request, statement);
    },
  );

  app.post(
    "/ml/forecasts/train/:device",
    {
      config: { level: "train" },
      schema: {
        ...shown("models", "Train a forecast of a field", documents.TrainedForecast, TAKES_LONG),
        params: Device,
        querystring: given({}),
        body: given({ field: Type.Optional(field), hours: Type.Optional(trainingHours) }),
      },
    },
    (request) => {
      const statement = call("ml_train_lstm", { device: request.params.device, ...request.body });
      return source.write<documents.TrainedForecast>(request, statement);
    },
  );

  app.get(
    "/ml/forecasts/predict/:device",
    {
      schema: {
        ...shown("models", "What comes next, with 90 % intervals", documents.Forecast),
        params: Device,
        querystring: given({
          field: Type.Optional(field),
          horizon: Type.Optional(
            Type.Integer({ minimum: 1, maximum: 10_000, description: "How many steps; at most, and without it, the model's own.", examples: [12] }),
          ),
        }),
      },
    },
    (request) => {
      const { field, horizon } = request.query;
      const statement = call("ml_forecast", { device: request.params.device, field, horizon });
      return source.read<documents.Forecast>(request, statement);
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
          ...shown("models", `The device's ${kind} models, those in force first`, documents.ModelInfo),
          params: Device,
          querystring: given(kind === "lstm" ? { field: Type.Optional(field) } : {}),
        },
      },
      async (request) => {
        const { device } = request.params;
        const { field } = request.query as { field?: string };
        const found = await source.read<documents.ModelInfo>(request, statements.modelInfo(device, kind, field));
        const hint = `POST /ml/${path}/train/${encodeURIComponent(device)}`;
        return found ?? missing(`device ${device} has no ${kind} model`, hint);
      },
    );
  }
};
