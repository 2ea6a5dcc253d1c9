"""pyml.workers.notify: who is told of what, by real receivers."""

import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyml.workers.notify import PAUSE, pause
from tests.receivers import (
    SECRET,
    Receiver,
    free_port,
    notify,
    notifying,
    receiving,
    table,
    until,
)

# An incident of each of so many devices, all begun now, by the function that scans write with.
OPEN = """
SELECT _ml_put_incidents(d, date_part('epoch', now()), false, jsonb_build_array(jsonb_build_object(
    'kind', %(kind)s::text, 'state', 'open', 'severity', %(severity)s::text,
    'leading_metric', 'temperature', 'started_at', date_part('epoch', now()) - 600,
    'ended_at', date_part('epoch', now()), 'opened_at', date_part('epoch', now()),
    'summary', 'temperature is 25 °C above what is usual', 'evidence', '{}'::jsonb,
    'members', '[]'::jsonb, 'events', '["opened"]'::jsonb)))
FROM unnest(%(devices)s::uuid[]) AS d
"""
LAST = "SELECT max(incident_id) FROM ml_incident"
MINUTE = timedelta(minutes=1)
ANY_DEVICE = "00000000-0000-4000-8000-000000000001"
PAST = {"kind": "level", "severity": "critical"}


@pytest.fixture
def opened(db, one):
    """Open incidents of new devices; the ids of the devices."""

    def opens(count=1, kind="level", severity="warning", names=None):
        devices = [one("SELECT gen_random_uuid()::text") for _ in range(count)]
        for number, device in enumerate(devices):
            db.execute(
                "INSERT INTO ml_device (device_uuid, device_id, device_name) VALUES (%s, %s, %s)",
                [device, device, names[number] if names else f"device {number}"],
            )
        db.execute(
            "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome)"
            " SELECT d, now(), 'scanned' FROM unnest(%s::uuid[]) AS d",
            [devices],
        )
        db.execute(OPEN, {"devices": devices, "kind": kind, "severity": severity})
        return devices

    return opens


@pytest.fixture
def receiver():
    with receiving() as one:
        yield one


def registered(targets: str, dsn: str) -> None:
    """Let the targets be known, so that they are told from now on."""
    ran = notify(targets, "--once", "--dsn", dsn)
    assert ran.returncode == 0, ran.stderr


def test_an_incident_is_told_from_its_begin_to_its_end(db, dsn, one, receiver: Receiver, opened):
    targets = receiver.table(link="https://pages.example/{incident_id}/{device_id}")
    with notifying(targets, "--dsn", dsn):
        until(lambda: one("SELECT count(*) FROM ml_target") == 1)
        [device] = opened(names=["boiler 7"])
        until(lambda: receiver.got)
        number = one(LAST)
        db.execute("SELECT ml_acknowledge(%s, 'on my way')", [number])
        db.execute("SELECT ml_resolve(%s)", [number])
        until(lambda: len(receiver.got) == 3)
    assert [told["event"] for told in receiver.got] == ["opened", "acknowledged", "resolved"]
    first = receiver.got[0]
    assert (first["incident_id"], first["device_uuid"]) == (number, device)
    assert (first["device_name"], first["kind"], first["severity"]) == (
        "boiler 7",
        "level",
        "warning",
    )
    assert first["summary"] == "temperature is 25 °C above what is usual"
    assert first["link"] == f"https://pages.example/{number}/{device}"
    assert "score" not in str(receiver.got)
    rows = db.execute("SELECT DISTINCT state, attempts, error FROM ml_deliveries").fetchall()
    assert rows == [("confirmed", 1, None)]


def test_what_happened_before_a_target_was_known_is_not_told(db, dsn, receiver, opened):
    opened()
    registered(receiver.table(), dsn)
    opened()
    registered(receiver.table(), dsn)
    assert [told["device_name"] for told in receiver.got] == ["device 0"]


