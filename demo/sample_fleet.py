"""A small fleet made of seeded random numbers, with faults whose place is known.

    python demo/sample_fleet.py "dbname=demo"

loads eight devices and eight days that end now, replacing an earlier load. Each
device misbehaves as real ones do (gaps, repeats, late rows, failed collections,
restarts, rows of other kinds, wrong types); one, ``archive-berlin``, does not.
Six carry a fault within the last 24 hours: `faults` says which, where and when.

Everything is placed in hours before `now`, so another `now` moves the timestamps
and changes no value.
"""

import argparse
import heapq
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED = 7
DAYS = 8
INTERVAL = 60  # seconds
SHADOW = "device-state"

WRONG_VALUES: tuple[Any, ...] = ("27.4", "n/a", True, [27.4], None, 1e308)


class Fault(NamedTuple):
    """One labelled fault.

    Attributes
    ----------
    device_uuid : uuid.UUID
    device_name : str
    kind : str
        ``cpu spike``, ``memory leak``, ``runaway temperature``, ``network flood``,
        ``stuck sensor`` or ``odd combination``.
    start, end : datetime
        Naive UTC, as in the table; every reading between them is affected.
    metric : str
        Dotted path of the field that shows it most.
    sentence : str
        What happened, for a person.
    """

    device_uuid: uuid.UUID
    device_name: str
    kind: str
    start: datetime
    end: datetime
    metric: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A fault before it is placed in time: hours before now."""

    kind: str
    start: float
    end: float
    metric: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Device:
    """How one device lives. Pairs are (at its quietest, at its busiest).

    Attributes
    ----------
    pace : float
        Its interval, as a multiple of the fleet's.
    peak : float
        Hours before now at which it is busiest (and every 24 h before that).
    steepness : float
        How sharply quiet turns to busy: 1 is close to a cosine, 20 two plateaus.
    cpu : pair of float
        Per cent.
    memory, disk : (total, used, used) or None
        Memory in MB from quiet to busy; disk in GB at the first and the last day.
    celsius : float or None
        Temperature at rest; None where the model has no sensor.
    network : pair of float or None
        Bytes received a second; None where the agent does not report it.
    untroubled : bool
        Without awkward rows.
    """

    name: str
    model: str
    peak: float
    cpu: tuple[float, float]
    memory: tuple[int, float, float] | None = None
    disk: tuple[int, float, float] | None = None
    celsius: float | None = None
    network: tuple[float, float] | None = None
    pace: float = 1.0
    steepness: float = 1.0
    untroubled: bool = False
    fault: Plan | None = None

    @property
    def uuid(self) -> uuid.UUID:
        """The same in every load."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"pyml/sample-fleet/{self.name}")


