"""What a stored model may say of itself, and what may be stored beside it.

A graph whose every part is in order can still come with metadata that describes readings
which no training has seen, or that no reader can do with. Whoever may train writes both.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

Form = Callable[[Any], bool]

YEAR = 366 * 86_400.0
MAX_METRICS = 200  # of a forest
MAX_SPAN = 240  # readings that a forest's window holds
MAX_LENGTH, MAX_HORIZON = 500, 288  # as the settings have them
LONGEST_TEXT = 1000  # of a field, its path included
MOST_PARTS = 32  # of a path: each is a parameter of the statement that reads the history
# Bytes of JSON beside a model: metrics take up to 2 KB each in the parameters, the figures 600.
LONGEST_PARAMETERS, LONGEST_FIGURES = 1 << 20, 1 << 16


# ---- metadata ------------------------------------------------------------------


def _number(low: float = -1e300, high: float = 1e300) -> Form:
    # A whole number that numpy would not take for one of its own is none; nor is NaN.
    return lambda value: (
        (type(value) is float or (type(value) is int and abs(value) < 1 << 53))
        and low <= value <= high
    )


def _whole(low: int, high: int) -> Form:
    return lambda value: type(value) is int and low <= value <= high


def _text(value: Any) -> bool:
    """Text that PostgreSQL can hold: without U+0000, and without half of a pair."""
    return (
        type(value) is str
        and 1 <= len(value) <= LONGEST_TEXT
        and "\0" not in value
        and not any("\ud800" <= letter <= "\udfff" for letter in value)
    )


def path(value: Any) -> bool:
    """A dotted path."""
    return _text(value) and value.count(".") < MOST_PARTS


def _object(value: Any) -> bool:
    return type(value) is dict


def _maybe(form: Form) -> Form:
    return lambda value: value is None or form(value)


def _list(form: Form, least: int = 0, most: int = MAX_METRICS) -> Form:
    return lambda value: (
        type(value) is list and least <= len(value) <= most and all(map(form, value))
    )


def _record(**forms: Form) -> Form:
    return lambda value: (
        type(value) is dict
        and value.keys() == forms.keys()
        and all(form(value[key]) for key, form in forms.items())
    )


_METRIC = _record(
    name=_text,
    path=path,
    divisor_path=_maybe(path),
    scale=_number(),
    kind=lambda value: value in ("gauge", "counter"),
)
_REFERENCE = _list(
    _record(edges=_list(_number(), 1), counts=_list(_number(0), 1), usual=_number()), 1
)
_WHITENING = _list(_list(_number(), 0, 2 * MAX_METRICS), 1, 2 * MAX_METRICS)
_SOME = 1e-12  # seconds: more than none
_HEAD = {"format": _whole(1, 1000), "kind": _text}
FORMS = {
    "forest": _record(
        **_HEAD,
        names=_list(_text, 1),
        metrics=_list(_METRIC, 1),
        interval=_number(_SOME, YEAR),
        windows=_list(_whole(1, MAX_SPAN), 1),
        level=_whole(1, MAX_SPAN),
        before=_list(_whole(1, MAX_SPAN), 1),
        level_whitening=_WHITENING,
        half_life=_number(1e-3, 1e6),
        jump_whitening=_WHITENING,
        jump_sizes=_list(_number(1e-300), 1, 2 * MAX_METRICS),
        sudden_sizes=_list(_number(1e-300), 1, 2 * MAX_METRICS),
        lasting=_whole(1, MAX_SPAN),
        lookback=_number(0, 2 * MAX_SPAN * YEAR),
        scaling=_list(_list(_number(), 2, 2)),
        usual=_list(_list(_number(), 2, 2)),
        warning=_number(),
        critical=_number(),
        reference=_REFERENCE,
    ),
    "lstm": _record(
        **_HEAD,
        metric=_METRIC,
        totals=_list(path),
        sequence_length=_whole(1, MAX_LENGTH),
        horizon=_whole(1, MAX_HORIZON),
        interval=_number(_SOME, YEAR),
        bounds=_list(_maybe(_number()), 2, 2),
        floor=_number(1e-300),
        inflation=_number(1e-3, 1e3),
        seen_until=_number(),
        reference=_REFERENCE,
    ),
}

NOT_TOGETHER = "metadata that does not fit together"


def fault(kind: str, meta: dict[str, Any]) -> str | None:
    """What in the metadata no training has written; None where all is well.

    Parameters
    ----------
    kind : {'forest', 'lstm'}
    meta : dict
        As it was stored.
    """
    if not FORMS[kind](meta):
        return "metadata of another form"
    fits = _forest(meta) if kind == "forest" else _lstm(meta)
    return None if fits and all(map(_bins, meta["reference"])) else NOT_TOGETHER


def _forest(meta: dict[str, Any]) -> bool:
    count = len(meta["names"])
    jumps = count * len(meta["before"])
    return (
        [one["name"] for one in meta["metrics"]] == meta["names"]
        and len(set(meta["names"])) == count
        and all(len(meta[key]) == count for key in ("scaling", "usual", "reference"))
        and all(scale > 0 for _, scale in meta["scaling"])
        and all(low <= high for low, high in meta["usual"])
        and meta["critical"] <= meta["warning"]
        and _square(meta["level_whitening"], count)
        and _square(meta["jump_whitening"], jumps)
        and len(meta["jump_sizes"]) == jumps
        and len(meta["sudden_sizes"]) == 2 * count
    )


def _lstm(meta: dict[str, Any]) -> bool:
    low, high = meta["bounds"]
    return len(meta["reference"]) == 1 and (low is None or high is None or low < high)


def _bins(reference: dict[str, Any]) -> bool:
    """Whether edges of bins increase, and there are counts below, in, above and beside them."""
    edges, counts = reference["edges"], reference["counts"]
    return len(counts) - len(edges) == 2 and _increasing(edges) and sum(counts) > 0


def _increasing(numbers: list[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))


def _square(matrix: list[list[float]], size: int) -> bool:
    return [size] * size == [len(row) for row in matrix]


# ---- beside a model --------------------------------------------------------------


def _document(longest: int) -> Form:
    return lambda value: type(value) is dict and len(json.dumps(value)) <= longest


# The moments in seconds, within what PostgreSQL knows.
_MOMENT, _COUNT = _number(-2e11, 9e12), _whole(0, 2**31 - 1)
_ABOUT: dict[str, Form] = {
    "window_start": _MOMENT,
    "window_end": _MOMENT,
    "readings_used": _COUNT,
    "readings_rejected": _COUNT,
    "parameters": _document(LONGEST_PARAMETERS),
    **dict.fromkeys(("figures", "versions"), _document(LONGEST_FIGURES)),
    "seconds": _number(0),
}
ABOUT, ABOUT_NAMES = _record(**_ABOUT), tuple(_ABOUT)


def _coverage(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) <= 10
        and all(_text(level) and _number(0, 1)(share) for level, share in value.items())
    )


# Of a forecast's figures, what is told with it.
TOLD: dict[str, Form] = {
    "mae": _maybe(_number(0)),
    "mase": _maybe(_number(0)),
    "beats_naive": _maybe(lambda value: type(value) is bool),
    "coverage": _maybe(_coverage),
}
FIGURES = _record(**TOLD)


def parsed(text: str) -> Any:
    """The JSON of a text; None where it is none, or is nested too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_SEEN = _record(until=_number(), counts=_list(_list(_number(0), 1)))


def seen(value: Any, reference: list[dict[str, Any]], until: float) -> bool:
    """Whether a scan up to a moment can go on from what an earlier one counted in the bins."""
    return (
        _SEEN(value)
        and value["until"] <= until
        and list(map(len, value["counts"])) == [len(one["counts"]) for one in reference]
    )
