"""Rules: what people know of a device and its metrics, and which findings it keeps quiet."""

import pytest

from .test_incidents import AGO, EVENTS, HOT

RULE = "INSERT INTO ml_rule (device_uuid, metric, mute) VALUES (%s, %s, true)"


@pytest.fixture(autouse=True)
def _forests_only(db):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")


@pytest.fixture
def trained(db, one, add_device):
    """A device of eighty hours, trained as of five hours ago."""
    device = add_device(readings=4800)
    db.execute("SELECT ml_train_forest(%s, as_of => %s)", [device, one(AGO, 300)])
    return device


@pytest.fixture
def scan(db, one):
    """Scans of the past, at so many minutes before now."""

    def scans(*minutes):
        for ago in minutes:
            db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
            failed = db.execute("SELECT error FROM ml_scan_state WHERE outcome = 'failed'")
            assert failed.fetchall() == []

    return scans


def test_a_muted_metric_makes_no_incident_and_its_findings_are_recorded(db, one, trained, scan):
    db.execute(RULE, [trained, "temperature"])
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 0, -10))
    db.execute("CALL ml_scan()")
    assert db.execute("SELECT * FROM ml_incident").fetchall() == []
    assert db.execute(EVENTS).fetchall() == []
    rule = one("SELECT rule_id FROM ml_rule")
    kept = db.execute("SELECT detector FROM ml_finding WHERE rule_id = %s", [rule]).fetchall()
    assert ("level",) in kept
