"""The way in from SQL: this version's functions, or ones that say why they cannot work.

A function that cannot work answers with its error as data, as it does for a user's mistake: an
exception would reach the user with a Python traceback.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from pyml import __version__
from pyml.background import require_room
from pyml.errors import BrokenEnvironment

# Bytes: numpy's libraries, and what BLAS maps when it is loaded and at its first large product
# (32 MiB each). It ends the process, and so restarts the server, where it gets none; what it
# has it keeps.
ROOM = 128 << 20
# Sides of matrices whose product is large.
LARGE = 160
# Columns of the functions that answer with rows, beside the one for an error; the other functions
# answer with a document.
ROWS = {
    "score": 6,
    "predict": 4,
    "look_ahead": 6,
    "history": 2,
    "histories": 3,
    "usual": 3,
    "zscore": 5,
    "kinds": 4,
}


@dataclass(frozen=True, slots=True)
class Functions:
    """What the functions in SQL call."""

    train_forest: Callable[..., str]
    detect: Callable[..., str]
    score: Callable[..., Iterable[tuple[Any, ...]]]
    train_lstm: Callable[..., str]
    store_model: Callable[..., str]
    forecast: Callable[..., str]
    predict: Callable[..., Iterable[tuple[Any, ...]]]
    look_ahead: Callable[..., Iterable[tuple[Any, ...]]]
    history: Callable[..., Iterable[tuple[Any, ...]]]
    histories: Callable[..., Iterable[tuple[Any, ...]]]
    usual: Callable[..., Iterable[tuple[Any, ...]]]
    zscore: Callable[..., Iterable[tuple[Any, ...]]]
    draw: Callable[..., str]
    scan: Callable[..., str]
    train: Callable[..., str]
    pool: Callable[..., str]
    propose: Callable[..., str]
    kinds: Callable[..., Iterable[tuple[Any, ...]]]
    environment: Callable[..., str]


def enter(version: str, site: str) -> Functions:
    """What SQL calls of one version, whose package lies in `site`.

    They only say what is wrong where this session holds another version of the package, or
    where something else has brought another library than those in `site`, or a broken one.

    Raises
    ------
    MemoryError
    """
    if version != __version__:
        return _shut(
            f"this session holds pyml {__version__}, the database has {version}",
            "The extension was upgraded after the session had loaded it.",
            "Reconnect: a new session loads the new version.",
        )
    require_room(ROOM)
    try:
        import numpy as np

        if not str(np.__file__).startswith(site):
            return _shut(
                f"this session holds another numpy ({np.__version__})",
                f"It was loaded from {np.__file__} before pyml was.",
                "Reconnect, and call pyml before other functions in PL/Python.",
            )
        np.ones((LARGE, LARGE)) @ np.ones((LARGE, LARGE))
        from pyml.server import api, learning, outlooks, proposals, scan, values
    except MemoryError:
        raise
    except Exception as error:  # whatever a library that is not whole may raise
        return _shut(
            f"pyml cannot be loaded: {error}",
            f"Its libraries have to lie in {site}, as they were installed.",
            "SELECT * FROM ml_doctor();",
        )
    return Functions(
        api.train_forest,
        api.detect,
        api.score,
        api.train_lstm,
        api.store_model,
        api.forecast,
        api.predict,
        outlooks.look_ahead,
        values.history,
        values.histories,
        values.usual,
        values.zscore,
        api.draw,
        scan.scan,
        api.train,
        learning.pool,
        proposals.proposal,
        api.kinds,
        api.environment,
    )


def _shut(message: str, detail: str, hint: str) -> Functions:
    error = BrokenEnvironment(message, detail=detail, hint=hint).as_dict()

    def document(*_: Any) -> str:
        return json.dumps({"error": error})

    def rows(width: int) -> Callable[..., list[tuple[Any, ...]]]:
        return lambda *_: [(*[None] * width, json.dumps(error))]

    names = [one.name for one in fields(Functions)]
    functions: dict[str, Any] = {
        name: rows(ROWS[name]) if name in ROWS else document for name in names
    }
    return Functions(**functions)
