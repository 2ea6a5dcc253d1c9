"""The agent, which publishes to a broker instead of writing by SQL."""

import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import agent
import publishing
import pytest

from .conftest import until

PROGRAM = Path(agent.__file__)
ONE = uuid.UUID("00000000-0000-4000-8000-00000000000a")


def rows(db):
    return db.execute(
        "SELECT timestamp, reported_state FROM device_shadow_history ORDER BY timestamp"
    ).fetchall()


def reading(n):
    return agent.Reading(datetime.now(UTC).replace(tzinfo=None), {"n": n})


@pytest.fixture
def way(broker):
    way = publishing.Broker(broker.url, ONE)
    yield way
    way.close()


def run(url, *options):
    return subprocess.Popen(
        [sys.executable, PROGRAM, "--mqtt", url, "--interval", "0.1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_host_s_readings_are_rows_of_its_device(history, broker, start):
    start()
    program = run(broker.url, "--device", str(ONE))
    try:
        until(lambda: len(rows(history)) >= 5)
    finally:
        program.terminate()
        _, told = program.communicate(timeout=30)
    assert (program.returncode, told) == (0, "")
    when, state = rows(history)[-1]
    assert state["system"]["memoryTotal"] > 0
    assert state["connectivity"] == {"mqttConnected": True, "cloudConnected": True}
    assert abs((when - datetime.now(UTC).replace(tzinfo=None)).total_seconds()) < 60


def test_readings_wait_while_the_broker_is_away(history, broker, start, way):
    start().end()  # the broker knows it
    outbox = agent.Outbox(way)
    outbox.add(reading(1))
    outbox.deliver()
    broker.end()
    outbox.add(reading(2))
    with pytest.raises(agent.PASSING):
        outbox.deliver()
    assert len(outbox.waiting) == 1
    broker.start()
    outbox.deliver()
    assert len(outbox.waiting) == 0
    start()
    until(lambda: len(rows(history)) == 2)


def test_what_a_killed_broker_has_forgotten_is_sent_again(history, broker, start, way):
    start().end()
    broker.end()  # its session is on disk
    broker.start()
    way.send([reading(1)])
    broker.end(9)
    broker.start()
    way.send([reading(2)])
    start()
    until(lambda: [state["n"] for _, state in rows(history)] == [1, 2])


def test_a_refusal_ends_it(broker, tmp_path):
    broker.end()
    conf = tmp_path / "broker/mosquitto.conf"
    conf.write_text(conf.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    broker.start()
    program = run(broker.url)
    _, told = program.communicate(timeout=30)
    assert program.returncode == 1
    assert told.startswith("agent: the broker refuses us: Not authorized")


@pytest.mark.parametrize("url", ["broker", "http://broker", "mqtt://"])
def test_a_senseless_url_is_refused(url):
    program = run(url)
    _, told = program.communicate(timeout=30)
    assert program.returncode == 2
    assert f"{url!r} is no mqtt://user@host:1883" in told
