"""Devices that are deleted, mistyped, retired or silent, and what the views say of them."""

import uuid

import pytest

STATUS = "SELECT array_agg(device_uuid::text) FROM ml_device_status"
RETIRED = "SELECT retired_at IS NOT NULL FROM ml_scan_state WHERE device_uuid = %s"
NOW = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
VALUES (%s, '{"system": {"cpuUsage": 30}}', clock_timestamp() AT TIME ZONE 'UTC')
"""


@pytest.fixture(autouse=True)
def _forests_only(db):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")


@pytest.fixture
def pair(db, add_device, train):
    """A device that stays and one that does not, both trained and scanned."""
    stays, goes = add_device(readings=300), add_device(readings=300)
    train(stays)
    train(goes)
    db.execute("CALL ml_scan()")
    return stays, goes


def test_a_deleted_device_leaves_the_views_with_the_next_scan(db, one, pair):
    stays, goes = pair
    db.execute(
        'INSERT INTO ml_forecast_point (device_uuid, "timestamp", field, kind, predicted, lower,'
        " upper, level, breach, model_id, made_at) SELECT device_uuid, now() + interval '1 minute',"
        " 'cpu_usage', 'lstm', 60, 50, 70, 0.9, 55, 1, now() FROM ml_scan_state"
    )
    db.execute("DELETE FROM devices WHERE uuid = %s", [goes])
    db.execute("CALL ml_scan()")
    assert one(STATUS) == [stays]
    assert one("SELECT devices FROM ml_fleet_health") == 1
    for view in ("ml_forecasts", "ml_breaches"):
        assert one(f"SELECT array_agg(device_uuid::text) FROM {view}") == [stays]
    db.execute("CALL ml_retrain()")
    assert one("SELECT count(*) FROM ml_run WHERE outcome = 'failed'") == 0


def test_a_device_that_was_trained_and_never_scanned_leaves_them_too(db, one, add_device, train):
    goes = add_device(readings=300)
    train(goes)
    assert one(STATUS) == [goes]
    db.execute("DELETE FROM devices")
    db.execute("CALL ml_scan()")
    assert one(STATUS) is None


def test_a_device_that_comes_back_is_there_again_with_its_model(db, one, pair):
    stays, goes = pair
    db.execute(
        "CREATE TABLE kept AS SELECT * FROM device_shadow_history WHERE device_uuid = %s", [goes]
    )
    db.execute("DELETE FROM device_shadow_history WHERE device_uuid = %s", [goes])
    db.execute("CALL ml_scan()")
    assert one(STATUS) == [stays]
    db.execute("INSERT INTO device_shadow_history SELECT * FROM kept")
    db.execute("CALL ml_scan()")
    assert sorted(one(STATUS)) == sorted(pair)
    assert one("SELECT count(*) FROM ml_models WHERE is_current AND kind = 'forest'") == 2


def test_what_never_had_a_model_leaves_nothing(db, one, add_device):
    goes = add_device(readings=20)
    db.execute("CALL ml_scan()")
    assert one(STATUS) == [goes]
    db.execute("DELETE FROM devices")
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_scan_state") == 0


@pytest.mark.slow
def test_who_sees_only_some_devices_retires_none(db, one, pair):
    _, goes = pair
    db.execute(
        "ALTER TABLE device_shadow_history ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE device_shadow_history FORCE ROW LEVEL SECURITY;"
        f"CREATE POLICY partly ON device_shadow_history USING (device_uuid <> '{goes}')"
    )
    role = "pyml_" + uuid.uuid4().hex
    db.execute(f"CREATE ROLE {role}; SELECT ml_grant('{role}', 'train')")
    try:
        db.execute(f"GRANT SELECT ON device_shadow_history TO {role}; SET ROLE {role}")
        db.execute("CALL ml_scan()")
        db.execute("RESET ROLE")
        assert len(one(STATUS)) == 2
    finally:
        db.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("call", ["CALL ml_scan(%s)", "CALL ml_retrain(%s)"])
def test_an_unknown_device_is_refused(db, one, refused, device, call):
    unknown = str(uuid.uuid4())
    said = refused(call, unknown, sqlstate="ML002")
    assert unknown in said.message_primary
    assert str(db.execute(said.message_hint).fetchone()[0]) == device
    assert one("SELECT count(*) FROM ml_scan_state") == 0
    assert one("SELECT count(*) FROM ml_job") == 0
    db.execute("INSERT INTO ml_device VALUES (%s, %s, 'a boiler')", [device, device])
    for other in (call, "SELECT ml_train_forest(%s)", "SELECT ml_state(%s)"):
        said = refused(other, unknown, sqlstate="ML002")
        assert db.execute(said.message_hint).fetchall() == [(device, "a boiler")]


@pytest.mark.slow
def test_a_forgotten_device_is_left_alone_until_it_reports(db, one, pair):
    stays, goes = pair
    ahead = NOW.replace("clock_timestamp()", "(now() + interval '9 years')")
    db.execute(ahead, [goes])
    db.execute("SELECT ml_forget(%s)", [goes])
    for _ in range(2):
        db.execute("CALL ml_retrain()")
        db.execute("CALL ml_scan()")
    assert one(STATUS) == [stays]
    assert one("SELECT count(*) FROM ml_model WHERE device_uuid = %s", goes) == 0
    db.execute(NOW, [goes])
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    assert sorted(one(STATUS)) == sorted(pair)
    forests = "SELECT count(*) FROM ml_model WHERE device_uuid = %s AND kind = 'forest'"
    assert one(forests, goes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("call", ["CALL ml_scan(%s)", "CALL ml_retrain(%s)"])
def test_naming_a_forgotten_device_brings_it_back(db, one, pair, call):
    _, goes = pair
    db.execute("SELECT ml_forget(%s)", [goes])
    assert one(RETIRED, goes) is True
    db.execute(call, [goes])
    assert one(RETIRED, goes) is False
    assert goes in one(STATUS)


def test_a_forgotten_device_whose_history_goes_leaves_nothing(db, one, pair):
    _, goes = pair
    db.execute("SELECT ml_forget(%s)", [goes])
    db.execute("DELETE FROM devices WHERE uuid = %s", [goes])
    db.execute("CALL ml_scan()")
    assert one(RETIRED, pair[0]) is False
    assert one("SELECT count(*) FROM ml_scan_state") == 1


def test_silence_is_reckoned_against_now(db, one, pair):
    """Not against the device's own last scan, which may be as old as its last reading."""
    assert one("SELECT silent FROM ml_fleet_health") == 0
    db.execute(
        "UPDATE ml_scan_state SET last_reading = now() - interval '2 hours', silent_from = NULL,"
        " scanned_at = now() - interval '119 minutes' WHERE device_uuid = %s",
        [pair[0]],
    )
    assert one("SELECT silent FROM ml_fleet_health") == 1
    assert one("SELECT device_uuid::text FROM ml_device_status WHERE silent") == pair[0]


BLOCKS = {
    "a transaction block": ("BEGIN", "CALL ml_{}()"),
    "several statements in one string": ("SELECT 1; CALL ml_{}()",),
    "a function": (
        "CREATE FUNCTION calls() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL ml_{}(); END'",
        "SELECT calls()",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["scan", "retrain"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_transaction_block_is_refused_before_any_work(db, one, refused, device, task, block):
    *before, call = (statement.format(task) for statement in BLOCKS[block])
    for statement in before:
        db.execute(statement)
    said = refused(call, sqlstate="25001")
    assert said.message_primary == f"ml_{task} cannot run inside a transaction block"
    for statement in said.message_hint.split(" -- then, as a statement of its own: "):
        db.execute(statement)
    assert one("SELECT count(*) FROM ml_job") == 1
    db.execute("DROP FUNCTION IF EXISTS calls")


@pytest.mark.slow
def test_a_block_of_plpgsql_that_is_no_transaction_may_call_them(db, one, device):
    db.execute("DO $$ BEGIN CALL ml_retrain(); CALL ml_scan(); END $$")
    assert one("SELECT count(*) FROM ml_job WHERE finished_at IS NOT NULL") == 2
