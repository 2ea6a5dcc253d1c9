"""How a window is read, and what a backend holds on to that scores."""

import json
import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

AT = "now() AT TIME ZONE 'UTC' - interval '30.5 minutes'"
COPY = """
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end,
    readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT gen_random_uuid(), m.kind, m.field, true, m.window_start, m.window_end, m.readings_used,
    m.readings_rejected, m.parameters, m.figures, m.versions, m.seconds, m.sha256, m.blob
FROM ml_model AS m, generate_series(1, %s) WHERE m.is_current
RETURNING device_uuid
"""


def _private(conn: psycopg.Connection) -> float:
    """MB that the connection's backend has for itself."""
    status = Path(f"/proc/{conn.info.backend_pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


@pytest.mark.parametrize(
    "value",
    ["12\n13", "null", "nan", '"', "\\", "a,b", [None, "1\n2"], {"null": None}, False, None],
)
def test_what_is_no_number_moves_no_other_value(db, one, device, value):
    db.execute("SELECT ml_train_forest(%s)", [device])
    until = one("SELECT now()::text")
    since = one("SELECT (now() - interval '1 hour')::text")
    expected = one(
        "SELECT jsonb_object_agg(timestamp, reported_state -> 'system' -> 'cpuUsage')"
        " FROM device_shadow_history WHERE timestamp > %s::timestamptz AT TIME ZONE 'UTC'",
        since,
    )
    state = json.dumps({"system": {"cpuUsage": value, "temperature": 44.5}})
    db.execute(
        "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
        f" VALUES (%s, %s, {AT})",
        [device, state],
    )
    found = one(
        "SELECT jsonb_object_agg(s.timestamp AT TIME ZONE 'UTC', s.metrics -> 'cpu_usage')"
        " FROM ml_score(%s, %s, %s) AS s",
        *(device, since, until),
    )
    (added,) = set(found) - set(expected)
    assert found.pop(added) is None
    assert found == expected


def test_a_path_may_count_the_elements_of_an_array(db, one, device):
    db.execute(
        "UPDATE device_shadow_history SET reported_state = reported_state || jsonb_build_object("
        "'load', jsonb_build_array(jsonb_build_object('1', reported_state #> '{system,cpuUsage}')))"
    )
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('load', 'load.0.1')")
    assert "load" in one("SELECT ml_train_forest(%s)", device)["features"]
    same = one(
        "SELECT bool_and(s.metrics -> 'load' = s.metrics -> 'cpu_usage')"
        " FROM ml_score(%s, now() - interval '1 hour', now()) AS s",
        device,
    )
    assert same is True


def test_devices_scored_before_hold_no_memory(db, dsn, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    strangers = [row[0] for row in db.execute(COPY, [300])]
    with psycopg.connect(dsn, autocommit=True) as fresh:
        held = []
        for stranger in strangers:
            fresh.execute("SELECT ml_score(%s, now() - interval '1 hour', now())", [stranger])
            held.append(_private(fresh))
    # Sessions of 300 forests would be a hundred times this.
    assert held[-1] - held[49] < 3


def test_a_window_is_read_by_its_index_from_its_own_partitions(db, dsn, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute(
        "CREATE TABLE by_day (LIKE device_shadow_history) PARTITION BY RANGE (timestamp);"
        "CREATE INDEX ON by_day (device_uuid, timestamp DESC)"
    )
    db.execute(
        "DO $$ DECLARE today date := now() AT TIME ZONE 'UTC'; BEGIN FOR i IN 0..41 LOOP"
        " EXECUTE format('CREATE TABLE by_day_%s PARTITION OF by_day FOR VALUES FROM (%L) TO (%L)',"
        " i, today + i - 40, today + i - 39); END LOOP; END $$"
    )
    db.execute("INSERT INTO by_day SELECT * FROM device_shadow_history; ANALYZE by_day")
    db.execute("UPDATE ml_setting SET value = 'public.by_day' WHERE name = 'history_table'")
    told: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as fresh:
        fresh.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        for _ in range(8):  # the sixth time on, PostgreSQL may keep one plan for all windows
            (found,) = fresh.execute("SELECT ml_detect(%s)", [device]).fetchone()
        assert found["analyzed_points"] > 1400
        fresh.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0;"
            "SET auto_explain.log_nested_statements = on; SET client_min_messages = log"
        )
        fresh.execute("SELECT ml_detect(%s)", [device])
    (plan,) = [text for text in told if "string_agg" in text]
    assert len(set(re.findall(r" on by_day_(\d+)", plan))) in (2, 3), plan
    # But for today's, which soon after midnight has hardly any rows.
    assert not re.search(r"Seq Scan on by_day_(?!40)", plan), plan


def test_moments_beyond_time_are_no_readings(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute(
        "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
        " SELECT device_uuid, reported_state, moment::timestamp FROM device_shadow_history,"
        " unnest('{infinity,-infinity}'::text[]) AS moment LIMIT 2"
    )
    assert one("SELECT count(*) FROM ml_score(%s, '-infinity', 'infinity')", device) == 3000


def test_the_wall_clock_of_another_zone_moves_what_is_read(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    newest = "SELECT max(timestamp) FROM ml_score(%s, now() - interval '20 hours', now())"
    before = one(newest, device)
    db.execute("UPDATE ml_setting SET value = 'Asia/Tokyo' WHERE name = 'history_time_zone'")
    assert before - one(newest, device) == timedelta(hours=9)
