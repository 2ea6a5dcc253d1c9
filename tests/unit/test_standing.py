"""Silence and missing metrics, each by its own rhythm."""

from dataclasses import replace

import numpy as np
import pytest

from pyml.detectors.presence import Presence
from pyml.detectors.stretches import HABITS
from pyml.detectors.stuck import Stuck
from pyml.detectors.wording import lasting
from pyml.errors import NotEnoughData
from pyml.telemetry.series import Metric

from .contracts import HABIT, gauges, nothing, signals_of

HOUR, DAY, START = 3600.0, 86_400.0, 1.7e9


def noise(times, names=("a", "b"), seed=0):
    values = np.random.default_rng(seed).normal(50, 5, (len(times), len(names)))
    return signals_of(times, values, names)


def fitted(finder, signals, habits=HABIT, metrics=None):
    model = finder.fit(signals, {}, nothing).model
    count = len(signals.names)
    return model.knowing(metrics or gauges(signals.names), [habits] * count)


def silences(model, times, until, since=None):
    since = float(times[0]) if since is None else since
    found = Presence().find(model, noise(times, model.names), since, until, nothing)
    return [(one.started_at, one.last_at) for one in found if one.kind == "silent"]


def test_a_rhythm_of_six_hours_is_no_silence():
    times = START + 6 * HOUR * np.arange(240)
    model = fitted(Presence(), noise(times))
    last = float(times[-1])
    assert silences(model, times, last + 17 * HOUR) == []
    assert silences(model, times, last + 18 * HOUR) == [(last, last + 18 * HOUR)]


def test_a_pause_each_night_is_no_silence_and_two_days_are():
    minutes = START + 60.0 * np.arange(10 * 1440)
    times = minutes[(minutes % DAY) < 8 * HOUR]
    model = fitted(Presence(), noise(times))
    assert 16 * HOUR < model.quiet < 16.1 * HOUR
    last = float(times[-1])
    assert silences(model, times, last + 40 * HOUR, since=last - DAY) == []
    assert silences(model, times, last + 50 * HOUR, since=last) == [(last, last + 50 * HOUR)]


def test_bursts_are_no_silence():
    begins = START + 3 * HOUR * np.arange(80)
    times = (begins[:, None] + 60.0 * np.arange(5)).ravel()
    model = fitted(Presence(), noise(times))
    last = float(times[-1])
    assert silences(model, times, last + 8 * HOUR) == []
    assert len(silences(model, times, last + 10 * HOUR)) == 1


def test_an_outage_in_the_training_is_no_habit():
    times = START + 60.0 * np.arange(7 * 1440)
    there = (times < START + 2.9 * DAY) | (times > START + 3.2 * DAY)  # over a midnight
    model = fitted(Presence(), noise(times[there]))
    assert (model.quiet, model.silence) == (60.0, 1800.0)


@pytest.mark.parametrize("hold", [120.0, HOUR])
def test_a_metric_is_missing_from_its_last_value_on(hold):
    times = START + 60.0 * np.arange(3000)
    plain = noise(times)
    habit = replace(HABIT, hold=hold)
    model = fitted(Presence(), plain, habit)
    values = plain.values.copy()
    values[2001 + int(hold / 60) :, 1] = np.nan  # the value of row 2000 holds until then
    found = Presence().find(
        model, signals_of(times, values, plain.names), times[2000], times[2500], nothing
    )
    (one,) = found
    assert (one.kind, one.metric) == ("missing", "b")
    assert one.started_at == times[2000]
    assert one.last_at == times[2500]
    assert "it comes every 1 min" in Presence().words(model, one, None)


def test_a_metric_that_is_ordinarily_away_is_not_missed():
    times = START + 60.0 * np.arange(7 * 1440)
    plain = noise(times)
    values = plain.values.copy()
    values[(times % (3 * HOUR)) < HOUR, 1] = np.nan
    with_gaps = signals_of(times, values, plain.names)
    model = fitted(Presence(), with_gaps)
    assert model.allowed[1] is None
    assert Presence().find(model, with_gaps, times[0], times[-1], nothing) == []


def stuck_at(model, plain, change, since=1000):
    values = plain.values.copy()
    change(values)
    times = plain.times
    signals = signals_of(times, values, plain.names)
    return Stuck().find(model, signals, times[since], times[-1], nothing)


@pytest.fixture
def plain():
    return noise(START + 60.0 * np.arange(4000), ("a", "b"))


def test_a_signal_that_hangs_is_stuck_after_ten_readings(plain):
    model = fitted(Stuck(), plain)

    def hang(values):
        values[3000:, 0] = 51.25

    (one,) = stuck_at(model, plain, hang)
    assert (one.metric, one.started_at, one.last_at) == ("a", plain.times[3000], plain.times[-1])
    words = Stuck().words(model, one, "K")
    assert (
        words == "a has stood at 51.25 K for 16 h 39 min; it never stands still for more than 1 min"
    )
    for readings, found in ((3009, 0), (3010, 1)):
        short = signals_of(plain.times[:readings], stuck_values(plain)[:readings], plain.names)
        assert len(Stuck().find(model, short, plain.times[2000], short.times[-1], nothing)) == found


