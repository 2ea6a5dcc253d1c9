"""What a value from outside may look like: a stored model's metadata, a path, a document.

A form is a function: whether a value has it. Whoever may train writes metadata, and
whoever reads it may trust a value whose form was checked.
"""

import json
from collections.abc import Callable
from typing import Any

from pyml.paths import parts_of

Form = Callable[[Any], bool]

SOME = 1e-12  # seconds: more than none
MAX_METRICS = 200  # of a detector
LONGEST_TEXT = 1000  # of a field, its path included
MOST_PARTS = 32  # of a path: each is a parameter of the statement that reads the history


def number(low: float = -1e300, high: float = 1e300) -> Form:
    """A finite number; a whole number that numpy would not take for one of its own is none."""
    return lambda value: (
        (type(value) is float or (type(value) is int and abs(value) < 1 << 53))
        and low <= value <= high
    )


def whole(low: int, high: int) -> Form:
    """A whole number."""
    return lambda value: type(value) is int and low <= value <= high


def text(value: Any) -> bool:
    """Text that PostgreSQL can hold: without U+0000, and without half of a pair."""
    return (
        type(value) is str
        and 1 <= len(value) <= LONGEST_TEXT
        and "\0" not in value
        and not any("\ud800" <= letter <= "\udfff" for letter in value)
    )


def path(value: Any) -> bool:
    """A path of at most `MOST_PARTS`."""
    return text(value) and len(parts_of(value)) <= MOST_PARTS


def truth(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def maybe(form: Form) -> Form:
    """A value of the form, or None."""
    return lambda value: value is None or form(value)


def listed(form: Form, least: int = 0, most: int = MAX_METRICS) -> Form:
    """A list of values of the form."""
    return lambda value: (
        type(value) is list and least <= len(value) <= most and all(map(form, value))
    )


def record(**forms: Form) -> Form:
    """An object with exactly these keys, each with a value of its form."""
    return lambda value: (
        type(value) is dict
        and value.keys() == forms.keys()
        and all(form(value[key]) for key, form in forms.items())
    )


def document(longest: int) -> Form:
    """An object of at most so many characters of JSON."""
    return lambda value: type(value) is dict and len(json.dumps(value)) <= longest


def parsed(source: str) -> Any:
    """The JSON of a text; None where it is none, or is nested too deeply."""
    try:
        return json.loads(source)
    except (ValueError, RecursionError):
        return None
