"""Messages from a broker into the history: how many a second, with how much lag and memory.

    python bench/mqtt.py DSN [--devices 1000] [--rate 5000] [--minutes 10] [--backlog 200000]

Run it as root or as whoever may start mosquitto (Debian's package), with the Python of pyml's
environment. DSN is any database of a server; the program makes one of its own there, and starts a
broker on a port of its own. Two measurements:

1. The broker keeps ``--backlog`` messages while the service is away. Then the service starts: how
   many messages a second it stores, and what each takes of the processor, in microseconds: of the
   service, of its backend in the database, and of the broker. Nobody publishes meanwhile.
2. Devices publish ``--rate`` messages a second for ``--minutes``: how many are stored, how far
   behind the newest row of the history is, and the service's memory.

Messages are what examples/agent sends, some 500 bytes. All run on one machine.
"""

import argparse
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psycopg
from timing import HISTORY, database, percentiles, say, table

from installer.broker import Mosquitto, find_mosquitto

EXAMPLE = Path(__file__).parents[1] / "examples" / "mqtt"
WINDOW = 2000  # messages that the publisher has sent and the broker has not acknowledged


def _packet(kind: int, body: bytes) -> bytes:
    """A packet of MQTT."""
    left, length = len(body), bytearray()
    while True:
        left, rest = divmod(left, 128)
        length.append(rest | 128 * (left > 0))
        if not left:
            return bytes([kind]) + bytes(length) + body


class Publisher:
    """Publishes for many devices over one connection, at QoS 1, as cheaply as Python can.

    The client library takes as much of the processor to publish a message as the service takes to
    store it; devices do not run on the machine that is measured.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        name = b"bench"
        hello = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack("!H", len(name)) + name
        self.socket.sendall(_packet(0x10, hello))
        if self.socket.recv(4)[3]:
            raise RuntimeError("the broker refuses the publisher")
        self.sent = self.acknowledged = 0
        self._moved = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while got := self.socket.recv(1 << 16):
            with self._moved:
                self.acknowledged += len(got) / 4  # of each PUBACK
                self._moved.notify()

    def publish(self, messages: list[tuple[bytes, bytes]]) -> None:
        """Send some messages, as soon as the broker has taken enough of those before."""
        with self._moved:
            self._moved.wait_for(lambda: self.sent - self.acknowledged < WINDOW)
        out = bytearray()
        for topic, payload in messages:
            self.sent += 1
            mid = struct.pack("!H", self.sent % 65535 + 1)
            out += _packet(0x32, struct.pack("!H", len(topic)) + topic + mid + payload)
        self.socket.sendall(out)

    def finish(self) -> None:
        """Wait until the broker has taken all."""
        with self._moved:
            self._moved.wait_for(lambda: self.acknowledged >= self.sent)


class Fleet:
    """Devices, each with a message at hand whenever it is its turn."""

    def __init__(self, devices: int) -> None:
        self.devices = [str(uuid.UUID(int=place + 1)) for place in range(devices)]
        self.turn = 0

    def messages(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next messages: topics and payloads."""
        made, now = [], time.time()
        for _ in range(count):
            self.turn += 1
            device = self.devices[self.turn % len(self.devices)]
            state = {
                "identity": {"deviceUuid": device, "model": "x86_64"},
                "health": {"status": "healthy", "uptime": self.turn},
                "system": {
                    "cpuUsage": self.turn % 1000 / 10,
                    "memoryUsage": 7000 + self.turn % 900,
                    "memoryTotal": 16320,
                    "diskUsage": 474.25,
                    "diskTotal": 476.5,
                    "temperature": 45 + self.turn % 50 / 10,
                    "network": {"rxBytes": 60000 * self.turn, "txBytes": 20000 * self.turn},
                },
                "connectivity": {"mqttConnected": True, "cloudConnected": True},
            }
            payload = {
                "state": {"reported": state},
                "timestamp": round(now + self.turn % 997 / 1e6, 6),
            }
            made.append((f"iot/device/{device}/state".encode(), json.dumps(payload).encode()))
        return made


