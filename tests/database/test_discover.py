"""ml_discover: what numbers there are, whether that is true, and what it takes in."""

import json
import sys

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PUT = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %s, s.state,
       now() AT TIME ZONE 'UTC' - (cardinality(%s::jsonb[]) - s.i) * interval '1 minute'
FROM unnest(%s::jsonb[]) WITH ORDINALITY AS s (state, i)
"""
KINDS = "SELECT path, kind FROM ml_discover() ORDER BY path"


@pytest.fixture
def put(db, one):
    """Make a device that has reported these states, a minute apart; gives its uuid."""

    def make(*states):
        device = one(
            "INSERT INTO devices (uuid, name) VALUES (gen_random_uuid(), 'x') RETURNING uuid::text"
        )
        documents = [state if isinstance(state, str) else json.dumps(state) for state in states]
        db.execute(PUT, [device, documents, documents])
        return device

    return make


@pytest.fixture
def told(db):
    """Rows of ml_discover by path, and what it has said beside them."""

    def ask(arguments=""):
        notices = []
        db.add_notice_handler(lambda said: notices.append(said.message_primary))
        cursor = db.cursor(row_factory=psycopg.rows.namedtuple_row)
        rows = cursor.execute(f"SELECT * FROM ml_discover({arguments})").fetchall()
        assert len({row.path for row in rows}) == len(rows)
        return {row.path: row for row in rows}, notices

    return ask


@pytest.mark.rolled_back
def test_what_an_agent_reports_is_told_as_it_is(told, add_device):
    add_device(readings=1000)
    found, notices = told()
    assert notices == ["looked at 1000 messages of 1 devices"]
    assert {path: (row.kind, row.unit, row.metric) for path, row in found.items()} == {
        "health.uptime": ("counter", None, None),
        "system.cpuUsage": ("gauge", "%", "cpu_usage"),
        "system.diskTotal": ("constant", None, "disk_usage_percent"),
        "system.diskUsage": ("gauge", None, "disk_usage_percent"),
        "system.memoryTotal": ("constant", None, "memory_usage_percent"),
        "system.memoryUsage": ("gauge", None, "memory_usage_percent"),
        "system.network.rxBytes": ("counter", "B/s", "network_receive_rate"),
        "system.network.txBytes": ("counter", "B/s", "network_transmit_rate"),
        "system.temperature": ("gauge", "°C", "temperature"),
    }
    assert [path for path, row in found.items() if row.statement] == ["health.uptime"]
    load = found["system.cpuUsage"]
    assert load.share == 1
    assert 15 < load.least < 20 < 40 < load.greatest < 45
    assert load.changes > 0.95
    assert found["system.memoryTotal"].changes == 0


STATE = {
    "sensors": {"bme688": {"temp": 21.4, "hum": 40}},
    "probes": [{"name": "t1", "value": 1}, {"name": "out let", "value": 2.5}],
    "twice": [{"name": "a", "id": "x", "v": 1}, {"name": "a", "id": "y", "v": 2}],
    "unnamed": [{"name": "a", "v": 1}, {"v": 2}],
    "nested": [[1, [2]], "x"],
    "CPU Load (%)": 12,
    "a.b": 1,
    'quo"te]': {"": 3},
    "température": 20,
    "温度": 21,
    "text": "21.4",
    "word": "on",
    "huge": 0,
    "null": None,
    "true": True,
    "limit": 7,
}
NAMES = {
    "sensors.bme688.temp": "bme688_temp",
    "sensors.bme688.hum": "bme688_hum",
    "probes[name=t1].value": "t1_value",
    'probes[name="out let"].value': "out_let_value",
    "twice[id=x].v": "x_v",
    "twice[id=y].v": "y_v",
    "unnamed.0.v": "unnamed_0_v",
    "unnamed.1.v": "unnamed_1_v",
    "nested.0.0": "nested_0_0",
    "nested.0.1.0": "nested_0_1_0",
    '"CPU Load (%)"': "cpu_load",
    '"a.b"': "a_b",
    '"quo""te]".""': "quo_te",
    "température": "temperature_2",  # the first is one of ours
    "温度": "value",
}


def changed(state, step):
    """The same, with every number greater by that but for limit."""
    if isinstance(state, dict):
        return {k: v if k == "limit" else changed(v, step) for k, v in state.items()}
    if isinstance(state, list):
        return [changed(value, step) for value in state]
    return state + step if type(state) in (int, float) else state


def test_whatever_the_keys_are_each_number_has_a_path_and_a_name(db, told, one, put):
    states = [json.dumps(changed(STATE, i % 3)) for i in range(30)]
    put(*[s.replace('"huge": ', '"huge": 1' + "0" * 131_000) for s in states])
    found, _ = told()
    assert {path for path, row in found.items() if row.statement} == set(NAMES)
    assert (found["limit"].kind, found["text"].kind) == ("constant", "text")
    assert set(found) == {*NAMES, "limit", "text"}
    assert found['"CPU Load (%)"'].unit == "%"
    assert (found["sensors.bme688.temp"].unit, found["sensors.bme688.hum"].unit) == ("°C", "%")
    for path, row in found.items():
        value = one("SELECT _ml_at(%s::jsonb, %s)", json.dumps(STATE), path)
        assert float(value) == row.least, path
    db.execute("SET search_path = pg_catalog")  # a statement names its schema
    for row in found.values():
        if row.statement:
            db.execute(row.statement.encode())
    db.execute("RESET search_path")
    assert dict(db.execute("SELECT path, name FROM ml_metric WHERE NOT built_in")) == NAMES
    again, _ = told()
    assert {path: row.metric for path, row in again.items() if row.metric} == NAMES
    assert not any(row.statement for row in again.values())


@pytest.mark.rolled_back
def test_a_metric_is_known_however_its_path_is_written(db, told, put):
    put({"a b": {"x": 1}}, {"a b": {"x": 2}})
    db.execute("""INSERT INTO ml_metric (name, path) VALUES ('own', 'a b."x"')""")
    assert told()[0]['"a b".x'].metric == "own"


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (range(0, 3000, 60), "counter"),
        ([*range(30), *range(20)], "counter"),  # reset once
        ([2 * n // 3 for n in range(60)], "counter"),
        ([n / 2 for n in range(60)], "gauge"),  # no whole numbers
        ([61 + n % 20 for n in range(60)], "gauge"),  # falls, but not to the ground
        ([20 + n // 20 for n in range(60)], "gauge"),  # a room that gets warmer
        ([*range(30), *range(30, 0, -1)], "gauge"),
        ([5] * 30, "constant"),
        ([*[5] * 99, 0], "constant"),  # but for a collection that failed
        ([*[5] * 99, 6], "gauge"),
        ([*[0] * 99, 1], "gauge"),
        ([5], "gauge"),  # cannot be told
        ([1, 2, 3], "gauge"),
        (["1", "2"], "text"),
        (["1", 2, "x"], "gauge"),
    ],
)
def test_kinds(told, put, values, kind):
    put(*[{"x": value} for value in values])
    assert told()[0]["x"].kind == kind


@pytest.mark.rolled_back
def test_what_differs_between_devices_alone_is_constant(told, put):
    for limit in (4, 8):
        put({"limit": limit}, {"limit": limit})
    row = told()[0]["limit"]
    assert (row.kind, row.changes, row.least, row.greatest) == ("constant", 0, 4, 8)


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("path", "value", "unit"),
    [
        ("batteryVoltage", 3.7, "V"),
        ("battery_current", 0.4, "A"),
        ("power", 5, "W"),
        ("energy_kWh", 10, "kWh"),
        ("usedBytes", 10, "B"),
        ("uptime", 1, "s"),
        ("latencyMs", 1, "ms"),
        ("pressure", 1013, "hPa"),
        ("pressure", 2.5, None),
        ("rssi", -60, "dBm"),
        ("fanRpm", 900, "rpm"),
        ("lux", 900, "lx"),
        ("co2", 400, "ppm"),
        ("temperature", 21, "°C"),
        ("temperature", 21000, None),
        ("temp_f", 70, "°F"),
        ("temperature.value", 21, "°C"),
        ("temperature.0", 21, "°C"),
        ("humidity", 40, "%"),
        ("memory.current", 40, None),
        ("load", 40, None),
        ("template", 40, None),
    ],
)
def test_units(one, path, value, unit):
    assert one("SELECT _ml_unit_of(%s, _ml_words_of(%s), %s, %s)", path, path, value, value) == unit


def test_apply_takes_in_what_is_sensible_once(db, one, told, put):
    rare = [{"rare": i} if i > 198 else {} for i in range(200)]
    put(*[{"a": {"x": i % 3}, "fix": 1, "text": str(i)} | rare[i] for i in range(200)])
    db.execute("UPDATE ml_metric SET path = 'fix' WHERE name = 'cpu_usage'")
    plain, _ = told()
    found, notices = told("apply => true")
    assert notices[1] == (
        "disabled, since nothing reports them: disk_usage_percent, memory_usage_percent,"
        " network_receive_rate, network_transmit_rate, temperature"
    )
    assert notices[2] == "added 1 metrics"
    assert {row.path: row.metric for row in found.values()} == {
        "a.x": "a_x",
        "fix": "cpu_usage",
        "rare": None,
        "text": None,
    }
    assert found["a.x"].statement == plain["a.x"].statement
    enabled = "SELECT array_agg(name ORDER BY name) FROM ml_metric WHERE enabled"
    assert one(enabled) == ["a_x", "cpu_usage"]
    again, notices = told("apply => true")
    assert notices[1:] == ["added 0 metrics"]
    assert again["a.x"].statement is None
    assert one(enabled) == ["a_x", "cpu_usage"]


@pytest.mark.rolled_back
def test_forecasts_are_of_something_that_is_reported(db, one, told, put):
    fields = "SELECT value FROM ml_setting WHERE name = 'forecast_fields'"
    put(*[{"b": i % 3, "a": {"x": i % 3}} for i in range(20)])
    _, notices = told("apply => true")
    assert "forecasts are of a_x: it is in the setting forecast_fields now" in notices
    assert one(fields) == '["a_x"]'
    chosen = "UPDATE ml_setting SET value = '[\"b\"]' WHERE name = 'forecast_fields'"
    db.execute(f"{chosen}; UPDATE ml_metric SET enabled = true WHERE built_in")
    told("apply => true")
    assert one(fields) == '["b"]'


@pytest.mark.rolled_back
def test_where_nothing_else_is_found_or_one_device_is_asked_none_is_disabled(one, told, put):
    disabled = "SELECT count(*) FROM ml_metric WHERE NOT enabled"
    device = put({"word": "on"}, {"word": "off"})
    told("apply => true")
    assert one(disabled) == 0
    device = put({"x": 1}, {"x": 2})
    told(f"'{device}', apply => true")
    assert one(disabled) == 0
    assert one("SELECT name FROM ml_metric WHERE NOT built_in") == "x"


@pytest.mark.rolled_back
def test_no_more_is_taken_in_than_a_forest_takes(one, told, put):
    put(*[{f"k{n}": i % 2 for n in range(300)} for i in range(4)])
    found, notices = told("apply => true")
    assert notices[-1] == "added 200 metrics, left out 100: a forest takes 200"
    assert one("SELECT count(*) FROM ml_metric WHERE enabled") == 200
    assert sum(row.metric is None for row in found.values()) == 100


@pytest.mark.slow
def test_what_is_too_much_is_left_out_and_counted(told, put):
    put(
        {"list": list(range(3000)), "x": 1},
        {"deep": json.loads('{"a":' * 40 + "1" + "}" * 40), "x": 2},
        {"large": ["x" * 1000 + str(i) for i in range(1100)]},
    )
    found, notices = told()
    assert len(found) == 2000
    assert found["x"].share == 1
    assert notices == [
        "looked at 2 messages of 1 devices, left out 1 that are too large, or no JSON,"
        " and 1001 paths beyond 2000"
    ]


def test_all_or_nothing(db, one, told, put):
    put(*[{"a": i % 2, "b": i % 2} for i in range(9)])
    db.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.name = 'b'"
        " THEN RAISE 'no'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER no BEFORE INSERT ON ml_metric FOR EACH ROW EXECUTE FUNCTION no()"
    )
    with pytest.raises(psycopg.errors.RaiseException):
        told("apply => true")
    assert one("SELECT count(*) FROM ml_metric WHERE enabled AND built_in") == 6
    assert one("SELECT count(*) FROM ml_metric") == 6


def test_a_reader_is_told_and_may_not_add(db, dsn, one, told, put):
    put(*[{"a": i % 2} for i in range(9)])
    db.execute("DROP ROLE IF EXISTS looker")
    db.execute("CREATE ROLE looker")
    try:
        db.execute("SELECT ml_grant('looker', 'read')")
        db.execute("GRANT SELECT ON device_shadow_history TO looker")
        db.execute("SET ROLE looker")
        db.execute("SET default_transaction_read_only = on")
        assert set(told()[0]) == {"a"}
        db.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            told("apply => true")
        assert caught.value.diag.message_detail
        db.execute("RESET ROLE")
        db.execute(caught.value.diag.message_hint.encode())
        db.execute("SET ROLE looker")
        assert told("apply => true")[0]["a"].metric == "a"
    finally:
        db.execute("RESET ROLE")
        db.execute("DROP OWNED BY looker")
        db.execute("DROP ROLE looker")


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "arguments", ["hours => 0", "hours => 87841", "hours => NULL", "apply => NULL"]
)
def test_bad_arguments(refused, arguments):
    refused(f"SELECT * FROM ml_discover({arguments})", sqlstate="ML004")


def test_what_there_is_not(db, refused, put):
    said = refused("SELECT * FROM ml_discover()", sqlstate="ML001")
    assert "hours => 720" in said.message_hint
    assert said.message_primary == "the history has no readings in the window"
    refused("SELECT * FROM ml_discover(gen_random_uuid())", sqlstate="ML002")
    refused("SELECT * FROM ml_discover('nobody')", sqlstate="ML002")
    device = put({"x": 1})
    db.execute('UPDATE device_shadow_history SET "timestamp" = "timestamp" - interval \'3 days\'')
    said = refused("SELECT * FROM ml_discover(%s)", device, sqlstate="ML001")
    assert said.message_primary == f"device {device} has no readings in the window"
    assert db.execute(said.message_hint.encode()).fetchone()[0] == "x"


@pytest.mark.slow
def test_a_large_history_is_looked_at_in_part(db, told):
    """And no more of it is read than is told: of many devices, over all of the window."""
    db.execute(
        "INSERT INTO devices SELECT md5(i::text)::uuid, 'x' FROM generate_series(1, 400) AS i"
    )
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT md5(d::text)::uuid, jsonb_build_object('x', i, 'h' || i / 30, 1),"
        " now() AT TIME ZONE 'UTC' - i * interval '10 minutes'"
        " FROM generate_series(1, 400) AS d, generate_series(1, 200) AS i"
    )
    db.execute("ANALYZE device_shadow_history")
    counted = (
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables"
        " WHERE relname = 'device_shadow_history'"
    )
    with db.transaction():
        before = db.execute(counted).fetchone()
        found, notices = told()
        after = db.execute(counted).fetchone()
    assert notices == ["looked at 2000 messages of 100 devices"]
    assert set(found) == {"x", "h0", "h1", "h2", "h3"}
    assert after[0] == before[0]
    assert after[1] - before[1] < 8000
    assert told()[0] == found


def test_without_an_index_the_newest_messages_are_looked_at(db, told, put):
    put(*[{"x": i % 5} for i in range(50)])
    db.execute("CREATE TABLE bare AS SELECT * FROM device_shadow_history")
    db.execute("UPDATE ml_setting SET value = 'public.bare' WHERE name = 'history_table'")
    found, notices = told()
    assert notices == ["looked at 50 messages of 1 devices"]
    assert found["x"].kind == "gauge"


LARGEST = sys.float_info.max
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 1e308, 5e-324, 10**400, -(10**400), 1e15, "21.4", "-3e5", "name"]),
    WORDS,
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(WORDS, st.sampled_from(["name", "id", "0"])), inner, max_size=3),
        st.lists(st.fixed_dictionaries({"name": st.one_of(WORDS, inner), "v": inner}), max_size=3),
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ANYTHING, min_size=1, max_size=5))
def test_whatever_devices_report_what_is_told_is_true(db, told, put, states):
    with db.transaction(force_rollback=True):
        put(*map(json.dumps, states))
        found, _ = told()
        for row in found.values():
            assert 0 < row.share <= 1
            assert row.least <= row.greatest
            assert row.changes is None or 0 <= row.changes <= 1
            values = db.execute(
                "SELECT _ml_at(h.reported_state, %s) FROM device_shadow_history AS h"
                " WHERE jsonb_typeof(_ml_at(h.reported_state, %s)) = %s",
                [row.path, row.path, "string" if row.kind == "text" else "number"],
            ).fetchall()
            # 10 to the 400th is a number in JSON, and no value.
            numbers = [
                float(value) for (value,) in values if row.kind != "text" and abs(value) <= LARGEST
            ]
            assert len(values) >= round(row.share * len(states)), row
            assert row.kind == "text" or row.least in numbers or row.least == 0
            if row.statement:
                db.execute(row.statement.encode())
        taken, _ = told("apply => true")
        assert {path for path, row in taken.items() if row.metric} == {
            path for path, row in found.items() if row.statement
        }
