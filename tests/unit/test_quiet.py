"""Of what lies in a quiet window nothing is left, and no gap is one that it has made."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyml.detectors.base import Signals
from pyml.detectors.presence import Presence
from pyml.telemetry.messages import received
from pyml.telemetry.quiet import Quiet, Window
from pyml.telemetry.readings import assemble, learn
from pyml.telemetry.series import Metric

CPU = Metric("cpu", "cpu", None, 1.0, "gauge")
RAM = Metric("ram", "ram", None, 1.0, "gauge")
METRICS, PATHS = [CPU, RAM], ["cpu", "ram"]
DAY = 86_400.0

windows = st.lists(
    st.builds(
        lambda names, since, lasts: Window(1, names, since, since + lasts),
        st.sampled_from([None, frozenset({"cpu"}), frozenset({"ram", "system.ram"})]),
        st.floats(-100, 1100),
        st.floats(0.001, 400),
    ),
    max_size=4,
).map(lambda some: Quiet(tuple(some)))
moments = st.lists(st.floats(0, 1000), unique=True, max_size=40).map(lambda some: np.array(some))


@given(windows, moments)
def test_what_is_left_out_is_what_lies_inside_and_it_is_counted(quiet, times):
    columns = np.ones((len(times), 2))
    left, values, counts = quiet.left_out(times, columns.copy(), METRICS, PATHS)
    assert counts.rows + len(left) == len(times)
    assert not quiet.inside(left).any()
    for j, metric in enumerate(METRICS):
        gone = np.isnan(values[:, j])
        assert (gone == quiet.inside(left, metric.name)).all()
        assert counts.values.get(metric.name, 0) == gone.sum()


@given(windows, moments)
def test_no_reading_has_a_value_within_a_window(quiet, times):
    columns = np.arange(2.0 * len(times)).reshape(-1, 2)
    left, columns, _ = quiet.left_out(times, columns, METRICS, PATHS)
    found = received(left, columns, [])
    habits, interval = learn(found, METRICS, quiet)
    readings = assemble(found, METRICS, habits, max(interval, 1.0)).without(quiet, METRICS)
    assert not quiet.inside(readings.times).any()
    for j, metric in enumerate(METRICS):
        assert np.isnan(readings.values[quiet.inside(readings.times, metric.name), j]).all()


def daily(names=None):
    """Two hours of each of seven days."""
    since = [day * DAY + 2 * 3600.0 for day in range(7)]
    return Quiet(tuple(Window(1, names, at, at + 7200.0) for at in since))


def trained(quiet, missing=()):
    """How long a device of a reading a minute stays away, learned of what the windows leave."""
    times = np.arange(60.0, 7 * DAY, 60.0)
    noise = np.random.default_rng(0).normal(50, 3, (len(times), 2))
    for name in missing:
        noise[daily(frozenset({name})).inside(times, name), PATHS.index(name)] = np.nan
    times, noise, _ = quiet.left_out(times, noise, METRICS, PATHS)
    found = received(times, noise, [])
    habits, interval = learn(found, METRICS, quiet)
    readings = assemble(found, METRICS, habits, interval).without(quiet, METRICS)
    signals = Signals.of(readings, ("cpu", "ram"), interval, quiet)
    return Presence().fit(signals, {}, lambda: None).model, habits


def test_a_window_makes_no_habit_of_silence_and_none_of_staying_away():
    plain, habits = trained(Quiet())
    quiet, of_quiet = trained(daily())
    assert (quiet.quiet, quiet.silence) == (plain.quiet, plain.silence)
    assert of_quiet == habits
    assert trained(daily(frozenset({"ram"})))[0].away == plain.away
    # What is gone each day is a habit, but not where it is quiet.
    assert trained(Quiet(), missing=["ram"])[0].away[1] > 3600
    assert trained(daily(frozenset({"ram"})), missing=["ram"])[0].away == plain.away


def test_how_long_a_value_holds_does_not_come_of_a_window():
    """Of a device of one reading an hour a window of each day is more than one gap in a hundred."""
    times = np.arange(3600.0, 21 * DAY, 3600.0)
    values = np.random.default_rng(0).normal(50, 3, (len(times), 2))
    since = [day * DAY + 1800.0 for day in range(21)]
    quiet = Quiet(tuple(Window(1, None, at, at + 6 * 3600.0) for at in since))
    left, columns, _ = quiet.left_out(times, values, METRICS, PATHS)
    habits, _ = learn(received(left, columns, []), METRICS, quiet)
    assert [habit.hold for habit in habits] == [7200.0, 7200.0]
