"""Forecasts of one metric: an LSTM beside a linear path, with intervals that hold.

The forecast for each step ahead is a weighted mean of four simple forecasts (the
last value, two medians, a linear map of the lags fitted to absolute error) plus a
correction. The LSTM reads the window and sets both the weights and the
correction; it starts from the linear path and is kept only as far as it improves
on it in a later part of the history, so that a poor network costs nothing.

Training imports TensorFlow, in `fit` alone. The result is an ONNX graph from raw
window to forecast, so that forecasting needs numpy and onnxruntime only.

All functions take a series on a regular grid: neighbours one interval apart,
a long gap a single NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pyml.errors import BadArgument, NotEnoughData

Floats = NDArray[np.float64]
Run = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]
Bounds = tuple[float | None, float | None]

# The operators of the graph, for whoever decides what a stored graph may hold.
# fmt: off
OPERATORS = frozenset((
    "Add", "Asinh", "Cast", "Clip", "Concat", "Div", "Gather", "LSTM", "MatMul", "Mul",
    "ReduceMean", "ReduceSum", "Reshape", "Softmax", "Squeeze", "Sub", "TopK", "Transpose",
))
# fmt: on

UNITS = 24
# The LSTM reads the window in patches, as in Nie et al., "A Time Series is Worth 64
# Words" (ICLR 2023): a fifth of the steps, so a fifth of the time, at no loss.
PATCH = 5
MEDIANS = (3, 6, 12, 25)
EXPERTS = 4  # last value, median of the last 12, linear path, median of the window
CLIP = 6.0  # standard deviations: a level outside those seen says no more than "outside"
BATCH = 256
CHUNK = 8  # batches between two calls of pulse: some 20 ms
RATE = 2e-3
PATIENCE = 9
HALVE_AFTER = 3
REFIT_EPOCHS = 5
MAX_WINDOWS = 12_000  # more of them cost time and hardly help: a week of minutes has 10,019
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Shares of the windows that choose when to stop, and that are held out.
STOP_SHARE = HELD_SHARE = 0.1
MIN_FIT, MIN_PART = 12, 8
# Origins replayed for the intervals; fewer than MIN_REPLAY unseen ones say too little.
REPLAY, MIN_REPLAY = 400, 60
LEVELS = (0.8, 0.9, 0.95)
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model.

    Attributes
    ----------
    graph : onnx.ModelProto
        Input ``window`` float64 (n, sequence_length), output ``forecast`` float64
        (n, horizon), both in the metric's own unit.
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


def _spans(length: int) -> list[int]:
    return [*(k for k in MEDIANS if k < length), length]


def _medians(change: Floats, length: int) -> Floats:
    return np.stack([np.median(change[:, -k:], axis=1) for k in _spans(length)], axis=1)


def _linear_inputs(change: Floats, length: int) -> Floats:
    one = np.ones((len(change), 1))
    return np.hstack([change[:, :-1], _medians(change, length), one])


def _least_absolute(
    inputs: Floats, targets: Floats, ridge: float, rounds: int, pulse: Callable[[], None]
) -> Floats:
    """Linear map of least absolute error, by iteratively reweighted least squares.

    Parameters
    ----------
    inputs : ndarray of float64, shape (n, f)
        The last column is 1.
    targets : ndarray of float64, shape (n, h)
    ridge : float
        Penalty a window on the squared weights; the intercept bears next to none.
    rounds : int

    Returns
    -------
    ndarray of float64, shape (f, h)
    """
    penalty = np.full(inputs.shape[1], ridge * len(inputs))
    penalty[-1] = 1e-9 * len(inputs)
    penalty = np.diag(penalty)
    weights = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
    for _ in range(rounds):
        error = np.abs(targets - inputs @ weights)
        floor = np.maximum(0.1 * np.median(error, axis=0), 1e-3)
        importance = 1 / np.maximum(error, floor)
        for j in range(targets.shape[1]):
            pulse()
            weighted = inputs.T * importance[:, j]
            weights[:, j] = np.linalg.solve(weighted @ inputs + penalty, weighted @ targets[:, j])
    return weights


@dataclass(frozen=True, slots=True)
class _Scale:
    """Location, spread and size of a usual change over the horizon, of the fit part."""

    centre: float
    spread: float
    change: float

    @classmethod
    def of(cls, behind: Floats, ahead: Floats) -> _Scale:
        latest = behind[:, -1]
        change = float(np.abs(ahead - latest[:, None]).mean())
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


def _inputs(behind: Floats, scale: _Scale, linear: Floats) -> _Inputs:
    n, length = behind.shape
    change = (behind - behind[:, -1:]) / scale.change
    level = np.clip((behind - scale.centre) / scale.spread, -CLIP, CLIP)
    step = np.arcsinh(np.diff(change, axis=1, prepend=change[:, :1]))
    patch = _patch(length)
    used = length - length % patch
    patches = np.concatenate(
        [c[:, -used:].reshape(n, -1, patch) for c in (level, np.arcsinh(change), step)], axis=2
    )
    straight = _linear_inputs(change, length) @ linear
    near = np.median(change[:, -12:], axis=1)[:, None]
    far = np.median(change, axis=1)[:, None]
    experts = np.stack(np.broadcast_arrays(0.0, near, straight, far), axis=2)
    return _Inputs(patches.astype(np.float32), experts.astype(np.float32))


# ---- the network -------------------------------------------------------------


@lru_cache(maxsize=1)
def _keras() -> tuple[Any, Any]:
    """TensorFlow and Keras, deterministic and on one thread.

    One thread, because the sums of several come in any order, because a backend
    should take one core, and because on networks this small it is no slower.
    """
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
        state = layers.LSTM(UNITS, unroll=True)(patches)
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
        # Traced here, not at the first call: a training is then in steps from its start.
        for traced in (self._train, self._call):
            traced.get_concrete_function()

    def fresh(self, seed: int) -> list[NDArray[np.float32]]:
        """Initial weights, with which the network gives nearly the linear path."""
        _, keras = _keras()
        horizon = self._shapes[-1][0]
        lean = np.tile(np.array([0, 0, 2.5, 0], np.float32), horizon)
        kernel, recurrent, bias, gate, gate_bias, correct, correct_bias = self._shapes
        glorot = keras.initializers.GlorotUniform(seed=seed)
        orthogonal = keras.initializers.Orthogonal(seed=seed)
        forget = np.zeros(bias, np.float32)
        forget[UNITS : 2 * UNITS] = 1  # as Keras does: remember at first
        return [
            np.array(glorot(kernel)),
            np.array(orthogonal(recurrent)),
            forget,
            np.zeros(gate, np.float32),
            lean.reshape(gate_bias),
            np.zeros(correct, np.float32),
            np.zeros(correct_bias, np.float32),
        ]

    def reset(self, weights: Sequence[NDArray[np.float32]]) -> None:
        """Start from these weights, with no memory of another device."""
        self.load(weights)
        for variable in self._optimizer.variables:
            variable.assign(self._tf.zeros_like(variable))

    def load(self, weights: Sequence[NDArray[np.float32]]) -> None:
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)

    def weights(self) -> list[NDArray[np.float32]]:
        return [v.numpy() for v in self.model.trainable_variables]

    def tensors(self, inputs: _Inputs) -> tuple[Any, Any]:
        return self._tf.constant(inputs.patches), self._tf.constant(inputs.experts)

    def epoch(
        self,
        tensors: tuple[Any, Any],
        targets: Any,
        rate: float,
        rng: np.random.Generator,
        pulse: Callable[[], None],
    ) -> None:
        """Each window once, in random order."""
        self._optimizer.learning_rate.assign(rate)
        n = len(targets)
        size = min(BATCH, n)
        rows = rng.permutation(n)[: n - n % size].reshape(-1, size).astype(np.int32)
        for first in range(0, len(rows), CHUNK):
            pulse()
            self._train(*tensors, targets, self._tf.constant(rows[first : first + CHUNK]))

    def __call__(self, tensors: tuple[Any, Any]) -> Floats:
        return np.asarray(self._call(*tensors).numpy(), np.float64)


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


def _graph(
    weights: Sequence[NDArray[np.float32]], scale: _Scale, linear: Floats, length: int
) -> onnx.ModelProto:
    """The whole path from raw window to forecast.

    Differences are taken in float64: a counter of bytes leaves float32 too few
    digits. ONNX LSTM: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    horizon = linear.shape[1]
    patch = _patch(length)
    used = length - length % patch
    kernel, recurrent, bias, gate, gate_bias, correct, correct_bias = weights
    zeros = np.zeros_like(bias)
    constants: dict[str, NDArray[Any]] = {
        "centre": np.array(scale.centre),
        "spread": np.array(scale.spread),
        "change": np.array(scale.change),
        "linear": linear.astype(np.float32),
        "lstm_kernel": _reorder(kernel).T[None],  # (1, 4 units, inputs)
        "lstm_recurrent": _reorder(recurrent).T[None],
        "lstm_bias": np.concatenate([_reorder(bias), zeros])[None],
        "gate": gate,
        "gate_bias": gate_bias,
        "correct": correct,
        "correct_bias": correct_bias,
        "low": np.array(-CLIP, np.float32),
        "high": np.array(CLIP, np.float32),
        "last_place": np.array([length - 1]),
        "lag_places": np.arange(length - 1),
        "previous_places": np.maximum(np.arange(length) - 1, 0),
        "used_places": np.arange(length - used, length),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "axis_0": np.array([0]),
        "patch_shape": np.array([0, used // patch, patch]),
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

    add("Gather", ["window", "last_place"], "last", axis=1)  # (n, 1)
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
        middle = [half] if span % 2 else [half - 1, half]
        constants[f"span_{span}"] = np.arange(length - span, length)
        constants[f"count_{span}"] = np.array([half + 1])
        constants[f"middle_{span}"] = np.array(middle)
        add("Gather", ["delta", f"span_{span}"], f"latest_{span}", axis=1)
        nodes.append(
            helper.make_node(
                "TopK",
                [f"latest_{span}", f"count_{span}"],
                [f"largest_{span}", f"places_{span}"],
                axis=1,
            )
        )
        add("Gather", [f"largest_{span}", f"middle_{span}"], f"around_{span}", axis=1)
        medians[span] = add("ReduceMean", [f"around_{span}", "axis_1"], f"median_{span}")
    add("Gather", ["delta", "lag_places"], "lags", axis=1)
    add("Mul", [medians[length], "zero"], "nil")  # (n, 1)
    add("Add", ["nil", "one"], "unit")
    add("Concat", ["lags", *(medians[k] for k in _spans(length)), "unit"], "regressors", axis=1)
    add("MatMul", ["regressors", "linear"], "straight")  # (n, horizon)

    def spread_out(name: str) -> str:
        add("Reshape", [name, "one_shape"], f"{name}_cell")
        return add("Mul", [f"{name}_cell", "flat_row"], f"{name}_row")  # (n, horizon, 1)

    add("Reshape", ["straight", "row_shape"], "straight_row")
    columns = [
        spread_out("nil"),
        spread_out(medians[min(12, length)]),
        "straight_row",
    ]
    far = medians[length]
    columns.append(f"{far}_row" if length <= 12 else spread_out(far))
    add("Concat", columns, "experts", axis=2)  # (n, horizon, EXPERTS)

    add("Asinh", ["delta"], "bent")
    add("Gather", ["delta", "previous_places"], "delayed", axis=1)
    add("Sub", ["delta", "delayed"], "step")
    add("Asinh", ["step"], "bent_step")
    for name in ("level", "bent", "bent_step"):
        add("Gather", [name, "used_places"], f"{name}_used", axis=1)
        add("Reshape", [f"{name}_used", "patch_shape"], f"{name}_patches")
    add("Concat", ["level_patches", "bent_patches", "bent_step_patches"], "batch_first", axis=2)
    add("Transpose", ["batch_first"], "patches", perm=[1, 0, 2])  # (steps, n, 3 patch)
    add(
        "LSTM",
        ["patches", "lstm_kernel", "lstm_recurrent", "lstm_bias"],
        "states",
        hidden_size=UNITS,
    )
    add("Squeeze", ["states", "axis_0"], "state")  # (n, UNITS)
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

    graph = helper.make_graph(
        nodes,
        "pyml_lstm",
        [helper.make_tensor_value_info("window", TensorProto.DOUBLE, ["n", length])],
        [helper.make_tensor_value_info("forecast", TensorProto.DOUBLE, ["n", horizon])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in constants.items()],
    )
    # Opset 18 and IR 9 are read by every onnxruntime since 1.14.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="pyml"
    )
    onnx.checker.check_model(model)
    return model


def _weights_of(graph: onnx.ModelProto) -> list[NDArray[np.float32]]:
    """The Keras weights that `_graph` wrote."""
    stored = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    return [
        _disorder(stored["lstm_kernel"][0].T),
        _disorder(stored["lstm_recurrent"][0].T),
        _disorder(stored["lstm_bias"][0, : 4 * UNITS]),
        stored["gate"],
        stored["gate_bias"],
        stored["correct"],
        stored["correct_bias"],
    ]


# ---- intervals ---------------------------------------------------------------


def _spread(behind: Floats, floor: float) -> Floats:
    """Size of a usual error at each origin: spread of its window, never nothing."""
    spread: Floats = np.maximum(behind.std(axis=1), floor)[:, None]  # (n, 1)
    return spread


def _quantile(scores: Floats, level: float) -> Floats:
    """Conformal quantile of each column: the ceil((n + 1) level)-th smallest of n.

    Angelopoulos and Bates, "A Gentle Introduction to Conformal Prediction", 2021.
    The largest score where n is too small for the level.
    """
    n = len(scores)
    place = min(int(np.ceil((n + 1) * level)), n) - 1
    smallest: Floats = np.partition(scores, place, axis=0)[place]
    return smallest


def _conform(errors: Floats, spreads: Floats, now: Floats, level: float) -> Floats:
    """Half-widths of the interval, from past errors in units of their own spread.

    Parameters
    ----------
    errors : ndarray of float64, shape (n, h)
        Absolute errors of past forecasts.
    spreads : ndarray of float64, shape (n, 1)
        Of the windows those forecasts came from.
    now : ndarray of float64, shape (1,)
        Spread of the window at hand.
    level : float

    Returns
    -------
    ndarray of float64, shape (h,)
    """
    return _quantile(errors / spreads, level) * now


def backtest(
    meta: dict[str, Any], run: Run, values: Floats, at: NDArray[np.int64], levels: Sequence[float]
) -> tuple[Floats, Floats]:
    """Forecast at many origins as `forecast` would have, each from what precedes it.

    Parameters
    ----------
    meta, run
        The model.
    values : ndarray of float64, shape (n,)
        A series on the grid.
    at : ndarray of int64, shape (k,)
        Places of the last value of a window; increasing.
    levels : sequence of float, length q

    Returns
    -------
    predicted : ndarray of float64, shape (k, horizon)
    half : ndarray of float64, shape (k, q, horizon)
        Half-widths; NaN where fewer than `MIN_REPLAY` origins precede.
    """
    length, horizon = meta["sequence_length"], meta["horizon"]
    known = origins(values, length, horizon)
    behind = _behind(values, known, length)
    predicted = run({"window": behind})[0]
    errors = np.abs(_ahead(values, known, horizon) - predicted)
    spreads = _spread(behind, meta["floor"])
    here = _behind(values, at, length)
    now = _spread(here, meta["floor"])
    half = np.full((len(at), len(levels), horizon), np.nan)
    stops = np.searchsorted(known, at - horizon, side="right")
    for i, stop in enumerate(stops):
        part = slice(max(0, stop - REPLAY), stop)
        if stop - part.start >= MIN_REPLAY:
            for q, level in enumerate(levels):
                half[i, q] = _conform(errors[part], spreads[part], now[i], level)
    return run({"window": here})[0], half


# ---- training ----------------------------------------------------------------


def _session(graph: onnx.ModelProto) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


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

    def cut(part: NDArray[np.int64]) -> tuple[Floats, Floats]:
        return _behind(values, part, sequence_length), _ahead(values, part, horizon)

    fit_x, fit_y = cut(fit_at)
    stop_x, stop_y = cut(stop_at)
    held_x, held_y = cut(held_at)
    scale = _Scale.of(fit_x, fit_y)
    targets = (fit_y - fit_x[:, -1:]) / scale.change
    stop_targets = (stop_y - stop_x[:, -1:]) / scale.change

    ridge = _choose_ridge(fit_x, targets, stop_x, stop_targets, scale, pulse)
    regressors = _linear_inputs((fit_x - fit_x[:, -1:]) / scale.change, sequence_length)
    linear = _least_absolute(regressors, targets, ridge, 12, pulse)

    pulse()
    network = _network(sequence_length, horizon)
    pulse()
    starts = [network.fresh(seed)]
    warm = previous is not None and _continues(
        previous, sequence_length, horizon, times[held_at[0]]
    )
    if warm and previous is not None:
        starts.append(_weights_of(previous.graph))
    stop_tensors = network.tensors(_inputs(stop_x, scale, linear))

    def stop_error() -> float:
        return float(np.abs(stop_targets - network(stop_tensors)).mean())

    best, best_error = starts[0], np.inf
    for weights in starts:
        network.load(weights)
        error = stop_error()
        if error < best_error:
            best, best_error = weights, error
    warm = warm and best is not starts[0]

    rng = np.random.default_rng(seed)
    network.reset(best)
    tensors, goal = network.tensors(_inputs(fit_x, scale, linear)), targets.astype(np.float32)
    rate, waited, best_epoch, epoch = RATE / 2 if warm else RATE, 0, 0, 0
    while epoch < epochs and waited < (PATIENCE // 2 if warm else PATIENCE):
        epoch += 1
        network.epoch(tensors, goal, rate, rng, pulse)
        error = stop_error()
        if error < best_error:
            best, best_error, best_epoch, waited = network.weights(), error, epoch, 0
        else:
            waited += 1
            if waited % HALVE_AFTER == 0:
                rate /= 2

    # What is measured was fitted before the held-out part began.
    meta: dict[str, Any] = {
        "sequence_length": sequence_length,
        "horizon": horizon,
        "interval": interval,
        "bounds": list(bounds),
        "floor": 0.05 * scale.change,
        "seen_until": float(times[stop_at[-1] + horizon]),
        "inflation": 1.0,
    }
    candidate = _session(_graph(best, scale, linear, sequence_length))
    figures = _figures(meta, candidate, times, values, held_at, fit_at[0], interval)
    figures |= {
        "windows": len(at),
        "training_windows": len(fit_at),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "warm": warm,
    }
    figures |= _compare(previous, candidate, times, values, held_at, sequence_length, horizon)
    fit_error = float(np.abs(fit_y - candidate({"window": fit_x})[0]).mean())
    held_error = float(np.abs(held_y - candidate({"window": held_x})[0]).mean())
    meta["inflation"] = float(np.clip(held_error / fit_error, 1.0, 3.0)) if fit_error else 1.0

    # What is shipped has seen all but the windows that its first intervals need.
    reserve = min(REPLAY, len(held_at))
    all_at = _thin(at[at <= at[-reserve] - horizon])
    all_x, all_y = cut(all_at)
    targets = (all_y - all_x[:, -1:]) / scale.change
    regressors = _linear_inputs((all_x - all_x[:, -1:]) / scale.change, sequence_length)
    linear = _least_absolute(regressors, targets, ridge, 12, pulse)
    network.reset(best)
    if best_epoch:
        tensors, goal = network.tensors(_inputs(all_x, scale, linear)), targets.astype(np.float32)
        for i in range(min(REFIT_EPOCHS, epochs)):
            network.epoch(tensors, goal, RATE / 2 * (1 - i / REFIT_EPOCHS), rng, pulse)
    meta["seen_until"] = float(times[all_at[-1] + horizon])
    graph = _graph(network.weights(), scale, linear, sequence_length)
    return Fitted(graph, meta, figures)


def _choose_ridge(
    fit_x: Floats,
    targets: Floats,
    stop_x: Floats,
    stop_targets: Floats,
    scale: _Scale,
    pulse: Callable[[], None],
) -> float:
    """The penalty with the least absolute error on the part that comes next."""
    length = fit_x.shape[1]
    some = slice(None, None, 3 if len(fit_x) > 3000 else 1)
    inputs = _linear_inputs((fit_x[some] - fit_x[some, -1:]) / scale.change, length)
    checks = _linear_inputs((stop_x - stop_x[:, -1:]) / scale.change, length)
    errors = []
    for ridge in RIDGES:
        linear = _least_absolute(inputs, targets[some], ridge, 4, pulse)
        errors.append(np.abs(stop_targets - checks @ linear).mean())
    return RIDGES[int(np.argmin(errors))]


def _continues(previous: Previous, length: int, horizon: int, held_from: float) -> bool:
    """Whether training may start from `previous`: same shape, and held-out data it never saw."""
    meta = previous.meta
    same = (meta["sequence_length"], meta["horizon"]) == (length, horizon)
    return same and meta["seen_until"] < held_from


def _compare(
    previous: Previous | None,
    candidate: Run,
    times: Floats,
    values: Floats,
    held_at: NDArray[np.int64],
    length: int,
    horizon: int,
) -> dict[str, Any]:
    """Error of the model in force and of the new one on held-out windows that neither saw."""
    nothing: dict[str, Any] = {"accepted": True, "previous_mae": None, "compared_windows": 0}
    if previous is None:
        return nothing
    meta = previous.meta
    unseen = held_at[times[held_at] >= meta["seen_until"]]
    unseen = unseen[unseen >= meta["sequence_length"] - 1]
    if len(unseen) < MIN_PART:
        return nothing
    steps = min(horizon, meta["horizon"])
    truth = _ahead(values, unseen, steps)
    old = previous.run({"window": _behind(values, unseen, meta["sequence_length"])})[0][:, :steps]
    new = candidate({"window": _behind(values, unseen, length)})[0][:, :steps]
    if not np.isfinite(old).all():  # its longer window crosses a gap
        return nothing
    old_mae, new_mae = (float(np.abs(truth - p).mean()) for p in (old, new))
    return {
        "accepted": bool(new_mae <= old_mae),
        "previous_mae": old_mae,
        "candidate_mae": new_mae,
        "compared_windows": len(unseen),
    }


def _figures(
    meta: dict[str, Any],
    run: Run,
    times: Floats,
    values: Floats,
    held_at: NDArray[np.int64],
    first: np.int64,
    interval: float,
) -> dict[str, Any]:
    """Errors and coverage on the held-out windows, beside the naive forecasts'."""
    horizon = meta["horizon"]
    checked = held_at[:: max(1, len(held_at) // 250)]
    recent = values[max(0, checked[0] - meta["sequence_length"] - horizon - 3 * REPLAY) :]
    offset = len(values) - len(recent)
    _, half = backtest(meta, run, recent, checked - offset, LEVELS)
    truth = _ahead(values, held_at, horizon)
    predicted = run({"window": _behind(values, held_at, meta["sequence_length"])})[0]
    mae = float(np.abs(truth - predicted).mean())
    naive = float(np.abs(truth - values[held_at][:, None]).mean())
    seasonal = _seasonal_mae(times, values, held_at, horizon, interval, truth)
    step = np.abs(np.diff(values[: held_at[0]]))
    usual_step = float(np.nanmean(step)) if np.isfinite(step).any() else 0.0
    miss = np.abs(
        _ahead(values, checked, horizon)
        - run({"window": _behind(values, checked, meta["sequence_length"])})[0]
    )
    coverage, width = {}, {}
    judged = np.isfinite(half[:, 0, 0])
    for q, level in enumerate(LEVELS):
        if judged.any():
            coverage[str(level)] = float((miss[judged] <= half[judged, q]).mean())
            width[str(level)] = float(2 * half[judged, q].mean())
    best_naive = naive if seasonal is None else min(naive, seasonal)
    return {
        "held_out_windows": len(held_at),
        "mae": mae,
        "mase": mae / usual_step if usual_step else None,
        "naive_mae": naive,
        "seasonal_naive_mae": seasonal,
        "beats_naive": mae < best_naive,
        "coverage": coverage,
        "interval_width": width,
    }


def _seasonal_mae(
    times: Floats,
    values: Floats,
    held_at: NDArray[np.int64],
    horizon: int,
    interval: float,
    truth: Floats,
) -> float | None:
    """Error of repeating the value of a day before; None without two days of history."""
    if times[-1] - times[0] < 2 * DAY or interval > DAY:
        return None
    wanted = times[held_at[:, None] + np.arange(1, horizon + 1)] - DAY
    place = np.clip(np.searchsorted(times, wanted - interval / 2), 0, len(times) - 1)
    day_before = np.where(np.abs(times[place] - wanted) <= interval / 2, values[place], np.nan)
    errors = np.abs(truth - day_before)
    # On the same origins or not at all: another set would be another question.
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
    known = origins(values, length, most)[-REPLAY:]
    unseen = known[times[known] >= meta["seen_until"]]
    fresh = len(unseen) >= MIN_REPLAY
    known = unseen if fresh else known
    window = values[-length:]
    if np.isnan(window).any():  # a long gap just now: bridged, for want of better
        there = ~np.isnan(window)
        window = np.interp(np.arange(length), np.flatnonzero(there), window[there])
    behind = np.vstack([_behind(values, known, length), window]) if len(known) else window[None]
    predicted = run({"window": behind})[0]
    spreads = _spread(behind, meta["floor"])
    if len(known):
        errors = np.abs(_ahead(values, known, most) - predicted[:-1])
        if not fresh:  # errors on what was trained on are too small
            errors[times[known] < meta["seen_until"]] *= meta["inflation"]
        half = _conform(errors, spreads[:-1], spreads[-1], level)[:steps]
    else:
        half = np.full(steps, 2 * spreads[-1, 0])
    low, high = (np.inf if b is None else b for b in meta["bounds"])
    low = -low if meta["bounds"][0] is None else low
    centre = np.clip(predicted[-1, :steps], low, high)
    return Forecast(
        times[-1] + interval * np.arange(1, steps + 1),
        centre,
        np.clip(predicted[-1, :steps] - half, low, centre),
        np.clip(predicted[-1, :steps] + half, centre, high),
        float(times[-1]),
        len(known),
    )