def memory(pid: int, which: str = "VmRSS") -> float:
    """MB that a process holds; as VmHWM, the most that it has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"{which}:\s*(\d+)", status)[0]) / 1024


def processor(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def service(place: Path, broker: Mosquitto, dsn: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service, as long as it is needed."""
    configuration = place / "intake.toml"
    text = f'database = "{dsn}"\n[broker]\nurl = "{broker.url}"\n'
    configuration.write_text(text)
    with open(place / "intake.log", "ab") as log:
        command = [sys.executable, "-m", "intake", str(configuration)]
        process = subprocess.Popen(command, cwd=EXAMPLE, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def count(conn: psycopg.Connection) -> int:
    """How many messages are in the history."""
    return conn.execute("SELECT count(*) FROM device_shadow_history").fetchone()[0]


def backend(conn: psycopg.Connection) -> int:
    """The process in the database that serves the service."""
    query = """SELECT pid FROM pg_stat_activity
        WHERE application_name = 'intake' AND datname = current_database()"""
    return conn.execute(query).fetchone()[0]


# Seconds since the newest message of the history was sent.
BEHIND = """
SELECT extract(epoch FROM now() AT TIME ZONE 'UTC' - max("timestamp"))::float8
FROM device_shadow_history
"""


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dsn")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=5000, help="messages a second")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--backlog", type=int, default=200_000, help="messages")
    options = parser.parse_args()
    if not (mosquitto := find_mosquitto()):
        sys.exit("there is no mosquitto: apt-get install mosquitto")

    dsn, fleet = database(options.dsn, "pyml_mqtt"), Fleet(options.devices)
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="pyml-mqtt-")))
        broker = Mosquitto(mosquitto, place)
        undo.callback(broker.end)
        broker.start()
        conn = undo.enter_context(psycopg.connect(dsn, autocommit=True))
        conn.execute("DROP TABLE IF EXISTS device_shadow_history, device_shadows, devices CASCADE")
        conn.execute(HISTORY.read_bytes())
        conn.execute((EXAMPLE / "tables.sql").read_bytes())
        with service(place, broker, dsn):  # once, so that the broker knows its session
            time.sleep(3)
        publisher = Publisher(broker.port)
        say(f"{options.backlog} messages into the broker")
        began = time.perf_counter()
        for _ in range(options.backlog // 100):
            publisher.publish(fleet.messages(100))
        publisher.finish()
        say(f"took {time.perf_counter() - began:.0f} s; the service starts")
        with service(place, broker, dsn) as process:
            while not (first := count(conn)):
                time.sleep(0.1)
            parts = (process.pid, backend(conn), broker.process.pid)
            began, used = time.perf_counter(), [processor(pid) for pid in parts]
            while (stored := count(conn)) < options.backlog:
                time.sleep(0.5)
            took, each = time.perf_counter() - began, 1e6 / (stored - first)
            spent = [each * (processor(pid) - u) for pid, u in zip(parts, used, strict=True)]
            head = ("", "messages a second", "µs: service", "database", "broker", "MB")
            table(head, [("a backlog", 1e6 / each / took, *spent, memory(process.pid))])
            if options.minutes:
                table(*live(options, conn, publisher, fleet, process.pid))


def live(
    options: argparse.Namespace,
    conn: psycopg.Connection,
    publisher: Publisher,
    fleet: Fleet,
    pid: int,
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Publish at a rate; a row a minute."""
    head = ("minute", "published a second", "stored a second", "behind p50 s", "p95", "p99", "MB")
    lines: list[tuple[object, ...]] = []
    step = options.rate // 50
    due = time.perf_counter()
    for minute in range(max(1, round(options.minutes))):
        began, sent, before = time.perf_counter(), publisher.sent, count(conn)
        behind = []
        until = began + 60 * min(1, options.minutes)
        while time.perf_counter() < until:
            publisher.publish(fleet.messages(step))
            if time.perf_counter() > began + 5 or minute:  # the backlog's end is over
                behind.append(conn.execute(BEHIND).fetchone()[0])
            due += step / options.rate
            time.sleep(max(0, due - time.perf_counter()))
        took = time.perf_counter() - began
        lines.append(
            (
                str(minute + 1),
                (publisher.sent - sent) / took,
                (count(conn) - before) / took,
                *percentiles(np.array(behind)),
                memory(pid),
            )
        )
        say(f"{lines[-1]}")
    return head, lines


if __name__ == "__main__":
    main()
