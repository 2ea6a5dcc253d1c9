"""The next days of a signal, from what it did before."""

import numpy as np
import pytest

from pyml.forecasters.outlook import Outlook, Steps, outlook, steps_of

HOURS = np.arange(40 * 24)
DAYS = HOURS / 24
NOISE = np.random.default_rng(7).normal(0, 1, len(HOURS))


def ahead(values: np.ndarray, history: int = 28, days: int = 7) -> tuple[Outlook, np.ndarray]:
    """The outlook from so many days of hours, and what then came."""
    n = history * 24
    found = outlook(Steps(0.0, 3600.0, values[:n]), days)
    assert len(found.times) == len(found.predicted) == days * 24
    assert found.times[0] == n * 3600
    for lower, upper in zip(found.lower, found.upper, strict=True):
        assert (lower <= found.predicted).all()
        assert (found.predicted <= upper).all()
    assert (found.lower[1] <= found.lower[0]).all()
    assert (found.upper[0] <= found.upper[1]).all()
    return found, values[n : n + days * 24]


def held(found: Outlook, came: np.ndarray) -> float:
    """Share of what came that the 90 % band held."""
    return float(((came >= found.lower[1]) & (came <= found.upper[1])).mean())


@pytest.mark.parametrize(
    ("values", "far"),
    [
        pytest.param(50 + 10 * np.sin(2 * np.pi * DAYS) + NOISE, 1.0, id="a day"),
        pytest.param(50 + 15 * (DAYS % 7 < 5) * (DAYS % 1 > 0.5) + NOISE, 2.0, id="a week"),
        pytest.param(20 + 1.9 * DAYS + 0.3 * NOISE, 0.6, id="a slope"),
        pytest.param(20 + 1.9 * np.maximum(DAYS - 21, 0) + 0.3 * NOISE, 0.6, id="a young slope"),
        pytest.param(
            9 + DAYS + 4 * np.sin(2 * np.pi * DAYS) + 0.5 * NOISE, 0.7, id="a slope and a day"
        ),
        pytest.param(np.where(DAYS < 20, 30, 60) + NOISE, 1.2, id="a step a week ago"),
        pytest.param(np.where(DAYS < 26.9, 30, 60) + NOISE, 1.2, id="a step a day ago"),
        pytest.param(20 + 8 * (DAYS % 1) + 0.2 * NOISE, 0.5, id="a log that is rotated daily"),
        pytest.param(20 + 20 * (DAYS % 2.5) + 0.5 * NOISE, 2.0, id="a disk that is cleaned"),
        pytest.param(
            20 + DAYS + 20 * (DAYS % 2.5) + 0.5 * NOISE, 2.0, id="a disk that fills behind"
        ),
        pytest.param(90 - 25 * (DAYS % 2.25) + 0.5 * NOISE, 2.0, id="a battery that is charged"),
    ],
)
def test_it_knows_how_signals_go_on(values, far):
    found, came = ahead(values)
    assert np.abs(found.predicted - came).mean() < far
    assert held(found, came) > 0.75


def test_a_gap_of_days_up_to_the_last_step():
    values = 50 + 10 * np.sin(2 * np.pi * DAYS) + NOISE
    values[5 * 24 : 28 * 24 - 1] = np.nan
    found, _ = ahead(values)
    assert np.isfinite(found.lower).all()
    assert np.isfinite(found.upper).all()


def test_trouble_of_this_morning_is_no_new_level():
    values = 8 + 60 * (DAYS % 1 < 0.5) + NOISE
    values[28 * 24 - 5 : 28 * 24 - 1] += 50
    found, came = ahead(values)
    assert np.abs(found.predicted - came).mean() < 2


def test_no_straight_line_goes_through_resets_that_are_too_few_to_know():
    values = 20 + 6 * ((DAYS + 4) % 12) + 0.3 * NOISE
    found, _ = ahead(values)
    assert found.predicted.max() < 100
    assert found.upper[1].max() - found.lower[1].min() > 50


def test_a_walk_is_as_unsure_as_it_is():
    shares = []
    for seed in range(12):
        walk = np.cumsum(np.random.default_rng(seed).normal(0, 1, len(HOURS)))
        shares.append(held(*ahead(walk)))
    assert 0.75 < np.mean(shares) < 1.0


def test_three_days_do_and_are_less_sure():
    values = 50 + 9 * np.sin(2 * np.pi * DAYS) + NOISE
    few, came = ahead(values, history=3)
    many, _ = ahead(values)
    assert np.abs(few.predicted - came).mean() < 3
    assert (few.upper - few.lower)[1].mean() > (many.upper - many.lower)[1].mean()
    assert few.tests < many.tests


def test_a_signal_that_never_moves_stays_where_it_is():
    found, _ = ahead(np.full(len(HOURS), 42.0))
    assert {*found.predicted, *found.lower.ravel(), *found.upper.ravel()} == {42.0}


def test_gaps_are_bridged_and_bounds_are_kept():
    values = np.clip(80 + 30 * np.sin(2 * np.pi * DAYS) + NOISE, 0, 100)
    values[30:55], values[300:303], values[:5] = np.nan, np.nan, np.nan
    values[0] = 80
    found = outlook(Steps(0.0, 3600.0, values[: 28 * 24]), 7, (0.0, 100.0))
    assert np.isfinite(found.lower).all()
    assert found.upper.max() <= 100
    assert np.abs(found.predicted - values[28 * 24 : 35 * 24]).mean() < 2


def test_the_same_history_gives_the_same_and_stays_as_it_is():
    values = 50 + NOISE[: 28 * 24]
    before = values.copy()
    first, second = (outlook(Steps(0.0, 3600.0, values), 7) for _ in range(2))
    np.testing.assert_array_equal(first.predicted, second.predicted)
    np.testing.assert_array_equal(first.lower, second.lower)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("interval", "step"), [(5, 1), (3600, 1), (3601, 1), (7200, 2), (90_000, 24)]
)
def test_steps_are_hours_or_the_rhythm_of_the_signal(interval, step):
    times = 1e9 + np.arange(0, 10 * 86_400, interval)
    found = steps_of(times, np.arange(len(times), dtype=float), float(interval))
    assert found.step == step * 3600
    assert found.start % found.step == 0


def test_a_step_is_the_mean_of_its_values_and_the_last_one_waits_until_it_is_over():
    times = np.array([0.0, 1800, 3600, 5400, 11_000, 14_400])
    found = steps_of(times, np.array([1.0, 3, 5, np.nan, 9, 11]), 1800.0)
    np.testing.assert_array_equal(found.values, [2, 5, np.nan, 9])
    assert not len(steps_of(times, np.full(6, np.nan), 1800.0).values)
