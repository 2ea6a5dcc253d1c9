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


def test_the_same_without_a_rule_is_an_incident_and_what_is_proposed_keeps_it_quiet(
    db, one, trained, scan
):
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 0, -10))
    number = one("SELECT incident_id FROM ml_incidents")
    said = one("SELECT ml_not_a_fault(%s)", number)
    print(said)
    assert said["state"] == "open"
    assert not said["applied"]
    assert one("SELECT count(*) FROM ml_rule") == 0
    db.execute(said["statement"])
    print(db.execute("SELECT * FROM ml_rules").fetchall())
    again = one("SELECT ml_not_a_fault(%s)", number)
    assert again["statement"] is None
    scan(0)
    assert one("SELECT state || ', ' || why FROM ml_incidents") == "resolved, a rule"
    for table in ("ml_incident", "ml_event", "ml_finding", "ml_anomaly", "ml_scan_state"):
        db.execute(f"DELETE FROM {table}")
    scan(*range(150, 0, -10))
    assert one("SELECT count(*) FROM ml_incident") == 0
    assert one("SELECT kept_quiet_7d FROM ml_rules") > 0
