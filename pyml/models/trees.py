"""The trees of a forest: their graph, as it is stored; found in order and walked.

numpy walks them from level to level, all readings and trees at once. A day of readings takes
3.3 ms, as long as onnxruntime takes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.errors import unreadable
from pyml.models.wire import FLOAT, Graph, Node, Numbers

Matrix = NDArray[np.float32]
Places = NDArray[np.intp]

MAX_TREES = 1000  # as the settings have it
MAX_NODES = 1_000_000
# Places of the deepest level, most of which are a leaf's over and over; the trainings' trees go
# 8 deep.
MAX_PLACES = 1 << 20
# Readings times trees walked at once: what lies between the steps then stays in the cache.
AT_ONCE = 1 << 14
# Readings that are known again: a day of minutes and more. Beside their bytes each takes so many
# (CPython 3.11: a key's head, a number, an entry).
REMEMBERED = 2048
ENTRY_BYTES = 140


# The attributes of a TreeEnsemble that hold the trees, and the constants beside it.
TREES = {
    "tree_roots": "<i8",
    "nodes_featureids": "<i8",
    "nodes_modes": "|u1",
    "nodes_splits": "<f4",
    "nodes_truenodeids": "<i8",
    "nodes_trueleafs": "<i8",
    "nodes_falsenodeids": "<i8",
    "nodes_falseleafs": "<i8",
    "leaf_targetids": "<i8",
    "leaf_weights": "<f4",
}
CONSTANTS = {"fill": "<f4", "rate": "<f4"}


def graph(numbers: Numbers) -> Graph:
    """From readings to scores: fill, sum the path lengths, -2^(-depth / c).

    Parameters
    ----------
    numbers : mapping of ndarray
        Of `TREES` and `CONSTANTS`; ``fill`` of shape (features,), ``rate`` of (1,).

    Raises
    ------
    UnreadableModel
        They have others.
    """
    for name, kind in (TREES | CONSTANTS).items():
        cells = numbers.get(name)
        if cells is None or cells.dtype.str != kind or cells.ndim != 1:
            raise unreadable(f"no {name}")
    if numbers["rate"].shape != (1,):
        raise unreadable("no rate")
    # One target, the sum over the trees, as it is.
    sums = {"n_targets": 1, "aggregate_function": 1, "post_transform": 0}
    ensemble = {name: numbers[name] for name in TREES} | sums
    return Graph(
        "forest",
        [
            Node("IsNaN", ["features"], ["missing"]),
            Node("Where", ["missing", "fill", "features"], ["filled"]),
            Node("TreeEnsemble", ["filled"], ["depth"], ensemble, "ai.onnx.ml", "forest"),
            Node("Mul", ["depth", "rate"], ["exponent"]),
            Node("Exp", ["exponent"], ["closeness"]),
            Node("Neg", ["closeness"], ["score"]),
        ],
        {name: numbers[name] for name in CONSTANTS},
        {"features": (FLOAT, numbers["fill"].shape)},
        {"score": (FLOAT, (1,))},
        {"": 17, "ai.onnx.ml": 5},
        10,
    )


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees, each level of all of them together.

    A level has twice the places of the one before: whoever is at place i goes to 2 i, or to
    2 i + 1 where the reading is above the split. A leaf goes on to the left.

    Attributes
    ----------
    feature : list of ndarray of int, shape (trees * 2**level,)
    split : list of ndarray of float32, shape (trees * 2**level,)
        A reading goes to the left where its feature is at most ``split``.
    weight : ndarray of float32, shape (trees * 2**levels,)
        Of the leaves.
    """

    feature: list[Places]
    split: list[Matrix]
    weight: Matrix

    @classmethod
    def of(cls, numbers: Numbers) -> "Trees":
        """The trees of a `graph`.

        Refuses what is no set of trees: each node and each leaf that is there has one way
        to it, from a node before it or as a root, so that nothing goes round in a circle
        or is shared; and trees that are too deep.

        Raises
        ------
        UnreadableModel
        """
        arrays = {name: numbers[name] for name in TREES}
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
        if (feature < 0).any() or (feature >= len(numbers["fill"])).any():
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
        leaf = np.arange(nodes, nodes + leaves)
        feature = np.r_[feature, np.zeros(leaves, np.intp)]
        split = np.r_[arrays["nodes_splits"], np.full(leaves, np.inf, np.float32)]
        branch = np.vstack([goal.T, np.stack([leaf, leaf], axis=1)])
        features: list[Places] = []
        splits: list[Matrix] = []
        front = roots
        while front.min() < nodes:
            if 2 * len(front) > MAX_PLACES:
                raise unreadable(f"trees of more than {len(splits)} levels")
            features.append(feature.take(front))
            splits.append(split.take(front))
            front = branch.take(front, axis=0).ravel()
        return cls(features, splits, weights[front - nodes])

    @property
    def count(self) -> int:
        """Trees."""
        return len(self.split[0])

    @property
    def size(self) -> int:
        """Bytes of memory that they take."""
        each: list[NDArray[Any]] = [self.weight, *self.feature, *self.split]
        return sum(part.nbytes for part in each)

    def sums(self, readings: Matrix) -> Matrix:
        """Sum over the trees of the weight of the leaf that each reading ends at.

        Parameters
        ----------
        readings : ndarray of float32, shape (n, F)
            No NaN.

        Returns
        -------
        ndarray of float32, shape (n,)
        """
        found = np.empty(len(readings), np.float32)
        step = max(1, AT_ONCE // self.count)
        space = [np.empty(self.count * min(step, len(readings)), kind) for kind in KINDS]
        for first in range(0, len(readings), step):
            some = slice(first, first + step)
            found[some] = self._walk(readings[some], space)
        return found

    def _walk(self, readings: Matrix, space: Sequence[NDArray[Any]]) -> Matrix:
        shape = self.count, len(readings)
        at, cell, value, split, beyond = (part[: math.prod(shape)].reshape(shape) for part in space)
        values, start = readings.ravel(), np.arange(len(readings)) * readings.shape[1]
        np.greater(readings.T[self.feature[0]], self.split[0][:, None], out=beyond)
        np.add(2 * np.arange(self.count)[:, None], beyond, out=at)
        for feature, limit in zip(self.feature[1:], self.split[1:], strict=True):
            # No index is outside: to look whether it is would cost as much as the rest.
            feature.take(at, out=cell, mode="clip")
            np.add(cell, start, out=cell)
            values.take(cell, out=value, mode="clip")
            limit.take(at, out=split, mode="clip")
            np.greater(value, split, out=beyond)
            np.add(at, at, out=at)
            np.add(at, beyond, out=at)
        self.weight.take(at, out=value, mode="clip")
        return np.asarray(value.sum(axis=0))


# Where a walk of some readings stands: place, cell of the readings, its value, the split, and
# whether the one is beyond the other.
KINDS: tuple[Any, ...] = (np.intp, np.intp, np.float32, np.float32, np.bool_)


class Remembering:
    """Trees that know readings again.

    Who asks for a device's last day asks again soon, and all but a few of its readings are the
    same, to the last bit: to know them takes an eighth of walking them.

    Attributes
    ----------
    size : int
        Bytes of memory that they take at most.
    """

    def __init__(self, trees: Trees, columns: int) -> None:
        self._trees = trees
        self._known: dict[bytes, float] = {}
        self.size = trees.size + REMEMBERED * (4 * columns + ENTRY_BYTES)

    def sums(self, readings: Matrix, *, again: bool) -> Matrix:
        """`Trees.sums`; those of readings that may come `again` are remembered."""
        if not again or len(readings) > REMEMBERED:
            return self._trees.sums(readings)
        cells, width = readings.tobytes(), 4 * readings.shape[1]
        rows = [cells[i : i + width] for i in range(0, len(cells), width)]
        found = np.array([self._known.get(row, np.nan) for row in rows], np.float32)
        new = np.flatnonzero(np.isnan(found))
        if new.size:
            found[new] = self._trees.sums(readings[new])
            if len(self._known) + new.size > REMEMBERED:
                self._known.clear()
            self._known.update((rows[i], float(found[i])) for i in new)
        return found
