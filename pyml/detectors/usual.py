"""What is usual of one metric's means over trailing windows, learned from a training's days."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors import baseline, pooling
from pyml.detectors.baseline import SLOTS_OF_DAY, SLOTS_OF_WEEK, Baseline, Learned
from pyml.detectors.moved import Move
from pyml.detectors.rarity import Excursions
from pyml.forms import listed, number, record, truth, whole
from pyml.parameters import parameter
from pyml.seconds import DAY, HOUR

Floats = NDArray[np.float64]

# Fixed point for running sums: whole numbers add up to the same from wherever they start.
UNIT = float(1 << 30)
# Readings with a value that a metric needs, and a window.
LEAST, FEWEST = 30, 3
# The ratio of the 99th to the 50th percentile of the absolute values of normal numbers.
NORMAL = 2.5758 / 0.6745


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the finder is tuned by. docs/level.md says what was tried."""

    windows: tuple[float, ...] = parameter(
        (900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0),
        "trailing windows whose means are compared, in seconds",
        "from what has to be told in minutes to what shows in a day; each about four of the last",
    )
    factors: tuple[float, ...] = parameter(
        (2.8, 2.8, 3.0, 3.4, 4.0),
        "limit of each window, in what its mean stays within on three days of four",
        "three kinds: of .9 of these a tenth (JumpStarter) to a third (ASD) more false findings, "
        "and as many events; above normal theory, as telemetry's tails are heavy",
    )
    peaks: tuple[float, ...] = parameter(
        (3.0, 2.6, 2.0, 1.5, 1.15),
        "the same in standard deviations of the window's mean",
        "normal: the two-sided quantile of a quarter over the windows in a day",
    )
    light: float = parameter(
        0.7,
        "share of these factors where the means are distributed as normal ones are",
        "judgement between .6 and 1: at .6 there are 22 to 90 % more false findings on three "
        "kinds than at 1, and 2 more events of 13 on one",
    )
    heavy: float = parameter(
        1.4,
        "from so many times the normal ratio of the 99th to the 50th percentile of a window's "
        "means on, the factors count in full",
        "judgement; exponential ones have 1.7",
    )
    young: float = parameter(
        1.5,
        "limit, in the largest mean of a training that is too short for a rhythm",
        "judgement",
    )
    part: float = parameter(
        0.75,
        "share of the training's days that a window's usual range is taken from",
        "faults in a quarter of the days do not widen it; judgement",
    )
    few: float = parameter(
        2.0,
        "limits are wider by so many days over the days that they were learned from",
        "the quantile of few days is uncertain; judgement",
    )
    most: float = parameter(
        2.0,
        "a reading counts for so many limits of the first window at most",
        "a burst of less than half of that window is no move",
    )
    of_value: float = parameter(
        0.005, "least limit, in the metric's median: less is next to nothing", "judgement"
    )
    of_range: float = parameter(
        0.02, "least limit, in the range of the training's values", "judgement"
    )
    of_still: float = parameter(
        0.05, "least limit of a metric that stood still, in its value", "judgement"
    )
    least: float = parameter(0.01, "least limit of a metric that was always 0", "judgement")
    steps: float = parameter(
        1.5, "least limit, in steps of a coarse metric", "one step up or down is no move"
    )
    critical: float = parameter(2.5, "limits beyond which a finding is critical", "judgement")
    lookback: float = parameter(172_800.0, "seconds back to where a move began", "two days")
    outside: float = parameter(
        1.0,
        "widths of where a fleet's devices ever are by which one without a model has to lie "
        "outside",
        "judgement: what only a fault does",
    )
    every: float = parameter(
        3_600.0,
        "seconds after which windows longer than half of `brief` are looked at again",
        "they tell after hours; a scan of one new row that read two days took twice as long",
    )
    brief: float = parameter(
        7_200.0, "seconds back otherwise", "twice the longest window looked at then"
    )


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual of one metric's windows; w windows.

    Attributes
    ----------
    baseline : Baseline
    ranges : tuple of float, length w
        What the mean of each window stays within on ordinary days; 0 where the training was too
        short for it, or its readings too few.
    limits : tuple of float, length w
        Beyond these it moved; 0 likewise.
    most : float
        A reading counts for so much at most.
    settled : bool
        Whether the training took its last three days for the usual, unlike those before.
    """

    baseline: Baseline
    ranges: tuple[float, ...]
    limits: tuple[float, ...]
    most: float
    settled: bool

    @classmethod
    def of_json(cls, meta: dict[str, Any]) -> Self:
        """What JSON kept of it."""
        own = meta["baseline"]
        return cls(
            Baseline(**own | {"day": tuple(own["day"]), "week": tuple(own["week"])}),
            tuple(meta["ranges"]),
            tuple(meta["limits"]),
            meta["most"],
            meta["settled"],
        )

    def fits(self, windows: int) -> bool:
        """Whether its parts fit together, as a training leaves them."""
        return (
            len(self.ranges) == len(self.limits) == windows
            and len(self.baseline.day) in (1, SLOTS_OF_DAY)
            and len(self.baseline.week) in (0, SLOTS_OF_WEEK)
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How far one metric's means went on days that are judged by the other days.

    Attributes
    ----------
    hours : float
        Of those days.
    excursions : Excursions
        Their heights are in limits.
    """

    hours: float
    excursions: Excursions


