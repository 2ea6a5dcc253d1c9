"""Signals -> what the forest sees of each reading: levels, spreads, jumps and distances."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors.isolation import UNIT, Model, Parameters, Spans
from pyml.detectors.isolation import Matrix as Rows

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

# Standardised values are cut off here, so that fixed-point sums stay exact.
FARTHEST = 1024.0
# Finer fixed point, for the mean of numbers below 1000.
FINE = float(1 << 30)
# Share of the readings whose distance makes the tail, and its least mean excess: where all are
# alike, none is rare for a rounding.
COMMON, LEAST_EXCESS = 0.02, 1e-3
# The first of the three distances in the matrix. Quantised, they are exact in float32.
LEVEL_DISTANCE = -3


@dataclass(frozen=True, slots=True)
class Features:
    """Readings as the forest sees them; m metrics, w windows.

    Attributes
    ----------
    columns : ndarray of float64, shape (n, m * (1 + w))
        Level and spreads of each metric; NaN where there is nothing to say.
    jumps : ndarray of float64, shape (n, m * 2)
        The largest jump so far, decaying with time: how far each value lay from the mean of the
        others of each window of ``spans.before``; 0 where that is unknown.
    decay : ndarray of float64, shape (n,)
        What is left of it, in (0, 1]; 1 for the reading's own jump.
    sudden : ndarray of float64, shape (n, m * 2)
        How far each value lies from the mean of the others of the longer of these windows,
        and how far beside their spread; 0 where that is unknown.
    """

    columns: Floats
    jumps: Floats
    decay: Floats
    sudden: Floats

    def of(self, rows: NDArray[np.intp] | slice) -> "Features":
        """Some of the readings."""
        parts = (self.columns, self.jumps, self.decay, self.sudden)
        return Features(*(part[rows] for part in parts))


def features(
    model: Model,
    p: Parameters,
    times: Floats,
    values: Floats,
    pulse: Pulse,
    rows: NDArray[np.intp] | None = None,
) -> Features:
    """Describe readings by what their metrics have done of late.

    Causal: a row depends on readings up to its own, no older than ``spans.lookback`` seconds
    less ``spans.lasting`` intervals, and is the same to the last bit whatever else `times` and
    `values` hold.

    Parameters
    ----------
    model : Model
    p : Parameters
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
    moved = moves(model.spans, model.scaling, p, times, values, pulse)
    return with_decay(model.spans, model.jump_whitening, p, times, *moved, rows)


def moves(
    spans: Spans, scaling: Rows, p: Parameters, times: Floats, values: Floats, pulse: Pulse
) -> tuple[Floats, Floats, Floats]:
    """Of each reading, as in `Features`: columns, its own jumps, and how sudden they are."""
    centre, scale = np.array(scaling).T
    with np.errstate(invalid="ignore"):
        z = np.clip((values - centre) / scale, -FARTHEST, FARTHEST)
    # A row for each metric: its readings side by side, as all that follows goes along them.
    z = np.ascontiguousarray(z.T)
    m, n = z.shape
    known = ~np.isnan(z)
    fixed = np.rint(np.where(known, z, 0.0) * UNIT).astype(np.int64)
    running = np.zeros((3, m, n + 1), np.int64)
    np.cumsum(np.stack([known, fixed, fixed * fixed]), axis=2, out=running[:, :, 1:])
    level: Floats = np.empty((m, 0))
    spreads, jumps, sudden = [], [], []
    for window in sorted({spans.level, *spans.windows}):
        pulse()
        starts = _starts(spans, times, window)
        count, total, square = running[:, :, 1:] - running.take(starts, axis=2)
        of = np.maximum(count, 1)
        mean = total / of
        if window == spans.level:
            level = np.where(count > 0, mean / UNIT, np.nan)
        if window in spans.windows:
            deviation = np.sqrt(np.maximum(square / of - mean**2, 0.0)) / UNIT
            spreads.append(np.where(count >= max(2, window / 2), deviation, np.nan))
        if window in spans.before:
            others = np.maximum(count - 1, 1)
            before = (total - fixed) / others
            jump = np.where(known & (count > window / 2), (fixed - before) / UNIT, 0.0)
            jumps.append(jump)
            if window == max(spans.before):
                far = np.abs(jump)
                moved = np.sqrt(np.maximum((square - fixed * fixed) / others - before**2, 0.0))
                sudden = [far, far / (moved / UNIT + p.calm)]
    return np.concatenate([level, *spreads]).T, np.concatenate(jumps).T, np.concatenate(sudden).T


