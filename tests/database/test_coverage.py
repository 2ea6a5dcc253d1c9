"""One trouble is one finding: how much of a long fault it covers, and how soon it is told."""

import pytest

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
    (extract(epoch FROM now() - last_at) / 60)::float8,
    (extract(epoch FROM now() - found_at) / 60)::float8
FROM ml_finding WHERE device_uuid = %s AND NOT brief ORDER BY started_at
"""


@pytest.mark.slow
@pytest.mark.usefixtures("forests_only")
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
        for of, metric, start, end, _ in found
        if (of, metric) == (kind, METRICS[kind])
    ]
    assert len(covered) == 1, found
    assert covered[0] >= 0.9, found
    # It says little of the time around it: at most as much as a look finds out late.
    of_kind = [row for row in found if row[0] == kind]
    assert of_kind[0][2] <= first + SCAN
    assert of_kind[0][3] >= last - SCAN
    assert first - of_kind[0][4] <= 2 * HOUR
    assert len(found) <= 2, found  # nor is much else told
    told = db.execute(INCIDENTS, [device]).fetchall()
    assert len(told) == 1, told
    of, metric, began, seen = told[0]
    assert (of, metric or "") == (kind, METRICS[kind])
    assert (min(began, first) - max(seen, last)) / (first - last) >= 0.9
    assert began <= first + SCAN
