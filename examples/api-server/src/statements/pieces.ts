/** What several statements are made of. */

import { STATUSES } from "../documents/devices.js";

/** The device of the id in `$1`, looked up once in a statement. */
export const ASKED = "asked AS MATERIALIZED (SELECT ml_uuid($1) AS device)";
/** The span of the hours in `$2`, or of the moments in `$3` and `$4`. */
export const SPAN = `span AS MATERIALIZED (
  SELECT coalesce($3::timestamptz, s.until - make_interval(hours => $2)) AS since, s.until
  FROM (SELECT coalesce($4::timestamptz, now()) AS until) AS s
)`;
export type Span = { hours: number; from?: string; to?: string };

/** Its id as the history has it; what no scan or training has met yet goes by what was asked for. */
export const ID = "coalesce((SELECT d.device_id FROM asked JOIN ml_device d ON d.device_uuid = asked.device), $1)";

/** The unit of a field. */
export const unitOf = (field: string) =>
  `(SELECT m.unit FROM ml_metric m WHERE ${field} IN (m.name, m.path) ORDER BY m.name = ${field} DESC, m.name LIMIT 1)`;

/** The name of the device in a row of a view. */
export const nameOf = (row: string, names: boolean) =>
  names ? `coalesce(nullif(${row}.device_name, ${row}.device_id), d.name::text, ${row}.device_id)` : `${row}.device_name`;
export const namesOf = (row: string, names: boolean) => (names ? ` LEFT JOIN devices d ON d.uuid = ${row}.device_uuid` : "");
/** An incident as lists have it; the page of one has its evidence too. */
export const incidentOf = (name: string) =>
  `to_jsonb(i) - ARRAY['device_name', 'evidence'] || jsonb_build_object('name', ${name})`;

/** A limit that a signal reaches, with the name of its device. */
export const reachOf = (name: string) => `to_jsonb(c) - 'device_name' || jsonb_build_object('name', ${name})`;

/**
 * Each device with its status, and its incidents that are not resolved or ended within a day.
 * @param before what the statement begins with
 * @param which devices, as a condition on their uuid that finds them by an index
 * @param since after when an incident that is resolved has ended
 */
export const fleetOf = (names: boolean, before = "", which = "IS NOT NULL", since = "now() - interval '1 day'") => `
WITH ${before}named AS (
  SELECT s.*, ${nameOf("s", names)} AS name
  FROM ml_device_status s${namesOf("s", names)}
  WHERE s.device_uuid ${which}
), incident AS (
  SELECT i.device_uuid, i.device_id, n.name, i.state <> 'resolved' AS unresolved, i.severity, i.kind, i.summary,
         i.started_at, ${incidentOf("n.name")} AS document
  FROM ml_incidents i JOIN named n USING (device_uuid)
  WHERE (i.state <> 'resolved' OR i.ended_at > (SELECT ${since})) AND i.device_uuid ${which}
), breach AS (
  SELECT b.device_uuid, n.device_id, n.name, b.field, b.unit, b.limit_value, b.breach_at, b.worst_predicted, b.made_at
  FROM ml_breaches b JOIN named n USING (device_uuid)
  WHERE b.device_uuid ${which}
), fleet AS (
  SELECT n.device_uuid, n.device_id, n.name, n.status, n.error, n.open_incidents,
         n.anomalies_24h, coalesce(b.breaches, 0) AS breaches,
         n.last_reading_at, n.last_anomaly_at, n.scanned_at, n.scanned_from, n.forest_trained_at, n.oldest_model_at,
         n.forecast_models, n.silent
  FROM named n
  LEFT JOIN (SELECT device_uuid, count(*) AS breaches FROM breach GROUP BY device_uuid) AS b USING (device_uuid)
)`;
export const ONE = "= (SELECT device FROM asked)";
/** The statuses, the worst first. */
export const WORST_FIRST = `ARRAY[${STATUSES.map((one) => `'${one}'`)}]`;

export const HEALTH = `
  SELECT jsonb_build_object(
    'totalDevices', h.devices,
    'health', jsonb_build_object('healthy', h.ok, 'degraded', h.devices - h.ok - h.critical,
      'critical', h.critical, 'healthyPercentage', coalesce(round(100.0 * h.ok / nullif(h.devices, 0)), 0)),
    'failing', h.failing, 'warning', h.warning, 'silent', h.silent, 'learning', h.learning, 'untrained', h.untrained,
    'open_incidents', h.open_incidents, 'incidents_7d', h.incidents_7d, 'expected_7d', h.expected_7d,
    'anomalies_24h', h.anomalies_24h, 'critical_24h', h.critical_24h,
    'trainings_24h', h.trainings_24h, 'failed_trainings_24h', h.failed_trainings_24h,
    'oldest_scan_at', h.oldest_scan_at, 'last_reading_at', h.last_reading_at, 'timestamp', now())
  FROM ml_fleet_health h`;

export const INCIDENTS = `(SELECT coalesce(jsonb_agg(i.document ORDER BY i.unresolved DESC, i.started_at DESC, i.name), '[]') FROM incident i)`;
export const BREACHES = `(SELECT coalesce(jsonb_agg(to_jsonb(b) ORDER BY b.breach_at, b.name), '[]') FROM breach b)`;
/** A router has no such function: numbers of incidents are each shard's own. */
export const MAY_ACT = "coalesce(has_function_privilege(to_regprocedure('ml_resolve(bigint, text)'), 'EXECUTE'), false)";
