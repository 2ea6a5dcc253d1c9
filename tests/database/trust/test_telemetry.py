"""Anything that a table can hold, in any order, through every function.

``--long`` takes hundreds of histories, some of 20,000 rows.
"""

import json
import math
import uuid
from collections.abc import Iterator
from contextlib import nullcontext

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stored import newest, put_model

from ..conftest import ROWS
from .test_blobs import memory

DOCUMENTED = {"ML001", "ML002", "ML003", "ML004"}
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 1e308, -1e308, 5e-324, 10**400, -(10**400), 1e15, 99.5]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=8,
)
SYSTEM = st.fixed_dictionaries(
    {},
    optional={
        **{
            name: st.one_of(NUMBERS, ANYTHING)
            for name in ("cpuUsage", "memoryUsage", "memoryTotal", "diskUsage", "diskTotal")
        },
        "temperature": NUMBERS,
        "network": st.one_of(ANYTHING, st.fixed_dictionaries({"rxBytes": NUMBERS})),
    },
)
STATES = st.one_of(ANYTHING, SYSTEM.map(lambda system: {"system": system}))
# Minutes before now, and moments that no clock should show.
MOMENTS = st.one_of(
    st.floats(0, 700).map(lambda minutes: f"{minutes:.6f} minutes"),
    st.integers(0, 5).map(lambda micros: f"90 minutes {micros} microseconds"),
    st.integers(0, 3).map(lambda days: f"-{days} days"),
)
CLOCKS = st.sampled_from(
    [
        *("infinity", "-infinity", "0001-01-01", "4713-01-01 BC", "294276-12-31 23:59:59"),
        *("4714-11-24 BC", "294276-12-31 23:59:59.999999", "1970-01-01"),
    ]
)
ROW = st.tuples(st.one_of(MOMENTS, MOMENTS, MOMENTS, CLOCKS), STATES, st.integers(1, 3))
INSERT = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, x.state::jsonb, CASE WHEN x.moment LIKE '%%s' THEN
    date_trunc('second', now() AT TIME ZONE 'UTC') - x.moment::interval ELSE x.moment::timestamp END
FROM unnest(%(states)s::text[], %(moments)s::text[]) WITH ORDINALITY AS x (state, moment, n)
ORDER BY CASE WHEN %(shuffled)s THEN md5(n::text) END, n
"""
STATEMENTS = (
    "SELECT ml_train_forest('{}')",
    "SELECT ml_detect('{}', hours => 8784)",
    "SELECT to_jsonb(s) FROM ml_score('{}', '-infinity', 'infinity') s",
    "SELECT to_jsonb(z) FROM ml_zscore('{}', 'memory_usage_percent') z",
    "SELECT to_jsonb(z) FROM ml_zscore('{}', 'network_receive_rate') z",
)
FORECASTS = (
    "SELECT ml_train_lstm('{}')",
    "SELECT ml_forecast('{}')",
    "SELECT to_jsonb(p) FROM ml_predict('{}', 'system.cpuUsage', level => 0.99) p",
)
FLAGS = (
    'SELECT round(extract(epoch FROM "timestamp"), 3), anomaly_score, severity'
    " FROM ml_score('{}', '-infinity', 'infinity')"
)


def numbers(value: object) -> Iterator[float]:
    """Every number in a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, float):
        yield value


def ask(db: psycopg.Connection, statement: str, transaction: bool = True) -> str:
    """Run a statement: its error of a documented kind, or nothing."""
    try:
        with db.transaction() if transaction else nullcontext():
            found = db.execute(statement)
            answers = [answer for (answer, *_) in found] if found.description else []
    except psycopg.Error as error:
        refusal = error
    else:
        assert all(map(math.isfinite, numbers(answers)))
        return ""
    assert refusal.sqlstate in DOCUMENTED, f"{statement}: {refusal}"
    assert "Traceback" not in (refusal.diag.context or "")
    assert refusal.diag.message_hint
    return refusal.sqlstate


