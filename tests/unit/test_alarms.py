"""The detection metrics, on cases worked out by hand."""

import numpy as np
import pytest
from alarms import (
    alarms,
    deaf_days,
    events,
    events_at,
    false_per_day,
    judged,
    nab_score,
    ranking,
    worst_day,
)


def rows(*spans, n=1440):
    found = np.zeros(n, bool)
    for begin, end in spans:
        found[begin:end] = True
    return found


def test_events_at_the_edges_and_in_a_row():
    assert events(rows((0, 2), (5, 6), (9, 10), n=10)) == [(0, 2), (5, 6), (9, 10)]
    assert events(rows(n=4)) == []


def test_an_alarm_silences_the_hour_from_it_on():
    assert alarms(rows((10, 75)), 60).tolist() == [10, 70]
    assert alarms(rows((10, 11), (69, 70), (70, 71)), 60).tolist() == [10, 70]
    assert alarms(rows((10, 200)), 1).tolist() == list(range(10, 200))


def test_an_alarm_inside_an_event_is_not_false_and_silences_what_follows():
    label = rows((100, 110))
    assert false_per_day(rows((105, 150)), label, 1440) == 0
    assert false_per_day(rows((105, 170)), label, 1440) == 1  # fires again at 165
    # Five minutes between readings: 12 rows of silence, 288 rows a day.
    assert false_per_day(rows((0, 24), n=288), rows(n=288), 288) == 2
    assert false_per_day(rows((0, 24), n=576), rows(n=576), 288) == 1


def test_events_hit_within_the_allowed_false_alarms():
    label = rows((100, 110), (400, 410), (700, 710), (1000, 1010))
    score = np.zeros(1440)
    score[105], score[200], score[405], score[500], score[705] = 9, 8, 7, 6, 5
    # One false alarm (row 200) a day allows for the score of 7, not for that of 6.
    assert events_at(score, label, 1, 1440) == 0.5
    assert events_at(score, label, 2, 1440) == 0.75
    assert events_at(score, label, 0, 1440) == 0.25


def test_one_false_alarm_a_week_allows_two_in_two_weeks():
    label = rows((100, 110), (400, 410), (700, 710), n=14 * 1440)
    score = np.zeros(len(label))
    score[105], score[3000], score[405], score[5000], score[705], score[9000] = 9, 8, 7, 6, 5, 4
    score[10000] = 3
    found = ranking(score, label)
    assert found["evR@1/7"] == 1
    score[705] = 3.5  # below the third
    found = ranking(score, label)
    assert found["evR@1/7"] == pytest.approx(2 / 3)
    assert found["evR@1/2"] == 1


def test_the_worst_day_is_one_that_is_mostly_normal():
    day = rows(n=10)
    mostly = rows((0, 9), n=10)
    assert worst_day([rows((0, 2), n=10), rows((0, 5), n=10)], [day, day]) == 0.5
    assert worst_day([rows((0, 2), n=10), rows((9, 10), n=10)], [day, mostly]) == 0.2
    assert worst_day([rows((0, 2), n=10)], [rows((0, 2), n=10)]) == 0
    assert worst_day([day], [mostly]) == 0


def test_deafness_is_silence_within_a_week_of_a_storm():
    storm, quiet, flag = rows((0, 3), n=10), rows(n=10), rows((0, 2), n=10)
    assert deaf_days([storm, flag, quiet, quiet, flag, quiet]) == 2
    assert deaf_days([flag, quiet, quiet, flag]) == 0
    assert deaf_days([quiet, quiet, storm]) == 0
    assert deaf_days([storm, *[quiet] * 10]) == 7
    assert deaf_days([storm, quiet, storm, *[quiet] * 3]) == 3


def test_a_threshold_is_judged_row_by_row():
    label = rows((100, 110), (400, 410))
    found = judged(rows((108, 112), (800, 801)), label)
    assert found == pytest.approx(
        {"P": 2 / 5, "R": 2 / 20, "false/day": 1.0, "events": 0.5, "normal": 3 / 1420}
    )


def test_ranking_of_a_perfect_and_of_an_inverted_score():
    label = rows((100, 110))
    figures = ("ROC", "AP", "evR@1/7", "evR@1/2", "evR@1", "evR@5")
    assert ranking(label * 1.0, label) == dict.fromkeys(figures, 1)
    worst = ranking(-1.0 * label + np.arange(1440) * 1e-6, label)
    assert worst["ROC"] < 0.01
    assert worst["evR@1"] == 0


def test_average_precision_is_that_of_the_precision_at_each_hit():
    label = rows((0, 1), (2, 3), n=4)
    assert ranking(np.array([4.0, 3, 2, 1]), label)["AP"] == pytest.approx((1 + 2 / 3) / 2)


HOUR = 12  # rows of an hour, at five minutes between readings
WINDOWS = rows((100, 300), (1000, 1200))


def at(*places):
    """A flag at each of these rows."""
    return rows(*((place, place + 1) for place in places))


def test_nab_gives_100_to_the_first_rows_and_0_to_silence():
    assert nab_score(at(100, 1000), WINDOWS, 24 * HOUR) == pytest.approx(100)
    assert nab_score(at(), WINDOWS, 24 * HOUR) == 0
    assert nab_score(at(100), WINDOWS, 24 * HOUR) == pytest.approx(50)


def test_nab_counts_a_windows_first_alarm_and_the_later_the_less():
    half = 2 / (1 + np.exp(-2.5)) - 1
    whole = 2 / (1 + np.exp(-5)) - 1
    mean = (1 + half / whole) / 2  # of an alarm at the first row and one halfway
    assert nab_score(at(200, 1000), WINDOWS, 24 * HOUR) == pytest.approx(50 * (1 + mean))
    later = [nab_score(at(row, 1000), WINDOWS, 24 * HOUR) for row in (100, 150, 200, 299)]
    assert later == sorted(later, reverse=True)
    assert later[-1] > 50  # the last row of a window is better than none
    more = nab_score(at(100, 150, 250, 1000), WINDOWS, 24 * HOUR)
    assert more == pytest.approx(100)


def test_nab_takes_off_for_a_false_alarm_by_its_distance_from_the_window_before():
    def lost(*places):
        return 100 - nab_score(at(100, 1000, *places), WINDOWS, 24 * HOUR)

    assert lost(50) == pytest.approx(50 * 0.11 / 2)  # before all windows
    assert lost(299 + 199) == pytest.approx(50 * 0.11 / 2 * (1 - 2 / (1 + np.exp(5))))
    assert lost(310) < lost(330) < lost(400) < lost(900)
    assert lost(1300) < lost(900)  # it is the second window that is before it
    assert lost(20, 50) == pytest.approx(2 * lost(50))


def test_nab_hears_an_alarm_once_an_hour():
    storm = rows((20, 20 + 2 * HOUR)) | at(100, 1000)
    assert nab_score(storm, WINDOWS, 24 * HOUR) == pytest.approx(100 - 2 * 50 * 0.11 / 2)


def test_nab_goes_below_zero():
    assert nab_score(rows((300, 1000)), WINDOWS, 24 * HOUR) < 0


def test_nab_takes_windows_of_one_row():
    label = rows((100, 101))
    assert nab_score(at(100), label, 24 * HOUR) == pytest.approx(100)
    assert nab_score(at(100, 900), label, 24 * HOUR) == pytest.approx(100 - 50 * 0.11)
