/** The statements that are more than a call of one function. Each gives one document. */

import type { Statement } from "./database.js";

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

/** The device of the id in `$1`, looked up once in a statement. */
const ASKED = "asked AS MATERIALIZED (SELECT ml_uuid($1) AS device)";
/** Its id as the history has it; what no scan or training has met yet goes by what was asked for. */
const ID = "coalesce((SELECT d.device_id FROM asked JOIN ml_device d ON d.device_uuid = asked.device), $1)";

/** The unit of the field in `$2`. */
const UNIT = "(SELECT m.unit FROM ml_metric m WHERE $2 IN (m.name, m.path) ORDER BY m.name = $2 DESC, m.name LIMIT 1)";

/** The name of the device in a row of a view. */
const nameOf = (row: string, names: boolean) =>
  names ? `coalesce(nullif(${row}.device_name, ${row}.device_id), d.name::text, ${row}.device_id)` : `${row}.device_name`;
const namesOf = (row: string, names: boolean) => (names ? ` LEFT JOIN devices d ON d.uuid = ${row}.device_uuid` : "");
/** An incident as lists have it; the page of one has its evidence too. */
const incidentOf = (name: string) =>
  `to_jsonb(i) - ARRAY['device_name', 'evidence'] || jsonb_build_object('name', ${name})`;

/**
 * Each device with its status, and its incidents that are not resolved or ended within a day.
 * @param before what the statement begins with
 * @param which devices, as a condition on their uuid that finds them by an index
 */
