"""Forecasts of one metric: an LSTM beside a linear path, with intervals that hold.

The network's forecast is, for each step ahead, a weighted mean of four simple
forecasts (the last value, two medians, a linear map of the lags fitted to
absolute error) plus a correction. The LSTM, and a plain layer beside it, read the
window and set both the weights and the correction; they start from the linear path
and are kept only as far as they improve on it in a later part of the history.

What a call returns is the network's forecast and the simple ones, each weighted by
how well it has done from the origins of the last few hundred steps, which are
replayed in one batch: a network that the machine has outgrown loses its say within
hours. The errors of the same replay make the interval.

Training imports TensorFlow, in `fit` alone. The result is an ONNX graph from raw
window to forecast, so that forecasting needs numpy and onnxruntime only.

All functions take a series on a regular grid: neighbours one interval apart,
a long gap a single NaN.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pyml.engine import Run, session
from pyml.errors import BadArgument, NotEnoughData
from pyml.messages import onnx

Floats = NDArray[np.float64]
Bounds = tuple[float | None, float | None]
Weights = list[NDArray[np.float32]]

UNITS = 24
# Beside the LSTM one plain layer reads the same window: it learns within few epochs
# what follows from a certain level, and the LSTM the rest.
DENSE = 64
# The LSTM reads the window in patches, as in Nie et al., "A Time Series is Worth 64
# Words" (ICLR 2023): a fifth of the steps, so a fifth of the time, at no loss.
PATCH = 5
MEDIANS = (3, 6, 12, 25)
EXPERTS = 4  # last value, median of the last 12, linear path, median of the window
FITTED = 2  # the experts from here on were fitted, as the network is
CLIP = 6.0  # standard deviations: a level outside those seen says no more than "outside"
BATCH = 256
CHUNK = 8  # batches between two calls of pulse: some 20 ms
RATE, WARM_RATE, REFIT_RATE = 5e-3, 2e-3, 1e-3
PATIENCE, WARM_PATIENCE = 7, 4
WARM_EPOCHS = 5  # at most: tomorrow's training goes on from there; 4 to 8 err the same
HALVE_AFTER = 3
# Weights are averaged over epochs (Polyak and Juditsky, 1992): the same accuracy in fewer.
AVERAGE = 0.7
REFIT_EPOCHS, WARM_REFIT_EPOCHS = 5, 3
# Of reweighting, from where the linear path before ended: that which chose the penalty, that
# of the windows to fit on, that of all. The error moves by less than a thousandth in more.
ROUNDS = 4
MAX_WINDOWS = 12_000  # more of them cost time and hardly help: a week of minutes has 10,019
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Usual changes that a value may lie from the last one, to count for the linear path as what it
# is: beyond, the sums of all other windows would be lost in its rounding. Recordings have 60.
REACH = 100.0
# Shares of the windows that choose when to stop, and that are held out.
STOP_SHARE = HELD_SHARE = 0.1
MIN_FIT, MIN_PART = 12, 8
# Steps back from which origins are replayed, one of each EVERY: neighbours say nearly the
# same. An even number, so that with a machine that works by turns, they are in step with
# the forecast. Fewer than MIN_REPLAY unseen ones say too little.
REPLAY, EVERY, MIN_REPLAY = 400, 4, 30
# A forecast with a tenth more error over the replay has exp(-SHARPNESS / 10) of the say.
SHARPNESS = 20.0
# The network begins with so many times the say of a simple forecast, of which it is made.
PRIOR = 3.0
# Parts of the replay, each weighed by the errors of the others: what had most say because it
# erred least there says less of the errors to come.
FOLDS = 4
# An error grows less than in proportion with the spread of its window, since after a jump
# that stays wide for long.
SPREADING = 0.75
LEVELS = (0.8, 0.9, 0.95)
JUDGED = 250  # held-out windows that the figures are measured on, evenly spread
FLOOR = 0.2  # of a usual change over the horizon: the spread of a window that stands still
MAX_INFLATION = 3.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model.

    Attributes
    ----------
    graph : onnx.ModelProto
        Input ``window`` float64 (n, sequence_length); outputs ``forecast`` float64
        (n, horizon), the network's, and ``simple`` float64 (n, horizon, 4), the
        simple forecasts beside it. All in the metric's own unit.
    meta : dict
        JSON-able: what `forecast` needs.
    figures : dict
        JSON-able: held-out errors and coverage. ``accepted`` is false where the
        previous model does better on what neither has seen.
    """

    graph: onnx.ModelProto
    meta: dict[str, Any]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Previous:
    """The model in force: its graph, its meta and how to run it."""

    graph: onnx.ModelProto
    meta: dict[str, Any]
    run: Run


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes next.

    Attributes
    ----------
    times : ndarray of float64, shape (h,)
        Seconds; they continue the device's own grid.
    predicted, lower, upper : ndarray of float64, shape (h,)
        In the metric's unit; ``lower <= predicted <= upper``.
    last_time : float
        Time of the last reading, which the forecast continues.
    replayed : int
        Past forecasts whose errors made the interval.
    """

    times: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    last_time: float
    replayed: int


# ---- windows -----------------------------------------------------------------


def origins(values: Floats, length: int, horizon: int) -> NDArray[np.int64]:
    """Places of the last value of every window that no gap crosses.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
    length, horizon : int
        Steps behind, the origin included, and ahead.

    Returns
    -------
    ndarray of int64, shape (k,)
        Increasing.
    """
    if len(values) < length + horizon:
        return np.empty(0, np.int64)
    gaps = np.append(0, np.cumsum(np.isnan(values)))
    whole = gaps[length + horizon :] == gaps[: len(gaps) - length - horizon]
    return np.flatnonzero(whole) + length - 1


def _behind(values: Floats, at: NDArray[np.int64], length: int) -> Floats:
    return sliding_window_view(values, length)[at - length + 1]  # (k, length)


def _ahead(values: Floats, at: NDArray[np.int64], horizon: int) -> Floats:
    return sliding_window_view(values, horizon)[at + 1]  # (k, horizon)


def _spans(length: int) -> list[int]:
    return [*(k for k in MEDIANS if k < length), length]


@dataclass(frozen=True, slots=True)
class _Windows:
    """What lies around some origins.

    Attributes
    ----------
    at : ndarray of int64, shape (n,)
        Their places; increasing.
    behind : ndarray of float64, shape (n, length)
    medians : ndarray of float64, shape (n, spans)
        Of the last few values behind, for each of `_spans`.
    ahead : ndarray of float64, shape (n, horizon)
    """

    at: NDArray[np.int64]
    behind: Floats
    medians: Floats
    ahead: Floats

    @classmethod
    def cut(cls, values: Floats, at: NDArray[np.int64], length: int, horizon: int) -> _Windows:
        behind = _behind(values, at, length)
        medians = [np.median(behind[:, -k:], axis=1) for k in _spans(length)]
        return cls(at, behind, np.stack(medians, axis=1), _ahead(values, at, horizon))

    def of(self, at: NDArray[np.int64]) -> _Windows:
        """Those of some of the origins."""
        rows = np.searchsorted(self.at, at)
        return _Windows(at, self.behind[rows], self.medians[rows], self.ahead[rows])

    def from_last(self, values: Floats, unit: float) -> Floats:
        """Some of the values, as the change from the last one behind."""
        return (values - self.behind[:, -1:]) / unit


def _split(at: NDArray[np.int64], horizon: int) -> list[NDArray[np.int64]]:
    """Origins to fit on, to stop by and to hold out, in this order of time.

    No target of one part lies in the next; only in a history too short for that
    may the targets of the first two overlap.
    """
    held = max(MIN_PART, int(HELD_SHARE * len(at)))
    stop = max(MIN_PART, int(STOP_SHARE * len(at)))
    held_at, rest = at[-held:], at[:-held]
    rest = rest[rest <= held_at[0] - horizon]
    stop_at, fit_at = rest[-stop:], rest[:-stop]
    apart = fit_at[fit_at <= stop_at[:1].sum() - horizon]
    if len(apart) >= 4 * MIN_FIT:
        fit_at = apart
    return [fit_at, stop_at, held_at]


def _thin(at: NDArray[np.int64]) -> NDArray[np.int64]:
    return at[:: -(-len(at) // MAX_WINDOWS)]


# ---- the linear path ---------------------------------------------------------


def _least_absolute(
    inputs: Floats, targets: Floats, ridge: float, start: Floats | None, pulse: Callable[[], None]
) -> Floats:
    """Linear map of least absolute error, by iteratively reweighted least squares.

    Parameters
    ----------
    inputs : ndarray of float64, shape (n, f)
        The last column is 1.
    targets : ndarray of float64, shape (n, h)
    ridge : float
        Penalty a window on the squared weights; the intercept bears next to none.
    start : ndarray of float64, shape (f, h), optional
        Weights of much the same windows.

    Returns
    -------
    ndarray of float64, shape (f, h)
    """
    penalty = np.full(inputs.shape[1], ridge * len(inputs))
    penalty[-1] = 1e-9 * len(inputs)
    penalty = np.diag(penalty)
    # Sums in single precision take half the time; the small systems are solved in double.
    rows, targets = inputs.T.astype(np.float32, order="C"), targets.T.astype(np.float32, order="C")

    if start is None:
        weights = np.linalg.solve(rows @ rows.T + penalty, rows @ targets.T)
    else:
        weights = start.copy()
    for _ in range(ROUNDS):
        pulse()
        error = np.abs(targets - weights.T.astype(np.float32) @ rows)
        floor = np.maximum(0.1 * np.median(error, axis=1, keepdims=True), 1e-3)
        importance = 1 / np.sqrt(np.maximum(error, floor))
        for j, root in enumerate(importance):
            pulse()
            weighed = rows * root
            # Of a product with itself BLAS makes one half only.
            square = weighed @ weighed.T
            weights[:, j] = np.linalg.solve(square + penalty, weighed @ (targets[j] * root))
    return weights


@dataclass(frozen=True, slots=True)
class _Scale:
    """Location, spread and size of a usual change over the horizon, of the fit part."""

    centre: float
    spread: float
    change: float

    @classmethod
    def of(cls, windows: _Windows) -> _Scale:
        latest = windows.behind[:, -1]
        change = float(np.abs(windows.from_last(windows.ahead, 1)).mean())
        return cls(float(np.median(latest)), float(latest.std()) or 1.0, change or 1.0)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the network reads, made from raw windows; mirrored by `_graph`.

    Attributes
    ----------
    patches : ndarray of float32, shape (n, steps, 3 * patch)
    experts : ndarray of float32, shape (n, horizon, EXPERTS)
        Simple forecasts, as changes from the last value.
    """

    patches: NDArray[np.float32]
    experts: NDArray[np.float32]


