"""What is usual for one metric at a time: of the day, of the week, along a steady trend.

A training is cut into days, counted back from its end. Medians over the days tell what is usual,
so a fault in some of them does not; days that lie apart from the others are left out.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyml.seconds import DAY, HOUR, WEEK

Floats = NDArray[np.float64]

# Within a slot the median over days is taken; between the middles of two, a straight line.
SLOT = 1_800.0
SLOTS_OF_DAY, SLOTS_OF_WEEK, DAYS = 48, 336, 7
# Days, and weeks, that a training has to hold before they tell what is usual in one.
CYCLES = 3
LONGEST = 5 * WEEK
# Days in a new place that make it the usual one, where they differ by no more than such a share
# of how far it is from the old one.
SETTLED, ALIKE = 3, 0.25
# A day lies apart from the most alike half of the days by so many of their ranges.
APART = 3.0
# An hour of the week differs from that of the day by so many spreads to count for itself.
OWN = 3.0
# A metric only grows (or only falls) where all but this share of its changes do, in such a share
# of its hours.
AGAINST, MOVING = 0.02, 0.9


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual for one metric.

    Attributes
    ----------
    grows : int
        1 or -1 where it only grows or only falls, but for resets: it is judged by its change in
        an hour. Else 0.
    day : tuple of float, length 48 or 1
        By half hours of the day (UTC); one where the training was shorter than three days.
    week : tuple of float, length 336 or 0
        What a half hour of the week adds; none where no hour of the week differs.
    slope : float
        Change in a second, where the whole training moves steadily.
    end : float
        The time at which the slope adds nothing.
    """

    grows: int
    day: tuple[float, ...]
    week: tuple[float, ...]
    slope: float
    end: float

    def judged(self, times: Floats, values: Floats) -> Floats:
        """The numbers (n,) that are compared: the values, or their change in an hour."""
        return changes(times, values, self.grows) if self.grows else values

    def expected(self, times: Floats) -> Floats:
        """What is usual at times (n,)."""
        usual = _between(times, self.day, DAY) + self.slope * (times - self.end)
        return usual + _between(times, self.week, WEEK) if self.week else usual


@dataclass(frozen=True, slots=True)
class Learned:
    """What a training says of one metric.

    Attributes
    ----------
    baseline : Baseline
    times : ndarray of float64, shape (n,)
        Those of the readings that were looked at.
    days : ndarray of int, shape (n,)
        The day of each reading, the last one highest.
    residual : ndarray of float64, shape (n,)
        How far each is from what the other days expect; NaN in days that lie apart.
    ordinary : list of int
        The days that do not.
    settled : bool
        Whether the last three days have made their place the usual one.
    """

    baseline: Baseline
    times: Floats
    days: NDArray[np.intp]
    residual: Floats
    ordinary: list[int]
    settled: bool


