"""Checks of every forecaster: the registered ones, and one from a file of its own."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.errors import BadArgument, NotEnoughData
from pyml.forecasters.base import FORECASTERS, Previous, is_figures
from pyml.models import blob
from pyml.telemetry import series
from pyml.telemetry.series import Grid

from .contracts import (
    HABIT,
    Ended,
    ending,
    frozen,
    junk,
    nothing,
    read,
    settings_of,
    unless_too_little,
    with_example,
)

ALL = with_example(FORECASTERS, "yesterday.py")
INTERVAL = 900.0
METRIC = series.Metric("cpu", "system.cpuUsage", None, 1.0, "gauge")
FREE = (None, None)


@pytest.fixture(params=ALL, ids=lambda one: one.kind)
def forecaster(request):
    return request.param


def telemetry(seed=0, n=600):
    """Daily rhythm plus noise."""
    rng = np.random.default_rng(seed)
    times = 1.7e9 + INTERVAL * np.arange(n)
    return Grid(times, 50 + 10 * np.sin(times * 2 * np.pi / 86400) + rng.normal(size=n), INTERVAL)


def train(forecaster, grid, bounds=FREE, previous=None, pulse=nothing):
    """A training with all that is stored of it: its fitted numbers, and the model that knows."""
    fitted = forecaster.fit(grid, settings_of(forecaster), bounds, previous, None, pulse)
    return fitted, fitted.model.knowing(METRIC, HABIT, ["system.memoryTotal"])


def packed(forecaster, grid):
    fitted, model = train(forecaster, grid)
    return blob.pack(forecaster, fitted.numbers, model)


@pytest.fixture(scope="module")
def stored():
    """The bytes of one training of each."""
    return {one.kind: packed(one, telemetry()) for one in ALL}


@pytest.fixture
def loaded(forecaster, stored):
    return blob.load(forecaster, stored[forecaster.kind])


def ahead(forecaster, loaded, grid, horizon=None, level=0.9):
    return forecaster.forecast(loaded.knows, loaded.run, grid, horizon, level)


def lines(told):
    return np.array([told.times, told.predicted, told.lower, told.upper])


def test_its_shape_is_among_its_settings(forecaster):
    assert set(forecaster.shape) <= set(forecaster.settings)


@pytest.mark.slow
def test_the_same_data_and_seed_give_the_same_bytes(forecaster, stored):
    packed(forecaster, telemetry(seed=9))  # another device in between
    assert packed(forecaster, telemetry()) == stored[forecaster.kind]
    assert len(stored[forecaster.kind]) <= forecaster.max_bytes


def test_inputs_are_left_as_they_are(forecaster):
    """Arrays that cannot be written to do."""
    plain = telemetry()
    grid = Grid(*frozen(plain.times, plain.values), INTERVAL)
    loaded = blob.load(forecaster, packed(forecaster, grid))
    ahead(forecaster, loaded, grid)
    np.testing.assert_array_equal(grid.values, plain.values)


def test_the_stored_form_is_exact(forecaster):
    grid = telemetry()
    fitted, model = train(forecaster, grid, bounds=(0.0, None))
    again = forecaster.of_json(json.loads(json.dumps(forecaster.to_json(model), allow_nan=False)))
    assert again == model
    data = blob.pack(forecaster, fitted.numbers, model)
    loaded = blob.load(forecaster, data)
    assert loaded.knows == model
    assert blob.pack(forecaster, loaded.numbers, loaded.knows) == data
    here = forecaster.forecast(model, forecaster.runner(fitted.numbers, model).run, grid, None, 0.9)
    np.testing.assert_array_equal(lines(here), lines(ahead(forecaster, loaded, grid)))


def test_its_figures_are_json_and_of_the_form_that_a_forecast_shows(forecaster):
    fitted, _ = train(forecaster, telemetry())
    figures = json.loads(json.dumps(fitted.figures, allow_nan=False))
    assert figures == fitted.figures
    assert is_figures({name: figures.get(name) for name in SHOWN})
    assert figures["mae"] > 0


SHOWN = ("mae", "mase", "beats_naive", "coverage")


@pytest.mark.parametrize("meta", [{}, {"horizon": 4}, {"a": None}])
def test_metadata_of_another_form_is_none(forecaster, meta):
    assert forecaster.of_json(meta) is None


def test_metadata_without_one_of_its_parts_is_none(forecaster, loaded):
    text = json.dumps(forecaster.to_json(loaded.knows))
    assert forecaster.of_json(json.loads(text)) == loaded.knows
    for key in json.loads(text):
        less = json.loads(text)
        del less[key]
        assert forecaster.of_json(less) is None, key
        assert forecaster.of_json(json.loads(text) | {key: "x"}) is None, key
    assert forecaster.of_json(json.loads(text) | {"more": 1}) is None


@pytest.mark.parametrize("horizon", [None, 1, 3])
def test_a_forecast_continues_the_grid(forecaster, loaded, horizon):
    grid = telemetry(seed=3)
    told = ahead(forecaster, loaded, grid, horizon)
    steps = loaded.knows.horizon if horizon is None else horizon
    np.testing.assert_array_equal(told.times, grid.times[-1] + INTERVAL * np.arange(1, steps + 1))
    assert told.last_time == grid.times[-1]
    assert np.isfinite(lines(told)).all()
    assert (told.lower <= told.predicted).all()
    assert (told.predicted <= told.upper).all()
    assert told.replayed > 0


def test_a_shorter_forecast_is_the_beginning_of_a_longer_one(forecaster, loaded):
    short, whole = (ahead(forecaster, loaded, telemetry(seed=3), steps) for steps in (2, None))
    np.testing.assert_array_equal(lines(short), lines(whole)[:, :2])


def test_wider_levels_are_wider(forecaster, loaded):
    told = [ahead(forecaster, loaded, telemetry(seed=3), level=p) for p in (0.5, 0.8, 0.95)]
    widths = [float((one.upper - one.lower).mean()) for one in told]
    assert 0 < widths[0] < widths[1] < widths[2]


def test_what_comes_lies_within_the_interval_mostly(forecaster, loaded):
    """An interval of level 0.8 contains about 80 % of the next steps of sixty origins."""
    grid, covered = telemetry(seed=3, n=900), []
    for end in range(600, 900 - 4, 5):
        told = ahead(
            forecaster, loaded, Grid(grid.times[:end], grid.values[:end], INTERVAL), 4, 0.8
        )
        truth = grid.values[end : end + 4]
        covered += ((told.lower <= truth) & (truth <= told.upper)).tolist()
    assert 0.65 < np.mean(covered) < 0.95


def test_bounds_hold(forecaster):
    grid = telemetry()
    fitted, model = train(forecaster, grid, bounds=(48.0, 52.0))
    run = forecaster.runner(fitted.numbers, model).run
    told = forecaster.forecast(model, run, grid, None, 0.99)
    assert lines(told)[1:].min() >= 48
    assert lines(told)[1:].max() <= 52


def test_what_is_older_than_it_looks_back_does_not_matter(forecaster, loaded):
    grid = telemetry(n=900)
    recent = grid.times > grid.times[-1] - forecaster.lookback(loaded.knows)
    assert 0 < recent.sum() < len(recent)
    other = np.where(recent, grid.values, -500.0)
    whole = ahead(forecaster, loaded, grid)
    for times, values in ((grid.times[recent], grid.values[recent]), (grid.times, other)):
        part = ahead(forecaster, loaded, Grid(times, values, INTERVAL))
        np.testing.assert_array_equal(lines(part), lines(whole))


def test_the_order_of_rows_does_not_matter(forecaster):
    grid = telemetry()
    mixed = np.random.default_rng(3).permutation(len(grid.times))

    def cleaned(order):
        came = read(grid.times[order], grid.values[order, None])
        return series.regular(came.times, came.values[:, 0], INTERVAL)

    in_order, shuffled = cleaned(np.arange(len(mixed))), cleaned(mixed)
    data, again = packed(forecaster, in_order), packed(forecaster, shuffled)
    assert data == again
    here, there = (
        ahead(forecaster, blob.load(forecaster, data), one) for one in (in_order, shuffled)
    )
    np.testing.assert_array_equal(lines(here), lines(there))


@pytest.mark.parametrize("argument", [{"horizon": 0}, {"horizon": 289}, {"level": 1.0}])
def test_arguments_outside_their_range(forecaster, loaded, argument):
    with pytest.raises(BadArgument) as caught:
        ahead(forecaster, loaded, telemetry(), **argument)
    assert caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_readings_are_said_to_be(forecaster, loaded, n):
    grid = telemetry(n=n)
    for call in (lambda: train(forecaster, grid), lambda: ahead(forecaster, loaded, grid)):
        with pytest.raises(NotEnoughData) as caught:
            call()
        assert caught.value.detail
        assert caught.value.hint


def test_what_pulse_raises_ends_the_training(forecaster, stored):
    calls, pulse = ending(after=0)
    train(forecaster, telemetry(), pulse=pulse)
    assert calls[0] > 0
    for after in {1, calls[0] // 2, calls[0]} - {0}:
        with pytest.raises(Ended):
            train(forecaster, telemetry(), pulse=ending(after)[1])
    assert packed(forecaster, telemetry()) == stored[forecaster.kind]


def test_a_training_goes_on_from_the_current_model(forecaster, loaded):
    """A second call gives the same."""
    previous = Previous(loaded.numbers, loaded.knows, loaded.run)
    grid = telemetry(n=800)
    first, again = (train(forecaster, grid, previous=previous) for _ in range(2))
    assert first[0].figures == again[0].figures
    assert isinstance(first[0].figures.get("accepted", True), bool)
    one, other = (blob.pack(forecaster, fitted.numbers, model) for fitted, model in (first, again))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(trained=junk(1, (1, 400, 500, 800), INTERVAL))
def test_junk_has_finite_forecasts_or_is_too_little(one, trained):
    """As `pyml.telemetry.series` lets it through: within ±1e15, or missing."""
    times, values = trained
    grid = series.regular(times, values[:, 0], INTERVAL)
    told = unless_too_little(lambda: ahead(one, blob.load(one, packed(one, grid)), grid, None, 0.9))
    if told is None:
        return
    assert np.isfinite(lines(told)).all()
    assert (told.lower <= told.predicted).all()
    assert (told.predicted <= told.upper).all()


POOLING = pytest.mark.parametrize("forecaster", [one for one in ALL if one.pools])


def fleet_of(n, readings=400):
    """Devices of different levels and sizes; the last one's sensor sends junk."""
    rng = np.random.default_rng(n)
    grids = [telemetry(seed, readings) for seed in range(n)]
    sizes = rng.uniform(0.01, 1000, n)
    scaled = [
        Grid(g.times, 7e5 + size * g.values, INTERVAL) for g, size in zip(grids, sizes, strict=True)
    ]
    junk = rng.choice([-999.0, 0.0, 1e300, 65535.0], readings)
    return [*scaled, Grid(grids[0].times, junk, INTERVAL)]


