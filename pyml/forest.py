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

from pyml.engine import Run
from pyml.errors import NotEnoughData
from pyml.wire import Array, Numbers

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

# Trailing windows, in readings of a device that reports once a minute. Each gives a spread; the
# first the level too (a single reading is noise: a mean of five gives a fifth fewer false alarms
# and as many true ones); the two in the middle tell what a jump is a jump from.
WINDOWS = (5, 15, 60, 240)
BEFORE = (15, 60)
# Readings in which the square of a jump's distance is halved: it goes on to count for a while,
# as faults do.
HALF_LIFE = 7
# Of a device that reports less often these, and `LASTING`, are minutes: troubles last as long. But
# a level takes a reading and a spread two, and beyond SLOWEST minutes from one reading to the next,
# where the longest window has eight, all grow with the interval. Of one that reports more often
# they are readings.
SLOWEST = 30
# Squared distances are cut off here, far beyond usual ones. In steps of `UNIT` nothing is left
# of a jump after 25 half-lives: with the hour that it is from, within the longest window.
GREATEST = 4096.0
# A sudden jump of one metric counts by itself: trees that choose among many columns tell a reading
# at which a single one is extreme from others too little. How sudden it is says the lesser of how
# large it is and how large beside what the metric moved in the hour before (a twentieth of its
# usual size at least), in `_sizes`; one in a hundred exceeds 3. From SUDDEN's first to its second
# a score is at most BOUND's first to its second: above what is ordinary, and where it is rarest
# beyond most limits.
CALM = 0.05
SUDDEN, BOUND = (3.0, 9.0), (-0.5, -0.68)
# Trailing window, in readings, over which trouble that lasts shows: where the mean score is
# below -WORN, scores are lower by WEARING times the difference, MOST_WORN at most. A usual mean
# is -0.45; what comes and goes in minutes is judged by itself.
LASTING = 90
WORN, WEARING, MOST_WORN = 0.6, 2.0, 0.06
# Rows that each tree sees: Liu et al. 2008, section 4; scikit-learn's default too.
SUBSAMPLE = 256
# A metric reported in a smaller share of the readings than this is left out.
LEAST_REPORTED = 0.05
# Fixed point for the trailing sums: whole numbers add up to the same sum from
# wherever the window starts; floating ones do not.
UNIT = 4096
FINE = float(1 << 30)
FARTHEST = 1024.0
# "critical" is what contamination's tenth part of the training readings reached.
CRITICAL_SHARE = 0.1
# A limit is the mean of those that three of the blocks would set, each for the share asked for:
# not the worst, since one bad day does not make the model deaf for a week, but the next ones.
# Days to come then keep to about that share (1 % on recordings and 1.3 on the sample fleet,
# where 1 is asked for).
COUNTED = slice(1, 4)
# Float32 results of two processors differ by less; readings all alike must not be
# flagged for it.
ROUNDING = 1e-6
# Each tree sees the readings of four of seven blocks of time (the days of a week), so that
# thresholds come from scores by trees that have not seen the reading's block: a day is
# flagged for what no other day was like, as the days to come will be. The four are the
# complement of a perfect difference set: any two blocks are seen together equally often.
BLOCKS = 7
SEEN = (0, 1, 2, 4)
# Share of the training's levels and jumps, the farthest, that do not count as usual.
FAR = 0.03
# Nor is a state usual that no more than two of the blocks have seen: up to a tenth of the
# readings, trees are not grown on it, so that a fault in the training stays one. A nightly job
# is in each block; and what has held for longer than `FAR` of the training, to its end, is how the
# machine works now.
BLOCKS_OF_A_FAULT = 2
FAULTY = 0.1
# Metrics that always move together may part by a tenth of their usual size.
LEAST_VARIANCE = 0.01
# Numbers in one batch of the scores behind the reasons.
BATCH = 4_000_000
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
        JSON-able; all that `describe`, `score` and `explain` need beside the graph.
    figures : dict
        JSON-able; what the user may want to know about the training.
    """

    numbers: Numbers
    meta: dict[str, Any]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about readings.

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

    def of(self, rows: slice) -> "Scores":
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
        Called every 0.1 s or so; what it raises ends the training.

    Returns
    -------
    Fitted
        ``meta["names"]`` are the metrics that it uses, in the order in which
        scoring expects its columns: one that the device (almost) never reports is left out.

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
    """Which readings which trees see: tree i belongs to group ``i % groups``.

    Attributes
    ----------
    block : ndarray of int, shape (n,)
        Block of each reading.
    holds : ndarray of bool, shape (groups, n)
        Whether it is one of each group's. There are `BLOCKS` groups; 1, which sees
        everything, where there is too little to part.
    ordinary : ndarray of bool, shape (n,)
        Which readings may be seen at all.
    """

    block: NDArray[np.intp]
    holds: NDArray[np.bool_]
    ordinary: NDArray[np.bool_]

    @classmethod
    def of(cls, far: Floats, n_estimators: int) -> "_Blocks":
        """Blocks of n readings at which levels have been so `far` of late, shape (n,)."""
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
        """Readings that a tree is grown on."""
        return int(min(SUBSAMPLE, (self.holds & self.ordinary).sum(axis=1).min()))

    def seen(self, group: int) -> NDArray[np.intp]:
        """The readings that the trees of a group may see."""
        return np.flatnonzero(self.holds[group] & self.ordinary)

    def unseen_scores(
        self, trees: Sequence[Any], paths: Sequence[Floats], offered: Matrix
    ) -> Floats:
        """Scores of readings by the trees that have not seen their block."""
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
        """Those of each block's readings, or of `which` of them."""
        return [scores[(self.block == block) & which] for block in range(self.groups)]


