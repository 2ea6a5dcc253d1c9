"""The message classes of onnx without the rest of it.

``import onnx`` also loads a checker and converters, which takes longer than all else of a
first scoring but numpy. What reads a stored model needs the classes and one function.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx as onnx


def _imported(name: str) -> ModuleType:
    """A module of onnx, imported from a package onnx that is otherwise empty.

    It stays in `sys.modules` under its own name: a later ``import onnx`` takes it over,
    and there is one class for each message, as protobuf wants it.
    """
    found = importlib.util.find_spec("onnx")
    if "onnx" in sys.modules or found is None:
        return importlib.import_module(name)
    package = ModuleType("onnx")
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules["onnx"] = package
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["onnx"]


if not TYPE_CHECKING:
    onnx = _imported("onnx.onnx_ml_pb2")


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """What ``onnx.shape_inference.infer_shapes`` gives when it is strict."""
    native = _imported("onnx.onnx_cpp2py_export")  # a scoring forest has no need of it
    inferred = native.shape_inference.infer_shapes(model.SerializeToString(), True, True, True)
    known = onnx.ModelProto()
    known.ParseFromString(inferred)
    return known
