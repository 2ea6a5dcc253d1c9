"""What is stored beside models, as none should be: refused, healed or said of the model."""

import json

import onnx
import psycopg
import pytest
from psycopg import sql

from tests.stored import newest, put_model

from .test_blobs import memory

pytestmark = pytest.mark.slow

FORECAST, DETECT = "SELECT ml_forecast('{}')", "SELECT ml_detect('{}', hours => 10)"
SCAN = "SELECT outcome, sqlstate, error FROM ml_scan_state"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.fixture
def device(add_device):
    return add_device(readings=600)


def refused(session: psycopg.Connection, statement: str) -> psycopg.errors.Diagnostic:
    """What is said of a model that cannot be read."""
    with pytest.raises(psycopg.Error) as caught:
        session.execute(statement)
    said = caught.value.diag
    assert said.sqlstate == "ML005", said.message_primary
    assert said.message_detail
    assert said.message_hint.startswith("SELECT public.ml_train_")
    assert "Traceback" not in (said.context or "")
    return said


@pytest.mark.parametrize("column", ["parameters", "figures", "versions"])
def test_a_document_beside_a_model_is_bounded(db, device, column):
    longest = 1 << 20 if column == "parameters" else 1 << 16
    for document, fits in (({"a": "x" * (longest - 100)}, True), ({"a": [[]] * longest}, False)):
        if fits:
            put_model(db, device, newest("lstm"), **{column: document})
            db.execute("DELETE FROM ml_model")
        else:
            with pytest.raises(psycopg.errors.CheckViolation):
                put_model(db, device, newest("lstm"), **{column: document})


def test_nor_is_one_that_a_worker_hands_in(db, device):
    data = newest("lstm").read_bytes()
    about = {
        "window_start": 0,
        "window_end": 1,
        "readings_used": 1,
        "readings_rejected": 0,
        "parameters": {},
        "versions": {},
        "seconds": 1,
    }
    ask = "SELECT ml_store_model(%s, 'lstm', 'system.cpuUsage', %s, %s)"
    for figures in (f'{{"a": {nested(3000)}}}', json.dumps({"a": "x" * (1 << 17)}), "[1]", "1"):
        text = json.dumps(about)[:-1] + f', "figures": {figures}}}'
        with pytest.raises(psycopg.Error) as caught:
            db.execute(ask, [device, data, text])
        assert caught.value.sqlstate == "ML004"
        assert "Traceback" not in (caught.value.diag.context or "")
    told = db.execute(ask, [device, data, json.dumps(about | {"figures": {}})]).fetchone()[0]
    assert told["accepted"]


@pytest.mark.rolled_back
@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
@pytest.mark.parametrize("column", ["trained_at", "window_start", "window_end"])
def test_a_model_is_of_some_time(db, device, column, moment):
    put_model(db, device, newest("lstm"))
    update = sql.SQL("UPDATE ml_model SET {} = %s").format(sql.Identifier(column))
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(update, [moment])


@pytest.mark.parametrize(
    "figures",
    [f'{{"mae": {nested(3000)}}}', '{"coverage": {"0.9": [1]}}', '{"mae": "much"}', '{"mae": -1}'],
)
def test_figures_of_another_form_are_said_of_the_model(db, device, figures):
    model = put_model(db, device, newest("lstm"))
    put_model(db, device, newest("forest"))
    db.execute("UPDATE ml_model SET figures = %s", [figures])
    refused(db, FORECAST.format(device))
    # Whoever does not tell of them does not read them.
    assert db.execute(DETECT.format(device)).fetchone()[0]["analyzed_points"] > 500
    rows = db.execute("SELECT * FROM ml_predict(%s, 'system.cpuUsage')", [device]).fetchall()
    assert len(rows) == 12
    assert db.execute("SELECT count(*) FROM ml_models WHERE model_id = %s", [model]).fetchone()


@pytest.mark.rolled_back
@pytest.mark.parametrize("figures", ["[1]", '"x"', "null", "{}"])
def test_figures_that_are_none_are_told_as_none(db, device, figures):
    put_model(db, device, newest("lstm"))
    db.execute("UPDATE ml_model SET figures = %s", [figures])
    told = db.execute(FORECAST.format(device)).fetchone()[0]
    assert told["model_info"]["mae"] is None
    assert len(told["predictions"]) == 12


def test_a_model_is_ready_as_what_it_was_looked_up_as(db, dsn, device):
    put_model(db, device, newest("forest"))
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(DETECT.format(device))
        db.execute("UPDATE ml_model SET kind = 'lstm', field = 'system.cpuUsage'")
        refused(session, FORECAST.format(device))


