/**
 * The documents that the database gives, as JSON schemas: the OpenAPI page shows
 * them, the types of TypeScript follow from them, and the tests hold them against
 * what a real server says.
 */

import { Type, type Static, type TSchema } from "typebox";

const object = <T extends Record<string, TSchema>>(properties: T) =>
  Type.Object(properties, { additionalProperties: false });
const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
const Time = Type.String({ format: "date-time" });
const Uuid = Type.String({ format: "uuid", description: "By which pyml's own tables know the device." });
const Id = Type.String({ description: "By which the history knows the device." });
const Name = Type.String({ description: "The device's; its id where it has none." });
const Figures = Type.Record(Type.String(), Type.Unknown());
export const Severity = Type.Enum(["warning", "critical"]);

export const Reason = object({
  metric: Type.String(),
  kind: Type.String({ description: "What is unusual about it: high, fell, restless, together, …" }),
  sentence: Type.String({ description: "The same in words, with the numbers that make the case." }),
  value: nullable(Type.Number()),
  usual_low: nullable(Type.Number()),
  usual_high: nullable(Type.Number()),
  contribution: Type.Number(),
  predicted: Type.Optional(Type.Number()),
});

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

// ---- z scores ----------------------------------------------------------------------

export const TwinAnomalies = object({
  deviceUuid: Uuid,
  deviceId: Id,
  field: Type.String(),
  timeRange: object({ from: Time, to: Time }),
  statistics: object({
    dataPoints: Type.Integer(),
    mean: nullable(Type.Number()),
    stdDev: nullable(Type.Number()),
    min: nullable(Type.Number()),
    max: nullable(Type.Number()),
  }),
  anomalyDetection: object({
    threshold: Type.Number(),
    method: Type.Literal("Z-score"),
    detected: object({
      total: Type.Integer(),
      critical: Type.Integer(),
      warning: Type.Integer(),
    }),
  }),
  anomalies: Type.Array(
    object({ timestamp: Time, value: Type.Number(), zScore: Type.Number(), severity: Severity }),
  ),
});

// ---- The fleet ---------------------------------------------------------------------

export const Status = Type.Enum(["critical", "failing", "warning", "silent", "untrained", "ok"], {
  description: "In a word, the first that holds: as ml_device_status has it.",
});

export const Device = object({
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  status: Status,
  error: nullable(Type.String()),
  open_incidents: Type.Integer({ description: "Those that are not resolved." }),
  anomalies_24h: Type.Integer(),
  breaches: Type.Integer(),
  last_reading_at: nullable(Time),
  last_anomaly_at: nullable(Time),
  scanned_at: nullable(Time),
  forest_trained_at: nullable(Time),
  scanned_from: nullable(Time),
  oldest_model_at: nullable(Time),
  forecast_models: Type.Integer(),
  silent: Type.Boolean({ description: "No reading for longer than it ever pauses." }),
});

export const State = Type.Enum(["open", "acknowledged", "resolved"]);

const incident = {
  incident_id: Type.Integer(),
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  state: State,
  severity: Severity,
  kind: Type.String({ description: "What is wrong: value, combination, forecast, level, drift, stuck, missing, junk, silent." }),
  summary: Type.String({ description: "The trouble in words." }),
  leading_metric: nullable(Type.String({ description: "Null where it is the device." })),
  started_at: Time,
  opened_at: Time,
  ended_at: Type.String({ format: "date-time", description: "When it was last seen." }),
  acknowledged_at: nullable(Time),
  acknowledged_by: nullable(Type.String({ description: "A role." })),
  resolved_at: nullable(Time),
  resolved_by: nullable(Type.String({ description: "A role; null where it is over by itself." })),
  why: nullable(Type.String({ description: "Why it is resolved: over, became usual, a person, a rule, retired." })),
  note: nullable(Type.String()),
  rarity: nullable(Type.Number({ description: "Hours between two such, on ordinary days." })),
  worst_score: nullable(Type.Number()),
  readings: nullable(Type.Integer({ description: "How many were anomalous." })),
  tiers: Type.Array(Type.String({ description: "Who spoke." })),
};

export const Incident = object(incident);
export const Incidents = object({ incidents: Type.Array(Incident) });
export const OneIncident = object({ ...incident, evidence: Figures });

export const Said = object({
  incident_id: Type.Integer(),
  state: State,
  changed: Type.Boolean({ description: "Whether the state has." }),
  note: nullable(Type.String()),
  told: nullable(Type.String({ description: "Who has said so before, and when." })),
});

