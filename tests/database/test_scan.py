"""ml_scan: what came since the last time, device by device."""

import threading
import uuid

import psycopg
import pytest

from tests.stored import newest, put_model

STATE = "SELECT outcome, sqlstate, readings, anomalies FROM ml_scan_state WHERE device_uuid = %s"
SPIKE = """
UPDATE device_shadow_history
SET reported_state = jsonb_set(reported_state, '{system,cpuUsage}', '99')
WHERE id IN (SELECT id FROM device_shadow_history WHERE device_uuid = %s
             ORDER BY "timestamp" DESC OFFSET %s LIMIT %s)
"""
WILD = """{"system": {"cpuUsage": 99, "memoryUsage": 16000, "memoryTotal": 16320,
    "diskUsage": 470, "diskTotal": 476, "temperature": 99}}"""
AGO = "SELECT now() - make_interval(mins => %s)"


@pytest.fixture
def trained(db, device, train):
    train(device)
    return device


def state(db, device):
    return db.execute(STATE, [device]).fetchone()


def test_the_first_scan_goes_back_a_day_and_logs_what_the_forest_flags(db, one, trained):
    db.execute(SPIKE, [trained, 30, 4])
    db.execute("CALL ml_scan()")
    outcome, sqlstate, readings, anomalies = state(db, trained)
    assert (outcome, sqlstate) == ("scanned", None)
    assert readings in (1439, 1440)
    logged = db.execute(
        'SELECT "timestamp", score, severity, metrics, reasons FROM ml_anomaly'
        " WHERE device_uuid = %s AND tier = 'forest' ORDER BY 1",
        [trained],
    ).fetchall()
    assert len(logged) == anomalies > 0
    scored = db.execute(
        'SELECT "timestamp", anomaly_score, severity, metrics, reasons'
        " FROM ml_score(%s, now() - interval '24 hours', now()) WHERE is_anomaly ORDER BY 1",
        [trained],
    ).fetchall()
    assert logged[-len(scored) + 1 :] == scored[1:]
    assert any(row[3]["cpu_usage"] == 99 for row in logged)


def test_a_second_scan_finds_nothing_new(db, one, trained):
    db.execute("CALL ml_scan()")
    before = db.execute("SELECT * FROM ml_anomaly ORDER BY 1, 2, 3").fetchall()
    db.execute("CALL ml_scan()")
    assert state(db, trained)[0] == "unchanged"
    assert db.execute("SELECT * FROM ml_anomaly ORDER BY 1, 2, 3").fetchall() == before


def test_a_replay_of_what_was_scanned_is_refused_and_changes_nothing(db, one, refused, trained):
    noted = "SELECT ml_scan_state::text FROM ml_scan_state"
    db.execute("CALL ml_scan()")
    before = one(noted)
    said = refused("CALL ml_scan(as_of => %s)", one(AGO, 2880), sqlstate="ML004")
    assert "past" in said.message_primary
    refused("CALL ml_scan(%s, as_of => %s)", trained, one(AGO, 2880), sqlstate="ML004")
    assert one(noted) == before


def test_many_small_scans_find_what_one_scan_finds(db, one, trained):
    db.execute(SPIKE, [trained, 30, 4])
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'scan_first_hours'")
    log = 'SELECT "timestamp", score FROM ml_anomaly WHERE "timestamp" > %s ORDER BY 1'
    since = one(AGO, 55)
    for minutes in range(60, -1, -7):
        db.execute("CALL ml_scan(as_of => %s)", [one(AGO, minutes)])
    db.execute("CALL ml_scan()")
    piecemeal = db.execute(log, [since]).fetchall()
    db.execute("DELETE FROM ml_anomaly")
    db.execute("DELETE FROM ml_scan_state")
    db.execute("CALL ml_scan()")
    assert piecemeal
    assert db.execute(log, [since]).fetchall() == piecemeal


def test_a_scan_reads_the_new_rows_and_the_look_back_only(db, one, trained):
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 5)])
    db.execute("CALL ml_scan()")
    assert state(db, trained)[2] in range(18, 23)  # 15 minutes for late rows, and 5


