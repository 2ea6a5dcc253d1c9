"""Messages -> readings: what a device said at one time, with the quality of each sample.

A message becomes a reading where it is no repeat. A reading has each metric's value as it was
last received, for as long as that holds: parts of one reading may come as several messages, a
total once a day, a value when it changes. What is no measurement is left out, and its quality
says why. Every rule is causal and bounded: a reading depends on messages up to it, no older than
`lookback`, so that any window over the same history gives the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyml.telemetry.counters import MAX_GAP, rates
from pyml.telemetry.habits import IMPOSSIBLE, Habit, hold, rhythm, sentinels, usual
from pyml.telemetry.messages import ABSURD, Messages, Places, Received, fresh, latest
from pyml.telemetry.quiet import NOTHING, Quiet
from pyml.telemetry.series import Metric, columns_of

Floats = NDArray[np.float64]

QUALITIES = ("ok", "missing", "out of range", "junk", "reset")
OK, MISSING, OUT_OF_RANGE, JUNK, RESET = range(len(QUALITIES))
# Moments between two readings at which what came before holds: eight hours of minutes. Without
# a bound, messages a microsecond apart before a gap of a day would make billions.
MOST_HELD = 480


class Ledger(NamedTuple):
    """What has become of the messages of a window; it adds up to their number.

    Attributes
    ----------
    used : int
        Readings.
    merged : int
        Parts and repeats of a reading.
    unknown : int
        Without a number at any of the metrics' paths.
    failed : int
        Collections that failed: a total is 0.
    """

    used: int
    merged: int
    unknown: int
    failed: int

    @property
    def rejected(self) -> int:
        """Those that hold no usable number."""
        return self.unknown + self.failed


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings in time order; n of them, m metrics.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch, strictly increasing.
    values : ndarray of float64, shape (n, m)
        In the metrics' units; NaN where there is none.
    quality : ndarray of int8, shape (n, m)
        Of the sample that came last for each, a place in `QUALITIES`. Where a sample is no
        measurement the value before may still hold.
    unfit : ndarray of float64, shape (n, m)
        Of gauges: what was last said of each, where that is no measurement; as long as a value
        would hold. NaN elsewhere.
    held : ndarray of bool, shape (n,)
        Moments at which nothing came and the values before hold, an interval apart: what is said
        of a span of time goes by them too, and none of them is a reading of its own.
    messages : Messages
        What they were made of.
    """

    times: Floats
    values: Floats
    quality: NDArray[np.int8]
    unfit: Floats
    held: NDArray[np.bool_]
    messages: Messages

    def after(self, moment: float) -> "Readings":
        """Those after a moment; of the messages nothing is left out."""
        rows = slice(int(np.searchsorted(self.times, moment, side="right")), None)
        return self._of(rows)

    def came(self) -> "Readings":
        """Those that came."""
        return self._of(~self.held) if self.held.any() else self

    def _of(self, rows: slice | NDArray[np.bool_]) -> "Readings":
        return replace(
            self,
            times=self.times[rows],
            values=self.values[rows],
            quality=self.quality[rows],
            unfit=self.unfit[rows],
            held=self.held[rows],
        )

    def without(self, quiet: Quiet, metrics: Sequence[Metric]) -> "Readings":
        """The same without what holds within a quiet window; of the messages nothing is left out.

        Parameters
        ----------
        quiet : Quiet
        metrics : sequence of Metric, length m
        """
        if not quiet.windows:
            return self
        left = self._of(~quiet.inside(self.times))
        hidden = np.stack([quiet.inside(left.times, metric.name) for metric in metrics], axis=1)
        return replace(
            left,
            values=np.where(hidden, np.nan, left.values),
            quality=np.where(hidden, MISSING, left.quality).astype(np.int8),
            unfit=np.where(hidden, np.nan, left.unfit),
        )

    def samples(self, since: float = -np.inf, until: float = np.inf) -> NDArray[np.int64]:
        """Samples of a window by quality, shape (m, 5); each row adds up to its readings."""
        inside = self.quality[_inside(self.times, since, until) & ~self.held]
        return np.array([(inside == code).sum(axis=0) for code in range(len(QUALITIES))]).T

    def ledger(self, since: float = -np.inf, until: float = np.inf) -> Ledger:
        """What has become of a window's messages. None of the readings in it may be left out."""
        used = int((_inside(self.times, since, until) & ~self.held).sum())
        m = self.messages
        usable, unknown, failed = (
            int(_inside(times, since, until).sum()) for times in (m.usable, m.unknown, m.failed)
        )
        return Ledger(used, usable - used, unknown, failed)


