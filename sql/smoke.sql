-- One device from end to end, each step printed:
--     psql -v device=UUID -f sql/smoke.sql
-- It trains two models of the device, which stay in force.

\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
\pset null –
SET client_min_messages = warning;

\if :{?device}
\else
    DO $$ BEGIN RAISE EXCEPTION 'no device is given' USING HINT = 'psql -v device=UUID -f sql/smoke.sql'; END $$;
\endif

\echo '== Is all well?'
SELECT check_name, CASE WHEN ok THEN 'ok' ELSE 'NO' END AS state, detail, fix FROM ml_doctor();

\echo '== Train an Isolation Forest'
SELECT d ->> 'model_id' AS model, d ->> 'training_samples' AS readings, d ->> 'rejected_samples' AS rejected,
       d -> 'held_out' ->> 'held_out_flagged' AS held_out_flagged, d ->> 'seconds' AS seconds,
       (SELECT string_agg(f, ', ') FROM jsonb_array_elements_text(d -> 'features') AS f) AS features
FROM ml_train_forest(:'device') AS d;

\echo '== Anomalies of the last day, the worst five'
SELECT d ->> 'analyzed_points' AS readings, d ->> 'anomalies_detected' AS anomalies FROM ml_detect(:'device') AS d;
SELECT "timestamp", severity, round(anomaly_score::numeric, 3) AS score,
       reasons -> 0 ->> 'sentence' AS why
FROM ml_score(:'device', now() - interval '1 day', now())
WHERE is_anomaly ORDER BY anomaly_score LIMIT 5;

\echo '== Train a forecast'
SELECT d ->> 'field' AS field, d ->> 'model_id' AS model, d ->> 'accepted' AS accepted, d ->> 'training_samples' AS readings,
       round((d -> 'held_out' ->> 'mae')::numeric, 3) AS error, round((d -> 'held_out' ->> 'naive_mae')::numeric, 3) AS error_of_last_value,
       round((d -> 'held_out' -> 'coverage' ->> '0.9')::numeric, 3) AS held_by_90_percent, d ->> 'seconds' AS seconds
FROM ml_train_lstm(:'device') AS d;

\echo '== What comes next'
SELECT f ->> 'field' AS field, f ->> 'unit' AS unit, (p ->> 'timestamp')::timestamptz AS "timestamp",
       round((p ->> 'predicted_value')::numeric, 1) AS predicted, round((p ->> 'confidence_lower')::numeric, 1) AS lower,
       round((p ->> 'confidence_upper')::numeric, 1) AS upper
FROM ml_forecast(:'device') AS f, jsonb_array_elements(f -> 'predictions') AS p;

\echo '== The models in force'
SELECT m ->> 'kind' AS kind, m ->> 'field' AS field, m ->> 'model_id' AS model, (m ->> 'trained_at')::timestamptz AS trained,
       m ->> 'readings_used' AS readings, pg_size_pretty((m ->> 'bytes')::bigint) AS size
FROM jsonb_array_elements(ml_model_info(:'device') -> 'models') AS m WHERE (m ->> 'is_current')::boolean;