def test_of_a_replay_nobody_is_told(db, dsn, one, receiver, opened):
    registered(receiver.table(), dsn)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("LISTEN pyml")
        db.execute(OPEN.replace("false, jsonb", "true, jsonb"), PAST | {"devices": [ANY_DEVICE]})
        opened()
        heard = list(other.notifies(timeout=2, stop_after=2))
    assert one("SELECT count(*) FROM ml_event WHERE replayed") == 1
    assert one("SELECT count(*) FROM ml_delivery") == 1
    last = one("SELECT max(event_id) FROM ml_event")
    assert [json.loads(each.payload) for each in heard] == [{"event_id": last}]


def test_an_event_commits_as_durably_as_the_server_does(db, one, opened):
    opened()
    asked = one("SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'")
    other = "local" if asked != "local" else "off"
    for door in ("SELECT ml_acknowledge(%s)", "SELECT ml_resolve(%s)"):
        with db.transaction():
            db.execute(f"SET LOCAL synchronous_commit = {other}")
            db.execute(door, [one(LAST)])
            assert one("SHOW synchronous_commit") == asked


FILTERS = {
    "severity": ({"severity": "critical"}, [False, True, True]),
    "kinds": ({"kinds": ["stuck", "silent"]}, [False, False, True]),
    "devices": ({"devices": ["boiler-*"]}, [True, False, True]),
    "a name with a percent sign": ({"devices": ["b%"]}, [False, False, False]),
    "all together": ({"severity": "critical", "devices": ["*-2"]}, [False, False, True]),
}


@pytest.mark.parametrize("case", FILTERS)
def test_a_target_is_told_of_what_it_asks_for(db, dsn, receiver, opened, case):
    asked, told = FILTERS[case]
    registered(receiver.table(**asked), dsn)
    opened(names=["boiler-1"])
    opened(names=["fan"], severity="critical")
    opened(names=["boiler-2"], severity="critical", kind="stuck")
    registered(receiver.table(**asked), dsn)
    names = ["boiler-1", "fan", "boiler-2"]
    assert [one["device_name"] for one in receiver.got] == [
        name for name, wanted in zip(names, told, strict=True) if wanted
    ]


def test_who_heard_of_an_incident_hears_of_its_end_whatever_it_became(
    db, dsn, one, receiver, opened
):
    targets = receiver.table(kinds=["value"])
    registered(targets, dsn)
    opened(kind="value")
    db.execute("UPDATE ml_incident SET kind = 'stuck'")
    db.execute("SELECT ml_resolve(%s)", [one(LAST)])
    registered(targets, dsn)
    assert [told["event"] for told in receiver.got] == ["opened", "resolved"]


@pytest.mark.slow
def test_what_fails_is_tried_again_in_order_and_stops_nobody_else(db, dsn, one, opened):
    tries = []

    def fails(handler, document):
        tries.append(document["event_id"])
        return 503 if len(tries) <= 2 else 204

    with receiving(fails) as poor, receiving() as good:
        targets = poor.table("poor") + good.table("good")
        with notifying(targets, "--dsn", dsn):
            until(lambda: one("SELECT count(*) FROM ml_target") == 2)
            opened()
            until(lambda: tries)
            db.execute("SELECT ml_acknowledge(%s)", [one(LAST)])
            until(lambda: len(good.got) == 2)
            assert poor.got == []
            error, state = db.execute(
                "SELECT error, state FROM ml_deliveries WHERE target = 'poor' AND event = 'opened'"
            ).fetchone()
            assert (error, state) == ("it answers 503 Service Unavailable", "waiting")
            until(lambda: len(poor.got) == 2)
    first, second = (told["event_id"] for told in poor.got)
    assert tries == [first, first, first, second]


def test_a_target_may_fail_for_weeks():
    assert [pause(1), pause(2), pause(10), pause(5000)] == [2, 4, PAUSE, PAUSE]


