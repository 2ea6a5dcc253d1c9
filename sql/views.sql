-- Every view and its COMMENT. Re-runnable: replaced whole at each upgrade.
--
-- Plain reads: no model runs behind a view, and a condition on the device or the
-- time reaches an index of the table below.

CREATE OR REPLACE VIEW ml_models AS
SELECT m.model_id, m.device_uuid, m.kind, nullif(m.field, '') AS field, m.is_current, m.trained_at,
       m.window_start, m.window_end, m.readings_used, m.readings_rejected, m.parameters, m.figures,
       m.versions, m.seconds, octet_length(m.blob) AS bytes,
       refused.started_at AS refused_at,
       CASE refused.outcome WHEN 'kept' THEN format('held-out error %s, of the model in force %s',
            refused.figures ->> 'candidate_mae', refused.figures ->> 'previous_mae')
            ELSE refused.error END AS refused_why
FROM ml_model m
LEFT JOIN LATERAL (
    SELECT r.started_at, r.outcome, r.error, r.figures FROM ml_run r
    WHERE r.device_uuid = m.device_uuid AND r.kind = m.kind AND r.field = m.field
      AND r.started_at > m.trained_at AND r.outcome <> 'trained'
    ORDER BY r.started_at DESC LIMIT 1) AS refused ON m.is_current;
COMMENT ON VIEW ml_models IS 'Each stored model without its blob: what it was trained on, what was measured, whether it is in force, and the last attempt to replace it that came to nothing, with the reason.';

-- Ordered as the index has them, so that for the latest few no others are read.
CREATE OR REPLACE VIEW ml_anomalies AS
SELECT a.device_uuid, a."timestamp", array_agg(a.tier ORDER BY a.tier) AS tiers,
       CASE WHEN bool_or(a.severity = 'critical') THEN 'critical' ELSE 'warning' END AS severity,
       min(a.score) FILTER (WHERE a.tier = 'forest') AS anomaly_score,
       min(a.score) FILTER (WHERE a.tier = 'lstm') AS forecast_score,
       coalesce((array_agg(a.metrics) FILTER (WHERE a.tier = 'lstm'))[1], '{}')
           || coalesce((array_agg(a.metrics) FILTER (WHERE a.tier = 'forest'))[1], '{}') AS metrics,
       coalesce((array_agg(a.reasons) FILTER (WHERE a.tier = 'forest'))[1], '[]')
           || coalesce((array_agg(a.reasons) FILTER (WHERE a.tier = 'lstm'))[1], '[]') AS reasons,
       min(a.incident_at) AS incident_at, min(a.detected_at) AS detected_at
FROM ml_anomaly a
GROUP BY a."timestamp", a.device_uuid
ORDER BY a."timestamp" DESC, a.device_uuid;
COMMENT ON VIEW ml_anomalies IS 'The log of anomalies, one row a device and time, whichever tiers spoke. anomaly_score is the forest''s (lower is more anomalous); forecast_score minus the distance from the forecast in half widths of its interval.';

CREATE OR REPLACE VIEW ml_incidents AS
SELECT a.device_uuid, a.incident_at AS started_at, max(a."timestamp") AS ended_at,
       CASE WHEN bool_or(a.severity = 'critical') THEN 'critical' ELSE 'warning' END AS severity,
       coalesce(min(a.score) FILTER (WHERE a.tier = 'forest'), min(a.score)) AS worst_score,
       (array_agg(a.reasons -> 0 ->> 'metric' ORDER BY a.severity = 'critical' DESC, a.tier, a.score))[1] AS leading_metric,
       count(DISTINCT a."timestamp") AS readings,
       array_agg(DISTINCT a.tier) AS tiers
FROM ml_anomaly a
GROUP BY a.incident_at, a.device_uuid
ORDER BY a.incident_at DESC, a.device_uuid;
COMMENT ON VIEW ml_incidents IS 'Neighbouring anomalies of a device as one event: from when to when, how bad, which metric leads, how many readings.';

CREATE OR REPLACE VIEW ml_forecasts AS
SELECT p.device_uuid, p.field, p."timestamp", p.predicted AS predicted_value, p.lower AS confidence_lower,
       p.upper AS confidence_upper, p.level, p.model_id, p.made_at
FROM ml_scan_state s
JOIN ml_forecast_point p ON p.device_uuid = s.device_uuid AND p."timestamp" > s.last_reading;
COMMENT ON VIEW ml_forecasts IS 'The latest forecast of each device and field: what is expected after its last reading. Earlier ones stay in ml_forecast_point, beside what came.';

CREATE OR REPLACE VIEW ml_breaches AS
SELECT p.device_uuid, p.field, max(p.breach) AS limit_value, min(p."timestamp") AS breach_at,
       max(p.predicted) AS worst_predicted, max(p.made_at) AS made_at
FROM ml_scan_state s
JOIN ml_forecast_point p ON p.device_uuid = s.device_uuid AND p."timestamp" > s.last_reading
WHERE p.breach IS NOT NULL
GROUP BY p.device_uuid, p.field;
COMMENT ON VIEW ml_breaches IS 'Which forecast reaches its limit (setting forecast_limits), and when it first does.';

CREATE OR REPLACE VIEW ml_device_status AS
SELECT d.device_uuid, m.forest_model_id, m.forest_trained_at, m.forecast_models, m.oldest_model_at,
       d.last_reading_at, d.scanned_at, d.scan_outcome, d.sqlstate, d.error, d.drifted, d.drift, d.forecast_drift,
       (SELECT max(a."timestamp") FROM ml_anomaly a WHERE a.device_uuid = d.device_uuid) AS last_anomaly_at,
       (SELECT count(DISTINCT a."timestamp") FROM ml_anomaly a
        WHERE a.device_uuid = d.device_uuid AND a."timestamp" > now() - interval '24 hours') AS anomalies_24h
