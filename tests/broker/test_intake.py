"""Messages in: what is published on a real broker is what the database holds."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from .conftest import until

ONE = "00000000-0000-4000-8000-000000000001"
STATE = f"iot/device/{ONE}/state"
UPDATE = f"iot/device/{ONE}/shadow/name/{{}}/update"
NOW = datetime.now(UTC).replace(microsecond=0)


def rows(db, columns="reported_state"):
    return db.execute(f"SELECT {columns} FROM device_shadow_history ORDER BY id").fetchall()


def shadow(db, name="device-state"):
    return db.execute(
        "SELECT reported_state FROM device_shadows WHERE shadow_name = %s", [name]
    ).fetchone()[0]


def at(seconds):
    return (NOW + timedelta(seconds=seconds)).isoformat()


def report(state, **more):
    return {"state": {"reported": state}, **more}


def last(db, device):
    """Say a last word, and wait for it: what was said before has been dealt with."""
    word = time.monotonic()
    device.say("iot/device/the-last/state", {"last": word})
    until(lambda: rows(db)[-1:] == [({"last": word},)])


def test_a_state_is_a_row_of_its_time_and_its_device_is_added(history, start, device):
    service = start()
    device.say(STATE, {"system": {"cpuUsage": 27.5}, "timestamp": NOW.timestamp()})
    until(lambda: len(rows(history)) == 1)
    assert rows(history, "device_uuid, shadow_name, version, timestamp, reported_state") == [
        (
            uuid.UUID(ONE),
            "device-state",
            0,
            NOW.replace(tzinfo=None),
            {"system": {"cpuUsage": 27.5}, "timestamp": NOW.timestamp()},
        )
    ]
    assert history.execute("SELECT uuid, name FROM devices").fetchall() == [(uuid.UUID(ONE), ONE)]
    assert "stored 1 messages of 1 devices" in service.end()


def test_a_shadow_s_update_is_what_it_reports_under_its_name_with_its_version(
    history, start, device
):
    start()
    topic = UPDATE.format("climate")
    device.say(topic, report({"on": True}, version=7, timestamp=at(-60)))
    until(lambda: len(rows(history)) == 1)
    when = (NOW - timedelta(seconds=60)).replace(tzinfo=None)
    assert rows(history, "shadow_name, version, timestamp, reported_state") == [
        ("climate", 7, when, {"on": True})
    ]
    assert history.execute(
        "SELECT shadow_name, version, timestamp FROM device_shadows"
    ).fetchall() == [("climate", 7, when)]


def test_without_a_time_it_is_when_it_came(history, start, device):
    start()
    device.say(STATE, {"a": 1})
    until(lambda: len(rows(history)) == 1)
    (age,) = history.execute(
        "SELECT extract(epoch FROM now() AT TIME ZONE 'UTC' - timestamp) FROM device_shadow_history"
    ).fetchone()
    assert 0 <= age < 30


def test_a_shadow_is_merged_objects_deep_and_null_deletes(history, start, device):
    start()
    device.say(STATE, report({"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 5}, timestamp=at(-3)))
    device.say(
        STATE, report({"a": {"b": None, "f": {"g": None, "h": 1}}, "d": [3]}, timestamp=at(-2))
    )
    device.say(STATE, report({"e": {"i": 1}}, timestamp=at(-1)))
    until(lambda: len(rows(history)) == 3)
    assert shadow(history) == {"a": {"c": 2, "f": {"h": 1}}, "d": [3], "e": {"i": 1}}
    assert rows(history)[1] == ({"a": {"b": None, "f": {"g": None, "h": 1}}, "d": [3]},)


def test_an_older_version_changes_no_shadow_and_is_in_the_history(history, start, device):
    service = start()
    for n, version in enumerate((5, 4, 5, 6)):
        device.say(STATE, report({"v": version, "n": n}, version=version))
        until(lambda n=n: len(rows(history)) > n)
    assert shadow(history)["v"] == 6
    assert [state["v"] for (state,) in rows(history)] == [5, 4, 5, 6]
    assert "older than the shadow: 2, such as" in service.end()


def test_without_versions_the_older_time_changes_no_shadow(history, start, device):
    start()
    device.say(STATE, report({"n": 1}, timestamp=at(-10)))
    device.say(STATE, report({"n": 2}, timestamp=at(-3600)))
    last(history, device)
    assert len(rows(history)) == 3
    (kept,) = history.execute(
        "SELECT reported_state FROM device_shadows WHERE device_uuid = %s", [ONE]
    ).fetchone()
    assert kept == {"n": 1}


def test_what_is_said_twice_is_stored_once(history, start, device):
    service = start()
    for n in (1, 1, 2):
        device.say(STATE, report({"n": n}, timestamp=at(-10)))
    last(history, device)
    device.say(STATE, report({"n": 1}, timestamp=at(-10)))
    last(history, device)
    assert rows(history)[:2] == [({"n": 1},), ({"n": 2},)]
    assert len(rows(history)) == 4
    assert "repeated: 2, such as" in service.end()


def test_an_id_that_is_no_uuid_is_the_device_that_pyml_knows_by_it(history, start, device):
    start()
    for name in ("hall 3", ONE.replace("0001", "000A"), "x" * 255):
        device.say(f"iot/device/{name}/state", {"n": 1})
    until(lambda: len(rows(history)) == 3)
    found = history.execute("SELECT uuid, name FROM devices").fetchall()
    assert {name for _, name in found} == {"hall 3", ONE.replace("0001", "000A"), "x" * 255}
    for device_uuid, name in found:
        assert (
            history.execute("SELECT _ml_uuid_of(%s)", [name.lower()]).fetchone()[0] == device_uuid
        )


def test_new_devices_are_refused_where_that_is_configured(history, start, device):
    history.execute("INSERT INTO devices VALUES (%s, 'known')", [ONE])
    service = start(new_devices="refuse")
    device.say("iot/device/stranger/state", {"n": 1})
    device.say(STATE, {"n": 2})
    until(lambda: len(rows(history)) == 1)
    assert rows(history) == [({"n": 2},)]
    assert history.execute("SELECT name FROM devices").fetchall() == [("known",)]
    assert "unknown device: 1, such as iot/device/stranger/state" in service.end()


BAD = {
    "bad JSON": [
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\u0000"}',
        b'{"a\\u0000": 1}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"",
    ],
    "no JSON object": [b"[1]", b"27.5", b'"on"', b"null"],
    "nothing reported": [b'{"state": {"desired": {"a": 1}}}', b'{"state": {"reported": null}}'],
    "bad version": [
        b'{"state": {"reported": {}}, "version": -1}',
        b'{"state": {"reported": {}}, "version": 2147483648}',
        b'{"state": {"reported": {}}, "version": true}',
        b'{"state": {"reported": {}}, "version": "7"}',
    ],
    "too large": [b'{"a": "' + b"x" * 70_000 + b'"}'],
}


def test_what_cannot_be_read_is_counted_with_an_example_and_never_fatal(history, start, device):
    service = start()
    for payloads in BAD.values():
        for payload in payloads:
            device.say(STATE, payload)
    last(history, device)
    assert len(rows(history)) == 1
    told = service.end()
    for why, payloads in BAD.items():
        assert f"{why}: {len(payloads)}, such as {STATE}: " in told
    assert "Traceback" not in told


def test_odd_but_good_json_is_taken_as_it_is(history, start, device):
    start()
    said = {"\\u0000": "\\\\u0000", "": "ß€😀", "n": 2**70, "x": 0.1, "deep": [[[[1]]]]}
    device.say(STATE, said)
    until(lambda: len(rows(history)) == 1)
    assert rows(history) == [(said,)]
    (text,) = history.execute("SELECT reported_state ->> 'n' FROM device_shadows").fetchone()
    assert text == str(2**70)


def test_foreign_topics_are_counted(history, start, device):
    service = start(messages={"topics": ["iot/device/{device}/#"]})
    device.say(f"iot/device/{'x' * 256}/state", {"n": 1})
    device.say("iot/device/a/b/c", {"n": 2})
    until(lambda: len(rows(history)) == 1)
    assert rows(history) == [({"n": 2},)]
    assert "foreign topic: 1, such as iot/device/xxx" in service.end()


def test_a_wrong_clock_is_counted_and_does_not_stop_the_shadow(history, start, device):
    clocks = {
        "1970-01-01T00:00:10Z": "1970-01-01 00:00:10",
        4102444800: "2100-01-01 00:00:00",
        "yesterday": None,
        None: None,
        1e300: None,
    }
    service = start()
    for n, clock in enumerate(clocks):
        device.say(UPDATE.format(n), report({"n": 1}, timestamp=clock))
    until(lambda: len(rows(history)) == len(clocks))
    for n in range(len(clocks)):
        device.say(UPDATE.format(n), report({"n": 2}, timestamp=datetime.now(UTC).isoformat()))
    until(lambda: len(rows(history)) == 2 * len(clocks))
    for n, kept in enumerate(clocks.values()):
        assert shadow(history, str(n)) == {"n": 2}
        first = "SELECT timestamp FROM device_shadow_history WHERE shadow_name = %s ORDER BY id"
        when = history.execute(first, [str(n)]).fetchone()[0]
        assert str(when) == kept or (
            kept is None and datetime.now(UTC).replace(tzinfo=None) - when < timedelta(minutes=1)
        )
    told = service.end()
    assert f"bad clock: 2, such as {UPDATE.format(0)}" in told
    assert f"time not understood: 3, such as {UPDATE.format(2)}" in told


def test_seconds_milliseconds_and_offsets_are_one_time(history, start, device):
    start()
    seconds = NOW.timestamp()
    japan = NOW.astimezone(UTC).isoformat().replace("+00:00", "+09:00")
    for n, said in enumerate((seconds, seconds * 1000, NOW.isoformat(), japan)):
        device.say(STATE, report({"n": n}, timestamp=said))
    until(lambda: len(rows(history)) == 4)
    first, *others = (when for (when,) in rows(history, "timestamp"))
    assert others == [first, first, first - timedelta(hours=9)]
    assert first == NOW.replace(tzinfo=None)


def test_a_message_that_the_database_refuses_takes_no_other_along(history, start, device):
    history.execute("ALTER TABLE device_shadow_history ADD CHECK (reported_state ->> 'n' <> '13')")
    service = start(messages={"seconds": 0.3})
    for n in range(30):
        device.tell(STATE, report({"n": n}, timestamp=at(n - 60)))
    until(lambda: len(rows(history)) == 29)
    assert [state["n"] for (state,) in rows(history)] == [n for n in range(30) if n != 13]
    assert shadow(history) == {"n": 29}
    assert f"refused by the database: 1, such as {STATE}: " in service.end()


def test_a_shadow_cannot_grow_without_end(history, start, device):
    service = start(messages={"largest": 1000})
    for n in range(30):
        device.say(STATE, report({f"key {n}": "x" * 90}, timestamp=at(n - 60)))
    until(lambda: len(rows(history)) == 30)
    assert len(shadow(history)) == 9
    assert "shadow too large: 21, such as" in service.end()


def test_a_message_of_qos_0_is_stored_too(history, start, device):
    start()
    device.say(STATE, {"n": 1}, qos=0)
    until(lambda: len(rows(history)) == 1)


def test_a_retained_message_comes_once(history, start, device):
    device.say(STATE, {"n": 1}, retain=True)
    for _ in range(2):
        service = start()
        last(history, device)
        service.end()
    assert [state for (state,) in rows(history)].count({"n": 1}) == 1


@pytest.mark.slow
def test_what_comes_while_the_service_is_away_is_kept(history, start, device):
    start().end()
    many = 1200  # by itself mosquitto keeps 1,000
    for n in range(many):
        device.tell(STATE, {"n": n})
    device.say(STATE, {"n": many})
    start()
    until(lambda: len(rows(history)) == many + 1)
    assert {state["n"] for (state,) in rows(history)} == set(range(many + 1))
