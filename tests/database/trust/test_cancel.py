"""A cancel is heard within a second by every function, also over a long history."""

import threading
import time

import psycopg
import pytest

from tests.stored import newest, put_model

from .test_blobs import cpu_seconds

ROWS = 300_000
LONG = """
CREATE TABLE long AS
SELECT %s::uuid AS device_uuid, jsonb_build_object('system', jsonb_build_object(
        'cpuUsage', round((30 + 12 * sin(i / 229.0) + random() * 9)::numeric, 2),
        'temperature', 45 + i %% 7, 'memoryUsage', 7000 + i %% 91, 'memoryTotal', 16320))
        AS reported_state, 'device-state' AS shadow_name,
    date_trunc('second', now() AT TIME ZONE 'UTC') - i * interval '1 minute' AS timestamp
FROM generate_series(0, %s) AS i;
CREATE INDEX ON long (device_uuid, timestamp);
ANALYZE long;
UPDATE ml_setting SET value = 'public.long' WHERE name = 'history_table';
UPDATE ml_setting SET value = '8760' WHERE name = 'scan_first_hours'
"""
DEVICE = "00000000-0000-4000-8000-000000000001"
STATEMENTS = {
    "ml_detect": "SELECT ml_detect('{}', hours => 8760, max_anomalies => 1000000)",
    "ml_score": "SELECT count(*) FROM ml_score('{}', '-infinity', 'infinity')",
    "ml_chart": "SELECT length(ml_chart('{}', hours => 8760))",
    "ml_zscore": "SELECT count(*) FROM ml_zscore('{}', 'cpu_usage', hours => 8760)",
    "ml_scan": "CALL ml_scan('{}')",
    "ml_train_forest": "SELECT ml_train_forest('{}', hours => 8760)",
}
ALIKE = ("ml_score", "ml_zscore")


def cancelled(db: psycopg.Connection, session: psycopg.Connection, call: str, after: float):
    """Cancel a call after some processor seconds: how it ended, and after how many more."""
    pid, ended = session.info.backend_pid, []

    def body() -> None:
        try:
            session.execute(call)
            ended.append("done")
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    begun = cpu_seconds(pid)
    thread = threading.Thread(target=body)
    thread.start()
    while thread.is_alive() and cpu_seconds(pid) < begun + after:
        time.sleep(0.01)
    told = cpu_seconds(pid)
    db.execute("SELECT pg_cancel_backend(%s)", [pid])
    thread.join()
    return ended[0], cpu_seconds(pid) - told


@pytest.fixture(scope="module")
def template(make_database, _server):
    """A database with a long history: it takes long to make, and a copy does not."""
    dsn = make_database(f"TEMPLATE {_server.template_dbname}")
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in LONG.split(";\n"):
            conn.execute(statement, [DEVICE, ROWS] if "%s" in statement else None)
        # All is anomalous to a model of another device, which is the most that there is to say.
        put_model(conn, DEVICE, newest("forest"))
        return conn.info.dbname


@pytest.fixture
def db(make_database, template):
    dsn = make_database(f"TEMPLATE {template} STRATEGY file_copy")
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [pytest.param(one, marks=[pytest.mark.long] * (one in ALIKE)) for one in STATEMENTS],
)
def test_a_cancel_is_heard_in_time(db, dsn, long, function):
    call, ends = STATEMENTS[function].format(DEVICE), []
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SELECT count(*) FROM ml_doctor()")
        for after in (0.3, 0.8, 1.5, 2.2, 3.1, 4.2, 5.5, 7.0) if long else (0.3, 2.0):
            ends.append((after, *cancelled(db, session, call, after)))
    print(ends)
    assert ends[0][1] == "57014"
    assert {end for _, end, _ in ends} <= {"57014", "done"}
    assert max(late for _, end, late in ends if end != "done") < 1
