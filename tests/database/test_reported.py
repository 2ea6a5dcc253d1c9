"""ml_state, ml_history, ml_histories and ml_usual: what a device reported, and what is usual."""

import json
from datetime import timedelta

import pytest

AT = "SELECT now() AT TIME ZONE 'UTC' + %s * interval '1 hour'"
INSERT = f"""
INSERT INTO device_shadow_history (device_uuid, shadow_name, reported_state, "timestamp")
VALUES (%s, %s, %s::jsonb, ({AT}))
"""
SPIKE = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,cpuUsage}', %s::jsonb)
WHERE id IN (SELECT id FROM device_shadow_history WHERE device_uuid = %s
             ORDER BY "timestamp" DESC OFFSET %s LIMIT 1)
"""  # noqa: E501


def state(db, device):
    """Time and state of what was reported last."""
    return db.execute("SELECT * FROM ml_state(%s)", [device]).fetchone()


@pytest.mark.rolled_back
def test_the_last_state_is_the_newest_row_whole(db, device):
    newest = db.execute(
        "SELECT \"timestamp\" AT TIME ZONE 'UTC', reported_state FROM device_shadow_history"
        ' WHERE device_uuid = %s ORDER BY "timestamp" DESC LIMIT 1',
        [device],
    ).fetchone()
    assert state(db, device) == newest
    assert state(db, str(device)) == newest


@pytest.mark.rolled_back
def test_a_clock_far_ahead_and_other_shadows_are_not_now(db, device):
    before = state(db, device)
    for shadow, hours in (("device-state", 30), ("other", 1)):
        db.execute(INSERT, [device, shadow, '{"wrong": 1}', hours])
    assert state(db, device) == before
    db.execute(INSERT, [device, "device-state", '{"a": [1, null]}', 1])
    assert state(db, device)[1] == {"a": [1, None]}


@pytest.mark.rolled_back
def test_without_an_index_it_is_the_same(db, device):
    before = state(db, device)
    db.execute("DROP INDEX IF EXISTS device_shadow_history_device_uuid_timestamp_idx")
    for (index,) in db.execute(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisprimary"
        " AND indrelid = 'device_shadow_history'::regclass"
    ).fetchall():
        db.execute(f"DROP INDEX {index}")
    assert state(db, device) == before


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "call",
    [
        *("ml_state(%s)", "ml_history(%s, 'cpu_usage')"),
        *("ml_histories(%s)", "ml_usual(%s, 'cpu_usage')"),
    ],
)
def test_a_device_that_is_not_there_is_refused(db, refused, call):
    said = refused(f"SELECT {call}", "00000000-0000-0000-0000-000000000000", sqlstate="ML002")
    assert said.message_primary == "there is no device 00000000-0000-0000-0000-000000000000"
    db.execute(said.message_hint)


@pytest.mark.rolled_back
def test_a_device_that_reports_another_shadow_alone_has_no_state(db, refused, device):
    db.execute("UPDATE device_shadow_history SET shadow_name = 'other'")
    said = refused("SELECT ml_state(%s)", device, sqlstate="ML001")
    db.execute(said.message_hint)


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("ml_state(NULL::uuid)", "ML004"),
        ("ml_history(NULL::uuid, 'cpu_usage')", "ML004"),
        ("ml_history('{device}', NULL)", "ML004"),
        ("ml_history('{device}', 'cpu_usage', points => 1)", "ML004"),
        ("ml_history('{device}', 'cpu_usage', points => NULL)", "ML004"),
        ("ml_history('{device}', 'cpu_usage', points => 100001)", "ML004"),
        ("ml_histories(NULL::uuid)", "ML004"),
        ("ml_histories('{device}', points => 1)", "ML004"),
        ("ml_usual('{device}', NULL)", "ML004"),
        ("ml_usual('{device}', 'cpu_usage', until => 'infinity')", "ML004"),
        ("ml_history('{device}', 'cpu_usage', now(), now() - interval '1 day')", "ML004"),
        ("ml_history('{device}', 'health.status')", "ML003"),
        ("ml_history('{device}', 'cpu_usage', '2001-01-01', '2001-01-02')", "ML001"),
    ],
)
def test_what_cannot_be_answered_is_refused(refused, device, call, sqlstate):
    refused(f"SELECT {call.format(device=device)}", sqlstate=sqlstate)


@pytest.mark.rolled_back
def test_a_short_history_is_whole_and_agrees_with_the_z_scores(db, device):
    both = db.execute(
        "SELECT (SELECT array_agg((h.*)::text) FROM ml_history(%s, 'cpu_usage',"
        " now() - interval '6 hours') AS h), (SELECT array_agg((z.timestamp, z.value)::text)"
        " FROM ml_zscore(%s, 'cpu_usage', 6) AS z)",
        [device, device],
    ).fetchone()
    assert both[0] == both[1]
    assert len(both[0]) in (359, 360)


@pytest.mark.rolled_back
def test_a_thinned_history_keeps_extremes_and_its_span(db, device):
    db.execute(SPIKE, [json.dumps(99.5), device, 700])
    db.execute(SPIKE, [json.dumps(0.125), device, 1300])
    rows = db.execute(
        "SELECT * FROM ml_history(%s, 'cpu_usage', now() - interval '2 days', points => 60)",
        [device],
    ).fetchall()
    times, values = zip(*rows, strict=True)
    assert 30 <= len(rows) <= 60
    assert list(times) == sorted(times)
    assert (min(values), max(values)) == (0.125, 99.5)
    assert times[-1] - times[0] > timedelta(hours=45)


@pytest.mark.rolled_back
def test_a_span_in_the_past_is_that_span(db, device):
    found = db.execute(
        "SELECT min(timestamp) > now() - interval '20 hours',"
        " max(timestamp) <= now() - interval '10 hours', count(*)"
        " FROM ml_history(%s, 'cpu_usage', now() - interval '20 hours',"
        " now() - interval '10 hours')",
        [device],
    ).fetchone()
    assert found[:2] == (True, True)
    assert found[2] in (599, 600)


@pytest.mark.rolled_back
def test_the_histories_are_that_of_each_metric(db, device):
    db.execute(
        "INSERT INTO ml_metric (name, path) VALUES ('own', 'own'), ('uptime', 'health.uptime')"
    )
    # A collection that failed: all is 0, a total too.
    db.execute(
        "UPDATE device_shadow_history SET reported_state = reported_state ||"
        """ '{"system": {"cpuUsage": 0, "memoryUsage": 0, "memoryTotal": 0}}'"""
        " WHERE id = (SELECT max(id) - 100 FROM device_shadow_history)"
    )
    found = db.execute(
        'SELECT h.metric, array_agg((h."timestamp", h.value)::text) = (SELECT array_agg(s::text)'
        " FROM ml_history(%(device)s, h.metric, points => 60) AS s), count(*), min(h.value)"
        " FROM ml_histories(%(device)s, points => 60) AS h GROUP BY h.metric",
        {"device": device},
    ).fetchall()
    metrics = {row[0]: row[1:] for row in found}
    assert {"cpu_usage", "disk_usage_percent", "uptime"} < set(metrics)
    assert "own" not in metrics
    assert {row[0] for row in metrics.values()} == {True}
    assert {row[1] <= 60 for row in metrics.values()} == {True}
    assert metrics["cpu_usage"][2] > 0
    none = "SELECT count(*) FROM ml_histories(%s, '2001-01-01', '2001-01-02')"
    assert db.execute(none, [device]).fetchone() == (0,)


def test_what_is_usual_holds_the_means_of_ordinary_days(db, one, add_device, train):
    device = add_device(readings=4800)
    usual = "SELECT count(*) FROM ml_usual(%s, %s, now() - interval '3 days')"
    assert one(usual, device, "cpu_usage") == 0
    train(device)
    share = one(
        "SELECT avg((m.mean BETWEEN u.low AND u.high)::int)::float8 FROM ("
        "  SELECT date_bin('15 min', \"timestamp\", '2001-01-01') AS at, avg(value) AS mean"
        "  FROM ml_history(%(device)s, 'cpu_usage', now() - interval '3 days', points => 5000)"
        "  GROUP BY 1) AS m CROSS JOIN LATERAL ("
        "  SELECT * FROM ml_usual(%(device)s, 'cpu_usage', m.at, m.at + interval '15 min') LIMIT 1"
        ") AS u".replace("%(device)s", f"'{device}'")
    )
    assert share > 0.95
    width = "SELECT max(high - low) FROM ml_usual(%s, %s, now() - interval '3 days')"
    assert 1 < one(width, device, "cpu_usage") < 12
    assert one(usual, device, "disk_usage_percent") == 0  # it only grows
    assert one(usual, device, "no.such") == 0
    for points, days in ((24, 5), (50, 6)):  # the step is no whole number of seconds
        ends = f"'2026-01-01', timestamptz '2026-01-01' + interval '{days} days', {points}"
        assert one(f"SELECT count(*) FROM ml_usual(%s, 'cpu_usage', {ends})", device) == points
