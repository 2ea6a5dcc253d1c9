"""The network: an LSTM beside a plain layer, as Keras trains it.

It reads a window and the simple forecasts of it, sets the weights of these and adds a
correction. What is stored of it is the graph of `pyml.forecasters.inference`; TensorFlow is
imported to train.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.forecasters.inference import CLIP, DENSE, EXPERTS, UNITS, patch_of
from pyml.forecasters.linear import Paths, Scale, dated, regressors
from pyml.forecasters.recurrent import Parameters
from pyml.forecasters.usual import Usual
from pyml.forecasters.windows import Floats, Windows, spans
from pyml.models.wire import Array, Numbers

Weights = list[NDArray[np.float32]]

CHUNK = 8  # batches between two calls of pulse: some 20 ms
# Keras reads and writes a file in the home directory, or in /tmp, where anybody may have put
# one; a part of TensorFlow tries whether it can write to /tmp. None of this is needed.
NO_HOME = {"KERAS_HOME": os.devnull, "TEST_TMPDIR": os.devnull}


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the network reads, made from raw windows; mirrored by `inference.graph`.

    Attributes
    ----------
    patches : ndarray of float32, shape (n, steps, 3 * patch)
    experts : ndarray of float32, shape (n, horizon, EXPERTS)
        Simple forecasts, as changes from the last value.
    """

    patches: NDArray[np.float32]
    experts: NDArray[np.float32]


def _inputs(windows: Windows, scale: Scale, paths: Paths) -> _Inputs:
    n, length = windows.behind.shape
    change = windows.from_last(windows.behind, scale.change)
    level = np.clip((windows.behind - scale.centre) / scale.spread, -CLIP, CLIP)
    step = np.arcsinh(np.diff(change, axis=1, prepend=change[:, :1]))
    patch = patch_of(length)
    used = length - length % patch
    patches = np.concatenate(
        [c[:, -used:].reshape(n, -1, patch) for c in (level, np.arcsinh(change), step)], axis=2
    )
    straight = regressors(windows, scale) @ paths.linear
    foreseen = dated(windows, scale) @ paths.calendar
    medians = windows.from_last(windows.medians, scale.change)
    near, far = medians[:, spans(length).index(min(12, length)), None], medians[:, -1:]
    experts = np.stack(np.broadcast_arrays(0.0, near, straight, foreseen, far), axis=2)
    return _Inputs(patches.astype(np.float32), experts.astype(np.float32))


