"""Several devices' models as one, which stands in for a device that has none of its own.

It is as patient as the most patient of them, but for a tenth: a device whose sensor is broken does
not make it deaf. Devices that differ much make it patient.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pyml.parameters import parameter
from pyml.seconds import DAY, HOUR
from pyml.telemetry.habits import APART, IMPOSSIBLE, MOST_SENTINELS, Habit
from pyml.telemetry.series import Metric


@dataclass(frozen=True, slots=True)
class Parameters:
    """When several devices tell what is ordinary."""

    least: int = parameter(
        3, "devices that have to report a metric", "of two, nobody is the odd one"
    )
    trimmed: float = parameter(
        0.1, "share of the devices, and one at least, whose extremes do not count", "judgement"
    )
    slower: float = parameter(
        1.25, "times the fleet's interval at which a device may report at most", "judgement"
    )
    wider: float = parameter(
        IMPOSSIBLE,
        "times as wide as most a device's range may be to count",
        "as for what a signal can do at once",
    )
    young: float = parameter(
        3 * DAY - HOUR,
        "seconds that the readings of a device's training have to last for its own models to count",
        "a rhythm of the day is known from three days on: before, each evening is unusual",
    )
    unjudged: float = parameter(
        7 * DAY - HOUR,
        "seconds that a device has to have reported for what lies outside the fleet's forecasts to"
        " be an anomaly",
        "five quiet hosts: 1 to 5 false incidents each in their first week without",
    )
    readings: int = parameter(20, "first readings by which a device is known", "judgement")
    seconds: float = parameter(HOUR, "how long these last at least", "judgement")


PARAMETERS = Parameters()
FLEETS = {"scope": "fleet"}
"""In the evidence of what such a model has found."""


def is_fleets(evidence: Mapping[str, Any]) -> bool:
    """Whether it is of what such a model has found."""
    return FLEETS.items() <= evidence.items()


def greatest(values: Iterable[float | None], p: Parameters = PARAMETERS) -> float | None:
    """The greatest of some values that is no extreme; None is more than any number.

    Examples
    --------
    >>> greatest([5.0, 2.0, 1.0]), greatest([None, 2.0, 1.0]), greatest([None, None, 1.0])
    (2.0, 2.0, None)
    """
    ordered = sorted((math.inf if one is None else one for one in values), reverse=True)
    found = ordered[min(max(1, int(p.trimmed * len(ordered))), len(ordered) - 1)]
    return found if math.isfinite(found) else None


def most(values: Iterable[float]) -> float:
    """The same of numbers."""
    return greatest(values) or 0.0


def least(values: Iterable[float]) -> float:
    """The least of some numbers that is no extreme."""
    return -most(-one for one in values)


def span(
    lows: Sequence[float], highs: Sequence[float], p: Parameters = PARAMETERS
) -> tuple[float, float] | None:
    """From the least to the greatest of where several devices are; None where they differ.

    One that overlaps with no other is of another kind, or broken, and does not count; of many, nor
    do the extremes. If more are much wider than most, they have no range in common.
    """
    low, high = np.array(lows), np.array(highs)
    alike = (low[:, None] <= high) & (high[:, None] >= low)
    width = high - low
    wide = width > p.wider * np.median(width)
    kept = np.flatnonzero((alike.sum(axis=1) > 1) & ~wide)
    if len(kept) < p.least or wide.sum() > p.trimmed * len(wide):
        return None
    cut = int(p.trimmed * len(kept))
    return float(np.sort(low[kept])[cut]), float(np.sort(high[kept])[-1 - cut])


@dataclass(frozen=True, slots=True)
class Shared:
    """What some models have in common; m metrics.

    Attributes
    ----------
    models : sequence of Known
    of : mapping
        Of each metric that enough of them have, in order of the names, the models that have it,
        each with the metric's place in it.
    """

    models: Sequence[Any]
    of: Mapping[Metric, list[tuple[Any, int]]]

    @classmethod
    def by(cls, models: Sequence[Any], p: Parameters = PARAMETERS) -> "Shared":
        """That of some models."""
        having: dict[Metric, list[tuple[Any, int]]] = {}
        for model in models:
            for j, metric in enumerate(model.metrics):
                having.setdefault(metric, []).append((model, j))
        # A name may have meant something else when some of them were trained: the most have it.
        wide = [metric for metric in having if len(having[metric]) >= p.least]
        named = {m.name: m for m in sorted(wide, key=lambda m: len(having[m]))}
        return cls(models, {named[name]: having[named[name]] for name in sorted(named)})

    def known(self) -> dict[str, Any]:
        """The fields of `Known` for a model of all these metrics."""
        return {
            "names": tuple(metric.name for metric in self.of),
            "interval": most(model.interval for model in self.models),
            "metrics": tuple(self.of),
            "habits": tuple(pooled(habits) for habits in self.each("habits")),
        }

    def each(self, name: str) -> Iterator[list[Any]]:
        """What the models say of each metric in a field of that name."""
        for own in self.of.values():
            yield [getattr(model, name)[j] for model, j in own]


def pooled(habits: Sequence[Habit], p: Parameters = PARAMETERS) -> Habit:
    """How a signal comes that comes to several devices in these ways."""
    ends = [habit.usual for habit in habits if habit.usual]
    usual = None
    if len(ends) >= p.least:
        low, high = least(end[0] for end in ends), most(end[1] for end in ends)
        usual = (low, high) if low < high else None
    below, above = Habit(0.0, 0.0, usual=usual).beyond(APART)
    said = Counter(chain.from_iterable(habit.sentinels for habit in habits))
    # What is a sentinel on many devices and lies apart from what all of them say.
    often = sorted(value for value, many in said.items() if many >= p.least)
    apart = [value for value in often if usual and not below <= value <= above]
    # Where another device ordinarily is says nothing of what is impossible here.
    return Habit(
        rhythm=most(habit.rhythm for habit in habits),
        hold=most(habit.hold for habit in habits),
        total_hold=most(habit.total_hold for habit in habits),
        sentinels=tuple(apart[:MOST_SENTINELS]),
    )
