"""Rows that come late, after newer ones have been scanned, are scanned whenever they come."""

import re
import threading
import time

import psycopg
import pytest

from .test_partitions import BY_MONTH

pytestmark = pytest.mark.slow

# Takes away the rows of a device from so many minutes ago to so many, kept until they come late.
HOLD = """
WITH gone AS (
    DELETE FROM device_shadow_history WHERE device_uuid = %s
    AND "timestamp" > now() AT TIME ZONE 'UTC' - make_interval(mins => %s)
    AND "timestamp" <= now() AT TIME ZONE 'UTC' - make_interval(mins => %s) RETURNING *
) INSERT INTO held SELECT * FROM gone
"""
FAULT = """
UPDATE {} SET reported_state = jsonb_set(jsonb_set(reported_state, '{{system,cpuUsage}}', '99'),
    '{{system,temperature}}', '80') WHERE id IN (
    SELECT id FROM {} WHERE device_uuid = %s ORDER BY "timestamp" OFFSET %s LIMIT %s)
"""
SEND = """
WITH sent AS (
    DELETE FROM held WHERE device_uuid = %s
    AND "timestamp" > now() AT TIME ZONE 'UTC' - make_interval(mins => %s)
    AND "timestamp" <= now() AT TIME ZONE 'UTC' - make_interval(mins => %s) RETURNING *
) INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT device_uuid, reported_state, "timestamp" FROM sent ORDER BY "timestamp"
"""
LOGGED = """
SELECT "timestamp", score FROM ml_anomaly WHERE device_uuid = ml_uuid(%s::text) AND tier = 'forest'
AND "timestamp" BETWEEN %s AND %s ORDER BY 1
"""
SCORED = """
SELECT "timestamp", anomaly_score FROM ml_score(%s::text, %s::timestamptz - interval '1 s', %s)
WHERE is_anomaly ORDER BY 1
"""
OUTCOME = "SELECT outcome, sqlstate FROM ml_scan_state WHERE device_uuid = %s"
LONG_AGO = 100_000


@pytest.fixture(autouse=True)
def _held(db):
    db.execute("SET statement_timeout = '30 s'")
    db.execute("CREATE TABLE held AS TABLE device_shadow_history WITH NO DATA")
    db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")


