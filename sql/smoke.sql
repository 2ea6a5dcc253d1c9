-- One device from end to end, each step printed:
--     psql -v device=UUID -f sql/smoke.sql
-- It trains two models of the device, which stay in force, and scans it. What it then says of an
-- incident, and the rules that it makes, are taken back.

\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
\pset null –
\pset format wrapped
\pset columns 120
SET client_min_messages = warning;

\if :{?device}
\else
    DO $$ BEGIN RAISE EXCEPTION 'no device is given' USING HINT = 'psql -v device=UUID -f sql/smoke.sql'; END $$;
\endif
SELECT ml_uuid(:'device') AS device_uuid \gset

\echo '== Is all well?'
SELECT check_name, CASE WHEN ok THEN 'ok' ELSE 'NO' END AS state, detail, fix FROM ml_doctor();

\echo '== Train an Isolation Forest'
SELECT d ->> 'model_id' AS model, d ->> 'training_samples' AS readings, d ->> 'rejected_samples' AS rejected,
       d -> 'held_out' ->> 'held_out_flagged' AS held_out_flagged, d ->> 'seconds' AS seconds,
       (SELECT string_agg(f, ', ') FROM jsonb_array_elements_text(d -> 'features') AS f) AS features
FROM ml_train_forest(:'device') AS d;

\echo '== Train a forecast'
SELECT d ->> 'field' AS field, d ->> 'model_id' AS model, d ->> 'accepted' AS accepted, d ->> 'training_samples' AS readings,
       round((d -> 'held_out' ->> 'mae')::numeric, 3) AS error, round((d -> 'held_out' ->> 'naive_mae')::numeric, 3) AS error_of_last_value,
       round((d -> 'held_out' -> 'coverage' ->> '0.9')::numeric, 3) AS held_by_90_percent, d ->> 'seconds' AS seconds
FROM ml_train_lstm(:'device') AS d;

\echo '== Scan'
CALL ml_scan(:'device');
SELECT status, open_incidents, anomalies_24h, scan_outcome, last_reading_at FROM ml_device_status WHERE device_uuid = :'device_uuid';

\echo '== Its signals'
SELECT metric, last_value, unit, quality, in_model, why_not FROM ml_signals WHERE device_uuid = :'device_uuid' ORDER BY metric;
SELECT metric AS field FROM ml_signals WHERE device_uuid = :'device_uuid' ORDER BY metric <> 'cpu_usage', metric LIMIT 1 \gset

\echo '== Trouble of the last week'
SELECT incident_id, state, severity, summary FROM ml_incidents
WHERE device_uuid = :'device_uuid' AND ended_at > now() - interval '7 days' ORDER BY started_at DESC LIMIT 5;

\echo '== Somebody sees to the newest (taken back)'
BEGIN;
SELECT incident_id, said ->> 'state' AS state, said ->> 'changed' AS changed, said ->> 'told' AS told
FROM (SELECT incident_id FROM ml_incidents WHERE device_uuid = :'device_uuid' ORDER BY started_at DESC LIMIT 1) AS newest,
     ml_acknowledge(incident_id, 'on my way') AS said;
ROLLBACK;

\echo '== What people know (taken back)'
BEGIN;
INSERT INTO ml_rule (device_uuid, metric, least_deviation, reason) VALUES (:'device_uuid', :'field', 4, 'less is no trouble');
INSERT INTO ml_quiet (device_uuid, starts_at, ends_at, reason) VALUES (:'device_uuid', now(), now() + interval '1 hour', 'maintenance');
SELECT metric, says, reason, kept_quiet_7d FROM ml_rules WHERE device_uuid = :'device_uuid';
ROLLBACK;

\echo '== Single readings of the last day, the worst five'
SELECT "timestamp", severity, round(anomaly_score::numeric, 3) AS score, reasons -> 0 ->> 'sentence' AS why
FROM ml_score(:'device', now() - interval '1 day', now()) ORDER BY anomaly_score LIMIT 5;

\echo '== What comes next'
SELECT f ->> 'field' AS field, f ->> 'unit' AS unit, (p ->> 'timestamp')::timestamptz AS "timestamp",
       round((p ->> 'predicted_value')::numeric, 1) AS predicted, round((p ->> 'confidence_lower')::numeric, 1) AS lower,
       round((p ->> 'confidence_upper')::numeric, 1) AS upper
FROM ml_forecast(:'device') AS f, jsonb_array_elements(f -> 'predictions') AS p;

\echo '== The next days'
SELECT min("timestamp") < now() - interval '3 days' AS enough
FROM ml_history(:'device', :'field', since => now() - interval '4 days', points => 10) \gset
\if :enough
    SELECT "timestamp", round(predicted_value::numeric, 1) AS predicted, round(lower_80::numeric, 1) AS lower_80, round(upper_80::numeric, 1) AS upper_80
    FROM ml_outlook(:'device', :'field', days => 2) WHERE extract(hour FROM "timestamp") IN (0, 6, 12, 18);
\else
    \echo 'An outlook needs three days of values.'
\endif

\echo '== When its limits are reached'
SELECT metric, limit_value, value, earliest, probably, latest, why_not FROM ml_capacity WHERE device_uuid = :'device_uuid';

\echo '== The models in force'
SELECT m ->> 'kind' AS kind, m ->> 'field' AS field, m ->> 'model_id' AS model, (m ->> 'trained_at')::timestamptz AS trained,
       m ->> 'readings_used' AS readings, pg_size_pretty((m ->> 'bytes')::bigint) AS size
FROM jsonb_array_elements(ml_model_info(:'device') -> 'models') AS m WHERE (m ->> 'is_current')::boolean;
