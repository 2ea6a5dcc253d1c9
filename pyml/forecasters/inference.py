"""The graph of a forecast, as it is stored, and what numpy makes of it.

A few hundred windows go through an LSTM of 24 units in a millisecond or two. The graph goes
the whole path from raw window to forecast, so that any ONNX runtime can run what is stored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.errors import unreadable
from pyml.forecasters.usual import early
from pyml.forecasters.windows import Floats, Places, spans, steps_read
from pyml.models.blob import Runner
from pyml.models.wire import DOUBLE, FLOAT, INT64, Graph, Node, Numbers

Single = NDArray[np.float32]
UNITS = 24
# Beside the LSTM one plain layer reads the same window: it learns within few epochs
# what follows from a certain level, and the LSTM the rest.
DENSE = 64
# The LSTM reads the window in patches, as in Nie et al., "A Time Series is Worth 64
# Words" (ICLR 2023): a fifth of the steps, so a fifth of the time, at no loss.
PATCH = 5
# Last value, median of the last 12, linear path, the same with a calendar, median of the window.
EXPERTS = 5
CLIP = 6.0  # standard deviations: a level outside those seen says no more than "outside"

# Windows go through in blocks of so many, whose numbers between two steps stay in the cache.
BLOCK = 112


def patch_of(length: int) -> int:
    """Steps of a window that the LSTM reads at once."""
    return PATCH if length >= 2 * PATCH else 1


def shapes(length: int, horizon: int, parts: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of what a training sets in the graph, by name; `parts` are a calendar's."""
    patch = patch_of(length)
    used = length - length % patch
    state = UNITS + DENSE
    return {
        "centre": ("<f8", (1,)),
        "spread": ("<f8", (1,)),
        "change": ("<f8", (1,)),
        "usual": ("<f4", (parts,)),
        "risen": ("<f4", (parts,)),
        "sure": ("<f4", (parts,)),
        "linear": ("<f4", (length + len(spans(length)), horizon)),
        "calendar": ("<f4", (len(steps_read(horizon)) + length + len(spans(length)), horizon)),
        "lstm_kernel": ("<f4", (1, 4 * UNITS, 3 * patch)),
        "lstm_recurrent": ("<f4", (1, 4 * UNITS, UNITS)),
        "lstm_bias": ("<f4", (1, 8 * UNITS)),
        "dense": ("<f4", (3 * used, DENSE)),
        "dense_bias": ("<f4", (DENSE,)),
        "gate": ("<f4", (state, horizon * EXPERTS)),
        "gate_bias": ("<f4", (horizon * EXPERTS,)),
        "correct": ("<f4", (state, horizon)),
        "correct_bias": ("<f4", (horizon,)),
    }


