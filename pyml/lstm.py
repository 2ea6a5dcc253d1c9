"""Training of an LSTM's forecasts of one metric, beside a linear path.

For each step ahead the network forecasts a weighted mean of four simple forecasts plus a
correction. The simple forecasts are the last value, two medians, and the linear path: a linear
map of the lags fitted to absolute error. The LSTM, and a plain layer beside it, read the window
and set the weights and the correction. Training starts from the linear path, and keeps what
improves on it in a later part of the history. docs/forecasting.md has the steps in order.

All functions take a series on a regular grid: neighbours one interval apart,
a long gap a single NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from pyml.background import Pulse
from pyml.errors import NotEnoughData
from pyml.forecasters import inference
from pyml.forecasters.base import FORECASTERS, Bounds, Fitted, Forecast, Forecaster, Previous
from pyml.forecasters.forecast import LEVELS, backtest, forecast, span
from pyml.forecasters.linear import Scale, choose_ridge, linear_path
from pyml.forecasters.network import (
    Part,
    Weights,
    network_of,
    numbers_of,
    prepare,
    starved,
    weights_of,
)
from pyml.forecasters.recurrent import PARAMETERS, Model, Parameters
from pyml.forecasters.windows import Floats, Places, Windows, ahead_of, origins
from pyml.models.blob import Run, Runner
from pyml.models.wire import Graph, Numbers
from pyml.queries import literal
from pyml.telemetry.series import Grid

DAY = 86_400.0


@FORECASTERS.register
class LSTM(Forecaster[Model]):
    """The LSTM.

    Its graph takes ``window``, float64 (n, sequence_length), and gives ``forecast``, float64
    (n, horizon), the network's, and ``simple``, float64 (n, horizon, 4), the simple forecasts
    beside it; all in the metric's own unit.

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
    }
    shape = ("sequence_length", "horizon")
    max_bytes = 2 << 20  # the longest window and horizon take 1.5 MB

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
            over the data, at most; ``seed``.
        bounds : tuple of float or None
        previous : Previous or None
            The new model is compared with it. If it has not seen what is held out now, training
            starts from its weights.
        pulse : callable

        Raises
        ------
        NotEnoughData
            Too few windows without a gap, or a constant series.
        """
        with starved():
            return _fit(series, bounds, previous, self.parameters, pulse, **settings)

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

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        return Model.of_json(meta)

    def graph(self, numbers: Numbers, model: Model) -> Graph:
        """The whole path from raw window to forecast."""
        return inference.graph(numbers, model.sequence_length, model.horizon)

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
        raise NotEnoughData(
            f"{len(at)} windows of {length} + {horizon} readings without a long gap; "
            f"training needs {least}",
            detail=f"{len(known)} readings, one in {interval:g} s. "
            f"An unbroken {span(needed)} of readings would do.",
            hint=f"Wait, or widen the history: hours => {max(1, int(np.ceil(needed / 3600)))} "
            "or more, or UPDATE ml_setting to a smaller sequence_length.",
        )


def _fit(
    series: Grid,
    bounds: Bounds,
    previous: Previous[Model] | None,
    p: Parameters,
    pulse: Pulse,
    *,
    sequence_length: int,
    horizon: int,
    epochs: int,
    seed: int,
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
    windows = Windows.cut(values, at, sequence_length, horizon)
    pulse()
    to_fit, to_stop = windows.of(fit_at), windows.of(stop_at)
    scale = Scale.of(to_fit)
    ridge, linear = choose_ridge(scale, to_fit, to_stop, p, pulse)
    linear = linear_path(scale, to_fit, ridge, p, pulse, linear)

    pulse()
    network = network_of(sequence_length, horizon)
    pulse()
    stop = Part.of(network, to_stop, scale, linear)
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
    part = Part.of(network, to_fit, scale, linear)
    best, best_epoch, epoch = _descend(part, stop, start, start_error, epochs, warm, rng, p, pulse)

    # The figures are of weights fitted before the held-out part began. The windows for early
    # stopping count as unseen, since they only chose penalty and epoch.
    network.load(best)
    model = Model(
        sequence_length=sequence_length,
        horizon=horizon,
        interval=interval,
        bounds=bounds,
        floor=p.floor * scale.change,
        inflation=float(np.clip(stop.error() / max(part.error(), 1e-9), 1, p.most_inflation)),
        seen_until=float(times[fit_at[-1] + horizon]),
    )
    pulse()
    candidate = inference.runner(numbers_of(best, scale, linear), sequence_length, horizon).run
    pulse()
    figures = {
        "windows": len(at),
        "training_windows": len(fit_at),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "warm": warm,
        **_measured(model, candidate, previous, times, values, held_at, p, pulse),
    }

    to_refit = windows.of(all_at)
    linear = linear_path(scale, to_refit, ridge, p, pulse, linear)
    network.reset(best)
    pulse()
    if best_epoch or warm:
        part = Part.of(network, to_refit, scale, linear)
        most = p.warm_refit_epochs if warm else p.refit_epochs
        for i in range(min(most, epochs)):
            part.epoch(p.refit_rate * (1 - i / most), p.batch, rng, pulse)
    model = replace(model, seen_until=float(times[all_at[-1] + horizon]))
    return Fitted(numbers_of(network.weights(), scale, linear), model, figures)


def _descend(
    part: Part,
    stop: Part,
    start: Weights,
    start_error: float,
    epochs: int,
    warm: bool,
    rng: np.random.Generator,
    p: Parameters,
    pulse: Pulse,
) -> tuple[Weights, int, int]:
    """Train until the error on the stopping part no longer falls.

    Returns
    -------
    best : list of ndarray
        The averaged weights after the best epoch; `start` if no epoch improves on it.
    best_epoch, epoch : int
        Number of the best epoch, and of epochs run.
    """
    network = part.network
    network.reset(start)
    best, best_error, best_epoch, average = start, start_error, 0, start
    rate, patience = (p.warm_rate, p.warm_patience) if warm else (p.rate, p.patience)
    most = min(epochs, p.warm_epochs) if warm else epochs
    waited = epoch = 0
    while epoch < most and waited < patience:
        epoch += 1
        part.epoch(rate, p.batch, rng, pulse)
        here = network.weights()
        # The random weights of a cold start do not enter the average.
        keep = p.averaging if warm or epoch > 1 else 0.0
        average = [keep * a + np.float32(1 - keep) * h for a, h in zip(average, here, strict=True)]
        network.load(average)
        error = stop.error()
        network.load(here)
        waited = 0 if error < best_error * (1 - p.least_progress) else waited + 1
        if error < best_error:
            best, best_error, best_epoch = average, error, epoch
        elif waited % p.halve_after == 0:
            rate /= 2
    return best, best_epoch, epoch


def _continues(previous: Previous[Model], held_from: float, length: int, horizon: int) -> bool:
    """Whether training may start from `previous`: same shape, held-out part unseen."""
    model = previous.model
    same = (model.sequence_length, model.horizon) == (length, horizon)
    return same and model.seen_until <= held_from


def _measured(
    model: Model,
    run: Run,
    previous: Previous[Model] | None,
    times: Floats,
    values: Floats,
    held_at: Places,
    p: Parameters,
    pulse: Pulse,
) -> dict[str, Any]:
    """Errors and coverage on held-out windows; errors of naive forecasts and of `previous`."""
    at = held_at[:: -(-len(held_at) // p.measured)]
    truth = ahead_of(values, at, model.horizon)
    pulse()
    predicted, half = backtest(model, run, times, values, at, parameters=p)
    pulse()
    error = np.abs(truth - predicted)
    mae, naive = float(error.mean()), float(np.abs(truth - values[at][:, None]).mean())
    seasonal = _seasonal_mae(times, values, at, truth, model.interval)
    steps = np.abs(np.diff(values[: held_at[0] + 1]))
    usual = float(np.nanmean(steps))
    return {
        "held_out_windows": len(at),
        "mae": mae,
        # Hyndman and Koehler, "Another look at measures of forecast accuracy", 2006.
        "mase": mae / usual if usual else None,
        "naive_mae": naive,
        "seasonal_naive_mae": seasonal,
        "beats_naive": mae < (naive if seasonal is None else min(naive, seasonal)),
        "coverage": {
            str(level): float((error <= half[:, q]).mean()) for q, level in enumerate(LEVELS)
        },
        "interval_width": {
            str(level): float(2 * half[:, q].mean()) for q, level in enumerate(LEVELS)
        },
        **_compared(previous, times, values, at, error, p),
    }


def _compared(
    previous: Previous[Model] | None,
    times: Floats,
    values: Floats,
    at: Places,
    error: Floats,
    p: Parameters,
) -> dict[str, Any]:
    """Errors of the new and of the current model, on windows that neither has seen."""
    figures: dict[str, Any] = {"accepted": True, "previous_mae": None, "compared_windows": 0}
    if previous is None:
        return figures
    length, horizon = previous.model.sequence_length, previous.model.horizon
    unseen = times[at] >= previous.model.seen_until
    unseen &= np.isin(at, origins(values, length, horizon))
    if unseen.sum() < p.least_part:
        return figures
    steps = min(horizon, error.shape[1])
    predicted, _ = backtest(previous.model, previous.run, times, values, at[unseen], (), p)
    before = float(np.abs(ahead_of(values, at[unseen], steps) - predicted[:, :steps]).mean())
    now = float(error[unseen, :steps].mean())
    return {
        "accepted": now <= before,
        "previous_mae": before,
        "candidate_mae": now,
        "compared_windows": int(unseen.sum()),
    }


def _seasonal_mae(
    times: Floats, values: Floats, at: Places, truth: Floats, interval: float
) -> float | None:
    """Error of repeating the value of a day before; None without two days of history."""
    if times[-1] - times[0] < 2 * DAY or interval > DAY:
        return None
    wanted = times[at[:, None] + np.arange(1, truth.shape[1] + 1)] - DAY
    place = np.clip(np.searchsorted(times, wanted - interval / 2), 0, len(times) - 1)
    there = np.abs(times[place] - wanted) <= interval / 2
    errors = np.abs(truth - np.where(there, values[place], np.nan))
    # Only if nearly all windows have a value a day before: errors on other windows do not compare.
    return float(np.nanmean(errors)) if np.isfinite(errors).mean() > 0.9 else None