@pytest.fixture
def hold(db):
    """Delete the rows of a span, given in minutes ago, with a fault in the middle of them."""

    def take(device, since, until=-1, fault=None):
        count = db.execute(HOLD, [device, since, until]).rowcount
        at, rows = fault or (count // 3, count // 3)
        db.execute(FAULT.format("held", "held"), [device, at, rows])
        return db.execute(
            "SELECT min(\"timestamp\") AT TIME ZONE 'UTC', max(\"timestamp\") AT TIME ZONE 'UTC'"
            " FROM held WHERE device_uuid = %s",
            [device],
        ).fetchone()

    return take


@pytest.fixture
def send(db):
    def rows(device, since=LONG_AGO, until=-1, conn=db):
        return conn.execute(SEND, [device, since, until]).rowcount

    return rows


@pytest.fixture
def hour_passes(db):
    """An hour passes for the counting of rows."""
    return lambda: db.execute("UPDATE ml_scan_state SET counted_at = counted_at - interval '1 h'")


@pytest.fixture
def is_logged(db, one):
    """Whether the log has the anomalies of a span that ml_score gives, the fault among them."""

    def compare(device, span, least=1):
        scored = db.execute(SCORED, [device, *span]).fetchall()
        assert len(scored) >= least
        return db.execute(LOGGED, [device, *span]).fetchall() == scored

    return compare


@pytest.fixture
def small(add_device, train):
    """A device with a forest."""

    def add(readings=400):
        device = add_device(readings=readings)
        train(device)
        return device

    return add


def without_an_id(db):
    db.execute("UPDATE ml_setting SET value = '' WHERE name = 'history_id_column'")


@pytest.mark.parametrize("by", ["id", "count"])
def test_six_hours_that_arrive_after_the_first_live_readings(
    db, one, device, hold, send, is_logged, hour_passes, by, train
):
    if by == "count":
        without_an_id(db)
    train(device)
    span = hold(device, 400, 40, fault=(100, 120))
    live = hold(device, 40)
    db.execute("CALL ml_scan()")
    send(device, 40, 35)
    db.execute("CALL ml_scan()")
    assert send(device) > 380
    hour_passes()
    db.execute("CALL ml_scan()")
    assert is_logged(device, span, least=110)
    assert one("SELECT readings FROM ml_scan_state") >= 360 + 35
    # It is an incident of its own, from when it began.
    began, ended, readings, state = db.execute(
        "SELECT started_at, ended_at, readings, state FROM ml_incidents"
        " ORDER BY readings DESC LIMIT 1"
    ).fetchone()
    assert readings >= 110
    assert state == "resolved"
    assert span[0] < began < ended < live[1]
    assert 98 < (began - span[0]).total_seconds() / 60 < 102
    # And that was all.
    assert one("SELECT count(*) FROM ml_late") == 0
    log = db.execute("SELECT * FROM ml_anomaly ORDER BY 1, 2, 3").fetchall()
    hour_passes()
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "unchanged"
    assert db.execute("SELECT * FROM ml_anomaly ORDER BY 1, 2, 3").fetchall() == log


def test_without_an_id_late_rows_are_looked_for_once_an_hour(
    db, one, small, hold, send, is_logged, hour_passes
):
    without_an_id(db)
    device = small()
    span = hold(device, 240, 120)
    db.execute("CALL ml_scan()")
    send(device)
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "unchanged"
    hour_passes()
    db.execute("CALL ml_scan()")
    assert is_logged(device, span, least=35)
    assert one("SELECT readings FROM ml_scan_state") < 200  # the hours that have more, not the day


def test_a_week_old_buffer(db, one, add_device, hold, send, is_logged, train):
    device = add_device(interval=240)
    train(device)
    db.execute("CALL ml_scan()")
    span = hold(device, 10_080, 9_800)
    db.execute("CALL ml_scan()")
    send(device)
    db.execute("CALL ml_scan()")
    assert is_logged(device, span, least=20)
    assert one("SELECT readings FROM ml_scan_state") < 100  # what came, not the week
    assert one('SELECT count(*) FROM ml_anomaly WHERE "timestamp" < %s', span[0]) == 0


@pytest.mark.parametrize("minutes", [pytest.param(9, marks=pytest.mark.long), 200])
def test_a_lesser_id_that_is_committed_later(db, dsn, small, hold, send, is_logged, minutes):
    device = small()
    span = hold(device, minutes, minutes - 3)
    newest = hold(device, 3)
    db.execute("CALL ml_scan()")
    with psycopg.connect(dsn) as buffer:
        with buffer.transaction(force_rollback=True):
            send(device, minutes, minutes - 3, conn=buffer)
        with buffer.transaction(), buffer.transaction():  # in a savepoint, as frameworks do
            assert send(device, minutes, minutes - 3, conn=buffer) == 3
            for minute in (2, 1, -1):
                send(device, 3, minute)
                db.execute("CALL ml_scan()")
    assert not db.execute(LOGGED, [device, *span]).fetchall()
    db.execute("CALL ml_scan()")
    assert is_logged(device, span)
    assert newest[1] > span[1]
    db.execute("CALL ml_scan()")
    assert db.execute(OUTCOME, [device]).fetchone() == ("unchanged", None)


def test_ids_are_waited_for_until_their_transactions_have_ended(db, dsn, one, small, send, hold):
    device = small()
    db.execute("CALL ml_scan()")
    missing = "SELECT NOT isempty(missing) FROM ml_arrival"
    hold(device, 200, 190)
    hold(device, 10)
    with psycopg.connect(dsn) as buffer:
        send(device, 200, 190, conn=buffer)
        send(device, 10)
        db.execute("CALL ml_scan()")
        assert one(missing)
        for ended in (False, True):
            if ended:
                buffer.rollback()
            # It is noted which are to be waited for, and then waited; a transaction of another
            # database that is just going on counts too.
            for _ in range(60 if ended else 2):
                db.execute("UPDATE ml_arrival SET mark_at = mark_at - interval '20 minutes'")
                db.execute("CALL ml_scan()")
                if ended and not one(missing):
                    break
                time.sleep(0.5 * ended)
            assert one(missing) is not ended


def test_single_devices_and_the_fleet(db, small, hold, send, is_logged):
    devices = [small() for _ in range(2)]
    spans = [hold(device, 300, 200) for device in devices]
    db.execute("CALL ml_scan()")
    for device in devices:
        send(device)
    db.execute("CALL ml_scan(%s::uuid)", [devices[0]])
    assert is_logged(devices[0], spans[0], least=25)
    assert not is_logged(devices[1], spans[1], least=25)
    db.execute("CALL ml_scan()")
    assert is_logged(devices[1], spans[1], least=25)
    assert db.execute(OUTCOME, [devices[0]]).fetchone() == ("unchanged", None)


def test_several_sessions(db, dsn, one, small, hold, send, is_logged):
    devices = [small(200) for _ in range(6)]
    spans = {device: hold(device, 150, 100) for device in devices}
    db.execute("CALL ml_scan()")

    def scan():
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CALL ml_scan()")

    for device in devices:
        send(device)
    sessions = [threading.Thread(target=scan) for _ in range(3)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert all(is_logged(device, span, least=10) for device, span in spans.items())
    assert one("SELECT sum(failed) FROM ml_job") == 0
    assert one("SELECT count(*) FROM ml_late") == 0


@pytest.mark.parametrize("by", ["id", pytest.param("count", marks=pytest.mark.long)])
def test_a_scan_that_fails_loses_nothing(db, one, small, hold, send, is_logged, hour_passes, by):
    if by == "count":
        without_an_id(db)
    device = small()
    span = hold(device, 300, 200)
    db.execute("CALL ml_scan()")
    send(device)
    hour_passes()
    good = one("SELECT sha256 FROM ml_model WHERE kind = 'forest'")
    db.execute("UPDATE ml_model SET sha256 = 'x' WHERE kind = 'forest'")
    for _ in range(2):
        db.execute("CALL ml_scan()")
        assert db.execute(OUTCOME, [device]).fetchone() == ("failed", "ML005")
    db.execute("UPDATE ml_model SET sha256 = %s WHERE kind = 'forest'", [good])
    db.execute("CALL ml_scan()")
    assert is_logged(device, span, least=25)
    assert one("SELECT count(*) FROM ml_late") == 0


def test_in_a_replay_rows_that_have_arrived_are_late_by_its_clock(
    db, one, small, hold, send, is_logged
):
    device = small()
    span = hold(device, 300, 200)
    hold(device, 200)
    ago = "SELECT now() - make_interval(mins => %s)"
    db.execute("CALL ml_scan(as_of => %s)", [one(ago, 290)])
    send(device, 200, 190)
    db.execute("CALL ml_scan(as_of => %s)", [one(ago, 185)])
    send(device)
    db.execute("CALL ml_scan(as_of => %s)", [one(ago, 180)])
    assert is_logged(device, span, least=25)
    assert one("SELECT watermark <= now() - interval '180 minutes' FROM ml_scan_state")
    assert one("SELECT count(*) FROM ml_late") == 0


SHAPES = {
    "text ids": ("'aa:bb:' || right(h.device_uuid::text, 2)", 'h."timestamp"'),
    "numeric ids": ("42::numeric", 'h."timestamp"'),
    "milliseconds": ("h.device_uuid", '(extract(epoch FROM h."timestamp") * 1000)::bigint'),
}


# What another of them covers, but for the type's name.
ALIKE = ("numeric ids", "milliseconds")


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=[pytest.mark.long] * (shape in ALIKE)) for shape in SHAPES],
)
def test_other_shapes(db, one, add_device, train, hold, is_logged, shape):
    device, moment = SHAPES[shape]
    usual = add_device(readings=400)
    row = f"SELECT {device} AS thing, {moment} AS at, h.reported_state AS doc FROM {{}} h"
    db.execute(
        f"CREATE TABLE telemetry AS {row.format('device_shadow_history')};"
        "CREATE INDEX ON telemetry (thing, at DESC); ALTER TABLE telemetry ADD seq serial UNIQUE;"
    )
    db.execute("SELECT * FROM ml_setup('telemetry', 'thing', 'at', 'doc')")
    db.execute("UPDATE ml_setting SET value = 'seq' WHERE name = 'history_id_column'")
    known_as = one("SELECT thing::text FROM telemetry LIMIT 1")
    train(one("SELECT ml_uuid(%s::text)::text", known_as))
    span = hold(usual, 300, 200)
    gone = row.format("held").replace("SELECT", "SELECT DISTINCT", 1)
    db.execute(f"DELETE FROM telemetry USING ({gone}) AS g WHERE telemetry.at = g.at")
    db.execute("CALL ml_scan()")
    db.execute(f"INSERT INTO telemetry (thing, at, doc) {row.format('held')}")
    db.execute("CALL ml_scan()")
    assert one("SELECT detail FROM ml_doctor() WHERE check_name = 'late rows'").startswith("found")
    assert is_logged(known_as, span, least=25)


