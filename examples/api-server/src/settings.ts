/** What the environment says, and what is refused of it: see README.md. */

import { readFileSync, statSync } from "node:fs";
import { BlockList, isIP } from "node:net";
import { Tokens } from "./access.js";
import { Fault } from "./errors.js";

export interface Settings {
  host: string;
  port: number;
  /** Connection strings; without one, PGHOST, PGDATABASE and so on. */
  database: string | undefined;
  readDatabase: string | undefined;
  /** None where everybody who reaches the server may do everything. */
  tokens: Tokens | undefined;
  /** Of web pages that may call the server, and of the server itself. */
  origins: string[];
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8);
LOOPBACK.addAddress("::1", "ipv6");

export function settings(environment: NodeJS.ProcessEnv): Settings {
  const { DATABASE_URL, READ_DATABASE_URL, HOST = "127.0.0.1", PORT = "8080" } = environment;
  const tokens = tokensOf(environment);
  if (!tokens && !isLoopback(HOST)) {
    throw new Fault(
      `without tokens it listens on this machine only, and HOST is ${HOST}`,
      'TOKENS="read $(openssl rand -hex 24)" npm start',
    );
  }
  return {
    host: HOST,
    port: Number(PORT),
    database: DATABASE_URL,
    readDatabase: READ_DATABASE_URL ?? DATABASE_URL,
    tokens,
    origins: words(environment.ORIGINS).map(origin),
  };
}

function isLoopback(host: string): boolean {
  const version = isIP(host);
  return host === "localhost" || (version > 0 && LOOPBACK.check(host, version === 6 ? "ipv6" : "ipv4"));
}

function words(text = ""): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

function origin(text: string): string {
  if (!URL.canParse(text) || new URL(text).origin !== text) {
    throw new Fault(`ORIGINS has ${text}, which is no origin`, "ORIGINS=https://fleet.example npm start");
  }
  return text;
}

/** The tokens of the file and of the environment together. */
function tokensOf({ TOKENS = "", TOKENS_FILE }: NodeJS.ProcessEnv): Tokens | undefined {
  const texts = [TOKENS];
  if (TOKENS_FILE) {
    const mode = statSync(TOKENS_FILE, { throwIfNoEntry: false })?.mode;
    if (mode === undefined) throw new Fault(`there is no file ${TOKENS_FILE}`, "unset TOKENS_FILE");
    if (mode & 0o077) throw new Fault(`others may read ${TOKENS_FILE}`, `chmod 600 ${TOKENS_FILE}`);
    texts.push(readFileSync(TOKENS_FILE, "utf8"));
  }
  const tokens = new Tokens(texts.join("\n"));
  return tokens.size > 0 || TOKENS_FILE ? tokens : undefined;
}
