"""What is to be read of a device's messages, and one signal on a regular grid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyml.forms import maybe, number, path, record, text

Floats = NDArray[np.float64]

# At most this many missing steps of a grid are bridged by a straight line.
FILL = 3


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
    lower, upper : float or None
        Values outside are no measurements, where that is known.
    direction : {'both', 'up', 'down'}
        Which way of leaving the usual is trouble.
    least_deviation : float or None
        What differs from the usual by less is no trouble.
    """

    name: str
    path: str
    divisor_path: str | None
    scale: float
    kind: Literal["gauge", "counter"]
    # A model goes by those of its training until the next one.
    lower: float | None = field(default=None, compare=False)
    upper: float | None = field(default=None, compare=False)
    direction: Literal["both", "up", "down"] = field(default="both", compare=False)
    least_deviation: float | None = field(default=None, compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether it takes the number at its path as it is."""
        return (self.divisor_path, self.scale, self.kind) == (None, 1.0, "gauge")


IS_METRIC = record(
    name=text,
    path=path,
    divisor_path=maybe(path),
    scale=number(),
    kind=lambda value: value in ("gauge", "counter"),
    lower=maybe(number()),
    upper=maybe(number()),
    direction=lambda value: value in ("both", "up", "down"),
    least_deviation=maybe(number(0)),
)
"""Whether a value is a `Metric` as JSON has it."""


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


def regular(times: Floats, values: Floats, interval: float) -> Grid:
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
    interval : float
        Seconds.

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