FLEET = (
    Device(
        name="archive-berlin",
        model="RX-220",
        peak=9,
        cpu=(11, 38),
        memory=(16320, 6100, 7900),
        disk=(1907, 1204, 1208),
        celsius=33,
        network=(40e3, 600e3),
        untroubled=True,
    ),
    Device(
        name="web-paris",
        model="VM-4",
        peak=6,
        cpu=(8, 52),
        memory=(8192, 3300, 4700),
        disk=(160, 71, 72.5),
        network=(25e3, 900e3),
        fault=Plan(
            kind="cpu spike",
            start=5.0,
            end=4.7,
            metric="system.cpuUsage",
            sentence="The CPU jumps to 97 % for 18 minutes; it never passes 80 % otherwise.",
        ),
    ),
    Device(
        name="api-madrid",
        model="VM-8",
        peak=4,
        cpu=(12, 45),
        memory=(32640, 13100, 15600),
        disk=(476, 288, 290),
        pace=5.0,
        fault=Plan(
            kind="memory leak",
            start=11.0,
            end=1.5,
            metric="system.memoryUsage",
            sentence="Memory climbs by 45 points in nine and a half hours, then is freed at once.",
        ),
    ),
    Device(
        name="edge-oslo",
        model="EB-12",
        peak=7,
        cpu=(14, 41),
        memory=(3906, 1420, 1760),
        disk=(58, 21, 23),
        celsius=36,
        fault=Plan(
            kind="runaway temperature",
            start=4.0,
            end=1.0,
            metric="system.temperature",
            sentence="The fan fails: the temperature climbs by 40 degrees at an ordinary load.",
        ),
    ),
    Device(
        name="gateway-lisbon",
        model="GW-3",
        peak=5,
        cpu=(6, 29),
        memory=(2048, 730, 880),
        disk=(29, 8, 9),
        celsius=31,
        network=(120e3, 1.4e6),
        pace=0.5,
        fault=Plan(
            kind="network flood",
            start=8.0,
            end=7.5,
            metric="system.network.rxBytes",
            sentence="Received traffic is twelve times the usual for half an hour.",
        ),
    ),
    Device(
        name="sensor-vienna",
        model="EB-12",
        peak=14,
        cpu=(9, 47),
        memory=(3906, 1180, 1650),
        disk=(58, 34, 35.5),
        celsius=34,
        fault=Plan(
            kind="stuck sensor",
            start=13.0,
            end=2.0,
            metric="system.temperature",
            sentence="The temperature repeats one ordinary value for eleven hours.",
        ),
    ),
    Device(
        name="batch-dublin",
        model="RX-220",
        peak=16,
        cpu=(7, 68),
        memory=(65280, 12400, 39800),
        disk=(953, 512, 514),
        celsius=32,
        network=(30e3, 2.2e6),
        steepness=20.0,
        fault=Plan(
            kind="odd combination",
            start=6.5,
            end=3.0,
            metric="system.cpuUsage",
            sentence="At night the CPU works as by day while memory and network rest: "
            "each value is usual, the combination is not.",
        ),
    ),
    Device(name="meter-athens", model="MT-1", peak=8, cpu=(10, 55)),
)


def faults(seed: int = SEED, days: float = DAYS, now: datetime | None = None) -> list[Fault]:
    """The labelled faults of `rows` for the same arguments.

    Parameters
    ----------
    seed : int
        Changes the noise, never the faults.
    days : float
        A fault that began before the data does is left out.
    now : datetime, optional
        Naive UTC; the present by default.

    Returns
    -------
    list of Fault
        Oldest first.
    """
    now = _now() if now is None else now
    found = [
        Fault(
            device.uuid,
            device.name,
            device.fault.kind,
            now - timedelta(hours=device.fault.start),
            now - timedelta(hours=device.fault.end),
            device.fault.metric,
            device.fault.sentence,
        )
        for device in FLEET
        if device.fault is not None and device.fault.start <= 24 * days
    ]
    return sorted(found, key=lambda fault: fault.start)


def rows(
    seed: int = SEED, days: float = DAYS, now: datetime | None = None, interval: float = INTERVAL
) -> Iterator[tuple[uuid.UUID, str, str, datetime]]:
    """The fleet's rows in the order in which they arrived.

    Parameters
    ----------
    seed : int
        The same seed gives the same rows.
    days : float
        Length of the history that ends at `now`.
    now : datetime, optional
        Naive UTC; the present by default.
    interval : float
        Seconds between readings; two devices have half and five times this.

    Yields
    ------
    device_uuid : uuid.UUID
    shadow_name : str
    reported_state : str
        JSON text.
    timestamp : datetime
        Naive UTC.
    """
    now = _now() if now is None else now
    streams = (
        _history(device, np.random.default_rng([seed, index]), days, interval)
        for index, device in enumerate(FLEET)
    )
    for _, device, shadow, offset, state in heapq.merge(*streams, key=lambda row: row[0]):
        yield device, shadow, json.dumps(state), now + timedelta(milliseconds=offset)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class _Row(NamedTuple):
    """A row before it has a date: milliseconds after `now` (negative) for both times."""

    arrival: int
    device: uuid.UUID
    shadow: str
    offset: int
    state: dict[str, Any]


