"""How long until trouble is told: six faults, through the SQL functions, beside their twins.

    python bench/scenarios.py "$(python3 install.py demo --dsn)"
    python bench/scenarios.py DSN --only drift leak --noise middle --seeds 3 --scan 300

makes a database ``pyml_scenarios`` on that server and empties it first. Each device reports
for a week, is trained, and then has a fault while it is scanned every minute or every five
minutes, as of that time; its twin is the same device without a fault, scanned for as long as the
longest of the faults lasts. The devices' faults begin at hours that are spread over the day. A
fault is told when a finding of the right kind and metric is part of an incident. Beside it stand
the time asked for; the first reading in the fault that ml_zscore calls anomalous, looked at once
at the end; what a test needs that knows the noise and the fault, but not when it begins, at one
false alarm a week (Lorden 1971: the logarithm of the readings in a week over the information in
each of them); and of the twin all incidents, and how many readings ml_zscore calls anomalous, a
day.
"""

import argparse
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from timing import database, say

Floats = NDArray[np.float64]
Fields = dict[str, Floats]

HISTORY = Path(__file__).parents[1] / "demo" / "history.sql"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
TRAINED = 7 * DAY
PERSISTENCE = 0.95  # of the noise from one minute to the next
# What noise is multiplied by.
NOISE = {"low": 0.3, "middle": 1.0, "high": 3.0}
METRICS = """
INSERT INTO ml_metric (name, path, unit) VALUES
    ('packet_loss', 'system.packetLoss', '%'), ('humidity', 'system.humidity', '%')
ON CONFLICT DO NOTHING
"""
FOUND = """
SELECT EXISTS (SELECT FROM ml_finding
WHERE device_uuid = %(device)s AND last_at > %(since)s AND incident_id IS NOT NULL
  AND kind = ANY (%(kinds)s) AND (metric = ANY (%(metrics)s) OR metric = ''))
"""
TOLD = "SELECT count(*) FROM ml_incident WHERE device_uuid = %s AND opened_at > %s"


@dataclass(frozen=True)
class Scenario:
    """A fault, and what should be said of it.

    Attributes
    ----------
    fault : callable
        Changes the fields at the readings of the fault, given the seconds since it began.
    metrics, kinds : tuple of str
        Any of these is right.
    field : str
        What ml_zscore is asked about.
    asked, lasts : float
        Seconds within which it should be told, and until the replay ends.
    """

    fault: Callable[[Fields, NDArray[np.bool_], Floats], None]
    metrics: tuple[str, ...]
    kinds: tuple[str, ...]
    field: str
    asked: float
    lasts: float


def drift(fields: Fields, rows: NDArray[np.bool_], after: Floats) -> None:
    """A tenth of a degree an hour."""
    fields["temperature"][rows] += 0.1 * after / HOUR


def sentinel(fields: Fields, rows: NDArray[np.bool_], after: Floats) -> None:
    """The sensor answers -999."""
    fields["temperature"][rows] = -999


def leak(fields: Fields, rows: NDArray[np.bool_], after: Floats) -> None:
    """5 MB an hour, of 512."""
    fields["memoryUsage"][rows] += 5 * after / HOUR


def loss(fields: Fields, rows: NDArray[np.bool_], after: Floats) -> None:
    """A twentieth of the packets is lost."""
    fields["packetLoss"][rows] += 5


def flat(fields: Fields, rows: NDArray[np.bool_], after: Floats) -> None:
    """Temperature and humidity repeat their last values."""
    for name in ("temperature", "humidity"):
        fields[name][rows] = fields[name][rows][0]


def shifted(fields: Fields, rows: NDArray[np.bool_], after: Floats) -> None:
    """The day's work does not come: the processor does what it does twelve hours apart."""
    half = round(DAY / 2 / (after[1] - after[0]))
    places = np.flatnonzero(rows)
    fields["cpuUsage"][places] = fields["cpuUsage"][places - half]


MOVED = ("level", "drift")
SEEN = ("value", *MOVED)
SCENARIOS = {
    "drift": Scenario(drift, ("temperature",), MOVED, "temperature", 4 * HOUR, 36 * HOUR),
    "sentinel": Scenario(
        sentinel, ("temperature",), ("junk", "missing", *SEEN), "temperature", MINUTE, 2 * HOUR
    ),
    "leak": Scenario(
        leak, ("memory_usage_percent",), MOVED, "memory_usage_percent", 2 * HOUR, 24 * HOUR
    ),
    "loss": Scenario(loss, ("packet_loss",), SEEN, "packet_loss", 10 * MINUTE, 2 * HOUR),
    "flat": Scenario(
        flat, ("temperature", "humidity"), ("stuck",), "temperature", 2 * MINUTE, 4 * HOUR
    ),
    "pattern": Scenario(shifted, ("cpu_usage",), MOVED, "cpu_usage", 8 * HOUR, 24 * HOUR),
}


