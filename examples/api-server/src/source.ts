/** Where the routes' documents come from. */

import type { FastifyRequest } from "fastify";
import type { Database, Statement } from "./database.js";
import type { Feed } from "./feed.js";
import * as statements from "./statements.js";

export interface Connected {
  /** Where something is written. */
  primary: Database;
  /** Where all else is asked: the primary too, or a read-only standby. */
  reads: Database;
  feed: Feed;
}

export class Source {
  private asked = -Infinity;
  private named = false;

  constructor(private readonly connected: Connected) {}

  get feed(): Feed {
    return this.connected.feed;
  }

  write<T>(request: FastifyRequest, statement: Statement): Promise<T> {
    return this.connected.primary.document<T>(statement, request.gone);
  }

  read<T>(request: FastifyRequest, statement: Statement): Promise<T> {
    return this.connected.reads.document<T>(statement, request.gone);
  }

  /** Whether there is a table of names that pyml was not told of: it may be made at any time, and is asked for once a minute. */
  async names(request: FastifyRequest): Promise<boolean> {
    if (Date.now() - this.asked > 60_000) {
      this.named = await this.read<boolean>(request, statements.NAMES);
      this.asked = Date.now();
    }
    return this.named;
  }
}