def _history(device: Device, rng: np.random.Generator, days: float, interval: float) -> list[_Row]:
    """All rows of one device, in order of arrival."""
    step = interval * device.pace
    n = int(days * 86400 / step)
    # An agent's timer is never quite exact.
    seconds = (np.arange(n) - n) * step + rng.uniform(0, 0.05 * step, n)
    offsets = np.round(seconds * 1000).astype(int)
    restarts = np.zeros(n, dtype=bool)
    kept = np.ones(n, dtype=bool)
    if not device.untroubled:
        restarts[rng.choice(np.arange(n // 20, n), 3, replace=False)] = True
        kept = _outages(rng, seconds, restarts)
    columns = _columns(device, rng, seconds, restarts)

    rows = [
        _Row(int(offsets[i]), device.uuid, SHADOW, int(offsets[i]), _state(device, columns, i))
        for i in np.flatnonzero(kept).tolist()
    ]
    if not device.untroubled:
        rows += _troubles(device, rng, rows, step)
    return sorted(rows, key=lambda row: row.arrival)


def _outages(
    rng: np.random.Generator, seconds: Floats, restarts: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which readings were taken at all: none while it restarts, none in two longer gaps."""
    kept = ~restarts
    hours = -seconds / 3600
    oldest = hours[0] - 1
    for length in rng.uniform(1.0, 2.0, 2):
        # The last day holds the faults: a gap must not swallow one.
        if oldest - length > 24:
            start = rng.uniform(24 + length, oldest)
            kept &= (hours > start) | (hours < start - length)
    return kept


def _columns(
    device: Device, rng: np.random.Generator, seconds: Floats, restarts: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """What the sensors measured, shape (n,) each, by the last part of the field's path."""
    hours, n = -seconds / 3600, len(seconds)
    step = -seconds[0] / n
    fault = device.fault
    active = np.zeros(n, dtype=bool)
    if fault is not None:
        active = (hours <= fault.start) & (hours >= fault.end)

    def wander(minutes: float) -> Floats:
        """Unit noise that forgets over some minutes."""
        decay = np.exp(-step / (60 * minutes))
        kernel = decay ** np.arange(int(5 * 60 * minutes / step) + 1)
        noise = rng.standard_normal(n + len(kernel) - 1)
        smooth: Floats = np.convolve(noise, kernel, "valid") / np.sqrt((kernel**2).sum())
        return smooth

    def between(low: float, high: float, share: Floats) -> Floats:
        return low + (high - low) * share

    def bursts(low: float, high: float) -> Floats:
        """Once a day, for two to eight minutes: rare and yet ordinary."""
        height = np.zeros(n)
        for start in rng.uniform(0, hours[0], int(hours[0] / 24)):
            lasts = (hours <= start) & (hours > start - rng.uniform(2, 8) / 60)
            height[lasts] += rng.uniform(low, high)
        return height

    rhythm = np.cos(2 * np.pi * (hours - device.peak) / 24)
    load = 0.5 + 0.5 * np.tanh(device.steepness * rhythm) / np.tanh(device.steepness)
    load = load + 0.03 * wander(20)

    work = load
    if fault is not None and fault.kind == "odd combination":
        # Eased in and out as this host's own mornings and evenings are.
        edges = [fault.end, fault.end + 0.3, fault.start - 0.3, fault.start]
        work = np.maximum(load, 0.92 * np.interp(hours, edges, [0, 1, 1, 0]))
    spread = device.cpu[1] - device.cpu[0]
    cpu = between(*device.cpu, work) + 0.04 * spread * (wander(3) + 0.4 * rng.standard_t(4, n))
    cpu = cpu + spread * bursts(0.2, 0.5)
    if fault is not None and fault.kind == "cpu spike":
        cpu[active] = 97 + rng.standard_normal(active.sum())
    cpu = np.clip(cpu, 0.2, 100)
    columns: dict[str, NDArray[Any]] = {"cpuUsage": np.round(cpu, 1)}

    if device.memory is not None:
        total, quiet, busy = device.memory
        memory = between(quiet, busy, load) + 0.004 * total * (wander(30) + 0.2 * wander(1))
        if fault is not None and fault.kind == "memory leak":
            grown = np.interp(hours, [fault.end, fault.start], [0.45, 0.0])
            memory = memory + total * np.where(active, grown, 0)
        columns["memoryUsage"] = np.clip(np.round(memory), 1, total).astype(int)
    if device.disk is not None:
        _, first, last = device.disk
        columns["diskUsage"] = np.round(np.linspace(first, last, n)).astype(int)
    if device.celsius is not None:
        lag = max(1, int(300 / step))  # a case takes minutes to warm up
        heat = np.convolve(np.r_[np.full(lag - 1, cpu[0]), cpu], np.full(lag, 1 / lag), "valid")
        celsius = device.celsius + 0.35 * heat + 0.25 * rng.standard_normal(n)
        if fault is not None and fault.kind == "runaway temperature":
            climb = np.interp(hours, [fault.end, fault.start - 1.5, fault.start], [40, 40, 0])
            celsius = celsius + np.where(active, climb, 0)
        if fault is not None and fault.kind == "stuck sensor":
            celsius[active] = celsius[active][0]
        columns["temperature"] = np.round(celsius, 1)
    if device.network is not None:
        rate = between(*device.network, np.clip(load, 0, None))
        rate = rate * np.exp(0.08 * wander(4) + 0.04 * rng.standard_t(4, n))
        rate = rate + device.network[1] * bursts(0.3, 1.0)
        answer = 0.6 * rate * np.exp(0.08 * rng.standard_normal(n))
        if fault is not None and fault.kind == "network flood":
            rate[active] *= 12
        elapsed = np.diff(seconds, prepend=seconds[0] - step)
        columns["rxBytes"] = _since_boot(rate * elapsed, restarts)
        columns["txBytes"] = _since_boot(answer * elapsed, restarts)
    booted = np.maximum.accumulate(np.where(restarts, seconds, seconds[0] - 6542))
    columns["uptime"] = np.round(seconds - booted).astype(int)
    return columns


def _since_boot(amount: Floats, restarts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A counter that adds up `amount` and falls back to 0 at each restart."""
    total = np.cumsum(np.round(amount).astype(np.int64))
    return total - np.maximum.accumulate(np.where(restarts, total, 0))


def _state(device: Device, columns: dict[str, NDArray[Any]], i: int) -> dict[str, Any]:
    """The reported state of one reading."""
    system: dict[str, Any] = {"cpuUsage": columns["cpuUsage"][i].item()}
    for name, size in (("memory", device.memory), ("disk", device.disk)):
        if size is not None:
            system[f"{name}Usage"] = columns[f"{name}Usage"][i].item()
            system[f"{name}Total"] = size[0]
    if "temperature" in columns:
        system["temperature"] = columns["temperature"][i].item()
    elif device.memory is not None:
        system["temperature"] = None  # the agent asks, the model has no sensor
    if device.network is not None:
        system["network"] = {name: columns[name][i].item() for name in ("rxBytes", "txBytes")}
    return {
        "identity": {"deviceUuid": str(device.uuid), "model": device.model},
        "health": {"status": "healthy", "uptime": columns["uptime"][i].item()},
        "system": system,
        "connectivity": {"mqttConnected": True, "cloudConnected": True},
    }


def _troubles(
    device: Device, rng: np.random.Generator, rows: list[_Row], step: float
) -> list[_Row]:
    """Spoil some of `rows` in place as agents and networks do; return the rows to add."""
    n, step_ms = len(rows), int(1000 * step)

    def some(share: float, least: int) -> list[int]:
        return [int(i) for i in rng.choice(n, max(least, int(share * n)), replace=False)]

    # A failed collection of a host that reports no total looks like an idle CPU: not made here.
    if device.memory is not None:
        stretch = int(rng.integers(0, n - 5))
        for i in {*some(0.001, 2), *range(stretch, stretch + 5)}:
            rows[i] = rows[i]._replace(state=_failed(rows[i].state))
    for count, i in enumerate(some(0.0015, len(WRONG_VALUES))):
        system = {**rows[i].state["system"], "cpuUsage": WRONG_VALUES[count % len(WRONG_VALUES)]}
        rows[i] = rows[i]._replace(state={**rows[i].state, "system": system})
    for i in some(0.005, 3):  # delivered late, after its successors
        delay = int(rng.uniform(2, 5) * step_ms)
        rows[i] = rows[i]._replace(arrival=rows[i].arrival + delay)

    added = []
    for count, i in enumerate(some(0.003, 4)):  # delivered twice, stamped again or not
        again = 400 * (count % 2)
        added.append(
            rows[i]._replace(arrival=rows[i].arrival + 1000, offset=rows[i].offset + again)
        )
    for count, i in enumerate(some(0.002, 4)):  # rows that are no readings
        offset = rows[i].offset - step_ms // 3
        identity = rows[i].state["identity"]
        echo = {"identity": identity, "config": {"intervalSeconds": step}}
        error = {"identity": identity, "health": {"status": "error", "message": "timeout"}}
        shadow = "device-config" if count % 4 == 0 else SHADOW
        added.append(_Row(offset, device.uuid, shadow, offset, (echo, error)[count % 2]))
    gaps = np.flatnonzero(np.diff([row.offset for row in rows]) > 10 * step_ms)
    for i in gaps:  # back after an outage, an agent reports several times at once
        back = rows[int(i) + 1]
        added += [
            back._replace(arrival=back.arrival + k * 300, offset=back.offset + k * 300)
            for k in (1, 2, 3)
        ]
    return added


def _failed(state: dict[str, Any]) -> dict[str, Any]:
    """The same row where collecting failed: every number of `system` is 0, the totals too."""

    def zeros(value: Any) -> Any:
        return {k: zeros(v) for k, v in value.items()} if isinstance(value, dict) else 0

    return {**state, "system": zeros(state["system"])}


def load(
    dsn: str,
    seed: int = SEED,
    days: float = DAYS,
    now: datetime | None = None,
    interval: float = INTERVAL,
) -> int:
    """Put the fleet into a database in one transaction, in place of an earlier load.

    Missing tables are created as in ``history.sql``; rows of other devices stay.

    Parameters
    ----------
    dsn : str
        A libpq connection string.
    seed, days, now, interval
        As in `rows`.

    Returns
    -------
    int
        Rows loaded.
    """
    import psycopg  # here, so that the generator needs numpy alone

    uuids = [device.uuid for device in FLEET]
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT to_regclass('device_shadow_history') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute(Path(__file__).with_name("history.sql").read_bytes())
        cursor.execute("DELETE FROM device_shadow_history WHERE device_uuid = ANY (%s)", (uuids,))
        cursor.executemany(
            "INSERT INTO devices (uuid, name) VALUES (%s, %s)"
            " ON CONFLICT (uuid) DO UPDATE SET name = EXCLUDED.name",
            [(device.uuid, device.name) for device in FLEET],
        )
        count = 0
        with cursor.copy(
            "COPY device_shadow_history (device_uuid, shadow_name, reported_state, timestamp)"
            " FROM STDIN"
        ) as copy:
            for row in rows(seed, days, now, interval):
                copy.write_row(row)
                count += 1
        cursor.execute("ANALYZE device_shadow_history")
    return count


def main() -> None:
    """Load the fleet into the database that the command line names."""
    parser = argparse.ArgumentParser(description="Load pyml's sample fleet into a database.")
    parser.add_argument("dsn", help="libpq connection string of the database")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--days", type=float, default=DAYS)
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds (default 60)")
    options = parser.parse_args()

    now, started = _now(), time.monotonic()
    print(f"Loading {len(FLEET)} devices, {options.days:g} days up to {now:%Y-%m-%d %H:%M} UTC ...")
    count = load(options.dsn, options.seed, options.days, now, options.interval)
    print(f"{count} rows in {time.monotonic() - started:.1f} s.\n")
    planted = {fault.device_uuid: fault for fault in faults(options.seed, options.days, now)}
    for device in FLEET:
        fault = planted.get(device.uuid)
        told = f"{fault.start:%H:%M}-{fault.end:%H:%M} {fault.sentence}" if fault else "no fault"
        print(f"{device.uuid}  {device.name:<15} {told}")


if __name__ == "__main__":
    main()
