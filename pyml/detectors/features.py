"""Signals -> what is seen of each reading: values, spreads, and how far beyond its hour's usual."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors.isolation import Matrix as Rows
from pyml.detectors.isolation import Model, Spans

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

# Values are cut off so many ranges of the training away from its median: what is farther is as
# rare (three kinds of machines: 8 loses .04 of the average precision on one).
FARTHEST = 2.0
# As the square root of `pyml.detectors.together.LEAST_VARIANCE`.
LEAST = 1e-3
# Fixed point for sums over trailing windows: whole numbers add up to the same sum from wherever
# the window starts; floating ones do not.
UNIT = float(1 << 20)


@dataclass(frozen=True, slots=True)
class Features:
    """Readings as the forest sees them; m metrics, w windows.

    Attributes
    ----------
    columns : ndarray of float64, shape (n, m * (2 + w))
        Value, spreads and jump of each metric; NaN where there is nothing to say.
    vectors : ndarray of float64, shape (n, 2 m)
        How far each value, and each metric's spread over the first window, is beyond what is usual
        at its hour; NaN likewise.
    """

    columns: Floats
    vectors: Floats

    def of(self, rows: NDArray[np.intp] | slice) -> "Features":
        """Some of the readings."""
        return Features(self.columns[rows], self.vectors[rows])

    def matrix(self) -> Matrix:
        """What trees split by, shape (n, m * (3 + w)): values and spreads, then the vectors."""
        return np.concatenate([self.columns[:, : -self._metrics], self.vectors], axis=1).astype(
            np.float32
        )

    def views(self) -> NDArray[np.bool_]:
        """Which columns of the matrix one half of the trees sees, and which the other.

        Both see values and longer spreads. One sees the first spread as it is, the other the
        vectors in its place.
        """
        of = np.arange(self.columns.shape[1] + self._metrics) // self._metrics
        return np.array([of < of[-1] - 1, of != 1])

    def single(self) -> Floats:
        """What each metric says alone, shape (n, 3 m): the vectors, then its jump."""
        return np.concatenate([self.vectors, self.columns[:, -self._metrics :]], axis=1)

    @property
    def _metrics(self) -> int:
        return int(self.vectors.shape[1]) // 2


def features(
    model: Model,
    times: Floats,
    values: Floats,
    pulse: Pulse,
    rows: NDArray[np.intp] | None = None,
) -> Features:
    """Describe readings by what their metrics have done of late.

    Causal: a row depends on readings up to its own, no older than ``spans.lookback`` seconds,
    and is the same to the last bit whatever else `times` and `values` hold.

    Parameters
    ----------
    model : Model
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    values : ndarray of float64, shape (n, m)
        One column for each of ``model.names``; NaN where missing.
    pulse : callable
    rows : ndarray of int, shape (k,), optional
        Which readings to describe; all where not given.

    Returns
    -------
    Features
    """
    if values.shape[1:] != (len(model.names),):
        raise ValueError(f"expected the columns {model.names}, got {values.shape}")
    rows = np.arange(len(times)) if rows is None else rows
    columns = moves(model.spans, times, standardised(model.scaling, values), pulse)[rows]
    return Features(columns, model.hours.beyond(times[rows], columns[:, : 2 * values.shape[1]]))


def standardised(scaling: Rows, values: Floats) -> Floats:
    """Values (n, m) in ranges of the training from its median."""
    centre, scale = np.array(scaling).T
    with np.errstate(invalid="ignore"):
        return np.asarray(np.clip((values - centre) / scale, -FARTHEST, FARTHEST))


def moves(spans: Spans, times: Floats, scaled: Floats, pulse: Pulse) -> Floats:
    """Of each reading the columns of `Features`.

    A jump is how far a value is from the mean of those before it in the first window.
    """
    # A row for each metric: its readings side by side, as all that follows goes along them.
    z = np.ascontiguousarray(scaled.T)
    m, n = z.shape
    known = ~np.isnan(z)
    fixed = np.rint(np.where(known, z, 0.0) * UNIT).astype(np.int64)
    running = np.zeros((3, m, n + 1), np.int64)
    np.cumsum(np.stack([known, fixed, fixed * fixed]), axis=2, out=running[:, :, 1:])
    spreads = []
    for window in spans.windows:
        pulse()
        starts = first_of(spans.interval, times, window)
        count, total, square = running[:, :, 1:] - running.take(starts, axis=2)
        of = np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(square / of - (total / of) ** 2, 0.0)) / UNIT
        enough = count >= max(2, window / 2)
        spreads.append(np.where(enough, deviation, np.nan))
        if window == spans.windows[0]:
            before = (total - fixed) / np.maximum(count - 1, 1) / UNIT
            jump = np.where(enough & known, z - before, np.nan)
    return np.concatenate([z, *spreads, jump]).T


def trailing_mean(interval: float, window: int, times: Floats, numbers: Floats) -> Floats:
    """Mean of `numbers` (n,) over the last `window` intervals; low where half of them are away."""
    running = np.concatenate([[0.0], np.cumsum(numbers)])
    starts, ends = first_of(interval, times, window), np.arange(1, len(times) + 1)
    return np.asarray((running[ends] - running[starts]) / np.maximum(ends - starts, window / 2))


def first_of(interval: float, times: Floats, window: int) -> NDArray[np.intp]:
    """Where the window of so many intervals that ends at each of `times` begins."""
    return np.asarray(np.searchsorted(times, times - (window - 0.5) * interval))


def sizes_of(vectors: Floats) -> list[float]:
    """What one in a hundred of each column's numbers (n, k) exceeds; of a constant a hundredth.

    A thousandth of the training's range at least: what moves by less is as still.
    """
    rare = np.array([_rare(column[np.isfinite(column)]) for column in np.abs(vectors).T])
    return [float(size) for size in np.where(rare > 0, np.maximum(rare, LEAST), 0.01)]


def largest(sizes: list[float], vectors: Floats) -> Floats:
    """Logarithm of 1 + the largest number of each vector (n, k), in its size."""
    return np.asarray(np.log1p(np.nan_to_num(np.abs(vectors) / np.array(sizes)).max(axis=1)))


def _rare(known: Floats) -> float:
    return float(np.quantile(known, 0.99)) if len(known) else 0.0