def _patch(length: int) -> int:
    return PATCH if length >= 2 * PATCH else 1


def _linear_inputs(windows: _Windows, scale: _Scale) -> Floats:
    read = np.hstack([windows.behind[:, :-1], windows.medians])
    return np.hstack([windows.from_last(read, scale.change), np.ones((len(read), 1))])


def _inputs(windows: _Windows, scale: _Scale, linear: Floats) -> _Inputs:
    n, length = windows.behind.shape
    change = windows.from_last(windows.behind, scale.change)
    level = np.clip((windows.behind - scale.centre) / scale.spread, -CLIP, CLIP)
    step = np.arcsinh(np.diff(change, axis=1, prepend=change[:, :1]))
    patch = _patch(length)
    used = length - length % patch
    patches = np.concatenate(
        [c[:, -used:].reshape(n, -1, patch) for c in (level, np.arcsinh(change), step)], axis=2
    )
    straight = _linear_inputs(windows, scale) @ linear
    medians = windows.from_last(windows.medians, scale.change)
    near, far = medians[:, _spans(length).index(min(12, length)), None], medians[:, -1:]
    experts = np.stack(np.broadcast_arrays(0.0, near, straight, far), axis=2)
    return _Inputs(patches.astype(np.float32), experts.astype(np.float32))


# ---- the network -------------------------------------------------------------