@pytest.mark.parametrize(
    "hours",
    ["[1]", "1", '"x"', "null", '[{"hour": 1e30}]', nested(3000)],
    ids=lambda hours: hours[:40],
)
def test_what_scans_remember_is_theirs_or_forgotten(db, device, hours):
    put_model(db, device, newest("forest"))
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    remembered = "SELECT hours FROM ml_signal_state"
    db.execute("CALL ml_scan()")
    expected = db.execute(remembered).fetchone()
    db.execute("UPDATE ml_signal_state SET hours = %s", [hours])
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    db.execute("CALL ml_scan()")
    assert db.execute(SCAN).fetchone() == ("scanned", None, None)
    assert db.execute(remembered).fetchone() == expected


def test_what_scans_remember_is_bounded(db, device):
    put_model(db, device, newest("forest"))
    db.execute("CALL ml_scan()")
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute("UPDATE ml_signal_state SET hours = %s", [json.dumps([[]] * (1 << 19))])


@pytest.mark.parametrize("column", ["predicted", "lower", "upper"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_forecast_point_is_a_number(db, device, column, number):
    put_model(db, device, newest("lstm"))
    db.execute("CALL ml_scan()")
    assert db.execute("SELECT count(*) FROM ml_forecast_point").fetchone() == (12,)
    update = sql.SQL("UPDATE ml_forecast_point SET {} = %s").format(sql.Identifier(column))
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(update, [number])


@pytest.mark.parametrize(
    "path", [".".join("x" * 33), "x" * 1001, ""], ids=["many parts", "long", "empty"]
)
@pytest.mark.parametrize("column", ["path", "divisor_path"])
def test_a_path_of_a_metric_is_bounded(db, device, column, path):
    update = sql.SQL("UPDATE ml_metric SET {} = %s WHERE name = 'cpu_usage'")
    with pytest.raises(psycopg.Error) as caught:
        db.execute(update.format(sql.Identifier(column)), [path])
    assert caught.value.sqlstate == "ML004"
    assert caught.value.diag.message_detail
    if path:
        with pytest.raises(psycopg.Error) as caught:
            db.execute("SELECT ml_train_lstm(%s, %s)", [device, path])
        assert caught.value.sqlstate == "ML004"


def test_plans_of_many_shapes_of_model_take_a_bounded_space(db, dsn, device):
    model = onnx.ModelProto.FromString(newest("lstm").read_bytes())
    entry = model.metadata_props[0]
    meta = json.loads(entry.value)
    every = [f"p{i}.{'x.' * 29}t" for i in range(200)]
    db.execute(
        "INSERT INTO ml_metric (name, path, divisor_path, enabled)"
        " SELECT 'of_' || i, 'a.' || i, (%s::text[])[i], false FROM generate_series(1, 200) AS i",
        [every],
    )
    with psycopg.connect(dsn, autocommit=True) as session:
        pid, held = session.info.backend_pid, []
        for shape in range(12):
            entry.value = json.dumps(meta | {"totals": every[: 200 - shape]})
            db.execute("DELETE FROM ml_model")
            put_model(db, device, newest("lstm"), model.SerializeToString())
            # Totals are read where a value is 0.
            db.execute(
                "UPDATE device_shadow_history SET reported_state ="
                " jsonb_set(reported_state, '{system,cpuUsage}', '0') WHERE id % 50 = 0"
            )
            session.execute(FORECAST.format(device))
            held.append(memory(pid, "VmRSS") >> 20)
        print(held)
        assert held[-1] < held[3] + 20


PLANT = """
CREATE FUNCTION plant(place text, kind text) RETURNS void LANGUAGE plpython3u AS $$
    import builtins, importlib
    def fail(*args, **kwargs): raise getattr(builtins, kind)('of a crafted model')
    module, *path, name = place.split('.')
    while path and path[0].islower():
        module += '.' + path.pop(0)
    owner = importlib.import_module('pyml.' + module)
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, fail)
$$
"""


@pytest.mark.parametrize(
    "kind",
    [
        *("IndexError", "FloatingPointError"),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("KeyError", "ZeroDivisionError")),
    ],
)
@pytest.mark.parametrize(
    ("place", "ask"),
    [
        ("forest.features", DETECT),
        ("forest.Forest.scores", DETECT),
        ("forecasters.forecast._replay", FORECAST),
        ("forecasters.forecast._conclude", FORECAST),
    ],
)
def test_whatever_scoring_raises_is_said_of_the_model(db, dsn, device, place, ask, kind):
    for one in ("forest", "lstm"):
        put_model(db, device, newest(one))
    db.execute(PLANT)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(ask.format(device))
        session.execute("SELECT plant(%s, %s)", [place, kind])
        assert "crafted" in refused(session, ask.format(device)).message_detail
    db.execute("DROP FUNCTION plant")
