"""A detector and a forecaster from a file each: what is registered is trained, stored, used.

No other file knows of them. They are registered in the test's own session and end with it.
"""

import json
from pathlib import Path

import psycopg
import pytest

from .conftest import TRAINED

pytestmark = pytest.mark.fresh

OWNERS = Path(__file__).parent / "owners"
AGO = "SELECT now() - make_interval(mins => %s)"
# A dataclass looks its module up.
REGISTER = """
CREATE FUNCTION pg_temp.register(source text) RETURNS void LANGUAGE plpython3u AS $$
    import sys, types
    module = sys.modules['taken_in'] = types.ModuleType('taken_in')
    exec(compile(source, 'taken_in', 'exec'), module.__dict__)
$$;
CREATE FUNCTION pg_temp.forget(registry text, kind text) RETURNS void LANGUAGE plpython3u AS $$
    from pyml.detectors.base import DETECTORS
    from pyml.forecasters.base import FORECASTERS
    {'DETECTORS': DETECTORS, 'FORECASTERS': FORECASTERS}[registry].forget(kind)
$$
"""
STORED = """
SELECT kind, field, count(*), count(*) FILTER (WHERE is_current) FROM ml_model
WHERE trained_with IS NULL GROUP BY 1, 2 ORDER BY 1, 2
"""
DUE = "SELECT kind, field, reason FROM _ml_due(ARRAY[%s::uuid]) ORDER BY 1, 2"
SET = "UPDATE ml_setting SET value = %s WHERE name = %s"
STATE = "SELECT outcome, sqlstate, error FROM ml_scan_state WHERE device_uuid = %s"
BEND = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,cpuUsage}', %s)
WHERE id IN (SELECT id FROM device_shadow_history WHERE device_uuid = %s
             ORDER BY "timestamp" DESC LIMIT %s)
