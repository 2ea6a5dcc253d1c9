"""When signals reach their limits: ml_capacity, and the incidents that it makes."""

import re
from collections.abc import Callable

import pytest

# A reading in half an hour, so that weeks are quick to write.
WEEKS = {"readings": 14 * 48, "interval": 1800}
# The share of the disk, by days from now, in the place of what the rows have.
DISK = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{{system,diskUsage}}',
    to_jsonb(4.76 * ({share}) + 0.2 * (id %% 3)))
FROM (SELECT now() AT TIME ZONE 'UTC' AS now) AS n
WHERE device_uuid = %s
"""
LATER = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT device_uuid, jsonb_set(reported_state, '{system,diskUsage}', to_jsonb(%s::float8)),
    "timestamp" + make_interval(days => %s)
FROM device_shadow_history WHERE device_uuid = %s
    AND "timestamp" > (now() AT TIME ZONE 'UTC') - make_interval(days => %s)
"""
AHEAD = """
SELECT value, slope, extract(epoch FROM earliest - looked_at) / 86400,
    extract(epoch FROM probably - looked_at) / 86400, extract(epoch FROM latest - looked_at) / 86400
FROM ml_capacity WHERE device_uuid = %s AND metric = %s
"""
INCIDENT = "SELECT kind, state, severity, summary FROM ml_incidents WHERE device_uuid = %s"


@pytest.fixture
def disk(db, add_device) -> Callable[..., str]:
    """Make a device whose disk is used so far, by days before now (`d`, negative)."""

    def add(share: str, readings: int = WEEKS["readings"]) -> str:
        device = add_device(readings, WEEKS["interval"])
        days = "date_part('epoch', \"timestamp\" - n.now) / 86400"
        db.execute(DISK.format(share=re.sub(r"\bd\b", f"({days})", share)), [device])
        return device

    return add


def test_a_disk_that_fills_is_told_days_ahead_and_once(db, one, disk):
    device = disk("84 + 1.9 * d")
    db.execute("CALL ml_scan(%s)", [device])
    value, slope, earliest, probably, latest = db.execute(
        AHEAD, [device, "disk_usage_percent"]
    ).fetchone()
    assert (value, slope) == (pytest.approx(84, abs=0.3), pytest.approx(1.9, abs=0.1))
    assert 2.5 < earliest <= probably <= latest < 4
    kind, state, severity, summary = db.execute(INCIDENT, [device]).fetchone()
    assert (kind, state, severity) == ("breach", "open", "warning")
    assert summary.startswith("disk_usage_percent reaches 90 % in ")
    assert "(now 8" in summary
    assert "+1.9" in summary or "+1.8" in summary
    assert "points a day since" in summary
    looked = one("SELECT max(looked_at) FROM ml_capacity")
    db.execute(LATER, [400, 0, device, 0])
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT max(looked_at) FROM ml_capacity") == looked
    assert one("SELECT count(*) FROM ml_event WHERE device_uuid = %s", device) == 1


def test_what_reaches_no_limit_says_so_and_makes_no_incident(db, one, disk):
    device = disk("50 + 0.1 * d")
    db.execute("CALL ml_scan(%s)", [device])
    for metric in ("disk_usage_percent", "memory_usage_percent", "cpu_usage"):
        value, _, _, probably, latest = db.execute(AHEAD, [device, metric]).fetchone()
        assert value is not None
        assert probably is None
        assert latest is None
    assert one("SELECT count(*) FROM ml_incidents") == 0


@pytest.mark.parametrize("trained", [True, False])
def test_it_is_over_when_the_disk_is_cleaned(db, one, disk, train, trained):
    # Detection, which tells that all else is well, has its own words for a disk that is cleaned.
    db.execute("UPDATE ml_metric SET enabled = false WHERE name = 'disk_usage_percent'")
    device = disk("84 + 1.9 * d")
    if trained:
        train(device)
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT state FROM ml_incidents") == "open"
    db.execute(LATER, [4.76 * 40, 2, device, 2])
    db.execute("CALL ml_scan(%s, as_of => now() + interval '2 days')", [device])
    assert one("SELECT state FROM ml_incidents") == "resolved"
    value, *_ = db.execute(AHEAD, [device, "disk_usage_percent"]).fetchone()
    assert value == pytest.approx(40, abs=0.3)