@dataclass(frozen=True)
class Case:
    """One device and how it is scanned."""

    kind: str
    level: str
    interval: float
    every: float
    seed: int
    hour: float  # of the day, UTC, at which the fault begins


def noise(rng: np.random.Generator, times: Floats, interval: float, size: float) -> Floats:
    """Noise that persists for minutes, of a standard deviation."""
    keep = PERSISTENCE ** (interval / MINUTE)
    steps = rng.normal(0, size * np.sqrt(1 - keep * keep), len(times)).tolist()
    found, last = np.empty(len(times)), 0.0
    for place, step in enumerate(steps):
        found[place] = last = keep * last + step
    return found


def device(seed: int, kind: str, times: Floats, interval: float, level: float) -> Fields:
    """What a host or a sensor reports: a day's rhythm, and noise."""
    rng = np.random.default_rng(seed)
    day = np.sin(2 * np.pi * (times / DAY - 0.4))
    # A machine's temperature follows its work; a sensor's is that of a room.
    swing, size = (4.0, 0.5) if kind == "host" else (1.5, 0.1)

    def one(size: float) -> Floats:
        return noise(rng, times, interval, level * size)

    return {
        "cpuUsage": np.clip(35 + 20 * day + one(3.0), 0, 100),
        "memoryUsage": 200 + 15 * day + one(3.0),
        "memoryTotal": np.full(len(times), 512.0),
        "temperature": 40 + swing * day + one(size),
        "humidity": 50 - 3 * day + one(0.6),
        "packetLoss": np.maximum(one(0.2), 0),
    }


def load(conn: psycopg.Connection[Any], times: Floats, fields: Fields) -> str:
    """Write a device's messages; gives its id."""
    own = str(uuid.uuid4())
    conn.execute("INSERT INTO devices VALUES (%s, 'bench')", [own])
    shown = {name: np.round(column, 2).tolist() for name, column in fields.items()}
    with conn.cursor().copy(
        'COPY device_shadow_history (device_uuid, reported_state, "timestamp") FROM STDIN'
    ) as copy:
        for place, moment in enumerate(times.tolist()):
            state = {"system": {name: column[place] for name, column in shown.items()}}
            when = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
            copy.write_row((own, json.dumps(state), when))
    return own


def scanned(
    conn: psycopg.Connection[Any], own: str, since: float, lasts: float, every: float
) -> Iterator[float]:
    """Scan a device time and again; gives the seconds since the beginning after each scan."""
    for after in np.arange(every, lasts + 1, every).tolist():
        conn.execute("CALL ml_scan(%s, %s)", [own, datetime.fromtimestamp(since + after, UTC)])
        yield after


def told(
    conn: psycopg.Connection[Any], own: str, scenario: Scenario, since: float, every: float
) -> float:
    """Seconds until it is told; NaN for never."""
    asked = {
        "device": own,
        "since": datetime.fromtimestamp(since, UTC),
        "kinds": list(scenario.kinds),
        "metrics": list(scenario.metrics),
    }
    for after in scanned(conn, own, since, scenario.lasts, every):
        if conn.execute(FOUND, asked).fetchone() == (True,):
            return after
    return np.nan


def zscore(
    conn: psycopg.Connection[Any], own: str, scenario: Scenario, since: float
) -> tuple[float, int]:
    """Seconds until the first reading that ml_zscore calls anomalous, or NaN; how many it does."""
    hours = int((time.time() - since + TRAINED) / HOUR) + 1
    first, count = conn.execute(
        "SELECT extract(epoch FROM min(timestamp)), count(*) FROM ml_zscore(%s, %s, %s)"
        " WHERE is_anomaly AND timestamp > %s",
        [own, scenario.field, hours, datetime.fromtimestamp(since, UTC)],
    ).fetchone() or (None, 0)
    return np.nan if first is None else float(first) - since, int(count)


def needed(scenario: Scenario, plain: Fields, faulty: Fields, case: Case) -> float:
    """Seconds that a test needs which knows the noise and the fault."""
    sizes = {"memory_usage_percent": "memoryUsage", "cpu_usage": "cpuUsage"}
    name = sizes.get(scenario.field, {"packet_loss": "packetLoss"}.get(scenario.field, ""))
    name = name or scenario.field
    noises = {"cpuUsage": 3.0, "memoryUsage": 3.0, "packetLoss": 0.2}
    size = noises.get(name, 0.5 if case.kind == "host" else 0.1) * NOISE[case.level]
    keep = PERSISTENCE ** (case.interval / MINUTE)
    moved = faulty[name] - plain[name]
    steps = np.diff(moved, prepend=0.0) + (1 - keep) * np.append(0.0, moved[:-1])
    known = np.cumsum((steps / (size * np.sqrt(1 - keep * keep))) ** 2 / 2)
    enough = np.flatnonzero(known >= np.log(7 * DAY / case.interval))
    started = np.flatnonzero(moved != 0)
    if not len(enough) or not len(started):
        return float("nan")
    return float(max(enough[0] - started[0] + 1, 1)) * case.interval