const fleetOf = (names: boolean, before = "", which = "IS NOT NULL") => `
WITH ${before}named AS (
  SELECT s.*, ${nameOf("s", names)} AS name
  FROM ml_device_status s${namesOf("s", names)}
  WHERE s.device_uuid ${which}
), incident AS (
  SELECT i.device_uuid, i.device_id, n.name, i.state <> 'resolved' AS unresolved, i.severity, i.kind, i.summary,
         i.started_at, ${incidentOf("n.name")} AS document
  FROM ml_incidents i JOIN named n USING (device_uuid)
  WHERE (i.state <> 'resolved' OR i.ended_at > (SELECT now() - interval '1 day')) AND i.device_uuid ${which}
), breach AS (
  SELECT b.device_uuid, n.device_id, n.name, b.field, b.limit_value, b.breach_at, b.worst_predicted, b.made_at
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
const ONE = "= (SELECT device FROM asked)";
/** The statuses, the worst first. */
const STATUSES = "ARRAY['critical', 'failing', 'warning', 'silent', 'untrained', 'ok']";

const HEALTH = `
  SELECT jsonb_build_object(
    'totalDevices', h.devices,
    'health', jsonb_build_object('healthy', h.ok, 'degraded', h.devices - h.ok - h.critical,
      'critical', h.critical, 'healthyPercentage', coalesce(round(100.0 * h.ok / nullif(h.devices, 0)), 0)),
    'failing', h.failing, 'warning', h.warning, 'silent', h.silent, 'untrained', h.untrained,
    'open_incidents', h.open_incidents, 'incidents_7d', h.incidents_7d, 'expected_7d', h.expected_7d,
    'anomalies_24h', h.anomalies_24h, 'critical_24h', h.critical_24h,
    'trainings_24h', h.trainings_24h, 'failed_trainings_24h', h.failed_trainings_24h,
    'oldest_scan_at', h.oldest_scan_at, 'last_reading_at', h.last_reading_at, 'timestamp', now())
  FROM ml_fleet_health h`;

const INCIDENTS = `(SELECT coalesce(jsonb_agg(i.document ORDER BY i.unresolved DESC, i.started_at DESC, i.name), '[]') FROM incident i)`;
const BREACHES = `(SELECT coalesce(jsonb_agg(to_jsonb(b) ORDER BY b.breach_at, b.name), '[]') FROM breach b)`;
/** A router has no such function: numbers of incidents are each shard's own. */
const MAY_ACT = "coalesce(has_function_privilege(to_regprocedure('ml_resolve(bigint, text)'), 'EXECUTE'), false)";

export function fleetHealth(): Statement {
  return { text: `SELECT (${HEALTH}) AS document`, values: [] };
}

export function fleet(names: boolean): Statement {
  return {
    text: `${fleetOf(names)} SELECT jsonb_build_object('health', (${HEALTH}),
      'devices', (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY array_position(${STATUSES}, f.status), f.name), '[]') FROM fleet f),
      'incidents', ${INCIDENTS}, 'breaches', ${BREACHES}, 'may_act', ${MAY_ACT}) AS document`,
    values: [],
  };
}

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

/** Incidents, the latest first, resolved ones and those of retired devices too; null for a device that there is not. */
export function incidents(
  names: boolean,
  asked: {
    state?: string[];
    severity?: string;
    kind?: string;
    device?: string;
    from?: string;
    to?: string;
    limit: number;
    cursor?: string;
  },
): Statement {
  const { state = null, severity = null, kind = null, device = null, from = null, to = null, limit, cursor } = asked;
  const [microseconds = null, number = null] = cursor?.split("-") ?? [];
  return {
    text: `WITH asked AS MATERIALIZED (SELECT ml_uuid($4) AS device), page AS (
      SELECT i.started_at, i.incident_id, ${incidentOf(nameOf("i", names))} AS document
      FROM ml_incidents i${namesOf("i", names)}
      WHERE ($1::text[] IS NULL OR i.state = ANY ($1)) AND ($2::text IS NULL OR i.severity = $2)
        AND ($3::text IS NULL OR i.kind = $3) AND ($4::text IS NULL OR i.device_uuid ${ONE})
        AND ($5::timestamptz IS NULL OR i.ended_at >= $5) AND ($6::timestamptz IS NULL OR i.started_at <= $6)
        AND ($7::bigint IS NULL OR (i.started_at, i.incident_id) < (timestamptz 'epoch' + $7 * interval '1 microsecond', $8::bigint))
      ORDER BY i.started_at DESC, i.incident_id DESC LIMIT $9 + 1
    ), numbered AS (
      SELECT p.*, row_number() OVER (ORDER BY p.started_at DESC, p.incident_id DESC) AS n FROM page p
    )
    SELECT jsonb_build_object('incidents', coalesce(jsonb_agg(p.document ORDER BY p.n) FILTER (WHERE p.n <= $9), '[]'),
      'next', max(concat((extract(epoch FROM p.started_at) * 1000000)::bigint, '-', p.incident_id)) FILTER (WHERE p.n = $9 AND (SELECT count(*) FROM page) > $9)) AS document
    FROM numbered p
    HAVING $4::text IS NULL OR count(*) > 0 OR EXISTS (SELECT FROM ml_device d WHERE d.device_uuid ${ONE})`,
    values: [state, severity, kind, device, from, to, microseconds, number, limit],
  };
}

/** One incident with what makes its case: evidence, findings, events. */
export function incident(names: boolean, id: number): Statement {
  return {
    text: `SELECT ${incidentOf(nameOf("i", names))} || jsonb_build_object('evidence', i.evidence,
      'findings', (SELECT coalesce(jsonb_agg(jsonb_build_object('finding_id', f.finding_id, 'detector', f.detector, 'kind', f.kind,
          'metric', nullif(f.metric, ''), 'started_at', f.started_at, 'last_at', f.last_at, 'severity', f.severity, 'score', f.score,
          'rarity', f.rarity, 'sentence', f.sentence, 'evidence', f.evidence) ORDER BY f.started_at, f.finding_id), '[]')
        FROM ml_finding f WHERE f.incident_id = i.incident_id),
      'events', (SELECT coalesce(jsonb_agg(jsonb_build_object('event_id', e.event_id, 'event', e.event,
          'happened_at', e.happened_at, 'replayed', e.replayed) ORDER BY e.event_id), '[]')
        FROM ml_event e WHERE e.incident_id = i.incident_id)) AS document
    FROM ml_incidents i${namesOf("i", names)} WHERE i.incident_id = $1`,
    values: [id],
  };
}

/** The same trouble of many devices as one. */
export function fleetIncidents(): Statement {
  return {
    text: `SELECT jsonb_build_object('incidents', coalesce(jsonb_agg(to_jsonb(i) ORDER BY i.started_at DESC), '[]')) AS document
    FROM ml_fleet_incidents i`,
    values: [],
  };
}

/** Events in one answer. */
export const EVENTS = 1000;

/**
 * What happened to incidents after an event, or after what is settled: that of a minute ago, before which none is
 * committed any more.
 */
export function events(after: number | undefined): Statement {
  return {
    text: `WITH settled AS (
      SELECT coalesce(max(e.event_id), 0) AS event_id FROM ml_event e WHERE e.written_at < now() - interval '1 minute'
    ), page AS (
      SELECT e.event_id, e.event, e.happened_at, e.incident_id, e.device_uuid, coalesce(d.device_id, e.device_uuid::text) AS device_id,
             coalesce(d.device_name, d.device_id, e.device_uuid::text) AS name, i.kind, i.severity, i.state, i.summary
      FROM ml_event e JOIN ml_incident i USING (incident_id) LEFT JOIN ml_device d ON d.device_uuid = e.device_uuid
      WHERE e.event_id > coalesce($1::bigint, (SELECT s.event_id FROM settled s)) AND NOT e.replayed
      ORDER BY e.event_id LIMIT ${EVENTS}
    )
    SELECT jsonb_build_object('events', coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.event_id), '[]'),
      'settled', least((SELECT s.event_id FROM settled s), CASE WHEN count(*) = ${EVENTS} THEN max(p.event_id) END)) AS document
    FROM page p`,
    values: [after],
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
             format('%s is forecast to reach %s at %s', field, limit_value, to_char(breach_at, 'HH24:MI TZ'))
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
