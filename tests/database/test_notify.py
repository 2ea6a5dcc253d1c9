"""pyml.workers.notify: who is told of what, by real receivers."""

import pytest

from tests.receivers import Receiver, notify, notifying, receiving, until

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
