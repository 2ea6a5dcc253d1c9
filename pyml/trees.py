"""The trees of a forest: found in order, and walked.

numpy walks them from level to level, all readings and trees at once. A day of readings takes
5 ms, 3.3 to 3.8 where only low sums are wanted, and onnxruntime 3; but a session of that takes
as long to make as a thousand readings take to walk, of which a scan has a handful, and it takes
40 ms to load.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.errors import unreadable

Matrix = NDArray[np.float32]
Places = NDArray[np.intp]

MAX_TREES = 1000  # as the settings have it
MAX_NODES = 1_000_000
# A walk takes a step for each level of the deepest tree; the trainings' trees go 8 deep.
MAX_DEPTH = 64
# Readings times trees walked at once: what lies between the steps then stays in the cache.
AT_ONCE = 1 << 14
# Shares of the trees after which to look which readings are seen to end beyond what is wanted:
# before the first hardly one is, after the last hardly one more.
LOOKS = (0.6, 0.7)


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees of which each node is followed by its other side's.

    The roots come first, then the two branches of each node side by side, so that a step
    goes to ``branch``, or one further. A leaf leads to itself.

    Attributes
    ----------
    count : int
        Trees.
    levels : int
        Of the deepest.
    least : float32
        Least weight of a leaf.
    feature, branch : ndarray of int, shape (nodes and leaves,)
    split, weight : ndarray of float32, shape (nodes and leaves,)
        A reading goes to the first branch where its feature is at most ``split``.
    """

    count: int
    levels: int
    least: np.float32
    feature: Places
    branch: Places
    split: Matrix
    weight: Matrix

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Trees":
        """The trees of the attributes of an ONNX TreeEnsemble, by name.

        Refuses what is no set of trees: each node and each leaf that is there has one way
        to it, from a node before it or as a root, so that nothing goes round in a circle
        or is shared; and trees that are too deep.

        Raises
        ------
        UnreadableModel
        """
        roots, feature, weights = (
            arrays[name] for name in ("tree_roots", "nodes_featureids", "leaf_weights")
        )
        nodes, leaves = len(feature), len(weights)
        size = {"tree": len(roots), "nodes": nodes, "leaf": leaves}
        if any(cells.shape != (size[name.split("_")[0]],) for name, cells in arrays.items()):
            raise unreadable("trees whose parts differ in length")
        if not 0 < len(roots) <= MAX_TREES or max(nodes, leaves) > MAX_NODES:
            raise unreadable(f"{len(roots)} trees of {nodes} nodes and {leaves} leaves")
        if arrays["nodes_modes"].any() or not np.isfinite(arrays["nodes_splits"]).all():
            raise unreadable("trees with nodes of another kind")
        if arrays["leaf_targetids"].any() or not np.isfinite(weights).all():
            raise unreadable("trees with other weights")
        if (feature < 0).any():
            raise unreadable("a tree on a feature that is not there")
        child = np.stack([arrays["nodes_truenodeids"], arrays["nodes_falsenodeids"]])  # (2, nodes)
        ends = np.stack([arrays["nodes_trueleafs"], arrays["nodes_falseleafs"]])
        if ((ends | 1) != 1).any():
            raise unreadable("trees with nodes of another kind")
        inner = ends == 0
        if (
            (roots < 0).any()
            or (roots >= nodes).any()
            or (child < 0).any()
            or (child >= np.where(inner, nodes, leaves)).any()
            or (inner & (child <= np.arange(nodes))).any()
        ):
            raise unreadable("a tree whose branches lead outside it")
        goal = child + nodes * ends  # leaves are numbered after the nodes
        ways = np.bincount(np.r_[roots, goal.ravel()], minlength=nodes + leaves)
        if (ways[:nodes] != 1).any() or (ways > 1).any():
            raise unreadable("trees that share a branch")
        true, false = goal
        front, levels = roots, 0
        while front.size:
            levels += 1
            if levels > MAX_DEPTH:
                raise unreadable(f"a tree of more than {MAX_DEPTH} levels")
            front = np.concatenate([true.take(front), false.take(front)])
            front = front.compress(front < nodes)
        total = len(roots) + 2 * nodes
        branches = np.arange(len(roots), total)
        place = np.zeros(nodes + leaves, np.intp)
        place[roots] = np.arange(len(roots))
        place[goal.T.ravel()] = branches
        used = ways[nodes:] == 1
        at, leaf = place[:nodes], place[nodes:][used]
        made = cls(
            len(roots),
            levels,
            weights[used].min(),
            np.zeros(total, np.intp),
            np.arange(total),
            np.full(total, np.inf, np.float32),
            np.zeros(total, np.float32),
        )
        made.feature[at], made.branch[at] = feature, branches[::2]
        made.split[at], made.weight[leaf] = arrays["nodes_splits"], weights[used]
        return made

    @property
    def size(self) -> int:
        """Bytes of memory that they take."""
        return sum(part.nbytes for part in (self.feature, self.branch, self.split, self.weight))

    def sums(self, readings: Matrix, enough: float = np.inf) -> Matrix:
        """Sum over the trees of the weight of the leaf that each reading ends at.

        Parameters
        ----------
        readings : ndarray of float32, shape (n, F)
            No NaN.
        enough : float
            A sum that is larger is not told exactly, but as something from here to there.

        Returns
        -------
        ndarray of float32, shape (n,)
        """
        if enough == np.inf or len(readings) * self.count <= AT_ONCE:
            return self._sums(readings, slice(self.count))
        found = np.full(len(readings), self.count * self.least)
        left, stops = np.arange(len(readings)), [int(share * self.count) for share in LOOKS]
        for first, stop in itertools.pairwise([0, *stops, self.count]):
            more = self._sums(readings[left], slice(first, stop))
            found[left] += more - (stop - first) * self.least
            left = left[~(found[left] > enough)]
        return found

    def _sums(self, readings: Matrix, trees: slice) -> Matrix:
        roots = np.arange(self.count)[trees]
        found = np.zeros(len(readings), np.float32)
        if not roots.size:
            return found
        step = max(1, min(len(readings), AT_ONCE // roots.size))
        space = _Space.of(roots.size, step)
        for first in range(0, len(readings), step):
            some = readings[first : first + step]
            if len(some) < step:
                space = _Space.of(roots.size, len(some))
            self._walk(some, roots, space)
            self.weight.take(space.at, out=space.value, mode="clip")
            space.value.sum(axis=0, out=found[first : first + step])
        return found

    def _walk(self, readings: Matrix, roots: Places, space: "_Space") -> None:
        """Leave in ``space.at`` the leaves that readings end at."""
        at, cell, value, split, beyond = (
            space.at, space.cell, space.value, space.split, space.beyond,
        )  # fmt: skip
        values, row = readings.ravel(), np.arange(len(readings)) * readings.shape[1]
        np.greater(readings.T[self.feature[roots]], self.split[roots, None], out=beyond)
        np.add(self.branch[roots, None], beyond, out=at)
        for _ in range(1, self.levels):
            # No index is outside: to look whether it is would cost as much as the rest.
            self.feature.take(at, out=cell, mode="clip")
            np.add(cell, row, out=cell)
            values.take(cell, out=value, mode="clip")
            self.split.take(at, out=split, mode="clip")
            np.greater(value, split, out=beyond)
            self.branch.take(at, out=cell, mode="clip")
            np.add(cell, beyond, out=at)


@dataclass(frozen=True, slots=True)
class _Space:
    """Where a walk of some readings stands, shape (trees, readings): made once for all steps."""

    at: Places
    cell: Places
    value: Matrix
    split: Matrix
    beyond: NDArray[np.bool_]

    @classmethod
    def of(cls, trees: int, readings: int) -> "_Space":
        kinds = (np.intp, np.intp, np.float32, np.float32, np.bool_)
        return cls(*(np.empty((trees, readings), kind) for kind in kinds))
