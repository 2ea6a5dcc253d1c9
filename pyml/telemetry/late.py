"""Rows that came late where no id grows with them: found by counting the rows of each hour."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.seconds import HOUR
from pyml.telemetry.history import Floats

# Hours that are counted, so that a day's outage is found when it ends a day later.
HOURS = 48


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows there are in each of the last hours, which are whole hours of UTC.

    Attributes
    ----------
    until : float
        Seconds since the Unix epoch: rows up to then are counted.
    rows : ndarray of int64, shape (HOURS,)
        The hour of `until` first, then the one before.
    """

    until: float
    rows: NDArray[np.int64]

    @property
    def since(self) -> float:
        """When the first of the hours began."""
        return HOUR * (math.floor(self.until / HOUR) - HOURS + 1)

    def and_then(self, times: Floats, until: float) -> "Counts":
        """The same with the rows after `self.until` and up to a later time."""
        hours = math.floor(until / HOUR) - math.floor(self.until / HOUR)
        kept = np.zeros(HOURS, np.int64)
        if hours < HOURS:
            kept[hours:] = self.rows[: HOURS - hours]
        return Counts(until, kept + counted(times[times > self.until], until).rows)

    def late(self, now: "Counts") -> tuple[float, float] | None:
        """From when to when hours have more rows now, where one has."""
        more = np.flatnonzero(now.rows > self.rows)
        if not len(more):
            return None
        newest = math.floor(now.until / HOUR)
        first, last = HOUR * (newest - int(more[-1])), HOUR * (newest - int(more[0]) + 1)
        return first, min(last, now.until)


def counted(times: Floats, until: float) -> Counts:
    """How many rows there are in each of the last hours, of times (n,) in any order."""
    ago = math.floor(until / HOUR) - np.floor(times / HOUR)
    inside = (times <= until) & (ago < HOURS)
    return Counts(until, np.bincount(ago[inside].astype(np.int64), minlength=HOURS))
