/** Of incidents: what they are made of, what happens to them, what people say of them. */

import { Type, type Static } from "typebox";
import { Cursor, Figures, Id, Name, nullable, object, Severity, Time, Uuid } from "./shared.js";

export const State = Type.Enum(["open", "acknowledged", "resolved"]);
const EVENTS = ["opened", "escalated", "acknowledged", "resolved"] as const;

const incident = {
  incident_id: Type.Integer(),
  device_uuid: Uuid,
  device_id: Id,
  name: Name,
  state: State,
  severity: Severity,
  kind: Type.String({ description: "What is wrong: value, combination, forecast, level, drift, breach, stuck, missing, junk, silent." }),
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
export const MayAct = Type.Boolean({ description: "Whether the server's role may acknowledge and resolve." });
export const Incidents = object({ incidents: Type.Array(Incident), next: Cursor, may_act: MayAct });

export const Finding = object({
  finding_id: Type.Integer(),
  detector: Type.String(),
  kind: Type.String(),
  metric: nullable(Type.String({ description: "Null where it is the device." })),
  started_at: Time,
  last_at: Time,
  severity: Severity,
  score: Type.Number({ description: "How far beyond what is ordinary, in what the detector allows." }),
  rarity: nullable(Type.Number({ description: "Hours between two such, on ordinary days." })),
  sentence: Type.String(),
  evidence: Figures,
});

export const OneIncident = object({
  ...incident,
  evidence: Figures,
  findings: Type.Array(Finding, { description: "What it is made of, the first first." }),
  events: Type.Array(
    object({
      event_id: Type.Integer(),
      event: Type.Enum([...EVENTS]),
      happened_at: Time,
      replayed: Type.Boolean({ description: "Whether a replay (as_of) made it, of which nobody is told." }),
    }),
    { description: "What happened to it, the first first." },
  ),
});

export const FleetIncidents = object({
  incidents: Type.Array(
    object({
      kind: Type.String(),
      leading_metric: nullable(Type.String({ description: "Null where it is the device." })),
      severity: Severity,
      state: State,
      devices: Type.Integer({ description: "How many." }),
      started_at: Time,
      ended_at: Time,
      summary: Type.String(),
      incident_ids: Type.Array(Type.Integer()),
      device_uuids: Type.Array(Uuid),
    }),
  ),
});

export const Said = object({
  incident_id: Type.Integer(),
  state: State,
  changed: Type.Boolean({ description: "Whether the state has." }),
  note: nullable(Type.String()),
  told: nullable(Type.String({ description: "Who has said so before, and when." })),
});

export const SaidOfAll = object({
  incidents: Type.Integer({ description: "How many are not resolved." }),
  changed: Type.Integer({ description: "Of how many the state has changed." }),
});

/** An event as the stream tells it: what happened, and the incident as it stands. One of scans has no incident. */
export const Happening = object({
  event_id: Type.Integer(),
  event: Type.Enum([...EVENTS, "stalled", "resumed"]),
  happened_at: Time,
  incident_id: nullable(Type.Integer()),
  device_uuid: nullable(Uuid),
  device_id: nullable(Id),
  name: nullable(Name),
  kind: nullable(Type.String()),
  severity: nullable(Severity),
  state: nullable(State),
  summary: nullable(Type.String()),
});

export type Incident = Static<typeof Incident>;
export type Incidents = Static<typeof Incidents>;
export type OneIncident = Static<typeof OneIncident>;
export type FleetIncidents = Static<typeof FleetIncidents>;
export type Said = Static<typeof Said>;
export type SaidOfAll = Static<typeof SaidOfAll>;
export type Happening = Static<typeof Happening>;
