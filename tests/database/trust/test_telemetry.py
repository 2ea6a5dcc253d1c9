"""Anything that a table can hold, in any order, through every door.

``--long`` takes hundreds of histories, some of 20,000 rows.
"""

import json
import math
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import ROWS

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
    ["infinity", "-infinity", "0001-01-01", "4713-01-01 BC", "294276-12-31 23:59:59", "1970-01-01"]
)
ROW = st.tuples(st.one_of(MOMENTS, MOMENTS, MOMENTS, CLOCKS), STATES, st.integers(1, 3))
INSERT = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, x.state::jsonb, CASE WHEN x.moment LIKE '%%s' THEN
    date_trunc('second', now() AT TIME ZONE 'UTC') - x.moment::interval ELSE x.moment::timestamp END
FROM unnest(%(states)s::text[], %(moments)s::text[]) WITH ORDINALITY AS x (state, moment, n)
ORDER BY CASE WHEN %(shuffled)s THEN md5(n::text) END, n
"""
DOORS = (
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


def ask(db: psycopg.Connection, statement: str) -> str:
    """Call a door: its error of a documented kind, or nothing."""
    try:
        with db.transaction():
            answers = [answer for (answer, *_) in db.execute(statement)]
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
        max_examples=400 if long else 12,
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
                for door in DOORS + (FORECASTS if forecast and shuffled else ()):
                    outcome = ask(db, door.format(device))
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


MOMENT = ("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'0001-01-01'", "NULL")
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
