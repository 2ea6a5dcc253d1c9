"""ml_train_lstm, ml_forecast and ml_predict, as a user calls them."""

import threading
import time

import psycopg
import pytest

from .trust.test_blobs import cpu_seconds


@pytest.fixture
def trained(db, device, train):
    db.execute("SET client_min_messages = warning")
    db.execute("UPDATE ml_setting SET value = '10' WHERE name = 'epochs'")
    train(device, "system.cpuUsage")
    db.execute("UPDATE ml_setting SET value = default_value WHERE name = 'epochs'")
    return device


@pytest.mark.slow
def test_a_training_tells_its_skill_beside_the_naive_forecasts(db, one, device):
    told = one("SELECT ml_train_lstm(%s)", device)
    assert told["field"] == "system.cpuUsage"
    assert (told["sequence_length"], told["forecast_horizon"]) == (50, 12)
    assert told["training_samples"] == 3000
    held = told["held_out"]
    assert 0 < held["mae"] < 20
    assert held["naive_mae"] > 0
    assert set(held["coverage"]) == {"0.8", "0.9", "0.95"}
    assert isinstance(held["beats_naive"], bool)
    assert told["model_id"] == one("SELECT model_id FROM ml_models WHERE kind = 'lstm'")


@pytest.mark.slow
def test_a_forecast_continues_the_devices_own_grid(db, one, add_device, train):
    slow = add_device(readings=700, interval=300)
    train(slow, "system.cpuUsage")
    found = one("SELECT ml_forecast(%s)", slow)
    assert len(found["predictions"]) == 12
    steps = db.execute(
        'SELECT "timestamp" - lag("timestamp") OVER (ORDER BY "timestamp")'
        " FROM ml_predict(%s, 'system.cpuUsage') OFFSET 1",
        [slow],
    ).fetchall()
    assert {step.total_seconds() for (step,) in steps} == {300.0}
    last = one(
        "SELECT date_part('epoch', max(\"timestamp\")) FROM device_shadow_history"
        " WHERE device_uuid = %s",
        slow,
    )
    first = one(
        "SELECT date_part('epoch', min(\"timestamp\")) FROM ml_predict(%s, 'system.cpuUsage')", slow
    )
    assert first == last + 300
    for step in found["predictions"]:
        assert step["confidence_lower"] <= step["predicted_value"] <= step["confidence_upper"]
    assert found["model_info"]["coverage"].keys() == {"0.8", "0.9", "0.95"}


@pytest.mark.slow
def test_a_wider_level_gives_a_wider_interval(db, trained):
    widths = [
        db.execute(
            "SELECT sum(confidence_upper - confidence_lower)"
            " FROM ml_predict(%s, 'system.cpuUsage', level => %s)",
            [trained, level],
        ).fetchone()[0]
        for level in (0.5, 0.8, 0.95)
    ]
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.slow
def test_a_metrics_name_is_a_field(db, one, device):
    db.execute("SELECT ml_train_lstm(%s, 'memory_usage_percent')", [device])
    rows = db.execute("SELECT * FROM ml_predict(%s, 'memory_usage_percent')", [device]).fetchall()
    for _, predicted, lower, upper in rows:
        assert 0 <= lower <= predicted <= upper <= 100
        assert 30 < predicted < 60


@pytest.mark.slow
def test_the_bounds_of_a_counter_are_those_of_its_rate(db, one, device, train):
    """Traffic comes in bursts, with 0 between them: an interval would reach below 0."""
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    db.execute(
        "UPDATE device_shadow_history h SET reported_state = jsonb_set(reported_state,"
        " '{system,network,rxBytes}', to_jsonb(s.total)) FROM (SELECT id, sum(CASE WHEN id % 7 < 2"
        ' THEN 60000 ELSE 0 END) OVER (ORDER BY "timestamp") AS total'
        " FROM device_shadow_history) AS s WHERE s.id = h.id"
    )
    train(device, "network_receive_rate")
    lows = "SELECT min({}) FROM ml_predict(%s, 'network_receive_rate', level => 0.99)"
    assert one(lows.format("confidence_lower"), device) >= 0
    assert one(lows.format("predicted_value"), device) >= 0
    db.execute("DELETE FROM ml_model")
    db.execute("UPDATE ml_metric SET lower_bound = NULL WHERE name = 'network_receive_rate'")
    train(device, "network_receive_rate")
    assert one(lows.format("confidence_lower"), device) < 0