def test_a_late_row_is_scored(db, one, trained):
    row = db.execute(
        "DELETE FROM device_shadow_history WHERE id = (SELECT id FROM device_shadow_history"
        ' WHERE device_uuid = %s ORDER BY "timestamp" DESC OFFSET 8 LIMIT 1)'
        ' RETURNING "timestamp"',
        [trained],
    ).fetchone()
    db.execute("CALL ml_scan()")
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " VALUES (%s, %s, %s)",
        [trained, WILD, row[0]],
    )
    db.execute("CALL ml_scan()")
    assert state(db, trained)[0] == "scanned"
    assert one(
        "SELECT count(*) FROM ml_anomaly WHERE \"timestamp\" = %s AT TIME ZONE 'UTC'", row[0]
    )


def test_a_device_without_a_model_stops_nobody(db, one, trained, add_device, train):
    others = [add_device(readings=200) for _ in range(2)]
    db.execute("CALL ml_scan()")
    assert state(db, trained)[0] == "scanned"
    assert [state(db, other)[:2] for other in others] == [("failed", "ML002")] * 2
    train(others[0])
    db.execute("CALL ml_scan()")
    assert state(db, others[0])[:2] == ("scanned", None)


@pytest.mark.slow
def test_an_error_is_gone_once_a_scan_goes_well(db, one, trained, train):
    """Also where nothing new has come since."""
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    train(trained, "system.cpuUsage")
    good = one("SELECT blob FROM ml_model WHERE kind = 'lstm'")
    db.execute("UPDATE ml_model SET blob = 'x' WHERE kind = 'lstm'")
    db.execute("CALL ml_scan()")
    for _ in range(2):  # it is still so, and is still told
        assert state(db, trained)[:2] == ("failed", "ML005")
        db.execute("CALL ml_scan()")
    before = one("SELECT count(*) FROM ml_anomaly")
    db.execute("UPDATE ml_model SET blob = %s WHERE kind = 'lstm'", [good])
    db.execute("CALL ml_scan()")
    assert state(db, trained)[:2] == ("scanned", None)
    assert one("SELECT error FROM ml_scan_state") is None
    assert one("SELECT count(*) FROM ml_forecasts") == 12
    assert one("SELECT count(*) FROM ml_anomaly") == before
    db.execute("CALL ml_scan()")
    assert state(db, trained)[0] == "unchanged"


def test_a_broken_model_stops_nobody(db, trained, add_device, train):
    other = add_device(readings=300)
    train(other)
    db.execute("UPDATE ml_model SET blob = 'x' WHERE device_uuid = %s", [trained])
    db.execute("CALL ml_scan()")
    assert state(db, trained)[:2] == ("failed", "ML005")
    assert state(db, other)[0] == "scanned"


def test_one_device_only(db, one, trained, add_device):
    add_device(readings=20)
    db.execute("CALL ml_scan(%s)", [trained])
    assert one("SELECT array_agg(device_uuid::text) FROM ml_scan_state") == [trained]


def test_it_says_how_far_it_is(db, dsn, trained):
    told = []
    db.add_notice_handler(lambda notice: told.append(notice.message_primary))
    db.execute("CALL ml_scan()")
    assert "1 of 1, 0 failed" in told[-1]
    with psycopg.connect(dsn) as other:
        job = other.execute("SELECT kind, total, done, failed, finished_at FROM ml_job").fetchone()
    assert job[:4] == ("scan", 1, 1, 0)
    assert job[4] is not None


def test_progress_is_noted_each_second_and_told_each_ten(db, one):
    told = []
    db.add_notice_handler(lambda notice: told.append(notice.message_primary))
    db.execute(
        "INSERT INTO ml_job (kind, total, done, started_at, updated_at) VALUES ('scan', 50, 19,"
        " clock_timestamp() - interval '30 seconds', clock_timestamp() - interval '2 seconds')"
    )
    count = "SELECT (_ml_count_job(j, 'failed')).failed FROM ml_job j"
    assert one(count) == 1
    assert told == ["ml_scan: 20 of 50, 1 failed, 0 left to others, 0.7/s, about 00:00:45 left"]
    assert one("SELECT failed FROM ml_job") == 1
    assert one(count) == 2
    assert one("SELECT failed FROM ml_job") == 1
    assert len(told) == 1


