"""A counter's totals -> its rate per second: resets, wraps, and polls that read 0."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A counter's rate over more than this many intervals says nothing about now, and after as many
# readings a total that is reached again is another one.
MAX_GAP = 10
# A counter that has grown through 2^32 or 2^64 goes on no faster than so many times its last rate.
FASTER = 8.0


def rates(times: Floats, total: Floats, longest: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Growth of a counter per second, and where it was reset.

    NaN at a reset, a first value or after a long gap. What wraps at 2^32 or 2^64 goes on. Where a
    total comes back soon after it fell (a poll that read 0), the growth is over all that time.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    total : ndarray of float64, shape (n,)
        Since boot.
    longest : float
        Seconds after which the value before is too old.

    Returns
    -------
    rate : ndarray of float64, shape (n,)
    reset : ndarray of bool, shape (n,)
    """
    rate, reset = np.full(len(times), np.nan), np.zeros(len(times), bool)
    growth, elapsed = np.diff(total), np.diff(times)
    good = (growth >= 0) & (elapsed <= longest)
    rate[1:][good] = growth[good] / elapsed[good]
    for fell in np.flatnonzero(growth < 0) + 1:
        before = fell - 1
        wrapped = _wrapped(total[before], total[fell])
        if elapsed[before] <= longest and wrapped <= FASTER * rate[before] * elapsed[before]:
            rate[fell] = wrapped / elapsed[before]
            continue
        reset[fell] = True
        soon = slice(fell + 1, fell + 1 + MAX_GAP)
        back = np.flatnonzero(total[soon] >= total[before])
        if len(back) and times[fell + 1 + back[0]] - times[before] <= longest:
            there = fell + 1 + back[0]
            rate[there] = (total[there] - total[before]) / (times[there] - times[before])
    return rate, reset


def _wrapped(before: float, after: float) -> float:
    """Growth of a counter that has gone through 2^32 or 2^64; infinite where it cannot have."""
    for size in (2.0**32, 2.0**64):
        if size / 2 <= before < size:
            return size - before + after
    return np.inf
