/** Of devices: a list, a page, the reported state and its history, signals. */

import { Type, type Static } from "typebox";
import { Incident, MayAct } from "./incidents.js";
import { Prediction } from "./models.js";
import { Cursor, Id, Name, nullable, object, Reason, Severity, Time, Uuid } from "./shared.js";

/** The worst first. */
export const STATUSES = ["critical", "failing", "warning", "silent", "learning", "untrained", "ok"] as const;
export const Status = Type.Enum([...STATUSES], {
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

export const Devices = object({
  devices: Type.Array(Device),
  total: Type.Integer({ description: "How many there are, on all pages." }),
  next: Cursor,
});

export const Breach = object({
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  field: Type.String(),
  unit: nullable(Type.String()),
  limit_value: Type.Number(),
  breach_at: Time,
  worst_predicted: Type.Number(),
  made_at: Time,
});

export const DevicePage = object({
  device: Device,
  from: Time,
  to: Time,
  metric: Type.String({ description: "To look at first: cpu_usage where its forest uses it, else the first that it uses." }),
  anomalies: Type.Array(
    object({
      timestamp: Time,
      severity: Severity,
      anomaly_score: nullable(Type.Number()),
      forecast_score: nullable(Type.Number()),
      metrics: Type.Record(Type.String(), nullable(Type.Number()), { description: "The reading." }),
      reasons: Type.Array(Reason),
    }),
    { description: "Of the span, the newest first, 1000 at most." },
  ),
  anomalies_found: Type.Integer({ description: "How many there are." }),
  incidents: Type.Array(Incident, { description: "Not resolved, or ended within a day or since from; the former first." }),
  breaches: Type.Array(Breach),
  may_act: MayAct,
  timestamp: Time,
});

// ---- the twin ----------------------------------------------------------------------

export const Twin = object({
  device_uuid: Uuid,
  device_id: Id,
  timestamp: Time,
  state: Type.Unknown({ description: "What the device reported last, whole." }),
});

export const Points = Type.Array(object({ timestamp: Time, value: Type.Number() }), {
  description: "In time order. Of each part of the span the least and the greatest value.",
});

export const TwinHistory = object({
  device_uuid: Uuid,
  device_id: Id,
  field: Type.String(),
  unit: nullable(Type.String()),
  limit_low: nullable(Type.Number()),
  limit_high: nullable(Type.Number()),
  from: Time,
  to: Time,
  points: Points,
  usual: Type.Array(object({ timestamp: Time, low: Type.Number(), high: Type.Number() }), {
    description: "Between what its means of 15 minutes stay on ordinary days; empty where that is not known.",
  }),
  forecast: Type.Array(Prediction, { description: "From the last reading that a scan saw." }),
  forecast_level: nullable(Type.Number({ description: "Of its interval." })),
});

export const Metrics = object({
  device_uuid: Uuid,
  device_id: Id,
  from: Time,
  to: Time,
  metrics: Type.Array(
    object({
      metric: Type.String(),
      unit: nullable(Type.String()),
      points: Points,
    }),
  ),
});

/** z scores in the shape that clients of the twin know. */
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

// ---- days ahead --------------------------------------------------------------------

/** When a signal reaches a limit: a row of ml_capacity. */
export const Reach = object({
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  metric: Type.String(),
  unit: nullable(Type.String()),
  side: Type.Enum(["high", "low"], { description: "high: reached from below." }),
  limit_value: Type.Number(),
  value: nullable(Type.Number({ description: "The last mean of an hour." })),
  slope: nullable(Type.Number({ description: "How far it goes in a day." })),
  earliest: nullable(Time),
  probably: nullable(Time),
  latest: nullable(Time),
  days: Type.Integer({ description: "That were looked ahead; a time that is null is not within them." }),
  looked_at: Time,
  why_not: nullable(Type.String({ description: "Why there is no outlook." })),
});

export const Outlook = object({
  device_uuid: Uuid,
  device_id: Id,
  field: Type.String(),
  unit: nullable(Type.String()),
  outlook: Type.Array(
    object({
      timestamp: Time,
      predicted_value: Type.Number(),
      lower_80: Type.Number(),
      upper_80: Type.Number(),
      lower_90: Type.Number(),
      upper_90: Type.Number(),
    }),
    { description: "Means of an hour, or as often as the field comes where that is more seldom." },
  ),
  capacity: Type.Array(Reach, { description: "Of the field's limits, as the last scan saw it." }),
});

// ---- signals -----------------------------------------------------------------------

const Share = nullable(Type.Number({ minimum: 0, maximum: 1 }));

export const Signals = object({
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  signals: Type.Array(
    object({
      metric: Type.String(),
      unit: nullable(Type.String()),
      last_value: nullable(Type.Number()),
      last_at: nullable(Time),
      rhythm_seconds: nullable(Type.Number({ description: "Usual time between two samples." })),
      quality: nullable(Type.String({ description: "Of the last sample: ok, missing, out of range, junk, reset." })),
      since: nullable(Time),
      in_model: Type.Boolean({ description: "Whether detection uses it." }),
      why_not: nullable(Type.String()),
      samples: nullable(Type.Integer({ description: "Of the last 24 h, as all shares are." })),
      missing_share: Share,
      out_of_range_share: Share,
      junk_share: Share,
      reset_share: Share,
      bad_clock_share: Share,
    }),
  ),
});

export type Status = Static<typeof Status>;
export type Device = Static<typeof Device>;
export type Devices = Static<typeof Devices>;
export type Breach = Static<typeof Breach>;
export type DevicePage = Static<typeof DevicePage>;
export type Twin = Static<typeof Twin>;
export type Metrics = Static<typeof Metrics>;
export type TwinHistory = Static<typeof TwinHistory>;
export type TwinAnomalies = Static<typeof TwinAnomalies>;
export type Outlook = Static<typeof Outlook>;
export type Signals = Static<typeof Signals>;
