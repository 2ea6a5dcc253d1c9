"""ONNX files: a graph and its numbers written as bytes, and the numbers read out of bytes.

An ONNX file is one message of protocol buffers, a few dozen kinds of which are enough for
what is stored here (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto,
https://protobuf.dev/programming-guides/encoding). To write them takes no library. To read
them none should be needed: a parser makes an object of each two bytes of a file that somebody
else has written. What is read here is bounded and believed by nobody: whoever reads numbers
writes the file again from them, and compares.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.errors import unreadable

Array = NDArray[Any]
Numbers = Mapping[str, Array]
"""What varies in a graph of a known shape, by name."""

# TensorProto.DataType of the types that are stored, as little-endian bytes.
CODES = {"<f4": 1, "|u1": 2, "<i8": 7, "<f8": 11}
TYPES = {code: np.dtype(kind) for kind, code in CODES.items()}
FLOAT, DOUBLE = CODES["<f4"], CODES["<f8"]
# AttributeProto.AttributeType
INT, TENSOR, INTS = 2, 4, 7

# Fields of one message that are looked at: the graph of an LSTM has some 200.
MAX_FIELDS = 400
# Whole numbers in one attribute: trees have as many nodes, or fewer.
MAX_INTS = 1_000_000
# Seven bits each: the numbers of nodes, and of leaves, take three.
GROUPS = 5


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a graph.

    Attributes
    ----------
    attributes : mapping
        An int, several (a tuple, or an array of int64), or a tensor (any other array) by name.
    """

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph: inputs and outputs by name, each with its type and the sizes beside the rows."""

    name: str
    nodes: Sequence[Node]
    numbers: Numbers
    inputs: Mapping[str, tuple[int, tuple[int, ...]]]
    outputs: Mapping[str, tuple[int, tuple[int, ...]]]
    opsets: Mapping[str, int]
    ir_version: int


# ---- writing -------------------------------------------------------------------


def _varint(number: int) -> bytes:
    """A whole number, not negative, seven bits a byte."""
    cells = bytearray()
    while number > 127:
        cells.append(number & 127 | 128)
        number >>= 7
    cells.append(number)
    return bytes(cells)


def _whole(place: int, number: int) -> bytes:
    return _varint(place << 3) + _varint(number)


def _bytes(place: int, *parts: bytes) -> bytes:
    """A text, a tensor's data or a message within a message."""
    whole = b"".join(parts)
    return _varint(place << 3 | 2) + _varint(len(whole)) + whole


def _text(place: int, text: str) -> bytes:
    return _bytes(place, text.encode())


def _wholes(place: int, numbers: Array) -> bytes:
    """Many whole numbers, each behind its place; at once, for trees have tens of thousands."""
    cells = np.asarray(numbers, np.int64)
    table = np.empty((len(cells), GROUPS + 1), np.uint8)
    there = np.ones(table.shape, np.bool_)
    table[:, 0] = place << 3
    for group in range(GROUPS):
        rest = cells >> 7 * (group + 1)
        table[:, group + 1] = cells >> 7 * group & 127 | np.where(rest > 0, 128, 0)
        if group + 2 <= GROUPS:
            there[:, group + 2] = rest > 0
    return table[there].tobytes()


def _tensor(place: int, name: str, cells: Array) -> bytes:
    return _bytes(
        place,
        *(_whole(1, size) for size in cells.shape),
        _whole(2, CODES[cells.dtype.str]),
        _text(8, name),
        _bytes(9, cells.tobytes()),
    )


def _attribute(name: str, value: Any) -> bytes:
    if isinstance(value, int):
        told, kind = _whole(3, value), INT
    elif isinstance(value, tuple) or value.dtype == np.int64:
        told, kind = _wholes(8, np.asarray(value)), INTS
    else:
        told, kind = _tensor(5, name, value), TENSOR
    return _bytes(5, _text(1, name), told, _whole(20, kind))


def _node(node: Node) -> bytes:
    return _bytes(
        1,
        *(_text(1, name) for name in node.inputs),
        *(_text(2, name) for name in node.outputs),
        *([_text(3, node.name)] if node.name else []),
        _text(4, node.op),
        *(_attribute(*one) for one in node.attributes.items()),
        *([_text(7, node.domain)] if node.domain else []),
    )


def _value(place: int, name: str, kind: int, sizes: Sequence[int]) -> bytes:
    """An input or an output: n rows of so many numbers."""
    dims = _bytes(1, _text(2, "n")), *(_bytes(1, _whole(1, size)) for size in sizes)
    return _bytes(place, _text(1, name), _bytes(2, _bytes(1, _whole(1, kind), _bytes(2, *dims))))