def test_it_goes_on_when_the_limit_is_reached(db, one, disk):
    device = disk("89.5 + 1.9 * d")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT severity FROM ml_incidents") == "critical"
    db.execute(LATER, [4.76 * 92, 2, device, 2])
    db.execute("CALL ml_scan(%s, as_of => now() + interval '2 days')", [device])
    kind, state, _, summary = db.execute(INCIDENT, [device]).fetchone()
    assert (kind, state) == ("breach", "open")
    assert summary.startswith("disk_usage_percent has reached 90 % (now 92 %")


@pytest.mark.parametrize("share", ["95", "80 + 15 * sin(6.2832 * d)", "89 + 3 * sin(40 * d)"])
def test_what_is_at_its_limit_all_the_time_is_nothing_that_lies_ahead(db, one, disk, share):
    device = disk(share)
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_capacity WHERE value IS NOT NULL") == 3
    assert one("SELECT count(*) FROM ml_incidents") == 0


def test_a_log_that_is_rotated_below_its_limit_is_quiet(db, one, disk):
    device = disk("40 + 45 * mod((d + 40)::numeric, 2)::float8")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_incidents") == 0


def test_a_limit_from_above_counts_too(db, one, disk):
    db.execute("UPDATE ml_metric SET limit_low = 10 WHERE name = 'disk_usage_percent'")
    device = disk("20 - 2.5 * d")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_capacity WHERE side = 'low'") == 1
    summary = one("SELECT summary FROM ml_incidents")
    assert summary.startswith("disk_usage_percent reaches 10 % in ")
    assert "-2.5 points a day" in summary


def test_too_little_history_is_said_and_not_looked_at_again_that_day(db, one, disk):
    device = disk("84 + 1.9 * d", readings=96)
    db.execute("CALL ml_scan(%s)", [device])
    why = "SELECT why_not FROM ml_capacity WHERE metric = 'disk_usage_percent'"
    assert "an outlook needs 3" in one(why)
    assert one("SELECT count(*) FROM ml_incidents") == 0


def test_a_limit_that_changes_is_looked_at_by_the_next_scan(db, one, disk):
    device = disk("60 + 1.9 * d")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_incidents") == 0
    db.execute("UPDATE ml_metric SET limit_high = 65 WHERE name = 'disk_usage_percent'")
    db.execute("CALL ml_scan(%s)", [device])
    of_disk = "SELECT max(limit_value) FROM ml_capacity WHERE metric = 'disk_usage_percent'"
    assert one(of_disk) == 65
    assert one("SELECT kind FROM ml_incidents") == "breach"
    rule = "INSERT INTO ml_rule (device_uuid, metric, limit_high) VALUES (%s, %s, 70)"
    db.execute(rule, [device, "disk_usage_percent"])
    db.execute("CALL ml_scan(%s)", [device])
    assert one(of_disk) == 70
    db.execute("DELETE FROM ml_rule; UPDATE ml_metric SET limit_high = NULL")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_capacity") == 0


def test_where_nothing_has_a_limit_a_scan_looks_at_none(db, one, disk):
    db.execute("UPDATE ml_metric SET limit_high = NULL")
    device = disk("84 + 1.9 * d")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT sqlstate FROM ml_scan_state") == "ML002"  # for want of a model, no more
    assert one("SELECT count(*) FROM ml_capacity_state") == 0


def test_a_device_that_is_forgotten_leaves_it(db, one, disk):
    device = disk("84 + 1.9 * d")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_capacity") == 3
    db.execute("SELECT ml_forget(%s)", [device])
    assert one("SELECT count(*) FROM ml_capacity_state") == 0
