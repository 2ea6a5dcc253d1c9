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
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from pyml import engine, limits
from pyml.engine import Run
from pyml.errors import UnreadableModel

# Raised when what a reader of the metadata must know changes; a reader of the old
# format is then kept beside the new one.
FORMAT = 1

MAX_BYTES = 8 << 20
MAX_ELEMENTS = 4_000_000
MAX_NODES = 500
MAX_TREE_NODES = 2_000_000
# The runtime follows a tree by recursion; the trainings' trees go 8 deep.
MAX_TREE_DEPTH = 64

# What the graphs of the forest and of the LSTM are made of, and nothing else.
OPERATORS = {
    ("", name)
    for name in (
        "Add", "Asinh", "Cast", "Clip", "Concat", "Div", "Exp", "IsNaN", "LSTM",
        "MatMul", "Mul", "Neg", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Softmax",
        "Squeeze", "Sub", "TopK", "Transpose", "Where",
    )
} | {("ai.onnx.ml", "TreeEnsembleRegressor")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A stored model, ready to score.

    Attributes
    ----------
    meta : dict
        What the module that trained it needs to score.
    run : callable
        Feeds arrays by input name, gives the list of outputs.
    graph : onnx.ModelProto
        For a training that starts from it.
    size : int
        Bytes of the blob.
    """

    meta: dict[str, Any]
    run: Run
    graph: onnx.ModelProto
    size: int


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
    """
    if len(data) > MAX_BYTES:
        raise _unreadable(f"{len(data)} bytes are more than {MAX_BYTES}")
    try:
        graph = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _unreadable("it is not an ONNX file") from error
    try:
        meta = _meta(graph, kind)
        check(graph)
        if wrong := limits.fault(kind, meta, graph):
            raise _unreadable(wrong)
        del graph.metadata_props[:]
        run = _guarded(engine.session(graph), limits.outputs(kind, meta))
        return Model(meta, run, graph, len(data))
    except UnreadableModel:
        raise
    except Exception as error:
        # onnx and onnxruntime raise types of their own, down to bare RuntimeError.
        raise _unreadable(str(error).splitlines()[0] if str(error) else repr(error)) from error


def _guarded(run: Run, shapes: list[tuple[int, ...]]) -> Run:
    """A graph's `run` that says so when what comes out is no answer.

    Only a run shows all that a graph does: what fits together for one number of rows may
    not for another, and weights that are numbers may overflow.
    """

    def guarded(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            found = run(feeds)
        except Exception as error:
            raise _unreadable(str(error).splitlines()[0]) from error
        rows = len(next(iter(feeds.values())))
        if [cells.shape for cells in found] != [(rows, *shape) for shape in shapes]:
            raise _unreadable("an answer of another shape")
        if not all(np.isfinite(cells).all() for cells in found):
            raise _unreadable("an answer that is no number")
        return found

    return guarded


def _unreadable(why: str) -> UnreadableModel:
    return UnreadableModel("the stored model cannot be read", detail=f"Found: {why}.")


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
    for i, node in enumerate(graph.node):
        if (node.domain, node.op_type) not in OPERATORS:
            raise _unreadable(f"operator {node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors:
                raise _unreadable(f"a graph inside operator {node.op_type}")
            if attribute.HasField("t"):
                elements += _tensor(attribute.t)
        if node.op_type == "TreeEnsembleRegressor" and _trees(node) >= _width(
            graph, node.input[0], i
        ):
            raise _unreadable("a tree on a feature that is not there")
    if elements > MAX_ELEMENTS:
        raise _unreadable(f"{elements} numbers")


def _tensor(tensor: onnx.TensorProto) -> int:
    """Number of elements of a tensor whose data is inline and of the stated size."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise _unreadable("data outside the file")
    if any(size < 0 for size in tensor.dims) or len(tensor.dims) > 4:
        raise _unreadable(f"a tensor of shape {list(tensor.dims)}")
    count = int(math.prod(tensor.dims))
    if count > MAX_ELEMENTS:
        raise _unreadable(f"a tensor of shape {list(tensor.dims)}")
    numpy_helper.to_array(tensor)  # raises where shape and data disagree
    return count


# What these give is at least as wide as the widest of what they take.
WIDENING = {"Add", "Clip", "Concat", "Div", "Identity", "Mul", "Sub", "Where"}


def _width(graph: onnx.GraphProto, name: str, before: int) -> int:
    """Columns that a tensor has at least, by way of the graph's inputs; 0 where unknown.

    Looks at the nodes `before` an index alone: onnxruntime refuses a graph whose nodes
    take what a later one gives, and going backwards cannot go round in a circle.
    """
    for fed in graph.input:
        if fed.name == name:
            shape = fed.type.tensor_type.shape.dim
            return int(shape[1].dim_value) if len(shape) == 2 else 0
    for i in range(before):
        node = graph.node[i]
        if name in node.output:
            if node.op_type not in WIDENING:
                return 0
            return max((_width(graph, source, i) for source in node.input), default=0)
    return 0


def _trees(node: onnx.NodeProto) -> int:
    """Highest feature that the trees look at.

    Refuses trees whose node, child or feature indices lead outside them or in a circle.
    """
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def ints(name: str) -> NDArray[np.int64]:
        return np.asarray(attributes.get(name, []), dtype=np.int64)

    tree, node_id = ints("nodes_treeids"), ints("nodes_nodeids")
    count = len(tree)
    leaf = np.array([mode == b"LEAF" for mode in attributes.get("nodes_modes", [])], dtype=bool)
    known = {b"LEAF", b"BRANCH_LEQ"}
    children = (ints("nodes_truenodeids"), ints("nodes_falsenodeids"))
    feature = ints("nodes_featureids")
    sizes = {len(tree), len(node_id), len(leaf), len(feature), *map(len, children)}
    values = attributes.get("nodes_values", [])
    if count == 0 or count > MAX_TREE_NODES or sizes != {count} or len(values) != count:
        raise _unreadable("trees whose parts differ in length")
    if set(attributes["nodes_modes"]) - known or not np.isfinite(values).all():
        raise _unreadable("trees with nodes of another kind")
    if (np.diff(tree) < 0).any() or tree[0] != 0 or (np.diff(tree) > 1).any():
        raise _unreadable("trees out of order")
    first = np.flatnonzero(np.r_[True, np.diff(tree) > 0])
    size = np.diff(np.r_[first, count])
    start, span = first[tree], size[tree]
    if (node_id != np.arange(count) - start).any():
        raise _unreadable("tree nodes out of order")
    inner = ~leaf
    for child in children:
        # Children come after their parent, so that no path can be a circle.
        if ((child <= node_id) | (child >= span))[inner].any():
            raise _unreadable("a tree whose branches lead outside it")
    front = first
    for _ in range(MAX_TREE_DEPTH):
        front = front[inner[front]]
        front = np.concatenate([start[front] + child[front] for child in children])
    if front.size:
        raise _unreadable(f"a tree of more than {MAX_TREE_DEPTH} levels")
    if (feature < 0).any():
        raise _unreadable("a tree on a feature that is not there")
    leaf_tree, leaf_node = ints("target_treeids"), ints("target_nodeids")
    weights, target = attributes.get("target_weights", []), ints("target_ids")
    if {len(leaf_tree), len(leaf_node), len(weights), len(target)} != {int(leaf.sum())}:
        raise _unreadable("trees whose leaves and weights differ in number")
    if not np.isfinite(weights).all() or target.any() or attributes.get("n_targets") != 1:
        raise _unreadable("trees with other weights")
    if (leaf_tree < 0).any() or (leaf_tree > tree[-1]).any() or (leaf_node < 0).any():
        raise _unreadable("leaf weights outside the trees")
    at = first[leaf_tree] + leaf_node
    if (leaf_node >= size[leaf_tree]).any() or not leaf[at].all():
        raise _unreadable("leaf weights outside the trees")
    return int(feature.max())
