"""One trouble is one finding: how much of a long fault it covers, and which faults have one."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sample_fleet

DAYS, HOUR = 8, 60
# In minutes. The fault ends an hour before now.
FAULT, SCAN = 12 * HOUR, HOUR
# The history as it is with a fault: what to change from a number of minutes ago to another.
BETWEEN = """"timestamp" > (now() AT TIME ZONE 'UTC') - make_interval(mins => %(first)s)
    AND "timestamp" <= (now() AT TIME ZONE 'UTC') - make_interval(mins => %(last)s)
    AND device_uuid = %(device)s"""
SET = "UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, %(path)s, {})"
FAULTS = {
    "level": SET.format("to_jsonb((reported_state #>> %(path)s)::float8 + 3000)"),
    "stuck": SET.format("'46.3'"),
    "silent": "DELETE FROM device_shadow_history",
}
PATHS = {"level": "{system,memoryUsage}", "stuck": "{system,temperature}", "silent": None}
METRICS = {"level": "memory_usage_percent", "stuck": "temperature", "silent": ""}
INCIDENTS = """
SELECT kind, leading_metric, (extract(epoch FROM now() - started_at) / 60)::float8,
    (extract(epoch FROM now() - ended_at) / 60)::float8
FROM ml_incidents WHERE device_uuid = %s ORDER BY started_at
"""
SPANS = """
SELECT kind, metric, (extract(epoch FROM now() - started_at) / 60)::float8,
    (extract(epoch FROM now() - last_at) / 60)::float8
FROM ml_finding WHERE device_uuid = %s AND NOT brief ORDER BY started_at
"""


@pytest.fixture(autouse=True)
def _forests_only(request):
    if "db" in request.fixturenames:
        db = request.getfixturevalue("db")
        db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
        db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_one_finding_covers_a_long_fault(db, one, add_device, kind):
    device = add_device(readings=DAYS * 24 * HOUR)
    first, last = FAULT + HOUR, HOUR
    where = {"first": first, "last": last, "device": device, "path": PATHS[kind]}
    db.execute(f"{FAULTS[kind]} WHERE {BETWEEN}", where)
    ago = "SELECT now() - make_interval(mins => %s)"
    db.execute("SELECT ml_train_forest(%s, as_of => %s)", [device, one(ago, first + HOUR)])
    for minutes in range(first + HOUR - SCAN, -1, -SCAN):
        db.execute("CALL ml_scan(%s, %s)", [device, one(ago, minutes)])
    found = db.execute(SPANS, [device]).fetchall()
    covered = [
        (min(start, first) - max(end, last)) / (first - last)
        for of, metric, start, end in found
        if (of, metric) == (kind, METRICS[kind])
    ]
    assert len(covered) == 1, found
    assert covered[0] >= 0.9, found
    # It says little of the time around it: at most as much as a look finds out late.
    of_kind = [row for row in found if row[0] == kind]
    assert of_kind[0][2] <= first + SCAN
    assert of_kind[0][3] >= last - SCAN
    assert len(found) <= 2, found  # nor is much else told
    told = db.execute(INCIDENTS, [device]).fetchall()
    assert len(told) == 1, told
    of, metric, began, seen = told[0]
    assert (of, metric or "") == (kind, METRICS[kind])
    assert (min(began, first) - max(seen, last)) / (first - last) >= 0.9
    assert began <= first + SCAN


NOW = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture(scope="module")
def fleet(make_database, _server):
    """The sample fleet, trained a day ago and scanned until now; the sensor every half hour."""
    dsn = make_database(f"TEMPLATE {_server.template_dbname}")
    sample_fleet.load(dsn, now=NOW)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
        for device in sample_fleet.FLEET:
            conn.execute(
                "SELECT ml_train_forest(%s, as_of => now() - interval '1 day')", [device.uuid]
            )
        [stuck] = [fault for fault in sample_fleet.faults(now=NOW) if fault.kind == "stuck sensor"]
        for minutes in range(0, 151, 30):
            moment = (stuck.start + timedelta(minutes=minutes)).replace(tzinfo=UTC)
            conn.execute("CALL ml_scan(%s, %s)", [stuck.device_uuid, moment])
        conn.execute("CALL ml_scan()")
    return dsn


@pytest.mark.slow
def test_each_fault_of_the_sample_fleet_is_told_by_its_metric(fleet):
    with psycopg.connect(fleet, autocommit=True) as conn:
        for fault in sample_fleet.faults(now=NOW):
            told = conn.execute(
                """
                SELECT f.kind, f.started_at FROM ml_finding f JOIN ml_metric m ON m.name = f.metric
                WHERE f.device_uuid = %(device)s AND m.path LIKE '%%' || %(path)s || '%%'
                  AND f.started_at < %(end)s AND f.last_at > %(start)s
                UNION ALL
                SELECT 'anomaly', a.timestamp FROM ml_anomaly a
                JOIN ml_metric m ON m.name = a.reasons -> 0 ->> 'metric'
                WHERE a.device_uuid = %(device)s AND m.path LIKE '%%' || %(path)s || '%%'
                  AND a.timestamp BETWEEN %(start)s AND %(end)s
                """,
                {
                    "device": fault.device_uuid,
                    "path": fault.metric,
                    "start": fault.start.replace(tzinfo=UTC),
                    "end": fault.end.replace(tzinfo=UTC),
                },
            ).fetchall()
            assert told, fault


@pytest.mark.slow
def test_the_stuck_sensor_is_told_within_two_hours(fleet):
    [stuck] = [fault for fault in sample_fleet.faults(now=NOW) if fault.kind == "stuck sensor"]
    with psycopg.connect(fleet, autocommit=True) as conn:
        found = conn.execute(
            "SELECT found_at, started_at, last_at FROM ml_finding"
            " WHERE device_uuid = %s AND kind = 'stuck' AND metric = 'temperature'",
            [stuck.device_uuid],
        ).fetchall()
    assert len(found) == 1
    start, end = (moment.replace(tzinfo=UTC) for moment in (stuck.start, stuck.end))
    assert found[0][0] - start <= timedelta(hours=2)
    assert (min(found[0][2], end) - max(found[0][1], start)) >= 0.9 * (end - start)