def written(graph: Graph, meta: str) -> bytes:
    """The bytes of a graph with a text in its metadata; same input, same bytes."""
    return b"".join(
        (
            _whole(1, graph.ir_version),
            _text(2, "pyml"),
            _bytes(
                7,
                *map(_node, graph.nodes),
                _text(2, graph.name),
                *(_tensor(5, *one) for one in graph.numbers.items()),
                *(_value(11, name, *of) for name, of in graph.inputs.items()),
                *(_value(12, name, *of) for name, of in graph.outputs.items()),
            ),
            *(_bytes(8, _text(1, domain), _whole(2, of)) for domain, of in graph.opsets.items()),
            _bytes(14, _text(1, "pyml"), _text(2, meta)),
        )
    )


# ---- reading -------------------------------------------------------------------


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Place and value of each field of a message.

    Raises
    ------
    UnreadableModel
    """
    at, count, size = 0, 0, len(data)
    while at < size:
        count += 1
        if count > MAX_FIELDS:
            raise unreadable(f"more than {MAX_FIELDS} parts of one thing")
        tag, at = _number(data, at)
        value, at = _number(data, at)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2 and at + value <= size:
            yield tag >> 3, data[at : at + value]
            at += value
        else:
            raise unreadable("it is not an ONNX file")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    found = 0
    for group, cell in enumerate(data[at : at + GROUPS]):
        found |= (cell & 127) << 7 * group
        if cell < 128:
            return found, at + group + 1
    raise unreadable("it is not an ONNX file")


def _parts(data: int | memoryview, place: int) -> Iterator[memoryview]:
    """The texts or messages at a place of a message."""
    if isinstance(data, memoryview):
        for where, value in _fields(data):
            if where == place and isinstance(value, memoryview):
                yield value


def _read_tensor(data: memoryview) -> tuple[str, Array]:
    sizes: list[int] = []
    name, kind, cells = "", 0, memoryview(b"")
    for where, value in _fields(data):
        match where, value:
            case 1, int(size):
                sizes.append(size)
            case 2, int(code):
                kind = code
            case 8, memoryview():
                name = bytes(value).decode()
            case 9, memoryview():
                cells = value
    if kind not in TYPES:
        raise unreadable(f"numbers of type {kind}")
    return name, np.frombuffer(cells, TYPES[kind]).reshape(sizes)


def _read_wholes(data: memoryview) -> Array:
    """The numbers of `_wholes`."""
    cells = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(cells < 128)  # of each place and each number
    if len(last) > 2 * MAX_INTS:
        raise unreadable(f"more than {MAX_INTS} numbers of one kind")
    start = np.append(0, last + 1)[1:-1:2]
    length = last[1::2] + 1 - start
    if len(length) and length.max() > GROUPS:
        raise unreadable("a number that is too large")
    found = np.zeros(len(start), np.int64)
    for group in range(int(length.max(initial=0))):
        long = np.flatnonzero(length > group)
        found[long] |= (cells[start[long] + group] & 127).astype(np.int64) << 7 * group
    return found


@dataclass(frozen=True, slots=True)
class File:
    """What a file holds beside its structure.

    Attributes
    ----------
    meta : str
        The text in the metadata.
    """

    meta: str
    _graph: memoryview

    def tensors(self) -> dict[str, Array]:
        """The numbers beside the nodes; views of the file."""
        return dict(map(_read_tensor, _parts(self._graph, 5)))

    def attributes(self) -> dict[str, Array]:
        """The arrays among the attributes of the nodes."""
        found = {}
        for node in _parts(self._graph, 1):
            for attribute in _parts(node, 5):
                # A name, the numbers and their kind, in this order.
                size = 2 + attribute[1] if len(attribute) > 2 else 0
                name, rest = bytes(attribute[2:size]).decode(), attribute[size:-3]
                kind = attribute[-1] if size else 0
                if kind == INTS:
                    found[name] = _read_wholes(rest)
                elif kind == TENSOR:
                    for tensor in _parts(rest, 5):
                        found[name] = _read_tensor(tensor)[1]
        return found


def read(data: bytes) -> File:
    """What was `written`, or what may look like it.

    Raises
    ------
    UnreadableModel
    """
    graph: memoryview | None = None
    texts: list[str] = []
    for where, value in _fields(memoryview(data)):
        if where == 7 and isinstance(value, memoryview):
            graph = value
        elif where == 14:
            texts += (bytes(text).decode() for text in _parts(value, 2))
    if graph is None or len(texts) != 1:
        raise unreadable("its metadata is missing")
    return File(texts[0], graph)
