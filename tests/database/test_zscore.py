"""ml_zscore: the tier that needs no model."""

import math

import pytest

PUT = """
UPDATE device_shadow_history SET reported_state = %s::jsonb
WHERE id IN (SELECT id FROM device_shadow_history WHERE device_uuid = %s
             ORDER BY "timestamp" DESC OFFSET %s LIMIT 1)
"""


@pytest.mark.rolled_back
def test_it_is_the_population_standard_deviation(db, device):
    found = db.execute("SELECT value, z_score FROM ml_zscore(%s, 'system.cpuUsage', 6)", [device])
    pairs = found.fetchall()
    assert len(pairs) in (359, 360)
    mean = sum(value for value, _ in pairs) / len(pairs)
    spread = math.sqrt(sum((value - mean) ** 2 for value, _ in pairs) / len(pairs))
    for value, z in pairs:
        assert z == pytest.approx((value - mean) / spread, abs=1e-9)


@pytest.mark.rolled_back
def test_a_spike_is_critical_and_the_threshold_moves_the_rest(db, one, device):
    db.execute(PUT, ['{"system": {"cpuUsage": 99, "memoryTotal": 16320}}', device, 5])
    severities = db.execute(
        "SELECT value, severity FROM ml_zscore(%s, 'system.cpuUsage') WHERE is_anomaly", [device]
    ).fetchall()
    assert (99, "critical") in severities
    count = "SELECT count(*) FROM ml_zscore(%s, 'system.cpuUsage', 168, %s) WHERE is_anomaly"
    assert one(count, device, 1.0) > one(count, device, 2.5)


@pytest.mark.rolled_back
def test_a_constant_has_no_anomalies(db, one, device):
    db.execute("UPDATE device_shadow_history SET reported_state = '{\"load\": 0.1}'")
    n, worst, flagged = db.execute(
        "SELECT count(*), max(abs(z_score)), bool_or(is_anomaly) FROM ml_zscore(%s, 'load')",
        [device],
    ).fetchone()
    assert (n, worst, flagged) == (3000, 0, False)


@pytest.mark.rolled_back
def test_nine_values_are_not_judged_and_ten_are(one, add_device):
    judged = "SELECT count(z_score) FROM ml_zscore(%s, 'system.cpuUsage')"
    assert one(judged, add_device(readings=9)) == 0
    assert one(judged, add_device(readings=10)) == 10


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "cpu", ['"99"', "1e308", "1e400", "-1e400", "null", "true", "[99]", "{}", "[]", '{"a": 1}']
)
def test_what_no_sensor_measured_is_missing(db, one, device, cpu):
    state = f'{{"system": {{"cpuUsage": {cpu}, "memoryTotal": 16320}}}}'
    db.execute(PUT, [state, device, 3])
    assert one("SELECT count(*) FROM ml_zscore(%s, 'system.cpuUsage')", device) == 2999


@pytest.mark.rolled_back
def test_where_every_reading_is_out_of_range_there_is_none(db, one, device):
    """The only possible value comes in a message that is too near to another for a reading."""
    possible, not_so = (f'{{"system": {{"cpuUsage": {cpu}}}}}' for cpu in (50, 150))
    db.execute("UPDATE device_shadow_history SET reported_state = %s", [not_so])
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT device_uuid, %s::jsonb, \"timestamp\" + interval '5 s'"
        ' FROM device_shadow_history ORDER BY "timestamp" DESC OFFSET 9 LIMIT 1',
        [possible],
    )
    assert one("SELECT count(*) FROM ml_zscore(%s, 'cpu_usage')", device) == 0


@pytest.mark.rolled_back
def test_a_tiny_number_is_zero(db, one, device):
    db.execute(PUT, ['{"system": {"cpuUsage": 1e-400, "memoryTotal": 16320}}', device, 3])
    assert one("SELECT min(value) FROM ml_zscore(%s, 'system.cpuUsage')", device) == 0


@pytest.mark.rolled_back
def test_a_failed_collection_is_missing(db, one, device):
    state = '{"system": {"cpuUsage": 0, "memoryUsage": 0, "memoryTotal": 0}}'
    db.execute(PUT, [state, device, 3])
    assert one("SELECT count(*) FROM ml_zscore(%s, 'system.cpuUsage')", device) == 2999
    assert one("SELECT min(value) > 1 FROM ml_zscore(%s, 'system.cpuUsage')", device)


