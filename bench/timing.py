"""What the speed programs share: a database of their own, a fleet in it, and a stopwatch."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.conninfo import make_conninfo

Connection = psycopg.Connection[Any]
Key = TypeVar("Key")

HISTORY = Path(__file__).parents[1] / "demo" / "history.sql"

# A device reports each minute what DESIGN's devices do: a day's rhythm with noise of its
# own. Devices take turns, as they do in a table that many agents write to, so the rows of
# one lie on as many pages as there are minutes.
FILL = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT d.uuid, jsonb_build_object(
    'identity', jsonb_build_object('deviceUuid', d.uuid, 'model', 'bench'),
    'health', jsonb_build_object('status', 'healthy', 'uptime',
        extract(epoch FROM t)::int %% 9999999),
    'system', jsonb_build_object(
        'cpuUsage', round((30 + d.phase + 12 * day + 6 * (random() - 0.5))::numeric, 1),
        'memoryUsage', round((7000 + 900 * day + 90 * (random() - 0.5))::numeric),
        'memoryTotal', 16320, 'diskUsage', 200 + d.phase + extract(day FROM t), 'diskTotal', 476,
        'temperature', round((45 + 4 * day + random())::numeric, 1)),
    'connectivity', jsonb_build_object('mqttConnected', true, 'cloudConnected', true)), t
FROM generate_series(%(first)s::timestamp, %(last)s::timestamp, '1 minute') AS t,
    LATERAL (SELECT uuid, phase, sin(extract(epoch FROM t) / 13751 + phase) AS day FROM (
        SELECT uuid, row_number() OVER (ORDER BY uuid) %% 10 AS phase FROM devices) AS one) AS d
ORDER BY t
"""


def say(text: str) -> None:
    """Write a message to stderr; stdout is for the result."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def database(dsn: str, name: str) -> str:
    """The connection string of a database of the bench's own, made where it is missing."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        known = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        if not known:
            conn.execute(f'CREATE DATABASE "{name}"')
    return make_conninfo(dsn, dbname=name)


def fleet(conn: Connection, devices: int, days: int) -> list[str]:
    """Devices with a reading a minute over the last `days`; only what is missing is written.

    Indexes are made after the rows, and no trigger checks that each row's device exists:
    the tables end as demo/history.sql has them.
    """
    tables, word, indexes = HISTORY.read_text().partition("CREATE INDEX")
    conn.execute(tables)
    conn.execute("SET session_replication_role = replica; SET maintenance_work_mem = '1GB'")
    there, last, now = conn.execute(
        "SELECT (SELECT count(*) FROM devices), (SELECT max(timestamp) FROM device_shadow_history),"
        " date_trunc('minute', now() AT TIME ZONE 'UTC')"
    ).fetchone()
    if there not in (0, devices):
        sys.exit(f"the database holds {there} devices: DROP DATABASE {conn.info.dbname}; first")
    if not there:
        conn.execute(
            "INSERT INTO devices SELECT gen_random_uuid(), 'bench' FROM generate_series(1, %s)",
            [devices],
        )
    steps = conn.execute(
        "SELECT t, least(t + interval '1439 minutes', %(now)s::timestamp)"
        " FROM generate_series(greatest(%(last)s::timestamp + interval '1 minute',"
        " %(now)s::timestamp - make_interval(days => %(days)s)), %(now)s::timestamp, '1 day') AS t",
        {"last": last, "now": now, "days": days},
    ).fetchall()
    for first, until in steps:
        say(f"writing the readings of {devices} devices from {first}")
        conn.execute(FILL, {"first": first, "last": until})
    if steps:
        say("indexes, VACUUM ANALYZE")
        conn.execute(word + indexes)
        conn.execute("VACUUM ANALYZE")
    conn.execute("RESET session_replication_role; RESET maintenance_work_mem")
    return [row[0] for row in conn.execute("SELECT uuid::text FROM devices ORDER BY uuid")]


def prepared(conn: Connection, sql: str, *args: Any) -> Callable[[], object]:
    """A prepared statement as a call that fetches all rows and makes no Python objects of them.

    Its arguments are text: libpq sends and receives bytes as they are.
    """
    name = f"bench_{len(conn.info.dsn)}_{time.monotonic_ns()}".encode()
    given = [str(arg).encode() for arg in args]
    checked(conn.pgconn.prepare(name, sql.encode()))
    return lambda: checked(conn.pgconn.exec_prepared(name, given))


def checked(result: Any) -> Any:
    """A result of libpq's, unless it is an error."""
    if result.error_message:
        sys.exit(result.error_message.decode())
    return result


def on_cpu(pid: int) -> float:
    """Milliseconds that a process' first thread has had a processor for."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def rounds(
    calls: dict[Key, Callable[[], object]], count: int, pid: int
) -> dict[Key, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Milliseconds of each call and of process `pid`'s processor, `count` times in turns.

    In turns, so that a noisy moment hits them all.
    """
    spent = {name: (np.empty(count), np.empty(count)) for name in calls}
    for i in range(count):
        for name, call in calls.items():
            before, started = on_cpu(pid), time.perf_counter()
            call()
            spent[name][0][i] = 1000 * (time.perf_counter() - started)
            spent[name][1][i] = on_cpu(pid) - before
    return spent


def percentiles(spent: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median, 95th and 99th percentile."""
    p50, p95, p99 = np.percentile(spent, [50, 95, 99]).tolist()
    return p50, p95, p99


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Print a table, numbers to three digits, and how busy the machine was meanwhile."""

    def shown(cell: Any) -> str:
        if not isinstance(cell, float):
            return str(cell)
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"

    cells = [list(head), *(list(map(shown, line)) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        told = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *told]))
    print(f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})\n", flush=True)
