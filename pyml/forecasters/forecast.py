"""The forecast: a weighted average of the network and the simple forecasts, with an interval.

The weights come from a replay: all of them forecast from past origins of the last few hundred
steps, in one batch, and the smaller the error, the larger the weight. A network that the
machine has outgrown loses its weight within hours. The errors of the same replay give the
interval. docs/forecasting.md has the steps in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyml.errors import BadArgument, NotEnoughData
from pyml.forecasters.base import Forecast
from pyml.forecasters.recurrent import PARAMETERS, Model, Parameters
from pyml.forecasters.windows import Floats, Places, ahead_of, behind_of, origins
from pyml.models.blob import Run

FITTED = 2  # the experts from here on were fitted, as the network is
LEVELS = (0.8, 0.9, 0.95)
# The greatest value of the setting forecast_horizon.
MOST_STEPS = 288


@dataclass(frozen=True, slots=True)
class _Replay:
    """Forecasts at past origins, and the values that came.

    Attributes
    ----------
    said : ndarray of float64, shape (n, horizon, EXPERTS + 1)
        The simple forecasts, then the network's.
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
    errors: Floats
    truth: Floats
    spread: Floats
    seen: NDArray[np.bool_]
    still: NDArray[np.bool_]

    def of(self, rows: Places) -> _Replay:
        return _Replay(
            *(self.said[rows], self.errors[rows], self.truth[rows], self.spread[rows]),
            *(self.seen[rows], self.still[rows]),
        )


def _before(known: Places, at: int, horizon: int, p: Parameters) -> Places:
    """Indices into `known` of the origins that a forecast from `at` replays.

    Their truth is known at `at`.
    """
    first, stop = np.searchsorted(known, [at - horizon - p.replay, at - horizon], side="right")
    rows: Places = first + np.flatnonzero((at - horizon - known[first:stop]) % p.every == 0)
    return rows


def _said(run: Run, behind: Floats) -> Floats:
    network, simple = run({"window": behind})
    return np.concatenate([simple, network[:, :, None]], axis=2)


def _spread(model: Model, behind: Floats, said: Floats) -> Floats:
    """Relative size of errors at each origin, shape (n, 1).

    The geometric mean of five weak predictors of it: standard deviation of the window, of its
    last 12 values, mean step, disagreement of the experts, change that the network forecasts.
    """
    sizes = [
        behind.std(axis=1),
        behind[:, -12:].std(axis=1),
        np.abs(np.diff(behind, axis=1)).mean(axis=1),
        said.std(axis=2).mean(axis=1),
        np.abs(said[:, :, -1] - behind[:, -1:]).mean(axis=1),
    ]
    spread: Floats = np.exp(np.log(np.array(sizes) + model.floor).mean(axis=0))
    return spread[:, None]


def _replay(
    model: Model, said: Floats, behind: Floats, truth: Floats, seen: NDArray[np.bool_]
) -> _Replay:
    errors = np.abs(said - truth[:, :, None])
    errors[:, :, FITTED:][seen] *= model.inflation
    spread = _spread(model, behind, said)
    return _Replay(said, errors, truth, spread, seen, _still(behind, model.floor))


def _still(behind: Floats, floor: float) -> NDArray[np.bool_]:
    """Whether the metric stood still throughout each window (n, length)."""
    return np.asarray(behind.std(axis=1) <= floor)


def ordinary_changes(
    values: Floats, at: Places, length: int, horizon: int, floor: float, p: Parameters = PARAMETERS
) -> Floats:
    """How far a metric ordinarily goes from a standstill, by each step ahead; shape (horizon,).

    What stands still for longer than the replay leaves an interval of next to no width, and then
    moves as it does each day. Of the largest changes of seven blocks of the windows the third
    largest is the largest ordinary one. It is at least a step of a coarse metric.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
    at : ndarray of int64, shape (k,)
        Origins to learn from; increasing.
    length, horizon : int
    floor : float
        Standard deviation of a window that stands still, at most.
    """
    seen = values[: at[-1] + horizon + 1]
    distinct = np.unique(seen[~np.isnan(seen)])
    step = float(np.median(np.diff(distinct))) if len(distinct) > 1 else floor
    largest = np.zeros((p.blocks, horizon))
    for block, some in enumerate(np.array_split(at, p.blocks)):
        still = some[_still(behind_of(values, some, length), floor)]
        if len(still):
            change = np.abs(ahead_of(values, still, horizon) - values[still, None])
            largest[block] = np.maximum.accumulate(change.max(axis=0))
    return np.asarray(np.maximum(np.sort(largest, axis=0)[-p.counted], step))


def _least(model: Model, past: _Replay, behind: Floats, predicted: Floats) -> Floats:
    """How far from the forecast the metric ordinarily goes, where its errors do not tell.

    They do not where it stands still, or did at most of the replayed origins. The forecast itself
    may then be slow to follow: how far a metric goes counts from its last value.
    """
    stood = bool(len(past.still)) and past.still.mean() > 0.5
    if not stood and not _still(behind[None], model.floor)[0]:
        return np.zeros(len(predicted))
    return np.asarray(np.array(model.ordinary) + np.abs(predicted - behind[-1]))


