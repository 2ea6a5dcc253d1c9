"""What a row of ml_metric says beside the path: unit, limits, direction."""

import pytest

from pyml.workers import job

from .test_models import ANOMALY

# Eight days of a level that falls to `last` by half a percent an hour, in the last four hours by 3.
BATTERY = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, jsonb_build_object('battery', jsonb_build_object('level', round(least(100,
        %(last)s + (0.5 * (2304 - i) + 2.5 * least(2304 - i, 48)) / 12.0
        + 0.2 * (noise(i, 12.9898) + noise(i, 78.233) + noise(i, 39.425)))::numeric, 2))),
    date_trunc('second', now() AT TIME ZONE 'UTC') - (2304 - i) * interval '5 minutes'
FROM generate_series(1, 2304) AS i
"""
NOISE = """
CREATE FUNCTION noise(i int, salt float8) RETURNS float8 LANGUAGE sql AS $$
    SELECT sin(i * salt) * 43758.5453 - floor(sin(i * salt) * 43758.5453) - 0.5
$$
"""


@pytest.fixture
def battery(db, add_device):
    """Make a device that reports nothing but its battery; gives its uuid."""

    db.execute(NOISE)

    def add(last: float):
        device = add_device(readings=0)
        db.execute(BATTERY, {"device": device, "last": last})
        return device

    return add


@pytest.fixture
def metered(db):
    """The metric of a battery."""
    db.execute(
        "INSERT INTO ml_metric (name, path, unit, lower_bound, upper_bound)"
        " VALUES ('battery', 'battery.level', '%', 0, 100)"
    )


@pytest.mark.slow
def test_a_forecast_that_falls_to_its_limit_is_a_breach(db, metered, battery, train):
    low, full = battery(20.8), battery(81)
    for device in (low, full):
        train(device, "battery")
    db.execute("UPDATE ml_metric SET limit_low = 20 WHERE name = 'battery'")
    db.execute("CALL ml_scan()")
    rows = db.execute(
        "SELECT device_uuid::text, field, limit_value, worst_predicted < 20, unit FROM ml_breaches"
    ).fetchall()
    assert rows == [(low, "battery", 20, True, "%")]


@pytest.mark.rolled_back
def test_a_limit_holds_for_the_plain_value_alone(db, one):
    """A limit of a share, a multiple or a rate of a path does not hold for the path itself."""
    db.execute(
        "INSERT INTO ml_metric (name, path, divisor_path, scale, kind, limit_high) VALUES"
        " ('share', 'a', 'b', 1, 'gauge', 1), ('many', 'a', NULL, 2, 'gauge', 2),"
        " ('rate', 'a', NULL, 1, 'counter', 3)"
    )
    limit = "SELECT (SELECT limit_high FROM _ml_metric_of(%s))"
    assert [one(limit, field) for field in ("a", "share", "many", "rate")] == [None, 1, 2, 3]
    db.execute("INSERT INTO ml_metric (name, path, limit_high) VALUES ('plain', 'a', 4)")
    assert one(limit, "a") == 4


@pytest.mark.rolled_back
def test_a_forecast_may_reach_a_limit_on_either_side(db, device):
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome)"
        " VALUES (%s, now(), 'scanned')",
        [device],
    )
    db.execute("UPDATE ml_metric SET limit_low = 10, limit_high = 30 WHERE name = 'temperature'")
    db.execute(
        "SELECT _ml_put_forecast(%s, 'lstm', 'temperature', 0.9, 1, 0, '{60,120,180,240}',"
        " '{30,10,9.5,20}', '{0,0,0,0}', '{50,50,50,50}')",
        [device],
    )
    found = db.execute("SELECT breach FROM ml_forecast_point ORDER BY timestamp").fetchall()
    assert found == [(30,), (10,), (10,), (None,)]
    db.execute("UPDATE ml_scan_state SET last_reading = to_timestamp(0)")
    rows = db.execute(
        "SELECT limit_value, worst_predicted, unit FROM ml_breaches ORDER BY limit_value"
    ).fetchall()
    assert rows == [(10, 9.5, "°C"), (30, 30, "°C")]


@pytest.mark.rolled_back
def test_metrics_that_come_with_the_extension_have_units_and_limits(db):
    rows = db.execute(
        "SELECT unit, limit_low, limit_high, direction, least_deviation FROM ml_metric"
        ' ORDER BY name COLLATE "C"'
    ).fetchall()
    assert rows == [
        ("%", None, 80, "both", None),
        ("%", None, 90, "both", None),
        ("%", None, 90, "both", None),
        ("B/s", None, None, "both", None),
        ("B/s", None, None, "both", None),
        ("°C", None, None, "both", None),
    ]


# ---- where no field is named -----------------------------------------------------

# Messages of a device that says nothing of a computer.
GATE = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, jsonb_build_object('bars', 3 + 2 * sin(i / 40.0) + sin(i * 12.9898) / 5,
        'volts', 12 + sin(i / 90.0) + sin(i * 78.233) / 9, 'open', i %% 2 = 0),
    now() AT TIME ZONE 'UTC' - (1500 - i) * interval '1 minute'
FROM generate_series(1, 1500) AS i
"""


