/** Starts the server, as the environment says; see README.md. */

import { application } from "./app.js";
import { Database } from "./database.js";

const { DATABASE_URL, READ_DATABASE_URL, HOST = "127.0.0.1", PORT = "8080" } = process.env;

// Trainings are few and long, reads many and short.
const primary = new Database(DATABASE_URL, 4, 600);
const reads = new Database(READ_DATABASE_URL ?? DATABASE_URL, 10, 30);
const app = await application(primary, reads);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, async () => {
    await app.close();
    await Promise.all([primary.close(), reads.close()]);
  });
}

try {
  console.log(`listening on ${await app.listen({ host: HOST, port: Number(PORT) })}`);
} catch (error) {
  console.error(`cannot listen on ${HOST}:${PORT}: ${(error as Error).message}`);
  console.error("fix: PORT=8081 npm start");
  process.exit(1);
}
