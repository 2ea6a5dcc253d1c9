"""The finders, trained with a device's forest: on the same signals, as of the same time."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyml.background import Pulse
from pyml.detectors.base import DETECTORS, Finder, Fitted, Signals
from pyml.errors import NotEnoughData
from pyml.models import blob
from pyml.telemetry.habits import Habit
from pyml.telemetry.series import Metric

LEADS = "forest"
"""The kind of the detector with which finders are trained."""


def finders() -> list[Finder[Any]]:
    """All that are registered, in the order of their kinds."""
    return [one for one in DETECTORS if isinstance(one, Finder)]


@dataclass(frozen=True, slots=True)
class Follower:
    """A finder's model, to be stored with the forest.

    Attributes
    ----------
    kind : str
    data : bytes
    parameters, figures : dict
        JSON-able.
    seconds : float
        How long its part of the training took.
    """

    kind: str
    data: bytes
    parameters: dict[str, Any]
    figures: dict[str, Any]
    seconds: float


@dataclass(slots=True)
class Following:
    """What comes of the finders' part of a training.

    Attributes
    ----------
    fitted : list of (Finder, Fitted, dict, float)
        With the settings, and the seconds that it took.
    left_out : dict
        Why there is no model of a kind.
    """

    fitted: list[tuple[Finder[Any], Fitted[Any], dict[str, Any], float]]
    left_out: dict[str, str]

    @classmethod
    def of(cls, signals: Signals, settings: Mapping[str, str], pulse: Pulse) -> "Following":
        """Train all finders; one that has too little to go by is left out."""
        found = cls([], {})
        for finder in finders():
            started = time.monotonic()
            given = {name: kind(settings[own]) for name, (own, kind) in finder.settings.items()}
            try:
                fitted = finder.fit(signals, given, pulse)
            except NotEnoughData as error:
                found.left_out[finder.kind] = error.message
            else:
                found.fitted.append((finder, fitted, given, time.monotonic() - started))
            pulse()
        return found

    def stored(
        self, names: Sequence[str], metrics: Sequence[Metric], habits: Sequence[Habit]
    ) -> tuple[Follower, ...]:
        """Their models with what is known of m metrics, as they are stored."""
        made = []
        for finder, fitted, given, seconds in self.fitted:
            of = [names.index(name) for name in fitted.model.names]
            model = fitted.model.knowing(*([known[i] for i in of] for known in (metrics, habits)))
            data = blob.pack(finder, fitted.numbers, model)
            made.append(Follower(finder.kind, data, given, fitted.figures, seconds))
        return tuple(made)


def columns(followers: Sequence[Follower]) -> tuple[list[Any], ...]:
    """They as `queries.PUT_FINDERS` takes them, after the forest's model_id."""
    return (
        [one.kind for one in followers],
        [json.dumps(one.parameters, allow_nan=False) for one in followers],
        [json.dumps(one.figures, allow_nan=False) for one in followers],
        [one.seconds for one in followers],
        [one.data for one in followers],
    )
