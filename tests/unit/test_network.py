"""The network as Keras trains it, and as its ONNX graph runs it."""

import numpy as np
import pytest

from pyml import engine
from pyml.linear import Scale
from pyml.network import Part, graph_of, network_of, weights_of
from pyml.windows import Windows, origins, spans


@pytest.mark.parametrize(("length", "horizon"), [(20, 4), (50, 12), (23, 5), (7, 2)])
def test_the_graph_equals_keras(length, horizon):
    rng = np.random.default_rng(1)
    network = network_of(length, horizon)
    weights = [rng.normal(0, 0.3, w.shape).astype(np.float32) for w in network.fresh(0)]
    network.load(weights)
    values = 1e9 + np.cumsum(rng.normal(0, 1e3, 64 + length))
    at = origins(values, length, horizon)
    windows = Windows.cut(values, at, length, horizon)
    scale = Scale(1e9, 5e3, 2e3)
    linear = rng.normal(0, 0.05, (length + len(spans(length)), horizon))
    wanted = network(Part.of(network, windows, scale, linear))
    run = engine.session(graph_of(weights, scale, linear, length))
    given = windows.from_last(run({"window": windows.behind})[0], scale.change)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_the_weights_survive_the_graph():
    network = network_of(20, 4)
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in network.fresh(0)]
    graph = graph_of(weights, Scale(0.0, 1.0, 1.0), np.zeros((25, 4)), 20)
    for before, after in zip(weights, weights_of(graph), strict=True):
        np.testing.assert_array_equal(before, after)
