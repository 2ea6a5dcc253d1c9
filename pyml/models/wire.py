"""ONNX files: a graph and its numbers written as bytes, and the numbers read out of bytes.

An ONNX file is one message of protocol buffers, and a few of its fields are enough for what is
stored here (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto,
https://protobuf.dev/programming-guides/encoding). To write them takes no library. To read them
takes none either, and should not: a parser makes an object of any two bytes that somebody else
has written. Reading is bounded here, and nobody relies on it: whoever reads numbers writes the
file again from them, and compares.
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
FLOAT, DOUBLE, INT64 = CODES["<f4"], CODES["<f8"], CODES["<i8"]
# AttributeProto.AttributeType
INT, TENSOR, INTS = 2, 4, 7

# Fields of one message that are looked at: the graph of an LSTM has some 200.
MAX_FIELDS = 400
# Whole numbers in one attribute: trees have as many nodes, or fewer.
MAX_INTS = 1_000_000
# Seven bits each: a length takes as many, the numbers of nodes and of leaves take three.
GROUPS = 4


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


_BYTES = [bytes([number]) for number in range(128)]

# ---- writing -------------------------------------------------------------------


def _varint(number: int) -> bytes:
    """A whole number, not negative, seven bits a byte."""
    if number < 128:  # most of them
        return _BYTES[number]
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
    cells = np.asarray(numbers).astype(np.uint32)
    if not len(cells) or cells.max() < 128:
        pairs = np.empty((len(cells), 2), np.uint8)
        pairs[:, 0], pairs[:, 1] = place << 3, cells
        return pairs.tobytes()
    more = [np.flatnonzero(cells >= 1 << 7 * group) for group in range(1, GROUPS)]
    size = np.full(len(cells), 2)
    for rows in more:
        size[rows] += 1
    start = np.cumsum(size) - size
    found = np.empty(start[-1] + size[-1], np.uint8)
    found[start] = place << 3
    found[start + 1] = cells & 127
    for group, rows in enumerate(more, 1):
        at = start[rows] + group
        found[at] |= 128
        found[at + 1] = cells[rows] >> 7 * group & 127
    return found.tobytes()


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
        body, kind = _whole(3, value), INT
    elif isinstance(value, tuple) or value.dtype == np.int64:
        body, kind = _wholes(8, np.asarray(value)), INTS
    else:
        body, kind = _tensor(5, name, value), TENSOR
    return _bytes(5, _text(1, name), body, _whole(20, kind))


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
    if at < len(data) and data[at] < 128:
        return data[at], at + 1
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
    ends = cells < 128  # of each place and each number
    if np.count_nonzero(ends) > 2 * MAX_INTS:
        raise unreadable(f"more than {MAX_INTS} numbers of one kind")
    if ends.all():
        return cells[1::2].astype(np.int64)
    last = np.flatnonzero(ends)
    start, last = last[::2] + 1, last[1::2]
    found = (cells[start] & 127).astype(np.int64)
    more = np.flatnonzero(last > start)
    for group in range(1, GROUPS):
        found[more] |= (cells[start[more] + group] & 127).astype(np.int64) << 7 * group
        more = more[last[more] > start[more] + group]
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
        """The arrays among the attributes of the nodes, by the attribute's name."""
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
