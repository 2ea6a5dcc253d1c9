"""From the rows that a device wrote to clean series: repeats, failures, rates, grids.

Every rule here is causal and bounded: what comes out at one reading depends only
on readings up to it, no further back than `MAX_GAP` intervals, so that any
window over the same history gives the same values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyml.forms import maybe, number, path, record, text

Floats = NDArray[np.float64]

# A reading nearer to the one before it than this share of the interval repeats it
# (at-least-once delivery) or belongs to a burst sent after an outage. Where readings come as
# dense as that for longer, one an interval counts.
REPEAT_SHARE = 0.1
# A counter's rate over more than this many intervals says nothing about now.
MAX_GAP = 10
# At most this many missing steps of a grid are bridged by a straight line.
FILL = 3
# Beyond this a number is taken for a broken sensor's, not a measurement.
ABSURD = 1e15


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the forest's matrix.

    Attributes
    ----------
    name : str
        The column's name, for instance ``memory_usage_percent``.
    path : str
        Path of the value in the reported state.
    divisor_path : str or None
        Path of the total that the value is divided by.
    scale : float
        Factor on the result.
    kind : {'gauge', 'counter'}
        A counter only grows until it resets; its rate per second is used.
    """

    name: str
    path: str
    divisor_path: str | None
    scale: float
    kind: Literal["gauge", "counter"]


IS_METRIC = record(
    name=text,
    path=path,
    divisor_path=maybe(path),
    scale=number(),
    kind=lambda value: value in ("gauge", "counter"),
)
"""Whether a value is a `Metric` as JSON has it."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Raw readings in time order, one row each.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch, strictly increasing.
    columns : ndarray of float64, shape (n, k)
        The raw numbers at k paths; NaN where missing.
    repeated, rejected : int
        Rows dropped as repeats, and rows without one usable number.
    """

    times: Floats
    columns: Floats
    repeated: int
    rejected: int


def spare(interval: float) -> float:
    """Seconds before a window in which a counter may have its value before."""
    return (MAX_GAP + 1) * interval


def typical_interval(times: Floats) -> float:
    """Median step between readings in seconds; 60 where there are fewer than two.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, increasing.
    """
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 60.0


def clean(
    times: Floats,
    columns: Floats,
    totals: Sequence[int],
    interval: float | None = None,
    since: float = -np.inf,
) -> Readings:
    """Sort, merge repeats and blank what no sensor measured.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, in any order, repeats allowed.
    columns : ndarray of float64, shape (n, k)
        Raw numbers; NaN where missing.
    totals : sequence of int
        Columns that hold a total (memory, disk). A zero there means that the
        whole collection failed.
    interval : float, optional
        The device's own interval in seconds; inferred where not given.
    since : float, optional
        Repeats and rejected rows are counted from there on.

    Returns
    -------
    Readings
    """
    columns = np.where(np.abs(columns) <= ABSURD, columns, np.nan)  # NaN compares false
    if totals:
        columns[(columns[:, list(totals)] == 0).any(axis=1)] = np.nan
    usable = ~np.isnan(columns).all(axis=1) & np.isfinite(times)
    rejected = int((~usable & ~(times <= since)).sum())
    times, columns = times[usable], columns[usable]
    order = np.argsort(times, kind="stable")
    if (np.diff(times[order]) == 0).any():
        # Ties broken by value, so that the order of rows in the table cannot matter.
        order = np.lexsort((*columns.T[::-1], times))
    times, columns = times[order], columns[order]
    fresh = _fresh(times, typical_interval(times) if interval is None else interval)
    repeated = int((~fresh & (times > since)).sum())
    return Readings(times[fresh], columns[fresh], repeated, rejected)


def _fresh(times: Floats, interval: float) -> NDArray[np.bool_]:
    """Which of the rows at increasing `times` are readings of their own, not repeats.

    A row after a pause is one. In a run of rows without a pause, the first in each slot of an
    interval is one too, unless the run began less than half an interval before. Slots are cut at
    multiples of the interval since 1970, so that they are the same in every window.
    """
    fresh = np.diff(times, prepend=-np.inf) >= max(REPEAT_SHARE * interval, 1e-6)
    if not fresh.all():
        slot = np.floor(times / max(interval, 1e-6))
        began = np.maximum.accumulate(np.where(fresh, times, -np.inf))
        fresh |= (np.diff(slot, prepend=-np.inf) > 0) & (times - began >= interval / 2)
    return fresh


