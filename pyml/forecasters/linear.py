"""The linear paths of a forecast: linear maps of the lags, fitted to absolute error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pyml.background import Pulse
from pyml.forecasters.recurrent import Parameters
from pyml.forecasters.windows import Floats, Windows, steps_read


@dataclass(frozen=True, slots=True)
class Scale:
    """Centre, spread and size of a usual change over the horizon, from the windows fitted on."""

    centre: float
    spread: float
    change: float

    @classmethod
    def of(cls, windows: Windows) -> Scale:
        """The scale of some windows."""
        latest = windows.behind[:, -1]
        change = float(np.abs(windows.from_last(windows.ahead, 1)).mean())
        return cls(float(np.median(latest)), float(latest.std()) or 1.0, change or 1.0)


def regressors(windows: Windows, scale: Scale) -> Floats:
    """Inputs of the linear path, shape (n, inputs): lags, medians and 1."""
    read = np.hstack([windows.behind[:, :-1], windows.medians])
    return np.hstack([windows.from_last(read, scale.change), np.ones((len(read), 1))])


def dated(windows: Windows, scale: Scale) -> Floats:
    """Inputs of the path with a calendar, shape (n, steps read + inputs)."""
    usually = windows.usually[:, steps_read(windows.usually.shape[1])]
    return np.hstack([usually / scale.change, regressors(windows, scale)])


class Paths(NamedTuple):
    """Weights of the linear path (inputs, horizon), and of that with a calendar."""

    linear: Floats
    calendar: Floats

    @classmethod
    def fitted(
        cls,
        scale: Scale,
        windows: Windows,
        ridge: float,
        start: Paths,
        p: Parameters,
        pulse: Pulse,
    ) -> Paths:
        """Both fitted to some windows."""
        linear = _path(regressors(windows, scale), scale, windows, ridge, p, pulse, start.linear)
        before = start.calendar[: -len(linear)]
        if not windows.usually.any():
            return cls(linear, np.vstack([np.zeros_like(before), linear]))
        first = np.vstack([before, linear])
        return cls(linear, _path(dated(windows, scale), scale, windows, ridge, p, pulse, first))

    @classmethod
    def without(cls, linear: Floats) -> Paths:
        """The linear path, and the same for that with a calendar."""
        horizon = linear.shape[1]
        return cls(linear, np.vstack([np.zeros((len(steps_read(horizon)), horizon)), linear]))


def _path(
    inputs: Floats,
    scale: Scale,
    windows: Windows,
    ridge: float,
    p: Parameters,
    pulse: Pulse,
    start: Floats | None = None,
) -> Floats:
    """Fit a path to some windows; weights of shape (inputs, horizon)."""
    inputs = np.clip(inputs, -p.reach, p.reach)
    targets = np.clip(windows.from_last(windows.ahead, scale.change), -p.reach, p.reach)
    return _least_absolute(inputs, targets, ridge, start, p.rounds, pulse)


def choose_ridge(
    scale: Scale, to_fit: Windows, to_stop: Windows, p: Parameters, pulse: Pulse
) -> tuple[float, Floats]:
    """Ridge penalty with the least absolute error on `to_stop`, and the path fitted with it."""
    some = to_fit.of(to_fit.at[:: 3 if len(to_fit.at) > 3000 else 1])
    checks = regressors(to_stop, scale)
    wanted = to_stop.from_last(to_stop.ahead, scale.change)
    inputs = regressors(some, scale)
    paths = [_path(inputs, scale, some, ridge, p, pulse) for ridge in p.ridges]
    errors = [np.abs(wanted - checks @ weights).mean() for weights in paths]
    best = int(np.argmin(errors))
    return p.ridges[best], paths[best]


def _least_absolute(
    inputs: Floats,
    targets: Floats,
    ridge: float,
    start: Floats | None,
    rounds: int,
    pulse: Pulse,
) -> Floats:
    """Linear map of least absolute error, by iteratively reweighted least squares.

    Parameters
    ----------
    inputs : ndarray of float64, shape (n, f)
        The last column is 1.
    targets : ndarray of float64, shape (n, h)
    ridge : float
        Penalty on the squared weights for each window; next to none on the intercept.
    start : ndarray of float64, shape (f, h), optional
        Weights to start from, fitted to similar windows.
    rounds : int
        IRLS iterations.

    Returns
    -------
    ndarray of float64, shape (f, h)
    """
    penalty = np.full(inputs.shape[1], ridge * len(inputs))
    penalty[-1] = 1e-9 * len(inputs)
    penalty = np.diag(penalty)
    # float32 products take half the time; the small systems are solved in float64.
    rows, targets = inputs.T.astype(np.float32, order="C"), targets.T.astype(np.float32, order="C")

    if start is None:
        weights = np.linalg.solve(rows @ rows.T + penalty, rows @ targets.T)
    else:
        weights = start.copy()
    for _ in range(rounds):
        pulse()
        error = np.abs(targets - weights.T.astype(np.float32) @ rows)
        floor = np.maximum(0.1 * np.median(error, axis=1, keepdims=True), 1e-3)
        importance = 1 / np.sqrt(np.maximum(error, floor))
        for j, root in enumerate(importance):
            pulse()
            weighed = rows * root
            # BLAS computes only one half of a product of a matrix with its own transpose.
            square = weighed @ weighed.T
            weights[:, j] = np.linalg.solve(square + penalty, weighed @ (targets[j] * root))
    return weights
