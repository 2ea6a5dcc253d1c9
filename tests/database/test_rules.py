"""Rules: what people know of a device and its metrics, and which findings it keeps quiet."""

import pytest

from .conftest import AGO
from .test_incidents import EVENTS, HOT

pytestmark = pytest.mark.usefixtures("forests_only")

RULE = "INSERT INTO ml_rule (device_uuid, metric, mute) VALUES (%s, %s, true)"


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


@pytest.mark.slow
def test_what_is_proposed_runs_as_printed_and_keeps_the_like_quiet(db, one, trained, scan):
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 0, -10))
    number = one("SELECT incident_id FROM ml_incidents")
    said = one("SELECT ml_not_a_fault(%s, 'it is %%s sunny''s')", number)
    assert (said["state"], said["applied"], said["changed"]) == ("open", False, False)
    assert "only what is lower than usual is told" in said["words"]
    assert one("SELECT count(*) FROM ml_rule") == 0
    db.execute(said["statement"].encode())
    assert one("SELECT reason FROM ml_rules") == "it is %s sunny's"
    assert one("SELECT says FROM ml_rules") == "trouble only below the usual"
    again = one("SELECT ml_not_a_fault(%s)", number)
    assert again["statement"] is None
    rule = one("SELECT rule_id FROM ml_rule")
    assert again["words"] == f"Nothing more is needed: rule {rule} keeps it quiet."
    scan(0)
    assert one("SELECT state || ', ' || why FROM ml_incidents") == "resolved, a rule"
    for table in ("ml_incident", "ml_event", "ml_finding", "ml_anomaly", "ml_scan_state"):
        db.execute(f"DELETE FROM {table}")
    scan(*range(150, 0, -10))
    assert one("SELECT count(*) FROM ml_incident") == 0
    assert one("SELECT kept_quiet_7d FROM ml_rules") > 0
    # It is still told that the temperature falls.
    db.execute(HOT.replace("+ 25", "- 50"), [trained, -1, 240])
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    scan(0)
    assert " below what is usual " in one("SELECT summary FROM ml_incidents")


def test_what_is_applied_resolves_the_incident_once(db, one, trained, scan, refused):
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 0, -10))
    number = one("SELECT incident_id FROM ml_incidents")
    said = one("SELECT ml_not_a_fault(%s, 'a heat wave', apply => true)", number)
    assert (said["state"], said["applied"], said["changed"]) == ("resolved", True, True)
    assert one("SELECT why || note FROM ml_incidents") == "a persona heat wave"
    assert one("SELECT reason FROM ml_rule") == "a heat wave"
    again = one("SELECT ml_not_a_fault(%s, apply => true)", number)
    assert (again["state"], again["applied"], again["changed"]) == ("resolved", False, False)
    assert "it was resolved at" in again["told"]
    assert one("SELECT count(*) FROM ml_rule") == 1
    # What is resolved already may be no fault all the same.
    db.execute("DELETE FROM ml_rule")
    again = one("SELECT ml_not_a_fault(%s, apply => true)", number)
    assert (again["state"], again["applied"], again["changed"]) == ("resolved", True, False)
    assert [event for event, _ in db.execute(EVENTS)][-1] == "resolved"
    assert refused("SELECT ml_not_a_fault(999, apply => true)", sqlstate="ML002")
    assert refused("SELECT ml_not_a_fault(NULL)", sqlstate="ML002")
    said = refused("SELECT ml_not_a_fault(%s, repeat('x', 4001))", number, sqlstate="ML004")
    db.execute(said.message_hint)
    db.execute("DELETE FROM ml_finding")
    said = refused("SELECT ml_not_a_fault(%s)", number, sqlstate="ML001")
    db.execute(said.message_hint)


def test_a_rule_takes_precedence_of_its_metric(db, one, trained, scan):
    """The model has been trained to tell of falls alone; a rule of the device tells of rises."""
    db.execute("UPDATE ml_metric SET direction = 'down' WHERE name = 'temperature'")
    db.execute("SELECT ml_train_forest(%s, as_of => %s)", [trained, one(AGO, 300)])
    db.execute("UPDATE ml_metric SET enabled = name = 'temperature'")
    db.execute(HOT, [trained, -1, 120])
    levels = "SELECT count(*) FROM ml_finding WHERE detector = 'level' AND metric = 'temperature'"
    scan(0)
    assert one(levels) == 0
    say = "INSERT INTO ml_rule (device_uuid, metric, direction) VALUES (%s, 'temperature', %s)"
    db.execute(say, [None, "down"])
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    scan(0)
    assert one(levels + " AND rule_id IS NOT NULL AND incident_id IS NULL") == 1
    db.execute(say, [trained, "both"])
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    scan(0)
    assert one(levels + " AND rule_id IS NULL AND incident_id IS NOT NULL") == 1