@contextmanager
def _apart() -> Iterator[None]:
    """Import libraries whose symbols neither meet the server's nor are met by them.

    TensorFlow holds an LLVM and, left to itself, shows it to the whole process; so does
    PostgreSQL's JIT with another. Whichever came second would call into the first, and crash.
    """
    # TensorFlow keeps its symbols to itself where it has no such module.
    sys.modules["tensorflow.python.pywrap_dlopen_global_flags"] = None  # type: ignore[assignment]
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)  # its own come before the process'
    try:
        yield
    finally:
        sys.setdlopenflags(flags)


@lru_cache(maxsize=1)
def _keras() -> tuple[Any, Any]:
    """TensorFlow and Keras, deterministic and on one thread.

    One thread, because the sums of several come in any order, because a backend
    should take one core, and because on networks this small it is no slower.
    """
    with _apart():
        import keras
        import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return tf, keras


class _Network:
    """One compiled Keras model, whose weights are reset for each device."""

    def __init__(self, length: int, horizon: int) -> None:
        tf, keras = _keras()
        patch = _patch(length)
        steps = length // patch
        layers = keras.layers
        patches = keras.Input((steps, 3 * patch))
        experts = keras.Input((horizon, EXPERTS))
        read = layers.LSTM(UNITS, unroll=True)(patches)
        dense = layers.Dense(DENSE, activation="relu")(layers.Flatten()(patches))
        state = layers.Concatenate()([read, dense])
        gate = layers.Reshape((horizon, EXPERTS))(layers.Dense(horizon * EXPERTS)(state))
        mean = keras.ops.sum(layers.Softmax()(gate) * experts, axis=-1)
        change = mean + layers.Dense(horizon)(state)
        self._tf = tf
        self.model = keras.Model([patches, experts], change)
        self._optimizer = keras.optimizers.Adam(RATE)
        self._optimizer.build(self.model.trainable_variables)
        f32 = tf.float32
        shapes = [
            tf.TensorSpec((None, steps, 3 * patch), f32),
            tf.TensorSpec((None, horizon, EXPERTS), f32),
        ]
        self._shapes = [v.shape for v in self.model.trainable_variables]

        def train(patches: Any, experts: Any, targets: Any, batches: Any) -> None:
            variables = self.model.trainable_variables
            for b in tf.range(tf.shape(batches)[0]):
                rows = batches[b]
                with tf.GradientTape() as tape:
                    out = self.model(
                        [tf.gather(patches, rows), tf.gather(experts, rows)], training=True
                    )
                    loss = tf.reduce_mean(tf.abs(tf.gather(targets, rows) - out))
                gradients = tape.gradient(loss, variables)
                self._optimizer.apply_gradients(zip(gradients, variables, strict=True))

        self._train = tf.function(
            train,
            input_signature=[
                *shapes,
                tf.TensorSpec((None, horizon), f32),
                tf.TensorSpec((None, None), tf.int32),
            ],
        )
        self._call = tf.function(lambda p, e: self.model([p, e]), input_signature=shapes)

        sizes = [int(np.prod(shape)) for shape in self._shapes]

        def load(flat: Any) -> None:
            parts = zip(self.model.trainable_variables, tf.split(flat, sizes), strict=True)
            for variable, value in parts:
                variable.assign(tf.reshape(value, variable.shape))

        # In one call of one array: each of its own takes as long as half a batch.
        self._load = tf.function(load, input_signature=[tf.TensorSpec((sum(sizes),), f32)])
        # Traced and run here, where the first run optimizes the graph: a training is then
        # in short steps from its start.
        nothing = [tf.zeros((1, *spec.shape[1:])) for spec in shapes]
        self._train(*nothing, tf.zeros((1, horizon)), tf.zeros((0, 1), tf.int32))
        self._call(*nothing)
        self.load([np.zeros(shape, np.float32) for shape in self._shapes])

    def fresh(self, seed: int) -> Weights:
        """Initial weights, with which the network gives nearly the linear path."""
        _, keras = _keras()
        horizon = self._shapes[-1][0]
        lean = np.tile(np.array([0, 0, 2.5, 0], np.float32), horizon)
        kernel, recurrent, bias, dense, dense_bias, *heads = self._shapes
        gate, gate_bias, correct, correct_bias = heads
        glorot = keras.initializers.GlorotUniform(seed=seed)
        orthogonal = keras.initializers.Orthogonal(seed=seed)
        forget = np.zeros(bias, np.float32)
        forget[UNITS : 2 * UNITS] = 1  # as Keras does: remember at first
        return [
            np.array(glorot(kernel)),
            np.array(orthogonal(recurrent)),
            forget,
            np.array(glorot(dense)),
            np.zeros(dense_bias, np.float32),
            np.zeros(gate, np.float32),
            lean.reshape(gate_bias),
            np.zeros(correct, np.float32),
            np.zeros(correct_bias, np.float32),
        ]

    def reset(self, weights: Weights) -> None:
        """Start from these weights, with no memory of another device."""
        self.load(weights)
        for variable in self._optimizer.variables:
            variable.assign(self._tf.zeros_like(variable))

    def load(self, weights: Weights) -> None:
        self._load(self._tf.constant(np.concatenate([w.ravel() for w in weights])))

    def weights(self) -> Weights:
        return [v.numpy() for v in self.model.trainable_variables]

    def train(self, part: _Part, rows: NDArray[np.int32], rate: float) -> None:
        """One step for each row of `rows`, shape (batches, size)."""
        self._optimizer.learning_rate.assign(rate)
        self._train(part.patches, part.experts, part.targets, self._tf.constant(rows))

    def tensor(self, array: NDArray[Any]) -> Any:
        return self._tf.constant(array, self._tf.float32)

    def __call__(self, part: _Part) -> Floats:
        return np.asarray(self._call(part.patches, part.experts).numpy(), np.float64)