def _inside(times: Floats, since: float, until: float) -> NDArray[np.bool_]:
    """Which of some times are in a window; what is no time is in each that has no bounds."""
    return ~((times <= since) | (times > until))


def lookback(metrics: Sequence[Metric], habits: Sequence[Habit], interval: float) -> float:
    """Seconds before a reading that its values depend on.

    Beside how long a value and its total hold: the rate of a counter needs the sample before,
    which may be a return to an earlier total, and at a wrap the rate before that.
    """
    held = max((habit.hold + habit.total_hold for habit in habits), default=0.0)
    counters = any(metric.kind == "counter" for metric in metrics)
    return 2 * interval + held + 3 * counters * max(MAX_GAP * interval, held)


def _said(messages: Received, metrics: Sequence[Metric]) -> Floats:
    """The numbers at the metrics' paths (n, m), before anything is made of them."""
    paths, _ = columns_of(metrics)
    return messages.columns[:, [paths.index(metric.path) for metric in metrics]]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what overflows is absurd
def samples(messages: Received, metrics: Sequence[Metric], total_holds: Sequence[float]) -> Floats:
    """What each message says of each metric, shape (n, m); of a counter, its total."""
    paths, _ = columns_of(metrics)
    found = _said(messages, metrics)
    for j, metric in enumerate(metrics):
        if metric.divisor_path is not None:
            column = messages.columns[:, paths.index(metric.divisor_path), None]
            place = latest(~np.isnan(column))[:, 0]
            young = (place >= 0) & (messages.times - messages.times[place] <= total_holds[j])
            total = np.where(young, column[place, 0], np.nan)
            found[:, j] = np.where(total > 0, found[:, j] / total, np.nan)
        if metric.kind == "gauge":
            found[:, j] *= metric.scale
    # A value next to 0 counts as 0, but only here: above, it shows that no collection has failed.
    found[np.abs(found) < 1e-300] = 0.0
    return np.where(np.abs(found) <= ABSURD, found, np.nan)


def assemble(
    found: Received, metrics: Sequence[Metric], habits: Sequence[Habit], interval: float
) -> Readings:
    """Messages -> readings.

    Parameters
    ----------
    found : Received
        Whose first columns are those of ``columns_of(metrics)``.
    metrics : sequence of Metric, length m
    habits : sequence of Habit, length m
    interval : float
        Seconds between two readings.

    Returns
    -------
    Readings
    """
    level = samples(found, metrics, [habit.total_hold for habit in habits])
    known = ~np.isnan(level)
    code = np.where(known, OK, MISSING).astype(np.int8)
    came = ~np.isnan(_said(found, metrics))
    _judge(found.times, level, known, code, metrics, habits)
    here = np.flatnonzero(fresh(found.times, interval))
    at = found.times[here]
    good = latest(code == OK)[here]
    holds = np.array([habit.hold for habit in habits])
    there = (good >= 0) & (at[:, None] - found.times[good] <= holds)
    values = np.where(there, np.take_along_axis(level, good, axis=0), np.nan)
    last = latest(came)[here]
    said = np.take_along_axis(code, last, axis=0)
    bad = (last > np.append(-1, here[:-1])[: len(here), None]) & (said != OK)
    quality = np.where(bad, said, np.where(there, OK, MISSING)).astype(np.int8)
    young = (last >= 0) & (at[:, None] - found.times[last] <= holds)
    poor = young & ((said == OUT_OF_RANGE) | (said == JUNK))
    unfit = np.where(poor, np.take_along_axis(level, last, axis=0), np.nan)
    for j, metric in enumerate(metrics):
        if metric.kind == "counter":
            longest = max(MAX_GAP * interval, habits[j].hold)
            values[:, j], quality[:, j] = _rates(
                found.times[good[:, j]], values[:, j], good[:, j], metric, longest
            )
    plain = Readings(at, values, quality, unfit, np.zeros(len(at), bool), found.messages)
    return _standing(plain, at[:, None] - found.times[good], holds, interval)


def _standing(readings: Readings, age: Floats, holds: Floats, interval: float) -> Readings:
    """The same, and between readings the moments at which what came before them holds.

    Parameters
    ----------
    readings : Readings
    age : ndarray of float64, shape (n, m)
        Seconds since each value was received.
    holds : ndarray of float64, shape (m,)
    interval : float
    """
    gaps = np.diff(readings.times, append=-np.inf)
    most = min(np.floor(holds.min() / interval), MOST_HELD)
    count = np.minimum(np.ceil(gaps / interval - 0.5) - 1, most)
    count = np.maximum(count, 0).astype(np.intp)
    if not count.any():
        return readings
    of = np.repeat(np.arange(len(count)), count + 1)
    later = interval * (np.arange(len(of)) - np.repeat(np.cumsum(count + 1) - count - 1, count + 1))
    there = age[of] + later[:, None] <= holds
    return replace(
        readings,
        times=readings.times[of] + later,
        values=np.where(there, readings.values[of], np.nan),
        quality=readings.quality[of],
        unfit=readings.unfit[of],
        held=later > 0,
    )