@pytest.fixture
def gate(db, add_device):
    """A device that reports two of four metrics that people have added, the last two by name."""
    device = add_device(readings=0)
    db.execute(GATE, {"device": device})
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    db.execute(
        "INSERT INTO ml_metric (name, path, enabled, unit) VALUES"
        " ('absent', 'nowhere', true, NULL), ('always', 'open', true, NULL),"
        " ('bars', 'bars', false, NULL), ('pressure', 'bars', true, 'bar'),"
        " ('voltage', 'volts', true, 'V')"
    )
    return device


@pytest.mark.slow
@pytest.mark.parametrize("argument", [pytest.param("", marks=pytest.mark.long), ", field => NULL"])
def test_without_a_field_the_functions_take_what_the_device_reports(
    db, one, refused, gate, argument
):
    assert "pressure, last 24 h" in one(f"SELECT ml_chart(%s{argument})", gate)
    said = refused(f"SELECT ml_forecast(%s{argument})", gate, sqlstate="ML002")
    assert said.message_hint == f"SELECT public.ml_train_lstm('{gate}', 'pressure');"
    assert one(f"SELECT ml_train_lstm(%s{argument})", gate)["field"] == "pressure"
    assert one(f"SELECT ml_forecast(%s{argument})", gate)["field"] == "pressure"


@pytest.mark.slow
def test_without_a_field_a_forecast_is_of_what_has_a_model(db, one, gate, train):
    for field in ("volts", "voltage"):
        train(gate, field)
        assert one("SELECT ml_forecast(%s)", gate)["field"] == field


@pytest.mark.slow
def test_without_a_field_the_usual_one_comes_first(db, one, device):
    """Though another metric comes first by name; also where its model goes by its metric's name."""
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('a', 'system.temperature')")
    assert "system.cpuUsage, last 24 h" in one("SELECT ml_chart(%s)", device)
    for field in ("a", "cpu_usage"):
        db.execute("SELECT ml_train_lstm(%s, %s)", [device, field])
        assert one("SELECT ml_forecast(%s)", device)["field"] == field
    assert one("SELECT ml_train_lstm(%s)", device)["field"] == "system.cpuUsage"
    assert one("SELECT ml_forecast(%s)", device)["field"] == "system.cpuUsage"


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [("ml_train_lstm(%s)", "ML003"), ("ml_chart(%s)", "ML003"), ("ml_forecast(%s)", "ML002")],
)
def test_where_nothing_is_reported_the_functions_say_what_they_looked_for(
    db, refused, gate, call, sqlstate
):
    db.execute("DELETE FROM ml_metric WHERE name IN ('pressure', 'voltage')")
    said = refused(f"SELECT {call}", gate, sqlstate=sqlstate)
    for name in ("system.cpuUsage", "absent (nowhere)", "always (open)"):
        assert name in said.message_detail
    db.execute(said.message_hint)


def test_a_share_of_nothing_is_not_reported(db, one, gate):
    db.execute("UPDATE ml_metric SET divisor_path = 'nowhere' WHERE name = 'pressure'")
    assert "voltage, last 24 h" in one("SELECT ml_chart(%s)", gate)


# ---- units -----------------------------------------------------------------------


@pytest.mark.slow
def test_documents_tell_the_units_of_what_they_show(db, one, device, train):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    train(device)
    db.execute("UPDATE ml_metric SET unit = NULL WHERE name = 'disk_usage_percent'")
    assert one("SELECT ml_detect(%s)", device)["units"] == {
        "cpu_usage": "%",
        "memory_usage_percent": "%",
        "network_receive_rate": "B/s",
        "network_transmit_rate": "B/s",
        "temperature": "°C",
    }
    for field, unit in (("system.cpuUsage", "%"), ("temperature", "°C"), ("health.uptime", None)):
        train(device, field)
        assert one("SELECT ml_forecast(%s, %s)", device, field)["unit"] == unit


# ---- what a device does not report -----------------------------------------------


