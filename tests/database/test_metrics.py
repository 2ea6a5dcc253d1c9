"""What people know of a metric beside where it stands: its unit, its limits."""

import pytest

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


def test_a_forecast_that_falls_to_its_limit_is_a_breach(db, metered, battery):
    low, full = battery(20.8), battery(81)
    for device in (low, full):
        db.execute("SELECT ml_train_lstm(%s, 'battery')", [device])
    db.execute("UPDATE ml_metric SET limit_low = 20 WHERE name = 'battery'")
    db.execute("CALL ml_scan()")
    rows = db.execute(
        "SELECT device_uuid::text, field, limit_value, worst_predicted < 20, unit FROM ml_breaches"
    ).fetchall()
    assert rows == [(low, "battery", 20, True, "%")]


def test_a_limit_holds_for_the_plain_value_alone(db, one):
    """A path's forecast has no limit of a metric that is a share, a multiple or a rate of it."""
    db.execute(
        "INSERT INTO ml_metric (name, path, divisor_path, scale, kind, limit_high) VALUES"
        " ('share', 'a', 'b', 1, 'gauge', 1), ('many', 'a', NULL, 2, 'gauge', 2),"
        " ('rate', 'a', NULL, 1, 'counter', 3)"
    )
    limit = "SELECT (SELECT limit_high FROM _ml_metric_of(%s))"
    assert [one(limit, field) for field in ("a", "share", "many", "rate")] == [None, 1, 2, 3]
    db.execute("INSERT INTO ml_metric (name, path, limit_high) VALUES ('plain', 'a', 4)")
    assert one(limit, "a") == 4


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
    """A device that reports two metrics of the people's own; the second by name comes last."""
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


@pytest.mark.parametrize("argument", ["", ", field => NULL"])
def test_without_a_field_the_doors_take_what_the_device_reports(db, one, refused, gate, argument):
    assert "pressure, last 24 h" in one(f"SELECT ml_chart(%s{argument})", gate)
    said = refused(f"SELECT ml_forecast(%s{argument})", gate, sqlstate="ML002")
    assert said.message_hint == f"SELECT ml_train_lstm('{gate}', 'pressure');"
    assert one(f"SELECT ml_train_lstm(%s{argument})", gate)["field"] == "pressure"
    assert one(f"SELECT ml_forecast(%s{argument})", gate)["field"] == "pressure"


def test_without_a_field_a_forecast_is_of_what_has_a_model(db, one, gate):
    for field in ("volts", "voltage"):
        db.execute("SELECT ml_train_lstm(%s, %s)", [gate, field])
        assert one("SELECT ml_forecast(%s)", gate)["field"] == field


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
def test_where_nothing_is_reported_the_doors_say_what_they_looked_for(
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
