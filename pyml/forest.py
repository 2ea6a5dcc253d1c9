"""Isolation Forest over a device's metrics: fit, score, severity, reasons.

A reading is described by its metrics and by how much each has moved over the
last few readings; the forest gives it a score; two thresholds, fixed when the
model is trained, give the score a meaning. scikit-learn grows the trees and
is imported by `fit` alone: what is stored is one ONNX graph, and scoring needs
nothing but numpy and whatever runs that graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.engine import Run, session
from pyml.errors import NotEnoughData
from pyml.messages import onnx

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

# All that a graph made here uses; what loads a stored graph allows these only.
# ai.onnx:    IsNaN, Where, Mul, Exp, Neg
# ai.onnx.ml: TreeEnsemble
OPSETS = {"": 17, "ai.onnx.ml": 5}

# Trailing windows, in readings at the device's usual interval.
WINDOWS = (5, 15, 60)
# Rows that each tree sees: Liu et al. 2008, section 4; scikit-learn's default too.
SUBSAMPLE = 256
# A metric reported in a smaller share of the readings than this is left out.
LEAST_REPORTED = 0.05
# Fixed point for the trailing sums: whole numbers add up to the same sum from
# wherever the window starts; floating ones do not.
UNIT = 4096
FARTHEST = 1024.0
# "critical" is what contamination's tenth part of the training readings reached.
CRITICAL_SHARE = 0.1
# Float32 results of two processors differ by less; readings all alike must not be
# flagged for it.
ROUNDING = 1e-6
# Share of the readings, the earlier ones, behind the held-out figures.
FITTED_SHARE = 0.8
# Trees grown between two pulses: about 0.05 s.
STEP = 50

NORMAL, WARNING, CRITICAL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained forest.

    Attributes
    ----------
    graph : onnx.ModelProto
        Input ``features`` float32 (n, F), NaN where missing; output ``score``
        float32 (n, 1).
    meta : dict
        JSON-able; all that `features`, `score` and `explain` need beside the graph.
    figures : dict
        JSON-able; what the user may want to know about the training.
    """

    graph: onnx.ModelProto
    meta: dict[str, Any]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about readings.

    Attributes
    ----------
    anomaly_score : ndarray of float64, shape (n,)
        As scikit-learn's ``score_samples``: negative, lower is more anomalous.
    severity : ndarray of int8, shape (n,)
        `NORMAL`, `WARNING` or `CRITICAL`.
    """

    anomaly_score: Floats
    severity: NDArray[np.int8]


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
        "windows": list(WINDOWS),
        "lookback": max(WINDOWS) * interval,
        "scaling": [_scaling(column[np.isfinite(column)]) for column in values.T],
        "usual": [_usual(column[np.isfinite(column)], contamination) for column in values.T],
    }
    matrix = features(meta, times, values)[rows]
    pulse()
    shares = [contamination, CRITICAL_SHARE * contamination]
    # What the same recipe, fitted on the earlier part, would have flagged of the later one.
    cut = int(FITTED_SHARE * len(matrix))
    _, run, thresholds = _calibrated(matrix[:cut], shares, n_estimators, seed, pulse)
    held = run({"features": matrix[cut:]})[0][:, 0]
    graph, _, (warning, critical) = _calibrated(matrix, shares, n_estimators, seed, pulse)
    meta |= {"warning": warning, "critical": critical}
    figures = {
        "features": matrix.shape[1],
        "held_out_readings": len(held),
        "held_out_flagged": float((held < thresholds[0]).mean()),
        "held_out_critical": float((held < thresholds[1]).mean()),
    }
    return Fitted(graph, meta, figures)


def _calibrated(
    matrix: Matrix,
    shares: Sequence[float],
    n_estimators: int,
    seed: int,
    pulse: Callable[[], None],
) -> tuple[onnx.ModelProto, Run, list[float]]:
    """A forest's graph, what runs it, and the scores that `shares` of its rows stay below."""
    fill = _medians(matrix)
    trees = _grow(np.where(np.isnan(matrix), fill, matrix), n_estimators, seed, pulse)
    graph = _graph(trees, min(SUBSAMPLE, len(matrix)), fill)
    pulse()
    run = session(graph)
    scores = run({"features": matrix})[0][:, 0].astype(np.float64)
    return graph, run, (np.quantile(scores, shares) - ROUNDING).tolist()


