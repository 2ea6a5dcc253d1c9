/** From what went wrong in the database to an HTTP status: here and nowhere else. */

import { STATUS_CODES } from "node:http";
import type { Problem } from "./documents.js";

/** By SQLSTATE; a class of them (its first two characters) where none is more exact. */
const STATUS: Record<string, number> = {
  ML001: 400, // not enough data
  ML002: 404, // no such device, model or incident
  ML003: 400, // no number in that field
  ML004: 400, // bad argument or setting
  ML005: 500, // unreadable model
  ML006: 503, // the server's environment
  "25006": 503, // a read-only standby where the primary should be
  "22": 422, // a value that is none of its type
  "42501": 403, // no privilege
  "42883": 503, // no such function: the extension is not there
  "42P01": 503, // no such table: likewise
  "57014": 504, // statement_timeout; a client that went away reads no answer
  "08": 503, // connection lost
  "53": 503, // out of connections, memory, disk
  "57": 503, // shutting down
};

interface Failure extends Error {
  code?: string;
  detail?: string;
  hint?: string;
  statusCode?: number;
  validation?: unknown;
}

/** Status and body of the answer to a failed request. */
export function explain(failure: Failure): { status: number; body: Problem } {
  const { code = "", message, detail, hint } = failure;
  if (failure.validation) {
    return answer(422, { message, hint: "The routes and their parameters: GET /docs" });
  }
  if (failure.statusCode) return answer(failure.statusCode, { message });
  const status = STATUS[code] ?? STATUS[code.slice(0, 2)];
  if (status && code.length === 5) {
    return answer(status, { message, detail: detail || undefined, hint, code });
  }
  if (code.startsWith("E") || /terminated|timeout exceeded/.test(message)) {
    // The operating system's codes, and what the pool says.
    return answer(503, { message: "the database cannot be reached", detail: message });
  }
  return answer(500, { message: code ? message : "internal error", code: code || undefined });
}

function answer(status: number, body: Omit<Problem, "error">): { status: number; body: Problem } {
  return { status, body: { error: STATUS_CODES[status] ?? "Error", ...body } };
}
