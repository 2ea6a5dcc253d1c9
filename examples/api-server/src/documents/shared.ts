/** What the documents are made of. */

import { Type, type Static, type TSchema } from "typebox";

export const object = <T extends Record<string, TSchema>>(properties: T) =>
  Type.Object(properties, { additionalProperties: false });
export const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
export const Time = Type.String({ format: "date-time" });
export const Uuid = Type.String({ format: "uuid", description: "By which pyml's own tables know the device." });
export const Id = Type.String({ description: "By which the history knows the device." });
export const Name = Type.String({ description: "The device's; its id where it has none." });
export const Figures = Type.Record(Type.String(), Type.Unknown());
export const Cursor = Type.Union([Type.String(), Type.Null()], {
  description: "Asks for the next page, as cursor; null on the last one.",
});
export const Severity = Type.Enum(["warning", "critical"], { description: "How bad it is: the worst so far." });

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

export const Problem = object({
  error: Type.String({ description: "The name of the status." }),
  message: Type.String(),
  detail: Type.Optional(Type.String()),
  hint: Type.Optional(Type.String({ description: "The next statement to type." })),
  code: Type.Optional(Type.String({ description: "SQLSTATE." })),
});

export type Reason = Static<typeof Reason>;
export type Problem = Static<typeof Problem>;