@pytest.mark.slow
def test_any_history_is_answered_or_refused_and_row_order_changes_nothing(db, long):
    for name, value in (("epochs", 1), ("n_estimators", 10), ("min_training_samples", 50)):
        db.execute("UPDATE ml_setting SET value = %s WHERE name = %s", [str(value), name])
    for name, value in (("sequence_length", 8), ("forecast_horizon", 2)):
        db.execute("UPDATE ml_setting SET value = %s WHERE name = %s", [str(value), name])
    sizes = [0, 60, 300, 2000, 20_000] if long else [0, 60, 300]
    told: dict[str, int] = {}

    @settings(
        max_examples=400 if long else 8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(rows=st.lists(ROW, max_size=60), good=st.sampled_from(sizes), forecast=st.booleans())
    def answered(rows, good, forecast):
        db.execute("TRUNCATE devices CASCADE; TRUNCATE ml_model, ml_run, ml_scan_state, ml_anomaly")
        repeated = [row[:2] for row in rows for _ in range(row[2])]
        flags = []
        # Of one moment, so that what is at the edge of a window is so for both.
        with db.transaction():
            for shuffled in (False, True):
                device = db.execute(
                    "INSERT INTO devices VALUES (gen_random_uuid(), 'any') RETURNING uuid::text"
                ).fetchone()[0]
                db.execute(ROWS, {"device": device, "readings": good, "interval": 60})
                db.execute(
                    INSERT,
                    {
                        "device": device,
                        "states": [json.dumps(state) for _, state in repeated],
                        "moments": [moment for moment, _ in repeated],
                        "shuffled": shuffled,
                    },
                )
                for statement in STATEMENTS + (FORECASTS if forecast and shuffled else ()):
                    outcome = ask(db, statement.format(device))
                    told[outcome or "answered"] = told.get(outcome or "answered", 0) + 1
                try:
                    with db.transaction():
                        flags.append(db.execute(FLAGS.format(device)).fetchall())
                except psycopg.Error as error:
                    flags.append(error.sqlstate)
        db.execute("CALL ml_scan()")
        failed = "SELECT sqlstate FROM ml_scan_state WHERE outcome = 'failed'"
        assert {code for (code,) in db.execute(failed)} <= DOCUMENTED
        assert len(flags[0]) == len(flags[1])
        assert [row[1:] for row in flags[0]] == [row[1:] for row in flags[1]]

    answered()
    print(told)
    assert told["answered"] > told.get("ML001", 0) / 4


# What stands where a number belongs, and in how many rows of a week.
AT_A_PATH = {
    "far too large": ("'1e131071'", 10_080),
    "far too small": ("'-1e131071'", 10_080),
    "of many digits": ("'0.' || repeat('7', 16000)", 10_080),
    "next to nothing": ("'1e-16000'", 10_080),
    "a long text": ("to_jsonb(repeat('a', 10000000))", 30),
    "a text of line breaks": ("to_jsonb(repeat(E'\\n', 10000000))", 30),
    "a long array": ("to_jsonb(array_fill(7, ARRAY[1000000]))", 30),
}
ALIKE = (
    *("far too small", "of many digits", "next to nothing"),
    *("a long text", "a text of line breaks", "a long array"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [pytest.param(value, marks=[pytest.mark.long] * (value in ALIKE)) for value in AT_A_PATH],
)
def test_what_stands_at_a_path_takes_no_memory(db, dsn, add_device, value):
    device = add_device(readings=10_080)
    put_model(db, device, newest("forest"))
    made, rows = AT_A_PATH[value]
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state,"
        f" '{{system,cpuUsage}}', x.made) FROM (SELECT ({made})::jsonb AS made) AS x"
        " WHERE id IN (SELECT id FROM device_shadow_history ORDER BY id DESC LIMIT %s)",
        [rows],
    )
    calls = {
        "forest": "SELECT (ml_train_forest(%s) ->> 'training_samples')::int",
        "detect": "SELECT (ml_detect(%s, hours => 168) ->> 'analyzed_points')::int",
        "chart": "SELECT length(ml_chart(%s, 'temperature', hours => 168))",
    }
    with psycopg.connect(dsn, autocommit=True) as session:
        pid = session.info.backend_pid
        found = {
            name: session.execute(call, [device]).fetchone()[0] for name, call in calls.items()
        }
        assert found["forest"] > 10_000
        assert found["detect"] > 10_000
        assert memory(pid) < 600 << 20
        zscores = "SELECT count(*) FROM ml_zscore(%s, 'cpu_usage', hours => 300)"
        if value in ("far too large", "far too small"):  # in every row
            with pytest.raises(psycopg.Error) as caught:
                session.execute(zscores, [device])
            assert caught.value.sqlstate == "ML003"
        else:
            usable = value in ("of many digits", "next to nothing")
            expected = 10_080 if usable else 10_080 - rows
            assert session.execute(zscores, [device]).fetchone() == (expected,)


MOMENT = (
    *("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'0001-01-01'", "NULL"),
    *("'4714-11-24 00:00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'"),
)
INTEGER = ("0", "-1", "2147483647", "-2147483648", "87840", "NULL")
NUMBER = ("'NaN'", "'Infinity'", "'-Infinity'", "0", "-1", "1e-320", "1e308", "NULL")
CALLS = {
    "SELECT ml_train_forest('{d}', hours => {})": INTEGER,
    "SELECT ml_train_forest('{d}', as_of => {})": MOMENT,
    "SELECT ml_train_forest('{d}', contamination => {})": NUMBER,
    "SELECT ml_detect('{d}', hours => {})": INTEGER,
    "SELECT ml_detect('{d}', max_anomalies => {})": INTEGER,
    "SELECT * FROM ml_score('{d}', {}, now())": MOMENT,
    "SELECT * FROM ml_score('{d}', now() - interval '1 day', {})": MOMENT,
    "SELECT ml_train_lstm('{d}', as_of => {})": MOMENT,
    "SELECT ml_train_lstm('{d}', 'no.such', hours => {})": INTEGER,
    "SELECT ml_forecast('{d}', horizon => {})": INTEGER,
    "SELECT * FROM ml_predict('{d}', 'system.cpuUsage', level => {})": NUMBER,
    "SELECT * FROM ml_predict('{d}', 'system.cpuUsage', as_of => {})": MOMENT,
    "SELECT * FROM ml_zscore('{d}', 'cpu_usage', hours => {})": INTEGER,
    "SELECT * FROM ml_zscore('{d}', 'cpu_usage', threshold => {})": NUMBER,
    "SELECT ml_rollback({})": INTEGER,
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_any_argument_is_answered_or_refused(db, add_modelled, call):
    device = add_modelled(readings=200)
    for value in CALLS[call]:
        ask(db, call.format(value, d=device))


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_either_end_of_time_is_answered_or_refused(db, add_modelled, one, zone):
    """Of rows and of arguments, whatever the zone of the table's clock."""
    device = add_modelled(readings=200)
    db.execute("UPDATE ml_setting SET value = %s WHERE name = 'history_time_zone'", [zone])
    ends = [moment.strip("'").replace("+00", "") for moment in MOMENT if moment != "NULL"]
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT device_uuid, reported_state, moment::timestamp FROM device_shadow_history,"
        " unnest(%s::text[]) AS moment WHERE id %% 40 = 0",
        [ends],
    )
    for index in ("on", "off"):  # rows outside the window are looked at by other plans
        db.execute(f"SET enable_indexscan = {index}; SET enable_bitmapscan = {index}")
        db.execute("DISCARD PLANS")
        ends_are_answered(db, device)


def ends_are_answered(db: psycopg.Connection, device: uuid.UUID) -> None:
    for statement in [*STATEMENTS, *FORECASTS[1:]]:
        ask(db, statement.format(device))
    for moment in MOMENT[:-3] + MOMENT[-2:]:
        for call in (
            "ml_score('{d}', {m}, {m})",
            "ml_predict('{d}', 'system.cpuUsage', as_of => {m})",
        ):
            ask(db, "SELECT count(*) FROM " + call.format(d=device, m=moment))
        ask(db, f"CALL ml_scan('{device}', as_of => {moment})", transaction=False)
    failed = "SELECT sqlstate, error FROM ml_scan_state WHERE outcome = 'failed'"
    assert [row for row in db.execute(failed) if row[0] not in DOCUMENTED] == []