@pytest.mark.slow
def test_what_cannot_be_told_for_a_day_is_a_dead_letter(db, dsn, one, opened):
    answers = [500]
    with receiving(lambda handler, document: answers[0]) as receiver:
        targets = receiver.table()
        registered(targets, dsn)
        opened()
        failed = notify(targets, "--once", "--dsn", dsn)
        assert failed.returncode == 1
        assert "ops: event" in failed.stderr
        assert one("SELECT state FROM ml_deliveries") == "waiting"
        assert ask(db)[0] is True
        db.execute("UPDATE ml_delivery SET next_at = now(), waits_since = now() - interval '1 h'")
        ok, detail, fix = ask(db)
        assert (ok, detail) == (False, "1 messages have waited for more than 15 minutes")
        assert [row[0] for row in db.execute(fix).fetchall()] == ["ops"]
        db.execute("UPDATE ml_delivery SET next_at = now(), waits_since = now() - interval '25 h'")
        notify(targets, "--once", "--dsn", dsn)
        row = db.execute("SELECT state, attempts, error, device_name FROM ml_deliveries").fetchone()
        assert row == ("dead", 2, "it answers 500 Internal Server Error", "device 0")
        ok, detail, fix = ask(db)
        assert ok is False
        assert detail == "1 dead letters; the last: ops: it answers 500 Internal Server Error"
        assert notify(targets, "--once", "--dsn", dsn).returncode == 0  # it is not tried
        answers[0] = 200
        db.execute(fix)
        assert ask(db)[0] is True
        assert notify(targets, "--once", "--dsn", dsn).returncode == 0
    assert len(receiver.got) == 1
    assert one("SELECT ml_resend()") == 0


def ask(db):
    """The doctor's row on deliveries."""
    rows = db.execute("SELECT * FROM ml_doctor() WHERE check_name = 'deliveries'").fetchall()
    return rows[0][1:]


def test_a_run_that_cannot_reach_one_target_tells_the_others(db, dsn, one, opened):
    with receiving(lambda handler, document: 500) as poor, receiving() as good:
        targets = poor.table("a-poor-one") + good.table("good")
        registered(targets, dsn)
        for number in range(5):
            opened(kind=f"kind{number}")
        assert notify(targets, "--once", "--dsn", dsn).returncode == 1
        assert len(good.got) == 5
        attempts = "SELECT sum(attempts) FROM ml_delivery WHERE target = 'a-poor-one'"
        assert one(attempts) == 3  # then it is given up for this time


def test_the_doctor_misses_a_notifier_that_is_gone(db, dsn, receiver):
    assert ask(db) == (True, "no target is known: nobody is told of incidents", None)
    registered(receiver.table(), dsn)
    assert ask(db)[0] is True
    db.execute("UPDATE ml_target SET seen_at = now() - interval '2 hours'")
    ok, detail, fix = ask(db)
    assert (ok, detail) == (False, "no notifier has been at work for target ops for an hour")
    db.execute(fix.partition("; or, if it is gone, ")[2])
    assert ask(db)[0] is True


def test_an_unknown_target_is_not_sent_again(refused):
    assert (
        "no target 'mail'" in refused("SELECT ml_resend('mail')", sqlstate="ML002").message_primary
    )


@pytest.mark.slow
def test_two_notifiers_tell_each_event_once_and_in_order(db, dsn, one, opened):
    def slow(handler, document):
        time.sleep(0.02)
        return 204

    with receiving(slow) as first, receiving() as second:
        targets = first.table("first") + second.table("second")
        registered(targets, dsn)
        with notifying(targets, "--dsn", dsn), notifying(targets, "--dsn", dsn):
            for number in range(20):  # a kind each, so that they are no flood
                opened(kind=f"kind{number}")
                db.execute("SELECT ml_acknowledge(%s)", [one(LAST)])
                db.execute("SELECT ml_resolve(%s)", [one(LAST)])
            until(lambda: len(first.got) >= 60 and len(second.got) >= 60)
            time.sleep(1)
    for receiver in (first, second):
        events = [told["event_id"] for told in receiver.got]
        assert len(events) == len(set(events)) == 60
        for incident in {told["incident_id"] for told in receiver.got}:
            own = [told["event_id"] for told in receiver.got if told["incident_id"] == incident]
            assert own == sorted(own)