def learn(
    times: Floats, column: Floats, interval: float, p: Parameters, pulse: Pulse
) -> tuple[Usual, HeldOut] | None:
    """What is usual of one metric, and how far its days go; None where too little is known."""
    known = ~np.isnan(column)
    times, values = times[known], column[known]
    if len(times) < LEAST or times[-1] - times[0] < baseline.CYCLES * p.windows[0]:
        return None
    learned = baseline.learn(times, values)
    pulse()
    if learned is None:
        return None
    judged = learned.baseline.judged(times, values)
    floor = _floor(judged[~np.isnan(judged)], p)
    shortest = max(p.windows[0], FEWEST * interval)
    seasonal = len(learned.baseline.day) > 1
    shape = _shape(learned, p.windows[0], interval) if seasonal else 1.0
    lighter = p.light + (1 - p.light) * np.clip((shape - 1) / (p.heavy - 1), 0.0, 1.0)
    part = p.part if seasonal else 1.0
    factors = np.array(p.factors) * lighter if seasonal else np.full(len(p.windows), p.young)

    def wider(days: int) -> float:
        return 1 + p.few / days if seasonal else 1.0

    def limits_of(daily: Floats, days: int) -> tuple[Floats, Floats]:
        ranges = _ranges(daily, part, p)
        return ranges, np.nan_to_num(np.maximum(ranges * factors * wider(days), floor))

    days = len(learned.ordinary)
    first = _of_days(learned, shortest, np.inf, interval)
    first = first[~np.isnan(first)] if (~np.isnan(first)).any() else np.zeros(1)
    most = p.most * max(float(np.quantile(first, part)) * (factors[0] * wider(days)), floor)
    means = [_distances(learned, window, most, interval) for window in p.windows]
    pulse()
    daily = np.stack([_by_day(learned, one) for one in means])
    ranges, limits = limits_of(daily, days)
    if np.isnan(ranges).all():
        return None
    usual = Usual(
        learned.baseline,
        tuple(np.nan_to_num(ranges).tolist()),
        tuple(limits.tolist()),
        float(most),
        learned.settled,
    )
    if not seasonal or days < 2:
        return usual, HeldOut(0.0, Excursions.of([]))
    without = [limits_of(np.delete(daily, d, axis=1), days - 1)[1] for d in range(days)]
    pulse()
    return usual, _held_out(learned, means, np.stack(without, axis=1), most, interval, p)


def together(several: Sequence[Usual], windows: int, p: Parameters) -> Usual | None:
    """What is usual of a metric on several devices: anywhere where they ever are; None: nothing.

    Of each, its hours and how far it may go from them. In the shortest window a burst may still be
    how a device is.
    """
    still = float(np.median([max(one.ranges) for one in several])) == 0
    if still or len({one.baseline.grows for one in several}) > 1:  # there is no scale
        return None
    lows, highs = zip(*map(_ends, several), strict=True)
    ends = pooling.span(lows, highs)
    if ends is None:
        return None
    low, high = ends
    half = max((high - low) / 2, p.least)
    limit = half * (1 + 2 * p.outside)
    middle = Baseline(several[0].baseline.grows, ((low + high) / 2,), (), 0.0, 0.0)
    limits = (0.0, *(limit,) * (windows - 1))
    return Usual(middle, (half,) * windows, limits, p.most * limit, False)


def _ends(usual: Usual) -> tuple[float, float]:
    """Where a metric is at the least and at the most."""
    base, far = usual.baseline, max(usual.limits)
    week = base.week or (0.0,)
    return min(base.day) + min(week) - far, max(base.day) + max(week) + far


def _ranges(daily: Floats, part: float, p: Parameters) -> Floats:
    """What the means of each window stay within, of the largest (w, d) of each day; NaN: unknown.

    A mean over more readings varies no less than if they were independent.
    """
    ranges = np.full(len(p.windows), np.nan)
    spread, before = 0.0, p.windows[0]
    for place, window in enumerate(p.windows):
        peaks = daily[place][~np.isnan(daily[place])]
        if len(peaks) < 2:
            continue
        peak = float(np.quantile(peaks, part))
        spread = max(peak / p.peaks[place], spread * np.sqrt(before / window))
        ranges[place], before = spread * p.peaks[place], window
    return ranges


