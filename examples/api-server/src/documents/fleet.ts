/** Of the fleet, and of the server. */

import { Type, type Static } from "typebox";
import { Points, Reach } from "./devices.js";
import { Id, nullable, object, Severity, Time, Uuid } from "./shared.js";

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
  learning: Type.Integer(),
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
      deviceName: Type.String(),
      severity: Severity,
      alerts: Type.Array(Type.String()),
    }),
  ),
});

export const Sparks = object({
  sparks: Type.Array(
    object({
      device_uuid: Uuid,
      metric: Type.String({ description: "That its latest open trouble is about; the CPU, or else the first, where there is none." }),
      unit: nullable(Type.String()),
      last_value: nullable(Type.Number({ description: "As the last scan saw it." })),
      points: Points,
    }),
    { description: "Of those that have a model and have reported within the six hours." },
  ),
});

export const Capacity = object({
  capacity: Type.Array(Reach, { description: "What is reached first comes first." }),
  total: Type.Integer({ description: "How many limits there are." }),
});

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

export type FleetHealth = Static<typeof FleetHealth>;
export type FleetAlerts = Static<typeof FleetAlerts>;
export type Sparks = Static<typeof Sparks>;
export type Capacity = Static<typeof Capacity>;
export type Health = Static<typeof Health>;