@contextmanager
def _apart() -> Iterator[None]:
    """Import libraries whose symbols neither meet the server's nor are met by them.

    TensorFlow holds an LLVM and, left to itself, shows it to the whole process; so does
    PostgreSQL's JIT with another. Whichever came second would call into the first, and crash. Nor
    do these libraries read or write anybody's home directory.
    """
    # TensorFlow keeps its symbols to itself where it has no such module.
    sys.modules["tensorflow.python.pywrap_dlopen_global_flags"] = None  # type: ignore[assignment]
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)  # its own come before the process'
    before = {name: os.environ.get(name) for name in NO_HOME}
    os.environ.update(NO_HOME)
    try:
        yield
    finally:
        sys.setdlopenflags(flags)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def starved() -> Iterator[None]:
    """Turn what TensorFlow raises into MemoryError.

    The network multiplies and adds numbers, in shapes that fit: it fails where it gets no memory
    alone, and says so in many ways ("could not execute a primitive").
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "tensorflow":
            raise
        raise MemoryError(str(error).strip().rpartition("\n")[2]) from error


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


class Network:
    """One compiled Keras model, whose weights are reset for each device."""

    def __init__(self, length: int, horizon: int) -> None:
        tf, keras = _keras()
        patch = patch_of(length)
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
        self._optimizer = keras.optimizers.Adam()
        self._optimizer.build(self.model.trainable_variables)
        f32 = tf.float32
        shapes = [
            tf.TensorSpec((None, steps, 3 * patch), f32),
            tf.TensorSpec((None, horizon, EXPERTS), f32),
        ]
        self._shapes = [v.shape for v in self.model.trainable_variables]

        def train(patches: Any, experts: Any, targets: Any, batches: Any) -> None:
            variables = self.model.trainable_variables

            def step(b: Any) -> list[Any]:
                rows = batches[b]
                with tf.GradientTape() as tape:
                    out = self.model(
                        [tf.gather(patches, rows), tf.gather(experts, rows)], training=True
                    )
                    loss = tf.reduce_mean(tf.abs(tf.gather(targets, rows) - out))
                gradients = tape.gradient(loss, variables)
                self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
                return [b + 1]

            tf.while_loop(lambda b: b < tf.shape(batches)[0], step, [0])

        # Without AutoGraph, which writes the code that it makes to files in /tmp, and leaves
        # them there when a backend ends.
        function = partial(tf.function, autograph=False)
        self._train = function(
            train,
            input_signature=[
                *shapes,
                tf.TensorSpec((None, horizon), f32),
                tf.TensorSpec((None, None), tf.int32),
            ],
        )
        self._call = function(lambda p, e: self.model([p, e]), input_signature=shapes)

        sizes = [int(np.prod(shape)) for shape in self._shapes]

        def load(flat: Any) -> None:
            parts = zip(self.model.trainable_variables, tf.split(flat, sizes), strict=True)
            for variable, value in parts:
                variable.assign(tf.reshape(value, variable.shape))

        # In one call of one array: each of its own takes as long as half a batch.
        self._load = function(load, input_signature=[tf.TensorSpec((sum(sizes),), f32)])
        # Traced and run here, where the first run optimizes the graph: a training is then
        # in short steps from its start.
        nothing = [tf.zeros((1, *spec.shape[1:])) for spec in shapes]
        self._train(*nothing, tf.zeros((1, horizon)), tf.zeros((0, 1), tf.int32))
        self._call(*nothing)
        self.load([np.zeros(shape, np.float32) for shape in self._shapes])

    def fresh(self, seed: int) -> Weights:
        """Initial weights, with which the network gives nearly the path with a calendar."""
        _, keras = _keras()
        horizon = self._shapes[-1][0]
        lean = np.tile(np.array([0, 0, 0, 2.5, 0], np.float32), horizon)
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
        """Take these weights."""
        self._load(self._tf.constant(np.concatenate([w.ravel() for w in weights])))

    def weights(self) -> Weights:
        """Those it has now."""
        return [v.numpy() for v in self.model.trainable_variables]

    def train(self, part: Part, rows: NDArray[np.int32], rate: float) -> None:
        """One step for each row of `rows`, shape (batches, size)."""
        self._optimizer.learning_rate.assign(rate)
        self._train(part.patches, part.experts, part.targets, self._tf.constant(rows))

    def tensor(self, array: NDArray[Any]) -> Any:
        """An array as the network takes it."""
        return self._tf.constant(array, self._tf.float32)

    def __call__(self, part: Part) -> Floats:
        """Changes from the last value, shape (n, horizon), in units of a usual one."""
        return np.asarray(self._call(part.patches, part.experts).numpy(), np.float64)


@dataclass(frozen=True, slots=True)
class Part:
    """Windows of one part of the history, as the network takes them."""

    network: Network
    patches: Any
    experts: Any
    targets: Any

    @classmethod
    def of(cls, network: Network, windows: Windows, scale: Scale, paths: Paths) -> Part:
        """Windows as the network takes them."""
        inputs = _inputs(windows, scale, paths)
        targets = windows.from_last(windows.ahead, scale.change)
        arrays = (inputs.patches, inputs.experts, targets)
        return cls(network, *(network.tensor(array) for array in arrays))

    def error(self) -> float:
        """Mean absolute error, in units of a usual change."""
        return float(np.abs(self.targets.numpy() - self.network(self)).mean())

    def epoch(self, rate: float, batch: int, rng: np.random.Generator, pulse: Pulse) -> None:
        """Each window once, in random order."""
        n = len(self.targets)
        size = min(batch, n)
        rows = rng.permutation(n)[: n - n % size].reshape(-1, size).astype(np.int32)
        for first in range(0, len(rows), CHUNK):
            pulse()
            self.network.train(self, rows[first : first + CHUNK], rate)


def descend(
    part: Part,
    stop: Part,
    start: Weights,
    start_error: float,
    epochs: int,
    warm: bool,
    rng: np.random.Generator,
    p: Parameters,
    pulse: Pulse,
) -> tuple[Weights, int, int]:
    """Train until the error on the stopping part no longer falls.

    Returns
    -------
    best : list of ndarray
        The averaged weights after the best epoch; `start` if no epoch improves on it.
    best_epoch, epoch : int
        Number of the best epoch, and of epochs run.
    """
    network = part.network
    network.reset(start)
    best, best_error, best_epoch, average = start, start_error, 0, start
    rate, patience = (p.warm_rate, p.warm_patience) if warm else (p.rate, p.patience)
    most = min(epochs, p.warm_epochs) if warm else epochs
    waited = epoch = 0
    while epoch < most and waited < patience:
        epoch += 1
        part.epoch(rate, p.batch, rng, pulse)
        here = network.weights()
        # The random weights of a cold start do not enter the average.
        keep = p.averaging if warm or epoch > 1 else 0.0
        average = [keep * a + np.float32(1 - keep) * h for a, h in zip(average, here, strict=True)]
        network.load(average)
        error = stop.error()
        network.load(here)
        waited = 0 if error < best_error * (1 - p.least_progress) else waited + 1
        if error < best_error:
            best, best_error, best_epoch = average, error, epoch
        elif waited % p.halve_after == 0:
            rate /= 2
    return best, best_epoch, epoch


# One for each architecture that this process met: tracing takes longer than training.
network_of = lru_cache(maxsize=8)(Network)


def prepare(sequence_length: int, horizon: int) -> None:
    """Load TensorFlow and compile the network of a shape; `lstm.fit` then starts at once.

    Takes seconds the first time in a process, and cannot be interrupted; what it
    has made stays.
    """
    network_of(sequence_length, horizon)


def _reorder(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keras' gates i, f, c, o along the last axis into ONNX' i, o, f, c."""
    i, f, c, o = np.split(matrix, 4, axis=-1)
    return np.concatenate([i, o, f, c], axis=-1)


