"""Where a value stands, as people write it: the same in Python and in SQL."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyml.paths import Element, parsed, parts_of, written

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
KEYS = st.one_of(
    WORDS, st.text("ab.\"[]= '\\\n$@?", max_size=4), st.sampled_from(["0", "-1", "1e9"])
)
PARTS = st.lists(st.one_of(KEYS, st.builds(Element, KEYS, KEYS)), min_size=1, max_size=6)
SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def around(parts, value):
    """A state that holds a value at these parts."""
    for part in reversed(parts):
        if isinstance(part, Element):
            value = [7, [{part.key: part.value}], {part.key: [part.value]}, value]
            value[-1] = {part.key: part.value, "in": value[-1]}
        else:
            value = {part: value}
    return value


@pytest.mark.rolled_back
@SLOW
@given(st.lists(st.one_of(KEYS, st.builds(Element, KEYS, KEYS)), min_size=1, max_size=5))
def test_what_is_written_is_found(one, parts):
    """Whatever the keys are: a path cannot inject SQL."""
    # What follows an element stands under a key of its own, since that object has its name too.
    steps = []
    for part in parts:
        steps += [part, "in"] if isinstance(part, Element) else [part]
    if any(isinstance(part, Element) and part.key == "in" for part in parts):
        return
    path = written(steps)
    state = json.dumps(around(parts, 42))
    assert one("SELECT _ml_at(%s::jsonb, %s)", state, path) == 42
    assert one("SELECT (_ml_parts(%s)).fault", path) is None


@pytest.mark.rolled_back
@SLOW
@given(st.one_of(st.text('ab."[]=', max_size=12), PARTS.map(written)))
def test_python_and_sql_part_a_path_alike(db, path):
    keys, elements, fault = db.execute(
        "SELECT keys, elements::text[], fault FROM _ml_parts(%s)", [path]
    ).fetchone()
    assert (fault is None) == (parsed(path) is not None)
    parts = parts_of(path) if path else ()
    assert len(keys) == len(parts)
    for key, element, part in zip(keys, elements, parts, strict=True):
        if isinstance(part, Element):
            as_sql = db.execute("SELECT (%s::jsonpath)::text", [part.jsonpath]).fetchone()[0]
            assert (key, element) == (None, as_sql)
        else:
            assert (key, element) == (part, None)


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("s[name=t1].v", 1),
        ("s[name=t2].v", 3),
        ("s[id=7].v", 4),
        ('s["id"="8"].v', 5),
        ("s[id=9].v", None),
        ("s[name=t1].nothing", None),
        ("s[nothing=t1].v", None),
        ("o[name=t1].v", None),  # is no array
        ("s.0.v", 1),
        ("s.-1.v", 5),
    ],
)
def test_the_first_such_element_of_an_array(one, path, found):
    state = {
        "s": [
            {"name": "t1", "v": 1},
            {"name": "t1", "v": 2},
            [{"name": "t2", "v": 0}],
            5,
            {"name": "t2", "v": 3},
            {"id": 7, "v": 4},
            {"id": "8", "v": 5},
        ],
        "o": {"name": "t1", "v": 9},
    }
    assert one("SELECT _ml_at(%s::jsonb, %s)", json.dumps(state), path) == found


FIELDS = {
    '"my.key"."a ""b"" [c]"': {"my.key": {'a "b" [c]': "%s"}},
    "sensors[name=t1].value": {
        "sensors": [{"name": "t0", "value": 1}, {"name": "t1", "value": "%s"}]
    },
    "sensors[id=3].value": {"sensors": [{"id": 3, "value": "%s"}]},
    'sensors[name="it\'s $1 \\"].value': {"sensors": [{"name": "it's $1 \\", "value": "%s"}]},
    'nested[a=b].list[c="d.e"].0': {"nested": [{"a": "b", "list": [{"c": "d.e", "0": "%s"}]}]},
}


def set_field(db, path):
    """The devices report their load at the path too."""
    state = json.dumps(FIELDS[path]).replace('"%s"', "CPU")
    db.execute(
        "UPDATE device_shadow_history SET reported_state ="
        " replace(%s, 'CPU', reported_state #>> '{system,cpuUsage}')::jsonb || reported_state",
        [state],
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", FIELDS)
def test_every_function_reads_such_a_path(db, one, add_device, path):
    device = add_device(readings=600)
    set_field(db, path)
    z = "SELECT array_agg(value ORDER BY timestamp) FROM ml_zscore(%s, %s)"
    plain = one(z, device, "system.cpuUsage")
    assert len(plain) == 600
    assert one(z, device, path) == plain
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('own', %s)", [path])
    assert one(z, device, "own") == plain
    assert one("SELECT ok FROM ml_doctor() WHERE check_name = 'metrics'")
    db.execute("SELECT ml_train_forest(%s)", [device])
    metrics = one(
        "SELECT metrics FROM ml_score(%s, now() - interval '1 hour', now()) LIMIT 1", device
    )
    assert metrics["own"] == metrics["cpu_usage"]
    assert "<svg" in one("SELECT ml_chart(%s, %s)", device, path)


@pytest.mark.long
def test_a_forecast_is_made_of_such_a_path(db, one, add_device):
    path = 'nested[a=b].list[c="d.e"].0'
    device = add_device(readings=600)
    set_field(db, path)
    fields = json.dumps([path])
    db.execute("UPDATE ml_setting SET value = %s WHERE name = 'forecast_fields'", [fields])
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    db.execute("SELECT ml_train_lstm(%s, %s)", [device, path])
    assert one("SELECT ml_forecast(%s, %s) ->> 'field'", device, path) == path
    assert one("SELECT count(*) FROM ml_predict(%s, %s)", device, path) == 12


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "path", ["s[name=t1].nothing", '"a.b"', 's[name="\';--"]', '"half', "a..b"]
)
def test_where_there_is_no_number_a_function_says_so(refused, add_device, path):
    device = add_device(readings=200)
    for statement in ("SELECT * FROM ml_zscore(%s, %s)", "SELECT ml_train_lstm(%s, %s)"):
        said = refused(statement, device, path, sqlstate="ML003")
        assert "missing in 200 rows" in said.message_detail
    refused("SELECT ml_forecast(%s, %s)", device, path, sqlstate="ML002")


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a..b", "a part is empty"),
        ('"half', "does not end"),
        ('"a"b', "ends before a dot"),
        ("a[b=c", "written [key=value]"),
        ("[b=", "written [key=value]"),
        (".".join("x" * 33), "more than 32 parts"),
        ("a" + "[b=c]" * 32, "more than 32 parts"),
        ("x" * 1001, "more than 1000 characters"),
        ("", "a part is empty"),
    ],
)
def test_what_is_no_path_is_refused_where_it_is_written(db, refused, device, path, why):
    said = refused("INSERT INTO ml_metric (name, path) VALUES ('x', %s)", path, sqlstate="ML004")
    assert why in said.message_detail
    db.execute(said.message_hint)
    said = refused(
        "INSERT INTO ml_metric (name, path, divisor_path) VALUES ('x', 'x', %s)",
        path,
        sqlstate="ML004",
    )
    assert why in said.message_detail
    said = refused(
        "UPDATE ml_setting SET value = %s WHERE name = 'forecast_fields'",
        json.dumps(["a", path]),
        sqlstate="ML004",
    )
    assert why in said.message_detail
    db.execute(said.message_hint)
    said = refused(
        "INSERT INTO ml_device_forecast VALUES (%s, %s)", device, ["a", path], sqlstate="ML004"
    )
    assert why in said.message_detail
    db.execute(said.message_hint)


@pytest.mark.parametrize("fields", [["a", None], [None]])
def test_a_forecast_field_of_a_device_is_not_null(db, refused, device, fields):
    said = refused(
        "INSERT INTO ml_device_forecast VALUES (%s, %s)", device, fields, sqlstate="ML004"
    )
    assert "none of them NULL" in said.message_detail
    db.execute(said.message_hint)


@pytest.mark.rolled_back
def test_a_key_may_hold_many_dots(db):
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('x', %s)", ['"' + "." * 500 + '"'])