export const Breach = object({
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  field: Type.String(),
  limit_value: Type.Number(),
  breach_at: Time,
  worst_predicted: Type.Number(),
  made_at: Time,
});

const MayAct = Type.Boolean({ description: "Whether the server's role may acknowledge and resolve." });

export const FleetHealth = object({
  totalDevices: Type.Integer(),
  health: object({
    healthy: Type.Integer(),
    degraded: Type.Integer(),
    critical: Type.Integer(),
    healthyPercentage: Type.Integer(),
  }),
  failing: Type.Integer(),
  warning: Type.Integer(),
  silent: Type.Integer(),
  untrained: Type.Integer(),
  open_incidents: Type.Integer(),
  incidents_7d: Type.Integer(),
  expected_7d: Type.Number({ description: "In a week in which nothing is wrong." }),
  anomalies_24h: Type.Integer(),
  critical_24h: Type.Integer(),
  trainings_24h: Type.Integer(),
  failed_trainings_24h: Type.Integer(),
  oldest_scan_at: nullable(Time),
  last_reading_at: nullable(Time),
  timestamp: Time,
});

export const FleetAlerts = object({
  total: Type.Integer(),
  alerts: Type.Array(
    object({
      deviceUuid: Uuid,
      deviceId: Id,
      deviceName: Name,
      severity: Severity,
      alerts: Type.Array(Type.String()),
    }),
  ),
});

export const Fleet = object({
  health: FleetHealth,
  devices: Type.Array(Device),
  incidents: Type.Array(Incident, { description: "Not resolved, or of the last day; the former first." }),
  breaches: Type.Array(Breach),
  may_act: MayAct,
});

export const DevicePage = object({
  device: Device,
  fields: Type.Array(Type.String(), { description: "What can be asked for as field." }),
  field: Type.String(),
  unit: nullable(Type.String()),
  history: Type.Array(object({ timestamp: Time, value: Type.Number() }), {
    description: "The field's readings, the oldest first.",
  }),
  anomalies: Type.Array(
    object({
      timestamp: Time,
      severity: Severity,
      anomaly_score: nullable(Type.Number()),
      forecast_score: nullable(Type.Number()),
      value: nullable(Type.Number({ description: "Of the field, where it was recorded." })),
      reasons: Type.Array(Reason),
    }),
  ),
  incidents: Type.Array(Incident),
  forecast: Type.Array(Prediction),
  forecast_level: nullable(Type.Number()),
  limit_value: nullable(Type.Number({ description: "That the field's forecast reaches." })),
  breaches: Type.Array(Breach),
  may_act: MayAct,
  timestamp: Time,
});

// ---- Health and errors -------------------------------------------------------------

export const Health = object({
  status: Type.Enum(["ok", "degraded", "down"]),
  checks: Type.Array(
    object({
      check: Type.String(),
      ok: Type.Boolean(),
      detail: nullable(Type.String()),
      fix: nullable(Type.String()),
    }),
  ),
});

export const Problem = object({
  error: Type.String({ description: "The name of the status." }),
  message: Type.String(),
  detail: Type.Optional(Type.String()),
  hint: Type.Optional(Type.String({ description: "The next statement to type." })),
  code: Type.Optional(Type.String({ description: "SQLSTATE." })),
});

export type Reason = Static<typeof Reason>;
export type TrainedForest = Static<typeof TrainedForest>;
export type Anomaly = Static<typeof Anomaly>;
export type Detection = Static<typeof Detection>;
export type TrainedForecast = Static<typeof TrainedForecast>;
export type Prediction = Static<typeof Prediction>;
export type Forecast = Static<typeof Forecast>;
export type ModelInfo = Static<typeof ModelInfo>;
export type TwinAnomalies = Static<typeof TwinAnomalies>;
export type Status = Static<typeof Status>;
export type Device = Static<typeof Device>;
export type Incident = Static<typeof Incident>;
export type Incidents = Static<typeof Incidents>;
export type OneIncident = Static<typeof OneIncident>;
export type Said = Static<typeof Said>;
export type Breach = Static<typeof Breach>;
export type FleetHealth = Static<typeof FleetHealth>;
export type FleetAlerts = Static<typeof FleetAlerts>;
export type Fleet = Static<typeof Fleet>;
export type DevicePage = Static<typeof DevicePage>;
export type Health = Static<typeof Health>;
export type Problem = Static<typeof Problem>;
