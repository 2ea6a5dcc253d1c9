"""Many devices from outside the server: more cores than one session has.

    python3 -m pyml.fleet retrain --jobs 4 --dsn "dbname=fleet"

Each worker has a connection of its own and asks the server for one model at a
time. The server's locks hand out the work, so that workers, sessions in psql and
pg_cron can all be at it at once.
"""

import argparse
import os
import sys
import time
from collections import Counter
from typing import Any, Literal

import psycopg
from joblib import Parallel, delayed
from psycopg import sql

Outcome = tuple[str, str]
Backend = Literal["loky", "multiprocessing", "threading"]

BAR = 30

_connections: dict[tuple[int, str], psycopg.Connection[Any]] = {}


def _connection(dsn: str) -> psycopg.Connection[Any]:
    """The connection of this process, made anew where it was lost."""
    key = (os.getpid(), dsn)
    held = _connections.get(key)
    if held is None or held.closed:
        held = _connections[key] = psycopg.connect(
            dsn, autocommit=True, application_name="pyml.fleet"
        )
    return held


def _door(conn: psycopg.Connection[Any], name: str) -> sql.Identifier:
    """A function of the extension, in whichever schema it is."""
    found = conn.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'pyml'"
    ).fetchone()
    if found is None:
        raise SystemExit(
            f"database {conn.info.dbname} has no extension pyml\n"
            "hint: CREATE EXTENSION pyml CASCADE;"
        )
    return sql.Identifier(found[0], name)


def due(dsn: str) -> list[tuple[str, str, str]]:
    """What is due: device, kind and field of each model, the oldest first."""
    with psycopg.connect(dsn) as conn:
        query = sql.SQL(
            "SELECT d.device_uuid::text, d.kind, d.field FROM {}(ARRAY(SELECT {}())) AS d"
            " ORDER BY d.since NULLS FIRST, d.device_uuid, d.kind, d.field"
        ).format(_door(conn, "_ml_due"), _door(conn, "_ml_devices"))
        return conn.execute(query).fetchall()


def retrain_one(dsn: str, device: str, kind: str, field: str) -> Outcome:
    """Train one model, unless another session has it; the outcome, and an error's words."""
    try:
        conn = _connection(dsn)
        query = sql.SQL("SELECT {}(%s, %s, %s)").format(_door(conn, "_ml_retrain_one"))
        row = conn.execute(query, (device, kind, field)).fetchone()
        return (str(row[0]) if row else "failed", "")
    except psycopg.Error as error:
        return "failed", f"{device} {kind} {field}: {error}".strip()


def _bar(done: int, total: int, outcomes: Counter[str], started: float) -> str:
    elapsed = time.monotonic() - started
    filled = BAR * done // max(total, 1)
    left = (total - done) * elapsed / done if done else 0.0
    return (
        f"\r[{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}"
        f" {outcomes['failed']} failed, {done / max(elapsed, 1e-3):.1f}/s, {left:.0f} s left "
    )


def retrain(dsn: str, jobs: int, backend: Backend = "loky") -> Counter[str]:
    """Train what is due with `jobs` workers; how often each outcome came.

    Parameters
    ----------
    dsn : str
        How each worker connects.
    jobs : int
        Workers; as many cores of the server are kept busy.
    backend : str
        A backend of joblib.
    """
    models = due(dsn)
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    tasks = (delayed(retrain_one)(dsn, *model) for model in models)
    # One at a time: a model takes far longer than handing it out, and LSTMs longest.
    workers = Parallel(n_jobs=jobs, backend=backend, batch_size=1, return_as="generator_unordered")
    for done, (outcome, words) in enumerate(workers(tasks), 1):
        outcomes[outcome] += 1
        if words:
            print(f"\r{words}", file=sys.stderr)
        if sys.stderr.isatty() or done == len(models):
            print(_bar(done, len(models), outcomes, started), end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return outcomes


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python3 -m pyml.fleet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("retrain", help="train what is due")
    command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers")
    command.add_argument("--dsn", default="", help="connection string; libpq's PG* by default")
    given = parser.parse_args()
    outcomes = retrain(given.dsn, given.jobs)
    print(", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "nothing due")
    sys.exit(1 if outcomes["failed"] else 0)


if __name__ == "__main__":
    main()
