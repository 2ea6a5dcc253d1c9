"""Messages -> readings: what counts as one, what each sample is worth, and the two ledgers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.telemetry import readings
from pyml.telemetry.counters import rates
from pyml.telemetry.habits import Habit
from pyml.telemetry.messages import received
from pyml.telemetry.readings import (
    JUNK,
    MISSING,
    OK,
    OUT_OF_RANGE,
    RESET,
    lookback,
)
from pyml.telemetry.series import Metric, columns_of

T0 = 1.7e9
MINUTES = Habit(rhythm=60.0, hold=120.0)
CPU = Metric("cpu", "cpu", None, 1.0, "gauge", 0.0, 100.0)
TEMPERATURE = Metric("temperature", "temperature", None, 1.0, "gauge")
SHARE = Metric("share", "used", "total", 100.0, "gauge", 0.0, 100.0)
COUNTER = Metric("rate", "bytes", None, 1.0, "counter", 0.0, None)
ALL = [CPU, TEMPERATURE, SHARE, COUNTER]


def minutes(n):
    return T0 + 60.0 * np.arange(n)


def learn(times, columns, metrics):
    return readings.learn(received(times, columns, columns_of(metrics)[1]), metrics)


def assemble(times, columns, metrics, habits, interval):
    found = received(times, columns, columns_of(metrics)[1])
    return readings.assemble(found, metrics, habits, interval)


def one(times, values, metric=TEMPERATURE, habit=None, interval=60.0):
    """The readings of one metric's messages, by what is learned of them."""
    columns = np.asarray(values, float)[:, None]
    habits = learn(times, columns, [metric])[0] if habit is None else (habit,)
    return assemble(np.asarray(times, float), columns, [metric], habits, interval)


def qualities(found, j=0):
    return found.quality[:, j].tolist()


# ---- readings --------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0.0, 1.0, 14.0])
def test_parts_of_one_reading_are_one_reading(apart):
    """Three messages a minute, each with a part: all metrics are there, once a minute."""
    n = 50
    times = np.concatenate([minutes(n) + k * apart for k in range(3)])
    columns = np.full((3 * n, 3), np.nan)
    for k in range(3):
        columns[k * n : (k + 1) * n, k] = k + np.arange(n)
    metrics = [Metric(name, name, None, 1.0, "gauge") for name in "abc"]
    habits, interval = learn(times, columns, metrics)
    assert interval == 60.0
    found = assemble(times, columns, metrics, habits, interval)
    assert len(found.times) == n
    assert np.isfinite(found.values[1:]).all()
    assert (found.ledger().used, found.ledger().merged) == (n, 2 * n)


def test_a_total_that_comes_once_a_day_divides_until_the_next():
    times = minutes(3 * 1440)
    total = np.where(np.arange(len(times)) % 1440 == 0, 200.0, np.nan)
    columns = np.column_stack([np.full(len(times), 50.0), total])
    habits, interval = learn(times, columns, [SHARE])
    found = assemble(times, columns, [SHARE], habits, interval)
    assert (found.values == 25.0).all()


def test_a_burst_is_one_reading():
    times = (T0 + 600.0 * np.arange(100))[:, None] + np.arange(10)
    columns = np.arange(1000.0)[:, None]
    habits, interval = learn(times.ravel(), columns, [TEMPERATURE])
    assert interval == 600.0
    found = assemble(times.ravel(), columns, [TEMPERATURE], habits, interval)
    assert len(found.times) == 100


@pytest.mark.parametrize("step", [0.1, 1.0, 60.0, 3600.0, 86_400.0])
def test_any_rhythm_is_found(step):
    times = T0 + step * np.arange(40) + 0.05 * step * np.random.default_rng(0).random(40)
    assert learn(times, np.ones((40, 1)), [TEMPERATURE])[1] == pytest.approx(step, rel=0.05)


def test_a_device_that_works_by_day_alone_keeps_its_rhythm():
    times = np.concatenate([T0 + 86_400 * day + 60.0 * np.arange(480) for day in range(7)])
    assert learn(times, np.ones((len(times), 1)), [TEMPERATURE])[1] == 60.0


def test_a_faster_device_keeps_a_reading_a_minute():
    found = one(T0 + 5.0 * np.arange(720), np.ones(720), habit=MINUTES)
    assert 59 <= len(found.times) <= 61
    assert found.ledger().merged == 720 - len(found.times)


def test_messages_a_microsecond_apart_before_a_long_gap_take_no_memory():
    times = T0 + np.array([0.0, 1e-6, 2e-6, 3e-6, 86400.0])
    habit = Habit(rhythm=1e-6, hold=86400.0)
    metric = Metric("x", "x", None, 1.0, "gauge")
    found = readings.assemble(received(times, np.arange(5.0)[:, None], []), [metric], [habit], 1e-6)
    assert 0 < found.held.sum() <= readings.MOST_HELD * len(times)