def test_a_partitioned_history(db, small, hold, send, is_logged):
    db.execute(BY_MONTH)
    device = small()
    span = hold(device, 300, 200)
    db.execute("CALL ml_scan()")
    send(device)
    db.execute("CALL ml_scan()")
    assert is_logged(device, span, least=25)
    assert db.execute("SELECT _ml_history_id()").fetchone() == ("h.id",)
    newest = db.execute("SELECT max(tableoid::regclass::text) FROM device_shadow_history")
    # A part that no index on the id leads through would be read whole each time.
    db.execute(f'ALTER TABLE {newest.fetchone()[0]} ADD CHECK ("timestamp" IS NOT NULL)')
    db.execute("ALTER TABLE device_shadow_history DROP CONSTRAINT device_shadow_history_pkey")
    assert db.execute("SELECT _ml_history_id()").fetchone() == (None,)


def test_which_ids_tell(db, one):
    tells = "SELECT _ml_history_id() IS NOT NULL"
    told = "SELECT detail FROM ml_doctor() WHERE check_name = 'late rows'"
    assert one(tells)
    assert one(told) == "found by id, however late they come"
    set_to = "UPDATE ml_setting SET value = %s WHERE name = 'history_id_column'"
    for name in ("device_uuid", "version", "none", ""):
        db.execute(set_to, [name])
        assert not one(tells), name
        assert one(told) == "counted hourly, up to 48 hours back"
    db.execute("CREATE INDEX ON device_shadow_history (version, id)")
    db.execute(set_to, ["version"])
    assert one(tells)
    role = f"late_{db.info.backend_pid}"
    db.execute(
        f"CREATE ROLE {role}; GRANT SELECT ON device_shadow_history TO {role};"
        f"SELECT ml_grant('{role}', 'read'); SET ROLE {role}"
    )
    assert one(tells)
    db.execute("RESET ROLE; ALTER TABLE device_shadow_history ENABLE ROW LEVEL SECURITY")
    assert one(tells)
    db.execute(f"SET ROLE {role}")
    assert not one(tells)  # some rows may be hidden from it
    db.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    db.execute("CREATE VIEW seen AS TABLE device_shadow_history")
    db.execute("UPDATE ml_setting SET value = 'public.seen' WHERE name = 'history_table'")
    assert not one(tells)


