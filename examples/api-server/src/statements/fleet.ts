/** Of the fleet, and of the server. */

import type { Statement } from "../database.js";
import { fleetOf, HEALTH, nameOf, namesOf, reachOf } from "./pieces.js";

export function fleetHealth(): Statement {
  return { text: `SELECT (${HEALTH}) AS document`, values: [] };
}

/** The same trouble of many devices as one. */
export function fleetIncidents(): Statement {
  return {
    text: `SELECT jsonb_build_object('incidents', coalesce(jsonb_agg(to_jsonb(i) ORDER BY i.started_at DESC), '[]')) AS document
    FROM ml_fleet_incidents i`,
    values: [],
  };
}

/** The last six hours of one metric of each device, in a few points. */
export function sparks(devices: string[]): Statement {
  return {
    text: `WITH chosen AS (
      SELECT DISTINCT ON (g.device_uuid) g.device_uuid, g.metric, g.unit, g.last_value
      FROM ml_signals g LEFT JOIN ml_incidents i ON i.device_uuid = g.device_uuid AND i.leading_metric = g.metric AND i.state <> 'resolved'
      WHERE g.device_uuid = ANY ($1) AND g.in_model AND g.last_at > now() - interval '6 hours'
        AND EXISTS (SELECT FROM ml_metric m WHERE m.name = g.metric)
      ORDER BY g.device_uuid, i.started_at DESC NULLS LAST, g.metric = 'cpu_usage' DESC, g.metric COLLATE "C"
    )
    SELECT jsonb_build_object('sparks', coalesce(jsonb_agg(to_jsonb(c) || jsonb_build_object('points',
      (SELECT coalesce(jsonb_agg(to_jsonb(h) ORDER BY h."timestamp"), '[]')
       FROM ml_history(c.device_uuid, c.metric, now() - interval '6 hours', now(), 40) AS h))), '[]')) AS document
    FROM chosen c`,
    values: [devices],
  };
}

/** Limits of devices, those that are reached first before others. */
export function capacity(names: boolean, limit: number): Statement {
  return {
    text: `SELECT jsonb_build_object('total', (SELECT count(*) FROM ml_capacity),
      'capacity', coalesce(jsonb_agg(f.document ORDER BY f.earliest, f.device_uuid, f.metric, f.side), '[]')) AS document
    FROM (SELECT c.earliest, c.device_uuid, c.metric, c.side, ${reachOf(nameOf("c", names))} AS document
          FROM ml_capacity c${namesOf("c", names)}
          ORDER BY c.earliest, c.device_uuid, c.metric, c.side LIMIT $1) AS f`,
    values: [limit],
  };
}

/** Devices that somebody should look at, each with its reasons in words. */
export function fleetAlerts(names: boolean): Statement {
  return {
    text: `${fleetOf(names)}, alert AS (
      SELECT device_uuid, device_id, name, severity, started_at AS at, summary AS told
      FROM incident WHERE unresolved
      UNION ALL
      SELECT device_uuid, device_id, name, 'warning', breach_at,
             format('%s is forecast to reach %s at %s', field, concat_ws(' ', limit_value, unit), to_char(breach_at, 'HH24:MI TZ'))
      FROM breach
      UNION ALL
      SELECT device_uuid, device_id, name, 'warning', scanned_at, format('The last scan failed: %s', error)
      FROM fleet WHERE status = 'failing'
      UNION ALL
      SELECT device_uuid, device_id, name, 'warning', last_reading_at,
             format('No reading since %s', to_char(last_reading_at, 'YYYY-MM-DD HH24:MI TZ'))
      FROM fleet f WHERE silent AND NOT EXISTS (
        SELECT FROM incident i WHERE i.device_uuid = f.device_uuid AND i.kind = 'silent' AND i.unresolved)
    ), device AS (
      SELECT device_uuid, device_id, name, min(severity) AS severity, jsonb_agg(told ORDER BY at, told) AS told
      FROM alert GROUP BY device_uuid, device_id, name
    )
    SELECT jsonb_build_object('total', count(*), 'alerts', coalesce(jsonb_agg(jsonb_build_object(
        'deviceUuid', d.device_uuid, 'deviceId', d.device_id, 'deviceName', d.name, 'severity', d.severity, 'alerts', d.told)
        ORDER BY d.severity, jsonb_array_length(d.told) DESC, d.name), '[]')) AS document
    FROM device d`,
    values: [],
  };
}

export function health(): Statement {
  return {
    text: `SELECT jsonb_build_object(
      'status', CASE WHEN bool_and(ok) THEN 'ok'
        WHEN bool_and(ok OR check_name NOT IN ('python', 'libraries', 'history table', 'schema', 'privileges'))
        THEN 'degraded' ELSE 'down' END,
      'checks', jsonb_agg(jsonb_build_object('check', check_name, 'ok', ok, 'detail', detail, 'fix', fix))) AS document
    FROM ml_doctor()`,
    values: [],
  };
}

/** What Prometheus is told. */
export function metrics(): Statement {
  return {
    text: `SELECT to_jsonb(h) || jsonb_build_object('now', now(), 'newest_scan_at', (SELECT max(s.scanned_at) FROM ml_device_status s),
      'unresolved', (SELECT coalesce(jsonb_agg(to_jsonb(i)), '[]') FROM (
        SELECT n.kind, n.severity, n.state, count(*) AS incidents FROM ml_incidents n WHERE n.state <> 'resolved'
        GROUP BY n.kind, n.severity, n.state ORDER BY n.kind, n.severity, n.state) AS i)) AS document
    FROM ml_fleet_health h`,
    values: [],
  };
}
