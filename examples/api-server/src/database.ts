/** Pooled connections, and statements that end when nobody waits for them any more. */

import pg from "pg";
import { Away } from "./errors.js";

/** One statement that gives one row with one jsonb column, `document`. */
export interface Statement {
  text: string;
  values: unknown[];
}

/** Call a function of the extension with those arguments that were given. */
export function call(name: string, args: Record<string, unknown>): Statement {
  const given = Object.entries(args).filter(([, value]) => value !== undefined);
  const list = given.map(([argument], i) => `${argument} => $${i + 1}`).join(", ");
  return {
    text: `SELECT ${name}(${list}) AS document`,
    values: given.map(([, value]) => value),
  };
}

/** How this server connects. */
export function connection(url: string | undefined): pg.ClientConfig {
  return {
    connectionString: url,
    application_name: "pyml api",
    connectionTimeoutMillis: 5_000,
    // Statements here are short, and compiling them is what would take the time.
    options: "-c timezone=UTC -c jit=off",
  };
}

export class Database {
  private readonly pool: pg.Pool;
  /** Cancels need a connection when all others are busy. */
  private readonly control: pg.Pool;

  /**
   * @param url connection string; without one, PGHOST, PGDATABASE and so on
   * @param seconds after which the server ends a statement
   */
  constructor(url: string | undefined, connections: number, seconds: number) {
    const common = connection(url);
    this.pool = new pg.Pool({
      ...common,
      max: connections,
      statement_timeout: seconds * 1000,
    });
    this.control = new pg.Pool({ ...common, max: 1, idleTimeoutMillis: 1_000 });
    // A connection that breaks while idle is replaced with the next request.
    for (const each of [this.pool, this.control]) each.on("error", () => {});
  }

  /** The document of a statement, which is cancelled in the server when `signal` fires. */
  async document<T>({ text, values }: Statement, signal: AbortSignal): Promise<T> {
    const client = await this.pool.connect().catch((error: Error) => {
      throw new Away(error);
    });
    let cancelled: Promise<unknown> | undefined;
    const cancel = () => {
      // pg knows the process that serves a connection; its types leave that out.
      const { processID } = client as unknown as { processID: number };
      cancelled = this.control.query("SELECT pg_cancel_backend($1)", [processID]);
    };
    try {
      signal.throwIfAborted();
      signal.addEventListener("abort", cancel, { once: true });
      const { rows } = await client.query(text, values);
      return rows[0]?.document as T;
    } catch (error) {
      if (signal.aborted || error instanceof pg.DatabaseError) throw error;
      throw new Away(error as Error); // the connection broke
    } finally {
      signal.removeEventListener("abort", cancel);
      // Not before the cancel has arrived: it would hit whoever has the connection next.
      await cancelled?.catch(() => {});
      client.release();
    }
  }

  async close(): Promise<void> {
    await this.pool.end(); // once nothing runs in it any more
    await this.control.end();
  }
}
