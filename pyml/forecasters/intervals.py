"""Intervals from past errors: conformal quantiles, and a factor that follows past coverage."""

import math
from collections.abc import Sequence

import numpy as np

from pyml.forecasters.recurrent import Parameters
from pyml.forecasters.windows import Floats

LEVELS = (0.8, 0.9, 0.95)


def quantiles(scores: Floats, levels: Sequence[float], p: Parameters) -> Floats:
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


def tracked(scores: Floats, p: Parameters) -> float:
    """Correction factor for the interval's width from tracking past coverage.

    Goes through past forecasts in order of time, one a horizon, with `scores` (n, horizon).
    Intervals get wider after some that covered less than they should, and narrower after some
    that covered more, so that coverage is right in the long run whatever changes (conformal P
    control; Angelopoulos, Candès and Tibshirani, "Conformal PID Control for Time Series
    Prediction", 2023). One factor for all steps and levels: the interval of a higher level
    contains that of a lower one.
    """
    usual, wider = quantiles(scores, LEVELS, p), 0.0
    apart = -(-scores.shape[1] // p.every)
    for score in scores[(len(scores) - 1) % apart :: apart]:
        covered = np.count_nonzero(score <= usual * math.exp(wider)) / usual.size
        wider += p.gain * (sum(LEVELS) / len(LEVELS) - covered)
    return math.exp(wider)