FROM (
    SELECT s.device_uuid, s.last_reading AS last_reading_at, s.scanned_at, s.outcome AS scan_outcome, s.sqlstate, s.error,
           s.drifted <> '{}' AS drifted, s.drift, s.forecast_drift
    FROM ml_scan_state s
    UNION ALL
    SELECT DISTINCT o.device_uuid, NULL::timestamptz, NULL::timestamptz, NULL, NULL, NULL, NULL::boolean, NULL::jsonb, NULL::jsonb
    FROM ml_model o WHERE o.is_current AND NOT EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = o.device_uuid)
) AS d
CROSS JOIN LATERAL (
    SELECT min(c.model_id) FILTER (WHERE c.kind = 'forest') AS forest_model_id,
           min(c.trained_at) FILTER (WHERE c.kind = 'forest') AS forest_trained_at,
           count(*) FILTER (WHERE c.kind = 'lstm') AS forecast_models, min(c.trained_at) AS oldest_model_at
    FROM ml_model c WHERE c.device_uuid = d.device_uuid AND c.is_current) AS m;
COMMENT ON VIEW ml_device_status IS 'One row a device that has a model in force or was scanned: its models and their age, the last reading and scan, drift, and the last day''s anomalies.';

CREATE OR REPLACE VIEW ml_fleet_health AS
SELECT s.devices, s.failing, s.without_model, s.drifted, s.silent, s.oldest_scan_at, s.last_reading_at,
       a.anomalies_24h, a.critical_24h, a.devices_with_anomalies_24h,
       (SELECT count(*) FROM ml_run r WHERE r.started_at > now() - interval '24 hours' AND r.outcome <> 'failed') AS trainings_24h,
       (SELECT count(*) FROM ml_run r WHERE r.started_at > now() - interval '24 hours' AND r.outcome = 'failed') AS failed_trainings_24h
FROM (
    SELECT count(*) AS devices, count(*) FILTER (WHERE t.outcome = 'failed') AS failing,
           count(*) FILTER (WHERE t.sqlstate = 'ML002') AS without_model, count(*) FILTER (WHERE t.drifted <> '{}') AS drifted,
           count(*) FILTER (WHERE t.last_reading < t.scanned_at - interval '1 hour') AS silent,
           min(t.scanned_at) AS oldest_scan_at, max(t.last_reading) AS last_reading_at
    FROM ml_scan_state t) AS s,
(
    SELECT coalesce(sum(d.readings), 0)::bigint AS anomalies_24h, coalesce(sum(d.critical), 0)::bigint AS critical_24h,
           count(*) AS devices_with_anomalies_24h
    FROM (SELECT r.device_uuid, count(*) AS readings, count(*) FILTER (WHERE r.critical) AS critical
          FROM (SELECT l.device_uuid, bool_or(l.severity = 'critical') AS critical -- whichever tiers spoke
                FROM ml_anomaly l WHERE l."timestamp" > now() - interval '24 hours'
                GROUP BY l.device_uuid, l."timestamp") AS r
          GROUP BY r.device_uuid) AS d) AS a;
COMMENT ON VIEW ml_fleet_health IS 'The fleet in one row: devices scanned, failing, without a model, drifted, silent for an hour; the last day''s anomalies and trainings.';

CREATE OR REPLACE VIEW ml_runs AS
SELECT r.run_id, r.device_uuid, r.kind, nullif(r.field, '') AS field, r.started_at, r.seconds, r.outcome,
       r.model_id, r.sqlstate, r.error, r.figures
FROM ml_run r
ORDER BY r.started_at DESC;
COMMENT ON VIEW ml_runs IS 'Training attempts, the latest first.';

CREATE OR REPLACE VIEW ml_jobs AS
SELECT j.job_id, j.kind, j.slot, j.pid, j.started_at, j.updated_at, j.finished_at, j.total, j.done, j.failed, j.passed_over,
       round(((j.done + j.failed) / greatest(extract(epoch FROM j.updated_at - j.started_at), 0.001))::numeric, 2) AS per_second,
       CASE WHEN j.finished_at IS NULL AND j.done + j.failed > 0 THEN
            (j.total - j.done - j.failed - j.passed_over) * (j.updated_at - j.started_at) / (j.done + j.failed) END AS time_left
FROM ml_job j
ORDER BY j.started_at DESC;
COMMENT ON VIEW ml_jobs IS 'Calls of ml_scan and ml_retrain, the latest first: how far each has come, how fast, and about how long it still takes.';

-- A lock of a row is no row of pg_locks; but it names the transaction that took it.
CREATE OR REPLACE VIEW ml_locks AS
SELECT l.task, l.what, l.device_uuid, k.pid, a.usename AS role, a.application_name, a.xact_start AS since
FROM ml_lock l
JOIN pg_locks k ON k.locktype = 'transactionid' AND k.granted AND k.mode = 'ExclusiveLock' AND k.transactionid = l.xmax
LEFT JOIN pg_stat_activity a ON a.pid = k.pid
ORDER BY l.task, l.what;
COMMENT ON VIEW ml_locks IS 'What scans and trainings hold just now, and which session (pid) has it; since shows to who may see that session. What is held for the first time ever is not shown.';
