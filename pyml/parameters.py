"""Parameters as data: a value, what it means, and where it comes from.

A detector or a forecaster keeps what a person may tune, or a maintainer has to derive anew, in
one frozen dataclass whose fields are made by `parameter`. Benchmarks set them by name.
"""

import ast
from dataclasses import Field, field, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")


def parameter(value: T, meaning: str, source: str) -> T:
    """A field of a dataclass of parameters.

    Parameters
    ----------
    value : object
        The value in force; immutable.
    meaning : str
        What it means, with its unit.
    source : str
        The paper it is from, or the range that was tried.
    """
    made: T = field(default=value, metadata={"meaning": meaning, "source": source})
    return made


def described(parameters: Any) -> list[tuple[str, Any, str, str]]:
    """Name, value, meaning and source of each parameter, in the order of their definition."""

    def row(one: "Field[Any]") -> tuple[str, Any, str, str]:
        return (
            one.name,
            getattr(parameters, one.name),
            one.metadata["meaning"],
            one.metadata["source"],
        )

    return [row(one) for one in fields(parameters)]


def changed(parameters: T, settings: dict[str, str]) -> T:
    """The parameters with some of them set from text, as a command line gives it.

    Raises
    ------
    KeyError
        There is no parameter of that name.
    ValueError
        The text is no value of the parameter's type.
    """
    known = {name: value for name, value, _, _ in described(parameters)}
    found: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in known:
            raise KeyError(name)
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            value = None
        found[name] = _like(known[name], value)
        if found[name] is None:
            raise ValueError(f"{name} takes a value like {known[name]!r}, not {text!r}")
    return replace(parameters, **found)  # type: ignore[type-var]


def _like(known: Any, value: Any) -> Any:
    """The value as one of the type of a known one; None where it is none."""
    if isinstance(known, tuple) and isinstance(value, tuple):
        cells = tuple(_like(known[0], cell) for cell in value)
        return None if not cells or None in cells else cells
    if isinstance(known, float) and type(value) is int:
        return float(value)
    return value if type(value) is type(known) else None
