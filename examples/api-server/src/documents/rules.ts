/** Of what people know: rules and quiet windows. */

import { Type, type Static } from "typebox";
import { State } from "./incidents.js";
import { nullable, object, Time } from "./shared.js";

const text = nullable(Type.String());
const number = nullable(Type.Number());

/** A row of the view that has both. */
export const Rules = object({
  rules: Type.Array(
    object({
      rule_id: nullable(Type.Integer({ description: "Null of a quiet window." })),
      quiet_id: nullable(Type.Integer({ description: "Null of a rule." })),
      device_uuid: nullable(Type.String({ format: "uuid", description: "Null: all devices." })),
      device_id: text,
      name: text,
      metric: nullable(Type.String({ description: "Null: all metrics." })),
      says: Type.String({ description: "What it says, in words." }),
      reason: text,
      starts_at: nullable(Time),
      ends_at: nullable(Type.String({ format: "date-time", description: "Null: never." })),
      created_at: Time,
      created_by: Type.String({ description: "A role." }),
      kept_quiet_7d: Type.Integer({ description: "Findings of the last seven days that it kept from being told." }),
      last_kept_quiet_at: nullable(Time),
    }),
  ),
});

const said = { device_uuid: text, metric: text, reason: text, created_at: Time, created_by: Type.String() };

export const Rule = object({
  rule_id: Type.Integer(),
  ...said,
  direction: text,
  least_deviation: number,
  limit_low: number,
  limit_high: number,
  mute: Type.Boolean(),
  until: nullable(Time),
});

export const QuietWindow = object({
  quiet_id: Type.Integer(),
  ...said,
  starts_at: Time,
  ends_at: Time,
  repeat: text,
  zone: Type.String(),
});

/** What would keep an incident and its like quiet. */
export const NotAFault = object({
  incident_id: Type.Integer(),
  state: State,
  changed: Type.Boolean(),
  note: text,
  told: text,
  statement: nullable(Type.String({ description: "That makes it; null where something keeps it quiet already." })),
  words: nullable(Type.String({ description: "What is then no longer told." })),
  applied: Type.Boolean({ description: "Whether it was made." }),
});

export type Rules = Static<typeof Rules>;
export type Rule = Static<typeof Rule>;
export type QuietWindow = Static<typeof QuietWindow>;
export type NotAFault = Static<typeof NotAFault>;
