"""The forecast model of the fleet: who is forecast by it, and when a device has its own."""

import os

import psycopg
import pytest

from pyml.training import FLEET

from .conftest import AGO

FIELD = "cpu_usage"
INFO = "SELECT ml_forecast(%s, %s) -> 'model_info'"
DUE = "SELECT device_uuid::text, field, reason FROM _ml_due(ARRAY[%s::uuid, %s::uuid])"
IN_FORCE = """
SELECT device_uuid::text, scope, error_by_fleets FROM ml_models
WHERE is_current AND kind = 'lstm' ORDER BY 1
"""
# A saw of seven steps, which nobody else has.
SAW = """
UPDATE device_shadow_history h SET reported_state = jsonb_set(reported_state, '{system,cpuUsage}',
    to_jsonb(20 + 10 * (extract(epoch FROM "timestamp")::bigint / 60 %% 7)))
WHERE device_uuid = %s
"""


@pytest.fixture
def fleet(db, add_device):
    """Three devices that a fleet's model is trained on."""
    db.execute("UPDATE ml_setting SET value = '[\"cpu_usage\"]' WHERE name = 'forecast_fields'")
    devices = [add_device(readings=1500) for _ in range(3)]
    db.execute("SELECT _ml_meet(%s)", [devices])
    return devices


@pytest.mark.slow
def test_a_device_of_sixty_readings_is_forecast(db, one, fleet, train, add_device, refused):
    model = train(FLEET, FIELD)
    assert one("SELECT device_name FROM ml_models WHERE model_id = %s", model) == "the fleet"
    device, younger = add_device(readings=65), add_device(readings=30)
    db.execute("SET default_transaction_read_only = on")
    info = one(INFO, device, FIELD)
    assert (info["scope"], info["model_id"]) == ("fleet", model)
    assert info["mae"] is None
    assert one(INFO, device, None)["scope"] == "fleet"
    rows = db.execute("SELECT * FROM ml_predict(%s, %s)", [device, FIELD]).fetchall()
    assert len(rows) == 12
    assert all(0 <= row[2] <= row[1] <= row[3] <= 100 for row in rows)
    refused("SELECT ml_forecast(%s, %s)", younger, FIELD, sqlstate="ML001")
    db.execute("SET default_transaction_read_only = off")
    for one_of in (device, younger):
        db.execute("CALL ml_scan(%s, %s)", [one_of, one(AGO, 1)])
    points = "SELECT count(*), min(model_id) FROM ml_forecast_point WHERE device_uuid = %s"
    assert db.execute(points, [device]).fetchone() == (12, model)
    assert db.execute(points, [younger]).fetchone() == (0, None)


@pytest.mark.slow
def test_a_device_has_its_own_where_that_is_better(db, one, fleet, train):
    """The fleet's takes over where it is as good, also from one that was in force before."""
    other, *alike = fleet
    db.execute(SAW, [other])
    train(alike[0], FIELD)
    db.execute("UPDATE ml_run SET started_at = started_at - interval '2 days'")
    db.execute("UPDATE ml_model SET trained_at = trained_at - interval '2 days'")
    db.execute("CALL ml_retrain()")
    assert db.execute("SELECT error FROM ml_run WHERE outcome = 'failed'").fetchall() == []
    (fleets, own) = db.execute(IN_FORCE).fetchall()
    assert fleets[:2] == (FLEET, "fleet")
    assert own[:2] == (other, "device")
    assert own[2] < 0.9
    assert one(INFO, other, FIELD)["scope"] == "device"
    assert [one(INFO, device, FIELD)["scope"] for device in alike] == ["fleet"] * 2
    refused = "SELECT outcome, figures -> 'beats_fleet' FROM ml_run WHERE device_uuid = ANY (%s)"
    told = db.execute(
        refused + " AND kind = 'lstm' AND started_at > now() - '1 day'::interval", [alike]
    )
    assert told.fetchall() == [("kept", False)] * 2
    for days, due in ((0, []), (2, []), (6, [(alike[0], FIELD, "aged")])):
        db.execute("UPDATE ml_run SET started_at = started_at - make_interval(days => %s)", [days])
        assert db.execute(DUE, [other, alike[0]]).fetchall() == due
    assert one("SELECT count(*) FROM ml_device_status") == 3
    # Without the fleet's, each is due for its own.
    db.execute("UPDATE ml_setting SET value = '0' WHERE name = 'fleet_training_seconds'")
    assert db.execute(DUE, [FLEET, alike[0]]).fetchall() == [(alike[0], FIELD, "never trained")]
    with pytest.raises(psycopg.Error, match="has no forecast model"):
        one(INFO, alike[0], FIELD)


