"""A matrix -> isolation trees, as scikit-learn grows them, and as they are stored.

scikit-learn is imported by `grow` alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors.features import Floats, Matrix
from pyml.models.wire import Array

# Trees grown between two pulses: about 0.05 s.
STEP = 50


def load() -> None:
    """Load what trainings use of scikit-learn; `grow` then starts at once."""
    import sklearn.covariance
    import sklearn.tree  # noqa: F401


def medians(matrix: Matrix) -> Matrix:
    """What stands in for a missing feature: its median, 0 where it never was there."""
    fill = np.zeros(matrix.shape[1], np.float32)
    for j, column in enumerate(matrix.T):
        known = column[~np.isnan(column)]
        if len(known):
            fill[j] = np.median(known)
    return fill


def grow(
    matrix: Matrix,
    views: NDArray[np.bool_],
    seen: Sequence[NDArray[np.intp]],
    rows: int,
    n_estimators: int,
    seed: int,
    pulse: Pulse,
) -> list[Any]:
    """Trees as scikit-learn's IsolationForest grows them, each on rows and columns that it sees.

    Where each tree sees all of both they are that library's of the same seed, to the last bit.
    Grown one by one: IsolationForest makes three random generators, a clone and a weight
    for every row of `matrix` for each tree, which takes three times as long as the trees;
    and it shuffles all rows to pick some, which takes a third as long.

    Parameters
    ----------
    matrix : ndarray of float32, shape (n, f)
    views : ndarray of bool, shape (v, f)
        Columns that trees see; the trees of a group take the views in turn.
    seen : sequence of ndarray of int
        The rows that the trees of each group may see; tree i is of group ``i % len(seen)``.
    rows : int
        How many of them each tree is grown on.
    n_estimators, seed : int
    pulse : callable
        Called between trees; what it raises ends the work.
    """
    from sklearn import config_context
    from sklearn.tree import ExtraTreeRegressor

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
            mine = seen[grown % len(seen)]
            some = picker.choice(len(mine), rows, replace=False, shuffle=False)
            picked = mine[np.sort(some)]
            random.seed(splits)
            # No tree splits by what is the same everywhere.
            view = views[grown // len(seen) % len(views)]
            shown = np.where(view, matrix[picked], np.float32(0))
            trees.append(tree.fit(shown, noise[picked], check_input=False).tree_)
    return trees


def average_path(count: NDArray[Any]) -> Floats:
    """Mean path length of an unsuccessful search in a tree of `count` rows (Liu et al., eq. 1)."""
    n = np.maximum(count, 2).astype(np.float64)
    path = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(count <= 1, 0.0, np.where(count == 2, 1.0, path))


def path_lengths(trees: Sequence[Any]) -> list[Floats]:
    """Path length that a reading which ends at a node has, for each node of each tree.

    Rounded so that float32 sums over all trees are exact, in any order: a runtime adds them
    in one that depends on the size of the batch and on its threads; a reading's score must
    not. The rounding moves a score by 1e-6.
    """
    paths = [tree.compute_node_depths() - 1 + average_path(tree.n_node_samples) for tree in trees]
    longest = max(float(path.max()) for path in paths)
    spare = 24 - int(np.ceil(np.log2(max(2.0, len(trees) * longest))))
    return [np.rint(path * 2.0**spare) / 2.0**spare for path in paths]


def rate(trees: NDArray[Any] | int, rows: int) -> Floats:
    """Logarithm of a score for each step of the paths in a number of trees grown on `rows`."""
    shortest = np.asarray(trees) * float(average_path(np.array(rows)))
    return -np.log(2.0) / shortest if rows > 1 else np.zeros_like(shortest)


def numbers_of(
    trees: Sequence[Any],
    paths: Sequence[Floats],
    rows: int,
    fill: Matrix,
) -> dict[str, Array]:
    """What `pyml.models.trees.graph` takes of trees that were grown on `rows` each.

    Parameters
    ----------
    trees, paths
        Of `grow` and `path_lengths`.
    rows : int
    fill : ndarray of float32, shape (f,)
        Of `medians`.
    """
    step = rate(len(trees), rows).astype(np.float32).reshape(1)
    return _tree_attributes(trees, paths) | {"fill": fill, "rate": step}


def _tree_parts(tree: Any, path: Floats) -> tuple[Any, ...]:
    """Children, features, thresholds and paths of a tree's nodes; leaves have no child."""
    if tree.node_count > 1:
        return tree.children_left, tree.children_right, tree.feature, tree.threshold, path
    # A tree has a node at least: one of a leaf alone has that leaf on either side of it.
    return [1, -1, -1], [2, -1, -1], [0, -1, -1], [0.0, 0.0, 0.0], [path[0]] * 3


def _tree_attributes(trees: Sequence[Any], paths: Sequence[Floats]) -> dict[str, NDArray[Any]]:
    """Trees as the attributes of one TreeEnsemble: its nodes, and its leaves apart from them."""
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
        "nodes_featureids": feature[node],
        "nodes_modes": np.zeros(len(true), np.uint8),  # all of them x <= split
        "nodes_splits": single[node],
        "nodes_truenodeids": number[true],
        "nodes_trueleafs": leaf[true].astype(np.int64),
        "nodes_falsenodeids": number[false],
        "nodes_falseleafs": leaf[false].astype(np.int64),
        "leaf_targetids": np.zeros(int(leaf.sum()), np.int64),
        "leaf_weights": weight[leaf].astype(np.float32),
    }