def features(meta: dict[str, Any], times: Floats, values: Floats) -> Matrix:
    """Describe each reading by its metrics and their recent spread.

    Causal: a row depends on readings up to its own, no older than
    ``meta["lookback"]`` seconds, and is the same to the last bit whatever else
    `times` and `values` hold.

    Parameters
    ----------
    meta : dict
        Of the model.
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    values : ndarray of float64, shape (n, m)
        One column for each of ``meta["names"]``; NaN where missing.

    Returns
    -------
    ndarray of float32, shape (n, m * (1 + windows))
        NaN where there is nothing to say.
    """
    if values.shape[1:] != (len(meta["names"]),):
        raise ValueError(f"expected the columns {meta['names']}, got {values.shape}")
    centre, scale = np.array(meta["scaling"]).T
    with np.errstate(invalid="ignore"):
        z = np.clip((values - centre) / scale, -FARTHEST, FARTHEST)
    columns = [z]
    for window in meta["windows"]:
        columns.append(_spread(z, _starts(times, window, meta["interval"]), window))
    return np.concatenate(columns, axis=1).astype(np.float32)


def score(meta: dict[str, Any], run: Run, times: Floats, values: Floats) -> Scores:
    """Score readings and judge them by the thresholds fixed at training.

    Parameters
    ----------
    meta, run
        The model and what runs its graph.
    times : ndarray of float64, shape (n,)
    values : ndarray of float64, shape (n, m)
        As for `features`.

    Returns
    -------
    Scores
    """
    if not len(times):
        return Scores(np.empty(0), np.empty(0, np.int8))
    found = run({"features": features(meta, times, values)})[0][:, 0].astype(np.float64)
    severity = (found < meta["warning"]).astype(np.int8) + (found < meta["critical"])
    return Scores(found, severity.astype(np.int8))


def explain(
    meta: dict[str, Any], run: Run, times: Floats, values: Floats, rows: NDArray[np.intp]
) -> list[list[dict[str, Any]]]:
    """Say which metrics made readings anomalous.

    A metric's contribution is how much nearer to normal the score would be had
    that metric been missing.

    Parameters
    ----------
    meta, run, times, values
        As for `score`, with the readings before the asked ones in place.
    rows : ndarray of int, shape (r,)
        Which readings to explain.

    Returns
    -------
    list of list of dict
        For each asked reading its metrics, the most important first:
        ``metric, value, usual_low, usual_high, contribution``. Metrics that
        contribute nothing are left out, unless none does.
    """
    names = meta["names"]
    m = len(names)
    if not len(rows):
        return []
    matrix = features(meta, times, values)[rows]  # (r, F)
    variants = np.repeat(matrix[None], m + 1, axis=0)  # the reading, and it without metric j
    for j in range(m):
        variants[j + 1, :, j::m] = np.nan
    found = run({"features": variants.reshape(-1, matrix.shape[1])})[0].reshape(m + 1, -1)
    gains = (found[1:] - found[0]).T.astype(np.float64)  # (r, m)
    reasons = []
    for row, gain in zip(rows, gains, strict=True):
        order = np.argsort(-gain, kind="stable")
        kept = [j for j in order if gain[j] > 0] or [order[0]]
        reasons.append(
            [
                {
                    "metric": names[j],
                    "value": float(values[row, j]) if np.isfinite(values[row, j]) else None,
                    "usual_low": meta["usual"][j][0],
                    "usual_high": meta["usual"][j][1],
                    "contribution": round(float(gain[j]), 4),
                }
                for j in kept
            ]
        )
    return reasons


def _scaling(column: Floats) -> tuple[float, float]:
    """Median and a robust scale of one metric; 1 for a constant."""
    low, centre, high = np.quantile(column, [0.25, 0.5, 0.75])
    scale = (high - low) / 1.349 or float(np.std(column)) or 1.0
    return float(centre), float(scale)


def _usual(column: Floats, contamination: float) -> tuple[float, float]:
    """The range that holds all but `contamination` of one metric's values."""
    low, high = np.quantile(column, [contamination / 2, 1 - contamination / 2])
    return float(low), float(high)


def _starts(times: Floats, window: int, interval: float) -> NDArray[np.intp]:
    """Index of the first reading of the trailing `window` at each reading."""
    return np.searchsorted(times, times - (window - 0.5) * interval)


def _spread(z: Floats, starts: NDArray[np.intp], window: int) -> Floats:
    """Standard deviation over each trailing window; NaN where under half of it is there."""
    known = ~np.isnan(z)
    fixed = np.rint(np.where(known, z, 0.0) * UNIT).astype(np.int64)
    ends = np.arange(1, len(z) + 1)

    def trailing(cells: NDArray[Any]) -> NDArray[np.int64]:
        total = np.zeros((len(z) + 1, z.shape[1]), np.int64)
        np.cumsum(cells, axis=0, out=total[1:])
        return total[ends] - total[starts]

    count = trailing(known)
    enough = count >= max(2, window / 2)
    n = np.maximum(count, 1)
    variance = (trailing(fixed * fixed) - trailing(fixed).astype(np.float64) ** 2 / n) / n
    return np.where(enough, np.sqrt(np.maximum(variance, 0.0)) / UNIT, np.nan)


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


