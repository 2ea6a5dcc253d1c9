"""How seldom a score's like comes, from the peaks of a training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyml.detectors.rarity import MOST_PEAKS, RAREST, SILENCE, Curve, Excursions

HEIGHTS = st.lists(st.floats(0, 300), max_size=200)


@given(HEIGHTS, st.floats(1, 1e5))
def test_peaks_are_apart_and_the_highest_first(heights, interval):
    times = interval * np.arange(len(heights))
    found = Excursions.lasting(interval, times, np.array(heights)).peaks().heights.tolist()
    assert found == sorted(found, reverse=True)
    assert len(found) <= MOST_PEAKS
    assert set(found) <= set(heights)
    if heights:
        assert found[0] == max(heights)
        span = times[-1] - times[0]
        assert len(found) <= span / max(SILENCE, interval) * 2 + 2


def test_what_lasts_is_one_peak():
    times = 60.0 * np.arange(600)
    heights = np.zeros(600)
    heights[100:130] = 5.0
    heights[400] = 3.0
    found = Excursions.lasting(60.0, times, heights).peaks().heights.tolist()
    assert found[:2] == [5.0, 3.0]
    assert set(found[2:]) == {0.0}


@given(HEIGHTS, st.integers(0, 2**32 - 1))
def test_peaks_of_excursions_are_apart_by_what_belongs_to_either(heights, seed):
    rng = np.random.default_rng(seed)
    times = rng.uniform(0, 1e6, len(heights))
    spans = rng.choice([900.0, 7200.0, 86400.0], len(heights))
    known = np.where(rng.random(len(heights)) < 0.1, np.nan, heights)
    every = Excursions(times, known, spans)
    parts = [
        Excursions(times[rows], known[rows], spans[rows]) for rows in (slice(9), slice(9, None))
    ]
    found, both = every.peaks(), Excursions.of(parts).peaks()
    np.testing.assert_array_equal(found.heights, both.heights)
    assert found.heights.tolist() == sorted(found.heights, reverse=True)
    assert len(found.times) <= MOST_PEAKS
    assert not np.isnan(found.heights).any()
    if not np.isnan(known).all():
        assert found.heights[0] == np.nanmax(known)
    for i in range(len(found.times)):
        for j in range(i):
            apart = max(SILENCE, found.spans[i], found.spans[j])
            assert abs(found.times[i] - found.times[j]) >= apart


@given(st.lists(st.floats(0, 300), min_size=1, max_size=200), HEIGHTS, st.floats(0.1, 1e6))
def test_what_is_higher_is_no_less_rare(known, asked, hours):
    found = Curve.of(hours, known).hours_between(np.sort(asked))
    assert np.all(np.isfinite(found))
    assert np.all((found >= 0) & (found <= RAREST))
    assert np.all(np.diff(found) >= -1e-9 * found[:-1])


def test_without_a_peak_nothing_is_rarer_than_the_hours_seen():
    assert Curve.of(24.0, []).hours_between(np.array([0.0, 9.0])).tolist() == [24.0, 24.0]


@pytest.mark.parametrize("often", [24.0, 168.0, 720.0])
def test_the_hours_are_those_of_the_peaks_that_come(often):
    """Heights of an exponential tail, one an hour: their rarity is known."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):  # trainings of four weeks
        heights = rng.exponential(0.5, 672)
        highest = np.sort(heights)[-MOST_PEAKS:]
        height = 0.5 * np.log(often)  # which one in so many exceeds
        found.append(Curve.of(672.0, highest).hours_between(np.array([height]))[0])
    assert np.median(found) == pytest.approx(often, rel=0.15)
