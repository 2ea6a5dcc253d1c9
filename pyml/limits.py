"""What a stored model may say of itself, and how much its graph may compute.

A graph whose every part is in order can still ask for all memory there is (thirty
`Concat` that double) or for all time (one large product over and over), and metadata
can describe readings that no training has seen. Both are written by whoever may train.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyml.messages import infer_shapes, onnx

Form = Callable[[Any], bool]

YEAR = 366 * 86_400.0
# Metrics of a forest, and columns: each metric comes with what is said of its past.
MAX_METRICS, MAX_WIDTH = 200, 1024
MAX_LENGTH, MAX_HORIZON = 500, 288  # as the settings have them
EXPERTS = 4  # simple forecasts beside the network's
LONGEST_TEXT = 1000  # of a field, its path included
# The graph of every forest: what each operator takes, and what it gives.
FOREST = [
    ("IsNaN", ["features"], ["missing"]),
    ("Where", ["missing", "fill", "features"], ["filled"]),
    ("TreeEnsemble", ["filled"], ["depth"]),
    ("Mul", ["depth", "rate"], ["exponent"]),
    ("Exp", ["exponent"], ["closeness"]),
    ("Neg", ["closeness"], ["score"]),
]
# Numbers made for each one that goes in or comes out. Shapes of LSTM that the settings allow
# make 10 to 29.
SHARE = 60
# Products for each row; the longest window and horizon make 554,400.
MAX_PRODUCTS = 2_000_000
# So many rows, at which anything but a linear growth shows.
ROWS = 1 << 20
NUMBERS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
}


# ---- metadata ------------------------------------------------------------------


def _number(low: float = -1e300, high: float = 1e300) -> Form:
    # A whole number that numpy would not take for one of its own is none; nor is NaN.
    return lambda value: (
        (type(value) is float or (type(value) is int and abs(value) < 1 << 53))
        and low <= value <= high
    )


def _whole(low: int, high: int) -> Form:
    return lambda value: type(value) is int and low <= value <= high


def _text(value: Any) -> bool:
    return type(value) is str and 1 <= len(value) <= LONGEST_TEXT


def _object(value: Any) -> bool:
    return type(value) is dict


def _maybe(form: Form) -> Form:
    return lambda value: value is None or form(value)


def _list(form: Form, least: int = 0, most: int = MAX_METRICS) -> Form:
    return lambda value: (
        type(value) is list and least <= len(value) <= most and all(map(form, value))
    )


def _record(**forms: Form) -> Form:
    return lambda value: (
        type(value) is dict
        and value.keys() == forms.keys()
        and all(form(value[key]) for key, form in forms.items())
    )


_METRIC = _record(
    name=_text,
    path=_text,
    divisor_path=_maybe(_text),
    scale=_number(),
    kind=lambda value: value in ("gauge", "counter"),
)
_REFERENCE = _list(
    _record(edges=_list(_number(), 1), counts=_list(_number(0), 1), usual=_number()), 1
)
_WHITENING = _list(_list(_number(), 0, 2 * MAX_METRICS), 1, 2 * MAX_METRICS)
_SOME = 1e-12  # seconds: more than none
_HEAD = {"format": _whole(1, 1000), "kind": _text}
FORMS = {
    "forest": _record(
        **_HEAD,
        names=_list(_text, 1),
        metrics=_list(_METRIC, 1),
        interval=_number(_SOME, YEAR),
        windows=_list(_whole(1, 100_000), 1),
        level=_whole(1, 100_000),
        before=_list(_whole(1, 100_000), 1),
        level_whitening=_WHITENING,
        half_life=_number(1e-3, 1e6),
        jump_whitening=_WHITENING,
        jump_sizes=_list(_number(1e-300), 1, 2 * MAX_METRICS),
        sudden_sizes=_list(_number(1e-300), 1, 2 * MAX_METRICS),
        lasting=_whole(1, 100_000),
        lookback=_number(0, 100 * YEAR),
        scaling=_list(_list(_number(), 2, 2)),
        usual=_list(_list(_number(), 2, 2)),
        warning=_number(),
        critical=_number(),
        reference=_REFERENCE,
    ),
    "lstm": _record(
        **_HEAD,
        metric=_METRIC,
        totals=_list(_text),
        sequence_length=_whole(1, MAX_LENGTH),
        horizon=_whole(1, MAX_HORIZON),
        interval=_number(_SOME, YEAR),
        bounds=_list(_maybe(_number()), 2, 2),
        floor=_number(1e-300),
        inflation=_number(1e-3, 1e3),
        seen_until=_number(),
        reference=_REFERENCE,
    ),
}

# What is stored beside a model; the moments in seconds, within what PostgreSQL knows.
_MOMENT, _COUNT = _number(-2e11, 9e12), _whole(0, 2**31 - 1)
_ABOUT: dict[str, Form] = {
    "window_start": _MOMENT,
    "window_end": _MOMENT,
    "readings_used": _COUNT,
    "readings_rejected": _COUNT,
    **dict.fromkeys(("parameters", "figures", "versions"), _object),
    "seconds": _number(0),
}
ABOUT, ABOUT_NAMES = _record(**_ABOUT), tuple(_ABOUT)


def fault(kind: str, meta: dict[str, Any], model: onnx.ModelProto) -> str | None:
    """What in the metadata or the graph no training has written; None where all is well.

    Parameters
    ----------
    kind : {'forest', 'lstm'}
    meta : dict
        As it was stored.
    model : onnx.ModelProto
        Whose parts `blob.check` has found in order.
    """
    graph = model.graph
    if not FORMS[kind](meta):
        return "metadata of another form"
    if {2} != {len(one["counts"]) - len(one["edges"]) for one in meta["reference"]}:
        return "metadata that does not fit together"
    if kind == "forest":
        count, name, kind_of = len(meta["names"]), "features", onnx.TensorProto.FLOAT
        each = {len(meta[key]) for key in ("metrics", "scaling", "usual", "reference")}
        if {count} != each or not all(scale > 0 for _, scale in meta["scaling"]):
            return "metadata that does not fit together"
        jumps = count * len(meta["before"])
        if (
            not _square(meta["level_whitening"], count)
            or not _square(meta["jump_whitening"], jumps)
            or len(meta["jump_sizes"]) != jumps
            or len(meta["sudden_sizes"]) != 2 * count
            or not set(meta["before"]) <= set(meta["windows"])
            or meta["level"] > min(meta["windows"])
        ):
            return "metadata that does not fit together"
        width = count * (1 + len(meta["windows"])) + 3
    else:
        width, name, kind_of = meta["sequence_length"], "window", onnx.TensorProto.DOUBLE
    fed = [(one.name, one.type.tensor_type) for one in graph.input]
    if [(one, cells.elem_type) for one, cells in fed] != [(name, kind_of)]:
        return "other inputs"
    dims = [one.dim_value for one in fed[0][1].shape.dim]
    if dims != [0, width] or width > MAX_WIDTH:
        return f"an input of shape {dims}"
    if kind == "forest":
        steps = [(node.op_type, list(node.input), list(node.output)) for node in graph.node]
        parts = [(one.name, one.data_type, list(one.dims)) for one in graph.initializer]
        same = steps == FOREST and sorted(parts) == [
            ("fill", onnx.TensorProto.FLOAT, [width]),
            ("rate", onnx.TensorProto.FLOAT, [1]),
        ]
        return None if same else "a graph of another shape"
    return _growth(model, width + sum(math.prod(shape) for shape in outputs(kind, meta)))


def _square(matrix: list[list[float]], size: int) -> bool:
    return [size] * size == [len(row) for row in matrix]


def outputs(kind: str, meta: dict[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of what a graph gives for each row of its input."""
    if kind == "forest":
        return [(1,)]
    return [(meta["horizon"],), (meta["horizon"], EXPERTS)]