@dataclass(frozen=True, slots=True)
class _Part:
    """Windows of one part of the history, as the network takes them."""

    network: _Network
    patches: Any
    experts: Any
    targets: Any

    @classmethod
    def of(cls, network: _Network, windows: _Windows, scale: _Scale, linear: Floats) -> _Part:
        inputs = _inputs(windows, scale, linear)
        targets = windows.from_last(windows.ahead, scale.change)
        arrays = (inputs.patches, inputs.experts, targets)
        return cls(network, *(network.tensor(array) for array in arrays))

    def error(self) -> float:
        """Mean absolute error, in units of a usual change."""
        return float(np.abs(self.targets.numpy() - self.network(self)).mean())

    def epoch(self, rate: float, rng: np.random.Generator, pulse: Callable[[], None]) -> None:
        """Each window once, in random order."""
        n = len(self.targets)
        size = min(BATCH, n)
        rows = rng.permutation(n)[: n - n % size].reshape(-1, size).astype(np.int32)
        for first in range(0, len(rows), CHUNK):
            pulse()
            self.network.train(self, rows[first : first + CHUNK], rate)


# One for each architecture that this process met: tracing takes longer than training.
_network = lru_cache(maxsize=8)(_Network)


def prepare(sequence_length: int, horizon: int) -> None:
    """Load TensorFlow and compile the network of a shape; `fit` then starts at once.

    Takes seconds the first time in a process, and cannot be interrupted; what it
    has made stays.
    """
    _network(sequence_length, horizon)


# ---- the graph ---------------------------------------------------------------


