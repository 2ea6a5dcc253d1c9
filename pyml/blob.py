"""A model <-> the bytes that are stored: one ONNX file, checked before it may run.

Whoever can write to the models table must not thereby own the server, so nothing
here unpickles, and no session is made of a graph before its operators, sizes and
indices are found in order: a crafted tree index can crash the process that
scores, and a crashed backend restarts the whole cluster.
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
from pyml.errors import UnreadableModel
from pyml.messages import onnx

# Raised when what a reader of the metadata must know changes; a reader of the old
# format is then kept beside the new one.
FORMAT = 1

MAX_BYTES = 8 << 20
# A process that cannot have so many more bytes has none for a model either.
ROOM = 32 << 20
MAX_ELEMENTS = 4_000_000
MAX_NODES = 500
MAX_TREES = 1000  # as the settings have it
MAX_TREE_NODES = 1_000_000
# The runtime follows a tree by recursion; the trainings' trees go 8 deep.
MAX_TREE_DEPTH = 64

# What a session takes: so much, and so many times its bytes (measured with onnxruntime
# 1.32: a forest of 150 KB takes 950 KB, an LSTM of 30 KB 430 KB; the bytes are kept too).
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
    """

    meta: dict[str, Any]
    run: Run
    data: bytes

    @property
    def graph(self) -> onnx.ModelProto:
        """The graph, for a training that starts from it; parsed anew, for it is large."""
        graph = onnx.ModelProto()
        graph.ParseFromString(self.data)
        del graph.metadata_props[:]
        return graph

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return SESSION_BYTES + SESSION_FACTOR * len(self.data)


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
    """Check stored bytes and make a scoring session of them.

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
    MemoryError
    """
    if len(data) > MAX_BYTES:
        raise _unreadable(f"{len(data)} bytes are more than {MAX_BYTES}")
    try:
        graph = onnx.ModelProto.FromString(data)
        meta = _meta(graph, kind)
        check(graph)
        if wrong := limits.fault(kind, meta, graph):
            raise _unreadable(wrong)
        return Model(meta, _guarded(engine.session(data), limits.outputs(kind, meta)), data)
    except UnreadableModel:
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
        return _unreadable("it is not an ONNX file")
    return _unreadable(_first_line(error))


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
            raise _unreadable("an answer of another shape")
        if not all(np.isfinite(cells).all() for cells in found):
            raise _unreadable("an answer that is no number")
        return found

    return guarded


def _unreadable(why: str) -> UnreadableModel:
    return UnreadableModel("the stored model cannot be read", detail=f"Found: {why}.")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _meta(graph: onnx.ModelProto, kind: str) -> dict[str, Any]:
    entries = [entry.value for entry in graph.metadata_props if entry.key == "pyml"]
    if len(entries) != 1:
        raise _unreadable("its metadata is missing")
    meta = json.loads(entries[0], parse_constant=_no_number)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise _unreadable("its format is of another version")
    if meta.get("kind") != kind:
        raise _unreadable(f"it is not a model of kind {kind}")
    return meta


def _no_number(name: str) -> None:
    raise _unreadable(f"{name} in its metadata")


