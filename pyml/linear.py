"""The linear path of a forecast: a map of the lags, of least absolute error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyml.windows import Floats, Windows

# Of reweighting, from where the linear path before ended: that which chose the penalty, that
# of the windows to fit on, that of all. The error moves by less than a thousandth in more.
ROUNDS = 4
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Usual changes that a value may lie from the last one, to count for the linear path as what it
# is: beyond, the sums of all other windows would be lost in its rounding. Recordings have 60.
REACH = 100.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Location, spread and size of a usual change over the horizon, of the fit part."""

    centre: float
    spread: float
    change: float

    @classmethod
    def of(cls, windows: Windows) -> Scale:
        """That of some windows."""
        latest = windows.behind[:, -1]
        change = float(np.abs(windows.from_last(windows.ahead, 1)).mean())
        return cls(float(np.median(latest)), float(latest.std()) or 1.0, change or 1.0)


def regressors(windows: Windows, scale: Scale) -> Floats:
    """What the path reads, shape (n, inputs): lags, medians and 1."""
    read = np.hstack([windows.behind[:, :-1], windows.medians])
    return np.hstack([windows.from_last(read, scale.change), np.ones((len(read), 1))])


def linear_path(
    scale: Scale,
    windows: Windows,
    ridge: float,
    pulse: Callable[[], None],
    start: Floats | None = None,
) -> Floats:
    """The linear path of these windows, shape (inputs, horizon)."""
    lags = np.clip(regressors(windows, scale), -REACH, REACH)
    targets = np.clip(windows.from_last(windows.ahead, scale.change), -REACH, REACH)
    return _least_absolute(lags, targets, ridge, start, pulse)


def choose_ridge(
    scale: Scale, to_fit: Windows, to_stop: Windows, pulse: Callable[[], None]
) -> tuple[float, Floats]:
    """The penalty with the least absolute error on the part that comes next, its linear path."""
    some = to_fit.of(to_fit.at[:: 3 if len(to_fit.at) > 3000 else 1])
    checks = regressors(to_stop, scale)
    wanted = to_stop.from_last(to_stop.ahead, scale.change)
    paths = [linear_path(scale, some, ridge, pulse) for ridge in RIDGES]
    errors = [np.abs(wanted - checks @ weights).mean() for weights in paths]
    best = int(np.argmin(errors))
    return RIDGES[best], paths[best]


def _least_absolute(
    inputs: Floats, targets: Floats, ridge: float, start: Floats | None, pulse: Callable[[], None]
) -> Floats:
    """Linear map of least absolute error, by iteratively reweighted least squares.

    Parameters
    ----------
    inputs : ndarray of float64, shape (n, f)
        The last column is 1.
    targets : ndarray of float64, shape (n, h)
    ridge : float
        Penalty a window on the squared weights; the intercept bears next to none.
    start : ndarray of float64, shape (f, h), optional
        Weights of much the same windows.

    Returns
    -------
    ndarray of float64, shape (f, h)
    """
    penalty = np.full(inputs.shape[1], ridge * len(inputs))
    penalty[-1] = 1e-9 * len(inputs)
    penalty = np.diag(penalty)
    # Sums in single precision take half the time; the small systems are solved in double.
    rows, targets = inputs.T.astype(np.float32, order="C"), targets.T.astype(np.float32, order="C")

    if start is None:
        weights = np.linalg.solve(rows @ rows.T + penalty, rows @ targets.T)
    else:
        weights = start.copy()
    for _ in range(ROUNDS):
        pulse()
        error = np.abs(targets - weights.T.astype(np.float32) @ rows)
        floor = np.maximum(0.1 * np.median(error, axis=1, keepdims=True), 1e-3)
        importance = 1 / np.sqrt(np.maximum(error, floor))
        for j, root in enumerate(importance):
            pulse()
            weighed = rows * root
            # Of a product with itself BLAS makes one half only.
            square = weighed @ weighed.T
            weights[:, j] = np.linalg.solve(square + penalty, weighed @ (targets[j] * root))
    return weights
