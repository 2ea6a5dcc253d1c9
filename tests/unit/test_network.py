"""The network as Keras trains it, as numpy runs it and as an ONNX runtime does."""

import numpy as np
import onnx
import onnxruntime
import pytest

from pyml.forecasters import inference
from pyml.forecasters.calendar import Calendar
from pyml.forecasters.linear import Paths, Scale
from pyml.forecasters.network import Part, network_of, numbers_of, starved, weights_of
from pyml.forecasters.usual import Usual
from pyml.forecasters.windows import Windows, origins, spans, steps_read
from pyml.models import wire

pytestmark = pytest.mark.slow

# Of all lengths and horizons that the settings allow, those at the edges of what they change:
# patches, medians, even and odd spans, what is left over of a window.
SHAPES = [
    *((8, 1), (9, 288), (10, 2), (11, 3), (12, 12), (13, 1), (24, 7), (25, 5), (26, 4)),
    *((49, 12), (50, 12), (51, 13), (100, 48), (128, 288), (255, 1), (499, 3), (500, 288)),
]


PARTS = 96


def drawn(length, horizon, seed=1):
    """Numbers of a graph, as large as a training makes them."""
    rng = np.random.default_rng(seed)
    shapes = inference.shapes(length, horizon, PARTS)
    numbers = {
        name: rng.normal(0, 0.3, shape).astype(kind) for name, (kind, shape) in shapes.items()
    }
    scale = {"centre": 1e9, "spread": 5e3, "change": 2e3}
    return numbers | {name: np.array([number]) for name, number in scale.items()}


def windows_of(length, rows, seed=2):
    """Ends of a counter of bytes: float32 has too few digits for it."""
    steps = np.random.default_rng(seed).normal(0, 1e3, (rows, length))
    return 1e9 + np.cumsum(steps, axis=1)


def fed(window, horizon, seed=3):
    """A window and a clock, as a graph takes them."""
    clock = np.random.default_rng(seed).integers(0, PARTS, (len(window), 1 + horizon))
    return {"window": window, "clock": clock}


@pytest.mark.parametrize(("length", "horizon"), SHAPES)
def test_an_onnx_runtime_gives_the_same(length, horizon):
    numbers = drawn(length, horizon)
    file = wire.written(inference.graph(numbers, length, horizon, PARTS), "{}")
    onnx.checker.check_model(onnx.ModelProto.FromString(file), full_check=True)
    session = onnxruntime.InferenceSession(file)
    for rows in (1, 101):
        window = windows_of(length, rows)
        feeds = fed(window, horizon)
        wanted = session.run(None, feeds)
        found = inference.runner(numbers, length, horizon).run(feeds)
        for known, told in zip(wanted, found, strict=True):
            assert (known.shape, known.dtype) == (told.shape, told.dtype)
            change = float(numbers["change"][0])
            size = np.abs(known - window[:, -1].reshape(-1, *[1] * (known.ndim - 1))).max()
            np.testing.assert_allclose(told, known, rtol=0, atol=1e-5 * max(size, change))


def test_what_is_written_is_what_the_library_writes():
    """Byte for byte: the messages of onnx, parsed and written again, are the same file."""
    for length, horizon in SHAPES:
        file = wire.written(
            inference.graph(drawn(length, horizon), length, horizon, PARTS), '{"a": "\u2603"}'
        )
        assert onnx.ModelProto.FromString(file).SerializeToString() == file


@pytest.mark.parametrize(
    ("length", "horizon"),
    [(50, 12), (23, 5), (8, 2), pytest.param(100, 48, marks=pytest.mark.long)],
)
def test_it_equals_keras(length, horizon):
    rng = np.random.default_rng(1)
    network = network_of(length, horizon)
    weights = [rng.normal(0, 0.3, w.shape).astype(np.float32) for w in network.fresh(0)]
    network.load(weights)
    values = 1e9 + np.cumsum(rng.normal(0, 1e3, 64 + length))
    at = origins(values, length, horizon)
    calendar = Calendar("UTC", 1, PARTS)
    times = 900.0 * np.arange(len(values))
    parts = rng.normal(0, 1e3, PARTS)
    usual = Usual(calendar, parts, np.ones(PARTS), parts[calendar.places(times)], np.ones(1))
    windows = Windows.cut(values, usual.others, at, length, horizon)
    scale = Scale(1e9, 5e3, 2e3)
    linear = rng.normal(0, 0.05, (length + len(spans(length)), horizon))
    own = rng.normal(0, 0.05, (len(steps_read(horizon)), horizon))
    paths = Paths(linear, np.vstack([own, linear]))
    wanted = network(Part.of(network, windows, scale, paths))
    numbers = numbers_of(weights, scale, paths, usual, 900.0 * length)
    run = inference.runner(numbers, length, horizon).run
    clock = calendar.places(times)[at[:, None] + np.arange(1 + horizon)]
    told = run({"window": windows.behind, "clock": clock})[0]
    given = windows.from_last(told, scale.change)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


@pytest.mark.parametrize(("length", "horizon"), [(8, 1), (50, 12), (200, 48)])
def test_a_window_gives_the_same_bits_beside_any_others(length, horizon):
    run = inference.runner(drawn(length, horizon), length, horizon).run
    window = windows_of(length, 700)
    feeds = fed(window, horizon)
    whole = run(feeds)
    for first, count in [(0, 1), (699, 1), (3, 2), (5, 15), (7, 16), (9, 17), (40, 101), (99, 601)]:
        part = run({name: cells[first : first + count] for name, cells in feeds.items()})
        for found, known in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found, known[first : first + count])


def test_no_windows_have_no_forecasts():
    runner = inference.runner(drawn(50, 12), 50, 12)
    shapes = [cells.shape for cells in runner.run(fed(np.empty((0, 50)), 12))]
    assert shapes == [(0, 12), (0, 12, inference.EXPERTS), (0, 12)]


def test_the_weights_survive_the_graph():
    network = network_of(20, 4)
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in network.fresh(0)]
    usual = Usual(Calendar("UTC", 1, 1), *np.zeros((4, 1)))
    paths = Paths.without(np.zeros((25, 4)))
    numbers = numbers_of(weights, Scale(0.0, 1.0, 1.0), paths, usual, 1.0)
    for before, after in zip(weights, weights_of(numbers), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_the_network_raises_is_a_want_of_memory():
    import tensorflow as tf

    words = "Graph execution error:\n\nan exception: could not execute a primitive"
    with pytest.raises(MemoryError, match="could not execute") as caught, starved():
        raise tf.errors.AbortedError(None, None, words)
    assert isinstance(caught.value.__cause__, tf.errors.OpError)
    with pytest.raises(ValueError, match="another"), starved():
        raise ValueError("another")
