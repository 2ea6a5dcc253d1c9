"""Training of an LSTM's forecasts of one metric, beside linear paths.

For each step ahead the network forecasts a weighted mean of five simple forecasts plus a
correction. The simple forecasts are the last value, two medians, and two linear paths: linear
maps of the lags fitted to absolute error, of which one reads a calendar too. The LSTM, and a
plain layer beside it, read the window and set the weights and the correction. Training starts
from the paths, and keeps what improves on them in a later part of the history.
docs/forecasting.md has the steps in order.

All functions take a series on a regular grid: neighbours one interval apart,
a long gap a single NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from pyml.background import Pulse
from pyml.detectors.rarity import Excursions
from pyml.detectors.rarity import figures as rarity
from pyml.errors import NotEnoughData
from pyml.forecasters import inference, pooling
from pyml.forecasters.base import FORECASTERS, Bounds, Fitted, Forecast, Forecaster, Previous
from pyml.forecasters.forecast import backtest, forecast, span
from pyml.forecasters.linear import Paths, Scale, choose_ridge
from pyml.forecasters.measured import measured
from pyml.forecasters.network import (
    Part,
    descend,
    network_of,
    numbers_of,
    prepare,
    starved,
    weights_of,
)
from pyml.forecasters.recurrent import LEVEL, PARAMETERS, Model, Parameters
from pyml.forecasters.standstill import ordinary_changes
from pyml.forecasters.usual import Usual, astray, learn, usual_of
from pyml.forecasters.windows import Floats, Places, Windows, ahead_of, origins
from pyml.models.blob import Run, Runner
from pyml.models.wire import Graph, Numbers
from pyml.queries import literal
from pyml.seconds import HOUR
from pyml.telemetry.series import Grid


@FORECASTERS.register
class LSTM(Forecaster[Model]):
    """The LSTM.

    Its graph takes ``window``, float64 (n, sequence_length), and ``clock``, int64 (n, 1 +
    horizon), the parts of its calendar that the last value and the steps ahead lie in. It gives
    ``forecast``, float64 (n, horizon), the network's; ``simple``, float64 (n, horizon, 5), the
    simple forecasts beside it; and ``due``, float64 (n, horizon), the change that the calendar
    lets expect; all in the metric's own unit.

    Parameters
    ----------
    parameters : Parameters
    """

    kind = "lstm"
    settings: ClassVar = {
        "sequence_length": ("sequence_length", int),
        "horizon": ("forecast_horizon", int),
        "epochs": ("epochs", int),
        "seed": ("seed", int),
        "zone": ("calendar_time_zone", str),
    }
    shape = ("sequence_length", "horizon")
    pools = True
    max_bytes = 3 << 20  # the longest window and horizon, with a week, take 2.3 MB

    def __init__(self, parameters: Parameters = PARAMETERS) -> None:
        self.parameters = parameters

    def training_call(self, device: str, field: str = "", hours: int | None = None) -> str:
        """The statement that trains it, for a person to type."""
        wider = f", hours => {hours}" if hours else ""
        return f"SELECT ml_train_lstm({literal(device)}, {literal(field)}{wider});"

    def load(self, settings: Mapping[str, Any]) -> None:
        """Load TensorFlow, and make the network."""
        prepare(settings["sequence_length"], settings["horizon"])

    def fit(
        self,
        series: Grid,
        settings: Mapping[str, Any],
        bounds: Bounds,
        previous: Previous[Model] | None,
        fleet: Previous[Model] | None,
        pulse: Pulse,
    ) -> Fitted[Model]:
        """Train on one metric's history.

        The windows are cut by time into a part to fit on, a part that chooses the ridge penalty
        and the epoch, and a part held out for the figures. Then the training goes on over all
        windows but the last ``parameters.replay``. These stay unseen, so that the first intervals
        rest on out-of-sample errors.

        Parameters
        ----------
        series : Grid
        settings : mapping
            ``sequence_length`` and ``horizon``: values read and values forecast; ``epochs``: passes
            over the data, at most; ``seed``; ``zone``: whose clock counts, UTC if not given;
            ``level``: share of the values that the intervals of
            scans cover, for `LEVEL`.
        bounds : tuple of float or None
        previous : Previous or None
            The new model is compared with it. If it has not seen what is held out now, training
            starts from its weights.
        fleet : Previous or None
            It is measured on what is held out, too.
        pulse : callable

        Raises
        ------
        NotEnoughData
            Too few windows without a gap, or a constant series.
        """
        with starved():
            return _fit(series, bounds, previous, fleet, self.parameters, pulse, **settings)

    def fit_fleet(
        self, series: Sequence[Grid], settings: Mapping[str, Any], pulse: Pulse
    ) -> Fitted[Model]:
        """Train on one metric of many devices, each in a unit of its own."""
        with starved():
            fitted, distances = pooling.fit(series, self.parameters, pulse, **settings)
        hours = sum(one.interval * len(one.heights) for one in distances) / HOUR
        peaks = [Excursions.lasting(*one).peaks().heights.tolist() for one in distances]
        return replace(fitted, figures=fitted.figures | rarity(hours, chain.from_iterable(peaks)))

    def lookback(self, model: Model) -> float:
        """Seconds before the last reading that a forecast wants to see."""
        return model.lookback(self.parameters)

    def forecast(
        self, model: Model, run: Run, series: Grid, horizon: int | None, level: float
    ) -> Forecast:
        """Average the network and the simple forecasts, with an interval from recent errors."""
        return forecast(
            model,
            run,
            series.times,
            series.values,
            horizon=horizon,
            level=level,
            parameters=self.parameters,
        )

    def forecast_any(
        self, model: Model, run: Run, series: Grid, horizon: int | None, level: float
    ) -> Forecast:
        """Forecast the series in a unit of its own."""
        unit = pooling.Unit.of(series.values, model.horizon)
        if unit is None:
            raise NotEnoughData(
                "the field is constant: there is nothing to forecast from",
                detail=f"{len(series.values)} readings were looked at.",
                hint="Wait until it moves, or forecast another field.",
            )
        alike = Grid(series.times, unit.standard(series.values), series.interval)
        said = self.forecast(replace(model, bounds=(None, None)), run, alike, horizon, level)
        return unit.back(said, model.bounds)

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        return Model.of_json(meta)

    def graph(self, numbers: Numbers, model: Model) -> Graph:
        """The whole path from raw window to forecast."""
        return inference.graph(numbers, model.sequence_length, model.horizon, model.calendar.size)

    def runner(self, numbers: Numbers, model: Model) -> Runner:
        """The same in numpy."""
        return inference.runner(numbers, model.sequence_length, model.horizon)


def _split(at: Places, horizon: int, p: Parameters) -> list[Places]:
    """Origins for fitting, for early stopping and to hold out, in this order of time.

    No target of one part lies in the next. Only where the history is too short for that may
    targets of the first two parts overlap.
    """
    held = max(p.least_part, int(p.held_share * len(at)))
    stop = max(p.least_part, int(p.stop_share * len(at)))
    held_at, rest = at[-held:], at[:-held]
    rest = rest[rest <= held_at[0] - horizon]
    stop_at, fit_at = rest[-stop:], rest[:-stop]
    apart = fit_at[fit_at <= stop_at[:1].sum() - horizon]
    if len(apart) >= 4 * p.least_fit:
        fit_at = apart
    return [fit_at, stop_at, held_at]


def _thin(at: Places, most: int) -> Places:
    return at[:: -(-len(at) // most)]


def _check(
    values: Floats, at: Places, length: int, horizon: int, interval: float, p: Parameters
) -> None:
    known = values[~np.isnan(values)]
    if len(known) and np.ptp(known) == 0:
        raise NotEnoughData(
            "the field is constant: there is nothing to forecast from",
            detail=f"All {len(known)} readings are {known[0]:g}.",
            hint="Train on a longer history (hours => ...), or forecast another field.",
        )
    least = p.least_fit + 2 * p.least_part + horizon - 1
    if len(at) < least:
        needed = (least + length + horizon - 1) * interval
        error = NotEnoughData(
            f"{len(at)} windows of {length} + {horizon} readings without a long gap; "
            f"training needs {least}",
            detail=f"{len(known)} readings, one in {interval:g} s. "
            f"An unbroken {span(needed)} of readings would do.",
            hint="Train on a longer history, or UPDATE ml_setting to a smaller sequence_length.",
        )
        error.hours = int(np.ceil(needed / 3600))
        raise error


def _fit(
    series: Grid,
    bounds: Bounds,
    previous: Previous[Model] | None,
    fleet: Previous[Model] | None,
    p: Parameters,
    pulse: Pulse,
    *,
    sequence_length: int,
    horizon: int,
    epochs: int,
    seed: int,
    zone: str = "UTC",
    level: float = LEVEL,
) -> Fitted[Model]:
    """`LSTM.fit`, its settings by name."""
    times, values, interval = series.times, series.values, series.interval
    at = origins(values, sequence_length, horizon)
    _check(values, at, sequence_length, horizon, interval, p)
    fit_at, stop_at, held_at = _split(at, horizon, p)
    fit_at = _thin(fit_at, p.most_windows)
    # The stored model sees all windows but those that its first intervals need.
    all_at = _thin(at[at <= at[-min(p.replay, len(held_at))] - horizon], p.most_windows)
    pulse()
    known = int(all_at[-1]) + horizon + 1
    whole = usual_of(times[:known], values[:known], interval, horizon, zone, p)
    pulse()
    fit_known = int(fit_at[-1]) + horizon + 1
    usual = learn(times, values, whole.calendar, horizon, fit_known)
    windows = Windows.cut(values, usual.others, at, sequence_length, horizon)
    pulse()
    to_fit, to_stop = windows.of(fit_at), windows.of(stop_at)
    scale = Scale.of(to_fit)
    ridge, linear = choose_ridge(scale, to_fit, to_stop, p, pulse)
    paths = Paths.fitted(scale, to_fit, ridge, Paths.without(linear), p, pulse)

    pulse()
    network = network_of(sequence_length, horizon)
    pulse()
    stop = Part.of(network, to_stop, scale, paths)
    pulse()
    start, warm = network.fresh(seed), False
    network.load(start)
    start_error = stop.error()
    if previous is not None and _continues(previous, times[held_at[0]], sequence_length, horizon):
        network.load(weights_of(previous.numbers))
        if stop.error() < start_error:
            start, start_error, warm = network.weights(), stop.error(), True
    rng = np.random.default_rng(seed)
    pulse()
    part = Part.of(network, to_fit, scale, paths)
    best, best_epoch, epoch = descend(part, stop, start, start_error, epochs, warm, rng, p, pulse)

    # The figures are of weights fitted before the held-out part began. The windows for early
    # stopping count as unseen, since they only chose penalty and epoch.
    network.load(best)
    model = Model(
        sequence_length=sequence_length,
        horizon=horizon,
        interval=interval,
        bounds=bounds,
        floor=p.floor * scale.change,
        ordinary=_ordinary(values, fit_at, sequence_length, horizon, p.floor * scale.change, p),
        inflation=float(np.clip(stop.error() / max(part.error(), 1e-9), 1, p.most_inflation)),
        seen_until=float(times[fit_at[-1] + horizon]),
        calendar=whole.calendar,
        astray=_astray(to_fit, usual, times, interval, p),
    )
    pulse()
    numbers = numbers_of(best, scale, paths, usual, sequence_length * interval)
    candidate = inference.runner(numbers, sequence_length, horizon).run
    pulse()
    figures = {
        "windows": len(at),
        "training_windows": len(fit_at),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "warm": warm,
        **measured(model, candidate, previous, fleet, times, values, held_at, p, pulse),
        **_peaks(model, candidate, times, values, np.append(stop_at, held_at), level, p, pulse),
    }

    to_refit = Windows.cut(values[:known], whole.others, all_at, sequence_length, horizon)
    paths = Paths.fitted(scale, to_refit, ridge, paths, p, pulse)
    network.reset(best)
    pulse()
    if best_epoch or warm:
        part = Part.of(network, to_refit, scale, paths)
        most = p.warm_refit_epochs if warm else p.refit_epochs
        for i in range(min(most, epochs)):
            part.epoch(p.refit_rate * (1 - i / most), p.batch, rng, pulse)
    ordinary = _ordinary(values, all_at, sequence_length, horizon, model.floor, p)
    seen_until = float(times[all_at[-1] + horizon])
    missed = _astray(to_refit, whole, times[:known], interval, p)
    model = replace(model, seen_until=seen_until, ordinary=ordinary, astray=missed)
    numbers = numbers_of(network.weights(), scale, paths, whole, sequence_length * interval)
    return Fitted(numbers, model, figures)


def _continues(previous: Previous[Model], held_from: float, length: int, horizon: int) -> bool:
    """Whether training may start from `previous`: same shape, held-out part unseen."""
    model = previous.model
    same = (model.sequence_length, model.horizon) == (length, horizon)
    return same and model.seen_until <= held_from


def _astray(windows: Windows, usual: Usual, times: Floats, interval: float, p: Parameters) -> float:
    """`astray`, on windows of a series."""
    risen = usual.risen(windows.behind.shape[1] * interval)
    return astray(windows, usual, risen[usual.calendar.places(times)], p.replay)


def _ordinary(
    values: Floats, at: Places, length: int, horizon: int, floor: float, p: Parameters
) -> tuple[float, ...]:
    """`ordinary_changes` as it is stored: nine digits are finer than any metric."""
    found = ordinary_changes(values, at, length, horizon, floor, p)
    return tuple(float(f"{one:.9g}") for one in found)


def _peaks(
    model: Model,
    run: Run,
    times: Floats,
    values: Floats,
    unseen: Places,
    level: float,
    p: Parameters,
    pulse: Pulse,
) -> dict[str, Any]:
    """The highest peaks of the distance from the forecast, of values that no weight has seen.

    In half widths of the interval that a scan would compare with. Each value is compared once: a
    forecast begins where the one before it ends.
    """
    horizon = model.horizon
    at: list[int] = []
    for origin in unseen.tolist():
        if not at or origin >= at[-1] + horizon:
            at.append(origin)
    places = _thin(np.array(at, np.int64), p.measured)
    pulse()
    truth = ahead_of(values, places, horizon)
    distance = backtest(model, run, times, values, places, [level], p).far(truth)
    pulse()
    when = times[places[:, None] + np.arange(1, horizon + 1)]
    highest = Excursions.lasting(model.interval, when.ravel(), distance.ravel()).peaks()
    return rarity(when.size * model.interval / HOUR, highest.heights.tolist())