"""
FIELDS = ["system.cpuUsage", "temperature"]


@pytest.fixture
def register(db):
    """Take in what a file registers, for this session."""
    db.execute("SELECT ml_doctor()")  # finds the package
    db.execute(REGISTER)

    def take_in(file: str, change: tuple[str, str] = ("", "")) -> None:
        source = (OWNERS / file).read_text()
        assert change[0] in source
        db.execute("SELECT pg_temp.register(%s)", [source.replace(*change)])

    return take_in


@pytest.fixture
def _detectors_alone(db):
    db.execute(SET, ["[]", "forecast_fields"])


@pytest.fixture
def _forecaster_alone(db, register):
    """Beside the forest, so that no test waits for TensorFlow."""
    db.execute(SET, [json.dumps(FIELDS), "forecast_fields"])
    register("yesterday.py")
    db.execute("SELECT pg_temp.forget('FORECASTERS', 'lstm')")


def pass_days(db):
    db.execute("UPDATE ml_model SET trained_at = trained_at - interval '2 days'")
    db.execute("UPDATE ml_run SET started_at = started_at - interval '2 days'")


def test_what_is_registered_ends_with_the_session(db, dsn, device, register):
    register("mad.py")
    kinds = "SELECT kind FROM _ml_kinds() WHERE detects"
    assert db.execute(kinds).fetchall() == [("forest",), ("mad",)]
    with psycopg.connect(dsn) as other:
        assert other.execute(kinds).fetchall() == [("forest",)]


@pytest.mark.usefixtures("_detectors_alone")
def test_a_detector_is_trained_beside_the_forest_and_stored(db, one, device, register):
    register("mad.py")
    never = [("forest", "", "never trained"), ("mad", "", "never trained")]
    assert db.execute(DUE, [device]).fetchall() == never
    db.execute("CALL ml_retrain()")
    assert db.execute("SELECT kind, outcome FROM ml_run ORDER BY 1").fetchall() == [
        ("forest", "trained"),
        ("mad", "trained"),
    ]
    assert db.execute(STORED).fetchall() == [("forest", "", 1, 1), ("mad", "", 1, 1)]
    assert db.execute(DUE, [device]).fetchall() == []
    info = {model["kind"]: model for model in one("SELECT ml_model_info(%s)", device)["models"]}
    assert info.keys() == {"mad", *TRAINED}
    assert info["mad"]["readings_used"] == info["forest"]["readings_used"]
    assert info["mad"]["parameters"]["contamination"] == 0.01
    assert info["mad"]["figures"]["held_out_flagged"] == pytest.approx(0.01, abs=0.002)
    assert "n_estimators" not in info["mad"]["parameters"]


@pytest.mark.slow
@pytest.mark.usefixtures("_detectors_alone")
def test_a_scan_logs_what_a_detector_flags_and_why(db, one, device, register):
    register("mad.py")
    db.execute("CALL ml_retrain()")
    db.execute(BEND, ["95", device, 3])
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("scanned", None, None)
    logged = db.execute(
        "SELECT score, severity, metrics, reasons, foretold, model_id FROM ml_anomaly"
        " WHERE tier = 'mad' ORDER BY \"timestamp\" DESC LIMIT 3"
    ).fetchall()
    assert len(logged) == 3
    for score, severity, metrics, reasons, foretold, model in logged:
        assert -1 < score < -0.4
        assert severity == "critical"
        assert metrics["cpu_usage"] == 95
        first = reasons[0]
        assert (first["metric"], first["value"]) == ("cpu_usage", 95)
        assert first["usual_low"] < 30 < first["usual_high"] < 95
        assert not foretold
        assert model == one("SELECT model_id FROM ml_model WHERE kind = 'mad'")
    assert one("SELECT count(*) FROM ml_anomaly WHERE tier = 'forest'") > 0
    # Both told of one trouble: it is one incident.
    found = db.execute(
        "SELECT incident_id, tiers FROM ml_incidents WHERE ended_at > %s", [one(AGO, 3)]
    ).fetchall()
    assert len(found) == 1
    assert set(found[0][1]) >= {"forest", "mad"}
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "unchanged"


@pytest.mark.slow
@pytest.mark.usefixtures("_detectors_alone")
def test_a_setting_makes_due_whoever_goes_by_it(db, device, register):
    register("mad.py")
    db.execute("CALL ml_retrain()")
    db.execute(SET, ["0.02", "contamination"])
    assert db.execute(DUE, [device]).fetchall() == [
        ("forest", "", "changed"),
        ("mad", "", "changed"),
    ]
    db.execute(SET, ["0.01", "contamination"])
    db.execute(SET, ["50", "n_estimators"])
    assert db.execute(DUE, [device]).fetchall() == [("forest", "", "changed")]
    db.execute("UPDATE ml_metric SET enabled = false WHERE name = 'temperature'")
    assert [kind for kind, _, _ in db.execute(DUE, [device])] == ["forest", "mad"]
    db.execute("CALL ml_retrain()")
    assert db.execute(DUE, [device]).fetchall() == []
    assert db.execute(STORED).fetchall() == [("forest", "", 2, 1), ("mad", "", 2, 1)]


# A detector that follows a setting which no other kind of model follows.
OWN_SETTING = ('("contamination", float)', '("false_alarms_per_week", float)')


@pytest.mark.usefixtures("_detectors_alone")
def test_another_value_of_its_own_setting_ends_the_wait_after_a_failure(db, add_device, register):
    register("mad.py", OWN_SETTING)
    device = add_device(readings=20)
    db.execute("CALL ml_retrain()")
    assert db.execute("SELECT DISTINCT outcome FROM ml_run").fetchall() == [("failed",)]
    assert db.execute(DUE, [device]).fetchall() == []
    db.execute(SET, ["0.3", "false_alarms_per_week"])
    assert ("mad", "", "never trained") in db.execute(DUE, [device]).fetchall()


@pytest.mark.slow
@pytest.mark.usefixtures("_detectors_alone")
def test_an_argument_given_for_its_own_parameter_stays(db, one, device, register):
    register("mad.py", OWN_SETTING)
    db.execute("CALL ml_retrain()")
    give = "UPDATE ml_model SET parameters = parameters || %s WHERE kind = 'mad'"
    db.execute(give, ['{"given": {"contamination": 0.15}, "contamination": 0.15}'])
    assert db.execute(DUE, [device]).fetchall() == []
    pass_days(db)
    db.execute("CALL ml_retrain()")
    used = "SELECT parameters ->> 'contamination' FROM ml_model WHERE kind = 'mad' AND is_current"
    assert one(used) == "0.15"


@pytest.mark.slow
@pytest.mark.usefixtures("_detectors_alone")
def test_a_detectors_models_are_pruned_rolled_back_and_forgotten(db, one, device, register):
    register("mad.py")
    db.execute(SET, ["2", "models_kept"])
    for _ in range(4):
        db.execute("CALL ml_retrain()")
        pass_days(db)
    assert db.execute(STORED).fetchall() == [("forest", "", 2, 1), ("mad", "", 2, 1)]
    ids = "SELECT model_id FROM ml_model WHERE kind = 'mad' ORDER BY is_current"
    (before,), (now,) = db.execute(ids)
    told = one("SELECT ml_rollback(%s)", before)
    assert (told["model_id"], told["replaced_model_id"]) == (before, now)
    assert one("SELECT model_id FROM ml_model WHERE kind = 'mad' AND is_current") == before
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "scanned"
    dropped = one("SELECT ml_forget(%s)", device)
    assert dropped["models"] == 2 + 2 * len(TRAINED)
    assert db.execute(STORED).fetchall() == []
    assert one("SELECT count(*) FROM ml_anomaly") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_detectors_alone")
def test_a_scan_that_does_not_know_a_kind_says_so_and_goes_on(db, one, dsn, device, register):
    register("mad.py")
    db.execute("CALL ml_retrain()")
    db.execute(BEND, ["95", device, 3])
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("CALL ml_scan()")
        scan = "SELECT scan_outcome, sqlstate, error FROM ml_device_status"
        outcome, sqlstate, error = other.execute(scan).fetchone()
        doctor = "SELECT ok, detail FROM ml_doctor() WHERE check_name = 'devices'"
        ok, detail = other.execute(doctor).fetchone()
    model = one("SELECT model_id FROM ml_model WHERE kind = 'mad'")
    assert (outcome, sqlstate) == ("failed", "ML005")
    assert error.startswith(f"model {model} of device {device} is not used")
    assert error.endswith("of kind mad")
    assert (ok, detail) == (False, f"1 of 1 fail; the last: {device}: {error}")
    # The forest's part is done, and no training is due that could not replace the model.
    assert one("SELECT count(*) FROM ml_anomaly WHERE tier = 'forest'") > 0
    assert one("SELECT count(*) FROM ml_anomaly WHERE tier = 'mad'") == 0
    assert one("SELECT watermark = last_reading FROM ml_scan_state")
    assert db.execute(DUE, [device]).fetchall() == []
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("scanned", None, None)
    assert one("SELECT count(*) FROM ml_anomaly WHERE tier = 'mad'") > 0


@pytest.mark.slow
@pytest.mark.usefixtures("_forecaster_alone")
def test_a_forecaster_is_trained_for_each_field_and_stored(db, one, device):
    due = [("forest", "")] + [("yesterday", field) for field in FIELDS]
    assert [(kind, field) for kind, field, _ in db.execute(DUE, [device])] == due
    db.execute("CALL ml_retrain()")
    assert db.execute(STORED).fetchall() == [(kind, field, 1, 1) for kind, field in due]
    assert db.execute(DUE, [device]).fetchall() == []
    models = one("SELECT ml_model_info(%s)", device)["models"]
    of_cpu = next(model for model in models if model["field"] == "system.cpuUsage")
    assert of_cpu["kind"] == "yesterday"
    assert 0 < of_cpu["figures"]["mae"] < 20
    assert of_cpu["parameters"]["horizon"] == 12
    db.execute(SET, ["6", "forecast_horizon"])
    assert [reason for kind, _, reason in db.execute(DUE, [device])] == ["changed", "changed"]


@pytest.mark.slow
@pytest.mark.usefixtures("_forecaster_alone")
def test_a_scan_stores_what_a_forecaster_says_and_logs_what_lies_outside(db, one, device):
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 8)])
    assert db.execute(STATE, [device]).fetchone() == ("scanned", None, None)
    points = "SELECT field, count(*) FROM ml_forecast_point GROUP BY 1 ORDER BY 1"
    assert db.execute(points).fetchall() == [(field, 12) for field in FIELDS]
    # The first step ahead is the value of a day before it.
    expected = one(
        "SELECT (h.reported_state #>> '{system,cpuUsage}')::float8 FROM device_shadow_history h"
        ' WHERE h."timestamp" AT TIME ZONE \'UTC\' = (SELECT min(p."timestamp")'
        " FROM ml_forecast_point p) - interval '1 day' AND h.device_uuid = %s",
        device,
    )
    told = db.execute(
        "SELECT predicted, lower, upper, model_id FROM ml_forecast_point"
        " WHERE field = 'system.cpuUsage' ORDER BY \"timestamp\" LIMIT 1"
    ).fetchone()
    assert told[0] == pytest.approx(expected)
    assert told[1] < told[0] < told[2]
    assert told[3] == one(
        "SELECT model_id FROM ml_model WHERE kind = 'yesterday' AND field = 'system.cpuUsage'"
    )
    db.execute(BEND, ["99", device, 5])
    db.execute("CALL ml_scan()")
    logged = db.execute(
        "SELECT foretold, severity, reasons FROM ml_anomaly WHERE tier = 'yesterday'"
        ' ORDER BY "timestamp" DESC LIMIT 4'
    ).fetchall()
    assert len(logged) == 4
    for foretold, severity, reasons in logged:
        assert foretold
        assert severity == "critical"
        assert (reasons[0]["metric"], reasons[0]["value"]) == ("system.cpuUsage", 99)
        assert reasons[0]["usual_low"] <= reasons[0]["predicted"] <= reasons[0]["usual_high"] < 99


@pytest.mark.slow
@pytest.mark.usefixtures("_forecaster_alone")
def test_a_forecasters_models_are_pruned_rolled_back_and_forgotten(db, one, device):
    db.execute(SET, ["2", "models_kept"])
    for _ in range(4):
        db.execute("CALL ml_retrain()")
        pass_days(db)
    wanted = [("forest", "", 2, 1)] + [("yesterday", field, 2, 1) for field in FIELDS]
    assert db.execute(STORED).fetchall() == wanted
    (before,) = db.execute(
        "SELECT model_id FROM ml_model WHERE field = 'temperature' AND NOT is_current"
    ).fetchone()
    assert one("SELECT ml_rollback(%s)", before)["model_id"] == before
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "scanned"
    assert one("SELECT ml_forget(%s)", device)["models"] == 4 + 2 * len(TRAINED)
    assert one("SELECT count(*) FROM ml_forecast_point") == 0


@pytest.mark.slow
def test_two_forecasters_of_a_field_say_each_their_own(db, one, device, register, train):
    """Each has points of its own in ml_forecast_point, and readings are compared with both."""
    db.execute(SET, ['["system.cpuUsage"]', "forecast_fields"])
    db.execute(SET, ["1", "epochs"])
    train(device, "system.cpuUsage")
    register("yesterday.py")
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 8)])
    models = "SELECT model_id FROM ml_model WHERE kind = %s"
    points = "SELECT count(*) FROM ml_forecast_point WHERE model_id = %s"
    own = {kind: one(models, kind) for kind in ("lstm", "yesterday")}
    assert {kind: one(points, model) for kind, model in own.items()} == {
        "lstm": 12,
        "yesterday": 12,
    }
    db.execute(BEND, ["99", device, 5])
    db.execute("CALL ml_scan()")
    for kind, model in own.items():
        logged = "SELECT array_agg(DISTINCT model_id) FROM ml_anomaly WHERE tier = %s"
        assert one(logged, kind) == [model]