@pytest.mark.long  # a scan in which a fleet fails is told by the next test
def test_five_hundred_devices_that_fail_at_once_are_one_message(db, dsn, one, receiver, opened):
    targets = receiver.table(fleet_link="https://pages.example/")
    registered(targets, dsn)
    began = time.monotonic()
    with notifying(targets, "--dsn", dsn):
        opened(500, severity="critical")
        until(lambda: one("SELECT count(*) FROM ml_deliveries WHERE state = 'waiting'") == 0)
        assert time.monotonic() - began < 30
        [told] = receiver.got
        assert (told["devices"], told["fleet"], told["severity"]) == (500, 500, "critical")
        assert told["summary"].startswith("500 of 500 devices: temperature level since ")
        assert (told["link"], len(told["incident_ids"])) == ("https://pages.example/", 500)

        def settled(what, which):
            some = f"(SELECT incident_id FROM ml_incidents ORDER BY incident_id {which}) AS i"
            db.execute(f"SELECT ml_{what}(incident_id) FROM {some}")
            until(lambda: one("SELECT count(*) FROM ml_deliveries WHERE state = 'waiting'") == 0)
            return [told["event"] for told in receiver.got]

        told = ["opened"]
        assert settled("acknowledge", "LIMIT 100") == told  # nobody knows of the others
        assert settled("acknowledge", "OFFSET 100") == [*told, "acknowledged"]
        assert settled("resolve", "OFFSET 1") == [*told, "acknowledged"]  # one is open
        assert settled("resolve", "LIMIT 1") == [*told, "acknowledged", "resolved"]


def test_a_few_of_many_devices_are_told_one_by_one(db, dsn, one, receiver, opened):
    registered(receiver.table(), dsn)
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome)"
        " SELECT gen_random_uuid(), now(), 'scanned' FROM generate_series(1, 200)"
    )
    opened(6)
    registered(receiver.table(), dsn)
    assert len(receiver.got) == 6


def test_a_flood_is_one_only_for_who_is_told_of_five(db, dsn, receiver, opened):
    targets = receiver.table(devices=["boiler-*"])
    registered(targets, dsn)
    opened(8, names=["boiler-1", "boiler-2", *(f"fan-{number}" for number in range(6))])
    registered(targets, dsn)
    assert sorted(told["device_name"] for told in receiver.got) == ["boiler-1", "boiler-2"]


@pytest.mark.slow
def test_while_a_scan_goes_on_what_it_opens_waits(db, dsn, one, receiver, opened):
    registered(receiver.table(), dsn)
    job = one("INSERT INTO ml_job (kind, total) VALUES ('scan', 10) RETURNING job_id")
    opened(3)
    registered(receiver.table(), dsn)
    assert receiver.got == []
    opened(3)
    db.execute("UPDATE ml_job SET finished_at = now() WHERE job_id = %s", [job])
    registered(receiver.table(), dsn)
    assert [told["devices"] for told in receiver.got] == [6]
    db.execute("UPDATE ml_job SET finished_at = NULL")
    opened(kind="stuck")
    db.execute("UPDATE ml_event SET written_at = written_at - interval '26 seconds'")
    registered(receiver.table(), dsn)  # but not for long
    assert len(receiver.got) == 2


SCANS = """
INSERT INTO ml_job (kind, slot, total, started_at, updated_at, finished_at)
SELECT 'scan', s, 2, t, t + interval '1 second', t + interval '1 second'
FROM generate_series(%s, %s, interval '5 minutes') AS t, generate_series(1, 2) AS s
"""


