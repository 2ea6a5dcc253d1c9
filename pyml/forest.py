"""Isolation Forest over a device's metrics: fit, score, severity, reasons.

A reading is described by where its metrics have been of late, by how much each has
moved over several spans, by how far all of them together are from where they usually are,
and by how far they, and the farthest of them alone, have jumped; the forest gives it a
score, which is lower at a sudden jump and in trouble that lasts; two thresholds, fixed when
the model is trained, give the score a meaning.
scikit-learn grows the trees and is imported by `fit` alone: what is stored is one ONNX
graph, and scoring needs nothing but numpy, which walks its trees.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.errors import NotEnoughData
from pyml.forecasters.inference import Run
from pyml.models.wire import Array, Numbers

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

# Trailing windows, in readings of a device that reports once a minute. Each gives a spread; the
# first the level too (a single reading is noise: a mean of five gives a fifth fewer false alarms
# and as many true ones); the two in the middle tell what a jump is a jump from.
WINDOWS = (5, 15, 60, 240)
BEFORE = (15, 60)
# Half-life, in readings, of a jump's squared distance: faults last longer than the jump.
HALF_LIFE = 7
# For a device that reports less often, these spans and `LASTING` are minutes, since faults last
# as long there. A level needs one reading and a spread two. Beyond an interval of SLOWEST minutes,
# where the longest window has eight readings, the spans grow with the interval. For a device that
# reports more often than once a minute, the spans stay readings.
SLOWEST = 30
# Cap of squared distances, far beyond usual ones. It also bounds the look-back: in steps of
# 1 / UNIT nothing of a jump is left after 25 half-lives, which lies within the longest window.
GREATEST = 4096.0
# A sudden jump of one metric bounds the score: random splits over many columns dilute an extreme
# of a single metric. Suddenness is the smaller of two ratios: the jump over its rare size, and the
# jump over the spread of the 60 readings before (plus CALM) over the rare size of that; rare sizes
# are those of `_sizes`. One reading in a hundred exceeds 3. From SUDDEN[0] to SUDDEN[1] the score
# is at most BOUND[0] to BOUND[1], linearly: from below ordinary scores to below most thresholds.
CALM = 0.05
SUDDEN, BOUND = (3.0, 9.0), (-0.5, -0.68)
# Persistence. Over a trailing window of LASTING readings: where the mean score is below -WORN,
# scores are lowered by WEARING times the difference, at most MOST_WORN. An ordinary mean is -0.45.
LASTING = 90
WORN, WEARING, MOST_WORN = 0.6, 2.0, 0.06
# Rows that each tree sees: Liu et al. 2008, section 4; scikit-learn's default too.
SUBSAMPLE = 256
# A metric that a smaller share of the readings reports is left out.
LEAST_REPORTED = 0.05
# Fixed point for trailing sums: integer sums do not depend on where the window starts,
# floating-point sums do.
UNIT = 4096
FINE = float(1 << 30)
FARTHEST = 1024.0
# The critical threshold is the warning threshold at this share of the contamination.
CRITICAL_SHARE = 0.1
# Threshold: mean of the 2nd to 4th lowest per-day quantiles of out-of-fold scores. The lowest is
# left out, so that one bad day does not make the model deaf for a week. On later days about the
# share asked for is flagged (1 % on recordings and 1.3 % on the sample fleet, where 1 % is asked).
COUNTED = slice(1, 4)
# float32 results of two processors differ by less than this. Identical readings must not be
# flagged because of it.
ROUNDING = 1e-6
# Each tree sees four of seven blocks of time (the days of a week). Thresholds come from
# out-of-fold scores, by trees that have not seen the reading's block, as later days are not seen.
# The four are the complement of a perfect difference set, so that any two blocks are seen
# together equally often.
BLOCKS = 7
SEEN = (0, 1, 2, 4)
# Share of the training's levels and jumps, the farthest, that whitening leaves out.
FAR = 0.03
# Trees are not grown on levels that at most two blocks have reached, up to a tenth of the
# readings, so that a fault in the training stays a fault. (A nightly job is in each block.) What
# has lasted for more than `FAR` of the training, up to its end, is the new normal and is kept.
BLOCKS_OF_A_FAULT = 2
FAULTY = 0.1
# Least eigenvalue in whitening: metrics that always move together may part by a tenth of their
# usual size.
LEAST_VARIANCE = 0.01
# Numbers in one batch of the scores behind the reasons, and readings scored or explained at once:
# some tenths of a second.
BATCH, AT_ONCE = 1_000_000, 10_000
# Trees grown between two pulses: about 0.05 s.
STEP = 50

NORMAL, WARNING, CRITICAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained forest.

    Attributes
    ----------
    numbers : mapping of ndarray
        What `trees.graph` takes.
    meta : dict
        JSON-able; what `describe`, `score` and `explain` need beside the graph.
    figures : dict
        JSON-able; what was measured on held-out blocks.
    """

    numbers: Numbers
    meta: dict[str, Any]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores and severities of n readings.

    Attributes
    ----------
    anomaly_score : ndarray of float64, shape (n,)
        Scikit-learn's ``score_samples``, negative, lower is more anomalous; no higher than
        `BOUND` at a sudden jump, and lower by up to `MOST_WORN` where trouble lasts.
    severity : ndarray of int8, shape (n,)
        `NORMAL`, `WARNING` or `CRITICAL`.
    """

    anomaly_score: Floats
    severity: NDArray[np.int8]

    def of(self, rows: NDArray[np.intp] | slice) -> "Scores":
        """Some of the readings."""
        return Scores(self.anomaly_score[rows], self.severity[rows])


def fit(
    times: Floats,
    values: Floats,
    names: Sequence[str],
    *,
    contamination: float,
    n_estimators: int,
    seed: int,
    pulse: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train on the readings of one device.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch, strictly increasing.
    values : ndarray of float64, shape (n, m)
        NaN where missing. May hold anomalies.
    names : sequence of str, length m
    contamination : float
        Share of readings to call anomalous, in (0, 0.5].
    n_estimators : int
        Trees.
    seed : int
        The same seed and data give the same bytes.
    pulse : callable
        Called about every 0.1 s. What it raises ends the training.

    Returns
    -------
    Fitted
        ``meta["names"]`` are the metrics that it uses, in the order in which scoring expects
        its columns. A metric that the device almost never reports is left out.

    Raises
    ------
    NotEnoughData
        No metric is reported often enough.

    References
    ----------
    Liu, Ting and Zhou, "Isolation Forest", ICDM 2008.
    """
    reported = np.isfinite(values).mean(axis=0) if len(values) else np.zeros(len(names))
    used = np.flatnonzero(reported >= LEAST_REPORTED)
    rows = np.isfinite(values[:, used]).any(axis=1)
    if not used.size or rows.sum() < 2:
        raise NotEnoughData(
            "no metric is reported often enough to train on",
            detail=f"{len(times)} readings; reported share by metric: "
            + ", ".join(f"{n} {r:.0%}" for n, r in zip(names, reported, strict=True)),
            hint="SELECT * FROM ml_metric;  -- do the paths match what the device reports?",
        )
    values = values[:, used]
    interval = float(np.median(np.diff(times)))
    meta: dict[str, Any] = {
        "names": [names[int(j)] for j in used],
        "interval": interval,
        **spans_of(interval),
        "scaling": [_scaling(column[np.isfinite(column)]) for column in values.T],
        "usual": [_usual(column[np.isfinite(column)], contamination) for column in values.T],
    }
    columns, jumps, sudden = _moves(meta, times, values)
    meta["level_whitening"] = _whitening(_levels(meta, columns[rows]))
    meta["jump_whitening"] = _whitening(jumps[rows])
    meta["jump_sizes"] = _sizes(jumps[rows])
    meta["sudden_sizes"] = _sizes(sudden[rows])
    described = _felt(meta, times, columns, jumps, sudden, np.flatnonzero(rows))
    matrix = _matrix(meta, described)
    pulse()
    fill = _medians(matrix)
    blocks = _Blocks.of(_trailing(meta, times[rows], matrix[:, LEVEL_DISTANCE]), n_estimators)
    source = _offers(len(used), matrix.shape[1])
    offered = np.where(np.isnan(matrix), fill, matrix)[:, source]
    trees = _grow(offered, blocks, n_estimators, seed, pulse)
    paths = _paths(trees)
    numbers = _numbers(trees, paths, blocks.rows, fill, source)
    pulse()
    shares = np.array([contamination, CRITICAL_SHARE * contamination])
    alone = _bounded(meta, described, blocks.unseen_scores(trees, paths, offered))
    found = _worn(meta, times[rows], alone)
    unseen = blocks.parts(found, blocks.ordinary)
    each = np.array([_lowest(scores, shares) for scores in unseen])
    warning, critical = _limits(unseen, each, shares).tolist()
    meta |= {"warning": warning, "critical": critical}
    figures = _figures(blocks.parts(found), unseen, each, shares)
    return Fitted(numbers, meta, figures | {"features": matrix.shape[1]})