def _known(learned: Learned) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Times, days and distances of the readings in ordinary days."""
    known = ~np.isnan(learned.residual)
    return learned.times[known], learned.days[known], learned.residual[known]


def _distances(learned: Learned, window: float, most: float, interval: float) -> Floats:
    """How far the mean over the window up to each reading in ordinary days is; NaN for none."""
    times, _, residual = _known(learned)
    length = DAY if len(learned.baseline.day) > 1 else float(np.ptp(learned.times)) / 6
    if window > length or window < FEWEST * interval:
        return np.full(len(times), np.nan)
    residual = np.clip(residual, -most, most)
    scale = float(np.abs(residual).max(initial=0.0)) or 1.0
    means = means_of(times, running_sums(residual / scale), np.arange(len(times)), window) * scale
    return np.abs(means)


def _by_day(learned: Learned, means: Floats) -> Floats:
    """The largest of each ordinary day; NaN where there is none."""
    days = _known(learned)[1]
    return np.array(
        [np.fmax.reduce(means[days == day], initial=np.nan) for day in learned.ordinary]
    )


def _of_days(learned: Learned, window: float, most: float, interval: float) -> Floats:
    return _by_day(learned, _distances(learned, window, most, interval))


def _held_out(
    learned: Learned,
    means: Sequence[Floats],
    limits: Floats,
    most: float,
    interval: float,
    p: Parameters,
) -> HeldOut:
    """How far each ordinary day goes, in the limits (w, d) that the others would set."""
    times, days, residual = _known(learned)
    order = np.searchsorted(learned.ordinary, days)
    starts = np.flatnonzero(np.diff(times // p.windows[0], prepend=-np.inf))
    ends = np.append(starts[1:], len(times))
    found = []
    for window, mean, of_days in zip(p.windows, means, limits, strict=True):
        limit = np.where(of_days > 0, of_days, np.inf)[order]
        ratio = mean / limit
        highest = np.fmax.reduceat(ratio, starts)
        some = Excursions.lasting(window, times[starts], highest).peaks()
        # What is beyond its limit is as high, and lasts as long, as its finding would.
        for k in np.flatnonzero(some.heights > 1).tolist():
            turn = int(np.searchsorted(times[starts], some.times[k]))
            last = starts[turn] + int(np.nanargmax(ratio[starts[turn] : ends[turn]]))
            rows = slice(int(np.searchsorted(times, times[last] - p.lookback)), last + 1)
            inside = slice(int(np.searchsorted(times, times[last] - window, "right")), last + 1)
            sign = np.sign(residual[inside].sum()) or 1.0
            move = Move.of(
                times[rows],
                residual[rows],
                np.zeros(len(times[rows])),
                sign * np.clip(residual[rows], -most, most),
                (limit[last], limit[last], window),
                float(mean[last]),
            )
            if move.is_present(p.windows[0]):
                some.heights[k] = max(some.heights[k], move.size / limit[last])
                some.times[k] = (move.started_at + move.last_at) / 2
                some.spans[k] = move.last_at - move.started_at
            else:
                some.heights[k] = -np.inf  # it is over, or was a burst
        found.append(some)
    covered = [times[days == day] for day in learned.ordinary]
    hours = sum(float(np.ptp(day)) + interval for day in covered if len(day)) / HOUR
    return HeldOut(hours, Excursions.of(found).peaks())


def _shape(learned: Learned, window: float, interval: float) -> float:
    """How heavy the tails of the shortest window's means are; 1 as of normal ones."""
    means = _distances(learned, max(window, FEWEST * interval), np.inf, interval)
    means = means[~np.isnan(means)]
    middle, rare = np.quantile(means, (0.5, 0.99)) if len(means) else (0.0, 0.0)
    return float(rare / middle / NORMAL) if middle > 0 else np.inf


def _floor(values: Floats, p: Parameters) -> float:
    """The least move that is more than next to nothing, by what the training's values did."""
    distinct = np.unique(values)
    level = abs(float(np.median(values)))
    if len(distinct) == 1:
        return p.of_still * level or p.least
    low, high = np.quantile(values, (0.01, 0.99))
    step = float(np.median(np.diff(distinct)))
    return max(p.of_value * level, p.of_range * float(high - low), p.steps * step)


def running_sums(scaled: Floats) -> NDArray[np.int64]:
    """Running sums of numbers (n,) in [-1, 1], in fixed point; shape (n + 1,)."""
    return np.concatenate([[0], np.cumsum(np.rint(scaled * UNIT).astype(np.int64))])


def means_of(
    times: Floats, running: NDArray[np.int64], ends: NDArray[np.intp], window: float
) -> Floats:
    """Means over the windows up to some readings; NaN where the older half of one is empty."""
    last = times[ends]
    first = np.searchsorted(times, last - window, side="right")
    half = np.searchsorted(times, last - window / 2, side="right")
    count = ends + 1 - first
    mean = (running[ends + 1] - running[first]) / (np.maximum(count, 1) * UNIT)
    return np.where((half > first) & (count >= FEWEST), mean, np.nan)


_POSITIVE = listed(number(0), 1, 9)
_PROFILE = listed(number(), 0, SLOTS_OF_WEEK)
is_usual = record(
    baseline=record(grows=whole(-1, 1), day=_PROFILE, week=_PROFILE, slope=number(), end=number()),
    ranges=_POSITIVE,
    limits=_POSITIVE,
    most=number(1e-300),
    settled=truth,
)
"""Whether a value is a `Usual` as JSON has it."""