def test_a_call_within_a_transaction_is_refused_before_any_work(db, one, trained):
    with pytest.raises(psycopg.errors.ActiveSqlTransaction), db.transaction():
        db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_scan_state") == 0


@pytest.mark.slow
def test_two_at_once_share_the_devices(db, dsn, one, add_device):
    for _ in range(20):
        put_model(db, add_device(readings=200), newest("forest"))

    def scan():
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CALL ml_scan()")

    sessions = [threading.Thread(target=scan) for _ in range(3)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    # A session that began after a device was done looks again and finds nothing new.
    assert one("SELECT count(*) FROM ml_scan_state WHERE outcome <> 'failed'") == 20
    assert one("SELECT max(done) FROM ml_job") < 20
    assert one("SELECT sum(failed) FROM ml_job") == 0


def test_sessions_that_meet_a_device_at_once_all_go_on(dsn, one):
    """Scans and trainings may start in the same second; both unique columns of ml_device decide."""
    together = threading.Barrier(3)
    devices = [str(uuid.UUID(int=number)) for number in range(1, 201)]
    refused = []

    def meet():
        with psycopg.connect(dsn, autocommit=True) as conn:
            for device in devices:
                together.wait()
                try:
                    conn.execute("SELECT _ml_put_devices(ARRAY[%s], ARRAY['pump'])", [device])
                except psycopg.Error as error:
                    refused.append(str(error))

    sessions = [threading.Thread(target=meet) for _ in range(3)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert refused == []
    assert one("SELECT count(*) FROM ml_device WHERE device_name = 'pump'") == len(devices)


@pytest.mark.slow
def test_a_cancel_stops_the_procedure(db, one, add_device):
    for _ in range(20):
        put_model(db, add_device(readings=200), newest("forest"))
    db.execute("SET statement_timeout = '60ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.execute("CALL ml_scan()")
    db.execute("RESET statement_timeout")
    assert one("SELECT count(*) FROM ml_scan_state WHERE outcome = 'failed'") == 0
    assert one("SELECT count(*) FROM ml_scan_state") < 20
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_scan_state") == 20


def test_neighbours_are_one_finding(db, one, trained):
    """A pause of more than ten minutes ends a run of anomalies, however scans cut it."""
    db.execute(SPIKE, [trained, 100, 3])
    db.execute(SPIKE, [trained, 20, 3])
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 21)])
    db.execute("CALL ml_scan()")
    moments = [moment for (moment,) in db.execute('SELECT "timestamp" FROM ml_anomaly ORDER BY 1')]
    runs = [[moments[0]]]
    for moment in moments[1:]:
        if (moment - runs[-1][-1]).total_seconds() > 600:
            runs.append([])
        runs[-1].append(moment)
    found = db.execute(
        "SELECT started_at, last_at, (evidence -> 'readings')::int FROM ml_finding"
        " WHERE detector = 'forest' AND brief ORDER BY 1"
    ).fetchall()
    assert found == [(run[0], run[-1], len(run)) for run in runs]
    assert len(found) >= 2


def test_retention(db, one, trained):
    db.execute(SPIKE, [trained, 5, 3])
    db.execute("CALL ml_scan()")
    db.execute(
        "INSERT INTO ml_anomaly SELECT device_uuid, now() - interval '91 days', tier, score,"
        " severity, metrics, reasons, model_id FROM ml_anomaly LIMIT 1"
    )
    kept = one("SELECT count(*) FROM ml_anomaly") - 1
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_anomaly") == kept