def _lowest(scores: Floats, shares: Floats) -> Floats:
    """Scores below which those shares of others like them are; the least where there are few."""
    return np.asarray(np.quantile(scores, shares, method="weibull"))


def _limits(unseen: Sequence[Floats], each: Floats, shares: Floats) -> Floats:
    """Scores below which a reading is flagged, for shares of readings to flag.

    `each` holds those of each block alone, shape (blocks, shares). The mean of the `COUNTED`,
    yet no looser than either the whole or the latest block would have it: a machine that now
    works otherwise is not flagged until the week is over.
    """
    whole = _lowest(np.concatenate(unseen), shares)
    kept = (np.sort(each, axis=0)[COUNTED] if len(each) > 1 else each).mean(axis=0)
    return np.asarray(np.minimum(kept, np.maximum(whole, each[-1])) - ROUNDING)


def _figures(
    found: list[Floats], unseen: list[Floats], each: Floats, shares: Floats
) -> dict[str, Any]:
    """What limits from the other blocks flag of each: about `shares` where all are alike."""
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
    """Readings as the forest sees them.

    Attributes
    ----------
    columns : ndarray of float64, shape (n, m * (1 + windows))
        Level and spreads of each metric; NaN where there is nothing to say.
    jumps : ndarray of float64, shape (n, m * 2)
        Of the jump that is felt most at each reading, its own or one shortly before: how far
        each value lay from the mean of the others of each window of ``meta["before"]``; 0
        where that is unknown.
    felt : ndarray of float64, shape (n,)
        What is left of it, in (0, 1]; 1 for the reading's own.
    sudden : ndarray of float64, shape (n, m * 2)
        How far each value lies from the mean of the others of the longer of these windows,
        and how far beside their spread; 0 where that is unknown.
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
    """Describe readings by what their metrics have done of late.

    Causal: a row depends on readings up to its own, no older than ``meta["lookback"]``
    seconds less ``meta["lasting"]`` intervals, and is the same to the last bit whatever
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
        Which readings to describe; all where not given.

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
    """Some readings with the jump that each feels, of what `_moves` gives of all."""
    # A jump loses a bit in each half-life: the one that has most left is felt.
    since = times / (meta["half_life"] * meta["interval"])
    with np.errstate(divide="ignore"):
        strength = _even(np.log2(_square(jumps, meta["jump_whitening"]))) + since
    strongest = strength == np.maximum.accumulate(strength)
    at = np.maximum.accumulate(np.where(strongest, np.arange(len(times)), 0))[rows]
    return Described(columns[rows], jumps[at], np.exp2(since[at] - since[rows]), sudden[rows])