def _reorder(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keras' gates i, f, c, o along the last axis into ONNX' i, o, f, c."""
    i, f, c, o = np.split(matrix, 4, axis=-1)
    return np.concatenate([i, o, f, c], axis=-1)


def _disorder(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    i, o, f, c = np.split(matrix, 4, axis=-1)
    return np.concatenate([i, f, c, o], axis=-1)


def _graph(weights: Weights, scale: _Scale, linear: Floats, length: int) -> onnx.ModelProto:
    """The whole path from raw window to forecast.

    Differences are taken in float64: a counter of bytes leaves float32 too few
    digits. ONNX LSTM: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    horizon = linear.shape[1]
    patch = _patch(length)
    used = length - length % patch
    kernel, recurrent, bias, dense, dense_bias, gate, gate_bias, correct, correct_bias = weights
    zeros = np.zeros_like(bias)
    constants: dict[str, NDArray[Any]] = {
        "centre": np.array(scale.centre),
        "spread": np.array(scale.spread),
        "change": np.array(scale.change),
        "linear": linear.astype(np.float32),
        "lstm_kernel": _reorder(kernel).T[None],  # (1, 4 units, inputs)
        "lstm_recurrent": _reorder(recurrent).T[None],
        "lstm_bias": np.concatenate([_reorder(bias), zeros])[None],
        "dense": dense,
        "dense_bias": dense_bias,
        "gate": gate,
        "gate_bias": gate_bias,
        "correct": correct,
        "correct_bias": correct_bias,
        "low": np.array(-CLIP, np.float32),
        "high": np.array(CLIP, np.float32),
        "nothing": np.array(0, np.float32),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "axis_0": np.array([0]),
        "patch_shape": np.array([0, used // patch, patch]),
        "flat_shape": np.array([0, 3 * used]),
        "gate_shape": np.array([0, horizon, EXPERTS]),
        "row_shape": np.array([0, horizon, 1]),
        "one_shape": np.array([0, 1, 1]),
        "flat_row": np.ones((1, horizon, 1), np.float32),
        "zero": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
    }
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        outputs = ["", output] if op == "LSTM" else [output]  # only its last state
        nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return output

    def columns(name: str, first: int, stop: int, output: str) -> str:
        constants[f"{output}_first"], constants[f"{output}_stop"] = (
            np.array([first]),
            np.array([stop]),
        )
        return add("Slice", [name, f"{output}_first", f"{output}_stop", "axis_1"], output)

    columns("window", length - 1, length, "last")  # (n, 1)
    add("Sub", ["window", "last"], "moved")
    add("Div", ["moved", "change"], "moved_scaled")
    add("Cast", ["moved_scaled"], "delta", to=TensorProto.FLOAT)  # (n, length)
    add("Sub", ["window", "centre"], "centred")
    add("Div", ["centred", "spread"], "standard")
    add("Cast", ["standard"], "standard32", to=TensorProto.FLOAT)
    add("Clip", ["standard32", "low", "high"], "level")

    # The k-th largest of the last m values, by TopK: medians of a few spans.
    medians = {}
    for span in sorted({*_spans(length), min(12, length)}):
        half = span // 2
        constants[f"count_{span}"] = np.array([half + 1])
        columns("delta", length - span, length, f"latest_{span}")
        nodes.append(
            helper.make_node(
                "TopK",
                [f"latest_{span}", f"count_{span}"],
                [f"largest_{span}", f"places_{span}"],
                axis=1,
            )
        )
        columns(f"largest_{span}", half - 1 + span % 2, half + 1, f"around_{span}")
        medians[span] = add("ReduceMean", [f"around_{span}", "axis_1"], f"median_{span}")
    columns("delta", 0, length - 1, "lags")
    add("Mul", [medians[length], "zero"], "nil")  # (n, 1)
    add("Add", ["nil", "one"], "unit")
    add("Concat", ["lags", *(medians[k] for k in _spans(length)), "unit"], "regressors", axis=1)
    add("MatMul", ["regressors", "linear"], "straight")  # (n, horizon)

    def spread_out(name: str) -> str:
        add("Reshape", [name, "one_shape"], f"{name}_cell")
        return add("Mul", [f"{name}_cell", "flat_row"], f"{name}_row")  # (n, horizon, 1)

    add("Reshape", ["straight", "row_shape"], "straight_row")
    near, far = medians[min(12, length)], medians[length]
    rows = [spread_out("nil"), spread_out(near), "straight_row"]
    rows.append(f"{near}_row" if far == near else spread_out(far))
    add("Concat", rows, "experts", axis=2)  # (n, horizon, EXPERTS)

    add("Asinh", ["delta"], "bent")
    columns("delta", 1, length, "later")
    add("Sub", ["later", "lags"], "steps")
    add("Concat", ["nil", "steps"], "step", axis=1)
    add("Asinh", ["step"], "bent_step")
    for name in ("level", "bent", "bent_step"):
        columns(name, length - used, length, f"{name}_used")
        add("Reshape", [f"{name}_used", "patch_shape"], f"{name}_patches")
    add("Concat", ["level_patches", "bent_patches", "bent_step_patches"], "batch_first", axis=2)
    add("Transpose", ["batch_first"], "patches", perm=[1, 0, 2])  # (steps, n, 3 patch)
    add(
        "LSTM",
        ["patches", "lstm_kernel", "lstm_recurrent", "lstm_bias"],
        "states",
        hidden_size=UNITS,
    )
    add("Squeeze", ["states", "axis_0"], "read")  # (n, UNITS)
    add("Reshape", ["batch_first", "flat_shape"], "flat")
    add("MatMul", ["flat", "dense"], "dense_raw")
    add("Add", ["dense_raw", "dense_bias"], "dense_sum")
    add("Clip", ["dense_sum", "nothing"], "dense_state")
    add("Concat", ["read", "dense_state"], "state", axis=1)  # (n, UNITS + DENSE)
    add("MatMul", ["state", "gate"], "gate_raw")
    add("Add", ["gate_raw", "gate_bias"], "gate_flat")
    add("Reshape", ["gate_flat", "gate_shape"], "gate_logits")
    add("Softmax", ["gate_logits"], "shares", axis=2)
    add("Mul", ["shares", "experts"], "weighted")
    add("ReduceSum", ["weighted", "axis_2"], "blend", keepdims=0)  # (n, horizon)
    add("MatMul", ["state", "correct"], "correction_raw")
    add("Add", ["correction_raw", "correct_bias"], "correction")
    add("Add", ["blend", "correction"], "delta_ahead")
    add("Cast", ["delta_ahead"], "delta_ahead64", to=TensorProto.DOUBLE)
    add("Mul", ["delta_ahead64", "change"], "moved_ahead")
    add("Add", ["moved_ahead", "last"], "forecast")
    add("Cast", ["experts"], "experts64", to=TensorProto.DOUBLE)
    add("Mul", ["experts64", "change"], "moved_simply")
    add("Reshape", ["last", "one_shape"], "last_cell")
    add("Add", ["moved_simply", "last_cell"], "simple")

    graph = helper.make_graph(
        nodes,
        "pyml_lstm",
        [helper.make_tensor_value_info("window", TensorProto.DOUBLE, ["n", length])],
        [
            helper.make_tensor_value_info("forecast", TensorProto.DOUBLE, ["n", horizon]),
            helper.make_tensor_value_info("simple", TensorProto.DOUBLE, ["n", horizon, EXPERTS]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    # Opset 18 and IR 9 are read by every onnxruntime since 1.14.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="pyml"
    )
    checker.check_model(model)
    return model


def _weights_of(graph: onnx.ModelProto) -> Weights:
    """The Keras weights that `_graph` wrote."""
    from onnx import numpy_helper

    stored = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    return [
        _disorder(stored["lstm_kernel"][0].T),
        _disorder(stored["lstm_recurrent"][0].T),
        _disorder(stored["lstm_bias"][0, : 4 * UNITS]),
        stored["dense"],
        stored["dense_bias"],
        stored["gate"],
        stored["gate_bias"],
        stored["correct"],
        stored["correct_bias"],
    ]


# ---- replay ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Replay:
    """What each forecast said at past origins, and what came.

    Attributes
    ----------
    said : ndarray of float64, shape (n, horizon, EXPERTS + 1)
        The simple forecasts, the network's last.
    errors : ndarray of float64, shape (n, horizon, EXPERTS + 1)
        Absolute; of a fitted forecast where it was trained, times ``inflation``.
    truth : ndarray of float64, shape (n, horizon)
    spread : ndarray of float64, shape (n, 1)
        Size of a usual error, from what the window did.
    seen : ndarray of bool, shape (n,)
        Whether training has seen what came.
    """

    said: Floats
    errors: Floats
    truth: Floats
    spread: Floats
    seen: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> _Replay:
        return _Replay(
            self.said[rows], self.errors[rows], self.truth[rows], self.spread[rows], self.seen[rows]
        )


def _before(known: NDArray[np.int64], at: int, horizon: int) -> NDArray[np.int64]:
    """Which of the origins `known` a forecast from `at` replays: what came is known there."""
    first, stop = np.searchsorted(known, [at - horizon - REPLAY, at - horizon], side="right")
    rows: NDArray[np.int64] = first + np.flatnonzero(
        (at - horizon - known[first:stop]) % EVERY == 0
    )
    return rows


def _said(run: Run, behind: Floats) -> Floats:
    network, simple = run({"window": behind})
    return np.concatenate([simple, network[:, :, None]], axis=2)


def _spread(meta: dict[str, Any], behind: Floats) -> Floats:
    spread: Floats = (behind.std(axis=1) + behind[:, -12:].std(axis=1)) / 2 + meta["floor"]
    return spread[:, None]


def _replay(
    meta: dict[str, Any], said: Floats, behind: Floats, truth: Floats, seen: NDArray[np.bool_]
) -> _Replay:
    errors = np.abs(said - truth[:, :, None])
    errors[:, :, FITTED:][seen] *= meta["inflation"]
    return _Replay(said, errors, truth, _spread(meta, behind), seen)


def _recent(replay: _Replay) -> _Replay:
    """The origins that training has not seen, or all where those are few."""
    unseen = np.flatnonzero(~replay.seen)
    return replay.of(unseen) if len(unseen) >= MIN_REPLAY else replay


def _quantiles(scores: Floats, levels: Sequence[float]) -> Floats:
    """Conformal quantiles of each column, shape (q, horizon).

    Of n independent scores it is the ceil((n + 1) level)-th smallest (Angelopoulos and
    Bates, "A Gentle Introduction to Conformal Prediction", 2021), the largest where n is
    too small for the level. Errors h steps ahead overlap with those of the h - 1 origins
    before, which at worst leaves one in h of them and multiplies that 1 by as much; on
    recordings the truth lies in the middle.
    """
    n, horizon = scores.shape
    alike = np.maximum(np.arange(1, horizon + 1) / EVERY, 1)
    count = n + (1 + alike) / 2
    places = np.ceil(np.multiply.outer(levels, count)).astype(np.int64)
    smallest: Floats = np.sort(scores, axis=0)[np.minimum(places, n) - 1, np.arange(horizon)]
    return smallest


def _conclude(
    meta: dict[str, Any], past: _Replay, now: Floats, spread: Floats, levels: Sequence[float]
) -> tuple[Floats, Floats]:
    """Weigh the forecasts by their recent errors; the weighted one's errors are the interval.

    Weights fall exponentially with the mean error, half of it that of the step itself
    and half that of all steps, as in Vovk, "Aggregating Strategies" (1990). The interval
    is split conformal for each step ahead, on errors in units of the spread of the window
    they came from, each of a forecast weighed without it and its neighbours.

    Parameters
    ----------
    past : _Replay
    now : ndarray of float64, shape (horizon, EXPERTS + 1)
        What the forecasts say.
    spread : ndarray of float64, shape (1,)
        Of the window at hand.
    levels : sequence of float, length q

    Returns
    -------
    predicted : ndarray of float64, shape (horizon,)
    half : ndarray of float64, shape (q, horizon)
    """
    if not len(past.truth):
        return now[:, -1], np.full((len(levels), len(now)), 2 * spread[0])
    n = len(past.truth)
    first = np.arange(FOLDS) * n // FOLDS if n >= MIN_REPLAY else np.zeros(1, np.int64)
    part = np.add.reduceat(past.errors, first, axis=0)  # (folds, horizon, EXPERTS + 1)
    total = part.sum(axis=0)
    share = _shares(total)
    others = _shares(total - part) if len(first) > 1 else share[None]
    own = np.repeat(others, np.diff(first, append=n), axis=0)
    error = np.abs(past.truth - (past.said * own).sum(axis=2))
    error[past.seen] *= meta["inflation"]
    half = _quantiles(error / past.spread**SPREADING, levels) * spread**SPREADING
    return (now * share).sum(axis=1), half


def _shares(errors: Floats) -> Floats:
    """What each forecast has to say at each step, by sums of errors (..., horizon, EXPERTS + 1)."""
    mean = (errors + errors.mean(axis=-2, keepdims=True)) / 2
    least = np.maximum(mean.min(axis=-1, keepdims=True), np.finfo(float).tiny)
    share: Floats = np.exp(-SHARPNESS * (mean / least - 1))
    share[..., -1] *= PRIOR
    share /= share.sum(axis=-1, keepdims=True)
    return share


def backtest(
    meta: dict[str, Any],
    run: Run,
    times: Floats,
    values: Floats,
    at: NDArray[np.int64],
    levels: Sequence[float] = LEVELS,
) -> tuple[Floats, Floats]:
    """Forecast at many origins as `forecast` would have, each from what precedes it.

    Parameters
    ----------
    meta, run
        The model.
    times, values : ndarray of float64, shape (n,)
        A series on the grid.
    at : ndarray of int64, shape (k,)
        Places of the last value of a window; increasing.
    levels : sequence of float, length q

    Returns
    -------
    predicted : ndarray of float64, shape (k, horizon)
    half : ndarray of float64, shape (k, q, horizon)
        Half-widths of the intervals.
    """
    length, horizon = meta["sequence_length"], meta["horizon"]
    known = origins(values, length, horizon)
    known = known[(known > at[0] - horizon - REPLAY) & (known <= at[-1] - horizon)]
    behind = _behind(values, known, length)
    seen = times[known] < meta["seen_until"]
    said = _said(run, behind)
    past = _replay(meta, said, behind, _ahead(values, known, horizon), seen)
    here = _behind(values, at, length)
    now, spread = _said(run, here), _spread(meta, here)
    told = [
        _conclude(meta, _recent(past.of(_before(known, a, horizon))), now[i], spread[i], levels)
        for i, a in enumerate(at)
    ]
    return np.array([p for p, _ in told]), np.array([h for _, h in told])


# ---- training ----------------------------------------------------------------


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds >= 7200 else f"{seconds / 60:.0f} minutes"


def _check(
    values: Floats, at: NDArray[np.int64], length: int, horizon: int, interval: float
) -> None:
    known = values[~np.isnan(values)]
    if len(known) and np.ptp(known) == 0:
        raise NotEnoughData(
            "the field is constant: there is nothing to forecast from",
            detail=f"All {len(known)} readings are {known[0]:g}.",
            hint="Train on a longer history (hours => ...), or forecast another field.",
        )
    least = MIN_FIT + 2 * MIN_PART + horizon - 1
    if len(at) < least:
        needed = (least + length + horizon - 1) * interval
        raise NotEnoughData(
            f"{len(at)} windows of {length} + {horizon} readings without a long gap; "
            f"training needs {least}",
            detail=f"{len(known)} readings, one in {interval:g} s. "
            f"An unbroken {_span(needed)} of readings would do.",
            hint=f"Wait, or widen the history: hours => {max(1, int(np.ceil(needed / 3600)))} "
            "or more, or UPDATE ml_setting to a smaller sequence_length.",
        )


def fit(
    times: Floats,
    values: Floats,
    *,
    interval: float,
    sequence_length: int = 50,
    horizon: int = 12,
    epochs: int = 50,
    seed: int = 0,
    bounds: Bounds = (None, None),
    previous: Previous | None = None,
    pulse: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train on one metric's history.

    The windows are cut by time into a part to fit on, a part that chooses ridge
    penalty and epoch, and a part held out for the figures. Then the same recipe
    goes on over all but the last `REPLAY` windows, which stay unseen so that the
    first intervals rest on honest errors.

    Parameters
    ----------
    times, values : ndarray of float64, shape (n,)
        A series on the grid: seconds, and NaN at a long gap.
    interval : float
        Seconds between neighbours.
    sequence_length, horizon : int
        Values read and values forecast.
    epochs : int
        At most so many passes.
    seed : int
        Same data, same seed: same bytes.
    bounds : pair of float or None
        Range that the field cannot leave, where one is known.
    previous : Previous, optional
        The model in force: training starts from its weights where it has not
        seen what is held out now, and is compared with it.
    pulse : callable
        Called several times a second; may raise to cancel.

    Returns
    -------
    Fitted

    Raises
    ------
    NotEnoughData
        Too few windows without a gap, or a constant series.
    """
    at = origins(values, sequence_length, horizon)
    _check(values, at, sequence_length, horizon, interval)
    fit_at, stop_at, held_at = _split(at, horizon)
    fit_at = _thin(fit_at)
    # What is shipped has seen all but the windows that its first intervals need.
    all_at = _thin(at[at <= at[-min(REPLAY, len(held_at))] - horizon])
    pulse()
    windows = _Windows.cut(values, at, sequence_length, horizon)
    pulse()
    to_fit, to_stop = windows.of(fit_at), windows.of(stop_at)
    scale = _Scale.of(to_fit)
    ridge, linear = _choose_ridge(scale, to_fit, to_stop, pulse)
    linear = _linear(scale, to_fit, ridge, pulse, linear)

    pulse()
    network = _network(sequence_length, horizon)
    pulse()
    stop = _Part.of(network, to_stop, scale, linear)
    pulse()
    start, warm = network.fresh(seed), False
    network.load(start)
    start_error = stop.error()
    if previous is not None and _continues(previous, times[held_at[0]], sequence_length, horizon):
        network.load(_weights_of(previous.graph))
        if stop.error() < start_error:
            start, start_error, warm = network.weights(), stop.error(), True
    rng = np.random.default_rng(seed)
    pulse()
    part = _Part.of(network, to_fit, scale, linear)
    best, best_epoch, epoch = _descend(part, stop, start, start_error, epochs, warm, rng, pulse)

    # What is measured was fitted before the held-out part began; the windows that
    # chose the epoch count as unseen, since they chose little else.
    network.load(best)
    meta: dict[str, Any] = {
        "sequence_length": sequence_length,
        "horizon": horizon,
        "interval": interval,
        "bounds": list(bounds),
        "floor": FLOOR * scale.change,
        "inflation": float(np.clip(stop.error() / max(part.error(), 1e-9), 1, MAX_INFLATION)),
        "seen_until": float(times[fit_at[-1] + horizon]),
    }
    pulse()
    candidate = session(_graph(best, scale, linear, sequence_length))
    pulse()
    figures = {
        "windows": len(at),
        "training_windows": len(fit_at),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "warm": warm,
        **_measured(meta, candidate, previous, times, values, held_at, pulse),
    }

    to_refit = windows.of(all_at)
    linear = _linear(scale, to_refit, ridge, pulse, linear)
    network.reset(best)
    pulse()
    if best_epoch or warm:
        part = _Part.of(network, to_refit, scale, linear)
        most = WARM_REFIT_EPOCHS if warm else REFIT_EPOCHS
        for i in range(min(most, epochs)):
            part.epoch(REFIT_RATE * (1 - i / most), rng, pulse)
    meta["seen_until"] = float(times[all_at[-1] + horizon])
    return Fitted(_graph(network.weights(), scale, linear, sequence_length), meta, figures)


def _linear(
    scale: _Scale,
    windows: _Windows,
    ridge: float,
    pulse: Callable[[], None],
    start: Floats | None = None,
) -> Floats:
    """The linear path of these windows, shape (inputs, horizon)."""
    inputs = np.clip(_linear_inputs(windows, scale), -REACH, REACH)
    targets = np.clip(windows.from_last(windows.ahead, scale.change), -REACH, REACH)
    return _least_absolute(inputs, targets, ridge, start, pulse)


def _choose_ridge(
    scale: _Scale, to_fit: _Windows, to_stop: _Windows, pulse: Callable[[], None]
) -> tuple[float, Floats]:
    """The penalty with the least absolute error on the part that comes next, its linear path."""
    some = to_fit.of(to_fit.at[:: 3 if len(to_fit.at) > 3000 else 1])
    checks = _linear_inputs(to_stop, scale)
    wanted = to_stop.from_last(to_stop.ahead, scale.change)
    paths = [_linear(scale, some, ridge, pulse) for ridge in RIDGES]
    errors = [np.abs(wanted - checks @ linear).mean() for linear in paths]
    best = int(np.argmin(errors))
    return RIDGES[best], paths[best]


def _descend(
    part: _Part,
    stop: _Part,
    start: Weights,
    start_error: float,
    epochs: int,
    warm: bool,
    rng: np.random.Generator,
    pulse: Callable[[], None],
) -> tuple[Weights, int, int]:
    """Train until the error on the later part no longer falls.

    Returns
    -------
    best : list of ndarray
        The averaged weights of the best epoch; `start` if none improves on it.
    best_epoch, epoch : int
        Its number, and how many were run.
    """
    network = part.network
    network.reset(start)
    best, best_error, best_epoch, average = start, start_error, 0, start
    rate, patience = (WARM_RATE, WARM_PATIENCE) if warm else (RATE, PATIENCE)
    most = min(epochs, WARM_EPOCHS) if warm else epochs
    waited = epoch = 0
    while epoch < most and waited < patience:
        epoch += 1
        part.epoch(rate, rng, pulse)
        here = network.weights()
        # A cold start is no place to average with.
        keep = AVERAGE if warm or epoch > 1 else 0.0
        average = [keep * a + np.float32(1 - keep) * h for a, h in zip(average, here, strict=True)]
        network.load(average)
        error = stop.error()
        network.load(here)
        if error < best_error:
            best, best_error, best_epoch, waited = average, error, epoch, 0
        else:
            waited += 1
            if waited % HALVE_AFTER == 0:
                rate /= 2
    return best, best_epoch, epoch


def _continues(previous: Previous, held_from: float, length: int, horizon: int) -> bool:
    """Whether training may start from `previous`: same shape, held-out part new to it."""
    meta = previous.meta
    same = (meta["sequence_length"], meta["horizon"]) == (length, horizon)
    return same and meta["seen_until"] <= held_from


def _measured(
    meta: dict[str, Any],
    run: Run,
    previous: Previous | None,
    times: Floats,
    values: Floats,
    held_at: NDArray[np.int64],
    pulse: Callable[[], None],
) -> dict[str, Any]:
    """Errors and coverage on the held-out windows, beside the naive forecasts' and `previous`'."""
    at = held_at[:: -(-len(held_at) // JUDGED)]
    truth = _ahead(values, at, meta["horizon"])
    pulse()
    predicted, half = backtest(meta, run, times, values, at)
    pulse()
    error = np.abs(truth - predicted)
    mae, naive = float(error.mean()), float(np.abs(truth - values[at][:, None]).mean())
    seasonal = _seasonal_mae(times, values, at, truth, meta["interval"])
    steps = np.abs(np.diff(values[: held_at[0] + 1]))
    usual = float(np.nanmean(steps))
    return {
        "held_out_windows": len(at),
        "mae": mae,
        # Hyndman and Koehler, "Another look at measures of forecast accuracy", 2006.
        "mase": mae / usual if usual else None,
        "naive_mae": naive,
        "seasonal_naive_mae": seasonal,
        "beats_naive": mae < (naive if seasonal is None else min(naive, seasonal)),
        "coverage": {
            str(level): float((error <= half[:, q]).mean()) for q, level in enumerate(LEVELS)
        },
        "interval_width": {
            str(level): float(2 * half[:, q].mean()) for q, level in enumerate(LEVELS)
        },
        **_compared(previous, times, values, at, error),
    }


def _compared(
    previous: Previous | None,
    times: Floats,
    values: Floats,
    at: NDArray[np.int64],
    error: Floats,
) -> dict[str, Any]:
    """The new model's error and that of the one in force, on windows that neither saw."""
    figures: dict[str, Any] = {"accepted": True, "previous_mae": None, "compared_windows": 0}
    if previous is None:
        return figures
    length, horizon = previous.meta["sequence_length"], previous.meta["horizon"]
    unseen = times[at] >= previous.meta["seen_until"]
    unseen &= np.isin(at, origins(values, length, horizon))
    if unseen.sum() < MIN_PART:
        return figures
    steps = min(horizon, error.shape[1])
    predicted, _ = backtest(previous.meta, previous.run, times, values, at[unseen], ())
    before = float(np.abs(_ahead(values, at[unseen], steps) - predicted[:, :steps]).mean())
    now = float(error[unseen, :steps].mean())
    return {
        "accepted": now <= before,
        "previous_mae": before,
        "candidate_mae": now,
        "compared_windows": int(unseen.sum()),
    }


def _seasonal_mae(
    times: Floats, values: Floats, at: NDArray[np.int64], truth: Floats, interval: float
) -> float | None:
    """Error of repeating the value of a day before; None without two days of history."""
    if times[-1] - times[0] < 2 * DAY or interval > DAY:
        return None
    wanted = times[at[:, None] + np.arange(1, truth.shape[1] + 1)] - DAY
    place = np.clip(np.searchsorted(times, wanted - interval / 2), 0, len(times) - 1)
    there = np.abs(times[place] - wanted) <= interval / 2
    errors = np.abs(truth - np.where(there, values[place], np.nan))
    # On the same windows or not at all: another set would be another question.
    return float(np.nanmean(errors)) if np.isfinite(errors).mean() > 0.9 else None


# ---- forecasting -------------------------------------------------------------


def lookback(meta: dict[str, Any]) -> float:
    """Seconds before the last reading that `forecast` wants to see."""
    steps = meta["sequence_length"] + meta["horizon"] + REPLAY
    return float(steps * meta["interval"])


def forecast(
    meta: dict[str, Any],
    run: Run,
    times: Floats,
    values: Floats,
    *,
    horizon: int | None = None,
    level: float = 0.9,
) -> Forecast:
    """What comes after the last reading.

    The interval is split conformal for each step ahead, on the errors that this
    model makes over the last `REPLAY` origins, in units of the spread of each
    window: what holds is how wrong it has been lately, not some days ago.

    Parameters
    ----------
    meta, run
        The model; `run` takes ``{"window": (n, sequence_length)}``.
    times, values : ndarray of float64, shape (n,)
        A series on the model's own interval, `lookback` seconds of it if possible.
    horizon : int, optional
        Steps ahead, at most those that the model was trained for.
    level : float
        Share of the values that the interval shall cover.

    Returns
    -------
    Forecast

    Raises
    ------
    BadArgument
        A horizon or level outside its range.
    NotEnoughData
        Fewer steps than one window.
    """
    most = meta["horizon"]
    steps = most if horizon is None else horizon
    if not 1 <= steps <= most:
        raise BadArgument(
            f"horizon {steps} is outside 1 to {most}, the horizon of this model",
            detail="A model forecasts as far as it was trained for.",
            hint=f"UPDATE ml_setting SET value = '{max(steps, 1)}' "  # noqa: S608 (a hint)
            "WHERE name = 'forecast_horizon'; then SELECT ml_train_lstm(...) again.",
        )
    if not 0.5 <= level <= 0.999:
        raise BadArgument(
            f"level {level:g} is outside 0.5 to 0.999",
            detail="It is the share of the values that the interval shall cover.",
            hint="Use level => 0.9, the default.",
        )
    length, interval = meta["sequence_length"], meta["interval"]
    if len(values) < length or np.isnan(values).all():
        raise NotEnoughData(
            f"{int((~np.isnan(values)).sum())} recent readings; a forecast continues {length}",
            detail=f"One reading in {interval:g} s is expected, "
            f"{_span(lookback(meta))} of them are read.",
            hint="Wait for more readings, or train anew with ml_train_lstm.",
        )
    known = origins(values, length, most)
    known = known[_before(known, len(values) - 1, most)]
    window = values[-length:]
    if np.isnan(window).any():  # a long gap just now: bridged, for want of better
        there = ~np.isnan(window)
        window = np.interp(np.arange(length), np.flatnonzero(there), window[there])
    behind = np.vstack([_behind(values, known, length), window])
    said, spread = _said(run, behind), _spread(meta, window[None])[0]
    seen = times[known] < meta["seen_until"]
    past = _recent(_replay(meta, said[:-1], behind[:-1], _ahead(values, known, most), seen))
    predicted, half = _conclude(meta, past, said[-1], spread, [level])
    low, high = meta["bounds"]
    centre = np.clip(predicted, low, high)[:steps]
    return Forecast(
        times[-1] + interval * np.arange(1, steps + 1),
        centre,
        np.clip(predicted - half[0], low, high)[:steps],
        np.clip(predicted + half[0], low, high)[:steps],
        float(times[-1]),
        len(past.truth),
    )
