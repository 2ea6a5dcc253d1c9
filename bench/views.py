"""How long each view takes over a large fleet: 10,000 devices, a million logged anomalies.

    python bench/views.py "dbname=bench"

needs an empty database on a server where pyml is installed, and fills the extension's
tables. Each figure is the median of eleven readings of the whole answer, in milliseconds.
"""

import statistics
import sys
import time

import psycopg

FLEET = """
INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading, watermark)
SELECT md5(i::text)::uuid, now(), CASE WHEN i % 500 = 0 THEN 'failed' ELSE 'scanned' END, now(),
    now()
FROM generate_series(1, 10000) AS i;
INSERT INTO ml_model (device_uuid, kind, is_current, window_start, window_end, readings_used,
    readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT s.device_uuid, 'forest', age = 0, now(), now(), 1, 0,
    jsonb_build_object('metrics', repeat('m', 1000), 'signals',
        (SELECT jsonb_object_agg('m' || i, NULL) FROM generate_series(1, 8) AS i)),
    '{}', '{}', 1, '', ''
FROM ml_scan_state s, generate_series(0, 2) AS age;
INSERT INTO ml_signal_state
SELECT s.device_uuid, array_agg('m' || i), array_agg(60), array_agg(i), array_agg(now()),
    array_agg('ok'::text), array_agg(now()), array_agg(0), array_agg(0), array_agg(0), array_agg(0),
    '{1440,0,0,0}', 0, '[]'
FROM ml_scan_state s, generate_series(1, 8) AS i GROUP BY s.device_uuid;
INSERT INTO ml_anomaly (device_uuid, "timestamp", tier, score, severity, metrics, reasons,
    model_id)
SELECT s.device_uuid, t, 'forest', -0.7, 'warning', '{"cpu_usage": 99}',
    '[{"metric": "cpu_usage"}]', 1
FROM ml_scan_state s, generate_series(1, 100) AS i,
     LATERAL (SELECT now() - i * interval '13 hours'
              - abs(hashtext(s.device_uuid::text)) % 46800 * interval '1 second') AS x (t);
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, resolved_at, why, summary, evidence, updated_at)
SELECT s.device_uuid, 'value', CASE WHEN open THEN 'open' ELSE 'resolved' END, 'warning',
    'cpu_usage', t, t, t + interval '20 minutes', CASE WHEN NOT open THEN t + interval '1 hour' END,
    CASE WHEN NOT open THEN 'over' END, 'cpu_usage is 99 %', '{"readings": 12}', t
FROM ml_scan_state s, generate_series(0, 9) AS i,
     LATERAL (SELECT now() - i * interval '9 days'
              - abs(hashtext(s.device_uuid::text)) % 777600 * interval '1 second',
              i = 0 AND s.device_uuid < '05000000-0000-0000-0000-000000000000') AS x (t, open);
INSERT INTO ml_forecast_point (device_uuid, "timestamp", field, kind, predicted, lower, upper,
    level, breach, model_id, made_at)
SELECT s.device_uuid, now() + i * interval '1 minute', 'cpu_usage', 'lstm', 50 + i, 40, 90, 0.9,
    CASE WHEN i > 3 AND s.device_uuid < '01000000-0000-0000-0000-000000000000' THEN 53 END, 1, now()
FROM ml_scan_state s, generate_series(-30, 12) AS i WHERE i <> 0;
INSERT INTO ml_run (device_uuid, kind, started_at, seconds, outcome)
SELECT s.device_uuid, 'forest', now() - i * interval '1 day', 1,
    CASE WHEN s.outcome = 'failed' AND i = 30 THEN 'failed' ELSE 'trained' END
FROM ml_scan_state s, generate_series(0, 30) AS i;
INSERT INTO ml_job (kind, total, started_at)
SELECT 'scan', 10000, now() - i * interval '5 minutes' FROM generate_series(1, 8640) AS i;
"""
# As autovacuum does it to a log that grows.
VACUUM = """
VACUUM (ANALYZE) ml_scan_state, ml_signal_state, ml_model, ml_anomaly, ml_incident,
    ml_forecast_point, ml_run, ml_job
"""

DEVICE = "device_uuid = md5('7')::uuid"
# What dashboards ask, and how many rows it may read of tables and indexes for it.
QUERIES = [
    (f"ml_models WHERE {DEVICE}", 10),
    (f"ml_anomalies WHERE {DEVICE}", 400),
    (f"ml_anomalies WHERE {DEVICE} AND \"timestamp\" > now() - interval '7 days'", 50),
    ("ml_anomalies WHERE \"timestamp\" > now() - interval '20 hours'", 40_000),
    ('ml_anomalies ORDER BY "timestamp" DESC LIMIT 20', 200),
    (f"ml_incidents WHERE {DEVICE}", 200),
    ("ml_incidents WHERE started_at > now() - interval '20 hours'", 20_000),
    ("ml_incidents WHERE state <> 'resolved'", 2_000),
    ("ml_incidents WHERE incident_id = 7", 10),
    ("ml_fleet_incidents", 40_000),
    ("ml_incidents ORDER BY started_at DESC LIMIT 20", 200),
    (f"ml_forecasts WHERE {DEVICE}", 100),
    (f"ml_breaches WHERE {DEVICE}", 10),
    ("ml_breaches", 15_000),
    (f"ml_device_status WHERE {DEVICE}", 100),
    ("ml_device_status WHERE scan_outcome = 'failed'", 12_000),
    ("ml_device_status LIMIT 100", 100_000),
    ("ml_device_status", 100_000),
    (f"ml_signals WHERE {DEVICE}", 100),
    ("ml_signals", 100_000),
    ("ml_fleet_health", 200_000),  # the status of each device
    (f"ml_runs WHERE {DEVICE}", 50),
    ("ml_runs LIMIT 20", 20),
    ("ml_runs WHERE outcome = 'failed' LIMIT 20", 20),
    ("ml_jobs LIMIT 20", 20),
]


def main() -> None:
    """Fill the tables and time the views."""
    with psycopg.connect(sys.argv[1], autocommit=True) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS pyml CASCADE")
        conn.execute(FLEET)
        conn.execute(VACUUM)
        for query, _ in QUERIES:
            took = []
            for _ in range(11):
                started = time.perf_counter()
                found = len(conn.execute(f"SELECT * FROM {query}").fetchall())
                took.append(1000 * (time.perf_counter() - started))
            print(f"{query:75} {found:6} rows {statistics.median(took):8.1f} ms", flush=True)


if __name__ == "__main__":
    main()
