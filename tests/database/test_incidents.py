"""Incidents: one trouble, told once, by real scans of real devices; and what people say of them."""

from datetime import timedelta

import pytest

from .conftest import AGO

pytestmark = pytest.mark.usefixtures("forests_only")
HOT = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,temperature}',
    to_jsonb((reported_state #>> '{system,temperature}')::float8 + 25))
WHERE device_uuid = %s AND (now() AT TIME ZONE 'UTC') - "timestamp"
    BETWEEN make_interval(mins => %s) AND make_interval(mins => %s)
"""
EVERY = "SELECT * FROM ml_incident ORDER BY incident_id"
EVENTS = "SELECT event, replayed FROM ml_event ORDER BY event_id"
PUT = """
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, resolved_at, why, summary, evidence, updated_at)
SELECT d, 'level', %(state)s, 'warning', 'temperature', t, t, t + interval '5 minutes',
    CASE %(state)s WHEN 'resolved' THEN t + interval '1 hour' END,
    CASE %(state)s WHEN 'resolved' THEN 'over' END, 'temperature is odd', '{}', t
FROM unnest(%(devices)s::uuid[]) WITH ORDINALITY AS u (d, place),
    LATERAL (SELECT now() - (%(minutes)s - place) * interval '1 minute') AS x (t)
RETURNING incident_id
"""


@pytest.fixture
def hot(db, trained, scan):
    """A device whose temperature has been 25 degrees higher for two hours; scanned until now."""
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 0, -10))
    db.execute("CALL ml_scan()")
    return trained


def test_a_fault_is_one_incident_from_its_begin_in_words(db, one, hot):
    assert db.execute("SELECT DISTINCT outcome FROM ml_scan_state").fetchall() == [("scanned",)]
    rows = db.execute(
        "SELECT state, severity, kind, leading_metric, extract(epoch FROM now() - started_at) / 60,"
        " extract(epoch FROM now() - opened_at) / 60, extract(epoch FROM now() - ended_at) / 60,"
        " device_name, summary, tiers FROM ml_incidents"
    ).fetchall()
    assert len(rows) == 1
    state, severity, kind, metric, began, opened, seen, name, summary, tiers = rows[0]
    assert (state, severity, kind, metric) == ("open", "critical", "level", "temperature")
    assert 118 <= began <= 140  # a small part of a window tells where in it a move began
    assert 100 <= opened <= 111
    assert seen < 10
    assert name
    assert summary.startswith("temperature has been at ")
    assert " °C since " in summary
    assert "above what is usual at this hour" in summary
    assert {"forest", "level"} <= set(tiers)
    evidence = one("SELECT evidence FROM ml_incidents")
    assert evidence["detector"] == "level"
    assert evidence["findings"][0]["sentence"]
    # What a replay finds is told to nobody; the last scan was none.
    events = db.execute(EVENTS).fetchall()
    assert [event for event, _ in events if event != "escalated"] == ["opened"]
    assert events[0] == ("opened", True)
    assert one("SELECT status FROM ml_device_status") == "critical"
    assert one("SELECT incident_at FROM ml_anomalies LIMIT 1") == one(
        "SELECT started_at FROM ml_incidents"
    )
    assert one("SELECT bool_and(incident_id IS NOT NULL) FROM ml_finding WHERE rarity > 700")


def test_another_scan_of_the_same_time_changes_nothing(db, hot, scan):
    before, told = db.execute(EVERY).fetchall(), db.execute(EVENTS).fetchall()
    db.execute("UPDATE ml_scan_state SET watermark = watermark - interval '90 minutes'")
    db.execute("CALL ml_scan()")
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    db.execute("CALL ml_scan()")
    after = db.execute(EVERY).fetchall()
    assert [row[:9] for row in after] == [row[:9] for row in before]
    assert db.execute(EVENTS).fetchall() == told


def test_what_has_not_changed_is_not_written_again(db, one, hot):
    """Also where readings come at fractions of a second."""
    db.execute("UPDATE device_shadow_history SET timestamp = timestamp + interval '250 ms'")
    for table in ("ml_incident", "ml_event", "ml_finding", "ml_anomaly", "ml_scan_state"):
        db.execute(f"DELETE FROM {table}")
    for _ in range(2):
        db.execute("UPDATE ml_scan_state SET watermark = NULL")
        db.execute("CALL ml_scan()")
    began, written = db.execute("SELECT started_at, updated_at FROM ml_incident").fetchone()
    assert began == one("SELECT min(started_at) FROM ml_finding WHERE incident_id IS NOT NULL")
    assert began.microsecond == 250_000
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    db.execute("CALL ml_scan()")
    assert one("SELECT updated_at FROM ml_incident") == written


def test_it_is_over_when_all_has_been_well_for_half_an_hour(db, one, trained, scan):
    db.execute(HOT, [trained, 150, 240])
    scan(*range(250, 130, -10))
    assert one("SELECT state FROM ml_incidents") == "open"
    scan(*range(130, 40, -10))
    state, why, lasted, resolved = db.execute(
        "SELECT state, why, ended_at - started_at, resolved_at FROM ml_incidents"
    ).fetchone()
    assert (state, why) == ("resolved", "over")
    assert timedelta(minutes=85) < lasted < timedelta(minutes=140)  # windows look back
    assert one(AGO, 115) < resolved < one(AGO, 40)
    db.execute("CALL ml_scan()")
    assert "Over since " in one("SELECT summary FROM ml_incidents")
    assert [event for event, _ in db.execute(EVENTS)][-1] == "resolved"
    assert one("SELECT status FROM ml_device_status") == "ok"


def test_a_real_scan_s_events_are_to_be_told(db, one, trained):
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_incident") == 0
    db.execute(HOT, [trained, -1, 14])
    db.execute("UPDATE ml_scan_state SET watermark = watermark - interval '14 minutes'")
    db.execute("CALL ml_scan()")
    assert ("opened", False) in db.execute(EVENTS).fetchall()


def test_acknowledged_and_resolved_by_a_person(db, one, hot, refused):
    number = one("SELECT incident_id FROM ml_incidents")
    said = one("SELECT ml_acknowledge(%s, 'the fan is on order')", number)
    assert (said["state"], said["changed"], said["told"]) == ("acknowledged", True, None)
    again = one("SELECT ml_acknowledge(%s)", number)
    assert (again["state"], again["changed"]) == ("acknowledged", False)
    assert "acknowledged it at " in again["told"]
    assert again["note"] == "the fan is on order"
    db.execute(HOT, [hot, 121, 130])
    db.execute("UPDATE ml_scan_state SET watermark = watermark - interval '1 minute'")
    db.execute("CALL ml_scan()")
    assert one("SELECT state FROM ml_incidents") == "acknowledged"
    said = one("SELECT ml_resolve(%s, 'replaced')", number)
    assert (said["state"], said["changed"]) == ("resolved", True)
    again = one("SELECT ml_resolve(%s)", number)
    assert not again["changed"]
    assert "it was resolved at " in again["told"]
    assert not one("SELECT ml_acknowledge(%s)", number)["changed"]
    row = db.execute("SELECT state, why, note, resolved_by FROM ml_incidents").fetchone()
    assert row[:3] == ("resolved", "a person", "replaced")
    assert row[3] == one("SELECT session_user")
    told = [event for event, _ in db.execute(EVENTS)]
    assert told[-2:] == ["acknowledged", "resolved"]
    # It goes on, and nobody is told again.
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_incident") == 1
    assert [event for event, _ in db.execute(EVENTS)] == told
    refusal = refused("SELECT ml_resolve(%s)", 999, sqlstate="ML002")
    assert refusal.message_primary == "there is no incident 999"
    db.execute(refusal.message_hint)
    assert refused("SELECT ml_acknowledge(NULL)", sqlstate="ML002")
    assert refused("SELECT ml_resolve(%s, repeat('x', 4001))", number, sqlstate="ML004")


def test_how_often_it_speaks_is_a_setting_of_the_fleet_and_of_a_device(db, one, hot, refused):
    assert one("SELECT expected_7d FROM ml_fleet_health") == 1
    assert one("SELECT incidents_7d FROM ml_fleet_health") == 1
    db.execute("UPDATE ml_device SET false_alarms_per_week = 0.25")
    assert one("SELECT expected_7d FROM ml_fleet_health") == 0.25
    db.execute("DELETE FROM ml_incident")
    db.execute("DELETE FROM ml_event")
    # Nothing that a week of one device tells is as rare as that.
    db.execute("UPDATE ml_device SET false_alarms_per_week = 0.01")
    db.execute("UPDATE ml_scan_state SET watermark = NULL")
    db.execute("UPDATE ml_finding SET rarity = 1000")
    db.execute("DELETE FROM ml_anomaly")
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_finding") > 0
    assert one("SELECT count(*) FROM ml_incident") == 0
    assert refused(
        "UPDATE ml_setting SET value = '0' WHERE name = 'false_alarms_per_week'", sqlstate="ML004"
    )


def test_the_incidents_of_a_device_that_is_forgotten_end(db, one, hot):
    db.execute("SELECT ml_forget(%s)", [hot])
    row = db.execute("SELECT state, why, device_id FROM ml_incidents").fetchone()
    assert row == ("resolved", "retired", hot)
    assert [event for event, _ in db.execute(EVENTS)][-1] == "resolved"


def test_what_is_resolved_is_kept_for_incident_days(db, one, device):
    db.execute(PUT, {"devices": [device], "state": "resolved", "minutes": 60 * 24 * 40})
    db.execute(PUT, {"devices": [device], "state": "open", "minutes": 60 * 24 * 40})
    db.execute(
        "INSERT INTO ml_event (incident_id, device_uuid, event, happened_at, replayed)"
        " SELECT incident_id, device_uuid, 'opened', opened_at, false FROM ml_incident"
    )
    db.execute("SELECT _ml_retain(NULL)")
    assert one("SELECT count(*) FROM ml_incident") == 2
    db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'incident_days'")
    db.execute("SELECT _ml_retain(NULL)")
    assert db.execute("SELECT state FROM ml_incident").fetchall() == [("open",)]
    assert one("SELECT count(*) FROM ml_event") == 1


def test_the_same_trouble_of_many_devices_is_one_row(db, one):
    devices = [
        device
        for (device,) in db.execute("SELECT md5(i::text)::uuid FROM generate_series(1, 60) AS i")
    ]
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
        " SELECT d, now(), 'scanned', now() FROM unnest(%s::uuid[]) AS d",
        [devices],
    )
    db.execute(PUT, {"devices": devices[:5], "state": "open", "minutes": 60})
    assert db.execute("SELECT * FROM ml_fleet_incidents").fetchall() == []  # not a tenth
    db.execute(PUT, {"devices": devices[5:7], "state": "resolved", "minutes": 50})
    db.execute(PUT, {"devices": devices[7:9], "state": "open", "minutes": 20})  # another time
    rows = db.execute(
        "SELECT kind, leading_metric, devices, state, cardinality(incident_ids), summary"
        " FROM ml_fleet_incidents"
    ).fetchall()
    assert len(rows) == 1
    assert rows[0][:5] == ("level", "temperature", 7, "open", 7)
    assert rows[0][5].startswith("7 of 60 devices: temperature level since ")


@pytest.mark.slow
def test_views_read_few_rows_of_a_hundred_thousand_incidents(db, one):
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
        " SELECT md5(i::text)::uuid, now(), 'scanned', now() FROM generate_series(1, 10000) AS i"
    )
    db.execute(
        "INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at,"
        " opened_at, ended_at, resolved_at, why, summary, evidence, updated_at)"
        " SELECT md5((i % 10000 + 1)::text)::uuid, 'value', 'resolved', 'warning', 'cpu_usage',"
        " t, t, t, t, 'over', 'cpu_usage is odd', '{}', t FROM generate_series(1, 100000) AS i,"
        " LATERAL (SELECT now() - i * interval '10 minutes') AS x (t)"
    )
    db.execute(
        "UPDATE ml_incident SET state = 'open', why = NULL, resolved_at = NULL"
        " WHERE incident_id % 500 = 0"
    )
    db.execute("ANALYZE ml_incident")
    db.execute("ANALYZE ml_scan_state")

    def read(query):
        """Rows that a query takes from tables and indexes."""
        plan = one(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) SELECT * FROM {query}")
        total, left = 0.0, [plan[0]["Plan"]]
        while left:
            node = left.pop()
            left += node.get("Plans", [])
            if "Relation Name" in node:
                kept = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                total += kept * node["Actual Loops"]
        return total

    device = "device_uuid = md5('7')::uuid"
    assert read(f"ml_incidents WHERE {device}") <= 60
    assert read("ml_incidents LIMIT 20") <= 200
    assert read("ml_incidents WHERE state <> 'resolved'") <= 1500
    assert read("ml_incidents WHERE incident_id = 77") <= 10
    assert read("ml_fleet_incidents") <= 12_000  # of which the fleet is 10,000
    assert read(f"ml_device_status WHERE {device}") <= 60
