"""A PostgreSQL backend as its Python sees it: statements and answers. It alone knows `plpy`."""

import ctypes
import functools
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, cast

import numpy as np
import plpy
from numpy.typing import NDArray

from pyml import queries
from pyml.background import require_room
from pyml.errors import BrokenEnvironment, PymlError, translated
from pyml.queries import Query
from pyml.server.dispatch import ROWS
from pyml.telemetry.history import History

P = ParamSpec("P")
Row = tuple[Any, ...]

UNTRANSLATED = ("22021", "22P05")
"""SQLSTATEs of a text that another encoding does not have."""


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
    """The history that a row describes: of `queries.CONTEXT`, or of a query that includes it."""
    return History.of(context, execute)


def progress(what: str) -> Callable[[], object]:
    """A poll for a training: it shows the time taken so far, and a cancel raises there."""
    started = time.monotonic()
    return lambda: execute(
        queries.PROGRESS, f"pyml: {what}, {time.monotonic() - started:.0f} s"[:63]
    )


def pulse() -> None:
    """Raise where a cancel or a timeout has come."""
    execute(queries.PULSE)


def notice(text: str) -> None:
    """Send the client a NOTICE, unless its encoding or the database's lacks a character.

    By a statement: plpy.notice converts the text before it catches errors, and one would jump
    over Python's frames.
    """
    try:
        execute(queries.NOTICE, text)
    except plpy.SPIError as error:
        if error.sqlstate not in UNTRANSLATED:
            raise


# ---- what would end the process --------------------------------------------------


def _in_parallel_mode() -> Callable[[], bool]:
    """A function: whether this session is within a parallel plan, as leader or worker."""
    try:
        in_parallel = ctypes.CDLL(None).IsInParallelMode
    except AttributeError:  # of a server that does not export its functions
        return lambda: False
    in_parallel.restype = ctypes.c_bool
    return cast(Callable[[], bool], in_parallel)


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

# Digits of a number that are shown: a metric's value is reckoned from decimals, and what comes
# after these is the reckoning's, as in 55.874500000000076.
DIGITS = 10
WHOLE = 10.0**DIGITS
# As far as they are exact.
POWERS = np.array([10.0**power for power in range(23)])


def shown(value: Any) -> Any:
    """A value as a person sees it: its numbers to `DIGITS` digits, whole ones in full.

    Arrays, lists and dictionaries element by element.
    """
    if isinstance(value, np.ndarray):
        return _rounded(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}" if abs(value) < WHOLE else f"{value:.0f}")
    if isinstance(value, dict):
        return {name: shown(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    return value


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers to `DIGITS` digits; those that are next to nothing, and NaN, as they are."""
    with np.errstate(divide="ignore"):
        places = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    exact = np.abs(places) < len(POWERS)
    power = POWERS[np.where(exact, np.maximum(places, 0), 0).astype(np.intp)]
    return np.where(exact, np.rint(values * power) / power, values)


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
    """An error as data: the function in SQL raises it without a Python traceback."""
    error = translated(error)
    if getattr(error, "sqlstate", None) in UNTRANSLATED:
        name = execute(queries.ENCODING)[0]["encoding"]
        error = BrokenEnvironment(
            f"a text of this database, whose encoding is {name}, is no text for Python",
            detail=f"PostgreSQL says: {error}.",
            hint="Correct that text, or move to a database of encoding UTF8.",
        )
    if isinstance(error, PymlError):
        return error.as_dict()
    data = getattr(error, "spidata", None) or (None, None, None)
    return {
        "sqlstate": getattr(error, "sqlstate", None) or "XX000",
        "message": str(error),
        "detail": data[1],
        "hint": data[2],
    }


def document(function: Callable[P, dict[str, Any]]) -> Callable[P, str]:
    """Make a function answer with JSON text, an error of the user's included."""

    @functools.wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            _require_serial()
            require_room()  # where casts of numpy get none they end the process
            found = function(*args, **kwargs)
        except (PymlError, plpy.SPIError, MemoryError, RecursionError) as error:
            found = {"error": _failure(error)}
        return to_json(found)

    return answer


def rows(function: Callable[P, Iterator[Row]]) -> Callable[P, Iterator[Row]]:
    """Make a function answer with rows, each with one more column: an error of the user's.

    `ROWS` has the other columns of each such function. Rows are made as they are asked for: between
    two of them PostgreSQL hears of a cancel.
    """
    width = ROWS[function.__name__]

    @functools.wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Iterator[Row]:
        try:
            _require_serial()
            require_room()
            for row in function(*args, **kwargs):
                yield (*row, None)
        except (PymlError, plpy.SPIError, MemoryError, RecursionError) as error:
            yield (*[None] * width, to_json(_failure(error)))

    return answer
