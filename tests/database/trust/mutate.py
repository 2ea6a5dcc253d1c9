"""Blobs as an attacker might store them: damaged at random, changed by field, made by hand."""

import io
import itertools
import json
import pickle
import random
import zipfile
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pyml.training import owner_of

INTEGERS = (-(2**63), -(2**31), -5, -1, 0, 1, 2, 7, 500, 10**6, 2**31 - 1, 2**31, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-45, 1e38, -3e38)
NAMES = ("", "features", "window", "score", "filled", "nobody", "x" * 10_000)
OPERATORS = (
    *("Add", "Cast", "Clip", "Concat", "Div", "Exp", "IsNaN", "LSTM", "MatMul", "Mul", "Neg"),
    *("ReduceSum", "Reshape", "Slice", "Softmax", "Squeeze", "TopK", "Transpose", "Where", "Loop"),
    *("ConstantOfShape", "Expand", "Tile", "Pad", "RandomNormal", "TreeEnsemble"),
)
VALUES = (
    *(None, True, "", "x" * 1000, -1, 0, 1, 3, 10**9, 10**30, 1e308, -1e308, 1e-300, [], {}, [[]]),
    *([0] * 5000, ["a", None], {"a": {"b": 1}}, float("nan"), float("inf"), "system.cpuUsage"),
)
META = "pyml"


def mutated(blob: bytes, rng: random.Random) -> bytes:
    """A blob with something wrong in it, most of the time."""
    return rng.choice((_bytes, _fields, _fields, _meta))(blob, rng)


