"""What is usual at this time of the day, or of the week."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.seconds import DAY, HOUR, WEEK

Floats = NDArray[np.float64]
Rows = list[list[float]]

DAY_HOURS = 24
# Cycles that a training has to hold before they tell what is usual in one.
CYCLES = 3
# Slots of an hour that are told apart: none, those of a day, those of a week.
SLOTS = (1, 24, 168)


@dataclass(frozen=True, slots=True)
class Hours:
    """The usual numbers at each hour; k numbers a reading, h hours that are told apart.

    Hours are those of UTC. What is usual in one takes in the hours before and after it, so a
    rhythm may come some minutes early or late.

    Attributes
    ----------
    low, high : list, shape (h, k)
        h is 168 (a week), 24 (a day), or 1 where the training was shorter than three days.
    """

    low: Rows
    high: Rows

    def beyond(self, times: Floats, numbers: Floats) -> Floats:
        """How far numbers (n, k) are below (negative) or above what is usual; NaN where missing."""
        return _beyond(numbers, *self.usual(times))

    def usual(self, times: Floats) -> tuple[Floats, Floats]:
        """The least and the greatest usual numbers (n, k) at each time."""
        hours = _hour(times) % len(self.low)
        return np.array(self.low)[hours], np.array(self.high)[hours]


def are_known(times: Floats) -> bool:
    """Whether a training at these times is long enough to tell what is usual at an hour."""
    return _slots(times) > 1


def learn(
    times: Floats, numbers: Floats, topped: NDArray[np.bool_], pulse: Pulse
) -> tuple[Hours, Floats]:
    """Learn what is usual at each hour, from numbers (n, k).

    What is usual are the medians of that hour and its neighbours, over days (or weeks) the median
    of theirs; of those numbers that are `topped`, (k,), up to the greatest of such an hour.

    Returns
    -------
    Hours
    ndarray of float64, shape (n, k)
        How far the numbers are beyond what is usual by the other days (or weeks) alone: as those
        of a day to come will be.
    """
    slots, hour = _slots(times), _hour(times)
    cycle = hour // slots - hour[0] // slots
    middles = np.full((cycle[-1] + 1, slots, numbers.shape[1]), np.nan)
    tops = middles.copy()
    begins = np.flatnonzero(np.diff(hour, prepend=hour[0] - 1))
    for count, (begin, end) in enumerate(zip(begins, [*begins[1:], len(times)], strict=True)):
        place = cycle[begin], hour[begin] % slots
        middles[place] = _medians(numbers[begin:end])
        tops[place] = np.where(topped, np.fmax.reduce(numbers[begin:end]), middles[place])
        if count % DAY_HOURS == 0:
            pulse()
    whole = np.nan_to_num(_medians(numbers))
    pulse()
    low, high = _around(_middle(middles), _middle(tops), whole)
    found = Hours(low.tolist(), high.tolist())
    if slots == 1:
        return found, found.beyond(times, numbers)
    pulse()
    low, high = _around(_middle_of_others(middles), _middle_of_others(tops), whole)
    pulse()
    return found, _beyond(numbers, low[cycle, hour % slots], high[cycle, hour % slots])


def _hour(times: Floats) -> NDArray[np.int64]:
    return np.floor(times / HOUR).astype(np.int64)


def _slots(times: Floats) -> int:
    """How many hours a training of this length tells apart."""
    span = times[-1] - times[0]
    constant, day, week = SLOTS
    return (
        week if span >= CYCLES * WEEK - HOUR else day if span >= CYCLES * DAY - HOUR else constant
    )


def _medians(numbers: Floats) -> Floats:
    """The median of each column's known numbers; NaN where none is known."""
    missing = np.isnan(numbers)
    if not missing.any():
        return np.asarray(np.median(numbers, axis=0))
    columns = zip(numbers.T, missing.T, strict=True)
    return np.array(
        [np.median(column[~gone]) if not gone.all() else np.nan for column, gone in columns]
    )


def _middle(cells: Floats) -> Floats:
    """The median of the cycles that are known, of cells (cycles, h, k); NaN where none is."""
    known = (~np.isnan(cells)).sum(axis=0)
    return _between(np.sort(cells, axis=0), known, np.full(known.shape, len(cells)))


def _middle_of_others(cells: Floats) -> Floats:
    """For each cycle the median of the others, shape (cycles, h, k)."""
    order = np.sort(cells, axis=0)  # what is not known comes last
    rank = np.argsort(np.argsort(cells, axis=0, kind="stable"), axis=0, kind="stable")
    known = ~np.isnan(cells)
    rest = known.sum(axis=0) - known
    return np.stack([_between(order, *one) for one in zip(rest, rank, strict=True)])


def _between(order: Floats, count: NDArray[np.intp], without: NDArray[np.intp]) -> Floats:
    """The median of `count` (h, k) cells in order, without the one of a rank (h, k)."""
    found = []
    for at in (np.maximum(count - 1, 0) // 2, count // 2):
        place = np.minimum(at + (without <= at), len(order) - 1)
        found.append(np.take_along_axis(order, place[None], axis=0)[0])
    return np.where(count > 0, (found[0] + found[1]) / 2, np.nan)


def _around(middle: Floats, top: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """The bounds of what is usual at each hour (…, h, k), from those of it and its neighbours."""
    middle, top = (np.where(np.isnan(part), whole, part) for part in (middle, top))
    low, _ = _near(middle)
    _, high = _near(top)
    return low, np.maximum(low, high)


def _near(cells: Floats) -> tuple[Floats, Floats]:
    near = [np.roll(cells, shift, axis=-2) for shift in (-1, 0, 1)]
    return np.minimum.reduce(near), np.maximum.reduce(near)


def _beyond(numbers: Floats, low: Floats, high: Floats) -> Floats:
    return np.asarray(numbers - np.clip(numbers, low, high))
