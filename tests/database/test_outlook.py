"""ml_outlook: the next days of a field."""

import re
from datetime import timedelta

import pytest

ALL = "SELECT * FROM ml_outlook(%s, %s)"
# Ten days of minutes would be slow to write: a reading in ten minutes does.
TEN_DAYS = {"readings": 10 * 144, "interval": 600}
DISK = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,diskUsage}',
    to_jsonb(200 + 4.76 * date_part('epoch', "timestamp" - (now() AT TIME ZONE 'UTC')) / 86400))
WHERE device_uuid = %s
"""


@pytest.mark.rolled_back
def test_a_week_comes_hour_by_hour_with_bands_that_hold_what_is_said(db, add_device):
    device = add_device(**TEN_DAYS)
    db.execute("SET LOCAL TimeZone = 'Asia/Kolkata'")
    rows = db.execute(ALL, [device, "cpu_usage"]).fetchall()
    assert len(rows) == 7 * 24
    times = [row[0] for row in rows]
    assert times == [times[0] + i * timedelta(hours=1) for i in range(len(rows))]
    now = db.execute("SELECT date_trunc('hour', now(), 'UTC')").fetchone()[0]
    assert abs(times[0] - now) <= timedelta(hours=1)
    for _, said, low_80, high_80, low_90, high_90 in rows:
        assert 0 <= low_90 <= low_80 <= said <= high_80 <= high_90 <= 100


@pytest.mark.rolled_back
def test_a_disk_that_fills_goes_on_filling(db, one, add_device):
    device = add_device(**TEN_DAYS)
    db.execute(DISK, [device])
    last = "SELECT last_value(predicted_value) OVER () FROM ml_outlook(%s, %s) LIMIT 1"
    assert one(last, device, "disk_usage_percent") == pytest.approx(100 * 200 / 476 + 7, abs=0.2)


@pytest.mark.rolled_back
def test_it_goes_as_often_as_the_field_and_as_far_as_it_is_asked(db, add_device):
    device = add_device(readings=60, interval=4 * 3600)
    rows = db.execute("SELECT * FROM ml_outlook(%s, 'temperature', days => 2)", [device]).fetchall()
    assert len(rows) == 12
    assert rows[1][0] - rows[0][0] == timedelta(hours=4)


@pytest.mark.rolled_back
def test_paths_and_counters_have_an_outlook_too(one, add_device):
    device = add_device(**TEN_DAYS)
    rate = "SELECT avg(predicted_value) FROM ml_outlook(%s, %s)"
    assert one(rate, device, "network_receive_rate") == pytest.approx(100, rel=0.1)
    assert one(rate, device, "system.memoryUsage") == pytest.approx(7000, rel=0.2)


@pytest.mark.rolled_back
def test_a_picture_of_days_shows_it(one, add_device):
    device = add_device(**TEN_DAYS)
    days, hours = (one("SELECT ml_chart(%s, 'cpu_usage', %s)", device, n) for n in (240, 24))
    assert 'class="ahead"' in days
    assert "No forecast" not in days
    assert "No forecast" in hours


@pytest.mark.rolled_back
def test_a_short_history_says_how_little_it_is(db, add_device):
    said: list[str] = []
    db.add_notice_handler(lambda diag: said.append(diag.message_primary))
    db.execute(ALL, [add_device(readings=5 * 144, interval=600), "cpu_usage"]).fetchall()
    assert "5.0 days" in said[0] or "4.9 days" in said[0]


@pytest.mark.rolled_back
def test_a_device_that_is_back_after_days_has_one(db, add_device):
    device = add_device(readings=14 * 144, interval=600)
    db.execute(
        "DELETE FROM device_shadow_history WHERE device_uuid = %s"
        " AND now() AT TIME ZONE 'UTC' - \"timestamp\" BETWEEN '1 hour' AND '10 days'",
        [device],
    )
    assert len(db.execute(ALL, [device, "cpu_usage"]).fetchall()) == 7 * 24


@pytest.mark.rolled_back
def test_too_little_history_says_what_there_is_and_what_would_do(refused, device):
    said = refused(ALL, device, "cpu_usage", sqlstate="ML001")
    assert re.search(r"has 2\.[01] days", said.message_primary)  # by the minute of the hour
    assert "needs 3" in said.message_primary


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("ml_outlook(%s, 'no.such')", "ML003"),
        ("ml_outlook(%s, 'health.status')", "ML003"),
        ("ml_outlook(%s, NULL)", "ML004"),
        ("ml_outlook(%s, 'cpu_usage', days => 0)", "ML004"),
        ("ml_outlook(%s, 'cpu_usage', days => 31)", "ML004"),
        ("ml_outlook(gen_random_uuid(), coalesce('cpu_usage', %s))", "ML002"),
    ],
)
def test_what_cannot_be_is_refused(refused, device, call, sqlstate):
    refused(f"SELECT * FROM {call}", device, sqlstate=sqlstate)


@pytest.mark.rolled_back
def test_nothing_is_written(db, add_device):
    device = add_device(**TEN_DAYS)
    db.execute("SET TRANSACTION READ ONLY")
    assert len(db.execute(ALL, [device, "cpu_usage"]).fetchall()) == 7 * 24


@pytest.mark.rolled_back
def test_a_horizon_of_days_leads_here(refused):
    far = "UPDATE ml_setting SET value = '289' WHERE name = 'forecast_horizon'"
    assert "ml_outlook" in refused(far, sqlstate="ML004").message_hint
