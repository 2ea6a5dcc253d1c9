"""Scores -> how seldom their like comes on ordinary days: hours between two of them.

A training keeps the highest peaks of its held-out scores, and the hours that they come from. One
week of one device cannot tell what comes once in a month; the peaks of many devices together can.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.seconds import HOUR

Floats = NDArray[np.float64]

# Peaks nearer to each other than this are one; seconds.
SILENCE = HOUR
# Peaks that a training keeps: what comes more often than some four times a day is of no use.
MOST_PEAKS = 30
# The highest peaks, beyond which the tail is taken for exponential (Pickands 1975).
TOP = 20
# Hours of which a device's own tail is not provisional: four weeks.
ENOUGH = 672.0
# Nothing is said to be rarer than once in so many times the hours seen, and in ten years.
FARTHEST, RAREST = 20.0, 87_600.0
# No peak is said to be higher.
HIGHEST = 1000.0
# Least mean excess of the tail: in powers of ten, or in limits of a finder.
LEAST = 0.1


def figures(hours: float, heights: Iterable[float]) -> dict[str, Any]:
    """Peaks of so many hours, in any order, as a training's figures have them; JSON-able."""
    highest = sorted(heights, reverse=True)[:MOST_PEAKS]
    return {"peaks": [min(height, HIGHEST) for height in highest], "ordinary_hours": hours}


@dataclass(frozen=True, slots=True)
class Excursions:
    """What may be peaks, k of them: heights, each with a span of time that belongs to it.

    Attributes
    ----------
    times : ndarray of float64, shape (k,)
        Seconds since the Unix epoch.
    heights : ndarray of float64, shape (k,)
    spans : ndarray of float64, shape (k,)
        Seconds.
    """

    times: Floats
    heights: Floats
    spans: Floats

    @classmethod
    def lasting(cls, span: float, times: Floats, heights: Floats) -> "Excursions":
        """Those of heights (k,) at times (k,), each of the same span: an interval, a window."""
        return cls(times, heights, np.full(len(times), span))

    @classmethod
    def of(cls, several: Sequence["Excursions"]) -> "Excursions":
        """All of several, in their order."""
        parts = ([getattr(one, name) for one in several] for name in ("times", "heights", "spans"))
        return cls(*(np.concatenate([np.empty(0), *part]) for part in parts))

    def peaks(self) -> "Excursions":
        """The highest, highest first; `MOST_PEAKS` at most.

        What is nearer to a higher one than the span of either, or than `SILENCE`, belongs to that.
        """
        found: list[int] = []
        left = np.where(np.isfinite(self.heights), self.heights, -np.inf)
        while len(found) < MOST_PEAKS and (left > -np.inf).any():
            top = int(np.argmax(left))
            found.append(top)
            apart = np.maximum(np.maximum(self.spans, self.spans[top]), SILENCE)
            left[np.abs(self.times - self.times[top]) < apart] = -np.inf
        return Excursions(self.times[found], self.heights[found], self.spans[found])


@dataclass(frozen=True, slots=True)
class Curve:
    """How seldom a height is reached.

    Attributes
    ----------
    hours : float
        Of which `heights` are the peaks.
    heights : ndarray of float64, shape (k,)
        Highest first.
    counts : ndarray of float64, shape (k,)
        How many peaks are at least as high as each.
    """

    hours: float
    heights: Floats
    counts: Floats

    @classmethod
    def of(cls, hours: float, heights: Sequence[float]) -> "Curve":
        """That of the peaks of so many hours, in any order."""
        ordered = np.sort(np.asarray(heights, np.float64))[::-1]
        return cls(hours, ordered, np.arange(1.0, len(ordered) + 1))

    def hours_between(self, heights: Floats) -> Floats:
        """Hours between two peaks at least as high as each of `heights` (n,).

        What is lower than all of the peaks comes at least as often as they do.
        """
        if not len(self.heights):
            return np.full(len(heights), min(self.hours, RAREST))
        top = self.heights[: np.searchsorted(self.counts, TOP, side="right")]
        last = top[-1]
        excess = max(float((top - last).sum()) / max(1, len(top) - 1), LEAST)
        reached = np.searchsorted(-self.heights, -heights, side="right")
        within = self.counts[np.maximum(reached - 1, 0)]
        beyond = len(top) * np.exp(-np.maximum(heights - last, 0.0) / excess)
        count = np.where(heights > last, beyond, within)
        return np.asarray(np.minimum(self.hours / np.maximum(count, 1 / FARTHEST), RAREST))
