"""A training outside the server: what a worker does for one model.

In one transaction on the primary it claims the model, by the row that `ml_retrain` locks,
reads the history (from a replica, where there is one), trains by the code that a backend
runs, and hands the model in. What goes with the worker or with its connection, at whatever
moment, takes the claim along and leaves nothing behind: the model is due as before. And
what was stored is not due any more, whether the worker has heard of it or not.

While a training goes on, its transaction keeps no snapshot, so that no standby waits for it;
vacuum keeps the rows that were deleted since it began, as with any transaction that writes.
"""

import functools
import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from pyml import __version__, in_force, queries, training
from pyml.errors import BrokenEnvironment, translated
from pyml.following import LEADS, columns
from pyml.queries import Query
from pyml.telemetry.history import Execute, History

Connection = psycopg.Connection[DictRow]
Model = tuple[str, str, str]
"""Device, kind and field."""

LOST = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a connection raises that is gone, or that the server cannot serve just now."""

# One training at a time in a process, though Dask may run several threads in one: they
# share its connections, and TensorFlow's seed.
_busy = threading.Lock()
_connections: dict[tuple[int, str], Connection] = {}


def connection(dsn: str) -> Connection:
    """The connection of this process, made anew where it was lost."""
    key = (os.getpid(), dsn)
    conn = _connections.get(key)
    if conn is None or conn.closed:
        conn = _connections[key] = connect(dsn, "pyml.fleet")
    return conn


def connect(dsn: str, name: str) -> Connection:
    """A new connection of a worker, which goes by a name."""
    conn = psycopg.connect(
        dsn,
        autocommit=True,
        application_name=f"{name} {platform.node()} {os.getpid()}",
        row_factory=dict_row,
        cursor_factory=psycopg.RawCursor,
    )
    # A claim is looked at after its lock was taken, and has to see what others committed.
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return conn


def disconnect() -> None:
    """Close the connections of this process."""
    while _connections:
        _connections.popitem()[1].close()


@functools.cache
def _typed(query: Query) -> str:
    """A statement whose parameters have the types that it says."""

    def typed(found: re.Match[str]) -> str:
        return f"{found[0]}::{query.types[int(found[1]) - 1]}" if found[1] else found[0]

    # What stands in quotes is a name or a text, whatever it looks like.
    return re.sub(r"""\$(\d+)|"[^"]*"|'[^']*'""", typed, query.text)


def _execute(conn: Connection, query: Query, *args: Any) -> list[DictRow]:
    cursor = conn.execute(_typed(query), args, binary=True)
    return cursor.fetchall() if cursor.description else []


@contextmanager
def at_home(conn: Connection) -> Iterator[Execute]:
    """A transaction that finds names as the extension's functions do.

    Raises
    ------
    BrokenEnvironment
        The extension is not there, or of another version than this package.
    """
    execute = functools.partial(_execute, conn)
    with conn.transaction():
        found = execute(queries.AT_HOME)
        if not found:
            raise BrokenEnvironment(
                f"database {conn.info.dbname} has no extension pyml",
                detail="Models are stored in its tables.",
                hint="CREATE EXTENSION pyml CASCADE;",
            )
        if found[0]["version"] != __version__:
            raise BrokenEnvironment(
                f"this is pyml {__version__}, database {conn.info.dbname} has"
                f" {found[0]['version']}",
                detail="A model has to be trained by the version that scores with it.",
                hint="Install that version of the package where the workers run.",
            )
        execute(queries.UNMOVED)
        yield execute


@contextmanager
def _reading(dsn: str) -> Iterator[Execute]:
    """A transaction on a replica, on which the extension need not be."""
    conn = connection(dsn)
    with conn.transaction():
        _execute(conn, queries.READ_ONLY)
        yield functools.partial(_execute, conn)


def retrain_one(
    dsn: str, replica: str | None, device: str, kind: str, field: str
) -> tuple[Model, str, str]:
    """Train one model, if it is still due and nobody else is at it.

    Parameters
    ----------
    dsn : str
        The primary, where models are stored.
    replica : str or None
        Where the history is read instead; it may lag behind.
    device, kind, field : str
        The model.

    Returns
    -------
    tuple
        The model; trained, kept, failed or absent (as `ml_run` then says), passed over or lost: the
        connection, and all that was done; and what there is to say of it.

    Raises
    ------
    PymlError, psycopg.Error
        What the next model would meet as well.
    """
    model = (device, kind, field)
    with _busy:
        try:
            conn = connection(dsn)
            with at_home(conn) as execute:
                return model, _attempt(conn, execute, replica, model), ""
        except LOST as error:
            return model, "lost", str(error).strip()


def _attempt(conn: Connection, execute: Execute, replica: str | None, model: Model) -> str:
    """Claim a model, train it and store it, or record why not; the outcome."""
    if not execute(queries.CLAIM, *model)[0]["claimed"]:
        return "passed over"
    started = time.monotonic()
    source = _reading(replica) if replica else nullcontext(execute)
    try:
        with conn.transaction(), source as read:
            poll = functools.partial(_beat, {conn, connection(replica) if replica else conn})
            return _train(execute, read, model, started, poll)
    except Exception as raised:
        error = translated(raised)
        sqlstate = getattr(error, "sqlstate", None) or "XX000"
        if isinstance(error, LOST) or sqlstate == BrokenEnvironment.sqlstate:
            raise
        failure = (time.monotonic() - started, "failed", None, None, sqlstate, str(error)[:10_000])
        return str(execute(queries.PUT_RUN, *model, *failure)[0]["outcome"])


def _beat(conns: set[Connection]) -> None:
    """Notice a lost connection before a training ends.

    It also drops what is left of the last statement, whose snapshot would keep vacuum back
    and, on a standby, be in the way of replay: the simple protocol leaves nothing behind.
    """
    for conn in conns:
        conn.execute("SELECT 1", prepare=False)


def _train(
    execute: Execute, read: Execute, model: Model, started: float, poll: training.Poll
) -> str:
    """Train a model and store it; the outcome."""
    device, kind, field = model
    row = execute(queries.CURRENT_MODEL, *model)[0]
    history, load = History.of(row, read, execute), functools.partial(in_force.stored, execute)
    trained = training.train(execute, load, history, device, kind, field, row, poll)
    about = trained.about(time.monotonic() - started)
    if trained.data is None:
        figures = json.dumps(trained.figures, allow_nan=False)
        execute(
            queries.PUT_RUN,
            *(*model, about["seconds"], "kept", row["model_id"], figures, None, None),
        )
        return "kept"
    # Letters go as they are: an escape would have to be of the database's encoding.
    handed_in = json.dumps(about, allow_nan=False, ensure_ascii=False)
    answer = execute(queries.STORE_MODEL, *model, trained.data, handed_in, row["model_id"])
    if not answer[0]["accepted"]:
        return "passed over"
    if kind == LEADS:
        execute(queries.PUT_FINDERS, answer[0]["model_id"], *columns(trained.followers))
    execute(queries.PRUNE, *model)
    return "trained"
