"""Readings put on the device's own grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyml.telemetry.series import FILL, clean, regular


def test_a_regular_series_is_untouched():
    times = 1e9 + 30.0 * np.arange(200)
    values = np.sin(times)
    grid = regular(times, values)
    assert grid.interval == 30.0
    np.testing.assert_allclose(grid.times, times)
    np.testing.assert_array_equal(grid.values, values)


@pytest.mark.parametrize("missing", range(1, FILL + 1))
def test_a_short_gap_is_a_straight_line(missing):
    times = np.append(60.0 * np.arange(5), 60.0 * (5 + missing))
    grid = regular(times, times / 60)
    np.testing.assert_allclose(grid.values, np.arange(6 + missing))


def test_a_long_gap_is_one_nan_however_long():
    times = np.concatenate([60.0 * np.arange(100), 1e9 + 60.0 * np.arange(100)])
    grid = regular(times, np.ones(200))
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
    grid = regular(60.0 * np.arange(50), values)
    assert np.isnan(grid.values).sum() == 1


def test_nothing_gives_nothing():
    assert len(regular(np.empty(0), np.empty(0)).values) == 0


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=60))
def test_any_clock_gives_a_short_increasing_grid_that_ends_at_the_last_reading(steps):
    times = np.cumsum(steps)
    values = np.arange(len(times), dtype=float)
    grid = regular(times, values, 60.0)
    assert (np.diff(grid.times) > 0).all()
    assert len(grid.values) <= (FILL + 1) * len(times)
    assert grid.times[-1] == times[-1]
    assert grid.values[-1] == values[-1]


STEPS = st.sampled_from([0.0, 0.4, 2.0, 5.0, 5.9, 6.0, 7.5, 29.0, 60.0, 61.0, 400.0])


@given(st.lists(STEPS, min_size=1, max_size=300), st.floats(0, 1))
def test_which_rows_are_readings_depends_on_no_window(steps, share):
    times = 1.7e9 + np.cumsum(steps)
    values = np.arange(len(times), dtype=float)[:, None]
    whole = clean(times, values, [], 60.0)
    begin = times[0] + share * np.ptp(times)
    part = clean(times[times > begin], values[times > begin], [], 60.0)
    later = begin + 2 * 60.0
    np.testing.assert_array_equal(part.times[part.times > later], whole.times[whole.times > later])
    # None is lost for long, and none comes twice.
    assert len(whole.times) + whole.repeated == len(times)
    assert (np.diff(whole.times) >= 6 - 1e-6).all()
    place = np.searchsorted(whole.times, times, side="right") - 1
    assert (times - whole.times[place] <= 120).all()


def test_a_dense_hour_keeps_a_reading_a_minute():
    times = 1.7e9 + 5.0 * np.arange(720)
    found = clean(times, np.ones((720, 1)), [], 60.0)
    assert 59 <= len(found.times) <= 61
    assert found.repeated == 720 - len(found.times)
