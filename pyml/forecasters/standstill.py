"""Metrics that stand still for long, and how far they then go."""

import numpy as np
from numpy.typing import NDArray

from pyml.forecasters.recurrent import PARAMETERS, Parameters
from pyml.forecasters.windows import Floats, Places, ahead_of, behind_of


def still(behind: Floats, floor: float) -> NDArray[np.bool_]:
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
        there = some[still(behind_of(values, some, length), floor)]
        if len(there):
            change = np.abs(ahead_of(values, there, horizon) - values[there, None])
            largest[block] = np.maximum.accumulate(change.max(axis=0))
    return np.asarray(np.maximum(np.sort(largest, axis=0)[-p.counted], step))