@pytest.mark.slow
@pytest.mark.rolled_back
@pytest.mark.parametrize("field", ["system.cpuUsag", "health.status"])
def test_a_training_is_not_advised_where_it_would_fail(db, refused, device, field):
    said = refused("SELECT ml_forecast(%s, %s)", device, field, sqlstate="ML002")
    assert "held no number" in said.message_detail
    assert "healthy" in db.execute(said.message_hint).fetchone()[1]
    said = refused("SELECT ml_forecast(%s, 'system.temperature')", device, sqlstate="ML002")
    assert "ml_train_lstm" in said.message_hint


@pytest.mark.slow
def test_as_of_sees_nothing_later(db, trained):
    past = (
        "SELECT * FROM ml_predict(%s, 'system.cpuUsage',"
        " as_of => date_trunc('hour', now()) - interval '5 hours')"
    )
    before = db.execute(past, [trained]).fetchall()
    db.execute(
        'DELETE FROM device_shadow_history WHERE "timestamp"'
        " > date_trunc('hour', now() AT TIME ZONE 'UTC') - interval '5 hours'"
    )
    assert db.execute(past, [trained]).fetchall() == before


@pytest.mark.slow
def test_a_stale_device_is_forecast_from_its_last_reading(db, one, trained):
    db.execute(
        "DELETE FROM device_shadow_history"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '20 hours'"
    )
    found = one("SELECT ml_forecast(%s)", trained)
    assert found["model_info"]["last_reading_age_seconds"] > 19 * 3600
    assert found["predictions"][0]["timestamp"] > found["model_info"]["last_reading"]


@pytest.mark.slow
def test_a_new_model_replaces_the_old_one_or_the_attempt_is_recorded(db, one, trained):
    kept = one("SELECT model_id FROM ml_models WHERE is_current")
    told = one("SELECT ml_train_lstm(%s)", trained)
    outcome = one("SELECT outcome FROM ml_run ORDER BY run_id DESC LIMIT 1")
    assert outcome == ("trained" if told["accepted"] else "kept")
    assert one("SELECT count(*) FROM ml_model WHERE is_current") == 1
    assert told["accepted"] == (told["model_id"] != kept)


@pytest.mark.slow
def test_a_backend_that_forecasts_loads_no_tensorflow(db, dsn, trained):
    db.execute(
        "CREATE FUNCTION loaded() RETURNS text[] LANGUAGE plpython3u AS"
        " $$ import sys; return sorted(m for m in sys.modules if '.' not in m) $$"
    )
    with psycopg.connect(dsn, autocommit=True) as fresh:
        fresh.execute("SELECT ml_forecast(%s)", [trained])
        modules = set(fresh.execute("SELECT loaded()").fetchone()[0])
    db.execute("DROP FUNCTION loaded()")
    assert {"numpy", "pyml"} <= modules
    others = {"sklearn", "scipy", "pandas", "tensorflow", "keras", "onnx", "onnxruntime", "google"}
    assert not modules & others


@pytest.mark.rolled_back
@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("SELECT ml_forecast(%s)", "ML002"),
        ("SELECT * FROM ml_predict(%s, 'system.cpuUsage')", "ML002"),
        ("SELECT ml_train_lstm(%s, 'system.nothing')", "ML003"),
        ("SELECT ml_train_lstm(%s, 'health.status')", "ML003"),
        ("SELECT ml_train_lstm(%s, 'system.network')", "ML003"),
        ("SELECT ml_train_lstm(%s, 'a.b''}, \"c\" --')", "ML003"),
        ("SELECT ml_train_lstm(%s, '')", "ML004"),
        ("SELECT ml_train_lstm(%s, hours => 0)", "ML004"),
        ("SELECT ml_train_lstm(%s, hours => 1)", "ML001"),
        ("SELECT ml_train_lstm(%s, 'system.memoryTotal')", "ML001"),
    ],
)
def test_a_mistake_is_told_with_its_code_and_the_next_statement(
    refused, device, statement, sqlstate
):
    said = refused(statement, device, sqlstate=sqlstate)
    assert device in said.message_hint or sqlstate == "ML004"


@pytest.mark.slow
def test_what_a_model_cannot_forecast_is_refused(refused, trained):
    for arguments in ("horizon => 13", "horizon => 0", "level => 1", "level => 'NaN'"):
        call = f"SELECT * FROM ml_predict(%s, 'system.cpuUsage', {arguments})"
        refused(call, trained, sqlstate="ML004")


