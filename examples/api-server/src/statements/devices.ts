/** Of devices, and of their models. */

import type { Statement } from "../database.js";
import { ASKED, BREACHES, fleetOf, ID, INCIDENTS, MAY_ACT, nameOf, namesOf, ONE, reachOf, SPAN, WORST_FIRST, type Span, unitOf } from "./pieces.js";

/** What devices can be sorted by, each as a text that sorts like it. */
const SORTS = {
  name: "lower(s.name)",
  status: `array_position(${WORST_FIRST}, s.status)::text`,
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

/** Anomalies in one answer. */
const ANOMALIES = 1000;

/** Of one device all but its values; null for one that pyml knows nothing of. */
export function device(names: boolean, id: string, { hours, from, to }: Span): Statement {
  return {
    text: `${fleetOf(names, `${ASKED}, ${SPAN}, `, ONE, "least(now() - interval '1 day', (SELECT since FROM span))")}, found AS (
      SELECT a.* FROM ml_anomalies a, span
      WHERE a.device_uuid = (SELECT device FROM asked) AND a."timestamp" > span.since AND a."timestamp" <= span.until
    ), newest AS (
      SELECT n."timestamp", n.severity, n.anomaly_score, n.forecast_score, n.metrics, n.reasons
      FROM found n ORDER BY n."timestamp" DESC LIMIT ${ANOMALIES}
    )
    SELECT jsonb_build_object('device', to_jsonb(f), 'from', span.since, 'to', span.until,
      'metric', coalesce((SELECT g.metric FROM ml_signals g WHERE g.device_uuid = f.device_uuid AND g.in_model
                          ORDER BY g.metric = 'cpu_usage' DESC, g.metric COLLATE "C" LIMIT 1), 'cpu_usage'),
      'anomalies', (SELECT coalesce(jsonb_agg(to_jsonb(n) ORDER BY n."timestamp" DESC), '[]') FROM newest n),
      'anomalies_found', (SELECT count(*) FROM found),
      'incidents', ${INCIDENTS}, 'breaches', ${BREACHES}, 'may_act', ${MAY_ACT}, 'timestamp', now()) AS document
    FROM fleet f CROSS JOIN span`,
    values: [id, hours, from, to],
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

/** A field's values over a span of time, thinned, between what it usually is then, and its forecast. */
export function twinHistory(id: string, asked: Span & { field: string; points: number }): Statement {
  const { field, hours, from, to, points } = asked;
  return {
    // The same numbers may be asked for by a metric's name and by its path.
    text: `WITH ${ASKED}, ${SPAN}, point AS (
      SELECT h.* FROM asked, span, ml_history(asked.device, $5, span.since, span.until, $6) AS h
    ), alias AS (
      SELECT m.name, m.path FROM ml_metric m
      WHERE m.name = $5 OR (m.path = $5 AND m.divisor_path IS NULL AND m.scale = 1 AND m.kind = 'gauge')
      ORDER BY m.name = $5 DESC, m.name LIMIT 1
    ), limits AS (
      SELECT l.* FROM asked, ml_limits(asked.device) AS l WHERE l.metric = (SELECT a.name FROM alias a)
    ), usual AS (
      SELECT u.* FROM asked, span, alias a, ml_usual(asked.device, a.name, span.since, span.until) AS u
    ), forecast AS (
      SELECT p.* FROM ml_forecasts p
      WHERE p.device_uuid = (SELECT device FROM asked) AND (p.field = $5 OR p.field IN (SELECT unnest(ARRAY[a.name, a.path]) FROM alias a))
    )
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID}, 'field', $5::text, 'unit', ${unitOf("$5")},
      'limit_low', (SELECT l.limit_low FROM limits l), 'limit_high', (SELECT l.limit_high FROM limits l),
      'from', span.since, 'to', span.until,
      'points', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p."timestamp"), '[]') FROM point p),
      'usual', (SELECT coalesce(jsonb_agg(to_jsonb(u) ORDER BY u."timestamp"), '[]') FROM usual u),
      'forecast', (SELECT coalesce(jsonb_agg(jsonb_build_object('timestamp', p."timestamp", 'predicted_value', p.predicted_value,
                     'confidence_lower', p.confidence_lower, 'confidence_upper', p.confidence_upper) ORDER BY p."timestamp"), '[]')
                   FROM forecast p),
      'forecast_level', (SELECT max(p.level) FROM forecast p)) AS document
    FROM span`,
    values: [id, hours, from, to, field, points],
  };
}

/** Every enabled metric of a device, with its values over a span of time, thinned. */
export function metricsOf(id: string, asked: Span & { points: number }): Statement {
  const { hours, from, to, points } = asked;
  return {
    text: `WITH ${ASKED}, ${SPAN}, point AS MATERIALIZED (
      SELECT h.* FROM asked, span, ml_histories(asked.device, span.since, span.until, $5) AS h
    )
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID}, 'from', span.since, 'to', span.until,
      'metrics', (SELECT coalesce(jsonb_agg(jsonb_build_object('metric', m.name, 'unit', m.unit, 'points', (
            SELECT coalesce(jsonb_agg(to_jsonb(p) - 'metric' ORDER BY p."timestamp"), '[]') FROM point p WHERE p.metric = m.name))
          ORDER BY m.name), '[]')
        FROM ml_metric m WHERE m.enabled)) AS document
    FROM span`,
    values: [id, hours, from, to, points],
  };
}

/** The next days of a field, and when it reaches its limits. */
export function outlook(names: boolean, id: string, field: string, days: number): Statement {
  return {
    text: `WITH ${ASKED}, ahead AS (
      SELECT o.* FROM asked, ml_outlook(asked.device, $2, $3) AS o
    )
    SELECT jsonb_build_object('device_uuid', (SELECT device FROM asked), 'device_id', ${ID}, 'field', $2::text, 'unit', ${unitOf("$2")},
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