def _bytes(blob: bytes, rng: random.Random) -> bytes:
    """Bits flipped, a part cut off, left out, doubled or overwritten."""
    data = bytearray(blob)
    start, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 300))
    match rng.randrange(5):
        case 0:
            for _ in range(rng.choice((1, 2, 8, 100))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[start:]
        case 2:
            del data[start : start + length]
        case 3:
            data[start:start] = data[start : start + length]
        case 4:
            data[start : start + length] = rng.randbytes(length)
    return bytes(data)


def _fields(blob: bytes, rng: random.Random) -> bytes:
    """Some fields of the graph changed, each to something of its own type."""
    model = onnx.ModelProto.FromString(blob)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice((_attribute, _attribute, _node, _tensor, _tensor, _shape, _wiring))(model, rng)
    return bytes(model.SerializeToString())


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    if rng.random() < 0.1:
        attribute.name = rng.choice(("base_values", "n_targets", "axis", "post_transform", "to"))
    if attribute.ints:
        at, cells = rng.randrange(len(attribute.ints)), attribute.ints
        match rng.randrange(4):
            case 0:
                cells[at] = rng.choice(INTEGERS)
            case 1:
                cells[at] = cells[rng.randrange(len(cells))]
            case 2:
                del cells[at:]
            case 3:
                cells.extend([rng.choice(INTEGERS)] * rng.choice((1, 100)))
    elif attribute.floats:
        attribute.floats[rng.randrange(len(attribute.floats))] = rng.choice(FLOATS)
    elif attribute.strings:
        at = rng.randrange(len(attribute.strings))
        attribute.strings[at] = rng.choice((b"LEAF", b"BRANCH_LEQ", b"BRANCH_GT", b"", b"\xff" * 9))
    elif attribute.HasField("t"):
        _number(attribute.t, rng)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(INTEGERS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice((b"MAX", b"AVERAGE", b"PROBIT", b"", b"\x00"))


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    at = rng.randrange(len(nodes))
    match rng.randrange(5):
        case 0:
            del nodes[at]
        case 1:
            nodes[at].op_type = rng.choice(OPERATORS)
        case 2:
            nodes.add().CopyFrom(nodes[at])
        case 3:
            del nodes[at].attribute[:]
        case 4:
            nodes[at].domain = rng.choice(("", "ai.onnx.ml", "com.microsoft", "\u2603"))


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(6):
        case 0:
            tensor.dims.append(rng.choice(INTEGERS))
        case 1 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
        case 2:
            tensor.data_type = rng.choice([*TensorProto.DataType.values(), 99])
        case 3:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 4:
            _number(tensor, rng)
        case 5:
            tensor.name = rng.choice(NAMES)


def _number(tensor: TensorProto, rng: random.Random) -> None:
    """Change one number of a tensor, unless that was damaged before."""
    try:
        cells = numpy_helper.to_array(tensor).copy()
    except Exception:
        return
    if cells.size and cells.dtype.kind in "iuf":
        choice = rng.choice(FLOATS if cells.dtype.kind == "f" else INTEGERS)
        with np.errstate(over="ignore"):
            cells.reshape(-1)[rng.randrange(cells.size)] = np.array(choice).astype(cells.dtype)
        tensor.CopyFrom(numpy_helper.from_array(cells, tensor.name))


def _shape(model: onnx.ModelProto, rng: random.Random) -> None:
    declared = [*model.graph.input, *model.graph.output]
    if not declared:
        return
    value = rng.choice(declared)
    match rng.randrange(4):
        case 0 if value.type.tensor_type.shape.dim:
            rng.choice(value.type.tensor_type.shape.dim).dim_value = rng.choice(INTEGERS)
        case 1:
            value.type.tensor_type.elem_type = rng.choice([0, 1, 7, 8, 11, 99])
        case 2:
            value.name = rng.choice(NAMES)
        case 3:
            value.type.tensor_type.shape.dim.add().dim_value = rng.choice(INTEGERS)


def _wiring(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [node for node in model.graph.node if node.input and node.output]
    if not nodes:
        return
    one, other = rng.choice(nodes), rng.choice(nodes)
    source = rng.choice((*NAMES, *one.input, *other.output))
    match rng.randrange(4):
        case 0:
            one.input[rng.randrange(len(one.input))] = source
        case 1:
            one.output[rng.randrange(len(one.output))] = source
        case 2:
            one.input.append(source)
        case 3:
            del one.input[rng.randrange(len(one.input)) :]


def _meta(blob: bytes, rng: random.Random) -> bytes:
    """The metadata with something in it replaced, added or taken away, however deep."""
    model = onnx.ModelProto.FromString(blob)
    entry = next(entry for entry in model.metadata_props if entry.key == META)
    meta = json.loads(entry.value)
    place = meta
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.6:
            place = place[key]
            continue
        match rng.randrange(4):
            case 0:
                del place[key]
            case 1 if isinstance(place, list):
                place.extend([place[key]] * rng.choice((1, 1000)))
            case 1:
                place["x" * 100] = rng.choice(VALUES)
            case _:
                place[key] = rng.choice(VALUES)
        break
    entry.value = json.dumps(meta)
    return bytes(model.SerializeToString())


# ---- made by hand --------------------------------------------------------------------


def crafted(blob: bytes, kind: str) -> Iterator[tuple[str, bytes]]:
    """Attacks by name; each but `untouched` has to be refused."""
    yield "untouched", blob
    yield "nothing", b""
    yield "pickle", pickle.dumps({"a": 1})
    yield "zip", _archive(b"a model")
    yield "zip bomb", _archive(bytes(50_000_000))
    yield "more bytes than a model has", bytes(40 << 20)
    yield "another kind", _with_meta(blob, kind="lstm" if kind == "forest" else "forest")
    yield "another format", _with_meta(blob, format=999)
    yield "no metadata to speak of", _raw_meta(blob, json.dumps({"format": 1, "kind": kind}))
    yield "metadata that is no object", _raw_meta(blob, "[1]")
    yield "metadata nested too deep", _raw_meta(blob, "[" * 200_000)
    yield "metadata with a giant number", _raw_meta(blob, f'{{"format": {"9" * 100_000}}}')
    width = "names" if kind == "forest" else "sequence_length"
    yield "no width", _with_meta(blob, **{width: None})
    yield "an interval of no time", _with_meta(blob, interval=0)
    yield "an interval of ages", _with_meta(blob, interval=1e300)
    yield "an interval that is no number", _with_meta(blob, interval=float("nan"))
    for name, model in _graphs(onnx.ModelProto.FromString(blob)):
        yield name, bytes(model.SerializeToString())
    room = owner_of(kind).max_bytes - len(blob) - 100
    for name, part in (
        ("empty tensors without end", _field(7, b"\x2a\0" * (room // 2))),
        ("a node of empty attributes", _field(7, _field(1, b"\x2a\0" * (room // 2)))),
        ("a tensor of dimensions", _field(7, _field(5, b"\x08\1" * (room // 2)))),
        ("an attribute of numbers", _field(7, _field(1, _field(5, b"\x40\0" * (room // 2))))),
        ("values without end", _field(7, b"\x6a\0" * (room // 2))),
        ("nodes without end", _field(7, b"\x0a\0" * (room // 2))),
        ("empty metadata without end", b"\x72\0" * (room // 2)),
        ("what no field is for", b"\xf8\x7f\1" * (room // 3)),
    ):
        yield name, blob + part
    lists = ", ".join(["[]"] * (room // 4))
    yield (
        "metadata of empty lists",
        _raw_meta(blob, f'{{"format": 1, "kind": "{kind}", "x": [{lists}]}}'),
    )
    objects = ", ".join(["{}"] * (room // 4))
    yield "metadata of empty objects", _raw_meta(blob, f"[{objects}]")
    yield "metadata of numbers", _raw_meta(blob, f"[{'0,' * (room // 2)}0]")
    for name, path in (
        ("half of a pair", "a\ud800"),
        ("nothing", "a\0"),
        ("many parts", ".".join("x" * 499)),
    ):
        yield f"a path with {name}", _with_path(blob, path)


def _field(place: int, data: bytes) -> bytes:
    """A message within a message, as protocol buffers have it."""
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([place << 3 | 2]) + length + bytes([size]) + data


def _with_path(blob: bytes, path: str) -> bytes:
    model = onnx.ModelProto.FromString(blob)
    meta = json.loads(next(e.value for e in model.metadata_props if e.key == META))
    if "metric" in meta:
        return _with_meta(blob, metric=meta["metric"] | {"path": path})
    return _with_meta(blob, metrics=[meta["metrics"][0] | {"path": path}, *meta["metrics"][1:]])


def _archive(data: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.pkl", data)
    return held.getvalue()


def _raw_meta(blob: bytes, text: str) -> bytes:
    model = onnx.ModelProto.FromString(blob)
    next(entry for entry in model.metadata_props if entry.key == META).value = text
    return bytes(model.SerializeToString())


def _with_meta(blob: bytes, **changes: object) -> bytes:
    model = onnx.ModelProto.FromString(blob)
    entry = next(entry for entry in model.metadata_props if entry.key == META)
    entry.value = json.dumps(json.loads(entry.value) | changes)
    return bytes(model.SerializeToString())


def _graphs(honest: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The honest model with a part put in between its input and all that reads it."""
    fed = honest.graph.input[0]
    kind = fed.type.tensor_type.elem_type

    def after(*nodes: onnx.NodeProto, **constants: TensorProto) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(honest)
        rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
        for node in rest:
            for place, name in enumerate(node.input):
                if name == fed.name:
                    node.input[place] = "changed"
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])
        for name, tensor in constants.items():
            tensor.name = name
            model.graph.initializer.append(tensor)
        return model

    def ints(*cells: int) -> TensorProto:
        return numpy_helper.from_array(np.array(cells, np.int64))

    def floats(*dims: int) -> TensorProto:
        return numpy_helper.from_array(np.zeros(dims, helper.tensor_dtype_to_np_dtype(kind)))

    def doubling(axis: int, times: int) -> list[onnx.NodeProto]:
        names = [fed.name, *(f"d{i}" for i in range(times))]
        nodes = [
            helper.make_node("Concat", [a, a], [b], axis=axis) for a, b in itertools.pairwise(names)
        ]
        cut = helper.make_node("Slice", [names[-1], "first", "stop", "axis"], ["changed"])
        return [*nodes, cut]

    width = fed.type.tensor_type.shape.dim[1].dim_value
    cut = {"first": ints(0), "stop": ints(width), "axis": ints(1)}
    one, none, leaves = ([1], [0], [0, 0])
    stump = helper.make_node(
        *("TreeEnsemble", ["narrowed"], ["grown"]),
        domain="ai.onnx.ml",
        tree_roots=none,
        nodes_featureids=none,
        leaf_targetids=leaves,
        nodes_truenodeids=none,
        nodes_trueleafs=one,
        nodes_falsenodeids=one,
        nodes_falseleafs=one,
        nodes_modes=numpy_helper.from_array(np.zeros(1, np.uint8)),
        nodes_splits=numpy_helper.from_array(np.zeros(1, np.float32)),
        leaf_weights=numpy_helper.from_array(np.zeros(2, np.float32)),
        n_targets=1,
        aggregate_function=1,
        post_transform=0,
    )
    yield (
        "trees before all else",
        after(
            helper.make_node("Cast", [fed.name], ["narrowed"], to=TensorProto.FLOAT),
            stump,
            helper.make_node("Cast", ["grown"], ["cast"], to=kind),
            helper.make_node("Add", [fed.name, "cast"], ["changed"]),
        ),
    )
    yield "each Concat doubles", after(*doubling(1, 30), **cut)
    yield "each Concat doubles the rows", after(*doubling(0, 30), **cut)
    yield (
        "rows by rows",
        after(
            helper.make_node("Slice", [fed.name, "first", "one", "axis"], ["column"]),
            helper.make_node("Reshape", ["column", "flat"], ["row"]),
            helper.make_node("Add", ["column", "row"], ["square"]),
            helper.make_node("MatMul", ["square", "column"], ["squared"]),
            helper.make_node("Add", [fed.name, "squared"], ["changed"]),
            first=ints(0),
            one=ints(1),
            axis=ints(1),
            flat=ints(1, -1),
        ),
    )
    yield (
        "a wide product",
        after(
            helper.make_node("MatMul", [fed.name, "wide"], ["much"]),
            helper.make_node("MatMul", ["much", "back"], ["changed"]),
            wide=floats(width, 8000),
            back=floats(8000, width),
        ),
    )
    names = [fed.name, *(f"m{i}" for i in range(400)), "changed"]
    yield (
        "many large products",
        after(
            helper.make_node("MatMul", [fed.name, "out"], ["m0"]),
            *(
                helper.make_node("MatMul", [a, "inner"], [b])
                for a, b in itertools.pairwise(names[1:-1])
            ),
            helper.make_node("MatMul", ["m399", "back"], ["changed"]),
            out=floats(width, 700),
            inner=floats(700, 700),
            back=floats(700, width),
        ),
    )
    yield (
        "text in place of numbers",
        after(
            helper.make_node("Cast", [fed.name], ["text"], to=TensorProto.STRING),
            helper.make_node("Cast", ["text"], ["changed"], to=kind),
        ),
    )
    far = TensorProto(data_type=kind, dims=[width], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="/etc/passwd")
    yield (
        "data outside the file",
        after(helper.make_node("Add", [fed.name, "far"], ["changed"]), far=far),
    )
    giant = TensorProto(data_type=kind, dims=[1 << 40, 1 << 20])
    yield (
        "a giant dimension",
        after(helper.make_node("Add", [fed.name, "giant"], ["changed"]), giant=giant),
    )
    yield "its own output", after(helper.make_node("Add", ["changed", fed.name], ["changed"]))
    for operator in ("Loop", "If", "Scan", "Optional", "SequenceConstruct", "RandomNormalLike"):
        yield (
            f"operator {operator}",
            after(
                helper.make_node(operator, [fed.name], ["changed"]),
            ),
        )
    yield (
        "an operator of a library",
        after(helper.make_node("PyOp", [fed.name], ["changed"], domain="ai.onnx.contrib")),
    )
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], [])
    for _ in range(20):
        node = helper.make_node("If", ["x"], ["y"], then_branch=inner)
        inner = helper.make_graph([node], "g", [], [])
    yield (
        "graphs in graphs",
        after(helper.make_node("Add", [fed.name, fed.name], ["changed"], g=inner)),
    )
    called = onnx.ModelProto()
    called.CopyFrom(honest)
    function = called.functions.add(name="Exp", domain="")
    function.input.append("x")
    function.output.append("y")
    yield "a function of its own", called
    trees = [i for i, node in enumerate(honest.graph.node) if node.op_type == "TreeEnsemble"]
    for i in trees:
        chain = onnx.ModelProto()
        chain.CopyFrom(honest)
        _chain(chain.graph.node[i], 100_000)
        yield "one tree as long as a chain", chain
        wood = onnx.ModelProto()
        wood.CopyFrom(honest)
        _chain(wood.graph.node[i], 60, copies=1500)
        yield "more trees than a forest has", wood
        circle = onnx.ModelProto()
        circle.CopyFrom(honest)
        for attribute in circle.graph.node[i].attribute:
            if attribute.name == "nodes_truenodeids":
                attribute.ints[1] = 0
        yield "a tree that goes in a circle", circle


def _chain(node: onnx.NodeProto, length: int, copies: int = 1) -> None:
    """Make trees of a node in which each branch has a leaf on one side, the next on the other."""
    last = np.tile(np.arange(1, length + 1) == length, copies)
    at = np.arange(length * copies)
    leaf = at + at // length  # each tree has a leaf more than it has branches
    ints = {
        "tree_roots": at[::length],
        "nodes_featureids": np.zeros_like(at),
        "nodes_truenodeids": np.where(last, leaf + 1, at + 1),
        "nodes_trueleafs": last.astype(int),
        "nodes_falsenodeids": leaf,
        "nodes_falseleafs": np.ones_like(at),
        "leaf_targetids": np.zeros(len(at) + copies, int),
    }
    tensors = {
        "nodes_modes": np.zeros(len(at), np.uint8),
        "nodes_splits": np.full(len(at), -1e30, np.float32),
        "leaf_weights": np.ones(len(at) + copies, np.float32),
    }
    for attribute in node.attribute:
        if attribute.name in ints:
            del attribute.ints[:]
            attribute.ints.extend(ints[attribute.name].tolist())
        elif attribute.name in tensors:
            cells = tensors[attribute.name]
            attribute.t.CopyFrom(numpy_helper.from_array(cells, attribute.name))
