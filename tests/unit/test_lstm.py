"""Forecasts of one metric: against simulated truth, and at the edges."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pyml import lstm
from pyml.errors import BadArgument, NotEnoughData
from pyml.forecasters import forecast
from pyml.forecasters.base import Previous
from pyml.forecasters.calendar import Calendar
from pyml.forecasters.intervals import LEVELS, quantiles, tracked
from pyml.forecasters.recurrent import PARAMETERS, Model, Parameters
from pyml.forecasters.standstill import ordinary_changes
from pyml.forecasters.windows import ahead_of, behind_of, origins
from pyml.models import blob
from pyml.telemetry.series import Grid, Metric

from .contracts import HABIT

INTERVAL, DAY = 300.0, 86_400.0
SETTINGS = {"sequence_length": 50, "horizon": 12, "epochs": 50, "seed": 0}
SMALL = {"sequence_length": 20, "horizon": 4, "epochs": 3}
METRIC = Metric("cpu", "system.cpuUsage", None, 1.0, "gauge")
LSTM = lstm.LSTM()


def telemetry(n, seed=0):
    rng = np.random.default_rng(seed)
    noise = np.zeros(n)
    for i in range(1, n):
        noise[i] = 0.8 * noise[i - 1] + rng.normal()
    values = 50 + 10 * np.sin(2 * np.pi * np.arange(n) / 48) + noise
    return 1.7e9 + INTERVAL * np.arange(n), values


def fit(
    times,
    values,
    *,
    interval=INTERVAL,
    bounds=(None, None),
    previous=None,
    fleet=None,
    pulse=lambda: None,
    by=LSTM,
    **settings,
):
    return by.fit(
        Grid(times, values, interval), SETTINGS | settings, bounds, previous, fleet, pulse
    )


def run_of(fitted):
    return LSTM.runner(fitted.numbers, fitted.model).run


def previous_of(fitted):
    return Previous(fitted.numbers, fitted.model, run_of(fitted))


def packed(fitted):
    return blob.pack(LSTM, fitted.numbers, fitted.model)


def ahead(fitted, times, values, horizon=None, level=0.9):
    grid = Grid(times, values, fitted.model.interval)
    return LSTM.forecast(fitted.model, run_of(fitted), grid, horizon, level)


def model_of(horizon, floor=1.0):
    return Model(
        horizon=horizon,
        interval=INTERVAL,
        bounds=(None, None),
        sequence_length=50,
        floor=floor,
        ordinary=(1.0,) * horizon,
        inflation=1.0,
        seen_until=0.0,
        calendar=Calendar("UTC", 1, 1),
        astray=1.0,
    )


@pytest.fixture(scope="module")
def series():
    return telemetry(1500)


@pytest.fixture(scope="module")
def fitted(series):
    return fit(*series, **SMALL)


def test_same_data_same_bytes(series, fitted):
    fit(*telemetry(700, seed=9), **SMALL)  # another device in between
    again = fit(*series, **SMALL)
    assert packed(again) == packed(fitted)
    assert again.figures == fitted.figures


def test_what_is_held_out_shapes_nothing(series, fitted):
    times, values = (a.copy() for a in series)
    values[times > fitted.model.seen_until] *= 2
    again = fit(times, values, **SMALL)
    assert packed(again) == packed(fitted)
    assert again.figures["naive_mae"] > 1.5 * fitted.figures["naive_mae"]


def test_inputs_are_untouched(series):
    times, values = (a.copy() for a in series)
    fit(times, values, **SMALL)
    np.testing.assert_array_equal(times, series[0])
    np.testing.assert_array_equal(values, series[1])


def test_meta_and_figures_are_json(series, fitted):
    stored = fitted.model.knowing(METRIC, HABIT, ["system.memoryTotal"])
    assert LSTM.of_json(json.loads(json.dumps(stored.to_json()))) == stored
    assert json.loads(json.dumps(fitted.figures)) == fitted.figures


def test_a_predictable_series_is_predicted(fitted):
    assert fitted.figures["beats_naive"]
    assert fitted.figures["mae"] < 0.8 * fitted.figures["naive_mae"]


@pytest.mark.slow
def test_intervals_cover_what_they_say(fitted):
    times, values = telemetry(6000, seed=5)
    at = np.arange(600, 5900)
    times = times + fitted.model.seen_until
    predicted, half, _ = forecast.backtest(fitted.model, run_of(fitted), times, values, at)
    miss = np.abs(ahead_of(values, at, 4) - predicted)
    for q, level in enumerate(LEVELS):
        assert (miss <= half[:, q]).mean() == pytest.approx(level, abs=0.02)


def test_the_backtest_is_the_forecast(fitted):
    """The figures are of the intervals that a call returns."""
    times, values = telemetry(1200, seed=6)
    times = times + fitted.model.seen_until
    at = np.array([700, 900, 1100])
    predicted, half, least = forecast.backtest(
        fitted.model, run_of(fitted), times, values, at, [0.9]
    )
    for i, end in enumerate(at):
        told = ahead(fitted, times[: end + 1], values[: end + 1], level=0.9)
        np.testing.assert_allclose(told.predicted, predicted[i])
        np.testing.assert_allclose(told.upper - told.predicted, half[i, 0])
        np.testing.assert_allclose(told.least, least[i])


def sun(days, seed=0, interval=INTERVAL):
    """A panel that stands still at night, under clouds that come and go."""
    rng = np.random.default_rng(seed)
    times = 1.7e9 // DAY * DAY + interval * np.arange(int(days * DAY / interval))
    cloud = np.ones(len(times))
    for i in range(1, len(times)):
        cloud[i] = np.clip(0.95 * cloud[i - 1] + 0.05 + rng.normal(0, 0.05), 0.1, 1)
    height = np.clip(np.sin(2 * np.pi * (times / DAY - 0.25)), 0, None)
    return times, np.round(4200 * height * cloud)


@pytest.fixture(scope="module")
def panel():
    return fit(*sun(7, interval=120.0), interval=120.0, **SMALL)


def at_least(fitted, times, values, at):
    """What a scan would compare with after the value `at`: predicted, and half the width."""
    told = ahead(fitted, times[: at + 1], values[: at + 1], level=0.99).at_least((None, None))
    return told.predicted, told.upper - told.predicted


def test_what_stood_still_may_move_as_it_does_each_day(panel):
    times, values = sun(9, seed=5, interval=120.0)
    dawn = int(np.flatnonzero((times > times[0] + 8 * DAY) & (values > 0))[0])
    for at in range(dawn - 3, dawn + 60):
        predicted, half = at_least(panel, times, values, at)
        assert (half > 0).all()
        assert (np.abs(values[at + 1 : at + 5] - predicted) < 2 * half).all(), at - dawn
    # What it never did at night is seen as before.
    predicted, half = at_least(panel, times, values, dawn - 100)
    assert half.max() < 1000
    assert abs(predicted[0]) < 1


def test_documents_keep_intervals_as_narrow_as_they_were(panel):
    times, values = sun(9, seed=5, interval=120.0)
    night = int(np.flatnonzero(times > times[0] + 8 * DAY)[0]) + 60
    told = ahead(panel, times[:night], values[:night], level=0.9)
    assert (told.upper - told.lower).max() < 10
    assert told.least.min() > 10


@pytest.mark.slow
def test_sunrise_is_foreseen_after_three_days():
    """Minute by minute, under clouds that change every twenty minutes."""
    rng, minutes = np.random.default_rng(4), np.arange(4 * 1440)
    clear = np.maximum(0.0, np.sin(np.pi * (minutes % 1440 - 360) / 720))
    values = 80 * clear * np.repeat(rng.uniform(0.8, 1.0, len(minutes) // 20), 20)
    times, dawn = 1_793_577_600.0 + 60.0 * minutes, 3 * 1440 + 360  # from a midnight in UTC on
    trained = fit(times[: dawn - 5], values[: dawn - 5], interval=60.0, epochs=2)
    told = ahead(trained, times[: dawn - 5], values[: dawn - 5])
    came = values[dawn - 5 : dawn + 7]
    assert came[-1] > 1.5
    np.testing.assert_allclose(told.predicted, came, atol=0.4)
    assert (came <= told.upper + 1e-9).all()


def test_a_field_that_is_never_still_has_no_floor(series, fitted):
    times, values = series
    told = ahead(fitted, times, values)
    assert not told.least.any()
    np.testing.assert_array_equal(told.at_least((None, None)).upper, told.upper)


def test_a_step_of_a_coarse_field_is_ordinary():
    """Though it is moved once in the training: a fault of one day makes no larger one ordinary."""
    values = np.full(2000, 20.0)
    values[700:] = 20.5
    values[1400:1410] = 26.0
    at = origins(values, 20, 4)
    found = ordinary_changes(values, at, 20, 4, 1e-3)
    np.testing.assert_array_equal(found, np.median(np.diff(np.unique(values))))
    daily = 20 + 3.0 * ((np.arange(2000) // 140) % 2)
    np.testing.assert_array_equal(ordinary_changes(daily, at, 20, 4, 1e-3), 3.0)


def test_a_training_says_how_far_its_forecasts_went_astray(fitted):
    """The peaks are of distances in half widths: of a hundred values one is beyond 1."""
    peaks, hours = fitted.figures["peaks"], fitted.figures["ordinary_hours"]
    assert peaks == sorted(peaks, reverse=True)
    assert 0.5 < peaks[0] < 5
    held = 0.2 * 1440 * INTERVAL / 3600  # windows of the last two of ten parts
    assert hours == pytest.approx(held, rel=0.1)


def test_a_forecast_continues_the_grid(series, fitted):
    times, values = series
    told = ahead(fitted, times, values, horizon=3)
    np.testing.assert_array_equal(told.times, times[-1] + INTERVAL * np.arange(1, 4))
    assert (told.lower <= told.predicted).all()
    assert (told.predicted <= told.upper).all()
    assert told.last_time == times[-1]
    unseen = times >= fitted.model.seen_until
    assert told.replayed == (unseen.sum() - fitted.model.horizon + 1) // PARAMETERS.every


def test_a_longer_history_changes_nothing(series, fitted):
    times, values = series
    recent = times > times[-1] - LSTM.lookback(fitted.model)
    few = ahead(fitted, times[recent], values[recent])
    all_of_it = ahead(fitted, times, values)
    np.testing.assert_array_equal(few.upper, all_of_it.upper)


def test_wider_levels_are_wider(series, fitted):
    widths = [
        np.ptp([(f := ahead(fitted, *series, level=p)).lower, f.upper]) for p in (0.5, 0.8, 0.95)
    ]
    assert widths == sorted(widths)


def test_quantiles_cover_their_level_and_no_more():
    """A new score has each of the 100 ranks among 99 others with the same probability."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))[:, None]
    scores = np.repeat(scores, PARAMETERS.every, axis=1)  # steps whose errors do not overlap
    found = quantiles(scores, [0.8, 0.905, 0.999], PARAMETERS)
    expected = np.repeat([[80.0], [90.5], [99.0]], PARAMETERS.every, axis=1)
    np.testing.assert_allclose(found, expected)
    assert (quantiles(scores[:1], [0.5, 0.9], PARAMETERS) == scores[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_what_comes_in_a_day_is_covered_as_it_should_while_errors_change(seed):
    """Errors of changing size; each forecast starts where the one before ends."""
    random = np.random.default_rng(seed)
    n, horizon, replayed = 3000, 12, PARAMETERS.replay // PARAMETERS.every
    size = np.exp(np.cumsum(random.normal(scale=0.05, size=n)))
    scores = np.abs(random.normal(size=(n, horizon))) * size[:, None]
    deviations = []
    for now in range(replayed + 3, n, 3):
        past = scores[now - replayed - 3 : now - 3 + 1]
        half = quantiles(past, LEVELS, PARAMETERS)
        widths = half, half * tracked(past, PARAMETERS)
        deviations.append([(scores[now] <= w).mean() - np.mean(LEVELS) for w in widths])
    total = np.cumsum(deviations, axis=0)
    day = (total[24:] - total[:-24]) / 24
    before, after = np.sqrt((day**2).mean(axis=0))
    assert after < 0.6 * before


def test_an_interval_is_widened_by_what_went_before():
    scores = np.abs(np.random.default_rng(0).normal(size=(100, 12)))
    grown = scores * np.repeat([1.0, 3.0], 50)[:, None]
    assert tracked(grown[::-1], PARAMETERS) < 0.8
    assert tracked(grown, PARAMETERS) > 1.2
    assert tracked(np.ones((1, 12)), PARAMETERS) < 1.0  # the only one there was is covered
    assert 0.0 < tracked(np.zeros((100, 12)), PARAMETERS) < 1.0


@pytest.mark.filterwarnings("error")
def test_a_forecast_that_never_erred_has_the_say():
    """Its errors are 0, so the ratio to others is infinite."""
    errors = np.ones((3, 12, forecast.FITTED + 1))
    errors[..., 0] = 0.0
    share = forecast._shares(errors, PARAMETERS)
    np.testing.assert_array_equal(share[..., 0], 1.0)
    np.testing.assert_array_equal(share[..., 1:], 0.0)


def test_who_errs_less_of_late_has_the_say():
    """Two experts with the same sum of errors, one with early and one with late ones."""
    n, horizon = 100, 12
    size = np.repeat([[1.0, 3.0, 9.0], [3.0, 1.0, 9.0]], n // 2, axis=0)
    errors = np.repeat(size[:, None], horizon, axis=1)
    nothing = np.zeros((n, horizon))
    past = forecast._Replay(
        errors, nothing, errors, nothing, np.ones((n, 1)), *np.zeros((2, n), np.bool_)
    )
    now = np.tile([10.0, 20.0, 30.0], (horizon, 1))
    predicted, _ = forecast._conclude(
        model_of(horizon), PARAMETERS, past, now, nothing[0], np.ones(1), [0.9]
    )
    np.testing.assert_allclose(predicted, 20.0, atol=0.1)


@pytest.mark.parametrize("calm", ["window", "forecasts"])
def test_an_interval_is_wider_where_more_moves(calm):
    """By what the window did, and by what the forecasts say of it."""
    behind = np.random.default_rng(0).normal(size=(2, 50))
    said = np.random.default_rng(1).normal(size=(2, 12, 4))
    behind[:, -1] = 0.0
    behind[1], said[1] = behind[0], said[0]
    (behind if calm == "window" else said)[1] *= 0.1
    spread = forecast._spread(model_of(12, floor=1e-9), behind, said)
    assert 0.1 * spread[0] < spread[1] < 0.5 * spread[0]


def test_bounds_clip(series):
    fitted = fit(*series, **SMALL, bounds=(0.0, 56.0))
    told = ahead(fitted, *series, level=0.99)
    assert told.upper.max() <= 56.0
    assert (told.lower <= told.upper).all()


def test_gaps_are_not_learnt_across(series):
    times, values = (a.copy() for a in series)
    values[500:520] = np.nan
    at = origins(values, 20, 4)
    windows = np.concatenate([behind_of(values, at, 20), ahead_of(values, at, 4)], axis=1)
    assert np.isfinite(windows).all()
    assert len(at) == len(values) - 23 - 43
    fitted = fit(times, values, **SMALL)
    values[-10] = np.nan
    told = ahead(fitted, times, values)
    assert np.isfinite(told.upper).all()


@pytest.mark.slow
def test_few_readings():
    fitted = fit(*telemetry(100), epochs=2)
    told = ahead(fitted, *telemetry(60))
    assert np.isfinite([told.lower, told.upper]).all()


def test_too_few_readings_say_how_many_would_do():
    with pytest.raises(NotEnoughData, match="38 windows of 50 \\+ 12") as caught:
        fit(*telemetry(99))
    assert "8 hours" in caught.value.detail
    assert caught.value.hours == 9


def test_a_constant_field():
    with pytest.raises(NotEnoughData, match="constant"):
        fit(telemetry(500)[0], np.full(500, 3.0))


@pytest.mark.parametrize(
    ("argument", "hint"),
    [({"horizon": 5}, "1 to 4"), ({"horizon": 0}, "1 to 4"), ({"level": 1.0}, "")],
)
def test_arguments_outside_their_range(series, fitted, argument, hint):
    with pytest.raises(BadArgument) as caught:
        ahead(fitted, *series, **argument)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.repeat([1.0, 0.0], n // 2),
        lambda n: (np.arange(n) % 97 == 0).astype(float),
        lambda n: 1e12 + np.arange(n) * 1e3,
        lambda n: np.round(telemetry(n)[1]),
    ],
    ids=["step", "rare", "huge", "rounded"],
)
def test_awkward_series_give_finite_forecasts(make):
    times, _ = telemetry(600)
    values = make(600)
    fitted = fit(times, values, **SMALL)
    told = ahead(fitted, times, values)
    assert np.isfinite([told.lower, told.predicted, told.upper]).all()
    assert (told.lower <= told.upper).all()


@pytest.mark.slow
def test_a_value_that_no_sensor_gives_drowns_no_other():
    """Late enough to be in what is refitted alone: the sums over its windows were singular."""
    i = np.arange(1, 301)
    noise = np.sin(i * 12.9898) * 43758.5453 % 1 - 0.5
    values = np.round(30 + 12 * np.sin(i / 229) + 4 * noise, 2)
    values[267] = 305872912.0
    asked = {"interval": 60.0, "sequence_length": 8, "horizon": 2, "epochs": 1}
    fitted = fit(i * 60.0, values, **asked)
    told = ahead(fitted, i * 60.0, values)
    assert abs(told.predicted - 43).max() < 5


@pytest.mark.slow
def test_what_hardly_improves_is_kept_but_not_waited_on(series):
    asked = SMALL | {"epochs": 30}
    patient, hasty = (
        fit(*series, **asked, by=lstm.LSTM(Parameters(least_progress=share))).figures
        for share in (0.0, 1.0)
    )
    assert hasty["epochs"] == PARAMETERS.patience < patient["epochs"]
    assert 0 < hasty["best_epoch"] <= PARAMETERS.patience


@pytest.mark.slow
def test_a_retraining_starts_from_the_current_model(series):
    times, values = telemetry(2500)
    first = fit(times[:2000], values[:2000], **SMALL)
    previous = previous_of(first)
    second = fit(times[500:], values[500:], **SMALL, previous=previous)
    assert second.figures["warm"]
    assert second.figures["compared_windows"] > 0
    knows_it_all = replace(previous, model=replace(first.model, seen_until=times[-1]))
    third = fit(times[500:], values[500:], **SMALL, previous=knows_it_all)
    assert not third.figures["warm"], "the held-out part is not new to those weights"
    assert third.figures["compared_windows"] == 0


@pytest.mark.slow
def test_a_worse_model_is_not_accepted():
    times, values = telemetry(2500)
    good = fit(times[:2000], values[:2000], **SMALL)
    previous = previous_of(good)
    rng = np.random.default_rng(0)
    values[500:2100] = 50 + rng.normal(0, 10, 1600)  # a broken sensor, repaired since
    figures = fit(times[500:], values[500:], **SMALL, previous=previous).figures
    assert figures["previous_mae"] < figures["candidate_mae"]
    assert not figures["accepted"]


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("after", [1, 30, 80])
def test_a_cancelled_training_leaves_the_next_one_as_it_would_be(series, fitted, after):
    calls = 0

    def pulse():
        nonlocal calls
        calls += 1
        if calls == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit(*series, **SMALL, pulse=pulse)
    again = fit(*series, **SMALL)
    assert packed(again) == packed(fitted)


def test_forecasting_needs_numpy_alone(tmp_path, series, fitted):
    model = fitted.model.knowing(METRIC, HABIT, [])
    data = blob.pack(LSTM, fitted.numbers, model)
    (tmp_path / "model.onnx").write_bytes(data)
    np.savez(tmp_path / "s.npz", times=series[0], values=series[1])
    code = (
        "import sys, numpy as np; from pathlib import Path; from pyml.lstm import LSTM\n"
        "from pyml.models import blob; from pyml.telemetry.series import Grid\n"
        f"d = np.load({str(tmp_path / 's.npz')!r})\n"
        f"m = blob.load(LSTM(), Path({str(tmp_path / 'model.onnx')!r}).read_bytes())\n"
        "grid = Grid(d['times'], d['values'], m.knows.interval)\n"
        "told = LSTM().forecast(m.knows, m.run, grid, None, 0.9)\n"
        "assert np.isfinite(told.predicted).all()\n"
        "known = {'tensorflow', 'keras', 'sklearn', 'scipy', 'pandas', 'onnx', 'google.protobuf'}\n"
        "assert not known & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
