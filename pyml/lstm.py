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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyml.errors import NotEnoughData
from pyml.forecasters.forecast import LEVELS, REPLAY, backtest, span
from pyml.forecasters.inference import Run, runner
from pyml.forecasters.linear import Scale, choose_ridge, linear_path
from pyml.forecasters.network import Part, Weights, network_of, numbers_of, weights_of
from pyml.forecasters.windows import Floats, Places, Windows, ahead_of, origins
from pyml.models.wire import Numbers

Bounds = tuple[float | None, float | None]

RATE, WARM_RATE, REFIT_RATE = 5e-3, 2e-3, 1e-3
PATIENCE, WARM_PATIENCE = 5, 4
# Least relative gain of an epoch for early stopping. It saves a quarter of the time at the same
# error on 44 series.
MIN_DELTA = 0.003
WARM_EPOCHS = 5  # at most; the next training goes on from there. 4 to 8 give the same error
HALVE_AFTER = 3
# Decay of the average of weights over epochs (Polyak and Juditsky, 1992): the same accuracy in
# fewer epochs.
AVERAGE = 0.7
REFIT_EPOCHS, WARM_REFIT_EPOCHS = 5, 3
MAX_WINDOWS = 12_000  # more take time and hardly help; a week of minutes has 10,019
# Shares of the windows for early stopping, and held out for the figures.
STOP_SHARE = HELD_SHARE = 0.1
MIN_FIT, MIN_PART = 12, 8
JUDGED = 250  # held-out windows that the figures come from at most, evenly spread
FLOOR = 0.2  # least spread of a window, in usual changes over the horizon
MAX_INFLATION = 3.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model.

    Attributes
    ----------
    numbers : mapping of ndarray
        What `inference.graph` and `inference.runner` take.
    meta : dict
        JSON-able: what `forecast` needs.
    figures : dict
        JSON-able: held-out errors and coverage. ``accepted`` is false if the previous model
        has the smaller error on windows that neither has seen.
    """

    numbers: Numbers
    meta: dict[str, Any]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Previous:
    """The model in force: its numbers, its meta and how to run it."""

    numbers: Numbers
    meta: dict[str, Any]
    run: Run


def _split(at: Places, horizon: int) -> list[Places]:
    """Origins for fitting, for early stopping and to hold out, in this order of time.

    No target of one part lies in the next. Only where the history is too short for that may
    targets of the first two parts overlap.
    """
    held = max(MIN_PART, int(HELD_SHARE * len(at)))
    stop = max(MIN_PART, int(STOP_SHARE * len(at)))
    held_at, rest = at[-held:], at[:-held]
    rest = rest[rest <= held_at[0] - horizon]
    stop_at, fit_at = rest[-stop:], rest[:-stop]
    apart = fit_at[fit_at <= stop_at[:1].sum() - horizon]
    if len(apart) >= 4 * MIN_FIT:
        fit_at = apart
    return [fit_at, stop_at, held_at]


def _thin(at: Places) -> Places:
    return at[:: -(-len(at) // MAX_WINDOWS)]


def _check(values: Floats, at: Places, length: int, horizon: int, interval: float) -> None:
    known = values[~np.isnan(values)]
    if len(known) and np.ptp(known) == 0:
        raise NotEnoughData(
            "the field is constant: there is nothing to forecast from",
            detail=f"All {len(known)} readings are {known[0]:g}.",
            hint="Train on a longer history (hours => ...), or forecast another field.",
        )
    least = MIN_FIT + 2 * MIN_PART + horizon - 1
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


def fit(
    times: Floats,
    values: Floats,
    *,
    interval: float,
    sequence_length: int = 50,
    horizon: int = 12,
    epochs: int = 50,
    seed: int = 0,
    bounds: Bounds = (None, None),
    previous: Previous | None = None,
    pulse: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train on one metric's history.

    The windows are cut by time into a part to fit on, a part that chooses the ridge penalty and
    the epoch, and a part held out for the figures. Then the training goes on over all windows
    but the last `REPLAY`. These stay unseen, so that the first intervals rest on out-of-sample
    errors.

    Parameters
    ----------
    times, values : ndarray of float64, shape (n,)
        A series on the grid: seconds, and NaN at a long gap.
    interval : float
        Seconds between neighbours.
    sequence_length, horizon : int
        Values read and values forecast.
    epochs : int
        Passes over the data, at most.
    seed : int
        The same data and seed give the same bytes.
    bounds : pair of float or None
        Range of possible values, where known.
    previous : Previous, optional
        The current model. The new one is compared with it. If it has not seen what is held out
        now, training starts from its weights.
    pulse : callable
        Called several times a second. What it raises ends the training.

    Returns
    -------
    Fitted

    Raises
    ------
    NotEnoughData
        Too few windows without a gap, or a constant series.
    """
    at = origins(values, sequence_length, horizon)
    _check(values, at, sequence_length, horizon, interval)
    fit_at, stop_at, held_at = _split(at, horizon)
    fit_at = _thin(fit_at)
    # The stored model sees all windows but those that its first intervals need.
    all_at = _thin(at[at <= at[-min(REPLAY, len(held_at))] - horizon])
    pulse()
    windows = Windows.cut(values, at, sequence_length, horizon)
    pulse()
    to_fit, to_stop = windows.of(fit_at), windows.of(stop_at)
    scale = Scale.of(to_fit)
    ridge, linear = choose_ridge(scale, to_fit, to_stop, pulse)
    linear = linear_path(scale, to_fit, ridge, pulse, linear)

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
    best, best_epoch, epoch = _descend(part, stop, start, start_error, epochs, warm, rng, pulse)

    # The figures are of weights fitted before the held-out part began. The windows for early
    # stopping count as unseen, since they only chose penalty and epoch.
    network.load(best)
    meta: dict[str, Any] = {
        "sequence_length": sequence_length,
        "horizon": horizon,
        "interval": interval,
        "bounds": list(bounds),
        "floor": FLOOR * scale.change,
        "inflation": float(np.clip(stop.error() / max(part.error(), 1e-9), 1, MAX_INFLATION)),
        "seen_until": float(times[fit_at[-1] + horizon]),
    }
    pulse()
    candidate = runner(numbers_of(best, scale, linear), sequence_length, horizon)
    pulse()
    figures = {
        "windows": len(at),
        "training_windows": len(fit_at),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "warm": warm,
        **_measured(meta, candidate, previous, times, values, held_at, pulse),
    }

    to_refit = windows.of(all_at)
    linear = linear_path(scale, to_refit, ridge, pulse, linear)
    network.reset(best)
    pulse()
    if best_epoch or warm:
        part = Part.of(network, to_refit, scale, linear)
        most = WARM_REFIT_EPOCHS if warm else REFIT_EPOCHS
        for i in range(min(most, epochs)):
            part.epoch(REFIT_RATE * (1 - i / most), rng, pulse)
    meta["seen_until"] = float(times[all_at[-1] + horizon])
    return Fitted(numbers_of(network.weights(), scale, linear), meta, figures)


