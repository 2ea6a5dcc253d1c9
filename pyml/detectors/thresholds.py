"""Scores of readings by trees that have not seen them -> the scores below which a reading counts.

Each tree sees some of the blocks of time that a training is cut into (the days of a week), so
that thresholds come from scores by trees that have not seen the reading's block: a day is
flagged for what no other day was like, as the days to come will be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors.features import Floats, Matrix
from pyml.detectors.growing import rate
from pyml.detectors.isolation import Parameters

# Float32 results of two processors differ by less; readings all alike must not be
# flagged for it.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which readings which trees see: tree i belongs to group ``i % groups``.

    Attributes
    ----------
    block : ndarray of int, shape (n,)
        Block of each reading.
    holds : ndarray of bool, shape (groups, n)
        Whether it is one of each group's. There are as many groups as blocks; one, which sees
        everything, where there is too little to part.
    ordinary : ndarray of bool, shape (n,)
        Which readings may be seen at all.
    rows : int
        Readings that a tree is grown on.
    """

    block: NDArray[np.intp]
    holds: NDArray[np.bool_]
    ordinary: NDArray[np.bool_]
    rows: int

    @classmethod
    def of(cls, far: Floats, n_estimators: int, p: Parameters) -> "Blocks":
        """Blocks of n readings that have been so `far` from usual of late, shape (n,).

        A state that no more than ``p.fault_blocks`` have seen, up to ``p.fault_share`` of the
        readings, is left out, so that a fault in the training stays one. A nightly job is in
        each block; what has lasted for longer than ``p.unusual_share`` of the training, to its
        end, is how the machine works now.
        """
        n = len(far)
        groups = p.blocks if min(n // 2, n_estimators) >= p.blocks else 1
        block = np.arange(n) * groups // n
        reached = np.sort([far[block == b].max() for b in range(groups)])
        common = reached[-1 - p.fault_blocks] if groups > 1 else np.inf
        over = far > common
        ongoing = np.arange(n) > np.flatnonzero(~over)[-1]
        if ongoing.sum() > p.unusual_share * n:
            over &= ~ongoing
        ordinary = ~(over & (far > np.quantile(far, 1.0 - p.fault_share, method="higher")))
        seen = [np.isin(block, np.add(p.seen_blocks, group) % groups) for group in range(groups)]
        holds = np.array(seen)
        rows = int(min(p.subsample, (holds & ordinary).sum(axis=1).min()))
        return cls(block, holds, ordinary, rows)

    @property
    def groups(self) -> int:
        """Groups of trees, and blocks."""
        return len(self.holds)

    def seen(self) -> list[NDArray[np.intp]]:
        """The readings that the trees of each group may see."""
        return [np.flatnonzero(held & self.ordinary) for held in self.holds]

    def unseen_scores(
        self, trees: Sequence[Any], paths: Sequence[Floats], matrix: Matrix, pulse: Pulse
    ) -> Floats:
        """Scores (n,) of readings by the trees that have not seen their block."""
        total, count = np.zeros(len(matrix)), np.zeros(len(matrix), np.int64)
        for group in range(self.groups):
            unseen = np.flatnonzero(~self.holds[group] | (self.groups == 1))
            readings, mine = matrix[unseen], slice(group, None, self.groups)
            of_group = np.zeros(len(unseen))
            for tree, path in zip(trees[mine], paths[mine], strict=True):
                pulse()
                of_group += path.take(tree.apply(readings))
            total[unseen] += of_group
            count[unseen] += len(trees[mine])
        return np.asarray(-np.exp(total * rate(count, self.rows)))

    def parts(self, scores: Floats, which: NDArray[np.bool_] | bool = True) -> list[Floats]:
        """Those of each block's readings, or of `which` of them."""
        return [scores[(self.block == block) & which] for block in range(self.groups)]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores below which a reading is flagged, and what they flag of the training.

    Attributes
    ----------
    warning, critical : float
    figures : dict
        JSON-able: what thresholds from the other blocks flag of each.
    """

    warning: float
    critical: float
    figures: dict[str, Any]

    @classmethod
    def of(
        cls, blocks: Blocks, scores: Floats, contamination: float, p: Parameters
    ) -> "Thresholds":
        """Those of a training, from scores (n,) by trees that have not seen the readings."""
        shares = p.ahead_share * contamination * np.array([1.0, p.critical_share])
        unseen = blocks.parts(scores, blocks.ordinary)
        each = np.array([lowest(part, shares) for part in unseen])
        warning, critical = limits(unseen, each, shares, p).tolist()
        return cls(warning, critical, _figures(blocks.parts(scores), unseen, each, shares, p))


def lowest(scores: Floats, shares: Floats) -> Floats:
    """Scores below which those shares of others like them are; the least where there are few."""
    return np.asarray(np.quantile(scores, shares, method="weibull"))


def limits(unseen: Sequence[Floats], each: Floats, shares: Floats, p: Parameters) -> Floats:
    """Scores below which a reading is flagged, for shares of readings to flag.

    The mean of the middle three quantiles of the blocks: one bad day does not make
    the model deaf for a week. Yet no looser than either the whole or the latest block would have
    it: a machine that now works otherwise is not flagged until the week is over.

    Parameters
    ----------
    unseen : sequence of ndarray
        Scores of each block's ordinary readings.
    each : ndarray of float64, shape (blocks, k)
        The quantiles of each block, for k shares.
    shares : ndarray of float64, shape (k,)
    p : Parameters

    Returns
    -------
    ndarray of float64, shape (k,)
    """
    whole = lowest(np.concatenate(unseen), shares)
    kept = np.sort(each, axis=0)[slice(*p.counted_blocks)] if len(each) > 1 else each
    return np.asarray(np.minimum(kept.mean(axis=0), np.maximum(whole, each[-1])) - ROUNDING)


def _figures(
    found: list[Floats], unseen: list[Floats], each: Floats, shares: Floats, p: Parameters
) -> dict[str, Any]:
    """What thresholds from the other blocks flag of each: about `shares` where all are alike."""
    flagged = []
    for i, scores in enumerate(found):
        others = [j for j in range(len(unseen)) if j != i] or [i]
        of_others = limits([unseen[j] for j in others], each[others], shares, p)
        flagged.append((scores[:, None] < of_others).mean(axis=0))
    warned, critical = np.array(flagged).T
    return {
        "held_out_readings": sum(map(len, found)),
        "held_out_flagged": float(warned.mean()),
        "held_out_flagged_most": float(warned.max()),
        "held_out_critical": float(critical.mean()),
    }
