"""Times of the day, and of the week, by the clock of a zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo

import numpy as np

from pyml.errors import BadArgument
from pyml.forecasters.windows import Floats, Places
from pyml.forms import record, text, whole
from pyml.seconds import DAY
from pyml.zones import zone_of

WEEK_DAYS = 7
MOST_BINS = 1440  # of a day: minutes
# Seconds; no zone changes its clock twice in so short a time, nor within a quarter of an hour.
SHORT, QUARTER = WEEK_DAYS * DAY, 900


@dataclass(frozen=True, slots=True)
class Calendar:
    """Times of the day, or of the week.

    Attributes
    ----------
    zone : str
        Whose clock counts, by its name in the IANA database.
    days : int
        1: the day repeats; 7: the week does.
    bins : int
        Parts of equal length that a day is cut into; 1 of 1 day tells no times apart.
    """

    zone: str
    days: int
    bins: int

    @property
    def size(self) -> int:
        """Parts of all its days."""
        return self.days * self.bins

    def places(self, times: Floats) -> Places:
        """The part that each time lies in, of the shape of `times`; a week begins on Monday."""
        if self.size == 1:
            return np.zeros(times.shape, np.int64)
        return (self._count(times) + 3 * self.bins) % self.size  # 1970 began on a Thursday

    def _count(self, times: Floats) -> Places:
        """Parts since 1970, by the zone's clock."""
        # A hair is added, since the last digit of a time may have been rounded off.
        return np.floor((clock(times, self.zone) + 1e-3) * (self.bins / DAY)).astype(np.int64)

    def matrix(self, times: Floats, values: Floats) -> tuple[Floats, Places, Places]:
        """Means of each part, less the day's level: shape (periods, size); and where each time is.

        The level is the mean of the day around each part, so that a trend and what a single day
        does are no part of a rhythm.
        """
        place = self._count(times) + 3 * self.bins
        first = place[0] // self.size * self.size
        place -= first
        n = (place[-1] // self.size + 1) * self.size
        known = ~np.isnan(values)
        count = np.bincount(place[known], minlength=n)
        total = np.bincount(place[known], values[known], minlength=n)
        means = total / np.where(count, count, np.nan)
        means -= _level(means, self.bins)
        return means.reshape(-1, self.size), place // self.size, place % self.size


def clock(times: Floats, zone: str) -> Floats:
    """What the clock of a zone shows, in seconds since 1970 began there.

    Raises
    ------
    BadArgument
        There is no such zone.
    """
    if zone == "UTC" or not times.size:
        return times
    where, low, high = zone_of(zone), times.min(), times.max()
    if where is None:
        raise BadArgument(
            f"there is no time zone {zone}",
            detail="The IANA database of this machine does not have it.",
            hint="UPDATE ml_setting SET value = 'UTC' WHERE name = 'calendar_time_zone';",
        )
    ahead = _ahead(low, where)
    if high - low < SHORT and ahead == _ahead(high, where):
        return times + ahead
    quarters, place = np.unique(np.floor(times / QUARTER), return_inverse=True)
    offsets = np.array([_ahead(quarter * QUARTER, where) for quarter in quarters.tolist()])
    local: Floats = times + offsets[place].reshape(times.shape)
    return local


def _ahead(moment: float, zone: tzinfo) -> float:
    """Seconds by which a zone is ahead of UTC; that of the nearest year that Python knows."""
    least, most = -62_000_000_000.0, 253_000_000_000.0
    offset = datetime.fromtimestamp(min(max(moment, least), most), zone).utcoffset()
    return offset.total_seconds() if offset else 0.0


def _level(means: Floats, day: int) -> Floats:
    """The mean of a day around each of some means (n,); at the ends of the first and last day."""
    known = ~np.isnan(means)
    count = np.append(0, np.cumsum(known))
    total = np.append(0.0, np.cumsum(np.where(known, means, 0.0)))
    begin, end = np.flatnonzero(known)[[0, -1]] + (0, 1)
    first = np.clip(np.arange(len(means)) - day // 2, begin, max(begin, end - day))
    stop = np.minimum(first + day, end)
    there = count[stop] - count[first]
    level: Floats = (total[stop] - total[first]) / np.where(there, there, np.nan)
    return level


is_calendar = record(
    zone=lambda value: text(value) and zone_of(value) is not None,
    days=lambda value: value in (1, WEEK_DAYS) and type(value) is int,
    bins=whole(1, MOST_BINS),
)
"""Whether a value is a `Calendar` as JSON has it."""