class _Drawing:
    """A graph as it grows: its nodes in order, and the constants that they take.

    Each method draws one part, from what those before it have given names; shapes are those of n
    windows.
    """

    def __init__(self, constants: dict[str, NDArray[Any]], length: int, horizon: int) -> None:
        self.constants, self.length, self.horizon = constants, length, horizon
        self.nodes: list[Node] = []

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node; the name of what it gives."""
        outputs = ["", output] if op == "LSTM" else [output]  # only its last state
        self.nodes.append(Node(op, inputs, outputs, attributes))
        return output

    def columns(self, name: str, first: int, stop: int, output: str) -> str:
        """Some columns of a matrix."""
        self.constants[f"{output}_first"] = np.array([first])
        self.constants[f"{output}_stop"] = np.array([stop])
        return self.add("Slice", [name, f"{output}_first", f"{output}_stop", "axis_1"], output)

    def scaled(self) -> None:
        """Draw windows as changes from the ``last`` value, and as levels: ``delta``, ``level``."""
        add = self.add
        self.columns("window", self.length - 1, self.length, "last")  # (n, 1)
        add("Sub", ["window", "last"], "moved")
        add("Div", ["moved", "change"], "moved_scaled")
        add("Cast", ["moved_scaled"], "delta", to=FLOAT)  # (n, length)
        add("Sub", ["window", "centre"], "centred")
        add("Div", ["centred", "spread"], "standard")
        add("Cast", ["standard"], "standard32", to=FLOAT)
        add("Clip", ["standard32", "low", "high"], "level")

    def medians(self) -> dict[int, str]:
        """Draw the medians of the last few values, by how many: (n, 1) each.

        The k-th largest of the last m values, by TopK.
        """
        found = {}
        for span in sorted({*spans(self.length), min(12, self.length)}):
            half = span // 2
            self.constants[f"count_{span}"] = np.array([half + 1])
            self.columns("delta", self.length - span, self.length, f"latest_{span}")
            largest = [f"largest_{span}", f"places_{span}"]
            inputs = [f"latest_{span}", f"count_{span}"]
            self.nodes.append(Node("TopK", inputs, largest, {"axis": 1}))
            self.columns(f"largest_{span}", half - 1 + span % 2, half + 1, f"around_{span}")
            found[span] = self.add("ReduceMean", [f"around_{span}", "axis_1"], f"median_{span}")
        return found

    def paths(self, medians: dict[int, str]) -> None:
        """Draw the linear paths, ``straight`` and ``foreseen``: (n, horizon).

        The latter also reads the ``usual_change`` of the time of day, or of week, from now on.
        """
        add = self.add
        self.columns("delta", 0, self.length - 1, "lags")
        add("Mul", [medians[self.length], "zero"], "nil")  # (n, 1)
        add("Add", ["nil", "one"], "unit")
        add("Gather", ["usual", "clock"], "usually")  # (n, 1 + horizon)
        self.columns("usually", 0, 1, "usual_now")
        self.columns("usually", 1, 1 + self.horizon, "usual_ahead")
        add("Sub", ["usual_ahead", "usual_now"], "usual_change")  # (n, horizon)
        read = [medians[span] for span in spans(self.length)]
        add("Concat", ["lags", *read, "unit"], "regressors", axis=1)
        add("Gather", ["usual_change", "steps_read"], "usual_read", axis=1)
        add("Concat", ["usual_read", "regressors"], "dated", axis=1)
        add("MatMul", ["regressors", "linear"], "straight")
        add("MatMul", ["dated", "calendar"], "foreseen")

    def experts(self, near: str, far: str) -> None:
        """Draw the simple forecasts side by side, ``experts``: (n, horizon, EXPERTS)."""
        for name in ("straight", "foreseen"):
            self.add("Reshape", [name, "row_shape"], f"{name}_row")
        rows = [self._spread_out("nil"), self._spread_out(near), "straight_row", "foreseen_row"]
        rows.append(f"{near}_row" if far == near else self._spread_out(far))
        self.add("Concat", rows, "experts", axis=2)

    def _spread_out(self, name: str) -> str:
        """Draw what is (n, 1) at each step ahead: (n, horizon, 1)."""
        self.add("Reshape", [name, "one_shape"], f"{name}_cell")
        return self.add("Mul", [f"{name}_cell", "flat_row"], f"{name}_row")

    def state(self) -> None:
        """Draw what the network reads in a window, ``state``: (n, UNITS + DENSE)."""
        add, used = self.add, self.length - self.length % patch_of(self.length)
        add("Asinh", ["delta"], "bent")
        self.columns("delta", 1, self.length, "later")
        add("Sub", ["later", "lags"], "steps")
        add("Concat", ["nil", "steps"], "step", axis=1)
        add("Asinh", ["step"], "bent_step")
        for name in ("level", "bent", "bent_step"):
            self.columns(name, self.length - used, self.length, f"{name}_used")
            add("Reshape", [f"{name}_used", "patch_shape"], f"{name}_patches")
        add("Concat", ["level_patches", "bent_patches", "bent_step_patches"], "batch_first", axis=2)
        add("Transpose", ["batch_first"], "patches", perm=(1, 0, 2))  # (steps, n, 3 patch)
        weights = ["lstm_kernel", "lstm_recurrent", "lstm_bias"]
        add("LSTM", ["patches", *weights], "states", hidden_size=UNITS)
        add("Squeeze", ["states", "axis_0"], "read")  # (n, UNITS)
        add("Reshape", ["batch_first", "flat_shape"], "flat")
        add("MatMul", ["flat", "dense"], "dense_raw")
        add("Add", ["dense_raw", "dense_bias"], "dense_sum")
        add("Clip", ["dense_sum", "nothing"], "dense_state")
        add("Concat", ["read", "dense_state"], "state", axis=1)

    def forecasts(self) -> None:
        """Draw the network's ``forecast``, (n, horizon), and the ``simple`` ones, as values."""
        add = self.add
        add("MatMul", ["state", "gate"], "gate_raw")
        add("Add", ["gate_raw", "gate_bias"], "gate_flat")
        add("Reshape", ["gate_flat", "gate_shape"], "gate_logits")
        add("Softmax", ["gate_logits"], "shares", axis=2)
        add("Mul", ["shares", "experts"], "weighted")
        add("ReduceSum", ["weighted", "axis_2"], "blend", keepdims=0)  # (n, horizon)
        add("MatMul", ["state", "correct"], "correction_raw")
        add("Add", ["correction_raw", "correct_bias"], "correction")
        add("Add", ["blend", "correction"], "delta_ahead")
        add("Cast", ["delta_ahead"], "delta_ahead64", to=DOUBLE)
        add("Mul", ["delta_ahead64", "change"], "moved_ahead")
        add("Add", ["moved_ahead", "last"], "forecast")
        add("Cast", ["experts"], "experts64", to=DOUBLE)
        add("Mul", ["experts64", "change"], "moved_simply")
        add("Reshape", ["last", "one_shape"], "last_cell")
        add("Add", ["moved_simply", "last_cell"], "simple")

    def due(self, far: str) -> None:
        """Draw the usual change that is still ``due``, (n, horizon), as `usual.early` has it."""
        add = self.add
        self.columns("clock", 0, 1, "now")
        add("Gather", ["sure", "now"], "sure_now")  # (n, 1)
        add("Mul", ["usual_change", "sure_now"], "sure_change")
        add("Gather", ["risen", "now"], "usual_rise")  # (n, 1)
        add("Add", [far, "usual_rise"], "less_risen")
        add("Neg", ["less_risen"], "risen_more")  # (n, 1)
        add("Clip", ["sure_change", "nothing"], "most")
        add("Clip", ["sure_change", "", "nothing"], "least")
        add("Min", ["risen_more", "most"], "at_most")
        add("Max", ["at_most", "least"], "come_early")
        add("Sub", ["sure_change", "come_early"], "still_due")
        add("Cast", ["still_due"], "still_due64", to=DOUBLE)
        add("Mul", ["still_due64", "change"], "due")


