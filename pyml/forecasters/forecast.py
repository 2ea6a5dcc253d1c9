"""The forecast: a weighted average of the network and the simple forecasts, with an interval.

The weights come from a replay: all of them forecast from past origins of the last few hundred
steps, in one batch, and the smaller the error, the larger the weight. A network that the
machine has outgrown loses its weight within hours. The errors of the same replay give the
interval. docs/forecasting.md has the steps in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyml.errors import BadArgument, NotEnoughData
from pyml.forecasters.base import Forecast
from pyml.forecasters.intervals import LEVELS, quantiles, tracked
from pyml.forecasters.recurrent import PARAMETERS, Model, Parameters
from pyml.forecasters.standstill import still
from pyml.forecasters.windows import Floats, Places, ahead_of, behind_of, origins
from pyml.models.blob import Run

LAST, FITTED = 0, 2  # the experts from the second of these on were fitted, as the network is


@dataclass(frozen=True, slots=True)
class _Replay:
    """Forecasts at past origins, and the values that came.

    Attributes
    ----------
    said : ndarray of float64, shape (n, horizon, EXPERTS + 1)
        The simple forecasts, then the network's.
    due : ndarray of float64, shape (n, horizon)
        Changes from the last value that the time of day, or of week, lets expect.
    errors : ndarray of float64, shape (n, horizon, EXPERTS + 1)
        Absolute errors; those of fitted experts on seen origins are multiplied by ``inflation``.
    truth : ndarray of float64, shape (n, horizon)
        The values that came.
    spread : ndarray of float64, shape (n, 1)
        Size of a usual error at the origin, by `_spread`.
    seen : ndarray of bool, shape (n,)
        Whether training has seen the origin's truth.
    still : ndarray of bool, shape (n,)
        Whether the metric stood still before the origin.
    """

    said: Floats
    due: Floats
    errors: Floats
    truth: Floats
    spread: Floats
    seen: NDArray[np.bool_]
    still: NDArray[np.bool_]

    def of(self, rows: Places) -> _Replay:
        return _Replay(
            *(self.said[rows], self.due[rows], self.errors[rows], self.truth[rows]),
            *(self.spread[rows], self.seen[rows], self.still[rows]),
        )


def _before(known: Places, at: int, horizon: int, p: Parameters) -> Places:
    """Indices into `known` of the origins that a forecast from `at` replays.

    Their truth is known at `at`.
    """
    first, stop = np.searchsorted(known, [at - horizon - p.replay, at - horizon], side="right")
    rows: Places = first + np.flatnonzero((at - horizon - known[first:stop]) % p.every == 0)
    return rows


def _said(model: Model, run: Run, behind: Floats, at: Floats) -> tuple[Floats, Floats]:
    """What all say from some windows, whose last values are of the times `at`; what is due."""
    ahead = model.interval * np.arange(model.horizon + 1)
    clock = model.calendar.places(at[:, None] + ahead)
    network, simple, due = run({"window": behind, "clock": clock})
    return np.concatenate([simple, network[:, :, None]], axis=2), due


def _spread(model: Model, behind: Floats, said: Floats) -> Floats:
    """Relative size of errors at each origin, shape (n, 1).

    The geometric mean of five weak predictors of it: standard deviation of the window, of its
    last 12 values, mean step, disagreement of the experts, change that the network forecasts.
    """
    sizes = [
        behind.std(axis=1),
        behind[:, -12:].std(axis=1),
        np.abs(np.diff(behind, axis=1)).mean(axis=1),
        # Many times faster along the first axis than along few neighbours.
        np.ascontiguousarray(np.moveaxis(said, 2, 0)).std(axis=0).mean(axis=1),
        np.abs(said[:, :, -1] - behind[:, -1:]).mean(axis=1),
    ]
    spread: Floats = np.exp(np.log(np.array(sizes) + model.floor).mean(axis=0))
    return spread[:, None]


def _replay(
    model: Model,
    said: Floats,
    due: Floats,
    behind: Floats,
    truth: Floats,
    seen: NDArray[np.bool_],
) -> _Replay:
    errors = np.abs(said - truth[:, :, None])
    errors[:, :, FITTED:][seen] *= model.inflation
    spread = _spread(model, behind, said)
    return _Replay(said, due, errors, truth, spread, seen, still(behind, model.floor))


def _least(model: Model, past: _Replay, behind: Floats, predicted: Floats) -> Floats:
    """How far from the forecast the metric ordinarily goes, where its errors do not tell.

    They do not where it stands still, or did at most of the replayed origins. The forecast itself
    may then be slow to follow: how far a metric goes counts from its last value.
    """
    stood = bool(len(past.still)) and past.still.mean() > 0.5
    if not stood and not still(behind[None], model.floor)[0]:
        return np.zeros(len(predicted))
    return np.asarray(np.array(model.ordinary) + np.abs(predicted - behind[-1]))


def _recent(replay: _Replay, p: Parameters) -> _Replay:
    """The origins that training has not seen; all of them where those are too few."""
    unseen = np.flatnonzero(~replay.seen)
    return replay.of(unseen) if len(unseen) >= p.least_replay else replay


def _conclude(
    model: Model,
    p: Parameters,
    past: _Replay,
    now: Floats,
    due: Floats,
    spread: Floats,
    levels: Sequence[float],
) -> tuple[Floats, Floats]:
    """Average the experts by their recent errors; the average's errors give the interval.

    Weights fall exponentially with the mean error, as in Vovk, "Aggregating Strategies" (1990).
    Recent errors count more; half of the mean is that of the step itself, half that of all
    steps. The interval is split conformal for each step ahead, on errors in units of the spread
    where they were made. Each error is that of an average whose weights come from other parts
    of the replay. `tracked` gives the correction of the width.

    Parameters
    ----------
    past : _Replay
    now : ndarray of float64, shape (horizon, EXPERTS + 1)
        The experts' forecasts from the window at hand.
    due : ndarray of float64, shape (horizon,)
        What is due then.
    spread : ndarray of float64, shape (1,)
        The spread of that window.
    levels : sequence of float, length q

    Returns
    -------
    predicted : ndarray of float64, shape (horizon,)
    half : ndarray of float64, shape (q, horizon)
    """
    if not len(past.truth):
        return now[:, -1], np.full((len(levels), len(now)), 2 * spread[0])
    n = len(past.truth)
    first = np.arange(p.folds) * n // p.folds if n >= p.least_replay else np.zeros(1, np.int64)
    recency = 0.5 ** (p.every / p.half_life * np.arange(n)[::-1, None, None])
    part = np.add.reduceat(past.errors * recency, first, axis=0)  # (folds, horizon, EXPERTS + 1)
    total = part.sum(axis=0)
    share, beyond = _shares(total, p), _beyond(past, due)
    predicted = (_expecting(now, beyond) * share).sum(axis=1)
    if not levels:
        return predicted, np.empty((0, len(now)))
    others = _shares(total - part, p) if len(first) > 1 else share[None]
    own = np.repeat(others, np.diff(first, append=n), axis=0)
    error = np.abs(past.truth - (past.said * own).sum(axis=2))
    error[past.seen] *= model.inflation
    scores = error / past.spread**p.spreading
    half = quantiles(scores, levels, p) * tracked(scores, p) * spread**p.spreading
    # As if errors of what is due were Laplace's: their mean tells how far each share of them goes.
    astray = np.multiply.outer(-np.log1p(-np.array(levels)), model.astray * np.abs(beyond))
    return predicted, half + astray


def _beyond(past: _Replay, due: Floats) -> Floats:
    """What is due and had no like at any replayed origin, shape (horizon,)."""
    usual = np.abs(past.due).max(axis=0)
    return due - np.clip(due, -usual, usual)


def _expecting(now: Floats, beyond: Floats) -> Floats:
    """The experts' forecasts, so that none expects less than what is due beyond the replay.

    Until the job of each morning at six all forecasts are alike, and last night's errors do not
    tell which of them know of it.
    """
    own, more = now - now[:, LAST, None], beyond[:, None]
    return now + more - np.clip(own, np.minimum(more, 0), np.maximum(more, 0))


def _shares(errors: Floats, p: Parameters) -> Floats:
    """Weights of the experts at each step, from sums of errors (..., horizon, EXPERTS + 1)."""
    mean = (errors + errors.mean(axis=-2, keepdims=True)) / 2
    least = np.maximum(mean.min(axis=-1, keepdims=True), np.finfo(float).tiny)
    with np.errstate(over="ignore"):  # where one expert has no error at all
        share: Floats = np.exp(-p.sharpness * (mean / least - 1))
    share[..., -1] *= p.prior
    share /= share.sum(axis=-1, keepdims=True)
    return share


class Backtest(NamedTuple):
    """Forecasts from k origins, at q levels.

    Attributes
    ----------
    predicted : ndarray of float64, shape (k, horizon)
    half : ndarray of float64, shape (k, q, horizon)
        Half-widths of the intervals.
    least : ndarray of float64, shape (k, horizon)
        As `Forecast` has it.
    """

    predicted: Floats
    half: Floats
    least: Floats

    def far(self, truth: Floats) -> Floats:
        """How far what came (k, horizon) lies from it, in half widths as a scan has them.

        Those are of the last of its levels.
        """
        width = np.maximum(self.half[:, -1], self.least)
        off = np.abs(truth - self.predicted)
        return np.divide(off, width, out=np.zeros_like(off), where=width > 0)


def backtest(
    model: Model,
    run: Run,
    times: Floats,
    values: Floats,
    at: Places,
    levels: Sequence[float] = LEVELS,
    parameters: Parameters = PARAMETERS,
) -> Backtest:
    """Forecast from many origins as `forecast` would have, each from what was known there.

    Parameters
    ----------
    model : Model
    run : callable
        What runs its graph.
    times, values : ndarray of float64, shape (n,)
        A series on the grid.
    at : ndarray of int64, shape (k,)
        The origins; increasing.
    levels : sequence of float, length q
    """
    p = parameters
    length, horizon = model.sequence_length, model.horizon
    known = origins(values, length, horizon)
    known = known[(known > at[0] - horizon - p.replay) & (known <= at[-1] - horizon)]
    behind = behind_of(values, known, length)
    seen = times[known] < model.seen_until
    said, due = _said(model, run, behind, times[known])
    past = _replay(model, said, due, behind, ahead_of(values, known, horizon), seen)
    here = behind_of(values, at, length)
    now, due = _said(model, run, here, times[at])
    spread = _spread(model, here, now)
    found = []
    for i, a in enumerate(at):
        recent = _recent(past.of(_before(known, a, horizon, p)), p)
        centre, widths = _conclude(model, p, recent, now[i], due[i], spread[i], levels)
        found.append((centre, widths, _least(model, recent, here[i], centre)))
    predicted, half, least = zip(*found, strict=True)
    return Backtest(np.array(predicted), np.array(half), np.array(least))


def span(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 3600:.0f} hours" if seconds >= 7200 else f"{seconds / 60:.0f} minutes"


def forecast(
    model: Model,
    run: Run,
    times: Floats,
    values: Floats,
    *,
    horizon: int | None = None,
    level: float = 0.9,
    parameters: Parameters = PARAMETERS,
) -> Forecast:
    """Forecast the steps after the last reading.

    The interval is split conformal for each step ahead, on the errors that this model makes
    over the last ``parameters.replay`` origins, in units of the spread at each. So its width
    follows recent errors, not those of the training.

    Parameters
    ----------
    model : Model
    run : callable
        What runs its graph; it takes ``{"window": (n, sequence_length)}``.
    times, values : ndarray of float64, shape (n,)
        A series on the model's own interval, ``model.lookback()`` seconds of it if possible.
    horizon : int, optional
        Steps ahead, at most as many as the model was trained for.
    level : float
        Share of the values that the interval shall cover.

    Returns
    -------
    Forecast

    Raises
    ------
    BadArgument
        A horizon or level outside its range.
    NotEnoughData
        Fewer steps than one window.
    """
    p, most = parameters, model.horizon
    steps = most if horizon is None else horizon
    if not 1 <= steps <= most:
        raise BadArgument(
            f"horizon {steps} is outside 1 to {most}, the horizon of this model",
            detail="A model forecasts as far as it was trained for, by the setting "
            "forecast_horizon; ml_outlook looks days ahead.",
            hint=f"Pass horizon => 1 to {most}, or leave it out for {most}.",
        )
    if not 0.5 <= level <= 0.999:
        raise BadArgument(
            f"level {level:g} is outside 0.5 to 0.999",
            detail="It is the share of the values that the interval shall cover.",
            hint="Use level => 0.9, the default.",
        )
    length, interval = model.sequence_length, model.interval
    if len(values) < length or np.isnan(values).all():
        raise NotEnoughData(
            f"{int((~np.isnan(values)).sum())} recent readings; a forecast continues {length}",
            detail=f"One reading in {interval:g} s is expected, "
            f"{span(model.lookback(p))} of them are read.",
            hint="Wait for more readings, or train anew with ml_train_lstm.",
        )
    known = origins(values, length, most)
    known = known[_before(known, len(values) - 1, most, p)]
    window = values[-length:]
    if np.isnan(window).any():  # a long gap just now: bridged, for want of better
        there = ~np.isnan(window)
        window = np.interp(np.arange(length), np.flatnonzero(there), window[there])
    behind = np.vstack([behind_of(values, known, length), window])
    said, due = _said(model, run, behind, np.append(times[known], times[-1]))
    spread = _spread(model, behind[-1:], said[-1:])[0]
    seen = times[known] < model.seen_until
    truth = ahead_of(values, known, most)
    replayed = _replay(model, said[:-1], due[:-1], behind[:-1], truth, seen)
    past = _recent(replayed, p)
    predicted, half = _conclude(model, p, past, said[-1], due[-1], spread, [level])
    low, high = model.bounds
    centre = np.clip(predicted, low, high)[:steps]
    return Forecast(
        times[-1] + interval * np.arange(1, steps + 1),
        centre,
        np.clip(predicted - half[0], low, high)[:steps],
        np.clip(predicted + half[0], low, high)[:steps],
        float(times[-1]),
        len(past.truth),
        _least(model, past, window, predicted)[:steps],
    )
