"""ONNX files as they are written and read here, beside the library that knows all of the format."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto

from pyml.errors import UnreadableModel
from pyml.models import wire
from pyml.models.wire import Graph, Node


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.integers(0, (1 << 28) - 1) | st.integers(0, 200), max_size=50),
    big=st.booleans(),
)
def test_whole_numbers_are_written_as_the_library_does_and_read_again(numbers, big):
    cells = np.array(numbers if big else [number % 128 for number in numbers], np.int64)
    attribute = AttributeProto(ints=cells.tolist())
    assert wire._wholes(8, cells) == attribute.SerializeToString()
    np.testing.assert_array_equal(wire._read_wholes(memoryview(wire._wholes(8, cells))), cells)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    """Any error of Python's is fine: `blob.load` turns it into ML005."""
    refusals = (UnreadableModel, ValueError, IndexError)
    with contextlib.suppress(*refusals):
        file = wire.read(data)
        file.tensors(), file.attributes()
    with contextlib.suppress(*refusals):
        wire._read_wholes(memoryview(data))


def test_what_was_written_is_read():
    numbers = {"a": np.array([1.5, 2.5]), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
    held = {"many": np.array([0, 5, 300, 70_000]), "cells": np.zeros(3, np.uint8), "one": 7}
    node = Node("Op", ["x"], ["y"], held, "ai.onnx.ml", "it")
    ends = {"x": (wire.FLOAT, (2,))}
    file = wire.read(wire.written(Graph("g", [node], numbers, ends, ends, {"": 18}, 9), '{"☃": 1}'))
    assert file.meta == '{"☃": 1}'
    for found, known in ((file.tensors(), numbers), (file.attributes(), held)):
        for name, cells in found.items():
            np.testing.assert_array_equal(cells, known[name])
            assert cells.dtype == known[name].dtype
    assert file.tensors().keys() == numbers.keys()
    assert file.attributes().keys() == {"many", "cells"}


@pytest.mark.parametrize("count", [wire.MAX_INTS + 1, 4 * wire.MAX_INTS])
def test_numbers_are_bounded(count):
    with pytest.raises(UnreadableModel, match="cannot be read"):
        wire._read_wholes(memoryview(b"\x40\1" * count))
