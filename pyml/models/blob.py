"""A model <-> the bytes that are stored: one ONNX file, checked before it is used.

Whoever can write to the models table must not thereby own the server, nor stop it. So nothing
here unpickles, and no library parses: a stored model has the shape that its owner, a detector or
a forecaster, gives it, and is, byte for byte, what is written of its numbers and its metadata.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyml.background import require_room
from pyml.errors import unreadable
from pyml.models import wire
from pyml.models.wire import Graph, Numbers
from pyml.queries import literal

# Raised when what a reader of the metadata must know changes; a reader of the old
# format is then kept beside the new one.
FORMAT = 1

# Lists and objects in its metadata; those of 200 metrics have 2,500.
MAX_LISTS = 50_000


class Known(Protocol):
    """What a model knows beside its numbers."""

    def to_json(self) -> dict[str, Any]:
        """The stored form: one flat object."""


M = TypeVar("M", bound=Known)
Run = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]
"""Runs a graph: input name -> array, to the outputs in order."""


@dataclass(frozen=True, slots=True)
class Runner:
    """What runs a graph.

    Attributes
    ----------
    run : Run
    size : int
        About how many bytes of memory it takes.
    shapes : sequence of tuple
        The shape of each output for one row of the input.
    """

    run: Run
    size: int
    shapes: list[tuple[int, ...]]


class Owner(ABC, Generic[M]):
    """Who knows what a kind of model is made of: a detector, or a forecaster.

    Attributes
    ----------
    kind : str
        Its name, in ``ml_model.kind`` and ``ml_anomaly.tier``.
    settings : mapping of str to tuple
        What its training takes: parameter -> the setting's name and the type. A change of such a
        setting makes the models due.
    max_bytes : int
        A stored model is no longer.
    """

    kind: ClassVar[str]
    settings: ClassVar[Mapping[str, tuple[str, type]]] = {}
    max_bytes: ClassVar[int] = 1 << 20

    def training_call(self, device: str, field: str = "", hours: int | None = None) -> str:
        """The statement that trains it, for a person to type.

        `device` is its id in the history; `field` is a forecast's; `hours` is how far back to
        look, where a person is to say so.
        """
        return f"CALL ml_retrain({literal(device)});"

    def to_json(self, model: M) -> dict[str, Any]:
        """The metadata: one flat object."""
        return model.to_json()

    @abstractmethod
    def of_json(self, meta: dict[str, Any]) -> M | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""

    def numbers(self, file: wire.File) -> Numbers:
        """What varies in the graph of a stored file."""
        return file.tensors()

    def graph(self, numbers: Numbers, model: M) -> Graph:
        """The graph of these numbers; here that of an owner whose model says all."""
        return Graph(self.kind, [], {}, {}, {}, {"": 18}, 9)

    def runner(self, numbers: Numbers, model: M) -> Runner:
        """What computes the same as `graph`."""
        return Runner(lambda feeds: [], 0, [])


@dataclass(frozen=True, slots=True)
class Model(Generic[M]):
    """A stored model, ready to score.

    Attributes
    ----------
    owner : Owner
    knows : M
        What its owner needs beside the graph.
    run : callable
        Feeds arrays by input name, gives the list of outputs.
    data : bytes
        What it was loaded from.
    size : int
        About how many bytes of memory it takes.
    """

    owner: Owner[M]
    knows: M
    run: Run
    data: bytes
    size: int

    @property
    def numbers(self) -> Numbers:
        """What a training may start from."""
        return self.owner.numbers(wire.read(self.data))


def pack(owner: Owner[M], numbers: Numbers, model: M) -> bytes:
    """The bytes to store: the graph with the metadata; same input, same bytes."""
    meta = {**owner.to_json(model), "format": FORMAT, "kind": owner.kind}
    text = json.dumps(meta, sort_keys=True, allow_nan=False)
    return wire.written(owner.graph(numbers, model), text)


def load(owner: Owner[M], data: bytes) -> Model[M]:
    """Check stored bytes and make of them what scores.

    Parameters
    ----------
    owner : Owner
        Of the kind that the model has to be.
    data : bytes
        What `pack` gave.

    Raises
    ------
    UnreadableModel
        If anything in it is not as `pack` and the trainings make it.
    MemoryError
    """
    if len(data) > owner.max_bytes:
        raise unreadable(f"{len(data)} bytes are more than {owner.max_bytes}")
    with guarded():
        file = wire.read(data)
        model = owner.of_json(_meta(file.meta, owner.kind))
        if model is None:
            raise unreadable("metadata of another form")
        numbers = owner.numbers(file)
        if wire.written(owner.graph(numbers, model), file.meta) != data:
            raise unreadable("a graph of another shape")
        runner = owner.runner(numbers, model)
        return Model(owner, model, _answering(runner), data, runner.size + len(data))


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what is raised inside into `UnreadableModel`.

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
        require_room()  # libraries raise the same errors where memory is missing
        raise unreadable(str(error).partition("\n")[0] or repr(error)) from error


def _answering(runner: Runner) -> Run:
    """A graph's run whose output is checked.

    Weights that are numbers may overflow.
    """

    def answering(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with guarded():
            found = runner.run(feeds)
        rows = len(next(iter(feeds.values())))
        if [cells.shape for cells in found] != [(rows, *shape) for shape in runner.shapes]:
            raise unreadable("an answer of another shape")
        if not all(np.isfinite(cells).all() for cells in found):
            raise unreadable("an answer that is no number")
        return found

    return answering


def _meta(text: str, kind: str) -> dict[str, Any]:
    if text.count("[") + text.count("{") > MAX_LISTS:
        raise unreadable(f"more than {MAX_LISTS} lists in its metadata")
    meta = json.loads(text, parse_constant=_no_number)
    if not isinstance(meta, dict) or meta.pop("format", None) != FORMAT:
        raise unreadable("its format is of another version")
    if meta.pop("kind", None) != kind:
        raise unreadable(f"it is not a model of kind {kind}")
    return meta


def _no_number(name: str) -> None:
    raise unreadable(f"{name} in its metadata")
