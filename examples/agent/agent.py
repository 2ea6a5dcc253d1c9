"""Send this host's telemetry, as a fleet's agents do: to the history in a database, or to a broker.

    python agent.py "host=db.example dbname=iot user=agent" --interval 30
    python agent.py --mqtt mqtts://agent@broker.example --interval 30

One reading an interval: CPU, memory, disk, temperature and network traffic. Readings
that cannot be delivered wait in memory, up to a day of them at one a minute, and
are sent when the other side is back. SIGTERM or Ctrl-C sends what is waiting and ends.
"""

import argparse
import platform
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil
import psycopg
from psycopg.types.json import Jsonb
from publishing import Broker

CAPACITY = 1440  # readings
FAREWELL = 2  # seconds for a last try to connect
# Without these a cable that is pulled stops the agent for minutes (libpq's names).
IMPATIENT: dict[str, Any] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 30,
}
# Passes by itself: not reachable, shutting down, or a standby about to be promoted.
PASSING = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction, ConnectionError)
# psutil's names of the sensors on the processor, the one that matters first.
PROCESSOR_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz")


class Reading(NamedTuple):
    """One row to be: when (naive UTC) and what."""

    timestamp: datetime
    state: dict[str, Any]


def sample(device: uuid.UUID, connected: bool, by_mqtt: bool = False) -> Reading:
    """Measure this host now.

    CPU usage is the mean since the call before; memory is in MB, disk in GB,
    network in bytes since boot. What the host cannot tell is None.

    Parameters
    ----------
    device : uuid.UUID
    connected : bool
        Whether the reading before was delivered.
    by_mqtt : bool
        Whether it went to a broker.
    """
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage("/")
    # Summed without the loopback, whose traffic never leaves the host.
    wires = [count for name, count in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    state = {
        "identity": {"deviceUuid": str(device), "model": platform.machine()},
        "health": {"status": "healthy", "uptime": int(time.time() - psutil.boot_time())},
        "system": {
            "cpuUsage": psutil.cpu_percent(),
            "memoryUsage": (memory.total - memory.available) // 2**20,
            "memoryTotal": memory.total // 2**20,
            "diskUsage": round(disk.used / 2**30, 2),
            "diskTotal": round(disk.total / 2**30, 2),
            "temperature": _temperature(),
            "network": {
                "rxBytes": sum(count.bytes_recv for count in wires),
                "txBytes": sum(count.bytes_sent for count in wires),
            },
        },
        "connectivity": {"mqttConnected": by_mqtt and connected, "cloudConnected": connected},
    }
    return Reading(datetime.now(UTC).replace(tzinfo=None), state)


def _temperature() -> float | None:
    """Degrees Celsius of the hottest core, else of any sensor there is."""
    read = getattr(psutil, "sensors_temperatures", dict)  # Linux and FreeBSD only
    found = {name: [s.current for s in sensors if s.current] for name, sensors in read().items()}
    for name in (*PROCESSOR_SENSORS, *found):
        if found.get(name):
            return round(max(found[name]), 1)
    return None


class Database:
    """The way into the history by SQL.

    Parameters
    ----------
    dsn : str
        A libpq connection string; what it leaves out comes from PGHOST and its kin.
    device : uuid.UUID
    name : str
        For the device's row, which is written if there is none.
    """

    def __init__(self, dsn: str, device: uuid.UUID, name: str) -> None:
        self._dsn, self._device, self._name = dsn, device, name
        self._conn: psycopg.Connection[Any] | None = None

    def send(self, readings: Sequence[Reading], patience: float | None = None) -> None:
        """Write readings in one transaction.

        Parameters
        ----------
        readings : Sequence[Reading]
        patience : float, optional
            Seconds that connecting may take, if not the usual.

        Raises
        ------
        psycopg.Error
        """
        try:
            conn = self._connection(patience)
            with conn.transaction(), conn.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
                    " VALUES (%s, %s, %s)",
                    [(self._device, Jsonb(state), when) for when, state in readings],
                )
        except psycopg.Error:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._conn is not None:
            self._conn.close()
        self._conn = None

    def _connection(self, patience: float | None) -> psycopg.Connection[Any]:
        if self._conn is None:
            limits = IMPATIENT if patience is None else IMPATIENT | {"connect_timeout": patience}
            self._conn = psycopg.connect(
                self._dsn, autocommit=True, application_name="agent", **limits
            )
            with suppress(psycopg.errors.UndefinedTable):  # names are optional
                self._conn.execute(
                    "INSERT INTO devices (uuid, name) VALUES (%s, %s)"
                    " ON CONFLICT (uuid) DO NOTHING",
                    (self._device, self._name),
                )
        return self._conn