@pytest.mark.slow
def test_scans_that_no_longer_come_are_told_once_and_that_they_come_again(db, dsn, one, receiver):
    device_filter = table("boilers", url=receiver.url("/b"), secret=SECRET, devices=["boiler-*"])
    targets = receiver.table() + device_filter
    registered(targets, dsn)
    now = one("SELECT now()")
    db.execute(SCANS, [now - 60 * MINUTE, now - 16 * MINUTE])
    # Many at a time, and of a single device, are not how scans come.
    db.execute(
        "INSERT INTO ml_scan_state SELECT gen_random_uuid(), now(), 'scanned'"
        " FROM generate_series(1, 2)"
    )
    db.execute(SCANS.replace("s, 2, t", "s, 0, t"), [now - 10 * MINUTE, now])
    with notifying(targets, "--dsn", dsn), notifying(targets, "--dsn", dsn):
        until(lambda: receiver.got)
        [told] = receiver.got
        assert (told["event"], told["scan_every"]) == ("stalled", 300)
        assert told["last_scan_at"].startswith((now - 20 * MINUTE).isoformat()[:15])
    registered(targets, dsn)
    assert len(receiver.got) == 1
    now = one("SELECT now()")
    db.execute(SCANS, [now, now])
    registered(targets, dsn)
    registered(targets, dsn)
    assert [told["event"] for told in receiver.got] == ["stalled", "resumed"]
    assert one("SELECT count(*) FROM ml_delivery WHERE target = 'boilers'") == 0


def test_who_has_seldom_scanned_is_told_nothing(db, dsn, one, receiver):
    registered(receiver.table(), dsn)
    now = one("SELECT now()")
    db.execute(SCANS, [now - 70 * MINUTE, now - 66 * MINUTE])
    registered(receiver.table(), dsn)
    assert receiver.got == []


@pytest.mark.slow
def test_a_signal_ends_it_when_the_message_at_hand_is_sent(db, dsn, one, opened):
    begun = []

    def slow(handler, document):
        begun.append(document)
        time.sleep(2)
        return 204

    with receiving(slow) as receiver:
        with notifying(receiver.table(), "--dsn", dsn) as process:
            until(lambda: one("SELECT count(*) FROM ml_target") == 1)
            opened()
            until(lambda: begun)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert one("SELECT state FROM ml_deliveries") == "confirmed"
        assert len(receiver.got) == 1


@pytest.mark.slow
def test_no_secret_is_in_a_table_a_log_or_a_process_title(db, dsn, one, opened):
    with receiving(lambda handler, document: 500) as receiver:
        mail = table(
            "mail",
            url=f"mailto://us3r:s3cret@127.0.0.1:{free_port()}?to=a@example.com"
            "&from=b@example.com&mode=insecure",
        )
        with notifying(receiver.table() + mail, "--dsn", dsn) as process:
            until(lambda: one("SELECT count(*) FROM ml_target") == 2)
            opened()
            until(lambda: one("SELECT count(*) FROM ml_delivery WHERE error <> ''") == 2)
            titles = Path(f"/proc/{process.pid}/cmdline").read_text()
            titles += one(
                "SELECT string_agg(concat(application_name, query), ' ') FROM pg_stat_activity"
            )
            process.terminate()
            log = process.stderr.read()
    kept = one(
        "SELECT concat(jsonb_agg(d), (SELECT jsonb_agg(t) FROM ml_target t)) FROM ml_delivery d"
    )
    for words in (titles, log, kept):
        for secret in ("s3cret", "us3r", SECRET[6:20]):
            assert secret not in words


def test_the_level_notify_is_all_that_it_needs(db, dsn, receiver, opened):
    role = f"pyml_{os.getpid()}_teller"
    db.execute(f"CREATE ROLE {role} LOGIN")
    try:
        there = make_conninfo(dsn, user=role)
        ran = notify(receiver.table(), "--check", "--dsn", there)
        assert ran.returncode == 1
        assert "permission denied" in ran.stderr
        assert "Traceback" not in ran.stderr
        db.execute("SELECT ml_grant(%s, 'notify')", [role])
        registered(receiver.table(), there)
        opened()
        registered(receiver.table(), there)
        assert len(receiver.got) == 1
    finally:
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