@pytest.mark.rolled_back
def test_metrics_go_by_name(one, device):
    share = one("SELECT max(value) FROM ml_zscore(%s, 'memory_usage_percent')", device)
    assert 40 < share < 60
    rate = one("SELECT avg(value) FROM ml_zscore(%s, 'network_receive_rate')", device)
    assert rate == pytest.approx(1000, rel=0.01)


def test_the_session_zone_moves_nothing(db, one, device):
    counts = set()
    for zone in ("UTC", "Asia/Kolkata", "America/St_Johns"):
        db.execute("SELECT set_config('timezone', %s, false)", [zone])
        counts.add(
            one("SELECT min(\"timestamp\") FROM ml_zscore(%s, 'system.cpuUsage', 6)", device)
        )
        assert one("SELECT max(\"timestamp\") <= now() FROM ml_zscore(%s, 'health.uptime')", device)
    assert max(counts).timestamp() - min(counts).timestamp() < 61


@pytest.mark.rolled_back
def test_bad_arguments_are_refused(refused, device):
    refused("SELECT ml_zscore(%s, 'system.cpuUsage', 0)", device, sqlstate="ML004")
    refused("SELECT ml_zscore(%s, NULL)", device, sqlstate="ML004")
    refused("SELECT ml_zscore(%s, 'x', threshold => 'NaN')", device, sqlstate="ML004")


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "field", ["a'b", 'x"; DROP TABLE ml_model; --', "{a,b}", "ü.%s", "a" * 10_000]
)
def test_a_hostile_field_is_only_a_path(refused, device, field):
    said = refused("SELECT ml_zscore(%s, %s)", device, field, sqlstate="ML003")
    assert field in said.message_primary


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("system.cpuUsag", "missing in 3000 rows"),
        ("health.status", "string in 3000 rows"),
        ("system.network", "object in 3000 rows"),
    ],
)
def test_a_field_without_a_number_is_told(db, refused, device, field, found):
    said = refused("SELECT ml_zscore(%s, %s)", device, field, sqlstate="ML003")
    assert said.message_detail == f"Found: {found}."
    assert "healthy" in db.execute(said.message_hint).fetchone()[1]


@pytest.mark.rolled_back
def test_a_window_without_readings_is_told(db, refused, device):
    db.execute('UPDATE device_shadow_history SET "timestamp" = "timestamp" - interval \'9 days\'')
    said = refused("SELECT ml_zscore(%s, 'system.cpuUsage')", device, sqlstate="ML001")
    assert "no readings in the window" in said.message_primary
    assert "healthy" in db.execute(said.message_hint).fetchone()[1]


@pytest.mark.rolled_back
def test_a_metric_that_is_not_enabled_goes_by_name_too(db, one, device):
    """A total of 0 beside a value of 0 is a failed collection, whichever metric has the total."""
    db.execute("UPDATE ml_metric SET enabled = false")
    assert 40 < one("SELECT max(value) FROM ml_zscore(%s, 'memory_usage_percent')", device) < 60
    state = '{"system": {"cpuUsage": 0, "memoryUsage": 0, "memoryTotal": 0}}'
    db.execute(PUT, [state, device, 3])
    assert one("SELECT min(value) > 1 FROM ml_zscore(%s, 'system.cpuUsage')", device)


@pytest.mark.rolled_back
def test_a_total_that_is_always_0_takes_no_value_away(db, one, device):
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state,"
        " '{system,diskTotal}', '0')"
    )
    assert one("SELECT count(*) FROM ml_zscore(%s, 'system.cpuUsage')", device) == 3000


@pytest.mark.slow
def test_a_table_without_statistics_is_read_once(db, one, add_device):
    """As after a first load; a pass over all rows for each row took half a minute."""
    with db.transaction(force_rollback=True):
        db.execute("TRUNCATE device_shadow_history")
        device = add_device(readings=10_000, interval=10)
        db.execute("SET LOCAL statement_timeout = '10s'")
        assert one("SELECT count(*) FROM ml_zscore(%s, 'system.cpuUsage')", device) == 10_000
