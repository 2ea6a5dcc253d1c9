"""A PostgreSQL backend as its Python sees it: statements and answers. It alone knows `plpy`."""

import functools
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import numpy as np
import plpy

from pyml import queries
from pyml.errors import PymlError, translated
from pyml.history import History
from pyml.queries import Query

P = ParamSpec("P")
Row = tuple[Any, ...]


# ---- statements ------------------------------------------------------------------

# Of all plans that are kept. A plan takes some 60 bytes for each letter: that of a forest of six
# metrics has a thousand letters, of the largest that may be, 130,000.
MOST_LETTERS = 200_000

_plans: OrderedDict[Query, Any] = OrderedDict()


def execute(query: Query, *args: Any) -> Any:
    """Rows of a prepared statement; its plan is kept for the session, the least used goes first."""
    plan = _plans.get(query)
    if plan is None:
        plan = _plans[query] = plpy.prepare(query.text, list(query.types))
        while len(_plans) > 1 and sum(len(kept.text) for kept in _plans) > MOST_LETTERS:
            _plans.popitem(last=False)
    else:
        _plans.move_to_end(query)
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
    """Tell the caller, beside the answer."""
    plpy.notice(text)


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
            found = door(*args, **kwargs)
        except (PymlError, plpy.SPIError, MemoryError) as error:
            found = {"error": _failure(error)}
        return to_json(found)

    return answer


def rows(width: int) -> Callable[[Callable[P, list[Row]]], Callable[P, list[Row]]]:
    """Make a door answer with rows of `width` columns and one for an error of the user's."""

    def decorate(door: Callable[P, list[Row]]) -> Callable[P, list[Row]]:
        @functools.wraps(door)
        def answer(*args: P.args, **kwargs: P.kwargs) -> list[Row]:
            try:
                return [(*row, None) for row in door(*args, **kwargs)]
            except (PymlError, plpy.SPIError, MemoryError) as error:
                return [(*[None] * width, json.dumps(_failure(error)))]

        return answer

    return decorate