def spans_of(interval: float) -> dict[str, Any]:
    """What `describe` and `score` look back over, of a device that reports so often in seconds."""
    slower = min(max(interval / 60.0, 1.0), SLOWEST)
    windows, before = (
        sorted({max(2, round(window / slower)) for window in spans}) for spans in (WINDOWS, BEFORE)
    )
    lasting = round(LASTING / slower)
    return {
        "windows": windows,
        "level": max(1, round(WINDOWS[0] / slower)),
        "before": before,
        "half_life": HALF_LIFE / slower,
        "lasting": lasting,
        "lookback": (windows[-1] + lasting) * interval,
    }


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Which trees see which readings. Tree i belongs to group ``i % groups``.

    Attributes
    ----------
    block : ndarray of int, shape (n,)
        Block of each reading.
    holds : ndarray of bool, shape (groups, n)
        Whether a group's trees may see the reading's block. There are `BLOCKS` groups, or one
        that sees everything, where there are too few readings or trees.
    ordinary : ndarray of bool, shape (n,)
        Readings that no tree is kept from: not taken for a fault in the training.
    """

    block: NDArray[np.intp]
    holds: NDArray[np.bool_]
    ordinary: NDArray[np.bool_]

    @classmethod
    def of(cls, far: Floats, n_estimators: int) -> "_Blocks":
        """Blocks of n readings; `far` (n,) is the trailing mean of the levels' distance."""
        n = len(far)
        groups = BLOCKS if min(n // 2, n_estimators) >= BLOCKS else 1
        block = np.arange(n) * groups // n
        reached = np.sort([far[block == b].max() for b in range(groups)])
        common = reached[-1 - BLOCKS_OF_A_FAULT] if groups > 1 else np.inf
        over = far > common
        ongoing = np.arange(n) > np.flatnonzero(~over)[-1]
        if ongoing.sum() > FAR * n:
            over &= ~ongoing
        ordinary = ~(over & (far > np.quantile(far, 1.0 - FAULTY, method="higher")))
        holds = [np.isin(block, np.add(SEEN, group) % groups) for group in range(groups)]
        return cls(block, np.array(holds), ordinary)

    @property
    def groups(self) -> int:
        """Groups of trees, and blocks."""
        return len(self.holds)

    @property
    def rows(self) -> int:
        """How many readings a tree is grown on."""
        return int(min(SUBSAMPLE, (self.holds & self.ordinary).sum(axis=1).min()))

    def seen(self, group: int) -> NDArray[np.intp]:
        """The readings that the trees of a group may see."""
        return np.flatnonzero(self.holds[group] & self.ordinary)

    def unseen_scores(
        self, trees: Sequence[Any], paths: Sequence[Floats], offered: Matrix
    ) -> Floats:
        """Out-of-fold scores: of each reading by the trees that have not seen its block."""
        total, count = np.zeros(len(offered)), np.zeros(len(offered), np.int64)
        for group in range(self.groups):
            unseen = np.flatnonzero(~self.holds[group] | (self.groups == 1))
            readings, mine = offered[unseen], slice(group, None, self.groups)
            of_group = np.zeros(len(unseen))
            for tree, path in zip(trees[mine], paths[mine], strict=True):
                of_group += path.take(tree.apply(readings))
            total[unseen] += of_group
            count[unseen] += len(trees[mine])
        return np.asarray(-np.exp(total * _rate(count, self.rows)))

    def parts(self, scores: Floats, which: NDArray[np.bool_] | bool = True) -> list[Floats]:
        """Scores split by block, of all readings or of `which`."""
        return [scores[(self.block == block) & which] for block in range(self.groups)]


def _lowest(scores: Floats, shares: Floats) -> Floats:
    """Quantiles of `scores` at `shares`; the least score where there are too few."""
    return np.asarray(np.quantile(scores, shares, method="weibull"))


def _limits(unseen: Sequence[Floats], each: Floats, shares: Floats) -> Floats:
    """Thresholds for shares of readings to flag.

    `each` has the quantiles of each block, shape (blocks, shares). The threshold is the mean of
    the `COUNTED`. Where both the latest block and all blocks together ask for a lower one, it is
    the less strict of these two: a machine that now works otherwise is not flagged until the
    week is over.
    """
    whole = _lowest(np.concatenate(unseen), shares)
    kept = (np.sort(each, axis=0)[COUNTED] if len(each) > 1 else each).mean(axis=0)
    return np.asarray(np.minimum(kept, np.maximum(whole, each[-1])) - ROUNDING)


def _figures(
    found: list[Floats], unseen: list[Floats], each: Floats, shares: Floats
) -> dict[str, Any]:
    """Share of each block that thresholds from the other blocks flag.

    It is about `shares` where all blocks are alike.
    """
    flagged = []
    for i, scores in enumerate(found):
        others = [j for j in range(len(unseen)) if j != i] or [i]
        limits = _limits([unseen[j] for j in others], each[others], shares)
        flagged.append((scores[:, None] < limits).mean(axis=0))
    warned, critical = np.array(flagged).T
    return {
        "held_out_readings": sum(map(len, found)),
        "held_out_flagged": float(warned.mean()),
        "held_out_flagged_most": float(warned.max()),
        "held_out_critical": float(critical.mean()),
    }


@dataclass(frozen=True, slots=True)
class Described:
    """What the features of n readings are computed from.

    Attributes
    ----------
    columns : ndarray of float64, shape (n, m * (1 + windows))
        Level and spreads of each metric; NaN where unknown.
    jumps : ndarray of float64, shape (n, m * 2)
        Largest jump so far, decaying with time: for each window of ``meta["before"]`` the
        distance of each metric's value from the mean of the window's other readings; 0 where
        unknown. All of a row are of the same moment.
    felt : ndarray of float64, shape (n,)
        Its decay, in (0, 1]; 1 if it is the reading's own jump.
    sudden : ndarray of float64, shape (n, m * 2)
        Distance of each value from the mean of the other readings of the longer window, and the
        same over their spread; 0 where unknown. Not decayed.
    """

    columns: Floats
    jumps: Floats
    felt: Floats
    sudden: Floats

    def of(self, rows: NDArray[np.intp] | slice) -> "Described":
        """Some of the readings."""
        parts = (self.columns, self.jumps, self.felt, self.sudden)
        return Described(*(part[rows] for part in parts))


def describe(
    meta: dict[str, Any],
    times: Floats,
    values: Floats,
    rows: NDArray[np.intp] | None = None,
) -> Described:
    """Levels, spreads and jumps of readings.

    Causal: a row depends on readings up to its own, no older than ``meta["lookback"]``
    seconds minus ``meta["lasting"]`` intervals. It is the same to the last bit whatever
    else `times` and `values` hold.

    Parameters
    ----------
    meta : dict
        Of the model.
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    values : ndarray of float64, shape (n, m)
        One column for each of ``meta["names"]``; NaN where missing.
    rows : ndarray of int, shape (k,), optional
        The readings to describe; all by default.

    Returns
    -------
    Described
    """
    if values.shape[1:] != (len(meta["names"]),):
        raise ValueError(f"expected the columns {meta['names']}, got {values.shape}")
    rows = np.arange(len(times)) if rows is None else rows
    return _felt(meta, times, *_moves(meta, times, values), rows)


def _felt(
    meta: dict[str, Any],
    times: Floats,
    columns: Floats,
    jumps: Floats,
    sudden: Floats,
    rows: NDArray[np.intp],
) -> Described:
    """The description of some rows, from what `_moves` gives for all of them."""
    # In log2 a jump loses 1 in each half-life; the one with most left counts.
    since = times / (meta["half_life"] * meta["interval"])
    with np.errstate(divide="ignore"):
        strength = _even(np.log2(_square(jumps, meta["jump_whitening"]))) + since
    strongest = strength == np.maximum.accumulate(strength)
    at = np.maximum.accumulate(np.where(strongest, np.arange(len(times)), 0))[rows]
    return Described(columns[rows], jumps[at], np.exp2(since[at] - since[rows]), sudden[rows])


def _moves(meta: dict[str, Any], times: Floats, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Columns, own jumps (not decayed) and suddenness of each reading, as in `Described`."""
    centre, scale = np.array(meta["scaling"]).T
    with np.errstate(invalid="ignore"):
        z = np.clip((values - centre) / scale, -FARTHEST, FARTHEST)
    # Shape (m, n): what follows goes along a metric's readings, so they lie side by side.
    z = np.ascontiguousarray(z.T)
    m, n = z.shape
    known = ~np.isnan(z)
    fixed = np.rint(np.where(known, z, 0.0) * UNIT).astype(np.int64)
    running = np.zeros((3, m, n + 1), np.int64)
    np.cumsum(np.stack([known, fixed, fixed * fixed]), axis=2, out=running[:, :, 1:])
    level: Floats = np.empty((m, 0))
    spreads, jumps, sudden = [], [], []
    for window in sorted({meta["level"], *meta["windows"]}):
        starts = _starts(meta, times, window)
        count, total, square = running[:, :, 1:] - running.take(starts, axis=2)
        of = np.maximum(count, 1)
        mean = total / of
        if window == meta["level"]:
            level = np.where(count > 0, mean / UNIT, np.nan)
        if window in meta["windows"]:
            deviation = np.sqrt(np.maximum(square / of - mean**2, 0.0)) / UNIT
            spreads.append(np.where(count >= max(2, window / 2), deviation, np.nan))
        if window in meta["before"]:
            others = np.maximum(count - 1, 1)
            before = (total - fixed) / others
            jump = np.where(known & (count > window / 2), (fixed - before) / UNIT, 0.0)
            jumps.append(jump)
            if window == max(meta["before"]):
                far = np.abs(jump)
                moved = np.sqrt(np.maximum((square - fixed * fixed) / others - before**2, 0.0))
                sudden = [far, far / (moved / UNIT + CALM)]
    return np.concatenate([level, *spreads]).T, np.concatenate(jumps).T, np.concatenate(sudden).T


def _matrix(meta: dict[str, Any], described: Described) -> Matrix:
    """Feature matrix (n, m * (1 + windows) + 3): the columns, and three log distances.

    The Mahalanobis distances (1936) of the levels from their usual place and of the jumps from
    zero: random splits over many columns dilute an extreme of a single one. And the largest jump
    of one metric over its rare size: where one metric jumps all the time, the joint distance
    hides another's jump.
    """
    level = _square(_levels(meta, described.columns), meta["level_whitening"])
    jump = _square(described.jumps, meta["jump_whitening"]) * described.felt
    largest = ((described.jumps / meta["jump_sizes"]) ** 2).max(axis=1)
    largest = np.minimum(largest, GREATEST) * described.felt
    # Logarithms, since trees split by size.
    distances = [_even(np.log1p(square)) for square in (level, jump, largest)]
    return np.column_stack([described.columns, *distances]).astype(np.float32)


# Column of the levels' distance in the matrix.
LEVEL_DISTANCE = -3


def _levels(meta: dict[str, Any], columns: Floats) -> Floats:
    """Levels (n, m); 0, the usual one, where unknown."""
    return np.nan_to_num(columns[:, : len(meta["names"])])


def _square(parts: Floats, whitening: list[list[float]]) -> Floats:
    """Squared length of `parts` (n, k) after whitening, at most `GREATEST`."""
    return np.asarray(np.minimum(((parts @ np.array(whitening)) ** 2).sum(axis=1), GREATEST))


def _even(logarithms: Floats) -> Floats:
    """Quantised: BLAS rounds differently for different batch sizes."""
    return np.asarray(np.rint(logarithms * UNIT) / UNIT)


def _sizes(jumps: Floats) -> list[float]:
    """Rare size of each metric's jumps: a third of their 99 % quantile; a third where that is 0."""
    rare = np.quantile(np.abs(jumps), 0.99, axis=0)
    return [float(size) for size in np.where(rare > 0, rare, 1.0) / 3]


def _offers(metrics: int, width: int) -> NDArray[np.intp]:
    """Matrix columns that are offered to the trees' random splits, some of them repeatedly.

    The levels' distance and the largest jump are offered as often as there are metrics, like
    each other kind of column; the jumps' distance half as often.
    """
    again = [metrics - 1, (metrics + 1) // 2 - 1, metrics - 1]
    return np.concatenate([np.arange(width), np.repeat(np.arange(width - 3, width), again)])


def _whitening(parts: Floats) -> list[list[float]]:
    """Whitening matrix (k, k): usual rows of `parts` become uncorrelated and of size 1.

    Fitted twice, the second time without the rows that are farthest by the first: faults in the
    training are not usual.
    """
    near = parts
    for _ in range(2):
        size = np.sqrt((near**2).mean(axis=0))
        size = np.where(size > 0, size, 1.0)
        scaled = near / size
        variance, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
        whitening = axes / np.sqrt(np.maximum(variance, LEAST_VARIANCE)) / size[:, None]
        far = ((parts @ whitening) ** 2).sum(axis=1)
        near = parts[far <= np.quantile(far, 1.0 - FAR)]
    return [list(map(float, row)) for row in whitening]


def _starts(meta: dict[str, Any], times: Floats, window: int) -> NDArray[np.intp]:
    """Index at which the trailing window of that many intervals begins, for each of `times`."""
    return np.asarray(np.searchsorted(times, times - (window - 0.5) * meta["interval"]))


def _trailing(meta: dict[str, Any], times: Floats, numbers: Floats | Matrix) -> Floats:
    """Trailing mean of `numbers` (n,), of magnitude < 1e3, over ``meta["lasting"]`` intervals.

    Shrunk towards 0 where less than half of the readings are there. In fixed point, as in
    `_moves`.
    """
    window = meta["lasting"]
    running = np.zeros(len(times) + 1, np.int64)
    np.cumsum(np.rint(numbers * FINE).astype(np.int64), out=running[1:])
    starts, ends = _starts(meta, times, window), np.arange(1, len(times) + 1)
    of = np.maximum(ends - starts, window / 2)
    return np.asarray((running[ends] - running[starts]) / (FINE * of))


def _bounded(meta: dict[str, Any], described: Described, scores: Floats) -> Floats:
    """Scores (n,), bounded from above at a sudden jump of one metric (`SUDDEN`, `BOUND`)."""
    metrics = len(meta["names"])
    sizes = described.sudden / np.array(meta["sudden_sizes"])
    sudden = np.minimum(sizes[:, :metrics], sizes[:, metrics:]).max(axis=1)
    return np.asarray(np.minimum(scores, np.interp(sudden, SUDDEN, BOUND, left=0.0)))


def _worn(meta: dict[str, Any], times: Floats, scores: Floats) -> Floats:
    """Scores (n,), lowered where the mean of the last ones is low (`WORN`, `WEARING`)."""
    beyond = -_trailing(meta, times, scores) - WORN
    return np.maximum(scores - np.clip(WEARING * beyond, 0.0, MOST_WORN), -1.0)


def score(
    meta: dict[str, Any],
    run: Run,
    times: Floats,
    described: Described,
    pulse: Callable[[], None] = lambda: None,
) -> Scores:
    """Score readings and judge them by the thresholds fixed at training.

    A reading's score depends on the scores of the ``meta["lasting"]`` intervals before it. Pass
    that much more at the beginning, and drop it.

    Parameters
    ----------
    meta, run
        The model and what runs its graph.
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    described : Described
        Of the n readings.
    pulse : callable
        Called between batches; what it raises ends the scoring.

    Returns
    -------
    Scores
    """
    if not len(times):
        return Scores(np.empty(0), np.empty(0, np.int8))
    matrix, alone = _matrix(meta, described), np.empty(len(times), np.float32)
    for first in range(0, len(times), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        alone[some] = run({"features": matrix[some], "again": np.ones(1)})[0][:, 0]
        if first:
            pulse()
    found = _worn(meta, times, _bounded(meta, described, alone.astype(np.float64)))
    severity = (found < meta["warning"]).astype(np.int8) + (found < meta["critical"])
    return Scores(found, severity.astype(np.int8))


def explain(
    meta: dict[str, Any],
    run: Run,
    described: Described,
    values: Floats,
    pulse: Callable[[], None] = lambda: None,
) -> list[list[dict[str, Any]]]:
    """Contribution of each metric to the scores of readings.

    It is how much higher the reading's own score (without persistence) would be if the metric
    were missing.

    Parameters
    ----------
    meta, run
        The model and what runs its graph.
    described : Described
        Of n readings.
    values : ndarray of float64, shape (n, m)
        Their values.
    pulse : callable
        Called between batches; what it raises ends the explaining.

    Returns
    -------
    list of list of dict
        For each reading its metrics, the largest contribution first:
        ``metric, value, usual_low, usual_high, contribution``. Metrics without a positive
        contribution are left out, unless none has one.
    """
    names = meta["names"]
    if not len(values):
        return []
    size = max(1, BATCH // ((len(names) + 1) * (described.columns.shape[1] + 1)))
    gains = np.empty((len(values), len(names)))
    for first in range(0, len(values), size):
        some = slice(first, first + size)
        gains[some] = _gains(meta, run, described.of(some))
        if first:
            pulse()
    reasons: list[list[dict[str, Any]]] = []
    for value, gain in zip(values.tolist(), gains, strict=True):
        if len(reasons) % AT_ONCE == AT_ONCE - 1:
            pulse()
        order = np.argsort(-gain, kind="stable")
        kept = [j for j in order if gain[j] > 0] or [order[0]]
        reasons.append(
            [
                {
                    "metric": names[j],
                    "value": value[j] if math.isfinite(value[j]) else None,
                    "usual_low": meta["usual"][j][0],
                    "usual_high": meta["usual"][j][1],
                    "contribution": round(float(gain[j]), 4),
                }
                for j in kept
            ]
        )
    return reasons


def _gains(meta: dict[str, Any], run: Run, described: Described) -> Floats:
    """How much each metric lowers the score of each reading, shape (n, m)."""
    m, n = len(meta["names"]), len(described.columns)
    parts = (described.columns, described.jumps, described.sudden)
    columns, jumps, sudden = (np.tile(part, (m + 1, 1)) for part in parts)
    felt = np.tile(described.felt, m + 1)
    for j in range(m):  # block 0: all metrics; block j + 1: without metric j
        without = slice((j + 1) * n, (j + 2) * n)
        columns[without, j::m], jumps[without, j::m], sudden[without, j::m] = np.nan, 0.0, 0.0
    each = Described(columns, jumps, felt, sudden)
    found = _bounded(meta, each, run({"features": _matrix(meta, each)})[0][:, 0])
    found = found.reshape(m + 1, n)
    return np.asarray((found[1:] - found[0]).T, np.float64)


def _scaling(column: Floats) -> tuple[float, float]:
    """Median and robust scale of one metric; scale 1 for a constant."""
    low, centre, high = np.quantile(column, [0.25, 0.5, 0.75])
    scale = (high - low) / 1.349 or float(np.std(column)) or 1.0
    return float(centre), float(scale)


def _usual(column: Floats, contamination: float) -> tuple[float, float]:
    """The range that holds all but `contamination` of one metric's values."""
    low, high = np.quantile(column, [contamination / 2, 1 - contamination / 2])
    return float(low), float(high)


def _medians(matrix: Matrix) -> Matrix:
    """Fill values of missing features: the median; 0 for a feature that was never there."""
    fill = np.zeros(matrix.shape[1], np.float32)
    for j, column in enumerate(matrix.T):
        known = column[~np.isnan(column)]
        if len(known):
            fill[j] = np.median(known)
    return fill


def prepare() -> None:
    """Import scikit-learn, so that `fit` can start at once."""
    import sklearn.ensemble  # noqa: F401


def _grow(
    matrix: Matrix, blocks: _Blocks, n_estimators: int, seed: int, pulse: Callable[[], None]
) -> list[Any]:
    """Grow the trees as scikit-learn's IsolationForest does, each on rows that its group sees.

    If each tree sees all rows, the trees are those of that library with the same seed, to the
    last bit. The class itself is not used: for each tree it makes three random generators, a
    clone and a weight for every row, which takes three times as long as the trees; and it
    shuffles all rows to pick some, which takes a third as long.
    """
    from sklearn import config_context
    from sklearn.tree import ExtraTreeRegressor

    rows = blocks.rows
    seen = [blocks.seen(group) for group in range(blocks.groups)]
    top = np.iinfo(np.int32).max
    random, picker = np.random.RandomState(seed), np.random.default_rng(seed)
    noise = random.uniform(size=len(matrix))
    random.seed(seed)
    seeds = random.randint(top, size=n_estimators)
    tree = ExtraTreeRegressor(
        max_features=1, max_depth=int(np.ceil(np.log2(max(rows, 2)))), random_state=random
    )
    trees = []
    with config_context(skip_parameter_validation=True, assume_finite=True):
        for grown, own in enumerate(seeds):
            if grown % STEP == 0:
                pulse()
            random.seed(own)
            splits = random.randint(top)
            mine = seen[grown % blocks.groups]
            some = picker.choice(len(mine), rows, replace=False, shuffle=False)
            picked = mine[np.sort(some)]
            random.seed(splits)
            trees.append(tree.fit(matrix[picked], noise[picked], check_input=False).tree_)
    return trees


def _average_path(count: NDArray[Any]) -> Floats:
    """Mean path length of an unsuccessful search in a tree of `count` rows (Liu et al., eq. 1)."""
    n = np.maximum(count, 2).astype(np.float64)
    path = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(count <= 1, 0.0, np.where(count == 2, 1.0, path))


def _paths(trees: Sequence[Any]) -> list[Floats]:
    """Path length of a reading that ends at a node, for each node of each tree.

    Rounded so that float32 sums over all trees are exact in any order. A runtime's order of
    addition depends on the batch size and on threads, and a reading's score must not. The
    rounding moves a score by 1e-6.
    """
    paths = [tree.compute_node_depths() - 1 + _average_path(tree.n_node_samples) for tree in trees]
    longest = max(float(path.max()) for path in paths)
    spare = 24 - int(np.ceil(np.log2(max(2.0, len(trees) * longest))))
    return [np.rint(path * 2.0**spare) / 2.0**spare for path in paths]


def _rate(trees: NDArray[Any] | int, rows: int) -> Floats:
    """Factor from a sum of path lengths over so many trees to the logarithm of the score."""
    shortest = np.asarray(trees) * float(_average_path(np.array(rows)))
    return -np.log(2.0) / shortest if rows > 1 else np.zeros_like(shortest)


def _tree_parts(tree: Any, path: Floats) -> tuple[Any, ...]:
    """Left, right, feature, threshold and path length of a tree's nodes; -1 at leaves."""
    if tree.node_count > 1:
        return tree.children_left, tree.children_right, tree.feature, tree.threshold, path
    # The stored form needs a node: a lone leaf stands on both sides of one.
    return [1, -1, -1], [2, -1, -1], [0, -1, -1], [0.0, 0.0, 0.0], [path[0]] * 3


def _tree_attributes(
    trees: Sequence[Any], paths: Sequence[Floats], source: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Attributes of one ONNX TreeEnsemble, which holds nodes and leaves apart.

    `source` maps the columns that the trees saw to columns of the matrix.
    """
    parts = list(map(_tree_parts, trees, paths))
    left, right, feature, split, weight = map(np.concatenate, zip(*parts, strict=True))
    size = [len(part[0]) for part in parts]
    root = np.cumsum([0, *size[:-1]])
    leaf = left < 0
    left, right = (side + np.repeat(root, size) for side in (left, right))
    # For a float32 x, x <= split is x <= the largest float32 that is not above split.
    single = split.astype(np.float32)
    single = np.where(single > split, np.nextafter(single, np.float32(-np.inf)), single)
    # A last split between leaves of equal path length changes no score: it is left out.
    idle = leaf[left] & leaf[right] & (weight[left] == weight[right]) & ~leaf
    idle[root] = False
    weight[idle] = weight[left[idle]]
    gone = np.zeros(len(leaf), bool)
    gone[left[idle]] = gone[right[idle]] = True
    leaf = (leaf | idle) & ~gone
    node = ~(leaf | gone)
    number = np.where(leaf, np.cumsum(leaf), np.cumsum(node)) - 1
    true, false = left[node], right[node]
    return {
        "tree_roots": number[root],
        "nodes_featureids": source[feature[node]],
        "nodes_modes": np.zeros(len(true), np.uint8),  # all of them x <= split
        "nodes_splits": single[node],
        "nodes_truenodeids": number[true],
        "nodes_trueleafs": leaf[true].astype(np.int64),
        "nodes_falsenodeids": number[false],
        "nodes_falseleafs": leaf[false].astype(np.int64),
        "leaf_targetids": np.zeros(int(leaf.sum()), np.int64),
        "leaf_weights": weight[leaf].astype(np.float32),
    }


def _numbers(
    trees: Sequence[Any],
    paths: Sequence[Floats],
    rows: int,
    fill: Matrix,
    source: NDArray[np.intp],
) -> dict[str, Array]:
    """What `trees.graph` takes of trees that were grown on `rows` each."""
    rate = _rate(len(trees), rows).astype(np.float32).reshape(1)
    return _tree_attributes(trees, paths, source) | {"fill": fill, "rate": rate}
