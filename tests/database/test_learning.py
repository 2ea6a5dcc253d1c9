"""A new device of a fleet: what is found before it has models of its own."""

import os

import psycopg
import pytest

from pyml.following import finders

from .conftest import AGO

NEWEST = (
    " WHERE device_uuid = %s AND \"timestamp\" > (now() AT TIME ZONE 'UTC') - interval '40 minutes'"
)
SAYS = (
    "UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, %s, %s)" + NEWEST
)
SILENT = "DELETE FROM device_shadow_history" + NEWEST
TOLD = """
SELECT kind, leading_metric, state, evidence #>> '{evidence,scope}', rarity > 168, summary
FROM ml_incidents WHERE device_uuid = %s
"""
STATUS = "SELECT status, scan_outcome, error FROM ml_device_status WHERE device_uuid = %s"
POOL = "SELECT _ml_answer(_ml_pool_models()) ->> 'kinds'"
TEMPERATURE = "{system,temperature}"


@pytest.fixture
def fleet(db, one, add_device, train, forests_only):
    """Three devices with models, and what was made of these."""
    devices = [add_device(readings=1500) for _ in range(3)]
    for device in devices:
        train(device)
    db.execute("SELECT _ml_pool_peaks()")
    one(POOL)
    return devices


def scanned(db, one, device, *minutes):
    """Scans as of so many minutes ago; the status after each."""
    found = []
    for ago in minutes:
        db.execute("CALL ml_scan(%s, %s)", [device, one(AGO, ago)])
        found.append(db.execute(STATUS, [device]).fetchone())
    return found


def test_gross_faults_of_a_new_device_are_told_in_its_third_hour(db, one, fleet, add_device):
    faults = {
        "stuck": (SAYS, TEMPERATURE, "45.3"),
        "level": (SAYS, TEMPERATURE, "65535"),
        "junk": (SAYS, "{system,cpuUsage}", "65535"),
        "missing": (SAYS, TEMPERATURE, "null"),
        "silent": (SILENT,),
        "": ("SELECT 1" + NEWEST.replace("WHERE", "FROM device_shadow_history WHERE"),),
    }
    for kind, (statement, *args) in faults.items():
        device = add_device(readings=160)
        db.execute(statement, [*args, device])
        assert scanned(db, one, device, 150)[0][1:] == ("scanned", None)
        scanned(db, one, device, 60, 30, 20, 10, 0)
        told = db.execute(TOLD, [device]).fetchall()
        if not kind:
            assert told == []
            assert db.execute(STATUS, [device]).fetchone()[0] == "learning"
            continue
        (row,) = told
        metric = {"silent": "", "junk": "cpu_usage"}.get(kind, "temperature")
        known = None if kind == "level" else True  # young levels have no peaks
        assert row[:5] == (kind, metric or None, "open", "fleet", known)
        assert "other devices" in row[5] or kind in ("junk", "missing")


def test_its_own_models_take_over_and_what_goes_on_is_not_told_anew(
    db, one, fleet, add_device, train
):
    device = add_device(readings=4400)
    db.execute(SAYS, [TEMPERATURE, "45.3", device])
    scanned(db, one, device, 60, 20)
    (before,) = db.execute(TOLD, [device]).fetchall()
    assert before[:4] == ("stuck", "temperature", "open", "fleet")
    train(device)
    scanned(db, one, device, 10, 0)
    (after,) = db.execute(TOLD, [device]).fetchall()
    assert after[:4] == ("stuck", "temperature", "open", None)
    assert "it never stands still" in after[5]
    assert one("SELECT count(*) FROM ml_event WHERE event = 'opened'") == 1


def test_a_device_of_another_rhythm_or_metrics_is_not_judged(db, one, fleet, add_device):
    slow, other = add_device(readings=60, interval=600), add_device(readings=200)
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_build_object('x', 1)"
        " WHERE device_uuid = %s",
        [other],
    )
    for device in (slow, other):
        ((status, outcome, error),) = scanned(db, one, device, 0)
        assert (status, outcome) == ("untrained", "failed")
        assert "has no forest" in error


def test_a_fleet_of_two_makes_nothing(db, one, fleet, add_device):
    kinds = [finder.kind for finder in finders()]
    assert one("SELECT array_agg(kind ORDER BY kind) FROM ml_fleet_model") == kinds
    assert one("SELECT array_agg(DISTINCT devices) FROM ml_fleet_model") == [3]
    before = one("SELECT jsonb_agg(sha256 ORDER BY kind) FROM ml_fleet_model")
    one(POOL)
    assert one("SELECT jsonb_agg(sha256 ORDER BY kind) FROM ml_fleet_model") == before
    db.execute("SELECT ml_forget(%s)", [fleet[0]])
    assert one(POOL) == "[]"
    assert one("SELECT count(*) FROM ml_fleet_model") == 0
    device = add_device(readings=200)
    assert scanned(db, one, device, 0)[0][0] == "untrained"


def test_a_model_that_is_no_model_takes_no_part(db, one, fleet, add_device):
    """Neither of a device nor of the fleet; nor one of metrics that are configured otherwise."""
    db.execute("UPDATE ml_model SET blob = 'x' WHERE kind = 'junk' AND device_uuid = %s", fleet[:1])
    assert "junk" not in one(POOL)
    assert "stuck" in one(POOL)
    device = add_device(readings=200)
    db.execute("UPDATE ml_fleet_model SET blob = 'x', sha256 = encode(sha256('x'), 'hex')")
    assert scanned(db, one, device, 20)[0][0] == "untrained"
    one(POOL)
    assert scanned(db, one, device, 10)[0][0] == "learning"
    db.execute("UPDATE ml_metric SET scale = 2")
    assert scanned(db, one, device, 0)[0][0] == "untrained"


def test_who_sees_some_devices_alone_makes_nothing_of_the_fleet(db, one, fleet):
    role, made = f"pyml_{os.getpid()}_learning", "SELECT max(made_at) FROM ml_fleet_model"
    # Of no device: an attempt that trains nothing.
    db.execute("UPDATE ml_setting SET value = '[\"system.no\"]' WHERE name = 'forecast_fields'")
    db.execute("SELECT ml_row_security('true')")
    db.execute(f"CREATE ROLE {role}")
    db.execute(f"GRANT SELECT ON device_shadow_history TO {role}")
    before = one(made)
    for level in ("read", "train"):
        db.execute("SELECT ml_grant(%s, %s)", [role, level])
        db.execute(f"SET ROLE {role}")
        assert one(made) == before
        if level == "read":
            for statement in (POOL, "SELECT _ml_put_fleet_models('{}', '{}', '{}')"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    db.execute(statement)
        else:
            db.execute("CALL ml_retrain(%s)", fleet[:1])
            assert one(made) == before
        db.execute("RESET ROLE")
    db.execute("CALL ml_retrain(%s)", fleet[1:2])
    assert one(made) > before
    assert one("SELECT array_agg(done) FROM ml_job WHERE kind = 'retrain'") == [1, 1]
    db.execute(f"DROP OWNED BY {role}")
    db.execute(f"DROP ROLE {role}")
