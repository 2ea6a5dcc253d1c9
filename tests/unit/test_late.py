"""Counting rows by the hour, and which hours have more than before."""

import numpy as np

from pyml.seconds import HOUR
from pyml.telemetry.late import HOURS, counted

START = 1_790_000_000.0 - 1_790_000_000.0 % HOUR


def test_counts_that_go_on_are_those_that_are_counted_anew():
    rng = np.random.default_rng(5)
    times = np.sort(START + rng.uniform(0, 100 * HOUR, 900))
    for _ in range(20):
        cuts = np.sort(START + rng.uniform(0, 100 * HOUR, 12))
        found = counted(times, cuts[0])
        for cut in cuts[1:]:
            found = found.and_then(times, cut)
        np.testing.assert_array_equal(found.rows, counted(times, cuts[-1]).rows)


def test_rows_that_are_new_are_in_the_span():
    rng = np.random.default_rng(6)
    until = START + 100.3 * HOUR
    times = START + rng.uniform(0, 101 * HOUR, 900)
    before = counted(times, until)
    assert before.since == START + (101 - HOURS) * HOUR
    assert before.late(before) is None
    assert before.late(counted(times[:-50], until)) is None  # some were deleted
    late = START + np.array([60.0, 70.5, 71.25]) * HOUR
    span = before.late(counted(np.concatenate([times, late]), until))
    assert span == (START + 60 * HOUR, START + 72 * HOUR)
    last = before.late(counted(np.append(times, until - 1), until))
    assert last == (START + 100 * HOUR, until)
    for unseen in (until + 1, START + 10 * HOUR):  # newer, and older than what is counted
        assert before.late(counted(np.append(times, unseen), until)) is None
