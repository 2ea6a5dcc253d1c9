"""What every training takes and gives."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pyml import background
from pyml.errors import BrokenEnvironment
from pyml.following import Follower
from pyml.models.about import About, versions
from pyml.models.blob import Owner
from pyml.telemetry.history import EARLIEST, LONGEST_HOURS, Floats, History

T = TypeVar("T")
Poll = Callable[[], object]
"""Called several times a second by whoever waits for a training; what it raises ends that."""

# The device under which what belongs to no single one stands: the fleet's forecast models.
FLEET = "00000000-0000-0000-0000-000000000000"
# Readings that a model is trained on, at most and about: what comes faster is thinned evenly.
MOST_READINGS = 200_000


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes
    ----------
    data : bytes or None
        The model as it is stored; None where the current one is better and stays.
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch of the readings that it was trained on.
    rejected : int
        Rows without one usable number.
    parameters, figures : dict
        JSON-able: settings, metrics and seed; what was measured on held-out data.
    details : dict
        JSON-able: what its caller may want to know besides.
    followers : tuple of Follower
        The finders that were trained with it.
    instead : int or None
        The fleet's model, where that does as well, and is in force from now on.
    """

    data: bytes | None
    times: Floats
    rejected: int
    parameters: dict[str, Any]
    figures: dict[str, Any]
    details: dict[str, Any]
    followers: tuple[Follower, ...] = ()
    instead: int | None = None

    def about(self, seconds: float) -> About:
        """What is stored beside the model."""
        return {
            "window_start": float(self.times[0]),
            "window_end": float(self.times[-1]),
            "readings_used": len(self.times),
            "readings_rejected": self.rejected,
            "parameters": self.parameters,
            "figures": self.figures,
            "versions": versions() | {"python": platform.python_version()},
            "seconds": seconds,
        }


def taken(
    owner: Owner[Any], settings: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a training takes: the arguments that a person gave, and else the device's settings."""
    return {
        name: kind(given.get(name, settings[setting]))
        for name, (setting, kind) in owner.settings.items()
    } | {"hours": int(given.get("hours", settings["training_hours"]))}


def beside(prepare: Callable[[], object], work: Callable[[background.Pulse], T], poll: Poll) -> T:
    """Run a training in a thread of its own, while the caller's thread goes on polling.

    `prepare` loads the training's library: a cancel need not wait for that.

    Raises
    ------
    BrokenEnvironment
        A library is missing.
    """
    try:
        background.prepare(prepare, poll)
        return background.run(work, poll)
    # The second is what a compiled module raises that gets no memory as it is loaded.
    except (ImportError, SystemError) as error:
        raise BrokenEnvironment(
            f"a library for training cannot be loaded: {error}",
            detail="Scoring goes on without it.",
            hint="SELECT * FROM ml_doctor();",
        ) from error


def try_again(
    call: Callable[[int | None], str],
    history: History,
    device: str,
    until: float,
    hours: int,
    needed: int = 0,
) -> str:
    """The statement for a person to type where a training had too little.

    Parameters
    ----------
    call : callable
        Gives the training's statement, of the hours that it is to look back.
    hours : int
        It has looked back so far.
    needed : int
        That would do, where it is known.
    """
    if history.first(device, EARLIEST, until - hours * 3600) is None:
        return f"{call(None)} -- when more has come: there is nothing older"
    return call(min(max(4 * hours, needed), LONGEST_HOURS))
