"""What is usual at each hour."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.detectors import hours

MONDAY = 1_699_833_600.0  # 00:00 UTC
DAY, HOUR = 86400.0, 3600.0


def nothing():
    """A pulse that goes on."""


def learned(times, values, topped=False):
    return hours.learn(times, values[:, None], np.array([topped]), nothing)


def minutes(days):
    return MONDAY + np.arange(0, days * DAY, 60.0)


@pytest.mark.parametrize(("days", "told_apart"), [(0.5, 1), (2, 1), (3, 24), (20, 24), (21, 168)])
def test_days_need_three_and_weeks_three(days, told_apart):
    found, _ = learned(minutes(days), np.ones(len(minutes(days))))
    assert len(found.low) == len(found.high) == told_apart


def test_what_is_usual_lies_between_the_medians_of_the_hours_around():
    times = minutes(4)
    hour = times % DAY // HOUR
    found, apart = learned(times, hour)
    assert [row[0] for row in found.low][:5] == [0, 0, 1, 2, 3]
    assert [row[0] for row in found.high][:5] == [23, 2, 3, 4, 5]
    assert not apart.any()
    beyond = found.beyond(np.full(3, MONDAY + 3 * HOUR), np.array([[1.5], [3.0], [6.0]]))
    np.testing.assert_array_equal(beyond[:, 0], [-0.5, 0.0, 2.0])


def test_a_job_each_sunday_is_usual_on_sundays_alone():
    times = minutes(28)
    sunday = ((times - MONDAY) // DAY % 7 == 6) & (times % DAY // HOUR == 2)
    found, apart = learned(times, np.where(sunday, 90.0, 10.0))
    assert not apart.any()
    at = MONDAY + 2.5 * HOUR + DAY * np.array([27, 28])
    np.testing.assert_array_equal(found.beyond(at, np.array([[90.0], [90.0]]))[:, 0], [0, 80])


def test_a_training_is_compared_with_its_other_days():
    """One bad day does not make itself usual."""
    times = minutes(7)
    values = np.where(times // DAY == times[0] // DAY + 3, 50.0, 10.0)
    _, apart = learned(times, values)
    np.testing.assert_array_equal(apart[:, 0], values - 10.0)


@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_medians_without_a_cycle_are_those_of_the_others(cycles, share, seed):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 4, (cycles, 2, 3)).astype(float)
    cells[rng.random(cells.shape) < share] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is all NaN
        whole = np.nanmedian(cells, axis=0)
        others = [np.nanmedian(np.delete(cells, one, axis=0), axis=0) for one in range(cycles)]
    np.testing.assert_array_equal(hours._middle(cells), whole)
    np.testing.assert_array_equal(hours._middle_of_others(cells), others)


def test_what_is_topped_is_usual_up_to_the_greatest_of_the_hour():
    times = minutes(7)
    values = np.where(times % HOUR < 300, 8.0, 1.0)
    found, _ = learned(times, values, topped=True)
    beyond = found.beyond(times[:3], np.array([[0.5], [8.0], [9.0]]))
    np.testing.assert_array_equal(beyond[:, 0], [-0.5, 0.0, 1.0])


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.sampled_from([60.0, 600.0, 21600.0, 86400.0]),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_any_training_gives_finite_bounds_where_anything_is_known(n, interval, share, seed):
    rng = np.random.default_rng(seed)
    times = MONDAY + np.cumsum(rng.uniform(0.5, 1.5, n) * interval)
    values = np.where(rng.random((n, 2)) < share, np.nan, rng.normal(size=(n, 2)))
    values[0] = 0.0
    found, apart = hours.learn(times, values, np.array([False, True]), nothing)
    low, high = np.array(found.low), np.array(found.high)
    assert np.isfinite(low).all()
    assert (low <= high).all()
    np.testing.assert_array_equal(np.isnan(apart), np.isnan(values))
