"""Trees as they are walked, beside what onnxruntime makes of the same graph."""

import tracemalloc

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.forest import Forest
from pyml.models import blob, trees

from .contracts import signals_of

FOREST = Forest()


def fit(times, values, **settings):
    names = ("a", "b")[: values.shape[1]]
    return FOREST.fit(signals_of(times, values, names), settings | {"seed": 0}, lambda: None)


def scorer(fitted):
    return FOREST.runner(fitted.numbers, fitted.model).run


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([2, 3, 40, 400]),
    spread=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    rounded=st.booleans(),
    count=st.sampled_from([1, 2, 30]),
    size=st.sampled_from([0.0, 1.0, 1e30]),
    seed=st.integers(0, 1000),
)
def test_they_end_where_those_of_onnxruntime_end(rows, spread, rounded, count, size, seed):
    """And so they do where a value lies on a split or is missing, and in trees of one leaf."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 1)) * spread
    values = np.round(values) if rounded else values
    times = 60.0 * np.arange(rows)
    model = fit(times, values, contamination=0.1, n_estimators=count)
    readings = (rng.normal(size=(50, model.figures["features"])) * size).astype(np.float32)
    readings[:20] = rng.choice(model.numbers["nodes_splits"], readings[:20].shape)
    readings[rng.random(readings.shape) < 0.1] = np.nan
    session = onnxruntime.InferenceSession(blob.pack(FOREST, model.numbers, model.model))
    (wanted,) = session.run(None, {"features": readings})
    (found,) = scorer(model)({"features": readings})
    # The exponential functions of the two differ by a rounding, a leaf by far more.
    np.testing.assert_allclose(found, wanted, rtol=3e-7, atol=0)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    times, values = 60.0 * np.arange(2000), rng.normal(size=(2000, 2))
    return fit(times, values, contamination=0.01, n_estimators=100)


@pytest.fixture(scope="module")
def readings(model):
    rng = np.random.default_rng(1)
    return rng.normal(size=(4000, model.figures["features"])).astype(np.float32)


@pytest.fixture(scope="module")
def whole(model, readings):
    run, some = scorer(model), readings[:1500]
    return run, some, run({"features": some})[0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 31, 64, 163, 164, 327, 328, 1440])
def test_any_batch_gives_the_same_bits(whole, size):
    run, readings, scores = whole
    found = run({"features": readings[50 : 50 + size]})[0]
    np.testing.assert_array_equal(found, scores[50 : 50 + size])


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 24])
def test_however_many_are_walked_at_once(whole, monkeypatch, at_once):
    run, readings, scores = whole
    monkeypatch.setattr(trees, "AT_ONCE", at_once)
    np.testing.assert_array_equal(run({"features": readings})[0], scores)


def test_no_readings_have_no_scores(whole):
    run, readings, _ = whole
    assert run({"features": readings[:0]})[0].shape == (0, 1)


class Counted:
    """Trees that count the readings which they are asked for."""

    def __init__(self, of):
        self._trees, self.walked, self.size = of, 0, of.size

    def sums(self, readings):
        self.walked += len(readings)
        return self._trees.sums(readings)


@pytest.fixture(scope="module")
def grown(model, readings):
    return trees.Trees.of(model.numbers), readings


def test_only_readings_that_are_new_are_walked(grown):
    plain, readings = grown
    counted = Counted(plain)
    known = trees.Remembering(counted, readings.shape[1])
    for last, walked in ((1440, 1440), (1441, 1441), (1500, 1500), (2000, 2000), (4000, 3440)):
        window = readings[last - 1440 : last]
        np.testing.assert_array_equal(known.sums(window, again=True), plain.sums(window))
        assert counted.walked == walked
    np.testing.assert_array_equal(known.sums(window[::-1], again=True), plain.sums(window)[::-1])
    assert counted.walked == 3440


def test_readings_that_do_not_come_again_leave_the_others_known(grown):
    plain, readings = grown
    counted = Counted(plain)
    known = trees.Remembering(counted, readings.shape[1])
    known.sums(readings[:1500], again=True)
    np.testing.assert_array_equal(
        known.sums(readings[1500:3000], again=False), plain.sums(readings[1500:3000])
    )
    known.sums(readings[:1500], again=True)
    assert counted.walked == 3000


def test_what_is_remembered_takes_no_more_than_it_says(grown):
    plain, readings = grown
    tracemalloc.start()
    known = trees.Remembering(plain, readings.shape[1])
    for first in range(0, 4000, 50):
        known.sums(readings[first : first + 150], again=True)
    known.sums(readings, again=True)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < taken < known.size - plain.size
