"""A PostgreSQL backend as its Python sees it: statements and answers. It alone knows `plpy`."""

import ctypes
import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, cast

import numpy as np
import plpy

from pyml import queries
from pyml.errors import BrokenEnvironment, PymlError, translated
from pyml.history import History
from pyml.queries import Query

P = ParamSpec("P")
Row = tuple[Any, ...]

UNTRANSLATABLE = "22P05"
"""SQLSTATE of a character that another encoding does not have."""


# ---- statements ------------------------------------------------------------------

_plans: dict[Query, Any] = {}


def execute(query: Query, *args: Any) -> Any:
    """Rows of a prepared statement; its plan is kept for the session."""
    plan = _plans.get(query)
    if plan is None:
        if len(_plans) > 200:
            _plans.clear()
        plan = _plans[query] = plpy.prepare(query.text, list(query.types))
    return plpy.execute(plan, list(args))


def history_of(context: Mapping[str, Any]) -> History:
    """The history that a row of `queries.CONTEXT`, or of one that holds it, tells of."""
    return History.of(context, execute)


def progress(what: str) -> Callable[[], object]:
    """Tells how long a training goes; a cancel is heard there."""
    started = time.monotonic()
    return lambda: execute(
        queries.PROGRESS, f"pyml: {what}, {time.monotonic() - started:.0f} s"[:63]
    )


def notice(text: str) -> None:
    """Tell the caller, beside the answer, unless its encoding or the database's lacks a character.

    By a statement: plpy.notice converts the text before it catches errors, and one would jump
    over Python's frames.
    """
    try:
        execute(queries.NOTICE, text)
    except plpy.SPIError as error:
        if error.sqlstate != UNTRANSLATABLE:
            raise


# ---- parallel plans --------------------------------------------------------------


def _in_parallel_mode() -> Callable[[], bool]:
    """What tells whether this session is within a parallel plan, leader or worker."""
    try:
        told = ctypes.CDLL(None).IsInParallelMode
    except AttributeError:  # of a server that does not export its functions
        return lambda: False
    told.restype = ctypes.c_bool
    return cast(Callable[[], bool], told)


_parallel = _in_parallel_mode()


def _require_serial() -> None:
    """Refuse to go on where a statement would crash the backend.

    plpy.execute opens a subtransaction. In parallel mode PostgreSQL refuses that before plpy
    catches errors: its longjmp would leave Python's frames behind, and the next call would end
    in a segmentation fault. The functions are PARALLEL UNSAFE; a caller's function that is
    not marked so can still bring them here.

    Raises
    ------
    BrokenEnvironment
    """
    if _parallel():
        raise BrokenEnvironment(
            "pyml was called within a parallel plan",
            detail="A function that calls it is marked PARALLEL SAFE or RESTRICTED; it has to be"
            " PARALLEL UNSAFE.",
            hint="SET max_parallel_workers_per_gather = 0;",
        )


# ---- answers ---------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} has no place in a document")


# One for all: json.dumps makes an encoder at each call, which costs more than a row's numbers.
_encoder = json.JSONEncoder(allow_nan=False, default=_plain)


def to_json(value: Any) -> str:
    """JSON text; a number that is none would not be JSON and is an error."""
    return _encoder.encode(value)


def _failure(error: Exception) -> dict[str, Any]:
    """An error as data: the door in SQL raises it without a Python traceback."""
    error = translated(error)
    if isinstance(error, PymlError):
        return error.told()
    data = getattr(error, "spidata", None) or (None, None, None)
    return {
        "sqlstate": getattr(error, "sqlstate", None) or "XX000",
        "message": str(error),
        "detail": data[1],
        "hint": data[2],
    }


def document(door: Callable[P, dict[str, Any]]) -> Callable[P, str]:
    """Make a door answer with JSON text, an error of the user's included."""

    @functools.wraps(door)
    def answer(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            _require_serial()
            found = door(*args, **kwargs)
        except (PymlError, plpy.SPIError, MemoryError, RecursionError) as error:
            found = {"error": _failure(error)}
        return to_json(found)

    return answer


def rows(width: int) -> Callable[[Callable[P, list[Row]]], Callable[P, list[Row]]]:
    """Make a door answer with rows of `width` columns and one for an error of the user's."""

    def decorate(door: Callable[P, list[Row]]) -> Callable[P, list[Row]]:
        @functools.wraps(door)
        def answer(*args: P.args, **kwargs: P.kwargs) -> list[Row]:
            try:
                _require_serial()
                return [(*row, None) for row in door(*args, **kwargs)]
            except (PymlError, plpy.SPIError, MemoryError, RecursionError) as error:
                return [(*[None] * width, json.dumps(_failure(error)))]

        return answer

    return decorate