def test_only_the_new_rows_are_read_by_the_index_on_the_id(db, dsn, one, small, hold, send):
    device = small(3000)
    db.execute("ANALYZE device_shadow_history")
    db.execute("CALL ml_scan()")
    hold(device, 30, 20)
    send(device)
    told: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.add_notice_handler(lambda notice: told.append(notice.message_primary))
        conn.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0;"
            "SET auto_explain.log_analyze = on; SET auto_explain.log_nested_statements = on;"
            "SET client_min_messages = log"
        )
        conn.execute("SELECT _ml_find_late(NULL)")
    plans = [one for one in told if "device_shadow_history h" in one and "(id " in one]
    assert len(plans) >= 2
    for plan in plans:
        assert "Seq Scan on device_shadow_history" not in plan, plan
        read = re.findall(r"Index(?: Only)? Scan[^\n]* on device_sh[^\n]* rows=(\d+) loops", plan)
        assert read, plan
        assert all(int(rows) <= 10 for rows in read), plan


def test_rows_that_are_deleted_and_ids_that_begin_anew(db, one, small, hold, send, is_logged):
    device = small()
    db.execute("CALL ml_scan()")
    db.execute("CREATE TABLE kept AS TABLE device_shadow_history")
    db.execute("TRUNCATE device_shadow_history RESTART IDENTITY")
    db.execute("CALL ml_scan()")
    db.execute(
        "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
        " SELECT device_uuid, reported_state, timestamp FROM kept ORDER BY timestamp LIMIT 300"
    )
    db.execute("CALL ml_scan()")
    db.execute("DELETE FROM device_shadow_history WHERE id > 250")
    db.execute("CALL ml_scan()")
    assert one("SELECT last_id FROM ml_arrival") == 250
    span = hold(device, 210, 180)
    send(device)
    db.execute("CALL ml_scan()")
    assert is_logged(device, span, least=2)


def test_a_device_that_is_forgotten_or_unknown(db, one, small, hold, send, add_device):
    device, untrained = small(), add_device(readings=100)
    db.execute("CALL ml_scan()")
    for some in (device, untrained):
        hold(some, 90, 70)
        send(some)
    db.execute("UPDATE ml_model SET sha256 = 'x' WHERE kind = 'forest'")
    db.execute("CALL ml_scan()")
    # A first scan goes back as far as scan_first_hours, whatever has come late.
    assert one("SELECT array_agg(device_uuid::text) FROM ml_late") == [device]
    db.execute("SELECT ml_forget(%s::uuid)", [device])
    assert one("SELECT count(*) FROM ml_late") == 0


def test_a_clock_that_is_wrong_is_not_late(db, one, small):
    """Otherwise each of its rows would make the scan read the whole history."""
    device = small()
    db.execute("CALL ml_scan()")
    db.execute(
        "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
        " SELECT %s, '{}', t FROM unnest('{1970-01-01,2000-01-01,2090-01-01,-infinity,infinity}'"
        "::timestamp[]) AS t",
        [device],
    )
    db.execute("CALL ml_scan()")
    assert db.execute(OUTCOME, [device]).fetchone() == ("unchanged", None)
    assert one("SELECT count(*) FROM ml_late") == 0
