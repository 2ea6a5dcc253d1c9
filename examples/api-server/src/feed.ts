/** What happens to incidents, told to whoever listens, as it is committed. */

import pg from "pg";
import { connection } from "./database.js";
import type { Happening } from "./documents.js";
import { Away } from "./errors.js";
import * as statements from "./statements.js";

type Tell = (event: Happening) => void;

/** Where nobody says that there is something new. */
const POLL = 5_000;

export class Feed {
  private client: pg.Client | undefined;
  private timer: ReturnType<typeof setInterval> | undefined;
  private looking: Promise<void> | undefined;
  private again = false;
  private readonly listeners = new Set<Tell>();
  /** Up to this number all are committed and were seen. Numbers are not committed in their order. */
  private settled: number | undefined;
  /** The events beyond it, in the order in which they were seen. */
  private seen: Happening[] = [];

  /** @param url connection string of the primary: a standby cannot listen */
  constructor(private readonly url: string | undefined) {}

  /**
   * Tell of each event, first of those after one that was told before.
   * @param signal ends it
   */
  async follow(after: number | undefined, tell: Tell, signal: AbortSignal): Promise<void> {
    if (!this.client) await this.look();
    this.timer ??= setInterval(() => void this.look().catch(() => {}), POLL); // or the next time
    let meanwhile: Happening[] | undefined = [];
    const listener = (event: Happening) => (meanwhile ? meanwhile.push(event) : tell(event));
    this.listeners.add(listener);
    signal.addEventListener("abort", () => this.listeners.delete(listener));
    const missed = after === undefined ? [] : await this.since(after);
    const numbers = new Set(missed.map((event) => event.event_id));
    for (const event of [...missed, ...meanwhile.filter((one) => !numbers.has(one.event_id))]) tell(event);
    meanwhile = undefined;
  }

  async close(): Promise<void> {
    clearInterval(this.timer);
    await this.client?.end();
  }

  private async since(after: number): Promise<Happening[]> {
    const place = this.seen.findIndex((event) => event.event_id === after);
    if (place >= 0) return this.seen.slice(place + 1);
    const found: Happening[] = [];
    for (;;) {
      const { events } = await this.ask(found.at(-1)?.event_id ?? after);
      found.push(...events);
      if (events.length < statements.EVENTS) return found;
    }
  }

  /** Look for what is new, one at a time. */
  private look(): Promise<void> {
    this.again = this.looking !== undefined;
    return (this.looking ??= this.take().finally(() => {
      this.looking = undefined;
      if (this.again) void this.look().catch(() => {});
    }));
  }

  private async take(): Promise<void> {
    const { events, settled } = await this.ask(this.settled);
    const first = this.settled === undefined;
    const known = new Set(this.seen.map((event) => event.event_id));
    const fresh = events.filter((event) => !known.has(event.event_id));
    this.settled = settled;
    this.seen = [...this.seen, ...fresh].filter((event) => event.event_id > settled);
    // What was there before anybody listened is asked for by its number.
    if (!first) for (const event of fresh) for (const tell of this.listeners) tell(event);
  }

  private async ask(after: number | undefined): Promise<{ events: Happening[]; settled: number }> {
    const client = await this.connected();
    try {
      const { text, values } = statements.events(after);
      return (await client.query(text, values)).rows[0].document;
    } catch (error) {
      if (error instanceof pg.DatabaseError) throw error;
      throw new Away(error as Error);
    }
  }

  private async connected(): Promise<pg.Client> {
    if (this.client) return this.client;
    const client = new pg.Client({ ...connection(this.url), statement_timeout: 30_000, keepAlive: true });
    client.on("error", () => {}); // and then it ends
    client.on("end", () => {
      if (this.client === client) this.client = undefined;
    });
    client.on("notification", () => void this.look().catch(() => {}));
    try {
      await client.connect();
      await client.query("LISTEN pyml");
    } catch (error) {
      await client.end().catch(() => {});
      throw new Away(error as Error);
    }
    return (this.client = client);
  }
}