def _grow(matrix: Matrix, n_estimators: int, seed: int, pulse: Callable[[], None]) -> list[Any]:
    """The trees of scikit-learn's IsolationForest of the same seed, to the last bit.

    Grown one by one on the rows that each sees: IsolationForest makes three random
    generators, a clone and a weight for every row of `matrix` for each tree, which
    takes three times as long as the trees.
    """
    from sklearn import config_context
    from sklearn.tree import ExtraTreeRegressor
    from sklearn.utils.random import sample_without_replacement

    rows = min(SUBSAMPLE, len(matrix))
    top = np.iinfo(np.int32).max
    random = np.random.RandomState(seed)
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
            random.seed(own)
            picked = np.sort(sample_without_replacement(len(matrix), rows, random_state=random))
            random.seed(splits)
            trees.append(tree.fit(matrix[picked], noise[picked], check_input=False).tree_)
    return trees


def _average_path(count: NDArray[Any]) -> Floats:
    """Mean path length of an unsuccessful search in a tree of `count` rows (Liu et al., eq. 1)."""
    n = np.maximum(count, 2).astype(np.float64)
    path = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(count <= 1, 0.0, np.where(count == 2, 1.0, path))


def _tree_parts(tree: Any) -> tuple[Any, ...]:
    """Children, features, thresholds and rows of a tree's nodes; leaves have no child."""
    if tree.node_count > 1:
        return (
            *(tree.children_left, tree.children_right),
            *(tree.feature, tree.threshold, tree.n_node_samples),
        )
    # A tree has a node at least: one of a leaf alone has that leaf on either side of it.
    rows = tree.n_node_samples[0]
    return [1, -1, -1], [2, -1, -1], [0, -1, -1], [0.0, 0.0, 0.0], [rows, rows, rows]


def _tree_attributes(trees: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Trees as the attributes of one TreeEnsemble: its nodes, and its leaves apart from them."""
    parts = [_tree_parts(tree) for tree in trees]
    left, right, feature, split, rows = map(np.concatenate, zip(*parts, strict=True))
    size = [len(part[0]) for part in parts]
    root = np.cumsum([0, *size[:-1]])
    leaf = left < 0
    left, right = (side + np.repeat(root, size) for side in (left, right))
    # x <= split for a float32 x, with the largest float32 that is not above split.
    single = split.astype(np.float32)
    single = np.where(single > split, np.nextafter(single, np.float32(-np.inf)), single)
    depth = np.zeros(len(left))
    depth[root] = [-float(tree.node_count == 1) for tree in trees]
    front = root
    while (front := front[~leaf[front]]).size:
        below = np.concatenate([left[front], right[front]])
        depth[below] = np.tile(depth[front], 2) + 1
        front = below
    weight = depth + _average_path(rows)
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
        "leaf_targetids": np.zeros(leaf.sum(), np.int64),
        "leaf_weights": _summable(weight[leaf], len(trees)).astype(np.float32),
    }


def _summable(weight: Floats, terms: int) -> Floats:
    """Weights rounded so that float32 sums of `terms` of them are exact, in any order.

    A runtime adds the trees in an order that depends on the size of the batch and
    on its threads; a reading's score must not. The rounding moves a score by 1e-6.
    """
    spare = 24 - int(np.ceil(np.log2(max(2.0, terms * weight.max()))))
    return np.rint(weight * 2.0**spare) / 2.0**spare


def _graph(trees: Sequence[Any], rows: int, fill: Matrix) -> onnx.ModelProto:
    """Trees grown on `rows` each as a graph: fill, sum the path lengths, -2^(-depth / c)."""
    from onnx import TensorProto, helper, numpy_helper

    ensemble = onnx.NodeProto(op_type="TreeEnsemble", domain="ai.onnx.ml", name="forest")
    ensemble.input.append("filled")
    ensemble.output.append("depth")
    # Written field by field: helper.make_node looks at each of the many elements in Python.
    for name, cells in _tree_attributes(trees).items():
        attribute = ensemble.attribute.add(name=name)
        if name in ("nodes_modes", "nodes_splits", "leaf_weights"):
            attribute.type = onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(numpy_helper.from_array(cells, name))
        else:
            attribute.type = onnx.AttributeProto.INTS
            attribute.ints.extend(cells.tolist())
    ensemble.attribute.append(helper.make_attribute("n_targets", 1))
    ensemble.attribute.append(helper.make_attribute("aggregate_function", 1))  # the sum
    ensemble.attribute.append(helper.make_attribute("post_transform", 0))  # none
    shortest = len(trees) * float(_average_path(np.array(rows)))
    rate = -np.log(2.0) / shortest if shortest else 0.0
    constants = {"fill": fill, "rate": np.array([rate], np.float32)}
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "fill", "features"], ["filled"]),
        ensemble,
        helper.make_node("Mul", ["depth", "rate"], ["exponent"]),
        helper.make_node("Exp", ["exponent"], ["closeness"]),
        helper.make_node("Neg", ["closeness"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "forest",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(fill)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(cells, name) for name, cells in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="pyml")