@pytest.mark.slow
def test_a_field_of_the_setting_that_a_device_does_not_report_is_no_failure(db, dsn, one, gate):
    db.execute("""UPDATE ml_setting SET value = '["system.cpuUsage", "volts"]'
        WHERE name = 'forecast_fields'""")
    runs = "SELECT field, outcome, sqlstate FROM ml_runs WHERE kind = 'lstm' ORDER BY field, run_id"
    db.execute("CALL ml_retrain()")
    first = [("system.cpuUsage", "absent", "ML003"), ("volts", "trained", None)]
    assert db.execute(runs).fetchall() == first
    assert one("SELECT (failed, done) FROM ml_jobs") == ("0", "3")
    found = "SELECT ok, detail FROM ml_doctor() WHERE check_name = 'trainings'"
    told = "none failed within a day; 1 devices do not report a field of forecast_fields"
    assert db.execute(found).fetchall() == [(True, told)]
    assert one("SELECT failed_trainings_24h FROM ml_fleet_health") == 0
    assert one("SELECT trainings_24h FROM ml_fleet_health") == 2

    db.execute("CALL ml_retrain()")
    assert db.execute(runs).fetchall() == first
    # Once in retrain_hours it is looked for, on a worker too.
    db.execute("UPDATE ml_run SET started_at = started_at - interval '25 hours'")
    assert job.retrain_one(dsn, None, gate, "lstm", "system.cpuUsage")[1] == "absent"
    # Whoever asks for it is told.
    db.execute("INSERT INTO ml_device_forecast VALUES (%s, '{system.cpuUsage}')", [gate])
    db.execute("CALL ml_retrain()")
    assert db.execute(runs).fetchall()[2] == ("system.cpuUsage", "failed", "ML003")
    assert one("SELECT ok FROM ml_doctor() WHERE check_name = 'trainings'") is False


@pytest.mark.slow
def test_a_field_that_vanishes_is_told(db, one, gate):
    db.execute("""UPDATE ml_setting SET value = '["volts"]' WHERE name = 'forecast_fields'""")
    db.execute("CALL ml_retrain()")
    db.execute("UPDATE device_shadow_history SET reported_state = reported_state - 'volts'")
    db.execute("UPDATE ml_setting SET value = '3' WHERE name = 'epochs'")
    db.execute("CALL ml_retrain()")
    assert one("SELECT array_agg(outcome ORDER BY run_id) FROM ml_runs WHERE kind = 'lstm'") == [
        "trained",
        "failed",
    ]


MANY = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, (SELECT jsonb_object_agg('m' || j, round((20 + j + 3 * sin(i / 30.0 + j)
        + sin(i * j * 12.9898))::numeric, 2)) FROM generate_series(1, %(metrics)s) AS j),
    date_trunc('second', now() AT TIME ZONE 'UTC') - (300 - i) * interval '1 minute'
FROM generate_series(1, 300) AS i
"""


@pytest.mark.slow
def test_many_metrics_serve_devices_that_report_few_of_them(db, one, add_device):
    db.execute("UPDATE ml_metric SET enabled = false")
    db.execute(
        "INSERT INTO ml_metric (name, path) SELECT 'metric_' || lpad(j::text, 3, '0'), 'm' || j"
        " FROM generate_series(1, 200) AS j"
    )
    db.execute("UPDATE ml_setting SET value = '10' WHERE name = 'n_estimators'")
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    all_of_them, few = add_device(readings=0), add_device(readings=0)
    db.execute(MANY, {"device": all_of_them, "metrics": 200})
    db.execute(MANY, {"device": few, "metrics": 3})
    db.execute("CALL ml_retrain()")
    db.execute(
        "UPDATE device_shadow_history SET reported_state = reported_state || '{\"m2\": 500}'"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '3 minutes'"
    )
    db.execute("CALL ml_scan()")
    assert one("SELECT array_agg(DISTINCT scan_outcome) FROM ml_device_status") == ["scanned"]
    names = [f"metric_{j:03}" for j in range(1, 201)]
    for device, expected in ((all_of_them, names), (few, names[:3])):
        found = one("SELECT ml_detect(%s)", device)
        assert found["model_info"]["features"] == expected
        assert "metric_002" in {reason["metric"] for reason in found["anomalies"][0]["reasons"]}
        assert set(found["anomalies"][0]) - ANOMALY == set(expected)
        measured = one("SELECT metrics FROM ml_signal_state WHERE device_uuid = %s", device)
        assert measured == expected
    assert one("SELECT bool_and(ok) FROM ml_doctor() WHERE check_name = 'metrics'")
    # What it does not report leaves no trace in a device's model.
    db.execute("SELECT ml_train_forest(%s)", [few])
    db.execute("UPDATE ml_metric SET enabled = name = ANY (%s)", [names[:3]])
    db.execute("SELECT ml_train_forest(%s)", [few])
    last = (
        "SELECT sha256 FROM ml_model WHERE device_uuid = %s AND kind = 'forest'"
        " ORDER BY model_id DESC LIMIT 2"
    )
    assert len(set(db.execute(last, [few]).fetchall())) == 1
