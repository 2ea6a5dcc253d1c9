/** From what went wrong to an HTTP status and words for people: here and nowhere else. */

import { STATUS_CODES } from "node:http";
import type { FastifySchemaValidationError } from "fastify/types/schema.js";
import pg from "pg";
import type { Problem } from "./documents.js";

interface Known {
  status: number;
  /** For people; without it, what the database says is. */
  message?: string;
  hint?: string;
}

const ABSENT: Known = {
  status: 503,
  message: "pyml is not in this database, or its schema not on the search_path",
  hint: "CREATE EXTENSION pyml CASCADE;",
};
/** By SQLSTATE; a class of them (its first two characters) where none is more exact. */
const KNOWN: Record<string, Known> = {
  ML001: { status: 409 }, // not enough data
  ML002: { status: 404 }, // no such device, model or incident
  ML003: { status: 404 }, // no such field, or no number there
  ML004: { status: 400 }, // bad argument or setting
  ML005: { status: 500 }, // unreadable model
  ML006: { status: 503 }, // the server's environment
  "22": { status: 400, message: "a value is not one that the database can take" },
  "25006": { status: 503, message: "this database may only be read: it is no primary" },
  "42501": {
    status: 403,
    message: "this server's role in the database may not do that",
    hint: "SELECT ml_grant('api', 'train'); -- 'read' to look, 'act' to acknowledge and resolve",
  },
  "42883": ABSENT,
  "42P01": ABSENT,
  "57014": { status: 504, message: "the database took too long" }, // or nobody waits for the answer any more
  "08": { status: 503, message: "the database cannot be reached" },
  "53": { status: 503, message: "the database has no room for this now" },
  "57": { status: 503, message: "the database is stopping or starting" },
};

/** Something in the environment with which the server does not start. */
export class Fault extends Error {
  constructor(
    message: string,
    readonly fix: string,
  ) {
    super(message);
  }
}

/** What the server itself refuses. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly more: { detail?: string; hint?: string; code?: string } = {},
  ) {
    super(message);
  }
}

/** As the database refuses what it does not have. */
export function missing(message: string, hint: string): never {
  throw new Refusal(404, message, { hint, code: "ML002" });
}

/** The database is not there, or went away. */
export class Away extends Refusal {
  constructor(cause: Error) {
    const { message, code } = cause as Error & { code?: string };
    super(503, "the database cannot be reached", { detail: message || code });
  }
}

/** A parameter or a body that is not as the route's schema says, in words. */
export function invalid(errors: FastifySchemaValidationError[], part: string): Error {
  const [{ keyword, instancePath, params, message }] = errors as [FastifySchemaValidationError];
  const where = part === "body" ? "the body" : part === "querystring" ? "the query" : part;
  const name = instancePath.slice(1).replaceAll("/", ".") || where;
  const words =
    keyword === "additionalProperties"
      ? `${name === where ? where : name} takes no ${params.additionalProperty}`
      : `${name} ${message}${keyword === "enum" ? `: ${(params.allowedValues as unknown[]).join(", ")}` : ""}`;
  return new Refusal(400, words, { hint: "The routes and their parameters: GET /docs" });
}

/** What gives the server's role a table that it may not read; pyml's own go by a level. */
function granting(message: string): string | undefined {
  const relation = /^permission denied for (?:table|view|foreign table) (?!ml_)(.+)$/.exec(message)?.[1];
  return relation && `GRANT SELECT ON ${relation} TO api;`;
}

/** Status and body of the answer to a failed request. */
export function explain(failure: Error & { statusCode?: number }): { status: number; body: Problem } {
  if (failure instanceof Refusal) return answer(failure.status, { message: failure.message, ...failure.more });
  if (failure instanceof pg.DatabaseError) {
    const { code = "", message, detail, hint } = failure;
    const known = KNOWN[code] ?? KNOWN[code.slice(0, 2)] ?? { status: 500 };
    if (!known.message) return answer(known.status, { message, detail: detail || undefined, hint, code });
    const next = granting(message) ?? known.hint ?? hint;
    return answer(known.status, { message: known.message, detail: message, hint: next, code });
  }
  // What Fastify says of a request: too large, no JSON, of a type that no route takes.
  if ((failure.statusCode ?? 500) < 500) return answer(failure.statusCode ?? 400, { message: failure.message });
  return answer(500, { message: "internal error" });
}

function answer(status: number, body: Omit<Problem, "error">): { status: number; body: Problem } {
  return { status, body: { error: STATUS_CODES[status] ?? "Error", ...body } };
}
