/** The statements that are more than a call of one function. Each gives one document. */

import type { Statement } from "./database.js";

export * from "./statements/devices.js";
export * from "./statements/fleet.js";
export * from "./statements/incidents.js";

/**
 * Whether there is a table of names that pyml was not told of (ml_setup, device_name), as
 * the role of the server sees it.
 */
export const NAMES: Statement = {
  text: `SELECT to_jsonb(count(*) = 2) AS document FROM pg_attribute a
    WHERE a.attrelid = to_regclass('devices') AND NOT a.attisdropped
      AND (a.attname = 'uuid' AND a.atttypid = 'uuid'::regtype OR a.attname = 'name')
      AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')`,
  values: [],
};
