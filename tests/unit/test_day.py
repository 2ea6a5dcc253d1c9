"""What a scan keeps of how well signals are measured."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.seconds import HOUR
from pyml.telemetry.day import Sight, counted, first_hour, is_hours, shares, sighted
from pyml.telemetry.habits import Habit
from pyml.telemetry.messages import received
from pyml.telemetry.readings import OK, QUALITIES, assemble
from pyml.telemetry.series import Metric

T0 = 1_700_002_800.0  # begins an hour
HABIT = Habit(rhythm=60.0, hold=120.0)
METRICS = [Metric("a", "a", None, 1.0, "gauge", 0.0, 100.0), Metric("b", "b", None, 1.0, "gauge")]


def telemetry(hours, seed=0):
    n = int(60 * hours)
    rng = np.random.default_rng(seed)
    columns = rng.uniform(0, 120, (n, 2))
    columns[rng.random((n, 2)) < 0.2] = np.nan
    return T0 + 60.0 * np.arange(n) + rng.uniform(0, 30, n), columns


def read(times, columns, until):
    there = times <= until
    return assemble(received(times[there], columns[there], []), METRICS, [HABIT, HABIT], 60.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(60, 5 * HOUR), min_size=1, max_size=20), st.integers(0, 3))
def test_scans_at_any_moments_count_each_message_and_sample_once(steps, seed):
    times, columns = telemetry(40, seed)
    hours, since = [], T0
    for until in T0 + np.minimum(np.cumsum(steps), 39 * HOUR):
        begin = first_hour(since)
        hours = counted(hours, read(times, columns, until), begin, until)
        assert is_hours(json.loads(json.dumps(hours)), 2)
        since = until - 900
        first = max(T0, first_hour(until) - 23 * HOUR)
        messages, samples = shares(hours, 2)
        whole = read(times, columns, until)
        window = np.nextafter(first, -np.inf), until
        assert messages == list(whole.ledger(*window))
        assert samples == whole.samples(*window).tolist()
        assert [sum(one) for one in samples] == [messages[0]] * 2


def test_how_long_a_quality_lasts_goes_on_over_scans():
    times = T0 + 60.0 * np.arange(300)
    columns = np.column_stack([np.full(300, 50.0), np.full(300, 7.0)])
    columns[100:, 0] = 200.0
    said = None
    for until in range(50, 300, 10):
        said = sighted(said, read(times, columns, times[until]), times[max(0, until - 15)] - 1)
    assert said[0] == Sight(50.0, times[101], "out of range", times[100])
    assert said[1] == Sight(7.0, times[290], "ok", times[35])
    assert sighted(said, read(times, columns, times[290]), times[290]) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [1],
        [{"hour": 1, "messages": [1, 2, 3], "bad": {}}],
        [{"hour": 1, "messages": [1, 2, 3, 4], "bad": {"7": [1, 0, 0, 0]}}],
        [{"hour": 1, "messages": [1, 2, 3, 4], "bad": {"0": [1, 0, 0]}}],
        [{"hour": 1.5, "messages": [1, 2, 3, 4], "bad": {}}],
    ],
)
def test_what_no_scan_has_written_is_told_from_it(value):
    assert not is_hours(value, 2)


def test_the_first_quality_is_the_good_one():
    assert QUALITIES[OK] == "ok"