def test_a_check_sends_and_keeps_nothing(db, dsn, one, receiver, opened):
    ran = notify(receiver.table(), "--check", "--dsn", dsn)
    assert (ran.returncode, ran.stdout) == (0, "nothing is wrong: ops\n")
    assert one("SELECT count(*) FROM ml_target") == 0
    assert receiver.got == []
    for where, words in (
        ("host=/nowhere", "No such file or directory"),
        (make_conninfo(dsn, dbname="template1"), "has no extension pyml"),
    ):
        ran = notify(receiver.table(), "--check", "--dsn", where)
        assert ran.returncode == 1
        assert words in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_forgotten_device_s_incidents_are_over_for_everybody(db, dsn, one, receiver, opened):
    registered(receiver.table(), dsn)
    [device] = opened()
    db.execute(OPEN, {"devices": [device], "kind": "stuck", "severity": "warning"})
    db.execute("SELECT ml_forget(%s)", [device])
    registered(receiver.table(), dsn)
    assert [told["event"] for told in receiver.got] == ["opened"] * 2 + ["resolved"] * 2
    assert {told["why"] for told in receiver.got} == {"retired"}


def test_deliveries_go_with_their_events(db, dsn, one, receiver, opened):
    registered(receiver.table(), dsn)
    opened()
    db.execute("SELECT ml_resolve(%s)", [one(LAST)])
    db.execute("UPDATE ml_incident SET started_at = '2020-01-01', ended_at = '2020-01-01'")
    db.execute("UPDATE ml_event SET happened_at = '2020-01-01'")
    assert one("SELECT count(*) FROM ml_delivery") == 2
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_delivery") == 0


# A device's model and its last six hours, for so many devices more.
TWINS = """
CREATE TEMP TABLE twin AS SELECT gen_random_uuid() AS uuid FROM generate_series(1, %(count)s);
INSERT INTO devices (uuid, name) SELECT uuid, 'twin' FROM twin;
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
    SELECT t.uuid, h.reported_state, h."timestamp" FROM twin t, device_shadow_history h
    WHERE h.device_uuid = %(device)s
      AND h."timestamp" > (now() AT TIME ZONE 'UTC') - interval '6 hours';
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end,
    readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)
    SELECT t.uuid, m.kind, m.field, true, m.window_start, m.window_end, m.readings_used,
    m.readings_rejected, m.parameters, m.figures, m.versions, m.seconds, m.sha256, m.blob
    FROM twin t, ml_model m WHERE m.device_uuid = %(device)s;
UPDATE ml_model m SET trained_with = f.model_id FROM ml_model f
    WHERE f.device_uuid = m.device_uuid AND f.kind = 'forest' AND m.kind <> 'forest';
"""
HEAT = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,temperature}',
    to_jsonb((reported_state #>> '{system,temperature}')::float8 + 25))
WHERE "timestamp" > (now() AT TIME ZONE 'UTC') - interval '14 minutes'
"""


@pytest.mark.slow
def test_a_scan_in_which_a_fleet_fails_is_one_message(db, dsn, one, receiver, train, device, long):
    count = 500 if long else 20
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'scan_first_hours'")
    train(device)
    db.execute(TWINS % {"count": count - 1, "device": f"'{device}'"})
    db.execute(HEAT)
    with notifying(receiver.table(), "--dsn", dsn):
        until(lambda: one("SELECT count(*) FROM ml_target") == 1)
        began = time.monotonic()
        db.execute("CALL ml_scan()")
        scanned = time.monotonic()
        until(lambda: one("SELECT count(*) FROM ml_deliveries WHERE state = 'waiting'") == 0, 60)
        told = time.monotonic()
    opened = [message for message in receiver.got if message["event"] == "opened"]
    incidents = one("SELECT count(*) FROM ml_incident")
    print(f"scanned in {scanned - began:.1f} s, told {told - scanned:.1f} s later")
    assert incidents >= count
    assert len(opened) == 1
    assert told - scanned < 30
