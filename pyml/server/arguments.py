"""Checks of the arguments that a function is given."""

import math
from typing import Any

from pyml import queries
from pyml.errors import BadArgument
from pyml.server import backend

# What to do about an argument that is NULL and has no default in every function.
_INSTEAD = {
    "device": "SELECT device_id FROM ml_device_status;",
    "field": "SELECT name, path FROM ml_metric;",
    "metric": "SELECT name, path FROM ml_metric;",
    "since": "Pass since => now() - interval '1 day'.",
    "until": "Pass until => now().",
}


def given(**arguments: Any) -> None:
    """Refuse NULL for arguments that have no meaning without a value."""
    for name, value in arguments.items():
        if value is None:
            raise BadArgument(
                f"{name} is null",
                detail="It has to be given.",
                hint=_INSTEAD.get(name, f"Leave {name} out for its default."),
            )


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number out of its range."""
    if not low <= value <= high:
        raise BadArgument(
            f"{name} {value} is out of range",
            detail=f"It has to be from {low} to {high}.",
            hint=f"Pass {name} => a value in that range, or leave it out for its default.",
        )


def moments(since: str, until: str) -> tuple[float, float]:
    """Two timestamptz arguments as seconds since the epoch, of which the second is no earlier."""
    row = backend.execute(queries.EPOCHS, since, until)[0]
    first, last = float(row["since"]), float(row["until"])
    if first > last:
        raise BadArgument(
            "since is after until",
            detail=f"From {since} on there is nothing up to {until}.",
            hint=f"Pass since => '{until}', until => '{since}'.",
        )
    return first, last


def finite(name: str, moment: float) -> float:
    """The moment, unless it is either end of time."""
    if not math.isfinite(moment):
        raise BadArgument(
            f"{name} is infinite",
            detail="It has to be a moment in time.",
            hint=f"Leave {name} out for now().",
        )
    return moment


def chosen(**arguments: float | None) -> dict[str, float]:
    """The arguments that a person gave: a later training keeps to them, whatever the settings."""
    return {name: value for name, value in arguments.items() if value is not None}