def stuck_values(plain):
    values = plain.values.copy()
    values[3000:, 0] = 51.25
    return values


def test_two_that_stop_together_are_stuck_after_three_readings():
    plain = noise(START + 60.0 * np.arange(4000), ("a", "b", "c"))
    model = fitted(Stuck(), plain)
    assert (model.together, model.longest_together) == (120.0, 0.0)
    values = plain.values.copy()
    values[3000:, :2] = 51.25, 49.5
    for readings, found in ((3002, []), (3003, ["a", "b"])):
        short = signals_of(plain.times[:readings], values[:readings], plain.names)
        told = Stuck().find(model, short, plain.times[2000], short.times[-1], nothing)
        assert [one.metric for one in told] == found
    assert told[0].evidence["together"] == ["b"]
    assert told[0].evidence["witnesses"] == ["c"]
    assert (told[0].started_at, told[0].score) == (plain.times[3000], 1.0)
    assert Stuck().words(model, told[0], "K") == (
        "a has stood at 51.25 K for 2 min, as long as b;"
        " they never stand still together for more than 1 min"
    )
    values[3001:, 1] = 49.6  # one reading later
    later = signals_of(plain.times[:3004], values[:3004], plain.names)
    assert len(Stuck().find(model, later, plain.times[2000], later.times[-1], nothing)) == 2
    values[3003:, 1] = 49.7  # three readings later
    later = signals_of(plain.times[:3008], values[:3008], plain.names)
    assert Stuck().find(model, later, plain.times[2000], later.times[-1], nothing) == []
    values[3000:] = values[3000]  # nothing moves
    all_still = signals_of(plain.times, values, plain.names)
    assert Stuck().find(model, all_still, plain.times[2000], plain.times[-1], nothing) == []


def test_two_that_often_stop_together_are_given_three_times_as_long():
    plain = noise(START + 60.0 * np.arange(7 * 1440), ("a", "b", "c"))
    values = plain.values.copy()
    for begin in range(100, 7 * 1440, 700):
        values[begin : begin + 5, :2] = values[begin, :2]
    model = fitted(Stuck(), signals_of(plain.times, values, plain.names))
    assert (model.together, model.longest_together) == (720.0, 240.0)
    assert model.allowed[:2] == (720.0, 720.0)


def test_where_all_stand_still_none_is_stuck(plain):
    model = fitted(Stuck(), plain)

    def all_hang(values):
        values[3000:] = values[3000]

    assert stuck_at(model, plain, all_hang) == []


def test_the_end_of_its_range_is_no_place_to_be_stuck(plain):
    bounded = [Metric("a", "a", None, 1.0, "gauge", 0.0, 52.0), *gauges(["b"])]
    for value, metrics in ((52.0, bounded), (plain.values[:, 0].max(), None), (1e3, None)):
        model = fitted(Stuck(), plain, metrics=metrics)

        def hang(values, value=value):
            values[3000:, 0] = value

        assert stuck_at(model, plain, hang) == []


@pytest.mark.parametrize("idle", [False, True])
def test_a_signal_that_is_never_0_and_stands_there_has_stopped(plain, idle):
    """As a counter of a network that is dead; one that is idle at times has not."""
    if idle:
        plain.values[[100, 2500], 0] = 0.0
    counters = [Metric("a", "a", None, 1.0, "counter", None, None), *gauges(["b"])]
    model = fitted(Stuck(), plain, metrics=counters)

    def stop(values):
        values[3000:, 0] = 0.0

    found = stuck_at(model, plain, stop)
    assert [(one.metric, one.started_at) for one in found] == (
        [] if idle else [("a", plain.times[3000])]
    )


def test_what_often_stands_still_is_not_looked_at(plain):
    coarse = np.round(21 + 0.5 * np.sin(2 * np.pi * plain.times / DAY))
    values = np.column_stack([coarse, np.full(4000, 5.0), plain.values[:, 0]])
    model = fitted(Stuck(), signals_of(plain.times, values, ("coarse", "constant", "fine")))
    assert [after is None for after in model.allowed] == [True, True, False]
    with pytest.raises(NotEnoughData):
        fitted(Stuck(), signals_of(plain.times, values[:, :2], ("coarse", "constant")))


def test_the_longest_ordinary_stretch_is_that_of_three_days():
    times = START + 60.0 * np.arange(7 * 1440)
    lasted = np.ones(len(times))
    lasted[[100, 3000]] = 500  # in two blocks
    assert HABITS.ordinary(times, lasted) == 1
    lasted[[5000, 8000]] = 7, 9
    assert HABITS.ordinary(times, lasted) == 9
    assert HABITS.ordinary(times[:0], lasted[:0]) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "1 s"),
        (59.0, "59 s"),
        (60.0, "1 min"),
        (61.0, "1 min 1 s"),
        (3569.0, "59 min"),
        (3599.0, "1 h"),
        (39_840.0, "11 h 4 min"),
        (86_399.0, "1 d"),
        (2 * 86_400.0 + 5 * 3600, "2 d 5 h"),
        (400 * 86_400.0, "400 d"),
    ],
)
def test_a_span_in_words(seconds, words):
    assert lasting(seconds) == words
