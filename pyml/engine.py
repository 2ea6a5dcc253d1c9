"""What runs a graph: onnxruntime, set up for a process that is one of many."""

import os
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from pyml.errors import BrokenEnvironment
from pyml.messages import onnx
from pyml.worker import deaf

Run = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]
"""Runs a graph: input name -> array, to the outputs in order."""


def runtime() -> Any:
    """The library, loaded by whoever needs it first: a backend that scores forests does not.

    Raises
    ------
    BrokenEnvironment
        It cannot be loaded.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it sends its maker what it is used for
    try:
        with deaf():  # it starts a thread when it is imported
            import onnxruntime
    except Exception as error:  # whatever a library that is not whole may raise
        raise BrokenEnvironment(
            f"onnxruntime cannot be loaded: {error}",
            detail="Without it there are no forecasts; forests go on.",
            hint="SELECT * FROM ml_doctor();",
        ) from error
    return onnxruntime


def session(graph: onnx.ModelProto | bytes) -> Run:
    """What runs `graph`: one made here, or the bytes of one that `blob.check` has passed.

    Raises
    ------
    BrokenEnvironment
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    # One thread each: a backend is one process of many, and threads of its own
    # would take the server's signals.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena would keep the largest batch's memory for the life of the session.
    options.enable_cpu_mem_arena = False
    # These graphs run no faster for being optimized, and load up to twice as fast without.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    engine = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return list(engine.run(None, feeds))

    return run