def _recent(replay: _Replay, p: Parameters) -> _Replay:
    """The origins that training has not seen; all of them where those are too few."""
    unseen = np.flatnonzero(~replay.seen)
    return replay.of(unseen) if len(unseen) >= p.least_replay else replay


def _quantiles(scores: Floats, levels: Sequence[float], p: Parameters) -> Floats:
    """Conformal quantiles of each column, shape (q, horizon).

    For n independent scores it is the (n + 1) level-th smallest (Angelopoulos and Bates,
    "A Gentle Introduction to Conformal Prediction", 2021), or the largest where n is too small
    for the level. Interpolated between two scores, so that the interval covers `level` rather
    than at least `level`. Errors h steps ahead overlap with those of the h - 1 origins before.
    At worst only one in h is independent, and the 1 in n + 1 becomes h; on recordings the truth
    lies in the middle, which is taken.
    """
    n, horizon = scores.shape
    alike = np.maximum(np.arange(1, horizon + 1) / p.every, 1)
    place = np.clip(np.multiply.outer(levels, n + (1 + alike) / 2), 1, n) - 1
    below = place.astype(np.int64)
    rest, step, ordered = place - below, np.arange(horizon), np.sort(scores, axis=0)
    least, more = ordered[below, step], ordered[np.minimum(below + 1, n - 1), step]
    return np.asarray(least + rest * (more - least))


def _tracked(scores: Floats, p: Parameters) -> float:
    """Correction factor for the interval's width from tracking past coverage.

    Goes through past forecasts in order of time, one a horizon, with `scores` (n, horizon).
    Intervals get wider after some that covered less than they should, and narrower after some
    that covered more, so that coverage is right in the long run whatever changes (conformal P
    control; Angelopoulos, Candès and Tibshirani, "Conformal PID Control for Time Series
    Prediction", 2023). One factor for all steps and levels: the interval of a higher level
    contains that of a lower one.
    """
    usual, wider = _quantiles(scores, LEVELS, p), 0.0
    apart = -(-scores.shape[1] // p.every)
    for score in scores[(len(scores) - 1) % apart :: apart]:
        covered = np.count_nonzero(score <= usual * math.exp(wider)) / usual.size
        wider += p.gain * (sum(LEVELS) / len(LEVELS) - covered)
    return math.exp(wider)


def _conclude(
    model: Model,
    p: Parameters,
    past: _Replay,
    now: Floats,
    spread: Floats,
    levels: Sequence[float],
) -> tuple[Floats, Floats]:
    """Average the experts by their recent errors; the average's errors give the interval.

    Weights fall exponentially with the mean error, as in Vovk, "Aggregating Strategies" (1990).
    Recent errors count more; half of the mean is that of the step itself, half that of all
    steps. The interval is split conformal for each step ahead, on errors in units of the spread
    where they were made. Each error is that of an average whose weights come from other parts
    of the replay. `_tracked` gives the correction of the width.

    Parameters
    ----------
    past : _Replay
    now : ndarray of float64, shape (horizon, EXPERTS + 1)
        The experts' forecasts from the window at hand.
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
    share = _shares(total, p)
    predicted = (now * share).sum(axis=1)
    if not levels:
        return predicted, np.empty((0, len(now)))
    others = _shares(total - part, p) if len(first) > 1 else share[None]
    own = np.repeat(others, np.diff(first, append=n), axis=0)
    error = np.abs(past.truth - (past.said * own).sum(axis=2))
    error[past.seen] *= model.inflation
    scores = error / past.spread**p.spreading
    half = _quantiles(scores, levels, p) * _tracked(scores, p) * spread**p.spreading
    return predicted, half


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
    said = _said(run, behind)
    past = _replay(model, said, behind, ahead_of(values, known, horizon), seen)
    here = behind_of(values, at, length)
    now = _said(run, here)
    spread = _spread(model, here, now)
    found = []
    for i, a in enumerate(at):
        recent = _recent(past.of(_before(known, a, horizon, p)), p)
        centre, widths = _conclude(model, p, recent, now[i], spread[i], levels)
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
            detail="A model forecasts as far as it was trained for.",
            hint="SELECT * FROM ml_outlook(device, field, days => 7);  -- which looks days ahead"
            if steps > MOST_STEPS
            else f"UPDATE ml_setting SET value = '{max(steps, 1)}' "  # noqa: S608 (a hint)
            "WHERE name = 'forecast_horizon'; then SELECT ml_train_lstm(...) again.",
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
    said = _said(run, behind)
    spread = _spread(model, behind[-1:], said[-1:])[0]
    seen = times[known] < model.seen_until
    replayed = _replay(model, said[:-1], behind[:-1], ahead_of(values, known, most), seen)
    past = _recent(replayed, p)
    predicted, half = _conclude(model, p, past, said[-1], spread, [level])
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
