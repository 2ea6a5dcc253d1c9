"""What is usual at a time of the day or of the week, by the clock of a zone."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyml.errors import BadArgument
from pyml.forecasters.calendar import Calendar, clock, is_calendar
from pyml.forecasters.recurrent import PARAMETERS
from pyml.forecasters.usual import _medians, learn, usual_of
from pyml.telemetry.series import regular

DAY = 86_400.0
BERLIN = "Europe/Berlin"


def moment(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def mornings(begin, days, zone, interval=600.0, every=1):
    """Half an hour's job at six by a zone's clock, on each day or on each seventh."""
    times = moment(begin, zone) + interval * np.arange(int(days * DAY / interval))
    local = clock(times, zone)
    day = np.floor(local / DAY).astype(int)
    inside = (local % DAY >= 6 * 3600) & (local % DAY < 6.5 * 3600)
    return times, 20 + 40.0 * (inside & ((day - day[0]) % every == 0))


@given(st.floats(-3e9, 5e9), st.sampled_from([BERLIN, "Australia/Lord_Howe", "Africa/Casablanca"]))
def test_a_clock_shows_what_python_says(at, zone):
    times = at + np.array([0.0, 1800.0, 40 * DAY])
    for some in (times, times[:2]):
        shown = [datetime.fromtimestamp(t, UTC).astimezone(ZoneInfo(zone)) for t in some.tolist()]
        offsets = [one.utcoffset().total_seconds() for one in shown]
        np.testing.assert_allclose(clock(some, zone) - some, offsets, atol=1e-5)


@pytest.mark.parametrize("begin", ["2026-03-22", "2026-10-18"])
def test_a_job_by_the_clock_on_the_wall_stays_at_six_when_clocks_change(begin):
    """Five days before they change, and five after: the rhythm is the same throughout."""
    times, values = mornings(begin, 14, BERLIN)
    usual = learn(times, values, Calendar(BERLIN, 1, 144), 12)
    six = usual.calendar.places(np.array([moment("2026-12-24T06:00", BERLIN)]))[0]
    before, job, after = np.split(usual.parts, [six, six + 3])
    np.testing.assert_allclose(job, job[0])
    assert job.min() > 39 + max(before.max(), after.max())
    in_utc = learn(times, values, Calendar("UTC", 1, 144), 12)
    assert np.ptp(in_utc.parts) < 39 or in_utc.sure.min() < usual.sure.min()


def test_hours_that_come_twice_or_never_are_told_apart_from_none():
    """In autumn an hour has two readings of each part, in spring none."""
    for begin, size in (("2026-10-25", 25 * 6), ("2026-03-29", 23 * 6)):
        times = moment(begin, BERLIN) + 600 * np.arange(size)
        rows, period, part = Calendar(BERLIN, 1, 144).matrix(times, np.ones(size))
        assert rows.shape == (1, 144)
        assert set(period) == {0}
        missing = np.isnan(rows[0])
        assert missing.sum() == 6 * (size < 144)
        assert set(part) == set(np.flatnonzero(~missing))


def test_a_week_begins_on_monday():
    places = Calendar(BERLIN, 7, 24).places(
        np.array([moment(f"2026-11-{day:02}T05:30", BERLIN) for day in range(23, 31)])
    )
    np.testing.assert_array_equal(places, [5, 29, 53, 77, 101, 125, 149, 5])


def test_a_day_is_not_known_when_it_is_forecast():
    """What is usual beside a day is what the others were."""
    times, values = mornings("2026-11-02", 7, "UTC")
    values[3 * 144 : 4 * 144] = 0.0  # a day without
    usual = learn(times, values, Calendar("UTC", 1, 144), 12)
    rows = usual.others.reshape(7, 144)
    assert np.ptp(rows[3]) == pytest.approx(np.ptp(usual.parts), abs=0.1)
    alone = learn(times, np.where(np.arange(len(times)) < 144, values, 20.0), usual.calendar, 12)
    assert np.ptp(alone.others[:144]) == 0
    assert alone.sure.max() == 0


def test_a_trend_is_no_rhythm():
    times = 600.0 * np.arange(10 * 144)
    usual = learn(times, 1e-4 * times, Calendar("UTC", 1, 144), 12)
    assert np.ptp(usual.parts) < 1e-6


@pytest.mark.parametrize(
    ("days", "every", "known"),
    [(2, 1, (1, 1)), (3, 1, (1, 144)), (20, 1, (1, 144)), (21, 7, (7, 144))],
)
def test_how_many_days_a_rhythm_takes(days, every, known):
    times, values = mornings("2026-11-02", days, "UTC", every=every)
    usual = usual_of(times, values, 600.0, 12, "UTC", PARAMETERS)
    assert (usual.calendar.days, usual.calendar.bins) == known


def test_a_zone_that_there_is_not():
    for zone in ("Europe/Atlantis", "../../etc/passwd", "Europe", ""):
        assert not is_calendar({"zone": zone, "days": 1, "bins": 1})
        with pytest.raises(BadArgument, match="no time zone") as caught:
            clock(np.zeros(1), zone)
        assert "calendar_time_zone" in caught.value.hint


@settings(deadline=None)
@given(arrays(np.float64, (5, 6), elements=st.sampled_from([0.0, 1.0, 2.0, 5.0, np.nan])))
@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_medians_are_those_of_numpy(rows):
    found, others = _medians(rows)
    there = (~np.isnan(rows)).sum(axis=0)
    np.testing.assert_array_equal(found, np.where(there > 1, np.nanmedian(rows, axis=0), 0))
    for row in range(len(rows)):
        rest = np.delete(rows, row, axis=0)
        least = np.where(np.isnan(rows[row]), 2, 1)
        left = (~np.isnan(rest)).sum(axis=0) >= least
        np.testing.assert_array_equal(others[row], np.where(left, np.nanmedian(rest, axis=0), 0))


@settings(deadline=None, max_examples=50)
@given(
    st.integers(10, 60_000),
    st.lists(st.floats(-1e15, 1e15) | st.just(np.nan), min_size=3, max_size=300),
    st.lists(st.floats(1e-3, 2e5), min_size=300, max_size=300),
)
def test_any_telemetry_has_a_calendar_of_numbers(interval, values, gaps):
    times = 1.7e9 + np.cumsum(gaps)[: len(values)]
    grid = regular(times, np.array(values), float(interval))
    if np.isfinite(grid.values).sum() < 2:
        return
    usual = usual_of(grid.times, grid.values, grid.interval, 4, BERLIN, PARAMETERS)
    assert is_calendar({"zone": BERLIN, "days": usual.calendar.days, "bins": usual.calendar.bins})
    for cells in usual[1:]:
        assert np.isfinite(cells).all()
    assert len(usual.others) == len(grid.times)
    assert usual.sure.min() >= 0
    assert usual.sure.max() <= 1