def measured(
    conn: psycopg.Connection[Any], scenarios: list[Scenario], case: Case
) -> list[list[float]]:
    """Of each fault told, z score and needed (seconds, NaN for never); of the twin, both a day."""
    lasts = max(scenario.lasts for scenario in scenarios)
    last = time.time() - MINUTE - lasts
    since = round(last - (last - case.hour * HOUR) % DAY)
    times = np.arange(since - TRAINED, since + lasts + 1, case.interval)
    # str.__hash__ differs from process to process.
    seed = case.seed * 101 + sum(map(ord, case.kind + case.level))
    plain = device(seed, case.kind, times, case.interval, NOISE[case.level])
    twin = trained(conn, times, plain, since)
    for _ in scanned(conn, twin, since, lasts, case.every):
        pass
    (count,) = conn.execute(TOLD, [twin, datetime.fromtimestamp(since, UTC)]).fetchone() or (0,)
    figures = []
    for scenario in scenarios:
        rows = (times > since) & (times <= since + scenario.lasts)
        faulty = {name: column.copy() for name, column in plain.items()}
        scenario.fault(faulty, rows, times[rows] - since)
        sent = times <= since + scenario.lasts
        cut = {name: column[sent] for name, column in faulty.items()}
        own = trained(conn, times[sent], cut, since)
        after = told(conn, own, scenario, since, case.every)
        first, _ = zscore(conn, own, scenario, since)
        _, many = zscore(conn, twin, scenario, since)
        enough = needed(scenario, plain, faulty, case)
        figures.append([after, first, enough, count * DAY / lasts, many * DAY / lasts])
    return figures


def trained(conn: psycopg.Connection[Any], times: Floats, fields: Fields, since: float) -> str:
    """A device with these messages, trained as of `since`; gives its id."""
    own = load(conn, times, fields)
    as_of = datetime.fromtimestamp(since, UTC)
    conn.execute("SELECT ml_train_forest(%s, as_of => %s)", [own, as_of])
    return own


def shown(seconds: float) -> str:
    """A span of time; never where there is none."""
    if not np.isfinite(seconds):
        return "never"
    minutes = seconds / MINUTE
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def main() -> None:
    """Print a line for each scenario and way to scan."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dsn")
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--noise", nargs="*", choices=list(NOISE), default=list(NOISE))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--interval", type=float, nargs="*", default=[10.0, 60.0])
    parser.add_argument("--scan", type=float, nargs="*", default=[60.0, 300.0])
    asked = parser.parse_args()
    with psycopg.connect(database(asked.dsn, "pyml_scenarios"), autocommit=True) as conn:
        conn.execute(HISTORY.read_text())
        conn.execute("CREATE EXTENSION IF NOT EXISTS pyml CASCADE")
        conn.execute("TRUNCATE devices CASCADE")
        conn.execute(METRICS)
        print(
            f"{'fault':<10}{'reads':>6}{'scans':>6}{'asked':>9}{'told: median':>14}{'worst':>9}"
            f"{'never':>9}{'z score':>9}{'needed':>9}{'twin: incidents a day':>22}{'z a day':>9}"
        )
        scenarios = [SCENARIOS[name] for name in asked.only]
        devices = list(product(("host", "sensor"), asked.noise, range(asked.seeds)))
        for interval, every in product(asked.interval, asked.scan):
            each = []
            for place, (kind, level, seed) in enumerate(devices):
                # 25, not 24: windows of hours are looked at after each full hour.
                case = Case(kind, level, interval, every, seed, 25 * place / len(devices))
                each.append(measured(conn, scenarios, case))
                say(f"{place + 1} of {len(devices)} devices")
            for place, name in enumerate(asked.only):
                figures = np.array([one[place] for one in each])
                print(line(name, interval, every, SCENARIOS[name].asked, figures), flush=True)


def line(name: str, interval: float, every: float, asked: float, figures: Floats) -> str:
    """One line of the table."""
    after, first, enough = np.nan_to_num(figures[:, :3], nan=np.inf).T
    findings, scores = figures[:, 3:].mean(axis=0)
    never = f"{int(np.isinf(after).sum())} of {len(after)}"
    return (
        f"{name:<10}{interval:>5.0f}s{every:>5.0f}s{shown(asked):>9}{shown(np.median(after)):>14}"
        f"{shown(after.max()):>9}{never:>9}{shown(np.median(first)):>9}"
        f"{shown(np.median(enough)):>9}{findings:>22.2f}{scores:>9.1f}"
    )


if __name__ == "__main__":
    main()