def with_decay(
    spans: Spans,
    jump_whitening: Rows,
    p: Parameters,
    times: Floats,
    columns: Floats,
    jumps: Floats,
    sudden: Floats,
    rows: NDArray[np.intp],
) -> Features:
    """Features of some readings, of what `moves` gives of all."""
    # A jump loses a bit in each half-life: the one of which most is left counts.
    since = times / (spans.half_life * spans.interval)
    with np.errstate(divide="ignore"):
        strength = _quantised(np.log2(_square(jumps, jump_whitening, p))) + since
    strongest = strength == np.maximum.accumulate(strength)
    at = np.maximum.accumulate(np.where(strongest, np.arange(len(times)), 0))[rows]
    return Features(columns[rows], jumps[at], np.exp2(since[at] - since[rows]), sudden[rows])


def matrix(model: Model, p: Parameters, found: Features) -> Matrix:
    """The matrix of the forest (n, `model.size`): columns, and three distances.

    The distances are Mahalanobis distances (1936) of the levels from where they usually are and
    of the jumps from none, and the largest jump of a single metric in units of those that are
    rare for it. Random splits over many columns dilute what one of them shows; and where one
    metric jumps all the time, the distance of all says little of another's.
    """
    level = _square(levels(len(model.names), found.columns), model.level_whitening, p)
    jump = _square(found.jumps, model.jump_whitening, p) * found.decay
    largest = ((found.jumps / model.jump_sizes) ** 2).max(axis=1)
    largest = np.minimum(largest, p.greatest_distance) * found.decay
    # Logarithms, since trees split by size.
    distances = [_quantised(np.log1p(square)) for square in (level, jump, largest)]
    return np.column_stack([found.columns, *distances]).astype(np.float32)


def tail(distances: Floats) -> tuple[float, float]:
    """The distance that one in fifty of ordinary ones (n,) exceeds, and by how much on average."""
    start = float(np.quantile(distances, 1.0 - COMMON))
    excess = distances[distances > start] - start
    return start, max(float(excess.mean()) if len(excess) else 0.0, LEAST_EXCESS)


def rarity(tail: tuple[float, float], distances: Floats) -> Floats:
    """How rare distances (n,) are: -log10 of the share of ordinary ones as large.

    The tail is taken for exponential; all distances below it have the same rarity.
    """
    start, excess = tail
    beyond = np.maximum(distances - start, 0.0) / excess
    return np.asarray((beyond - np.log(COMMON)) / np.log(10.0))


def levels(metrics: int, columns: Floats) -> Floats:
    """Levels (n, m), the usual one where unknown."""
    return np.nan_to_num(columns[:, :metrics])


def sizes(jumps: Floats) -> list[float]:
    """A third of what one in a hundred of each metric's jumps exceeds."""
    rare = np.quantile(np.abs(jumps), 0.99, axis=0)
    return [float(size) for size in np.where(rare > 0, rare, 1.0) / 3]


def whitening(parts: Floats, p: Parameters) -> Rows:
    """Matrix (k, k) after which usual rows of `parts` (n, k) are uncorrelated and of size 1.

    Fitted to all rows first, then to all but the farthest by the first fit: faults in the
    training are not what is usual.
    """
    near = parts
    for _ in range(2):
        size = np.sqrt((near**2).mean(axis=0))
        size = np.where(size > 0, size, 1.0)
        scaled = near / size
        variance, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
        found = axes / np.sqrt(np.maximum(variance, p.least_variance)) / size[:, None]
        far = ((parts @ found) ** 2).sum(axis=1)
        near = parts[far <= np.quantile(far, 1.0 - p.unusual_share)]
    return [list(map(float, row)) for row in found]


def trailing_mean(spans: Spans, times: Floats, numbers: Floats | Matrix) -> Floats:
    """Mean of `numbers` (n,), of any magnitude < 1e3, over the last ``spans.lasting`` intervals.

    Towards 0 where less than half of the readings are there. In fixed point, as in `moves`.
    """
    running = np.zeros(len(times) + 1, np.int64)
    np.cumsum(np.rint(numbers * FINE).astype(np.int64), out=running[1:])
    starts, ends = _starts(spans, times, spans.lasting), np.arange(1, len(times) + 1)
    of = np.maximum(ends - starts, spans.lasting / 2)
    return np.asarray((running[ends] - running[starts]) / (FINE * of))


def _square(parts: Floats, whitening: Rows, p: Parameters) -> Floats:
    """Squared distance of `parts` (n, k) from where they usually are."""
    distance = ((parts @ np.array(whitening)) ** 2).sum(axis=1)
    return np.asarray(np.minimum(distance, p.greatest_distance))


def _quantised(logarithms: Floats) -> Floats:
    """In steps of 1 / UNIT: BLAS rounds differently for different batch sizes."""
    return np.asarray(np.rint(logarithms * UNIT) / UNIT)


def _starts(spans: Spans, times: Floats, window: int) -> NDArray[np.intp]:
    """Where the window of so many intervals that ends at each of `times` begins."""
    return np.asarray(np.searchsorted(times, times - (window - 0.5) * spans.interval))
