"""A PostgreSQL backend as its Python sees it: statements and answers. It alone knows `plpy`."""

import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import numpy as np
import plpy

from pyml import queries
from pyml.errors import BrokenEnvironment, PymlError, translated
from pyml.history import History
from pyml.queries import Query

P = ParamSpec("P")
# character_not_in_repertoire and untranslatable_character
UNTRANSLATED = ("22021", "22P05")
Row = tuple[Any, ...]


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
    """Tell the caller, beside the answer."""
    plpy.notice(text)


# ---- answers ---------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} has no place in a document")


# One for all: json.dumps makes an encoder at each call, which costs more than a row's numbers.
# Letters go as they are: an escape would have to be of the database's encoding.
_encoder = json.JSONEncoder(allow_nan=False, default=_plain, ensure_ascii=False)


def to_json(value: Any) -> str:
    """JSON text; a number that is none would not be JSON and is an error."""
    return _encoder.encode(value)


def _failure(error: Exception) -> dict[str, Any]:
    """An error as data: the door in SQL raises it without a Python traceback."""
    error = translated(error)
    if getattr(error, "sqlstate", None) in UNTRANSLATED:
        name = execute(queries.ENCODING)[0]["encoding"]
        error = BrokenEnvironment(
            f"a text of this database, whose encoding is {name}, is no text for Python",
            detail=f"PostgreSQL says: {error}.",
            hint="Correct that text, or move to a database of encoding UTF8.",
        )
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
                return [(*[None] * width, to_json(_failure(error)))]

        return answer

    return decorate