@pytest.fixture(scope="module")
def fleets():
    """The model of a fleet, of each that has one."""
    return {
        one.kind: one.fit_fleet(fleet_of(3), settings_of(one), nothing) for one in ALL if one.pools
    }


@POOLING
def test_a_fleet_has_one_model_the_same_to_the_byte(forecaster, fleets):
    fitted = fleets[forecaster.kind]
    again = forecaster.fit_fleet(fleet_of(3), settings_of(forecaster), nothing)
    both = [
        blob.pack(forecaster, one.numbers, one.model.knowing(METRIC, HABIT, []))
        for one in (fitted, again)
    ]
    assert both[0] == both[1]
    assert fitted.figures["devices"] == 4
    assert is_figures({name: fitted.figures[name] for name in SHOWN})
    assert json.loads(json.dumps(fitted.figures, allow_nan=False)) == fitted.figures
    assert fitted.figures["ordinary_hours"] > 0


@POOLING
@given(size=st.floats(1e-6, 1e6), level=st.floats(-1e9, 1e9), readings=st.integers(60, 300))
def test_it_forecasts_a_device_in_whatever_unit(forecaster, fleets, size, level, readings):
    fitted = fleets[forecaster.kind]
    run = forecaster.runner(fitted.numbers, fitted.model).run
    plain = telemetry(99, readings)
    other = Grid(plain.times, level + size * (plain.values - 50), INTERVAL)
    told, scaled = (
        forecaster.forecast_any(fitted.model, run, grid, None, 0.9) for grid in (plain, other)
    )
    assert (scaled.lower <= scaled.predicted).all()
    assert (scaled.predicted <= scaled.upper).all()
    spread = 1e-3 * size + 1e-9 * abs(level)
    for mine, theirs in zip(lines(told)[1:], lines(scaled)[1:], strict=True):
        np.testing.assert_allclose(theirs, level + size * (mine - 50), atol=30 * spread, rtol=1e-9)


