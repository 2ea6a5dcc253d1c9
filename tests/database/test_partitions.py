"""A history partitioned by month: it answers as one table does, and a call reads its months."""

import re
from collections.abc import Callable

import psycopg
import pytest
import sample_fleet

MONTHS = 14
# What its owner would write: the time has to be part of every unique key.
BY_MONTH = f"""
DROP TABLE device_shadow_history;
CREATE TABLE device_shadow_history (
    id bigserial, device_uuid uuid NOT NULL REFERENCES devices (uuid) ON DELETE CASCADE,
    shadow_name varchar(255) NOT NULL DEFAULT 'device-state', reported_state jsonb NOT NULL,
    version integer DEFAULT 0, "timestamp" timestamp NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (id, "timestamp")
) PARTITION BY RANGE ("timestamp");
CREATE INDEX ON device_shadow_history (device_uuid, "timestamp" DESC);
DO $$
DECLARE
    month date := date_trunc('month', now() AT TIME ZONE 'UTC') - interval '{MONTHS - 2} months';
BEGIN
    FOR i IN 1 .. {MONTHS} LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF device_shadow_history'
                       ' FOR VALUES FROM (%L) TO (%L)',
                       to_char(month, '"history_"YYYY_MM'), month, month + interval '1 month');
        month := month + interval '1 month';
    END LOOP;
END $$;
"""
# A reading an hour in every month, so that there is something to read in each.
OLDER = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, '{"system": {"cpuUsage": 20, "memoryUsage": 1, "memoryTotal": 2}}', t
FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '12 months',
    (now() AT TIME ZONE 'UTC') - interval '3 days', interval '1 hour') AS t
"""
# Months that a window overlaps, and a day before it that features may look back over.
WINDOW = """
SELECT array_agg(to_char(t, '"history_"YYYY_MM')) FROM generate_series(
    date_trunc('month', (now() AT TIME ZONE 'UTC') - make_interval(hours => %s + 24)),
    now() AT TIME ZONE 'UTC', interval '1 month') AS t
"""
COMING = "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 month', '\"history_\"YYYY_MM')"
HOURS = 48
READS = (
    f"SELECT ml_detect('{{device}}', hours => {HOURS})",
    f"SELECT * FROM ml_score('{{device}}', now() - interval '{HOURS} hours', now())",
    "SELECT ml_forecast('{device}')",
    "SELECT * FROM ml_predict('{device}', 'system.cpuUsage')",
    f"SELECT * FROM ml_zscore('{{device}}', 'cpu_usage', hours => {HOURS})",
    f"SELECT ml_chart('{{device}}', hours => {HOURS})",
)
WRITES = (
    "CALL ml_retrain('{device}')",  # by ml_train_forest and ml_train_lstm
    "CALL ml_scan('{device}')",
)


@pytest.fixture
def by_month(db: psycopg.Connection) -> None:
    db.execute(BY_MONTH)
    db.execute("UPDATE ml_setting SET value = '10' WHERE name = 'n_estimators'")
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    db.execute(f"UPDATE ml_setting SET value = '{HOURS}' WHERE name = 'training_hours'")


@pytest.mark.slow
@pytest.mark.usefixtures("by_month")
def test_every_function_reads_the_months_of_its_window(
    db: psycopg.Connection, dsn: str, add_device: Callable[..., str]
) -> None:
    device = add_device()
    db.execute(OLDER, {"device": device})
    db.execute("ANALYZE device_shadow_history")
    months = set(db.execute(WINDOW, [HOURS]).fetchone()[0])
    assert len(months) < 3 < MONTHS
    coming = {db.execute(COMING).fetchone()[0]}
    db.execute("UPDATE ml_setting SET value = '3' WHERE name = 'anomaly_days'")
    for mode, statements in (
        ("force_custom_plan", WRITES + READS),
        ("force_generic_plan", READS),  # as a session that asks often may keep one
    ):
        told: list[str] = []
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.add_notice_handler(lambda notice, told=told: told.append(notice.message_primary))
            conn.execute(
                f"LOAD 'auto_explain'; SET plan_cache_mode = {mode};"
                "SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;"
                "SET auto_explain.log_nested_statements = on; SET client_min_messages = log"
            )
            for statement in statements:
                del told[:]
                conn.execute(statement.format(device=device))
                scans = re.findall(r" on (history_\d+_\d+) [^\n]*\((actual|never)", "\n".join(told))
                read = {table for table, fate in scans if fate == "actual"}
                assert read, (mode, statement)
                # Rows that came late are looked for among those that the log keeps, or to come.
                assert read <= (months | coming if "scan" in statement else months), (
                    mode,
                    statement,
                    read,
                )


ANSWER = """
SELECT ml_detect(%(device)s::uuid, hours => 400) - 'model_info', sha256 FROM ml_model
WHERE device_uuid = %(device)s AND kind = 'forest'
"""


@pytest.mark.slow
def test_it_answers_as_one_table_does(
    db: psycopg.Connection, dsn: str, by_month: None, one: Callable[..., object]
) -> None:
    sample_fleet.load(dsn, days=2)
    db.execute("CREATE TABLE whole AS TABLE device_shadow_history")
    db.execute("CREATE INDEX ON whole (device_uuid, timestamp DESC)")
    device = str(sample_fleet.FLEET[1].uuid)
    until = one("SELECT max(timestamp) - interval '1 day' FROM device_shadow_history")
    answers = []
    for table in ("device_shadow_history", "whole"):
        db.execute(
            "UPDATE ml_setting SET value = %s WHERE name = 'history_table'", [f"public.{table}"]
        )
        checks = dict(db.execute("SELECT check_name, ok FROM ml_doctor()").fetchall())
        assert checks["history table"]
        assert checks["index"]
        assert one("SELECT count(*) FROM _ml_devices()") == len(sample_fleet.FLEET)
        db.execute("SELECT ml_forget(%s)", [device])
        db.execute("SELECT ml_train_forest(%s, as_of => %s AT TIME ZONE 'UTC')", [device, until])
        answers.append(db.execute(ANSWER, {"device": device}).fetchone())
    assert answers[0][0]["anomalies_detected"] > 0
    assert answers[0] == answers[1]