def check(model: onnx.ModelProto) -> None:
    """Refuse a graph with anything in it that the trainings never write.

    Raises
    ------
    UnreadableModel
    """
    graph = model.graph
    if model.functions or graph.sparse_initializer or len(graph.node) > MAX_NODES:
        raise _unreadable("a graph of another shape")
    elements = 0
    for tensor in graph.initializer:
        elements += _tensor(tensor)
    for node in graph.node:
        if (node.domain, node.op_type) not in OPERATORS:
            raise _unreadable(f"operator {node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors:
                raise _unreadable(f"a graph inside operator {node.op_type}")
            if attribute.HasField("t"):
                elements += _tensor(attribute.t)
        if node.op_type == "TreeEnsemble" and _trees(node) >= _columns(graph):
            raise _unreadable("a tree on a feature that is not there")
    if elements > MAX_ELEMENTS:
        raise _unreadable(f"{elements} numbers")


def _columns(graph: onnx.GraphProto) -> int:
    """Columns of a graph's input, which are those that its trees look at."""
    shapes = [fed.type.tensor_type.shape.dim for fed in graph.input]
    return int(shapes[0][1].dim_value) if list(map(len, shapes)) == [2] else 0


def _tensor(tensor: onnx.TensorProto) -> int:
    """Number of elements of a tensor whose data is inline and of the stated size."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise _unreadable("data outside the file")
    if any(size < 0 for size in tensor.dims) or len(tensor.dims) > 4:
        raise _unreadable(f"a tensor of shape {list(tensor.dims)}")
    count = int(math.prod(tensor.dims))
    if count > MAX_ELEMENTS:
        raise _unreadable(f"a tensor of shape {list(tensor.dims)}")
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
        raise _unreadable(f"a tensor of type {tensor.data_type} and shape {list(tensor.dims)}")
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
        raise _unreadable("trees with other attributes")
    arrays = {}
    for attribute in node.attribute:
        name, kind = attribute.name, attribute.type
        if name in TREE_INTS and kind == onnx.AttributeProto.INTS:
            arrays[name] = np.array(attribute.ints, dtype=np.int64)
        elif kind == onnx.AttributeProto.TENSOR and TREE_TENSORS.get(name) == attribute.t.data_type:
            arrays[name] = _cells(attribute.t)
        elif kind != onnx.AttributeProto.INT or TREE_NUMBERS.get(name) != attribute.i:
            raise _unreadable("trees with other attributes")
    return arrays


def _trees(node: onnx.NodeProto) -> int:
    """Highest feature that the trees look at.

    Refuses what is no set of trees: each node and each leaf that is there has one way
    to it, from a node before it or as a root, so that nothing goes round in a circle
    or is shared; and trees that are too deep.
    """
    arrays = _tree_arrays(node)
    roots, feature, weights = (
        arrays[name] for name in ("tree_roots", "nodes_featureids", "leaf_weights")
    )
    nodes, leaves = len(feature), len(weights)
    size = {"tree": len(roots), "nodes": nodes, "leaf": leaves}
    if any(cells.shape != (size[name.split("_")[0]],) for name, cells in arrays.items()):
        raise _unreadable("trees whose parts differ in length")
    if not 0 < len(roots) <= MAX_TREES or max(nodes, leaves) > MAX_TREE_NODES:
        raise _unreadable(f"{len(roots)} trees of {nodes} nodes and {leaves} leaves")
    if arrays["nodes_modes"].any() or not np.isfinite(arrays["nodes_splits"]).all():
        raise _unreadable("trees with nodes of another kind")
    if arrays["leaf_targetids"].any() or not np.isfinite(weights).all():
        raise _unreadable("trees with other weights")
    if (feature < 0).any():
        raise _unreadable("a tree on a feature that is not there")
    child = np.stack([arrays["nodes_truenodeids"], arrays["nodes_falsenodeids"]])  # (2, nodes)
    ends = np.stack([arrays["nodes_trueleafs"], arrays["nodes_falseleafs"]])
    if ((ends | 1) != 1).any():
        raise _unreadable("trees with nodes of another kind")
    inner = ends == 0
    if (
        (roots < 0).any()
        or (roots >= nodes).any()
        or (child < 0).any()
        or (child >= np.where(inner, nodes, leaves)).any()
        or (inner & (child <= np.arange(nodes))).any()
    ):
        raise _unreadable("a tree whose branches lead outside it")
    goal = child + nodes * ends  # leaves are numbered after the nodes
    ways = np.bincount(np.r_[roots, goal.ravel()], minlength=nodes)
    if (ways[:nodes] != 1).any() or (ways > 1).any():
        raise _unreadable("trees that share a branch")
    true, false = goal
    front, levels = roots, 0
    while front.size:
        levels += 1
        if levels > MAX_TREE_DEPTH:
            raise _unreadable(f"a tree of more than {MAX_TREE_DEPTH} levels")
        front = np.concatenate([true.take(front), false.take(front)])
        front = front.compress(front < nodes)
    return int(feature.max())
