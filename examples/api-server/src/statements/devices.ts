/** Of devices, and of their models. */

import type { Statement } from "../database.js";
import { ASKED, BREACHES, fleetOf, ID, INCIDENTS, MAY_ACT, nameOf, namesOf, ONE, reachOf, STATUSES, UNIT } from "./pieces.js";

/** What devices can be sorted by, each as a text that sorts like it. */
const SORTS = {
  name: "lower(s.name)",
  status: `array_position(${STATUSES}, s.status)::text`,
  last_reading: "to_char(coalesce(extract(epoch FROM s.last_reading_at), 0), 'FM0000000000000.000000')",
  open_incidents: "to_char(s.open_incidents, 'FM0000000000')",
};
export const DEVICE_SORTS = Object.keys(SORTS).flatMap((one) => [one, `-${one}`]);

/** A page of devices. Its cursor is the last one's uuid and what it was sorted by. */
export function devices(
  names: boolean,
  asked: { search?: string; status?: string[]; sort: string; limit: number; cursor?: string },
): Statement {
  const { search = null, status = null, sort, limit, cursor } = asked;
  const key = SORTS[sort.replace("-", "") as keyof typeof SORTS];
  const [after, direction] = sort.startsWith("-") ? ["<", "DESC"] : [">", "ASC"];
  const page = `listed AS (
    SELECT s.device_uuid, ${key} COLLATE "C" AS key FROM (
      SELECT s.*, ${nameOf("s", names)} AS name FROM ml_device_status s${namesOf("s", names)}) AS s
    WHERE ($1::text[] IS NULL OR s.status = ANY ($1))
      AND ($2::text IS NULL OR position(lower($2) IN lower(s.name)) > 0 OR position(lower($2) IN lower(s.device_id)) > 0)
  ), further AS (
    SELECT l.*, row_number() OVER (ORDER BY l.key ${direction}, l.device_uuid ${direction}) AS n FROM listed l
    WHERE $3::uuid IS NULL OR (l.key, l.device_uuid) ${after} ($4::text, $3::uuid)
  ), page AS (
    SELECT r.* FROM further r WHERE r.n <= $5
  ), `;
  return {
    text: `${fleetOf(names, page, "= ANY (ARRAY(SELECT p.device_uuid FROM page p))")}
    SELECT jsonb_build_object(
      'devices', coalesce(jsonb_agg(to_jsonb(f) ORDER BY p.n), '[]'), 'total', (SELECT count(*) FROM listed),
      'next', (SELECT r.device_uuid || r.key FROM further r WHERE r.n = $5 AND EXISTS (SELECT FROM further m WHERE m.n > $5))) AS document
    FROM page p JOIN fleet f USING (device_uuid)`,
    values: [status, search, cursor?.slice(0, 36), cursor?.slice(36), limit],
  };
}

/** The readings of a field. */
export function history(id: string, field: string, hours: number): Statement {
  return {
    text: `SELECT coalesce(jsonb_agg(jsonb_build_object('timestamp', z."timestamp", 'value', z.value) ORDER BY z."timestamp"), '[]') AS document
    FROM ml_zscore($1, $2, hours => $3) AS z`,
    values: [id, field, hours],
  };
}

/** What the page of one device shows beside the readings; null for a device that pyml knows nothing of. */
export function device(names: boolean, id: string, field: string | undefined, hours: number): Statement {
  return {
    // The same numbers may be asked for by a metric's name and by its path.
    text: `${fleetOf(names, `${ASKED}, `, ONE)}, used AS (
      -- What its forest looks at.
      SELECT g.metric FROM ml_signals g WHERE g.device_uuid = (SELECT device FROM asked) AND g.in_model
    ), chosen AS (
      -- Where none is asked for: the CPU, or else the first.
      SELECT coalesce($2::text, (SELECT u.metric FROM used u
                                 ORDER BY u.metric = 'cpu_usage' DESC, u.metric COLLATE "C" LIMIT 1), 'cpu_usage') AS field
    ), alias AS (
      SELECT q.field FROM chosen q UNION
      SELECT CASE WHEN m.name = q.field THEN m.path ELSE m.name END FROM ml_metric m, chosen q
      WHERE q.field IN (m.name, m.path) AND m.divisor_path IS NULL AND m.scale = 1 AND m.kind = 'gauge'
    ), forecast AS (
      SELECT p.* FROM ml_forecasts p WHERE p.device_uuid = (SELECT device FROM asked) AND p.field IN (SELECT field FROM alias)
    )
    SELECT jsonb_build_object('device', to_jsonb(f), 'field', q.field,
      -- Every metric, while it has no forest.
      'fields', (SELECT jsonb_agg(m.name ORDER BY m.name) FROM ml_metric m
                 WHERE CASE WHEN EXISTS (TABLE used) THEN m.name IN (TABLE used) ELSE m.enabled END),
      'unit', (SELECT m.unit FROM ml_metric m JOIN alias a ON a.field = m.name ORDER BY m.name = q.field DESC, m.name LIMIT 1),
      'anomalies', (SELECT coalesce(jsonb_agg(jsonb_build_object('timestamp', a."timestamp", 'severity', a.severity,
                      'anomaly_score', a.anomaly_score, 'forecast_score', a.forecast_score,
                      'value', (SELECT a.metrics -> n.field FROM alias n WHERE a.metrics ? n.field LIMIT 1),
                      'reasons', a.reasons) ORDER BY a."timestamp" DESC), '[]')
                    FROM ml_anomalies a
                    WHERE a.device_uuid = (SELECT device FROM asked) AND a."timestamp" > now() - make_interval(hours => $3)),
      'incidents', ${INCIDENTS},
      'forecast', (SELECT coalesce(jsonb_agg(jsonb_build_object('timestamp', p."timestamp", 'predicted_value', p.predicted_value,
                     'confidence_lower', p.confidence_lower, 'confidence_upper', p.confidence_upper) ORDER BY p."timestamp"), '[]')
                   FROM forecast p),
      'forecast_level', (SELECT max(p.level) FROM forecast p),
      'limit_value', (SELECT max(b.limit_value) FROM breach b WHERE b.field IN (SELECT field FROM alias)),
      'breaches', ${BREACHES}, 'may_act', ${MAY_ACT}, 'timestamp', now()) AS document
    FROM fleet f CROSS JOIN chosen q`,
    values: [id, field, hours],
  };
}