@pytest.mark.slow
def test_forecasts_are_stored_and_what_falls_outside_is_an_anomaly(db, one, trained, train):
    db.execute("UPDATE ml_setting SET value = '3' WHERE name = 'epochs'")
    train(trained, "system.cpuUsage")
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 8)])
    points = one("SELECT count(*) FROM ml_forecast_point")
    assert points == 12
    assert one("SELECT min(\"timestamp\") > now() - interval '8 minutes' FROM ml_forecast_point")
    db.execute(SPIKE, [trained, 2, 1])
    db.execute("CALL ml_scan()")
    value, low, high, severity, score, rarity, kind, sentence = db.execute(
        "SELECT (metrics ->> 'system.cpuUsage')::float8, (reasons -> 0 ->> 'usual_low')::float8,"
        " (reasons -> 0 ->> 'usual_high')::float8, severity, score, rarity,"
        " reasons -> 0 ->> 'kind', reasons -> 0 ->> 'sentence'"
        " FROM ml_anomaly WHERE tier = 'lstm' ORDER BY score LIMIT 1"
    ).fetchone()
    assert value == 99 > high > low
    assert kind == "forecast"
    assert sentence.startswith("system.cpuUsage is 99 %; the forecast was ")
    assert severity == "critical"
    assert score < -2
    # As the training's held-out values have it, of which there are a fifth of fifty hours.
    hours = one("SELECT (figures -> 'ordinary_hours')::float8 FROM ml_model WHERE kind = 'lstm'")
    assert hours == pytest.approx(10, abs=1)
    assert hours < rarity <= 20 * hours + 1
    # What was forecast before the values came stands; beyond the last one all is new.
    assert one("SELECT count(*) FROM ml_forecast_point") in (19, 20, 21)
    made = one("SELECT count(DISTINCT made_at) FROM ml_forecast_point")
    assert made == 2


@pytest.mark.slow
def test_a_device_that_reports_more_often_than_it_was_trained_keeps_its_forecast(
    db, one, device, train
):
    """At most one step of a forecast is not later than the newest row."""
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    train(device, "system.cpuUsage")
    db.execute(
        'UPDATE device_shadow_history SET "timestamp" = "timestamp" - interval \'5 minutes\''
    )
    for _ in range(3):
        db.execute(
            'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
            " SELECT device_uuid, reported_state, \"timestamp\" + i * interval '5 s' FROM ("
            " SELECT * FROM device_shadow_history WHERE device_uuid = %s"
            ' ORDER BY "timestamp" DESC LIMIT 1) newest, generate_series(1, 18) i',
            [device],
        )
        db.execute("CALL ml_scan()")
        ahead = one(
            "SELECT count(*) FROM ml_forecast_point p JOIN ml_scan_state s USING (device_uuid)"
            ' WHERE p."timestamp" > s.last_reading'
        )
        assert ahead in (11, 12)


# Counts the statements of this session that read states of the history.
COUNT_READS = """
CREATE FUNCTION pg_temp.count_reads() RETURNS void LANGUAGE plpython3u AS $$
    from pyml.server import backend
    GD['reads'], send = [], backend.execute
    def counted(query, *args):
        if 'reported_state' in query.text:
            GD['reads'].append(query.text)
        return send(query, *args)
    backend.execute = counted
$$;
CREATE FUNCTION pg_temp.reads() RETURNS int LANGUAGE plpython3u AS $$
    found, GD['reads'][:] = len(GD['reads']), []
    return found
$$
"""


@pytest.mark.slow
def test_a_scan_reads_a_devices_rows_once(db, one, trained, train):
    """For its forest and the finders, and for each of its forecasts."""
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    for field in ("system.cpuUsage", "temperature"):
        train(trained, field)
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 30)])
    db.execute(COUNT_READS)
    db.execute("SELECT pg_temp.count_reads()")
    db.execute("CALL ml_scan()")
    assert state(db, trained)[0] == "scanned"
    assert one("SELECT count(DISTINCT field) FROM ml_forecast_point") == 2
    assert one("SELECT pg_temp.reads()") == 1
    db.execute("CALL ml_scan()")  # nothing new: no state is read
    assert one("SELECT pg_temp.reads()") == 0
    assert one("SELECT ml_detect(%s) IS NOT NULL", trained)
    assert one("SELECT pg_temp.reads()") == 1