# ---- the graph -----------------------------------------------------------------


def _growth(model: onnx.ModelProto, width: int) -> str | None:
    """Why a graph makes more of its input than `width` numbers a row can explain."""
    if any(node.domain for node in model.graph.node):
        return "trees"
    for tensor in model.graph.initializer:
        # A count or a place below nothing makes the inference of shapes abort the process.
        if tensor.data_type == onnx.TensorProto.INT64:
            cells = np.frombuffer(tensor.raw_data, "<i8")
            if min(cells, default=0) < 0 or min(tensor.int64_data, default=0) < 0:
                return f"a size of {tensor.name} below nothing"
    shapes = _shapes(model)
    made = products = 0
    for node in model.graph.node:
        for name in filter(None, node.output):
            if name not in shapes:
                return f"an operator {node.op_type} of unknown size"
            made += math.prod(shapes[name])
        if node.op_type == "MatMul":
            products += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "LSTM":
            steps = shapes[node.input[0]][0] * shapes[node.input[0]][1]
            products += steps * sum(math.prod(shapes[name]) for name in node.input[1:3])
    if made > ROWS * SHARE * width or products > ROWS * MAX_PRODUCTS:
        return f"{made // ROWS} numbers and {products // ROWS} products for each reading"
    return None


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The shape of each tensor for an input of `ROWS` rows, where that can be told."""
    graph = model.graph
    probe = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    probe.graph.initializer.extend(graph.initializer)
    probe.graph.input.extend(graph.input)
    probe.graph.input[0].type.tensor_type.shape.dim[0].dim_value = ROWS
    probe.graph.node.extend(graph.node)
    known = infer_shapes(probe).graph
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in [*known.input, *known.value_info, *known.output]:
        cells = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in cells.shape.dim]
        if cells.elem_type in NUMBERS and cells.HasField("shape") and min(dims, default=0) >= 0:
            found[value.name] = dims
    return found