class Outbox:
    """Readings on their way; delivers each at least once.

    Parameters
    ----------
    way : Database or Broker
    capacity : int
        Readings that wait at most; the oldest go first.
    """

    def __init__(self, way: Database | Broker, capacity: int = CAPACITY) -> None:
        self.way = way
        self.waiting: deque[Reading] = deque(maxlen=capacity)
        self.dropped = 0

    def add(self, reading: Reading) -> None:
        """Queue one reading; when full, the oldest one is dropped and counted."""
        self.dropped += len(self.waiting) == self.waiting.maxlen
        self.waiting.append(reading)

    def deliver(self, patience: float | None = None) -> None:
        """Send all that waits.

        Parameters
        ----------
        patience : float, optional
            Seconds that connecting may take, if not the usual.

        Raises
        ------
        psycopg.Error, OSError
            One of `PASSING`: nothing is lost, call again later. Any other
            (no table, no privilege): calling again will not help.
        """
        self.way.send(list(self.waiting), patience)
        self.waiting.clear()


def run(outbox: Outbox, device: uuid.UUID, interval: float, stop: threading.Event) -> None:
    """Sample and deliver every `interval` seconds until `stop` is set."""
    psutil.cpu_percent()  # the first call has nothing to compare with
    stop.wait(min(1.0, interval))
    due, connected = time.monotonic(), True
    while not stop.is_set():
        outbox.add(sample(device, connected, by_mqtt=isinstance(outbox.way, Broker)))
        was, connected = connected, _delivered(outbox, quiet=not connected)
        if connected and not was:
            print(f"connected again; {outbox.dropped} readings lost since the start", flush=True)
        now = time.monotonic()
        due += interval * max(1, -(-(now - due) // interval))  # late: keep to the beat
        stop.wait(due - now)
    if outbox.waiting and not _delivered(outbox, quiet=True, patience=FAREWELL):
        print(f"{len(outbox.waiting)} readings could not be delivered", flush=True)
    outbox.way.close()


def _delivered(outbox: Outbox, quiet: bool, patience: float | None = None) -> bool:
    """Try to deliver; say why not, unless that has been said."""
    try:
        outbox.deliver(patience)
    except PASSING as problem:
        if not quiet:
            print(f"not delivered, readings wait: {problem}", file=sys.stderr, flush=True)
        return False
    return True


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 3600")
    return seconds


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description="Send this host's telemetry.")
    parser.add_argument("dsn", nargs="?", default="", help="libpq connection string (or PGHOST …)")
    parser.add_argument("--mqtt", metavar="URL", help="a broker instead: mqtt:// or mqtts://")
    parser.add_argument("--interval", type=_interval, default=60, help="seconds (default 60)")
    parser.add_argument("--name", default=platform.node(), help="default: the host's name")
    parser.add_argument("--device", type=uuid.UUID, help="its uuid (default: made from the name)")
    options = parser.parse_args()
    device = options.device or uuid.uuid5(uuid.NAMESPACE_DNS, options.name)

    try:
        way = (
            Broker(options.mqtt, device)
            if options.mqtt
            else Database(options.dsn, device, options.name)
        )
    except ValueError as mistake:
        parser.error(str(mistake))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(f"device {device} ({options.name}), every {options.interval:g} s", flush=True)
    try:
        run(Outbox(way), device, options.interval, stop)
    except (psycopg.Error, OSError) as refusal:
        sys.exit(f"agent: {refusal}")


if __name__ == "__main__":
    main()