def graph(numbers: Numbers, length: int, horizon: int, parts: int) -> Graph:
    """The whole path from raw window to forecast.

    Differences are taken in float64: a counter of bytes leaves float32 too few
    digits. ONNX LSTM: https://onnx.ai/onnx/operators/onnx__LSTM.html

    Parameters
    ----------
    numbers : mapping of ndarray
        Of `shapes`.

    Raises
    ------
    UnreadableModel
        They have others.
    """
    known = shapes(length, horizon, parts)
    for name, (kind, shape) in known.items():
        cells = numbers.get(name)
        if cells is None or (cells.dtype.str, cells.shape) != (kind, shape):
            raise unreadable(f"no {name} of shape {shape}")
    patch = patch_of(length)
    used = length - length % patch
    constants: dict[str, NDArray[Any]] = {name: numbers[name] for name in known} | {
        "low": np.array([-CLIP], np.float32),
        "high": np.array([CLIP], np.float32),
        "nothing": np.zeros(1, np.float32),
        "steps_read": steps_read(horizon),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "axis_0": np.array([0]),
        "patch_shape": np.array([0, used // patch, patch]),
        "flat_shape": np.array([0, 3 * used]),
        "gate_shape": np.array([0, horizon, EXPERTS]),
        "flat_row": np.ones((1, horizon, 1), np.float32),
        "row_shape": np.array([0, horizon, 1]),
        "one_shape": np.array([0, 1, 1]),
        "zero": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
    }
    drawing = _Drawing(constants, length, horizon)
    drawing.scaled()
    medians = drawing.medians()
    drawing.paths(medians)
    drawing.experts(medians[min(12, length)], medians[length])
    drawing.state()
    drawing.forecasts()
    drawing.due(medians[length])
    # Opset 18 and IR 9 are read by every onnxruntime since 1.14.
    return Graph(
        "pyml_lstm",
        drawing.nodes,
        constants,
        {"window": (DOUBLE, (length,)), "clock": (INT64, (1 + horizon,))},
        {
            "forecast": (DOUBLE, (horizon,)),
            "simple": (DOUBLE, (horizon, EXPERTS)),
            "due": (DOUBLE, (horizon,)),
        },
        {"": 18},
        9,
    )


def runner(numbers: Numbers, length: int, horizon: int) -> Runner:
    """What computes the same as `graph`, in the same order.

    Parameters
    ----------
    numbers : mapping of ndarray
        Of `shapes`.

    Returns
    -------
    Runner
        Of ``window``, float64 (n, length), and ``clock``, int64 (n, 1 + horizon): ``forecast``,
        float64 (n, horizon), ``simple``, float64 (n, horizon, EXPERTS), and ``due``, float64
        (n, horizon).
    """
    usual, risen, sure, linear, dated = (
        np.array(numbers[name]) for name in ("usual", "risen", "sure", "linear", "calendar")
    )
    dense, dense_bias = (np.array(numbers[name]) for name in ("dense", "dense_bias"))
    correct, correct_bias = np.array(numbers["correct"]), np.array(numbers["correct_bias"])
    centre, spread, change = (float(numbers[name][0]) for name in ("centre", "spread", "change"))
    # A sigmoid is (tanh(x / 2) + 1) / 2, and to halve a weight is exact: then one tanh does
    # for the gates i, o, f and the candidate.
    gates = 3 * UNITS
    part = np.append(np.full(gates, 0.5, np.float32), np.ones(UNITS, np.float32))
    kernel = np.ascontiguousarray(numbers["lstm_kernel"][0].T * part)
    recurrent = np.ascontiguousarray(numbers["lstm_recurrent"][0].T * part)
    bias = numbers["lstm_bias"][0].reshape(2, -1).sum(axis=0) * part
    # The shares of each simple forecast side by side: sums along few cells are slow.
    order = np.arange(horizon * EXPERTS).reshape(horizon, EXPERTS).T.ravel()
    gate = np.ascontiguousarray(numbers["gate"][:, order])
    gate_bias = numbers["gate_bias"][order]
    patch, read_steps = patch_of(length), steps_read(horizon)
    used = length - length % patch
    steps = used // patch

    def block_of(window: Floats, clock: Places) -> tuple[Floats, Floats, Floats]:
        n = len(window)
        last = window[:, -1:]
        delta = ((window - last) / change).astype(np.float32)
        level = ((window[:, -used:] - centre) / spread).astype(np.float32)
        medians = {span: _median(delta[:, -span:]) for span in {*spans(length), min(12, length)}}
        read = [medians[span] for span in spans(length)]
        usually = usual[clock]
        usual_change = usually[:, 1:] - usually[:, :1]
        regressors = np.concatenate([delta[:, :-1], *read, np.ones_like(delta[:, :1])], axis=1)
        step = np.zeros_like(delta)
        np.subtract(delta[:, 1:], delta[:, :-1], out=step[:, 1:])
        patches = np.empty((n, steps, 3, patch), np.float32)
        np.minimum(np.maximum(level, -CLIP), CLIP, out=level)
        for place, cells in enumerate((level, np.arcsinh(delta), np.arcsinh(step))):
            patches[:, :, place] = cells[:, -used:].reshape(n, steps, patch)
        fed = patches.reshape(n, steps, 3 * patch) @ kernel
        fed += bias
        state = np.empty((n, UNITS + DENSE), np.float32)
        state[:, :UNITS] = _states(fed, recurrent)
        flat = _alone(patches.reshape(n, 3 * used), dense)
        flat += dense_bias
        np.maximum(flat, 0, out=state[:, UNITS:])
        simply = np.zeros((EXPERTS, n, horizon), np.float32)
        simply[1], simply[2] = medians[min(12, length)], _alone(regressors, linear)
        told = np.concatenate([usual_change[:, read_steps], regressors], axis=1)
        simply[3], simply[4] = _alone(told, dated), medians[length]
        logits = _alone(state, gate)
        logits += gate_bias
        ahead = _blend(logits.reshape(n, EXPERTS, horizon).swapaxes(0, 1), simply)
        ahead += _alone(state, correct) + correct_bias
        simple = np.empty((n, horizon, EXPERTS))
        np.multiply(simply.transpose(1, 2, 0), change, out=simple)
        simple += last[:, :, None]
        due = usual_change * sure[clock[:, :1]]
        due -= early(due, -medians[length] - risen[clock[:, :1]])
        return ahead * change + last, simple, due.astype(np.float64) * change

    def run(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        window, clock = feeds["window"], feeds["clock"]
        first = range(0, max(1, len(window)), BLOCK)
        with np.errstate(all="ignore"):  # what is no number is seen in the answer
            parts = [block_of(window[i : i + BLOCK], clock[i : i + BLOCK]) for i in first]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    size = sum(cells.nbytes for cells in numbers.values())
    return Runner(run, size, [(horizon,), (horizon, EXPERTS), (horizon,)])


def _alone(rows: Single, weights: Single) -> Single:
    """`rows` (n, k) times `weights` (k, m), each row by itself: shape (n, m).

    In one product of all rows, BLAS adds up the terms of a row in an order that depends on where
    it stands. A window is to give the same bits beside any others.
    """
    product: Single = (rows[:, None] @ weights)[:, 0]
    return product


def _median(cells: Single) -> Single:
    """Median of each row, shape (n, 1)."""
    ordered, half = np.sort(cells, axis=1), cells.shape[1] // 2
    if cells.shape[1] % 2:
        return ordered[:, half : half + 1]
    middle: Single = (ordered[:, half : half + 1] + ordered[:, half - 1 : half]) / np.float32(2)
    return middle


def _states(fed: Single, recurrent: Single) -> Single:
    """The last states (n, UNITS) of an LSTM, of what its inputs (n, steps, 4 UNITS) bring."""
    gates = 3 * UNITS
    state = cell = np.zeros((len(fed), UNITS), np.float32)
    half = np.float32(0.5)
    for step in range(fed.shape[1]):
        now = _alone(state, recurrent)
        now += fed[:, step]
        np.tanh(now, out=now)
        opened = now[:, :gates]
        opened *= half
        opened += half
        cell = opened[:, 2 * UNITS :] * cell + opened[:, :UNITS] * now[:, gates:]
        state = opened[:, UNITS : 2 * UNITS] * np.tanh(cell)
    return state


def _blend(logits: Single, simply: Single) -> Single:
    """The mean of forecasts (EXPERTS, n, horizon), weighed by the softmax of `logits`."""
    shares = np.exp(logits - logits.max(axis=0))
    blend: Single = (shares * simply).sum(axis=0) / shares.sum(axis=0)
    return blend
