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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pyml import in_force, queries, training
from pyml.errors import BrokenEnvironment, translated
from pyml.following import LEADS, columns
from pyml.telemetry.history import Execute, History
from pyml.workers.database import LOST, Connection, at_home, connect, run

Model = tuple[str, str, str]
"""Device, kind and field."""

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


def disconnect() -> None:
    """Close the connections of this process."""
    while _connections:
        _connections.popitem()[1].close()


@contextmanager
def _reading(dsn: str) -> Iterator[Execute]:
    """A transaction on a replica, on which the extension need not be."""
    conn = connection(dsn)
    with conn.transaction():
        execute = functools.partial(run, conn)
        execute(queries.READ_ONLY)
        yield execute


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
            *(*model, about["seconds"], "kept", trained.instead or row["model_id"]),
            *(figures, None, None),
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
