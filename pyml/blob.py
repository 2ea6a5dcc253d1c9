"""A model <-> the bytes that are stored: one ONNX file, checked before it is used.

Whoever can write to the models table must not thereby own the server, nor stop it. So nothing
here unpickles, and no library parses: a stored model has one of two known shapes, and is,
byte for byte, what is written of its numbers and its metadata.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml import engine, forest, limits, trees, wire
from pyml.engine import Run
from pyml.errors import unreadable
from pyml.trees import Remembering, Trees
from pyml.wire import Graph, Numbers

# Raised when what a reader of the metadata must know changes; a reader of the old
# format is then kept beside the new one.
FORMAT = 1

# A thousand trees take 1.4 MB, what is known of 200 metrics 4 MB; the longest LSTM 1.5 MB.
MAX_BYTES = {"forest": 8 << 20, "lstm": 2 << 20}
# Lists and objects in its metadata; those of 200 metrics have 2,500.
MAX_LISTS = 50_000
# A process that cannot have so many more bytes has none for a model either.
ROOM = 32 << 20


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
    def numbers(self) -> Numbers:
        """What a training may start from."""
        return _numbers(wire.read(self.data), self.meta["kind"])


def pack(numbers: Numbers, meta: dict[str, Any], kind: str) -> bytes:
    """The bytes to store: the graph with `meta` in its metadata; same input, same bytes."""
    told = {**meta, "format": FORMAT, "kind": kind}
    text = json.dumps(told, sort_keys=True, allow_nan=False)
    return wire.written(_graph(numbers, meta, kind), text)


def _graph(numbers: Numbers, meta: dict[str, Any], kind: str) -> Graph:
    if kind == "forest":
        return trees.graph(numbers)
    return engine.graph(numbers, meta["sequence_length"], meta["horizon"])


def _numbers(file: wire.File, kind: str) -> Numbers:
    return file.attributes() | file.tensors() if kind == "forest" else file.tensors()


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
    MemoryError
    """
    if kind not in MAX_BYTES:
        raise unreadable(f"there is no kind {kind}")
    if len(data) > MAX_BYTES[kind]:
        raise unreadable(f"{len(data)} bytes are more than {MAX_BYTES[kind]}")
    with guarded():
        file = wire.read(data)
        meta = _meta(file.meta, kind)
        if wrong := limits.fault(kind, meta):
            raise unreadable(wrong)
        numbers = _numbers(file, kind)
        if wire.written(_graph(numbers, meta, kind), file.meta) != data:
            raise unreadable("a graph of another shape")
        make = _forest if kind == "forest" else _lstm
        run, size, shapes = make(numbers, meta)
        return Model(meta, _answering(run, shapes), data, size + len(data))


Made = tuple[Run, int, list[tuple[int, ...]]]
"""What scores, about how many bytes it takes, and the shapes of what it gives for a row."""


def _forest(numbers: Numbers, meta: dict[str, Any]) -> Made:
    spans = forest.spans_of(meta["interval"])
    if any(meta[name] != value for name, value in spans.items()):
        raise unreadable("spans of another interval")
    width = len(meta["names"]) * (1 + len(meta["windows"])) + 3
    if numbers["fill"].shape != (width,):
        raise unreadable(f"{len(numbers['fill'])} features")
    wood = Remembering(Trees.of(numbers), width)
    fill, rate = numbers["fill"], numbers["rate"]

    def run(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Where ``again`` is fed beside ``features``, they may come again, and are remembered."""
        readings = feeds["features"]
        depth = wood.sums(np.where(np.isnan(readings), fill, readings), again="again" in feeds)
        with np.errstate(over="ignore"):
            return [-np.exp(depth * rate)[:, None]]

    return run, wood.size, [(1,)]


def _lstm(numbers: Numbers, meta: dict[str, Any]) -> Made:
    length, horizon = meta["sequence_length"], meta["horizon"]
    size = sum(cells.nbytes for cells in numbers.values())
    shapes: list[tuple[int, ...]] = [(horizon,), (horizon, engine.EXPERTS)]
    return engine.runner(numbers, length, horizon), size, shapes


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever is raised inside is said of the model.

    Raises
    ------
    UnreadableModel
        For all but want of memory, and what has a code of its own: pyml's errors, and the
        server's, such as a cancel.
    MemoryError
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if hasattr(error, "sqlstate"):
            raise
        bytes(ROOM)  # asks for it: libraries raise the same errors where memory is missing
        raise unreadable(str(error).partition("\n")[0] or repr(error)) from error


def _answering(run: Run, shapes: list[tuple[int, ...]]) -> Run:
    """A graph's `run` that says so when what comes out is no answer.

    Weights that are numbers may overflow.
    """

    def answering(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with guarded():
            found = run(feeds)
        rows = len(next(iter(feeds.values())))
        if [cells.shape for cells in found] != [(rows, *shape) for shape in shapes]:
            raise unreadable("an answer of another shape")
        if not all(np.isfinite(cells).all() for cells in found):
            raise unreadable("an answer that is no number")
        return found

    return answering


def _meta(text: str, kind: str) -> dict[str, Any]:
    if text.count("[") + text.count("{") > MAX_LISTS:
        raise unreadable(f"more than {MAX_LISTS} lists in its metadata")
    meta = json.loads(text, parse_constant=_no_number)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise unreadable("its format is of another version")
    if meta.get("kind") != kind:
        raise unreadable(f"it is not a model of kind {kind}")
    return meta


def _no_number(name: str) -> None:
    raise unreadable(f"{name} in its metadata")
