"""A model <-> the bytes that are stored: one ONNX file, checked before it may run.

Whoever can write to the models table must not thereby own the server, so nothing
here unpickles, and nothing runs a graph before its operators, sizes and indices are found
in order: a crafted one can crash the process that scores, and a crashed backend restarts
the whole cluster.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pyml import engine, limits
from pyml.engine import Run
from pyml.errors import PymlError, UnreadableModel, unreadable
from pyml.messages import onnx
from pyml.trees import Remembering, Trees

# Raised when what a reader of the metadata must know changes; a reader of the old
# format is then kept beside the new one.
FORMAT = 1

MAX_BYTES = 8 << 20
# A process that cannot have so many more bytes has none for a model either.
ROOM = 32 << 20
MAX_ELEMENTS = 4_000_000
MAX_NODES = 500

# What a session takes: so much, and so many times its bytes (measured with onnxruntime
# 1.32: an LSTM of 30 KB takes 430 KB; the bytes are kept too).
SESSION_BYTES = 300_000
SESSION_FACTOR = 6

# What the graphs of the forest and of the LSTM are made of, and nothing else.
OPERATORS = {
    ("", name)
    for name in (
        "Add", "Asinh", "Cast", "Clip", "Concat", "Div", "Exp", "IsNaN", "LSTM",
        "MatMul", "Mul", "Neg", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Softmax",
        "Squeeze", "Sub", "TopK", "Transpose", "Where",
    )
} | {("ai.onnx.ml", "TreeEnsemble")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A stored model, ready to score.

    Attributes
    ----------
    meta : dict
        What the module that trained it needs to score.
    run : callable
        Feeds arrays by input name, gives the list of outputs.
    data : bytes
        What it was loaded from.
    size : int
        About how many bytes of memory it takes.
    """

    meta: dict[str, Any]
    run: Run
    data: bytes
    size: int

    @property
    def graph(self) -> onnx.ModelProto:
        """The graph, for a training that starts from it; parsed anew, for it is large."""
        graph = onnx.ModelProto()
        graph.ParseFromString(self.data)
        del graph.metadata_props[:]
        return graph


def pack(graph: onnx.ModelProto, meta: dict[str, Any], kind: str) -> bytes:
    """The bytes to store: the graph with `meta` in its metadata; same input, same bytes."""
    whole = onnx.ModelProto()
    whole.CopyFrom(graph)
    entry = whole.metadata_props.add()
    entry.key = "pyml"
    entry.value = json.dumps(
        {**meta, "format": FORMAT, "kind": kind}, sort_keys=True, allow_nan=False
    )
    return bytes(whole.SerializeToString(deterministic=True))


def load(data: bytes, kind: str) -> Model:
    """Check stored bytes and make of them what scores.

    Parameters
    ----------
    data : bytes
        What `pack` gave.
    kind : {'forest', 'lstm'}
        What the model has to be.

    Raises
    ------
    UnreadableModel
        If anything in it is not as `pack` and the trainings make it.
    BrokenEnvironment
        It is a forecast's, and onnxruntime cannot be loaded.
    MemoryError
    """
    if len(data) > MAX_BYTES:
        raise unreadable(f"{len(data)} bytes are more than {MAX_BYTES}")
    try:
        graph = onnx.ModelProto.FromString(data)
        meta = _meta(graph, kind)
        forest = check(graph)
        if wrong := limits.fault(kind, meta, graph):
            raise unreadable(wrong)
        if forest is not None:
            trees = Remembering(forest, _columns(graph.graph))
            run, size = _scorer(graph, trees), len(data) + trees.size
        else:
            run, size = engine.session(data), SESSION_BYTES + SESSION_FACTOR * len(data)
        return Model(meta, _guarded(run, limits.outputs(kind, meta)), data, size)
    except PymlError:
        raise
    except Exception as error:
        raise _because(error) from error


def _because(error: Exception) -> UnreadableModel:
    """What a library's error says of a model.

    They raise types of their own, down to bare RuntimeError, and the same ones where it is
    memory that is missing: a model must not be called broken for that.

    Raises
    ------
    MemoryError
    """
    if isinstance(error, MemoryError):
        raise error
    bytes(ROOM)  # asks for it
    if isinstance(error, DecodeError):
        return unreadable("it is not an ONNX file")
    return unreadable(_first_line(error))


