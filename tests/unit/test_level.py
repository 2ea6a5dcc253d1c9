"""The finder of levels: what moved and stays, what drifts, and what is no trouble."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.detectors.base import CRITICAL, DETECTORS, Signals
from pyml.detectors.joining import joined
from pyml.detectors.level import Level
from pyml.models import blob
from pyml.telemetry.series import Metric

from .contracts import (
    HABIT,
    Ended,
    ending,
    frozen,
    gauges,
    junk,
    nothing,
    signals_of,
    unless_too_little,
)

DAY, HOUR = 86_400.0, 3_600.0
START = 1_700_006_400.0 // DAY * DAY
NAMES = ("temperature", "memory")


def noise(rng, n, phi, size):
    """An autoregressive process of the first order, of a standard deviation."""
    steps = rng.normal(0, size * np.sqrt(1 - phi * phi), n)
    found = np.empty(n)
    last = 0.0
    for place, step in enumerate(steps.tolist()):
        found[place] = last = phi * last + step
    return found


def telemetry(days=7.0, seed=0, interval=60.0):
    """A daily rhythm with noise that lasts for minutes."""
    rng = np.random.default_rng(seed)
    times = START + interval * np.arange(int(days * DAY / interval))
    rhythm = np.sin(times * 2 * np.pi / DAY)
    phi = 0.95 ** (interval / 60)
    temperature = 45 + 4 * rhythm + noise(rng, len(times), phi, 0.5)
    memory = 40 + 3 * rhythm + noise(rng, len(times), phi, 0.3)
    return signals_of(times, np.stack([temperature, memory], axis=1), NAMES)


def single(times, values, name="temperature"):
    return signals_of(times, np.asarray(values, float)[:, None], (name,))


def until(signals, moment):
    rows = signals.times < moment
    return replace(
        signals,
        times=signals.times[rows],
        values=signals.values[rows],
        held=signals.held[rows],
    )


def trained(signals, plain=False, **known):
    """The model of a training with all that is stored of it."""
    detector = Level()
    model = detector.fit(signals, {}, nothing).model
    metrics = [Metric(name, name, None, 1.0, "gauge", **known) for name in model.names]
    metrics = gauges(model.names) if plain else metrics
    return model.knowing(metrics, [HABIT] * len(metrics))


def find(model, signals, since, moment):
    return Level().find(model, signals, since, moment, nothing)


def _touch(one, other):
    near = one.started_at <= other.last_at + 600 and other.started_at <= one.last_at + 600
    return one.metric == other.metric and near


def told(model, signals, since, moment, begun=None):
    """What is known at a moment of what is found after `since`, by scans each quarter of an hour.

    Scans begin where the days of the training end, or at `begun`.
    """
    found = []
    first = START + 7 * DAY if begun is None else begun
    looks = [*np.arange(first, moment, 900.0), moment]
    for begin, end in pairwise(looks):
        some = find(model, signals, begin, end)
        new = joined(found, some, 600.0, Level.kinds)
        found = [one for one in found if not any(_touch(one, each) for each in new)] + new
    return [one for one in found if one.last_at > since]


def said(found, unit=None):
    return Level().words(None, found, unit)


def split(signals, days=7.0):
    """The model of the first days, and when they end."""
    now = float(signals.times[0]) + days * DAY
    return trained(until(signals, now)), now


def moved(by, column=0, seed=0, hours=12.0, days=8.0, interval=60.0):
    """Telemetry in which a metric moves at the start of the eighth day, for some hours."""
    signals = telemetry(days, seed, interval)
    now = START + 7 * DAY
    rows = (signals.times >= now) & (signals.times < now + hours * HOUR)
    signals.values[rows, column] += by
    return signals


def test_it_is_registered():
    assert isinstance(DETECTORS["level"], Level)


@pytest.mark.parametrize("interval", [10.0, 60.0, 300.0])
def test_a_large_move_is_told_within_fifteen_minutes(interval):
    signals = moved(25, interval=interval)
    model, now = split(signals)
    found = find(model, signals, now, now + 900)
    assert [(one.kind, one.metric) for one in found] == [("level", "temperature")]
    assert abs(found[0].started_at - now) <= max(interval, 120)
    (found,) = find(model, signals, now + 3_540, now + HOUR)
    assert found.severity == CRITICAL


@pytest.mark.parametrize("by", [25, -25, 2])
def test_twelve_hours_later_it_is_one_finding_of_all_of_it(by):
    signals = moved(by)
    model, now = split(signals)
    end = now + 12 * HOUR
    (one,) = told(model, signals, end - 2.1 * HOUR, end + 30)
    assert one.kind == "level"
    assert one.last_at - one.started_at >= 0.9 * 12 * HOUR
    assert one.started_at >= now - HOUR
    (whole,) = find(model, signals, now, signals.times[-1])
    assert abs(whole.last_at - end) < HOUR / 2
    assert (whole.kind, whole.metric) == (one.kind, one.metric)


def test_it_is_over_when_it_is_back():
    signals = moved(25)
    model, now = split(signals)
    assert not find(model, signals, now + 12.5 * HOUR, now + 13 * HOUR)


def test_a_small_move_is_told_later():
    signals = moved(1.0, hours=24)
    model, now = split(signals)
    assert not find(model, signals, now, now + 600)
    (one,) = find(model, signals, now + 21 * HOUR, now + 24 * HOUR)
    assert one.metric == "temperature"


def test_ordinary_days_are_quiet():
    for seed in range(4):
        signals = telemetry(14, seed)
        model, now = split(signals)
        assert not find(model, signals, now, signals.times[-1])


@pytest.mark.parametrize("interval", [10.0, 60.0, 300.0])
def test_a_drift_of_a_tenth_of_a_degree_an_hour_is_found_within_a_day(interval):
    signals = telemetry(8, 3, interval)
    now = START + 7 * DAY
    signals.values[:, 0] += 0.1 * np.maximum(signals.times - now, 0) / HOUR
    model, now = split(signals)
    found = told(model, signals, now + 21.9 * HOUR, now + 24 * HOUR)
    assert [(one.kind, one.metric) for one in found] == [("drift", "temperature")]
    assert " has been rising since " in said(found[0])


@pytest.mark.parametrize("retrained", [1, 2, 3, 4])
def test_the_baseline_does_not_follow_a_drift(retrained):
    """After nightly trainings that hold more and more of it."""
    signals = telemetry(12, 4)
    began = START + 6.3 * DAY
    signals.values[:, 0] += 0.1 * np.maximum(signals.times - began, 0) / HOUR
    now = began + retrained * DAY
    rows = signals.times > now - 7 * DAY
    recent = signals_of(signals.times[rows], signals.values[rows], NAMES)
    model = trained(until(recent, now))
    found = told(model, signals, now, now + 3 * HOUR, begun=now)
    assert {one.metric for one in found} == {"temperature"}


def test_after_three_days_in_a_new_place_it_is_the_usual():
    for days, told in ((1.0, True), (2.0, True), (3.3, False)):
        signals = telemetry(7, 5)
        end = float(signals.times[-1])
        signals.values[signals.times > end - days * DAY, 0] += 10
        fitted = Level().fit(signals, {}, nothing)
        found = find(trained(signals), signals, end - HOUR, end)
        assert ({one.metric for one in found} == {"temperature"}) == told
        assert (fitted.figures["became_usual"] == ["temperature"]) != told


def test_an_ordinary_metric_is_still_found_after_a_fault_in_the_training():
    signals = moved(25, days=16)
    now = START + 9 * DAY
    signals.values[signals.times >= now, 0] += 5
    rows = signals.times >= now - 7 * DAY
    recent = signals_of(signals.times[rows], signals.values[rows], NAMES)
    model = trained(until(recent, now))
    assert find(model, signals, now, now + HOUR)


def quiet(times, values, days=7.0):
    """What is found in a signal after some days of it."""
    signals = single(times, values)
    model, now = split(signals, days)
    return find(model, signals, now, signals.times[-1])


MINUTES = START + 60.0 * np.arange(10 * 1440)


def test_a_daily_job_is_quiet():
    rng = np.random.default_rng(0)
    of_day = MINUTES % DAY - rng.normal(0, 120, 10)[np.arange(len(MINUTES)) // 1440]
    job = (of_day > 3 * HOUR) & (of_day < 4 * HOUR)
    assert not quiet(MINUTES, 20 + 60 * job + noise(rng, len(MINUTES), 0.9, 2))


def test_a_weekend_is_quiet_after_three_weeks():
    rng = np.random.default_rng(1)
    times = START + 60.0 * np.arange(28 * 1440)
    busy = (
        (np.floor(times / DAY + 3) % 7 < 5) & (times % DAY > 8 * HOUR) & (times % DAY < 18 * HOUR)
    )
    values = 8 + 45 * busy + noise(rng, len(times), 0.9, 3)
    assert not quiet(times, values, 21)
    sunday = np.flatnonzero(np.floor(times / DAY + 3) % 7 == 6)[-1] // 1440 * 1440
    values[sunday + 540 : sunday + 720] = 53
    found = quiet(times, values, 21)
    assert [one.kind for one in found] == ["level"]


def test_next_to_nothing_is_nothing():
    later = MINUTES >= START + 8 * DAY
    rng = np.random.default_rng(2)
    for values in (
        np.where(later, 20.1, 20.0),
        np.round(5 + 0.3 * rng.normal(size=len(MINUTES))),
        np.full(len(MINUTES), 7.0),
        np.zeros(len(MINUTES)),
    ):
        assert not quiet(MINUTES, values)
    assert quiet(MINUTES, np.where(later, 25.0, 20.0))
    assert quiet(MINUTES, np.where(later, 5.0, 0.0))


def test_a_sawtooth_and_what_grows_for_months_are_quiet():
    uptime = (MINUTES - START + 4e5) % 6e5
    disk = 55 + 0.02 * (MINUTES - START) / DAY
    noisy = (
        disk
        + 0.3 * (MINUTES - START) / DAY
        + 0.05 * np.random.default_rng(3).normal(size=len(MINUTES))
    )
    for values in (uptime, disk, noisy, -disk):
        assert not quiet(MINUTES, values)


def test_a_disk_that_fills_faster_is_found():
    hours = (MINUTES - START) / HOUR
    faster = np.maximum(hours - 8 * 24, 0)
    (one,) = quiet(MINUTES, 55 + 0.02 * hours + 0.5 * faster)
    assert " an hour above what is usual" in said(one)


def test_bursts_are_quiet():
    rng = np.random.default_rng(4)
    load = (1 + 0.6 * np.sin(MINUTES * 2 * np.pi / DAY)) * rng.lognormal(0, 0.5, len(MINUTES))
    burst = np.where(rng.random(len(MINUTES)) < 0.01, 50.0, 1.0)
    assert not quiet(MINUTES, 2e5 * load * burst)


def test_a_short_burst_is_no_move():
    signals = telemetry(8, 6)
    now = START + 7 * DAY
    rows = (signals.times >= now + HOUR) & (signals.times < now + HOUR + 180)
    signals.values[rows, 0] += 1000
    model, now = split(signals)
    assert not find(model, signals, now, signals.times[-1])


def test_a_signal_that_comes_on_change_is_quiet():
    rng = np.random.default_rng(5)
    value = np.round(
        45 + 4 * np.sin(MINUTES * 2 * np.pi / DAY) + noise(rng, len(MINUTES), 0.99, 0.5)
    )
    assert not quiet(MINUTES, value)


def test_direction_and_least_deviation_are_followed():
    signals = moved(5)
    now = START + 7 * DAY
    for known, told in (
        ({}, True),
        ({"direction": "up"}, True),
        ({"direction": "down"}, False),
        ({"least_deviation": 4.0}, True),
        ({"least_deviation": 8.0}, False),
    ):
        model = trained(until(signals, now), **known)
        assert bool(find(model, signals, now, now + 6 * HOUR)) == told, known


def test_the_sentence_says_where_it_is_and_what_is_usual():
    signals = moved(25)
    model = trained(until(signals, START + 7 * DAY))
    now = START + 7 * DAY
    (one,) = find(model, signals, now + HOUR, now + 2 * HOUR)
    first, _, rest = said(one, "°C").partition(" since 00:00 UTC, ")
    assert first.startswith("temperature has been at 7")
    assert first.endswith(" °C")
    assert "°C above what is usual at this hour (4" in rest
    assert json.loads(json.dumps(one.evidence, allow_nan=False)) == one.evidence
    assert one.evidence["usual_low"] < one.evidence["usual_high"] < one.evidence["to"]


def test_it_says_when_a_new_place_counts_as_usual():
    signals = moved(25, hours=48, days=10)
    model, now = split(signals)
    (one,) = told(model, signals, now + 30 * HOUR, now + 31 * HOUR)
    day = datetime.fromtimestamp(now + 3 * DAY, UTC)
    assert said(one).endswith(f"; if it stays, it counts as usual from {day.day} Nov on")


def test_the_stored_form_is_exact():
    signals = telemetry(7.5)
    detector = Level()
    model = trained(signals, plain=True)
    data = blob.pack(detector, {}, model)
    assert blob.load(detector, data).knows == model
    assert blob.pack(detector, {}, trained(telemetry(7.5), plain=True)) == data
    whole = json.loads(json.dumps(detector.to_json(model)))
    for key in whole:
        less = json.loads(json.dumps(whole))
        del less[key]
        assert detector.of_json(less) is None, key
        assert detector.of_json(json.loads(json.dumps(whole)) | {key: "x"}) is None, key


def test_only_what_is_within_reach_matters():
    signals = moved(5, days=9)
    model, now = split(signals)
    since, moment = now + 3 * HOUR, now + 5 * HOUR
    whole = find(model, signals, since, moment)
    reach = signals.times > since - Level().lookback(model)
    values = signals.values.copy()
    values[~reach] = -500
    values[signals.times > moment] = 500
    assert find(model, signals_of(signals.times, values, NAMES), since, moment) == whole
    some = reach & (signals.times <= moment)
    part = signals_of(signals.times[some], values[some], NAMES)
    assert find(model, part, since, moment) == whole != []


def test_inputs_are_left_as_they_are():
    signals = moved(5)
    fixed = Signals(
        *frozen(signals.times, signals.values), NAMES, 60.0, signals.held, signals.unfit
    )
    model, now = split(fixed)
    assert find(model, fixed, now, now + HOUR)


def test_what_pulse_raises_ends_it():
    signals = telemetry()
    for call in (
        lambda pulse: Level().fit(signals, {}, pulse),
        lambda pulse: Level().find(trained(signals), signals, START, START + DAY, pulse),
    ):
        with pytest.raises(Ended):
            call(ending(1)[1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=junk(3, (0, 1, 2, 3, 15, 60, 400, 800, 6000), 60.0), later=st.sampled_from((0, 1, 60, 400))
)
def test_junk_gives_finite_numbers_or_is_too_little(data, later):
    times, values = data
    signals = signals_of(times, values, ("a", "b", "c")[: values.shape[1]])
    model = unless_too_little(lambda: trained(signals, plain=True))
    if model is None:
        return
    assert blob.load(Level(), blob.pack(Level(), {}, model)).knows == model
    used = [signals.names.index(name) for name in model.names]
    rng = np.random.default_rng(later)
    wild = rng.choice([-1e15, -1.0, 0.0, 7.0, 1e15, np.nan], (later, len(used)))
    after = float(times[-1]) + 60.0 * np.arange(1, later + 1)
    both = signals_of(np.append(times, after), np.concatenate([values[:, used], wild]), model.names)
    for one in find(model, both, -np.inf, both.times[-1]):
        json.dumps(one.evidence, allow_nan=False)
        assert one.started_at <= one.last_at
        assert np.isfinite(one.score)
        assert one.score >= 1
