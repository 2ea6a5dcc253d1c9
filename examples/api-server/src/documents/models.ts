/** Of models: trainings, detections, forecasts. */

import { Type, type Static } from "typebox";
import { Figures, Id, nullable, object, Reason, Severity, Time, Uuid } from "./shared.js";

// ---- Isolation Forest --------------------------------------------------------------

export const TrainedForest = object({
  device_uuid: Uuid,
  device_id: Id,
  model_id: Type.Integer(),
  training_samples: Type.Integer(),
  rejected_samples: Type.Integer(),
  repeated_samples: Type.Integer(),
  quiet_samples: Type.Integer({ description: "Left out, since they were in quiet windows." }),
  features: Type.Array(Type.String()),
  left_out: Type.Record(Type.String(), Type.String(), {
    description: "Enabled metrics that are not in the model, each with the reason.",
  }),
  finders: Type.Array(Type.String(), { description: "Kinds of the models of finders beside it." }),
  finders_left_out: Type.Record(Type.String(), Type.String(), {
    description: "Finders that were not trained, each with the reason.",
  }),
  contamination: Type.Number(),
  window_start: Time,
  window_end: Time,
  held_out: Figures,
  seconds: Type.Number(),
});

/** Beside what is named here an anomaly carries each metric's value under its name. */
export const Anomaly = Type.Object(
  {
    timestamp: Time,
    is_anomaly: Type.Boolean(),
    anomaly_score: Type.Number({ description: "Lower is more anomalous." }),
    severity: Severity,
    rarity: nullable(Type.Number({ description: "Hours between two like it, on ordinary days." })),
    reasons: Type.Array(Reason),
  },
  { additionalProperties: nullable(Type.Number()) },
);

export const Detection = object({
  device_uuid: Uuid,
  device_id: Id,
  analyzed_points: Type.Integer(),
  anomalies_detected: Type.Integer(),
  anomalies: Type.Array(Anomaly),
  units: Type.Record(Type.String(), Type.String(), { description: "Of the metrics that have one." }),
  model_info: object({
    model_id: Type.Integer(),
    trained_at: Time,
    training_samples: Type.Integer(),
    features: Type.Array(Type.String()),
    warning_below: Type.Number(),
    critical_below: Type.Number(),
    rarity_from: nullable(
      object({
        devices: Type.Integer(),
        hours: Type.Number({ description: "Of ordinary telemetry." }),
        provisional: Type.Boolean({ description: "Too few hours to tell what comes once a month." }),
      }),
    ),
    rejected_samples: Type.Integer(),
    repeated_samples: Type.Integer(),
  }),
});

// ---- Forecasts ---------------------------------------------------------------------

export const TrainedForecast = object({
  device_uuid: Uuid,
  device_id: Id,
  field: Type.String(),
  model_id: Type.Integer(),
  accepted: Type.Boolean({ description: "Whether it replaced the model in force." }),
  training_samples: Type.Integer(),
  rejected_samples: Type.Integer(),
  quiet_samples: Type.Integer({ description: "Left out, since they were in quiet windows." }),
  sequence_length: Type.Integer(),
  forecast_horizon: Type.Integer(),
  interval_seconds: Type.Number(),
  held_out: Figures,
  seconds: Type.Number(),
});

export const Prediction = object({
  timestamp: Time,
  predicted_value: Type.Number(),
  confidence_lower: Type.Number(),
  confidence_upper: Type.Number(),
});

export const Forecast = object({
  device_uuid: Uuid,
  device_id: Id,
  field: Type.String(),
  unit: nullable(Type.String()),
  predictions: Type.Array(Prediction),
  model_info: object({
    model_id: Type.Integer(),
    trained_at: Time,
    training_samples: Type.Integer(),
    sequence_length: Type.Integer(),
    forecast_horizon: Type.Integer(),
    level: Type.Number(),
    scope: Type.Enum(["device", "fleet"]),
    interval_from: Type.Integer(),
    last_reading: Time,
    last_reading_age_seconds: Type.Number(),
    mae: nullable(Type.Number()),
    mase: nullable(Type.Number()),
    beats_naive: nullable(Type.Boolean()),
    coverage: nullable(Type.Record(Type.String(), nullable(Type.Number()))),
  }),
});

export const ModelInfo = object({
  device_uuid: Uuid,
  device_id: Id,
  models: Type.Array(
    object({
      model_id: Type.Integer(),
      kind: Type.Enum(["forest", "lstm"]),
      field: nullable(Type.String()),
      is_current: Type.Boolean(),
      trained_at: Time,
      window_start: Time,
      window_end: Time,
      readings_used: Type.Integer(),
      readings_rejected: Type.Integer(),
      parameters: Figures,
      figures: Figures,
      versions: Type.Record(Type.String(), Type.String()),
      seconds: Type.Number(),
      bytes: Type.Integer(),
      sha256: Type.String(),
      trained_with: nullable(Type.Integer()),
    }),
  ),
});

export type TrainedForest = Static<typeof TrainedForest>;
export type Anomaly = Static<typeof Anomaly>;
export type Detection = Static<typeof Detection>;
export type TrainedForecast = Static<typeof TrainedForecast>;
export type Prediction = Static<typeof Prediction>;
export type Forecast = Static<typeof Forecast>;
export type ModelInfo = Static<typeof ModelInfo>;
