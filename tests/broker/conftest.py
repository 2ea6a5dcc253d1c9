"""A broker of our own, the service, and messages."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt import EXAMPLE
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from installer.broker import Mosquitto, find_mosquitto

TABLES = EXAMPLE / "tables.sql"


def until(met: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something to hold."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def toml(value: object) -> str:
    """A value as TOML has it."""
    return json.dumps(value)


class Intake:
    """The service: a process, and what it is configured with."""

    def __init__(self, place: Path, broker: Mosquitto, dsn: str, /, **more: Any) -> None:
        self.file, self.log = place / "intake.toml", place / "intake.log"
        sections: dict[str, dict[str, object]] = {
            "broker": {"url": broker.url},
            "messages": {"seconds": 0.05},
        }
        top = {"database": dsn}
        for name, value in more.items():
            if isinstance(value, dict):
                sections[name] |= value
            else:
                top[name] = value
        lines = [f"{name} = {toml(value)}" for name, value in top.items()]
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{name} = {toml(value)}" for name, value in values.items()]
        self.file.write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Intake":
        """Start it, and wait until it listens."""
        before = self.told().count("connected to ")
        with open(self.log, "ab") as log:
            command = [sys.executable, "-m", "intake", str(self.file)]
            self.process = subprocess.Popen(command, cwd=EXAMPLE, stdout=log, stderr=log)
        until(
            lambda: self.told().count("connected to ") > before or self.process.poll() is not None
        )
        return self

    def told(self) -> str:
        """What it has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def end(self) -> str:
        """End it gently; what it has logged."""
        self.process.terminate()
        assert self.process.wait(30) == 0, self.told()
        self.process = None
        return self.told()

    def kill(self) -> None:
        """End it at once."""
        if self.process:
            self.process.kill()
            self.process.wait()


class Device:
    """Somebody who publishes, at QoS 1."""

    def __init__(self, broker: Mosquitto) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()

    def tell(self, topic: str, payload: object, **options: Any) -> MQTTMessageInfo:
        """Publish bytes as they are, and all else as JSON, and wait for nothing."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self.client.publish(topic, body, **{"qos": 1, **options})

    def say(self, topic: str, payload: object, **options: Any) -> None:
        """Publish, and wait until the broker has it."""
        self.tell(topic, payload, **options).wait_for_publish(30)

    def end(self) -> None:
        """Disconnect."""
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker, running."""
    if not (program := find_mosquitto()):
        pytest.skip("there is no mosquitto")
    place = tmp_path / "broker"
    place.mkdir()
    broker = Mosquitto(program, place)
    broker.start()
    yield broker
    broker.end()


@pytest.fixture
def history(db):
    """The test's database, with the table of shadows."""
    db.execute(TABLES.read_bytes())
    return db


@pytest.fixture
def database(history, dsn) -> str:
    """How the service connects to a database that has the tables."""
    return dsn


@pytest.fixture
def start(tmp_path, broker, database) -> Iterator[Callable[..., Intake]]:
    """Start the service; what is still running at the end is killed."""
    started = []

    def start(dsn: str = database, **more: Any) -> Intake:
        started.append(Intake(tmp_path, broker, dsn, **more).start())
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def device(broker) -> Iterator[Device]:
    """Somebody who publishes."""
    device = Device(broker)
    yield device
    device.end()
