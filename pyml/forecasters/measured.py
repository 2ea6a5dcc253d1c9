"""How good a forecast is on what was held out of its training, beside simple forecasts."""

from typing import Any

import numpy as np

from pyml.background import Pulse
from pyml.forecasters.base import Previous
from pyml.forecasters.forecast import backtest
from pyml.forecasters.intervals import LEVELS
from pyml.forecasters.pooling import forecast_by
from pyml.forecasters.recurrent import Model, Parameters
from pyml.forecasters.windows import Floats, Places, ahead_of, origins
from pyml.models.blob import Run
from pyml.seconds import DAY


def measured(
    model: Model,
    run: Run,
    previous: Previous[Model] | None,
    fleet: Previous[Model] | None,
    times: Floats,
    values: Floats,
    held_at: Places,
    p: Parameters,
    pulse: Pulse,
) -> dict[str, Any]:
    """Errors and coverage on held-out windows; errors of naive forecasts and of other models."""
    at = held_at[:: -(-len(held_at) // p.measured)]
    truth = ahead_of(values, at, model.horizon)
    pulse()
    predicted, half, _ = backtest(model, run, times, values, at, parameters=p)
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
        **_beside_fleet(fleet, times, values, at, error, p, pulse),
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
    predicted, *_ = backtest(previous.model, previous.run, times, values, at[unseen], (), p)
    before = float(np.abs(ahead_of(values, at[unseen], steps) - predicted[:, :steps]).mean())
    now = float(error[unseen, :steps].mean())
    return {
        "accepted": now <= before,
        "previous_mae": before,
        "candidate_mae": now,
        "compared_windows": int(unseen.sum()),
    }


def _beside_fleet(
    fleet: Previous[Model] | None,
    times: Floats,
    values: Floats,
    at: Places,
    error: Floats,
    p: Parameters,
    pulse: Pulse,
) -> dict[str, Any]:
    """The error of the fleet's model, and whether this one's is less by more than chance.

    The test of Diebold and Mariano, "Comparing Predictive Accuracy" (1995), one-sided. Forecasts
    of the same values err alike: what is compared are means over blocks of a horizon's length.
    """
    if fleet is None or fleet.model.horizon != error.shape[1]:
        return {}
    pulse()
    predicted = forecast_by(fleet, times, values, at, p)
    theirs = np.abs(ahead_of(values, at, fleet.model.horizon) - predicted)
    known = np.isfinite(theirs).all(axis=1)
    if known.sum() < p.least_part:
        return {}
    block = np.unique(at[known] // fleet.model.horizon, return_inverse=True)[1]
    less = (theirs - error)[known].mean(axis=1)
    gains = np.bincount(block, less) / np.bincount(block)
    chance = float(gains.std(ddof=1)) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
    return {
        "fleet_mae": float(theirs[known].mean()),
        "beats_fleet": bool(gains.mean() > p.sure * chance),
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
