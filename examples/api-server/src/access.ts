/** Who may ask for what: the levels of tokens, and the pages and addresses from which something may be done. */

import { createHash } from "node:crypto";
import { isIP } from "node:net";
import type { FastifyReply, FastifyRequest } from "fastify";
import { Fault, Refusal } from "./errors.js";
import type { Settings } from "./settings.js";

/** Each may do what those before it may. They are those of `ml_grant`. */
export const LEVELS = ["read", "act", "train"] as const;
export type Level = (typeof LEVELS)[number];

declare module "fastify" {
  interface FastifyContextConfig {
    /** That the route asks of a token: read, where it says nothing. */
    level?: Level;
  }
}

const LINE = /^(read|act|train)\s+([\w.~+/=-]{16,})$/;
const digest = (token: string) => createHash("sha256").update(token).digest("base64");

/** Tokens by their digests: how long a look-up takes tells nothing of a token. */
export class Tokens {
  private readonly levels = new Map<string, Level>();

  /** @param text a line or an item between commas for each, `level token`; what follows a # is a comment */
  constructor(text: string) {
    for (const item of text.replace(/#.*/g, "").split(/[\n,]/)) {
      if (!item.trim()) continue;
      const [, level, token] = LINE.exec(item.trim()) ?? [];
      if (!level || !token) {
        const fix = `echo "read $(openssl rand -hex 24)" >> tokens`;
        throw new Fault("a token is not written as: a level (read, act, train), and 16 characters or more", fix);
      }
      this.levels.set(digest(token), level as Level);
    }
  }

  get size(): number {
    return this.levels.size;
  }

  level(token: string): Level | undefined {
    return this.levels.get(digest(token));
  }
}

/** A hook that lets through whoever may ask. */
export function guard({ tokens, origins, host }: Pick<Settings, "tokens" | "origins" | "host">) {
  const names = new Set(["localhost", host, ...origins.map((origin) => new URL(origin).hostname)]);

  /** A name that is not the server's may be another site's, which points to it to be let in by a browser. */
  const isOwn = (address = "") => {
    if (!URL.canParse(`http://${address}`)) return false;
    const { hostname } = new URL(`http://${address}`);
    return names.has(hostname) || isIP(hostname.replace(/^\[|\]$/g, "")) > 0;
  };
  const mayCall = (origin: string, address = "") =>
    origins.includes(origin) || (URL.canParse(origin) && new URL(origin).host === address);

  return async (request: FastifyRequest, reply: FastifyReply) => {
    const { origin, host: address, authorization = "" } = request.headers;
    const acts = !["GET", "HEAD"].includes(request.method);
    if ((acts || !tokens) && !isOwn(address)) {
      const hint = `ORIGINS=http://${address} npm start`;
      throw new Refusal(403, `this server does not go by the name ${address}`, { hint });
    }
    if (acts && origin !== undefined && !mayCall(origin, address)) {
      throw new Refusal(403, `pages of ${origin} may not do this`, { hint: `ORIGINS=${origin} npm start` });
    }
    if (!tokens) return;
    const { level: needed = "read" } = request.routeOptions.config;
    const level = tokens.level(/^Bearer +(\S+) *$/i.exec(authorization)?.[1] ?? "");
    if (!level) {
      reply.header("WWW-Authenticate", "Bearer");
      throw new Refusal(401, authorization ? "this token is not known here" : "this needs a token", {
        hint: "Authorization: Bearer …",
      });
    }
    if (LEVELS.indexOf(level) < LEVELS.indexOf(needed)) {
      throw new Refusal(403, `this needs a token of level ${needed}, and yours is ${level}`);
    }
  };
}