def rates(times: Floats, counter: Floats, longest: float) -> Floats:
    """Growth of a counter per second; NaN at a reset, a first value or after a long gap.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    counter : ndarray of float64, shape (n,)
        Since boot; NaN where missing.
    longest : float
        Seconds after which the value before is too old.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    rate = np.full(len(times), np.nan)
    known = np.flatnonzero(~np.isnan(counter))
    if len(known) > 1:
        growth, elapsed = np.diff(counter[known]), np.diff(times[known])
        good = (growth >= 0) & (elapsed <= longest)
        rate[known[1:][good]] = growth[good] / elapsed[good]
    return rate


def columns_of(metrics: Sequence[Metric]) -> tuple[list[str], list[int]]:
    """The distinct paths that `metrics` read, and which of them are totals.

    Returns
    -------
    paths : list of str, length k
    totals : list of int
        Indices into `paths`.
    """
    paths = list(dict.fromkeys(m.path for m in metrics))
    divisors = dict.fromkeys(m.divisor_path for m in metrics if m.divisor_path)
    paths += [d for d in divisors if d not in paths]
    return paths, [paths.index(d) for d in divisors]


@np.errstate(over="ignore")  # what overflows is absurd
def measure(readings: Readings, metrics: Sequence[Metric], interval: float) -> Floats:
    """The metrics' values at each reading.

    Parameters
    ----------
    readings : Readings
        Whose columns are those of ``columns_of(metrics)``.
    metrics : sequence of Metric, length m
    interval : float
        The device's interval in seconds.

    Returns
    -------
    ndarray of float64, shape (n, m)
        NaN where missing.
    """
    paths, _ = columns_of(metrics)
    values = np.full((len(readings.times), len(metrics)), np.nan)
    for j, metric in enumerate(metrics):
        value = readings.columns[:, paths.index(metric.path)]
        if metric.divisor_path is not None:
            total = readings.columns[:, paths.index(metric.divisor_path)]
            value = np.divide(value, total, out=np.full_like(value, np.nan), where=total > 0)
        if metric.kind == "counter":
            value = rates(readings.times, value, MAX_GAP * interval)
        values[:, j] = value * metric.scale
    return np.where(np.abs(values) <= ABSURD, values, np.nan)


@dataclass(frozen=True, slots=True)
class Grid:
    """One metric at the steps of the device's own clock.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
        Seconds; neighbours are one interval apart, except around a long gap.
    values : ndarray of float64, shape (n,)
        A long gap, however long, is one NaN.
    interval : float
        Seconds.
    """

    times: Floats
    values: Floats
    interval: float


def regular(times: Floats, values: Floats, interval: float | None = None) -> Grid:
    """Put readings on the device's own grid, which ends at the last of them.

    Of several readings at one step the last counts; up to `FILL` missing steps
    are interpolated; a longer gap becomes one NaN, so that a clock error cannot
    make a series of a million steps.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    values : ndarray of float64, shape (n,)
        NaN where missing.
    interval : float, optional
        Seconds; the median step where not given.

    Returns
    -------
    Grid

    Examples
    --------
    >>> regular(np.array([0.0, 61, 119, 300]), np.array([1.0, 2, 3, 6]), 60.0).values
    array([1., 2., 3., 4., 5., 6.])
    """
    known = ~np.isnan(values)
    times, values = times[known], values[known]
    if interval is None:
        interval = typical_interval(times)
    if not len(times):
        return Grid(times, values, interval)
    place = np.rint((times - times[-1]) / interval).astype(np.int64)
    last = np.append(np.diff(place) > 0, True)
    place, values, end = place[last], values[last], times[-1]
    gap = np.diff(place)
    count = np.append(np.where(gap <= FILL + 1, gap, 2), 1)
    first = np.cumsum(count) - count
    steps = np.repeat(place - first, count) + np.arange(count.sum())
    filled = np.interp(steps, place, values)
    filled[(first + 1)[:-1][gap > FILL + 1]] = np.nan
    return Grid(end + steps * interval, filled, interval)
