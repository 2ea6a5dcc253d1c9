/** What several routes take. */

import { Type, type TProperties, type TSchema } from "typebox";
import { Problem } from "../documents.js";

const EXAMPLE = "8f14e45f-ceea-467f-9575-1a0c4e2f6b10";
/** PostgreSQL's text has no such character. */
const text = { pattern: "^[^\\u0000]*$" };

/** Parameters, of which there are no others. What has a default need not be given, and is there all the same. */
export const given = <T extends TProperties>(properties: T) => {
  const schema = Type.Object(properties, { additionalProperties: false });
  const { required = [] } = schema as { required?: string[] };
  Object.assign(schema, { required: required.filter((name) => !("default" in properties[name]!)) });
  return schema;
};

export const deviceId = Type.String({
  ...text,
  minLength: 1,
  maxLength: 1000,
  description: "The device's id in the history.",
  examples: [EXAMPLE],
});
export const Device = Type.Object({ device: deviceId });
export const number = (description: string) =>
  Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, description, examples: [17] });
export const Incident = Type.Object({ id: number("The incident's number.") });
export const remark = (description: string, example: string) =>
  Type.String({ ...text, maxLength: 4000, description, examples: [example] });
export const note = remark("In place of an earlier one.", "the fan is on order");

const FIELD = {
  ...text,
  minLength: 1,
  maxLength: 1000,
  description: "A metric's name, or the path of a number in the reported state.",
  examples: ["cpu_usage", "system.cpuUsage"],
};
export const field = Type.String(FIELD);
export const fieldOr = (usual: string) => Type.String({ ...FIELD, default: usual });
const HOURS = { minimum: 1, maximum: 87_840, examples: [24] };
export const hours = (usual: number) => Type.Integer({ ...HOURS, default: usual, description: "How far to look back." });
export const trainingHours = Type.Integer({ ...HOURS, description: "Of readings; the setting training_hours where not given." });
export const words = (description: string, examples: string[]) =>
  Type.String({ ...text, minLength: 1, maxLength: 200, description, examples });
/** Years and offsets that PostgreSQL takes, too. */
const MOMENT = "^[1-9][0-9]{3}-.*(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])$";
export const moment = (description: string) =>
  Type.String({ format: "date-time", pattern: MOMENT, description, examples: ["2026-11-29T10:00:00Z"] });
/** A span of time: the last hours, or those before `to`, or from when to when. */
export const span = (usual: number) => ({
  hours: hours(usual),
  from: Type.Optional(moment("Begin of the span, in place of hours before its end.")),
  to: Type.Optional(moment("End of the span; now, where not given.")),
});
export const points = (usual: number) =>
  Type.Integer({ minimum: 2, maximum: 10_000, default: usual, description: "How many at most." });
export const several = <T extends TSchema>(one: T) =>
  Type.Array(one, { minItems: 1, maxItems: 20, description: "May be given several times." });
export const limit = Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: "How many a page has at most." });
export const cursor = (pattern: string) =>
  Type.String({ pattern, maxLength: 1300, description: "As next of the page before." });

/** Of one group, with a summary, what more there is to say, and an answer. */
export const shown = (tag: string, summary: string, response: TSchema, description = "") => ({
  tags: [tag],
  summary,
  ...(description && { description }),
  response: { 200: response, "4xx": Problem, "5xx": Problem },
});
