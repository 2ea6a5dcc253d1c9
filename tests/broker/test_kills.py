"""The service, the broker and the database, killed at random moments: nothing lost, none twice."""

import os
import random
import signal
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import agent
import psycopg
import publishing
import pytest
from mqtt import memory

from installer.broker import Mosquitto
from tests.database.trust.conftest import Server

from .conftest import TABLES, until

pytestmark = pytest.mark.server

ONE = uuid.UUID("00000000-0000-4000-8000-00000000000a")
TOPIC = f"iot/device/{ONE}/state"
SAID = "SELECT count(*), count(DISTINCT reported_state ->> 'n') FROM device_shadow_history"


@pytest.fixture(scope="module")
def server():
    server = Server("kills")
    yield server
    server.remove()


@pytest.fixture
def database(server):
    """A database of the user's tables; how to connect to it."""
    dsn = server.database("kills")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(TABLES.read_bytes())
    yield dsn
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("DROP DATABASE kills WITH (FORCE)")


def kill_all(server: Server) -> None:
    """Kill a database server: its first process, and all that it has started."""
    first = int((server.cluster.data / "postmaster.pid").read_text().splitlines()[0])
    found = subprocess.run(["pgrep", "-P", str(first)], capture_output=True, text=True)
    every = [first, *map(int, found.stdout.split())]
    for pid in every:
        with suppress(ProcessLookupError):  # some end with the first
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in every))


class Talker(threading.Thread):
    """A device that says numbers in turn, some at a time, and goes on whatever happens."""

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__()
        self.outbox = agent.Outbox(publishing.Broker(broker.url, ONE), capacity=10**6)
        self.said, self.told_to_end = 0, threading.Event()

    def run(self) -> None:
        while not self.told_to_end.is_set() or self.outbox.waiting:
            if not self.told_to_end.is_set():
                for _ in range(random.randint(1, 40)):
                    now = datetime.now(UTC).replace(tzinfo=None)
                    self.outbox.add(agent.Reading(now, {"n": self.said}))
                    self.said += 1
            try:
                self.outbox.deliver()
            except agent.PASSING:
                time.sleep(0.1)
            time.sleep(0.02)
        self.outbox.way.close()


def test_nothing_is_lost_and_nothing_twice_whoever_is_killed(server, broker, start, long):
    intake = start(messages={"batch": 200, "seconds": 0.2})
    broker.end()  # its session is on disk
    broker.start()
    chance = random.Random(31)
    talker = Talker(broker)
    talker.start()
    try:
        for turn in range(50 if long else 3):
            time.sleep(chance.uniform(0.2, 1.2))
            victim = ("service", "broker", "database")[turn % 3]
            if victim == "service":
                intake.kill()
                time.sleep(chance.uniform(0, 0.5))
                intake.start()
            elif victim == "broker":
                broker.end(signal.SIGKILL)
                time.sleep(chance.uniform(0, 0.5))
                broker.start()
            else:
                kill_all(server)
                time.sleep(chance.uniform(0, 0.5))
                server.start()
    finally:
        talker.told_to_end.set()
        talker.join()
    with server.connect("kills") as conn:
        try:
            until(lambda: conn.execute(SAID).fetchone()[1] == talker.said)
        except AssertionError:
            pytest.fail(f"{conn.execute(SAID).fetchone()} of {talker.said}: {intake.told()}")
        assert conn.execute(SAID).fetchone() == (talker.said, talker.said)
        (kept,) = conn.execute("SELECT reported_state FROM device_shadows").fetchone()
        assert kept == {"n": talker.said - 1}
    assert talker.said > 100
    assert "Traceback" not in intake.end()


def test_while_the_database_is_away_the_broker_keeps_and_the_service_does_not_grow(
    server, broker, device, start
):
    intake = start(messages={"batch": 50, "seconds": 0.05})
    device.say(TOPIC, {"n": 0})
    with server.connect("kills") as conn:
        until(lambda: conn.execute(SAID).fetchone() == (1, 1))
    kill_all(server)
    device.say(TOPIC, {"n": 1})
    until(lambda: "not stored, the broker keeps what comes" in intake.told())
    before = memory(intake.process.pid)
    filling = "x" * 16_000
    for n in range(2, 1251):
        device.tell(TOPIC, {"n": n, "filling": filling})
    device.say(TOPIC, {"n": 1251})
    broker.end()  # what it sends again over the next connection is bounded too
    broker.start()
    until(lambda: intake.told().count("connected to ") == 2)
    server.start()
    with server.connect("kills") as conn:
        until(lambda: conn.execute(SAID).fetchone()[1] == 1252)
    assert memory(intake.process.pid, "VmHWM") < before + 8  # of 20 MB, at any time
    assert "the database is back" in intake.end()


@pytest.mark.long
def test_it_ends_at_once_while_the_database_is_away_and_what_it_had_comes_again(
    server, device, start
):
    intake = start()
    kill_all(server)
    for n in range(100):
        device.say(TOPIC, {"n": n})
    until(lambda: "not stored, the broker keeps what comes" in intake.told())
    began = time.monotonic()
    intake.end()
    assert time.monotonic() - began < 10
    server.start()
    with server.connect("kills") as conn:
        intake.start()
        until(lambda: conn.execute(SAID).fetchone() == (100, 100))
    intake.end()
