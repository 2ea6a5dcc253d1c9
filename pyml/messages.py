"""The message classes of onnx without the rest of it.

``import onnx`` also loads a checker, converters and a C library, which takes longer than
all else of a first scoring but numpy. What reads a stored model needs the classes alone.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx as onnx


def _messages() -> ModuleType:
    """The module of the classes, imported from a package onnx that is otherwise empty.

    It stays in `sys.modules` under its own name: a later ``import onnx`` takes it over,
    and there is one class for each message, as protobuf wants it.
    """
    name = "onnx.onnx_ml_pb2"
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
    onnx = _messages()
