"""Thinned series: few points, and every extreme that a picture would show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyml.telemetry.thinning import thinned

SERIES = st.lists(
    st.tuples(st.floats(0, 1e9), st.floats(-1e12, 1e12)),
    min_size=1,
    max_size=200,
    unique_by=lambda pair: pair[0],
)


@given(SERIES, st.integers(2, 300))
def test_it_is_as_short_as_asked_and_keeps_order_and_extremes(pairs, points):
    times, values = np.array(sorted(pairs)).T
    kept = thinned(times, values, points)
    assert 1 <= len(kept) <= points
    assert (np.diff(kept) > 0).all()
    assert values[kept].min() == values.min()
    assert values[kept].max() == values.max()


def test_what_is_short_enough_stays_whole():
    assert thinned(np.arange(10.0), np.zeros(10), 10).tolist() == list(range(10))


@pytest.mark.parametrize("at", [0, 1, 4321, 9999])
def test_a_single_spike_is_kept_wherever_it_is(at):
    values = np.sin(np.arange(10_000) / 500)
    values[at] = 50
    assert at in thinned(np.arange(10_000.0), values, 100)


def test_a_gap_costs_no_points():
    times = np.concatenate([np.arange(1000.0), 1e6 + np.arange(1000.0)])
    kept = thinned(times, np.tile([0.0, 1.0], 1000), 10)
    assert set(times[kept] > 1e5) == {False, True}