def learn(times: Floats, values: Floats) -> Learned | None:
    """Learn what is usual of values (n,), all known, at increasing times; None where nothing is.

    What is older than five weeks does not count.
    """
    recent = slice(int(np.searchsorted(times, times[-1] - LONGEST)), None)
    times, values = times[recent], values[recent]
    grows = _grows(times, values)
    if grows:
        values = changes(times, values, grows)
        if np.isnan(values).all():
            return None
    end = float(times[-1])
    seasonal = end - times[0] >= CYCLES * DAY - HOUR
    length = DAY if seasonal else (end - times[0]) / CYCLES
    back = np.floor((end - times) / length).astype(np.intp)
    days = np.maximum(back.max() - back, 0) if seasonal else np.maximum(CYCLES - 1 - back, 0)
    count = int(days.max()) + 1
    slot = (times % DAY // SLOT).astype(np.intp) if seasonal else np.zeros(len(times), np.intp)
    shape = (count, SLOTS_OF_DAY if seasonal else 1)
    cells = medians(values, days * shape[1] + slot, count * shape[1]).reshape(shape)
    levels = np.array([_core(row) for row in cells - middle(cells)])
    present = np.flatnonzero(~np.isnan(levels))
    levels = np.where(np.isnan(levels), np.median(levels[present]), levels)
    if count >= CYCLES * DAYS:
        # A weekday is compared with its likes: a weekend is no fault.
        likes = medians(levels, np.arange(count) % DAYS, DAYS)
        levels = levels - likes[np.arange(count) % DAYS]
    steady = slope(levels) if seasonal and not grows else 0.0
    levels = levels - steady * (np.arange(count) - count + 1)
    values = values - steady / length * (times - end)
    cells = cells - steady * (np.arange(count) - count + 0.5)[:, None]
    usual, settled = ordinary(levels[present]) if seasonal else (np.arange(len(present)), False)
    usual = present[usual].tolist()
    kept = np.full(cells.shape, np.nan)
    kept[usual] = cells[usual]
    whole = float(np.median(kept[~np.isnan(kept)]))
    held_out = (np.delete(kept, d, axis=0) if seasonal else kept for d in range(count))
    expected = np.stack([_filled(middle(others), whole) for others in held_out])
    base = Baseline(grows, _rounded(_filled(middle(kept), whole)), (), steady / length, end)
    at_centre = times % DAY / SLOT - 0.5
    residual = np.full(len(times), np.nan)
    for d in usual:
        rows = slice(*np.searchsorted(days, (d, d + 1)))
        own = expected[d]
        residual[rows] = values[rows] - np.interp(
            at_centre[rows], np.arange(len(own)), own, period=len(own)
        )
    if end - times[0] >= CYCLES * WEEK - HOUR:
        week, added = _weekly(times, residual, end)
        base, residual = replace(base, week=week), residual - added
    return Learned(base, times, days, residual, usual, settled)


def _weekly(times: Floats, residual: Floats, end: float) -> tuple[tuple[float, ...], Floats]:
    """What hours of the week add, and what the other weeks say that they add to each reading."""
    weeks = np.floor((end - times) / WEEK).astype(np.intp)
    count = int(weeks.max()) + 1
    slot = (times % WEEK // SLOT).astype(np.intp)
    cells = medians(residual, weeks * SLOTS_OF_WEEK + slot, count * SLOTS_OF_WEEK)
    cells = cells.reshape(count, SLOTS_OF_WEEK)
    spread = OWN * 1.4826 * float(np.median(np.abs(cells[~np.isnan(cells)])))

    def own(others: Floats) -> Floats:
        found = np.where((~np.isnan(others)).sum(axis=0) >= CYCLES - 1, middle(others), np.nan)
        return np.where(np.abs(found) > spread, found, 0.0)

    added = np.zeros(len(times))
    for w in range(count):
        rows = weeks == w
        added[rows] = _between(times[rows], own(np.delete(cells, w, axis=0)), WEEK)
    found = own(cells)
    return _rounded(found) if found.any() else (), added


def ordinary(levels: Floats) -> tuple[list[int], bool]:
    """The days whose levels (d,) do not lie apart, and whether a new place has become usual.

    The most alike half of the days tells what is usual. A run of days up to the last that moves
    one way, farther than that half is wide, is a drift and no part of it.
    """
    count = len(levels)
    half = count // 2 + 1
    order = np.sort(levels)
    at = int(np.argmin(order[half - 1 :] - order[: count - half + 1]))
    low, high = order[at], order[at + half - 1]
    width = high - low
    within = (levels >= low - APART * width) & (levels <= high + APART * width)
    turn = np.sign(np.diff(levels))
    first = count - 1
    while first > 0 and turn[first - 1] == turn[-1] != 0:
        first -= 1
    run = slice(first + 1, None)
    drifts = count - first >= CYCLES and abs(levels[-1] - levels[first]) > 2 * APART * width
    if drifts and within.sum() - within[run].sum() >= CYCLES - 1:
        within[run] = False
    last = levels[-SETTLED:]
    gap = min(abs(last - np.clip(last, low, high)))
    if count > 2 * SETTLED and not within[-SETTLED:].any() and np.ptp(last) <= gap * ALIKE:
        within = (levels >= last.min() - width) & (levels <= last.max() + width)
        return np.flatnonzero(within).tolist(), True
    return np.flatnonzero(within).tolist(), False


def slope(levels: Floats) -> float:
    """The change a day that both halves of the days (d,) have: the smaller, or none."""
    count = len(levels)
    if count < 2 * CYCLES:
        return 0.0
    half = (count + 1) // 2
    one, other = (_slope(part) for part in (levels[:half], levels[-half:]))
    return float(np.sign(one) * min(abs(one), abs(other))) if one * other > 0 else 0.0


def _slope(levels: Floats) -> float:
    """The median of the slopes between any two (Theil and Sen)."""
    i, j = np.triu_indices(len(levels), 1)
    return float(np.median((levels[j] - levels[i]) / (j - i)))


def changes(times: Floats, values: Floats, grows: int) -> Floats:
    """The change in an hour up to each reading (n,); NaN at a reset, and where none is known."""
    before = np.searchsorted(times, times - HOUR)
    span = times - times[before]
    change = np.where(span >= HOUR / 2, values - values[before], np.nan)
    change = change / np.where(span > 0, span, 1.0) * HOUR
    return np.where(change * grows < 0, np.nan, change)


def _grows(times: Floats, values: Floats) -> int:
    moved = np.diff(values)
    up, down = int((moved > 0).sum()), int((moved < 0).sum())
    hour = ((times - times[0]) // HOUR).astype(np.intp)
    for sign, most, few in ((1, up, down), (-1, down, up)):
        if few <= AGAINST * most:
            moving = len(np.unique(hour[1:][moved * sign > 0]))
            if moving >= MOVING * len(np.unique(hour)) > CYCLES:
                return sign
    return 0


def medians(values: Floats, group: NDArray[np.intp], groups: int) -> Floats:
    """The median of the known values (n,) of each group; NaN where there is none."""
    known = ~np.isnan(values)
    values, group = values[known], group[known]
    order = np.lexsort((values, group))
    count = np.bincount(group, minlength=groups)
    first = np.cumsum(count) - count
    if not len(order):
        return np.full(groups, np.nan)
    ends = np.minimum([first + (count - 1) // 2, first + count // 2], len(order) - 1)
    return np.where(count > 0, values[order][np.maximum(ends, 0)].mean(axis=0), np.nan)


def middle(cells: Floats) -> Floats:
    """The median along the first axis of what is known; NaN where nothing is."""
    if not len(cells):
        return np.full(cells.shape[1:], np.nan)
    order = np.sort(cells, axis=0)  # what is not known comes last
    known = (~np.isnan(cells)).sum(axis=0)
    low, high = (
        np.take_along_axis(order, place[None], axis=0)[0]
        for place in (np.maximum(known - 1, 0) // 2, np.minimum(known // 2, len(cells) - 1))
    )
    return np.asarray((low + high) / 2)


def _core(row: Floats) -> float:
    """The mean of the middle half of what is known; NaN where nothing is."""
    order = np.sort(row[~np.isnan(row)])
    cut = len(order) // 4
    return float(order[cut : len(order) - cut].mean()) if len(order) else np.nan


def _filled(profile: Floats, whole: float) -> Floats:
    """A profile with what is not known on straight lines between its neighbours."""
    known = np.flatnonzero(~np.isnan(profile))
    if not len(known):
        return np.full(len(profile), whole)
    at = np.arange(len(profile))
    return np.interp(at, known, profile[known], period=len(profile))


def _between(times: Floats, profile: "tuple[float, ...] | Floats", period: float) -> Floats:
    """A profile at times, on straight lines between the middles of its slots."""
    count = len(profile)
    at = times % period * (count / period) - 0.5
    return np.interp(at, np.arange(count), np.asarray(profile, np.float64), period=count)


def _rounded(profile: Floats) -> tuple[float, ...]:
    """As stored: nine digits are finer than any signal, and half the bytes."""
    return tuple(float(f"{one:.9g}") for one in profile.tolist())
