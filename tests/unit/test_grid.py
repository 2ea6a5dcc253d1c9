"""Readings put on the device's own grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyml.telemetry.series import FILL, regular


def test_a_regular_series_is_untouched():
    times = 1e9 + 30.0 * np.arange(200)
    values = np.sin(times)
    grid = regular(times, values, 30.0)
    assert grid.interval == 30.0
    np.testing.assert_allclose(grid.times, times)
    np.testing.assert_array_equal(grid.values, values)


@pytest.mark.parametrize("missing", range(1, FILL + 1))
def test_a_short_gap_is_a_straight_line(missing):
    times = np.append(60.0 * np.arange(5), 60.0 * (5 + missing))
    grid = regular(times, times / 60, 60.0)
    np.testing.assert_allclose(grid.values, np.arange(6 + missing))


def test_a_long_gap_is_one_nan_however_long():
    times = np.concatenate([60.0 * np.arange(100), 1e9 + 60.0 * np.arange(100)])
    grid = regular(times, np.ones(200), 60.0)
    assert len(grid.values) == 201
    assert np.flatnonzero(np.isnan(grid.values)).tolist() == [100]
    assert (np.diff(grid.times) > 0).all()


def test_repeats_merge_and_jitter_is_snapped():
    rng = np.random.default_rng(0)
    exact = 60.0 * np.arange(500)
    times = np.sort(np.concatenate([exact + rng.uniform(-5, 5, 500), exact[::7] + 6]))
    grid = regular(times, np.ones(len(times)), 60.0)
    assert abs(len(grid.values) - 500) <= 1
    np.testing.assert_allclose(np.diff(grid.times), 60.0)
    assert grid.times[-1] == times[-1]


def test_missing_values_are_gaps_of_the_field():
    values = np.ones(50)
    values[20:22] = np.nan
    values[30:40] = np.nan
    grid = regular(60.0 * np.arange(50), values, 60.0)
    assert np.isnan(grid.values).sum() == 1


def test_nothing_gives_nothing():
    assert len(regular(np.empty(0), np.empty(0), 60.0).values) == 0


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=60))
def test_any_clock_gives_a_short_increasing_grid_that_ends_at_the_last_reading(steps):
    times = np.cumsum(steps)
    values = np.arange(len(times), dtype=float)
    grid = regular(times, values, 60.0)
    assert (np.diff(grid.times) > 0).all()
    assert len(grid.values) <= (FILL + 1) * len(times)
    assert grid.times[-1] == times[-1]
    assert grid.values[-1] == values[-1]