def test_the_last_value_holds_between_changes_and_no_longer():
    times = T0 + np.array([0.0, 300.0, 10_000.0])
    found = one(times, [1.0, 2.0, 3.0], habit=Habit(rhythm=60.0, hold=600.0))
    assert found.came().times.tolist() == times.tolist()
    assert found.values[:, 0].tolist() == [1.0] * 5 + [2.0] * 11 + [3.0]
    assert found.times[found.held].max() <= 300 + 600 + T0
    assert found.ledger().used == 3


# ---- qualities -------------------------------------------------------------------


def telemetry(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    return 40 + 5 * np.sin(np.arange(n) * 2 * np.pi / 1440) + rng.normal(0, 1, n)


@pytest.mark.parametrize("junk", [-127.0, 85.0, 6553.5, -999.0])
@pytest.mark.parametrize("share", [0.0005, 0.004, 0.01])
def test_sentinels_are_junk_and_nothing_else_is(junk, share):
    values = telemetry(10_000)
    bad = np.random.default_rng(1).random(len(values)) < share
    values[bad] = junk
    found = one(minutes(len(values)), values)
    assert ((found.quality[:, 0] == JUNK) == bad).all()
    assert found.values[np.isfinite(found.values)].max() < 60


def test_a_run_of_a_known_sentinel_is_junk_to_its_end():
    values = telemetry(10_000)
    values[[50, 1500, 4000, 7000]] = -127.0
    values[9000:9020] = -127.0
    assert (one(minutes(10_000), values).quality[9000:9020, 0] == JUNK).all()


@pytest.mark.parametrize("level", [97.0, -60.0, 400.0])
def test_a_fault_that_lasts_is_no_junk(level):
    """The first sample of so large a jump waits for the second."""
    values = telemetry(10_000)
    habits, _ = learn(minutes(9000), values[:9000, None], [TEMPERATURE])
    values[9500:] = level + np.random.default_rng(2).normal(0, 1, 500)
    found = one(minutes(10_000), values, habit=habits[0])
    assert (found.quality[9501:, 0] == OK).all()
    np.testing.assert_array_equal(found.values[9501:, 0], values[9501:])


def test_what_is_walked_to_is_no_junk():
    values = np.concatenate([telemetry(5000), 40 + 2.0 * np.arange(200)])
    habits, _ = learn(minutes(5000), values[:5000, None], [TEMPERATURE])
    assert set(qualities(one(minutes(5200), values, habit=habits[0]))) == {OK}


def test_known_bounds_come_first():
    """Inside the bounds no sample is junk; outside, none is a measurement."""
    values = np.full(1000, 20.0) + np.random.default_rng(0).normal(0, 0.1, 1000)
    values[500], values[600] = 99.0, 101.0
    found = one(minutes(1000), values, CPU)
    assert found.quality[500, 0] == OK
    assert found.quality[600, 0] == OUT_OF_RANGE
    assert found.values[600, 0] == values[599]  # which holds


def test_signals_that_stand_still_or_have_few_samples_are_not_judged():
    still = np.full(1000, 21.0)
    still[500] = 85.0
    assert set(qualities(one(minutes(1000), still))) == {OK}
    assert set(qualities(one(minutes(20), [20.0, 21.0] * 9 + [85.0, 20.0]))) == {OK}


def test_a_heavy_tail_is_no_junk():
    values = np.random.default_rng(0).lognormal(3, 1, 10_000)
    assert (one(minutes(10_000), values).quality == JUNK).mean() < 0.0005


# ---- counters --------------------------------------------------------------------


def test_a_poll_that_reads_0_is_no_rate():
    total = 1000.0 + 60.0 * np.arange(10)
    total[5] = 0
    rate, reset = rates(minutes(10), total, 600.0)
    assert np.flatnonzero(np.isnan(rate)).tolist() == [0, 5]
    assert (rate[[1, 2, 3, 4, 6, 7, 8, 9]] == 1.0).all()
    assert np.flatnonzero(reset).tolist() == [5]


def test_a_reset_begins_anew():
    total = np.concatenate([1e6 + 60.0 * np.arange(5), 60.0 * np.arange(5)])
    rate, reset = rates(minutes(10), total, 600.0)
    assert np.flatnonzero(reset).tolist() == [5]
    assert (rate[6:] == 1.0).all()


@pytest.mark.parametrize("bits", [32, 64])
def test_a_counter_that_wraps_goes_on(bits):
    step = 2.0 ** (bits - 20)
    total = np.mod(2.0**bits - 5.5 * step + step * np.arange(10), 2.0**bits)
    rate, reset = rates(minutes(10), total, 600.0)
    assert not reset.any()
    np.testing.assert_allclose(rate[1:], step / 60)


def test_a_reboot_near_a_wrap_is_a_reset():
    total = np.array([3e9, 3e9 + 600, 3e9 + 1200, 0.0, 600.0])
    rate, reset = rates(minutes(5), total, 600.0)
    assert np.flatnonzero(reset).tolist() == [3]
    assert rate[4] == 10.0


def test_a_total_beyond_1e15_has_rates():
    found = one(minutes(10), 9.9e15 + 6e10 * np.arange(10), COUNTER)
    np.testing.assert_allclose(found.values[1:, 0], 1e9)
    assert qualities(found)[1:] == [OK] * 9


def test_a_rate_is_between_samples_that_came():
    """Every other message has no total: the last rate holds in between, and is not 0."""
    total = np.where(np.arange(20) % 2 == 0, 60.0 * np.arange(20), np.nan)
    columns = np.column_stack([np.ones(20), total])
    found = assemble(minutes(20), columns, [CPU, COUNTER], [MINUTES, MINUTES], 60.0)
    np.testing.assert_array_equal(found.values[2:, 1], np.ones(18))


def test_a_failed_collection_counts_as_that():
    columns = np.column_stack([np.full(10, 50.0), np.full(10, 200.0)])
    columns[4] = 0
    found = assemble(minutes(10), columns, [SHARE], [replace(MINUTES, total_hold=120.0)], 60.0)
    assert len(found.times) - found.held.sum() == 9
    assert found.ledger().failed == 1


# ---- what always holds -----------------------------------------------------------

STEPS = st.sampled_from([0.0, 0.4, 2.0, 5.0, 14.0, 16.0, 29.0, 60.0, 61.0, 130.0, 400.0, 9000.0])
CELLS = st.sampled_from(
    [np.nan, 0.0, 1.0, 20.0, 21.0, 85.0, -127.0, 1e3, 2.0**32 - 1, 1e16, 1e30, -5.0]
)
MESSAGES = st.lists(st.tuples(STEPS, st.tuples(*[CELLS] * 5)), min_size=1, max_size=120)
PATHS, TOTALS = columns_of(ALL)


def drawn(messages):
    times = T0 + np.cumsum([step for step, _ in messages])
    return times, np.array([cells for _, cells in messages])


@settings(max_examples=150, deadline=None)
@given(MESSAGES, st.floats(0, 1))
def test_both_ledgers_add_up(messages, share):
    """Whatever comes, both ledgers count every message and every sample once."""
    times, columns = drawn(messages)
    habits, interval = learn(times, columns, ALL)
    since = times[0] - 1 + share * np.ptp(times)
    found = assemble(times, columns, ALL, habits, interval)
    ledger = found.ledger(since)
    assert min(ledger) >= 0
    assert sum(ledger) == (times > since).sum()
    assert ledger.used == ((found.times > since) & ~found.held).sum()
    samples = found.samples(since)
    assert samples.shape == (len(ALL), 5)
    assert (samples.sum(axis=1) == ledger.used).all()
    assert (np.diff(found.times) > 0).all()
    # What is told as measured is.
    good = found.quality == OK
    assert np.isfinite(found.values[good & ~found.held[:, None]]).all()
    assert (np.isnan(found.values) | (np.abs(found.values) <= 1e20)).all()
    assert not (found.quality == RESET)[:, :3].any()
    missing = (found.quality == MISSING) & ~found.held[:, None]
    assert np.isnan(found.values[missing[:, :2].all(axis=1), :2]).all()


@settings(max_examples=150, deadline=None)
@given(MESSAGES, st.floats(0, 1), st.randoms(use_true_random=False))
def test_a_reading_is_the_same_in_any_window(messages, share, random):
    """It depends on the model and a bounded history, not on the question or the table's order."""
    times, columns = drawn(messages)
    habits, interval = learn(times, columns, ALL)
    whole = assemble(times, columns, ALL, habits, interval)
    begin = times[0] + share * np.ptp(times)
    back = begin - lookback(ALL, habits, interval)
    order = random.sample(range(len(times)), len(times))
    some = [i for i in order if times[i] > back]
    part = assemble(times[some], columns[some], ALL, habits, interval)
    np.testing.assert_array_equal(whole.after(begin).times, part.after(begin).times)
    np.testing.assert_array_equal(whole.after(begin).values, part.after(begin).values)
    np.testing.assert_array_equal(whole.after(begin).quality, part.after(begin).quality)
    np.testing.assert_array_equal(whole.after(begin).held, part.after(begin).held)
    # Nor on what comes later.
    until = begin + 500.0
    early = times <= until
    now = assemble(times[early], columns[early], ALL, habits, interval)
    then = whole.times <= until
    seen = now.times[~now.held]
    np.testing.assert_array_equal(seen, whole.times[then & ~whole.held])
    np.testing.assert_array_equal(now.values[~now.held], whole.values[then & ~whole.held])


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=300))
def test_no_reading_is_lost_for_long(steps):
    times = T0 + np.cumsum(steps)
    found = one(times, np.ones(len(times)), habit=MINUTES).came()
    assert (np.diff(found.times) >= 15 - 1e-6).all()
    place = np.searchsorted(found.times, times, side="right") - 1
    assert (times - found.times[place] <= 120).all()