@pytest.mark.slow
def test_a_night_trains_as_many_as_the_setting_says(db, one, fleet, train):
    due = "SELECT array_agg(DISTINCT device_uuid::text) FROM _ml_due(%s) WHERE kind = 'lstm'"
    everybody = [FLEET, *fleet]
    assert sorted(one(due, everybody)) == sorted(everybody)
    train(FLEET, FIELD)
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'forecast_trainings'")
    first = one(due, everybody)
    assert len(first) == 2
    assert FLEET not in first
    for device in first:
        train(device, FIELD)
    assert one(due, everybody) is None
    db.execute("UPDATE ml_run SET started_at = started_at - interval '22 hours'")
    assert one(due, everybody) == [device for device in fleet if device not in first]


@pytest.mark.slow
def test_fewer_than_three_devices_are_no_fleet(db, one, fleet):
    db.execute("SELECT ml_forget(%s)", [fleet[0]])
    due = "SELECT count(*) FROM _ml_due(ARRAY[%s::uuid])"
    assert one(due, FLEET) == 0
    db.execute("INSERT INTO ml_device VALUES (gen_random_uuid(), 'gone', NULL)")
    assert one(due, FLEET) == 1
    db.execute("CALL ml_retrain()")  # the third of them reports nothing
    run = "SELECT outcome, error FROM ml_run WHERE device_uuid = %s"
    assert db.execute(run, [FLEET]).fetchall() == [
        ("absent", "2 devices report cpu_usage; the forecast of a fleet takes 3")
    ]
    assert one("SELECT ok FROM ml_doctor() WHERE check_name = 'trainings'")


def test_it_is_rolled_back_and_forgotten_as_others_are(db, one, fleet, train):
    first, second = train(FLEET, FIELD), train(FLEET, FIELD)
    assert one("SELECT count(DISTINCT sha256) FROM ml_model WHERE kind = 'lstm'") == 1
    db.execute("SELECT ml_rollback(%s)", [first])
    assert one(INFO, fleet[0], FIELD)["model_id"] == first
    assert one("SELECT ml_forget(%s) -> 'models'", FLEET) == 2
    assert one("SELECT count(*) FROM ml_device_status WHERE device_uuid = %s", FLEET) == 0
    assert second > first


def test_who_sees_some_devices_is_forecast_by_it(db, one, fleet, train):
    model, role = train(FLEET, FIELD), f"pyml_{os.getpid()}_tenant"
    db.execute(f"SELECT ml_row_security($$device_uuid = '{fleet[0]}'$$)")
    db.execute(f"CREATE ROLE {role}")
    db.execute(f"GRANT SELECT ON device_shadow_history TO {role}")
    db.execute("SELECT ml_grant(%s, 'read')", [role])
    db.execute(f"SET ROLE {role}")
    assert one(INFO, fleet[0], FIELD)["model_id"] == model
    assert db.execute("SELECT device_uuid::text FROM ml_models").fetchall() == [(FLEET,)]
    db.execute("RESET ROLE")
    db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_in_its_first_week_a_device_is_not_judged_by_it(db, one, fleet, train, add_device):
    train(FLEET, FIELD)
    known, new = (add_device(readings=n, interval=600) for n in (1300, 800))  # nine days, and five
    for device in (known, new):
        db.execute("CALL ml_scan(%s, %s)", [device, one(AGO, 35)])
        db.execute(
            "UPDATE device_shadow_history SET reported_state ="
            " jsonb_set(reported_state, '{system,cpuUsage}', '99') WHERE device_uuid = %s"
            " AND \"timestamp\" > (now() AT TIME ZONE 'UTC') - interval '32 minutes'",
            [device],
        )
        db.execute("CALL ml_scan(%s)", [device])
    told = db.execute("SELECT DISTINCT device_uuid::text, tier FROM ml_anomaly").fetchall()
    assert told == [(known, "lstm")]