def _moves(meta: dict[str, Any], times: Floats, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each reading, as in `Described`: columns, its own jumps, and how sudden they are."""
    centre, scale = np.array(meta["scaling"]).T
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
    """The matrix of the forest (n, m * (1 + windows) + 3): columns, and three distances.

    How far the levels are from where they usually are, and the jumps from none, counting
    each metric, and each combination of them, by its usual size (Mahalanobis, 1936): what
    one of many columns shows, a tree that chooses among all of them seldom sees. And the
    farthest jump of one metric by itself, in units of those that are rare for it: where one
    metric jumps all the time, the distance of all of them says little of another's.
    """
    level = _square(_levels(meta, described.columns), meta["level_whitening"])
    jump = _square(described.jumps, meta["jump_whitening"]) * described.felt
    largest = ((described.jumps / meta["jump_sizes"]) ** 2).max(axis=1)
    largest = np.minimum(largest, GREATEST) * described.felt
    # Logarithms, since trees split by size.
    distances = [_even(np.log1p(square)) for square in (level, jump, largest)]
    return np.column_stack([described.columns, *distances]).astype(np.float32)


# The first of the three in the matrix.
LEVEL_DISTANCE = -3


def _levels(meta: dict[str, Any], columns: Floats) -> Floats:
    """Levels (n, m), the usual one where unknown."""
    return np.nan_to_num(columns[:, : len(meta["names"])])


def _square(parts: Floats, whitening: list[list[float]]) -> Floats:
    """Squared distance of `parts` (n, k) from where they usually are."""
    return np.asarray(np.minimum(((parts @ np.array(whitening)) ** 2).sum(axis=1), GREATEST))


def _even(logarithms: Floats) -> Floats:
    """Coarser steps hide that a product of matrices rounds as its size has it."""
    return np.asarray(np.rint(logarithms * UNIT) / UNIT)


def _sizes(jumps: Floats) -> list[float]:
    """A third of what one in a hundred of each metric's jumps exceeds."""
    rare = np.quantile(np.abs(jumps), 0.99, axis=0)
    return [float(size) for size in np.where(rare > 0, rare, 1.0) / 3]


def _offers(metrics: int, width: int) -> NDArray[np.intp]:
    """Columns of the matrix that trees may split by.

    They choose one at random: the distance of the levels and the largest jump stand there as
    often as each other kind's columns, the distance of the jumps half as often.
    """
    again = [metrics - 1, (metrics + 1) // 2 - 1, metrics - 1]
    return np.concatenate([np.arange(width), np.repeat(np.arange(width - 3, width), again)])


def _whitening(parts: Floats) -> list[list[float]]:
    """Matrix (k, k) after which usual rows of `parts` are uncorrelated and of size 1.

    Of all rows first, then of all but the farthest by the first: faults in the training
    are not what is usual.
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
    """Where the window of so many intervals that ends at each of `times` begins."""
    return np.asarray(np.searchsorted(times, times - (window - 0.5) * meta["interval"]))


def _trailing(meta: dict[str, Any], times: Floats, numbers: Floats | Matrix) -> Floats:
    """Mean of `numbers` (n,), of any magnitude < 1e3, over the `LASTING` window of each.

    Towards 0 where less than half of the readings are there. In fixed point, as in `_moves`.
    """
    window = meta["lasting"]
    running = np.zeros(len(times) + 1, np.int64)
    np.cumsum(np.rint(numbers * FINE).astype(np.int64), out=running[1:])
    starts, ends = _starts(meta, times, window), np.arange(1, len(times) + 1)
    of = np.maximum(ends - starts, window / 2)
    return np.asarray((running[ends] - running[starts]) / (FINE * of))


def _bounded(meta: dict[str, Any], described: Described, scores: Floats) -> Floats:
    """Scores (n,), no higher than a sudden jump of a metric allows."""
    metrics = len(meta["names"])
    sizes = described.sudden / np.array(meta["sudden_sizes"])
    sudden = np.minimum(sizes[:, :metrics], sizes[:, metrics:]).max(axis=1)
    return np.asarray(np.minimum(scores, np.interp(sudden, SUDDEN, BOUND, left=0.0)))


def _worn(meta: dict[str, Any], times: Floats, scores: Floats) -> Floats:
    """Scores (n,), lower where those of late were low."""
    beyond = -_trailing(meta, times, scores) - WORN
    return np.maximum(scores - np.clip(WEARING * beyond, 0.0, MOST_WORN), -1.0)


def score(meta: dict[str, Any], run: Run, times: Floats, described: Described) -> Scores:
    """Score readings and judge them by the thresholds fixed at training.

    A reading's score depends on those of ``meta["lasting"]`` intervals before it: those of
    the first so many are not what they would be beside a longer past.

    Parameters
    ----------
    meta, run
        The model and what runs its graph.
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    described : Described
        Of the n readings.

    Returns
    -------
    Scores
    """
    if not len(times):
        return Scores(np.empty(0), np.empty(0, np.int8))
    alone = run({"features": _matrix(meta, described), "again": np.ones(1)})[0][:, 0]
    found = _worn(meta, times, _bounded(meta, described, alone.astype(np.float64)))
    severity = (found < meta["warning"]).astype(np.int8) + (found < meta["critical"])
    return Scores(found, severity.astype(np.int8))


def explain(
    meta: dict[str, Any], run: Run, described: Described, values: Floats
) -> list[list[dict[str, Any]]]:
    """Say which metrics made readings anomalous.

    A metric's contribution is how much nearer to normal the score of the reading by itself
    would be had that metric been missing.

    Parameters
    ----------
    meta, run
        The model and what runs its graph.
    described : Described
        Of n readings.
    values : ndarray of float64, shape (n, m)
        Their values.

    Returns
    -------
    list of list of dict
        For each reading its metrics, the most important first:
        ``metric, value, usual_low, usual_high, contribution``. Metrics that
        contribute nothing are left out, unless none does.
    """
    names = meta["names"]
    if not len(values):
        return []
    size = max(1, BATCH // ((len(names) + 1) * (described.columns.shape[1] + 1)))
    gains = np.concatenate(
        [_gains(meta, run, described.of(slice(i, i + size))) for i in range(0, len(values), size)]
    )
    reasons = []
    for value, gain in zip(values.tolist(), gains, strict=True):
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
    """How much each metric lowers the scores of readings, shape (n, m)."""
    m, n = len(meta["names"]), len(described.columns)
    parts = (described.columns, described.jumps, described.sudden)
    columns, jumps, sudden = (np.tile(part, (m + 1, 1)) for part in parts)
    felt = np.tile(described.felt, m + 1)
    for j in range(m):  # as it is first, then without each metric
        without = slice((j + 1) * n, (j + 2) * n)
        columns[without, j::m], jumps[without, j::m], sudden[without, j::m] = np.nan, 0.0, 0.0
    each = Described(columns, jumps, felt, sudden)
    found = _bounded(meta, each, run({"features": _matrix(meta, each)})[0][:, 0])
    found = found.reshape(m + 1, n)
    return np.asarray((found[1:] - found[0]).T, np.float64)


def _scaling(column: Floats) -> tuple[float, float]:
    """Median and a robust scale of one metric; 1 for a constant."""
    low, centre, high = np.quantile(column, [0.25, 0.5, 0.75])
    scale = (high - low) / 1.349 or float(np.std(column)) or 1.0
    return float(centre), float(scale)


def _usual(column: Floats, contamination: float) -> tuple[float, float]:
    """The range that holds all but `contamination` of one metric's values."""
    low, high = np.quantile(column, [contamination / 2, 1 - contamination / 2])
    return float(low), float(high)


def _medians(matrix: Matrix) -> Matrix:
    """What stands in for a missing feature: its median, 0 where it never was there."""
    fill = np.zeros(matrix.shape[1], np.float32)
    for j, column in enumerate(matrix.T):
        known = column[~np.isnan(column)]
        if len(known):
            fill[j] = np.median(known)
    return fill


def prepare() -> None:
    """Load scikit-learn; `fit` then starts at once."""
    import sklearn.ensemble  # noqa: F401


def _grow(
    matrix: Matrix, blocks: _Blocks, n_estimators: int, seed: int, pulse: Callable[[], None]
) -> list[Any]:
    """Trees as scikit-learn's IsolationForest grows them, each on rows that its group sees.

    Where each tree sees all rows they are that library's of the same seed, to the last bit.
    Grown one by one: IsolationForest makes three random generators, a clone and a weight
    for every row of `matrix` for each tree, which takes three times as long as the trees;
    and it shuffles all rows to pick some, which takes a third as long.
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
    """Path length that a reading which ends at a node has, for each node of each tree.

    Rounded so that float32 sums over all trees are exact, in any order: a runtime adds them
    in one that depends on the size of the batch and on its threads; a reading's score must
    not. The rounding moves a score by 1e-6.
    """
    paths = [tree.compute_node_depths() - 1 + _average_path(tree.n_node_samples) for tree in trees]
    longest = max(float(path.max()) for path in paths)
    spare = 24 - int(np.ceil(np.log2(max(2.0, len(trees) * longest))))
    return [np.rint(path * 2.0**spare) / 2.0**spare for path in paths]


def _rate(trees: NDArray[Any] | int, rows: int) -> Floats:
    """Logarithm of a score for each step of the paths in a number of trees grown on `rows`."""
    shortest = np.asarray(trees) * float(_average_path(np.array(rows)))
    return -np.log(2.0) / shortest if rows > 1 else np.zeros_like(shortest)


def _tree_parts(tree: Any, path: Floats) -> tuple[Any, ...]:
    """Children, features, thresholds and paths of a tree's nodes; leaves have no child."""
    if tree.node_count > 1:
        return tree.children_left, tree.children_right, tree.feature, tree.threshold, path
    # A tree has a node at least: one of a leaf alone has that leaf on either side of it.
    return [1, -1, -1], [2, -1, -1], [0, -1, -1], [0.0, 0.0, 0.0], [path[0]] * 3


def _tree_attributes(
    trees: Sequence[Any], paths: Sequence[Floats], source: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Trees as the attributes of one TreeEnsemble: its nodes, and its leaves apart from them.

    `source` has the column of the matrix that each of the trees' columns is.
    """
    parts = list(map(_tree_parts, trees, paths))
    left, right, feature, split, weight = map(np.concatenate, zip(*parts, strict=True))
    size = [len(part[0]) for part in parts]
    root = np.cumsum([0, *size[:-1]])
    leaf = left < 0
    left, right = (side + np.repeat(root, size) for side in (left, right))
    # x <= split for a float32 x, with the largest float32 that is not above split.
    single = split.astype(np.float32)
    single = np.where(single > split, np.nextafter(single, np.float32(-np.inf)), single)
    # Two rows that a last split parts have a path of the same length: it changes no score.
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