/** What the device reported last. */
export function twin(id: string): Statement {
  return {
    text: `WITH ${ASKED}
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID},
      'timestamp', s."timestamp", 'state', s.state) AS document
    FROM asked, ml_state(asked.device) AS s`,
    values: [id],
  };
}

/** A field's values over a span of time, thinned; the last day where no span is given. */
export function twinHistory(
  id: string,
  asked: { field: string; from?: string; to?: string; points: number },
): Statement {
  const { field, from, to, points } = asked;
  return {
    text: `WITH ${ASKED}, span AS MATERIALIZED (
      SELECT coalesce($3::timestamptz, s.until - interval '1 day') AS since, s.until
      FROM (SELECT coalesce($4::timestamptz, now()) AS until) AS s
    ), point AS (
      SELECT h.* FROM asked, span, ml_history(asked.device, $2, span.since, span.until, $5) AS h
    )
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID}, 'field', $2::text, 'unit', ${UNIT},
      'from', span.since, 'to', span.until,
      'points', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p."timestamp"), '[]') FROM point p)) AS document
    FROM span`,
    values: [id, field, from, to, points],
  };
}

/** The next days of a field, and when it reaches its limits. */
export function outlook(names: boolean, id: string, field: string, days: number): Statement {
  return {
    text: `WITH ${ASKED}, ahead AS (
      SELECT o.* FROM asked, ml_outlook(asked.device, $2, $3) AS o
    )
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID}, 'field', $2::text, 'unit', ${UNIT},
      'outlook', (SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY a."timestamp"), '[]') FROM ahead a),
      'capacity', (SELECT coalesce(jsonb_agg(${reachOf(nameOf("c", names))} ORDER BY c.side), '[]')
        FROM ml_capacity c${namesOf("c", names)}
        WHERE c.device_uuid ${ONE} AND c.metric IN (SELECT m.name FROM ml_metric m WHERE $2 IN (m.name, m.path)))) AS document`,
    values: [id, field, days],
  };
}

/** The signals of a device; null for one that pyml knows nothing of. */
export function signals(names: boolean, id: string): Statement {
  return {
    text: `WITH ${ASKED}
    SELECT jsonb_build_object('device_uuid', s.device_uuid, 'device_id', s.device_id, 'name', ${nameOf("s", names)},
      'signals', (SELECT coalesce(jsonb_agg(to_jsonb(g) - ARRAY['device_uuid', 'device_id', 'device_name', 'rhythm']
            || jsonb_build_object('rhythm_seconds', extract(epoch FROM g.rhythm)) ORDER BY g.metric), '[]')
        FROM ml_signals g WHERE g.device_uuid ${ONE})) AS document
    FROM ml_device_status s${namesOf("s", names)} WHERE s.device_uuid ${ONE}`,
    values: [id],
  };
}

/** z scores in the shape that clients of the twin know. */
export function twinAnomalies(
  id: string,
  field: string,
  hours: number,
  threshold: number,
): Statement {
  return {
    text: `WITH ${ASKED}, judged AS (
      SELECT z.* FROM asked, ml_zscore(asked.device, $2, hours => $3, threshold => $4) AS z
    )
    SELECT jsonb_build_object('deviceUuid', (SELECT device FROM asked), 'deviceId', ${ID}, 'field', $2::text,
      'timeRange', jsonb_build_object('from', now() - make_interval(hours => $3), 'to', now()),
      'statistics', jsonb_build_object('dataPoints', count(*), 'mean', avg(value), 'stdDev', stddev_pop(value),
                                       'min', min(value), 'max', max(value)),
      'anomalyDetection', jsonb_build_object('threshold', $4::float8, 'method', 'Z-score',
        'detected', jsonb_build_object('total', count(*) FILTER (WHERE is_anomaly),
          'critical', count(*) FILTER (WHERE severity = 'critical'), 'warning', count(*) FILTER (WHERE severity = 'warning'))),
      'anomalies', coalesce(jsonb_agg(jsonb_build_object('timestamp', "timestamp", 'value', value, 'zScore', z_score,
        'severity', severity) ORDER BY "timestamp") FILTER (WHERE is_anomaly), '[]')) AS document
    FROM judged`,
    values: [id, field, hours, threshold],
  };
}

/** The models of one kind; null where there is none, as the function knows them only together. */
export function modelInfo(id: string, kind: "forest" | "lstm", field: string | undefined): Statement {
  return {
    text: `WITH ${ASKED}
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID}, 'models', jsonb_agg(m ORDER BY n)) AS document
    FROM asked, jsonb_array_elements(ml_model_info(asked.device) -> 'models') WITH ORDINALITY AS e (m, n)
    WHERE m ->> 'kind' = $2 AND ($3::text IS NULL OR m ->> 'field' = $3) HAVING count(*) > 0`,
    values: [id, kind, field ?? null],
  };
}
