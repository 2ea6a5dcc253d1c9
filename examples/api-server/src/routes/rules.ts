/** What people know: rules, and quiet windows. */

import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { Type } from "typebox";
import * as documents from "../documents.js";
import { missing } from "../errors.js";
import type { Source } from "../source.js";
import * as statements from "../statements.js";
import { deviceId, given, moment, number, remark, shown, words } from "./schemas.js";

const least = { minimum: -1e15, maximum: 1e15, examples: [90] };
const about = {
  device: Type.Optional(deviceId),
  metric: Type.Optional(words("A metric's name; without one, all metrics and the device's silence.", ["temperature"])),
  reason: Type.Optional(remark("Why, for those who come later.", "doors open and close")),
};

const ruleBody = given({
  ...about,
  direction: Type.Optional(Type.Enum(["up", "down", "both"], { description: "Which way of leaving the usual is trouble." })),
  least_deviation: Type.Optional(Type.Number({ ...least, minimum: 0, description: "What differs from the usual by less is no trouble." })),
  limit_low: Type.Optional(Type.Number({ ...least, description: "A forecast that falls to it is a breach." })),
  limit_high: Type.Optional(Type.Number({ ...least, description: "A forecast that rises to it is a breach." })),
  mute: Type.Optional(Type.Boolean({ default: false, description: "Nothing is told. Such a rule says nothing else." })),
  until: Type.Optional(moment("What is still seen after it is told again; without it the rule holds for ever.")),
});

const quietBody = given({
  ...about,
  starts_at: moment("When it begins, the first time."),
  ends_at: moment("When it ends, the first time."),
  repeat: Type.Optional(Type.Enum(["daily", "weekly"], { description: "Whether it comes again, by the clock of its zone." })),
  zone: Type.Optional(words("Time zone, by its name in pg_timezone_names.", ["Europe/Berlin"])),
});

export const ruleRoutes: FastifyPluginAsyncTypebox<{ source: Source }> = async (app, { source }) => {
  app.get(
    "/rules",
    {
      schema: {
        ...shown("rules", "Rules and quiet windows that hold, and how much they keep quiet", documents.Rules),
        querystring: given({}),
      },
    },
    (request) => source.read<documents.Rules>(request, statements.rules()),
  );

  for (const [path, table, key, one, body, response] of [
    ["rules", "ml_rule", "rule_id", "rule", ruleBody, documents.Rule],
    ["quiet", "ml_quiet", "quiet_id", "quiet window", quietBody, documents.QuietWindow],
  ] as const) {
    app.post(
      `/${path}`,
      {
        config: { level: "act" },
        schema: {
          ...shown("rules", `Make a ${one}`, response, "The next scan goes by it."),
          querystring: given({}),
          body,
        },
      },
      (request) => source.write(request, statements.say(table, request.body as Record<string, unknown>)),
    );

    app.delete(
      `/${path}/:id`,
      {
        config: { level: "act" },
        schema: {
          ...shown("rules", `Delete a ${one}`, response, "Gives what it was."),
          params: Type.Object({ id: number(`The ${one}'s number.`) }),
          querystring: given({}),
        },
      },
      async (request) => {
        const { id } = request.params;
        const found = await source.write(request, statements.unsay(table, key, id));
        return found ?? missing(`there is no ${one} ${id}`, "GET /rules");
      },
    );
  }
};
