"""Devices per second of trainings outside the server, and the database's share of the work.

    python bench/spread.py "dbname=bench" [--devices 24] [--days 7] [--lstm 2]

needs an empty database on this host, on a server where pyml is installed and a new role
may log in without a password (``install.py demo`` makes one). It fills it as
bench/fleet.py does and retrains all devices in the server, by one worker and by two, in
turns, ``--rounds`` times; each figure is the median. ``worker`` and ``primary`` are
processor time for each device, ``read`` that of connections that only read the history:
what a replica takes over. Libraries are loaded and sessions warm before anything counts.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fleet as fill
import psycopg
from psycopg.conninfo import make_conninfo

from pyml.workers.fleet import retrain, workers

READER = f"pyml_bench_{os.getpid()}"
# Each session of a worker, with what it is for and its worker's process.
SESSIONS = """
SELECT pid, CASE WHEN usename LIKE 'pyml_bench_%' THEN 'read' ELSE 'primary' END,
       coalesce(substring(application_name FROM '^pyml.fleet .* (\\d+)$')::int, 0)
FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pyml%'
"""
DUE = """
UPDATE ml_model SET trained_at = trained_at - interval '25 hours';
UPDATE ml_run SET started_at = started_at - interval '25 hours'
"""


def processor(pid: int) -> float:
    """Processor time of a process so far, in seconds, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spent(conn: fill.Connection) -> dict[tuple[str, int], float]:
    """Processor time so far of each worker and of each of its sessions."""
    found = {}
    for pid, what, worker in conn.execute(SESSIONS):
        found[what, pid] = processor(pid)
        if worker:
            found["worker", worker] = processor(worker)
    return found


def measure(conn: fill.Connection, count: int, work: Callable[[], object]) -> dict[str, float]:
    """Devices per second, and processor time for each of them, in milliseconds."""
    before, started = spent(conn), time.monotonic()
    work()
    figures: dict[str, float] = defaultdict(float)
    figures["a second"] = count / (time.monotonic() - started)
    for (what, pid), seconds in spent(conn).items():
        figures[what] += 1000 * (seconds - before[what, pid]) / count
    return figures


def main() -> None:
    """Fill the database and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dsn")
    parser.add_argument("--devices", type=int, default=24)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--lstm", type=int, default=2, help="devices with a forecast")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    conn = psycopg.connect(given.dsn, autocommit=True)
    fill.make(conn, given.devices, given.days)
    conn.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    conn.execute(f"CREATE ROLE {READER} LOGIN")
    conn.execute(f"GRANT SELECT ON device_shadow_history TO {READER}")
    copy = make_conninfo(given.dsn, user=READER)
    server = psycopg.connect(given.dsn, autocommit=True, application_name="pyml in the server")

    def outside(jobs: int, replica: str | None) -> None:
        retrain(given.dsn, replica, partial(workers, "loky", jobs, None))

    ways: dict[str, Callable[[], Any]] = {
        "in the server, one session": lambda: server.execute("CALL ml_retrain()"),
        "1 worker": partial(outside, 1, None),
        "2 workers": partial(outside, 2, None),
        "2 workers, history read apart": partial(outside, 2, copy),
    }

    def report(what: str, count: int) -> None:
        taken: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(1 + given.rounds):
            for way, work in ways.items():
                conn.execute(DUE)
                if number == 0:
                    work()  # which loads what it takes
                else:
                    taken[way].append(measure(conn, count, work))
        for way, rounds in taken.items():
            rate, worker, primary, read = (
                statistics.median(one[name] for one in rounds)
                for name in ("a second", "worker", "primary", "read")
            )
            share = (primary + read) / (worker + primary + read)
            print(
                f"{what + ', ' + way:46} {rate:9.2f} {worker:9.1f} {primary:9.1f} {read:9.1f}"
                f" {share:9.0%} {os.getloadavg()[0]:6.1f}",
                flush=True,
            )

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; processor time in ms a device")
    heads = ("a second", "worker", "primary", "read", "database")
    print(f"{'':46}" + "".join(f" {head:>9}" for head in heads) + f" {'load':>6}")
    report("forest", given.devices)
    if given.lstm:
        some = conn.execute("SELECT uuid FROM devices ORDER BY uuid LIMIT %s", [given.lstm])
        conn.execute("UPDATE ml_metric SET enabled = false")  # no forests
        for (device,) in some.fetchall():
            conn.execute(
                "INSERT INTO ml_device_forecast VALUES (%s, '{system.cpuUsage}')", [device]
            )
        report("LSTM", given.lstm)
    conn.execute(f"DROP OWNED BY {READER}; DROP ROLE {READER}")


if __name__ == "__main__":
    main()
