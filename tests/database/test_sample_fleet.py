"""The sample fleet through SQL: each fault is one incident in words, quiet days are quiet."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sample_fleet
import show

from tests import pages

# What leads the reasons while a fault lasts.
CLEAR = {
    "cpu spike": {"cpu_usage"},
    "memory leak": {"memory_usage_percent"},
    "runaway temperature": {"temperature"},
    "network flood": {"network_receive_rate", "network_transmit_rate"},
}
# Fixed, so that sentences are the same in each run.
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
# What is told of each fault.
TOLD = {
    "sensor-vienna": (
        "temperature has stood at 50.7 °C for 10 h 59 min; it never stands still for more "
        "than 3 min. Over since 09:59 UTC, after 10 h 59 min"
    ),
    "api-madrid": (
        "memory_usage_percent has been rising since 01:04 UTC, to 88.2 %, 39.5 points "
        "above what is usual at this hour (46.6 to 48.7 %). Over since 10:25 UTC, after 9 "
        "h 20 min"
    ),
    "gateway-lisbon": (
        "network_receive_rate has been at 16 million B/s since 04:00 UTC, 14.5 million B/s "
        "above what is usual at this hour (1.11 million to 1.43 million B/s). Over "
        "since 04:29 UTC, after 30 min"
    ),
    "batch-dublin": (
        "cpu_usage has been at 61.6 % since 05:32 UTC, 48.6 points above what is usual at "
        "this hour (2.67 to 13 %). Also unusual: temperature. Over since 08:53 UTC, after "
        "3 h 21 min"
    ),
    "web-paris": (
        "cpu_usage has been at 96.6 % since 07:00 UTC, 41 points above what is usual at "
        "this hour (48.4 to 55.6 %). Over since 07:17 UTC, after 17 min"
    ),
    "edge-oslo": (
        "temperature has been rising since 08:03 UTC, to 86.2 °C, 38.4 °C above what is "
        "usual at this hour (46.2 to 47.8 °C)"
    ),
}


@pytest.fixture(scope="module")
def trained(make_database, _server):
    """The fleet, each device with a forest of the days before its faults, scanned once."""
    dsn = make_database(f"TEMPLATE {_server.template_dbname}")
    sample_fleet.load(dsn, now=NOW.replace(tzinfo=None))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(show.NAMES)
        for device in sample_fleet.FLEET:
            as_of = NOW - timedelta(days=1)
            conn.execute("SELECT ml_train_forest(%s, as_of => %s)", [device.uuid, as_of])
        conn.execute("CALL ml_scan(as_of => %s)", [NOW])
    return dsn


@pytest.fixture
def db(trained):
    with psycopg.connect(trained, autocommit=True) as conn:
        yield conn


@pytest.fixture
def fleet():
    """Its faults, by device."""
    found = sample_fleet.faults(now=NOW.replace(tzinfo=None))
    return {fault.device_uuid: fault for fault in found}


@pytest.mark.slow
def test_what_was_injected_is_found(db, fleet):
    for device in sample_fleet.FLEET:
        fault = fleet.get(device.uuid)
        if fault is None or fault.kind not in CLEAR:
            continue
        inside = [
            reasons[0]["metric"]
            for (reasons,) in db.execute(
                "SELECT reasons FROM ml_score(%s, %s, %s) WHERE is_anomaly",
                [device.uuid, fault.start.replace(tzinfo=UTC), fault.end.replace(tzinfo=UTC)],
            )
        ]
        assert len(inside) >= 3, fault
        leading = max(set(inside), key=inside.count)
        assert leading in CLEAR[fault.kind], fault


@pytest.mark.slow
def test_a_quiet_day_is_quiet(one, fleet):
    [quiet] = [d for d in sample_fleet.FLEET if d.name == "archive-berlin"]
    assert quiet.uuid not in fleet
    day = [quiet.uuid, NOW - timedelta(days=1), NOW]
    flagged = "SELECT avg(is_anomaly::int)::float8 FROM ml_score(%s, %s, %s)"
    assert one(flagged, *day) <= 0.02


@pytest.mark.slow
def test_each_fault_is_one_incident_in_words(db, fleet):
    told = db.execute(
        "SELECT device_uuid, summary, started_at, ended_at FROM ml_incidents ORDER BY started_at"
    ).fetchall()
    said = {}
    for device, fault in fleet.items():
        start, end = fault.start.replace(tzinfo=UTC), fault.end.replace(tzinfo=UTC)
        mine = [row for row in told if row[0] == device and row[2] <= end and row[3] >= start]
        assert len(mine) == 1, (fault, mine)
        said[fault.device_name] = mine[0][1]
    assert said == TOLD
    assert len(told) <= len(fleet) + 2


@pytest.mark.slow
def test_the_demo_ends_with_each_incident_beside_what_was_injected(db, capsys):
    show.found(db, NOW.replace(tzinfo=None))
    told = " ".join(capsys.readouterr().out.split())
    assert "8 devices, of which 6 had a fault today." in told
    assert "sensor-vienna, critical, resolved (injected: stuck sensor, 23:00 to 10:00 UTC)" in told
    assert "meter-athens, warning, resolved (injected: nothing)" in told
    assert [summary for summary in TOLD.values() if summary not in told] == []
    assert "Not found" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in pages.PAGES if pages.blocks(page, "demo")], ids=pages.name
)
def test_pages_show_what_the_demo_gives(page, make_database, trained):
    whole = psycopg.conninfo.conninfo_to_dict(trained)["dbname"]
    with psycopg.connect(make_database(f"TEMPLATE {whole}"), autocommit=True) as copy:
        pages.run(page, "demo", copy.info)


@pytest.mark.slow
def test_what_is_proposed_for_each_fault_keeps_the_fleet_quiet(db, fleet):
    """The last test of this file: it changes what the others look at."""
    numbers = [number for (number,) in db.execute("SELECT incident_id FROM ml_incidents")]
    said = [db.execute("SELECT ml_not_a_fault(%s)", [number]).fetchone()[0] for number in numbers]
    assert len(said) >= len(fleet)
    for each in said:
        db.execute(each["statement"].encode())
    # Each is about the device of its incident alone, and a mute has an end.
    assert db.execute("SELECT count(*) FROM ml_rules WHERE device_uuid IS NULL").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM ml_rule WHERE mute AND until IS NULL").fetchone() == (
        0,
    )
    for table in ("ml_incident", "ml_event", "ml_finding", "ml_anomaly", "ml_scan_state"):
        db.execute(f"DELETE FROM {table}")
    db.execute("CALL ml_scan(as_of => %s)", [NOW])
    assert db.execute("SELECT summary FROM ml_incidents").fetchall() == []
    rare = "SELECT count(*) FROM ml_finding WHERE rule_id IS NOT NULL OR quiet_id IS NOT NULL"
    assert db.execute(rare).fetchone()[0] >= len(fleet)
