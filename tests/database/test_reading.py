"""How a window is read, and how much memory a backend that scores keeps."""

import json
import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.stored import newest, put_model

AT = "now() AT TIME ZONE 'UTC' - interval '30.5 minutes'"
COPY = """
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end,
    readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT gen_random_uuid(), m.kind, m.field, true, m.window_start, m.window_end, m.readings_used,
    m.readings_rejected, m.parameters, m.figures, m.versions, m.seconds, m.sha256, m.blob
FROM ml_model AS m, generate_series(1, %s) WHERE m.is_current AND m.trained_with IS NULL
RETURNING device_uuid
"""


def _private(conn: psycopg.Connection) -> float:
    """Private memory of the connection's backend, in MB."""
    status = Path(f"/proc/{conn.info.backend_pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


NO_NUMBERS = [
    "12\n13",
    "null",
    "nan",
    '"',
    "\\",
    "a,b",
    [None, "1\n2"],
    {"null": None},
    False,
    None,
]


def test_what_is_no_number_moves_no_other_value(db, one, device):
    put_model(db, device, newest("forest"))
    until = one("SELECT now()::text")
    since = one("SELECT (now() - interval '1 hour')::text")
    expected = one(
        "SELECT jsonb_object_agg(timestamp, reported_state -> 'system' -> 'cpuUsage')"
        " FROM device_shadow_history WHERE timestamp > %s::timestamptz AT TIME ZONE 'UTC'",
        since,
    )
    for value in NO_NUMBERS:
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
        assert found.pop(added) in expected.values(), value  # the one before it holds
        assert found == expected, value
        db.execute("DELETE FROM device_shadow_history WHERE reported_state = %s", [state])


@pytest.mark.slow
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


@pytest.mark.slow
def test_devices_scored_before_hold_no_memory(db, dsn, device, train):
    train(device)
    strangers = [row[0] for row in db.execute(COPY, [300])]
    with psycopg.connect(dsn, autocommit=True) as fresh:
        held = []
        for stranger in strangers:
            fresh.execute("SELECT ml_score(%s, now() - interval '1 hour', now())", [stranger])
            held.append(_private(fresh))
    # Sessions of 300 forests would be a hundred times this.
    assert held[-1] - held[49] < 3


def test_a_window_is_read_by_its_index_from_its_own_partitions(db, dsn, device, train):
    train(device)
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
    (plan,) = [text for text in told if "array_send" in text]
    assert len(set(re.findall(r" on by_day_(\d+)", plan))) in (2, 3), plan
    # But for today's, which soon after midnight has hardly any rows.
    assert not re.search(r"Seq Scan on by_day_(?!40)", plan), plan


def test_moments_beyond_time_are_no_readings(db, one, device, train):
    train(device)
    db.execute(
        "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
        " SELECT device_uuid, reported_state, moment::timestamp FROM device_shadow_history,"
        " unnest('{infinity,-infinity}'::text[]) AS moment LIMIT 2"
    )
    assert one("SELECT count(*) FROM ml_score(%s, '-infinity', 'infinity')", device) == 3000


def test_the_wall_clock_of_another_zone_moves_what_is_read(db, one, device, train):
    train(device)
    newest = "SELECT max(timestamp) FROM ml_score(%s, now() - interval '20 hours', now())"
    before = one(newest, device)
    db.execute("UPDATE ml_setting SET value = 'Asia/Tokyo' WHERE name = 'history_time_zone'")
    assert before - one(newest, device) == timedelta(hours=9)


COPY_AS = """
CREATE TABLE typed AS SELECT {} FROM (SELECT device_uuid AS d, reported_state AS r,
    shadow_name AS s, timestamp AS t FROM device_shadow_history) AS h;
UPDATE ml_setting SET value = 'public.typed' WHERE name = 'history_table'
"""
PLAIN = {"device_uuid": "d", "reported_state": "r", "shadow_name": "s", "timestamp": "t"}


def _typed(db: psycopg.Connection, **columns: str) -> None:
    """Let the history be a copy with other columns."""
    made = ", ".join(f"{value} AS {name}" for name, value in (PLAIN | columns).items())
    db.execute(COPY_AS.format(made))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("reported_state", "convert_to(r::text, 'UTF8')", "bytea"),
        ("timestamp", "t::date", "date"),
        ("timestamp", "t::text", "text"),
        ("device_uuid", "1.5::float8", "double precision"),
        ("shadow_name", "1", "integer"),
    ],
)
def test_a_column_of_another_type_is_refused_and_put_right(
    db, one, refused, device, column, value, found
):
    put_model(db, device, newest("forest"))
    expected = one("SELECT ml_detect(%s)", device)["analyzed_points"]
    _typed(db, **{column: value})
    for call in (
        "SELECT ml_train_forest(%s)",
        "SELECT ml_detect(%s)",
        "SELECT * FROM ml_score(%s, now() - interval '1 hour', now())",
        "SELECT ml_train_lstm(%s)",
        "SELECT ml_chart(%s)",
        "SELECT * FROM ml_zscore(%s, 'cpu_usage')",
        "CALL ml_scan(%s)",
    ):
        said = refused(call, device, sqlstate="ML006")
        assert f"{column.strip()}" in said.message_detail
        assert f"is of type {found} and has to be" in said.message_detail
        assert said.message_hint == "SELECT * FROM public.ml_doctor();"
    row = "SELECT ok, detail, fix FROM ml_doctor() WHERE check_name = 'history table'"
    ok, detail, fix = db.execute(row).fetchone()
    assert not ok
    assert found in detail
    if found == "text":
        db.execute(fix)
        assert one("SELECT ml_detect(%s)", device)["analyzed_points"] == expected


@pytest.mark.parametrize(
    ("time", "zone"),
    [("timestamptz", "Asia/Tokyo"), ("timestamptz", "UTC"), ("timestamp", "America/Los_Angeles")],
)
def test_a_domain_is_read_as_what_it_is_made_of(db, dsn, one, device, time, zone):
    put_model(db, device, newest("forest"))
    db.execute(
        f"CREATE DOMAIN moment AS {time};"
        "CREATE DOMAIN instant AS moment CHECK (VALUE IS NOT NULL);"
        "CREATE DOMAIN thing AS uuid; CREATE DOMAIN doc AS jsonb; CREATE DOMAIN word AS varchar(99)"
    )
    at = "(t AT TIME ZONE 'UTC')" if time == "timestamptz" else "t"
    score = "SELECT * FROM ml_score(%s, %s, %s)"
    window = [device, one("SELECT (now() - interval '2 hours')::text"), one("SELECT now()::text")]
    expected = db.execute(score, window).fetchall()
    zscores = "SELECT timestamp, value FROM ml_zscore(%s, 'cpu_usage', hours => 100)"
    expected_zscores = db.execute(zscores, [device]).fetchall()
    _typed(
        db,
        device_uuid="d::thing",
        reported_state="r::doc",
        shadow_name="s::word",
        timestamp=f"{at}::instant",
    )
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        assert len(expected) == 120
        assert other.execute(score, window).fetchall() == expected
        assert other.execute(zscores, [device]).fetchall() == expected_zscores
        assert other.execute("SELECT device::text, id FROM _ml_devices()").fetchall() == [
            (device, device)
        ]