@pytest.mark.rolled_back
def test_the_limits_of_a_device_are_those_of_the_narrowest_rule(db, one, device):
    limits = "SELECT (limit_low, limit_high)::text FROM ml_limits(%s) WHERE metric = 'cpu_usage'"
    assert one(limits, device) == "(,80)"
    db.execute("INSERT INTO ml_rule (metric, limit_low, limit_high) VALUES ('cpu_usage', 5, 70)")
    db.execute("SELECT _ml_meet(ARRAY[%s::uuid])", [device])
    rule = "INSERT INTO ml_rule (device_uuid, metric, limit_high, mute) VALUES (%s, 'cpu_usage', "
    db.execute(rule + "60, false)", [device])
    assert one(limits, device) == "(5,60)"
    db.execute(rule + "NULL, true)", [device])
    assert one(limits, device) == "(,)"


def test_a_mute_that_has_ended_mutes_no_longer_what_goes_on(db, one, trained, scan):
    db.execute(RULE, [trained, "temperature"])
    db.execute("UPDATE ml_rule SET until = now() - interval '45 minutes'")
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 45, -10))
    assert one("SELECT count(*) FROM ml_incident") == 0
    scan(40, 30)
    assert one("SELECT state FROM ml_incidents") == "open"
    assert one("SELECT count(*) FROM ml_rules") == 0


def test_the_doctor_warns_of_a_rule_that_mutes_everything_for_ever(db, device):
    checked = "SELECT ok, detail, fix FROM ml_doctor() WHERE check_name = 'rules'"
    assert db.execute(checked).fetchone()[0]
    db.execute("INSERT INTO ml_rule (mute, metric) VALUES (true, '')")
    ok, detail, fix = db.execute(checked).fetchone()
    assert not ok
    assert "mutes everything of all devices" in detail
    db.execute(fix)
    assert db.execute(checked).fetchone()[0]


def test_what_is_said_of_a_device_goes_when_it_is_forgotten(db, one, trained):
    db.execute(RULE, [trained, "temperature"])
    db.execute(RULE, [None, "temperature"])
    db.execute("SELECT ml_forget(%s)", [trained])
    assert db.execute("SELECT device_uuid FROM ml_rule").fetchall() == [(None,)]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "mute, direction, least_deviation, limit_low or limit_high"),
        ({"mute": None}, "mute is true or false"),
        ({"mute": True, "direction": "up"}, "a rule that mutes says nothing else"),
        ({"direction": "sideways"}, "direction is both, up or down"),
        ({"least_deviation": 1}, "a metric, whose unit"),
        ({"limit_low": 1}, "a metric, whose unit"),
        ({"metric": "noise", "mute": True}, "there is none called 'noise'"),
        ({"metric": "cpu_usage", "least_deviation": "NaN"}, "least_deviation is from 0 to 1e15"),
        ({"metric": "cpu_usage", "least_deviation": -1}, "least_deviation is from 0 to 1e15"),
        ({"metric": "cpu_usage", "limit_high": "Infinity"}, "limits are from -1e15 to 1e15"),
        ({"metric": "cpu_usage", "limit_low": 2, "limit_high": 2}, "limit_low is less"),
        ({"mute": True, "until": "infinity"}, "until is a moment, or NULL"),
        ({"mute": True, "reason": "x" * 4001}, "a reason of at most 4000 characters, not 4001"),
    ],
)
def test_a_rule_that_says_nothing_that_can_be_followed_is_refused(db, refused, changes, wanted):
    given = {"mute": False} | changes
    marks = ", ".join(["%s"] * len(given))
    said = refused(
        f"INSERT INTO ml_rule ({', '.join(given)}) VALUES ({marks})",
        *given.values(),
        sqlstate="ML004",
    )
    assert said.message_primary == "a rule cannot be as it is given"
    assert wanted in said.message_detail
    db.execute(said.message_hint)


def test_a_rule_of_a_device_that_nobody_has_met_is_refused(db, refused):
    stranger = "11111111-2222-3333-4444-555555555555"
    said = refused(RULE, stranger, "cpu_usage", sqlstate="ML002")
    assert said.message_primary == f"there is no device {stranger}"
    db.execute(said.message_hint)
    window = "INSERT INTO ml_quiet (device_uuid, starts_at, ends_at) VALUES (%s, now(), now())"
    assert refused(window, stranger, sqlstate="ML002")
