"""Fewer points that still look like all of them."""

import numpy as np
from numpy.typing import NDArray

from pyml.telemetry.history import Floats


def thinned(times: Floats, values: Floats, points: int) -> NDArray[np.intp]:
    """Choose points of a series such that extremes are kept.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Increasing.
    values : ndarray of float64, shape (n,)
        Finite.
    points : int
        How many at most, 2 or more.

    Returns
    -------
    ndarray of intp, shape (k,)
        Places of the chosen points, increasing: all, or of each of ``points // 2`` parts of the
        span the first place of its least and of its greatest value.
    """
    if len(times) <= points:
        return np.arange(len(times))
    parts = points // 2
    share = (times - times[0]) / (times[-1] - times[0])
    part = np.minimum((share * parts).astype(np.intp), parts - 1)
    least, greatest = (np.lexsort((towards, part)) for towards in (values, -values))
    firsts = np.flatnonzero(np.diff(part, prepend=-1))
    return np.unique(np.concatenate([least[firsts], greatest[firsts]]))