def _disorder(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    i, o, f, c = np.split(matrix, 4, axis=-1)
    return np.concatenate([i, f, c, o], axis=-1)


def numbers_of(
    weights: Weights, scale: Scale, paths: Paths, usual: Usual, behind: float
) -> dict[str, Array]:
    """What `inference.graph` takes: Keras' weights, the scale, the paths, what is usual.

    `behind` is how many seconds a window looks back.
    """
    kernel, recurrent, bias, dense, dense_bias, gate, gate_bias, correct, correct_bias = weights
    numbers: dict[str, Array] = {
        "centre": np.array([scale.centre]),
        "spread": np.array([scale.spread]),
        "change": np.array([scale.change]),
        "usual": (usual.parts / scale.change).astype(np.float32),
        "risen": (usual.risen(behind) / scale.change).astype(np.float32),
        "sure": usual.sure.astype(np.float32),
        "linear": paths.linear.astype(np.float32),
        "calendar": paths.calendar.astype(np.float32),
        "lstm_kernel": _reorder(kernel).T[None],  # (1, 4 units, inputs)
        "lstm_recurrent": _reorder(recurrent).T[None],
        "lstm_bias": np.concatenate([_reorder(bias), np.zeros_like(bias)])[None],
        "dense": dense,
        "dense_bias": dense_bias,
        "gate": gate,
        "gate_bias": gate_bias,
        "correct": correct,
        "correct_bias": correct_bias,
    }
    return numbers


def weights_of(numbers: Numbers) -> Weights:
    """The Keras weights that `numbers_of` took."""
    return [
        _disorder(numbers["lstm_kernel"][0].T),
        _disorder(numbers["lstm_recurrent"][0].T),
        _disorder(numbers["lstm_bias"][0, : 4 * UNITS]),
        *(numbers[name] for name in ("dense", "dense_bias", "gate", "gate_bias")),
        *(numbers[name] for name in ("correct", "correct_bias")),
    ]