@pytest.mark.rolled_back
def test_a_device_that_is_not_there_is_told_apart(refused):
    said = refused("SELECT ml_train_lstm(gen_random_uuid())", sqlstate="ML002")
    assert said.message_primary.startswith("there is no device ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "after", [2.5, *(pytest.param(one, marks=pytest.mark.long) for one in (0.1, 1.0, 6.0))]
)
def test_a_cancel_lands_within_a_second_and_the_session_goes_on(db, dsn, one, device, after):
    with psycopg.connect(dsn, autocommit=True) as training:
        pid = training.info.backend_pid
        told = []

        def cancel():
            time.sleep(after)
            told.append(cpu_seconds(pid))
            training.cancel()

        watch = threading.Thread(target=cancel)
        watch.start()
        try:
            training.execute("SELECT ml_train_lstm(%s)", [device])
            ended = None  # trained before the cancel came
        except psycopg.errors.QueryCanceled:
            ended = cpu_seconds(pid)
        watch.join()
        if ended is not None:
            assert ended - told[0] < 1  # of the processor: the machine may be shared
            assert one("SELECT count(*) FROM ml_model") == 0
        db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
        assert training.execute("SELECT ml_train_lstm(%s)", [device]).fetchone()[0]["model_id"]


@pytest.mark.slow
@pytest.mark.long
def test_a_long_training_shows_in_pg_stat_activity(db, dsn, device):
    seen = set()
    with psycopg.connect(dsn, autocommit=True) as training:
        pid = training.info.backend_pid
        before = db.execute(
            "SELECT application_name FROM pg_stat_activity WHERE pid = %s", [pid]
        ).fetchone()[0]
        work = threading.Thread(
            target=training.execute, args=("SELECT ml_train_lstm(%s)", [device])
        )
        work.start()
        while work.is_alive():
            seen.add(
                db.execute(
                    "SELECT application_name FROM pg_stat_activity WHERE pid = %s", [pid]
                ).fetchone()[0]
            )
            time.sleep(0.05)
        work.join()
        after = db.execute(
            "SELECT application_name FROM pg_stat_activity WHERE pid = %s", [pid]
        ).fetchone()[0]
    assert any(name.startswith("pyml: training lstm system.cpuUsage") for name in seen)
    assert after == before


# A week of minutes up to a moment, with ten minutes of work at six by the clock on a wall.
MORNINGS = """
INSERT INTO device_shadow_history (device_uuid, "timestamp", reported_state)
SELECT %(device)s, t AT TIME ZONE 'UTC', jsonb_build_object('system', jsonb_build_object('cpuUsage',
    16 + 3 * abs(sin(n * n * 0.37)) + CASE WHEN (t AT TIME ZONE 'Europe/Berlin')::time
        BETWEEN '06:00' AND '06:10' THEN 49 + 4 * sin(extract(day FROM t)) ELSE 0 END))
FROM generate_series(0, 7 * 1440 + 355) AS n,
    LATERAL (SELECT %(until)s::timestamptz - make_interval(mins => n)) AS u (t)
"""


@pytest.mark.slow
def test_a_job_of_each_morning_is_foreseen_after_a_week(db, add_device):
    """In the week in which clocks change: in UTC the job comes an hour later on the last days."""
    device, until = add_device(readings=0), "2026-10-27 05:55:20 Europe/Berlin"
    db.execute("UPDATE ml_setting SET value = 'Europe/Berlin' WHERE name = 'calendar_time_zone'")
    db.execute("UPDATE ml_setting SET value = '4' WHERE name = 'epochs'")
    db.execute(MORNINGS, {"device": device, "until": until})
    db.execute(
        "SELECT ml_train_lstm(%s, 'system.cpuUsage', hours => 174, as_of => %s)", [device, until]
    )
    said = db.execute(
        "SELECT predicted_value, confidence_lower, confidence_upper"
        " FROM ml_predict(%s, 'system.cpuUsage', as_of => %s)",
        [device, until],
    ).fetchall()
    before, job = said[:4], said[5:]
    assert all(upper < 40 for _, _, upper in before)
    for predicted, lower, upper in job:
        assert 55 < predicted < 80
        assert lower > 40
        assert lower < 66 < upper
    due = "SELECT reason FROM _ml_due(ARRAY[%s::uuid]) WHERE field = 'system.cpuUsage'"
    assert db.execute(due, [device]).fetchall() == []
    db.execute("UPDATE ml_setting SET value = 'UTC' WHERE name = 'calendar_time_zone'")
    assert db.execute(due, [device]).fetchall() == [("changed",)]


def test_a_zone_that_no_calendar_has(db, refused):
    change = "UPDATE ml_setting SET value = %s WHERE name = 'calendar_time_zone'"
    why = refused(change, "EST5EDT4", sqlstate="ML004")
    assert "time zone" in why.message_detail
    db.execute(change, ["europe/berlin"])
    found = db.execute("SELECT value FROM ml_setting WHERE name = 'calendar_time_zone'").fetchone()
    assert found == ("Europe/Berlin",)