def _descend(
    part: Part,
    stop: Part,
    start: Weights,
    start_error: float,
    epochs: int,
    warm: bool,
    rng: np.random.Generator,
    pulse: Callable[[], None],
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
    rate, patience = (WARM_RATE, WARM_PATIENCE) if warm else (RATE, PATIENCE)
    most = min(epochs, WARM_EPOCHS) if warm else epochs
    waited = epoch = 0
    while epoch < most and waited < patience:
        epoch += 1
        part.epoch(rate, rng, pulse)
        here = network.weights()
        # The random weights of a cold start do not enter the average.
        keep = AVERAGE if warm or epoch > 1 else 0.0
        average = [keep * a + np.float32(1 - keep) * h for a, h in zip(average, here, strict=True)]
        network.load(average)
        error = stop.error()
        network.load(here)
        waited = 0 if error < best_error * (1 - MIN_DELTA) else waited + 1
        if error < best_error:
            best, best_error, best_epoch = average, error, epoch
        elif waited % HALVE_AFTER == 0:
            rate /= 2
    return best, best_epoch, epoch


def _continues(previous: Previous, held_from: float, length: int, horizon: int) -> bool:
    """Whether training may start from `previous`: same shape, held-out part unseen."""
    meta = previous.meta
    same = (meta["sequence_length"], meta["horizon"]) == (length, horizon)
    return same and meta["seen_until"] <= held_from


def _measured(
    meta: dict[str, Any],
    run: Run,
    previous: Previous | None,
    times: Floats,
    values: Floats,
    held_at: Places,
    pulse: Callable[[], None],
) -> dict[str, Any]:
    """Errors and coverage on held-out windows; errors of naive forecasts and of `previous`."""
    at = held_at[:: -(-len(held_at) // JUDGED)]
    truth = ahead_of(values, at, meta["horizon"])
    pulse()
    predicted, half = backtest(meta, run, times, values, at)
    pulse()
    error = np.abs(truth - predicted)
    mae, naive = float(error.mean()), float(np.abs(truth - values[at][:, None]).mean())
    seasonal = _seasonal_mae(times, values, at, truth, meta["interval"])
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
        **_compared(previous, times, values, at, error),
    }


def _compared(
    previous: Previous | None,
    times: Floats,
    values: Floats,
    at: Places,
    error: Floats,
) -> dict[str, Any]:
    """Errors of the new and of the current model, on windows that neither has seen."""
    figures: dict[str, Any] = {"accepted": True, "previous_mae": None, "compared_windows": 0}
    if previous is None:
        return figures
    length, horizon = previous.meta["sequence_length"], previous.meta["horizon"]
    unseen = times[at] >= previous.meta["seen_until"]
    unseen &= np.isin(at, origins(values, length, horizon))
    if unseen.sum() < MIN_PART:
        return figures
    steps = min(horizon, error.shape[1])
    predicted, _ = backtest(previous.meta, previous.run, times, values, at[unseen], ())
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