def _scorer(graph: onnx.ModelProto, trees: Remembering) -> Run:
    """What runs the graph of a forest, which `limits.FOREST` describes.

    Where ``again`` is fed beside ``features``, they may come again, and are remembered.
    """
    parts = {tensor.name: _cells(tensor) for tensor in graph.graph.initializer}

    def run(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        readings = feeds["features"]
        filled = np.where(np.isnan(readings), parts["fill"], readings)
        depth = trees.sums(filled, again="again" in feeds)
        with np.errstate(over="ignore"):
            return [-np.exp(depth * parts["rate"])[:, None]]

    return run


def _guarded(run: Run, shapes: list[tuple[int, ...]]) -> Run:
    """A graph's `run` that says so when what comes out is no answer.

    Only a run shows all that a graph does: what fits together for one number of rows may
    not for another, and weights that are numbers may overflow.
    """

    def guarded(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            found = run(feeds)
        except Exception as error:
            raise _because(error) from error
        rows = len(next(iter(feeds.values())))
        if [cells.shape for cells in found] != [(rows, *shape) for shape in shapes]:
            raise unreadable("an answer of another shape")
        if not all(np.isfinite(cells).all() for cells in found):
            raise unreadable("an answer that is no number")
        return found

    return guarded


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _meta(graph: onnx.ModelProto, kind: str) -> dict[str, Any]:
    entries = [entry.value for entry in graph.metadata_props if entry.key == "pyml"]
    if len(entries) != 1:
        raise unreadable("its metadata is missing")
    meta = json.loads(entries[0], parse_constant=_no_number)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise unreadable("its format is of another version")
    if meta.get("kind") != kind:
        raise unreadable(f"it is not a model of kind {kind}")
    return meta


def _no_number(name: str) -> None:
    raise unreadable(f"{name} in its metadata")


def check(model: onnx.ModelProto) -> Trees | None:
    """Refuse a graph with anything in it that the trainings never write; its trees, if any.

    Raises
    ------
    UnreadableModel
    """
    graph = model.graph
    if model.functions or graph.sparse_initializer or len(graph.node) > MAX_NODES:
        raise unreadable("a graph of another shape")
    elements, forest = 0, None
    for tensor in graph.initializer:
        elements += _tensor(tensor)
    for node in graph.node:
        if (node.domain, node.op_type) not in OPERATORS:
            raise unreadable(f"operator {node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors:
                raise unreadable(f"a graph inside operator {node.op_type}")
            if attribute.HasField("t"):
                elements += _tensor(attribute.t)
        if node.op_type == "TreeEnsemble":
            arrays = _tree_arrays(node)
            forest = Trees.of(arrays)
            if arrays["nodes_featureids"].max() >= _columns(graph):
                raise unreadable("a tree on a feature that is not there")
    if elements > MAX_ELEMENTS:
        raise unreadable(f"{elements} numbers")
    return forest


def _columns(graph: onnx.GraphProto) -> int:
    """Columns of a graph's input, which are those that its trees look at."""
    shapes = [fed.type.tensor_type.shape.dim for fed in graph.input]
    return int(shapes[0][1].dim_value) if list(map(len, shapes)) == [2] else 0


def _tensor(tensor: onnx.TensorProto) -> int:
    """Number of elements of a tensor whose data is inline and of the stated size."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise unreadable("data outside the file")
    if any(size < 0 for size in tensor.dims) or len(tensor.dims) > 4:
        raise unreadable(f"a tensor of shape {list(tensor.dims)}")
    count = int(math.prod(tensor.dims))
    if count > MAX_ELEMENTS:
        raise unreadable(f"a tensor of shape {list(tensor.dims)}")
    _cells(tensor)
    return count


# What onnx.numpy_helper writes of the types that the trainings use: little-endian bytes.
CELLS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "<f4",
    onnx.TensorProto.DOUBLE: "<f8",
    onnx.TensorProto.INT64: "<i8",
    onnx.TensorProto.UINT8: "u1",
}


def _cells(tensor: onnx.TensorProto) -> NDArray[Any]:
    """A tensor's elements; refuses one of another type, or whose shape and data disagree."""
    kind, raw = CELLS.get(tensor.data_type), tensor.raw_data
    if kind is None or len(raw) != math.prod(tensor.dims) * np.dtype(kind).itemsize:
        raise unreadable(f"a tensor of type {tensor.data_type} and shape {list(tensor.dims)}")
    return np.frombuffer(raw, kind).reshape(tuple(tensor.dims))


# The attributes of trees, all of which the trainings write, and no other.
TREE_INTS = {
    "tree_roots", "nodes_featureids", "leaf_targetids",
    "nodes_truenodeids", "nodes_trueleafs", "nodes_falsenodeids", "nodes_falseleafs",
}  # fmt: skip
TREE_TENSORS = {
    "nodes_modes": onnx.TensorProto.UINT8,
    "nodes_splits": onnx.TensorProto.FLOAT,
    "leaf_weights": onnx.TensorProto.FLOAT,
}
# One target, the sum over the trees, as it is.
TREE_NUMBERS = {"n_targets": 1, "aggregate_function": 1, "post_transform": 0}


def _tree_arrays(node: onnx.NodeProto) -> dict[str, NDArray[Any]]:
    """The arrays among the attributes of trees; refuses attributes of another name or type."""
    if sorted(a.name for a in node.attribute) != sorted({*TREE_INTS, *TREE_TENSORS, *TREE_NUMBERS}):
        raise unreadable("trees with other attributes")
    arrays = {}
    for attribute in node.attribute:
        name, kind = attribute.name, attribute.type
        if name in TREE_INTS and kind == onnx.AttributeProto.INTS:
            arrays[name] = np.array(attribute.ints, dtype=np.int64)
        elif kind == onnx.AttributeProto.TENSOR and TREE_TENSORS.get(name) == attribute.t.data_type:
            arrays[name] = _cells(attribute.t)
        elif kind != onnx.AttributeProto.INT or TREE_NUMBERS.get(name) != attribute.i:
            raise unreadable("trees with other attributes")
    return arrays