def learn(
    found: Received, metrics: Sequence[Metric], quiet: Quiet = NOTHING
) -> tuple[tuple[Habit, ...], float]:
    """How each metric comes, and the usual seconds between two readings.

    The latter are the rhythm of the metric that comes most often.

    Parameters
    ----------
    found, metrics
        As `assemble` takes them.
    quiet : Quiet, optional
        Of what is in its windows nothing has been left.
    """
    paths, _ = columns_of(metrics)
    came = ~np.isnan(found.columns)

    def moments(path: str) -> Floats:
        return found.times[came[:, paths.index(path)]]

    def holds(path: str, metric: Metric) -> float:
        times = moments(path)
        return hold(np.diff(times)[~quiet.across(times, metric.name)])

    total_holds = [holds(m.divisor_path, m) if m.divisor_path else 0.0 for m in metrics]
    level = samples(found, metrics, total_holds)
    habits = []
    for j, metric in enumerate(metrics):
        own = holds(metric.path, metric)
        habit = Habit(rhythm(moments(metric.path)), own, total_holds[j])
        if metric.kind == "gauge" and (metric.lower is None or metric.upper is None):
            said = level[:, j][~np.isnan(level[:, j])]
            habit = replace(habit, usual=usual(said))
            habit = replace(habit, sentinels=sentinels(said, habit))
        habits.append(habit)
    most = max(range(len(metrics)), key=lambda j: np.isfinite(level[:, j]).sum())
    return tuple(habits), habits[most].rhythm


def _judge(
    times: Floats,
    level: Floats,
    known: NDArray[np.bool_],
    code: NDArray[np.int8],
    metrics: Sequence[Metric],
    habits: Sequence[Habit],
) -> None:
    """Mark the samples of gauges that are no measurements, in `code`."""
    gauges = [metric.kind == "gauge" for metric in metrics]
    bounds = np.array([(metric.lower, metric.upper) for metric in metrics], np.float64).T
    with np.errstate(invalid="ignore"):
        outside = gauges & ((level < bounds[0]) | (level > bounds[1]))
    code[outside] = OUT_OF_RANGE
    for j, habit in enumerate(habits):
        if habit.sentinels:
            code[np.isin(level[:, j], habit.sentinels), j] = JUNK
    ends = np.array([habit.beyond(IMPOSSIBLE) for habit in habits], np.float64)
    with np.errstate(invalid="ignore"):
        far = (level < ends[:, 0]) | (level > ends[:, 1])
    if far.any():
        # A jump to where the sensor never is; if the next sample is there too, that one counts.
        rows, of = np.nonzero(far)
        before = np.vstack([np.full((1, level.shape[1]), -1), latest(known)[:-1]])[rows, of]
        reach = np.array([habit.reach for habit in habits])
        hold = np.array([habit.hold for habit in habits])
        stays = (before >= 0) & (times[rows] - times[before] <= hold[of])
        stays &= np.abs(level[rows, of] - level[before, of]) <= reach[of]
        code[rows[~stays], of[~stays]] = JUNK


def _rates(
    times: Floats, total: Floats, sample: Places, metric: Metric, longest: float
) -> tuple[Floats, NDArray[np.int8]]:
    """A counter's rate (n,) at each reading, between samples that were received, and its quality.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        When the total was received that stands at each reading.
    total : ndarray of float64, shape (n,)
    sample : ndarray of int, shape (n,)
        Which sample that is.
    """
    rate, quality = np.full(len(total), np.nan), np.full(len(total), MISSING, np.int8)
    there = np.flatnonzero(~np.isnan(total))
    if not len(there):
        return rate, quality
    new = np.append(True, np.diff(sample[there]) > 0)
    own, reset = rates(times[there[new]], total[there[new]], longest)
    own *= metric.scale
    code = np.where(np.isnan(own), np.where(reset, RESET, MISSING), OK)
    low, high = np.array([metric.lower, metric.upper], np.float64)
    outside = (own < low) | (own > high)
    own[outside], code[outside] = np.nan, OUT_OF_RANGE
    of = np.cumsum(new) - 1
    rate[there], quality[there] = own[of], code[of]
    return rate, quality
