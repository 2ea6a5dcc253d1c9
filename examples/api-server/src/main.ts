/** Starts the server, as the environment says; see README.md. */

import { application } from "./app.js";
import { Database } from "./database.js";
import type { Fault } from "./errors.js";
import { Feed } from "./feed.js";
import { settings } from "./settings.js";

try {
  const given = settings(process.env);
  // Trainings are few and long, reads many and short.
  const primary = new Database(given.database, 4, 600);
  const reads = new Database(given.readDatabase, 10, 30);
  const feed = new Feed(given.database);
  const app = await application(given, { primary, reads, feed });
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, async () => {
      await app.close();
      await Promise.all([primary.close(), reads.close(), feed.close()]);
    });
  }
  console.log(`listening on ${await app.listen({ host: given.host, port: given.port })}`);
} catch (error) {
  const { message, fix, code } = error as Partial<Fault> & { code?: string };
  console.error(`cannot start: ${message}`);
  if (fix ?? code) console.error(`fix: ${fix ?? "PORT=8081 npm start"}`);
  process.exit(1);
}