@POOLING
def test_what_does_not_move_has_no_such_forecast(forecaster, fleets):
    fitted = fleets[forecaster.kind]
    run = forecaster.runner(fitted.numbers, fitted.model).run
    still = Grid(telemetry().times, np.full(len(telemetry().times), 5.0), INTERVAL)
    with pytest.raises(NotEnoughData, match="constant"):
        forecaster.forecast_any(fitted.model, run, still, None, 0.9)
    with pytest.raises(NotEnoughData):
        forecaster.fit_fleet([still] * 3, settings_of(forecaster), nothing)


@POOLING
def test_a_model_of_its_own_says_whether_it_beats_the_fleets(forecaster, fleets):
    fitted = fleets[forecaster.kind]
    fleet = Previous(
        fitted.numbers, fitted.model, forecaster.runner(fitted.numbers, fitted.model).run
    )
    figures = {}
    # A saw that nobody else has, and what has nothing of its own.
    saw = Grid(telemetry(n=900).times, np.arange(900) % 7 * 10.0, INTERVAL)
    for name, grid in (("saw", saw), ("alike", telemetry(50, 900))):
        settings = settings_of(forecaster)
        figures[name] = forecaster.fit(grid, settings, FREE, None, fleet, nothing).figures
    assert figures["saw"]["beats_fleet"]
    assert figures["saw"]["mae"] < figures["saw"]["fleet_mae"]
    assert not figures["alike"]["beats_fleet"]
