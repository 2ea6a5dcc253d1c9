"""Windows of a series on a regular grid, for training and measuring forecasts.

Neighbours are one interval apart; a long gap is a single NaN. An origin is the index of the
last value that a forecast has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

MEDIANS = (3, 6, 12, 25)


def origins(values: Floats, length: int, horizon: int) -> Places:
    """Origins of all windows that no gap crosses.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
    length, horizon : int
        Steps behind the origin, itself included, and ahead of it.

    Returns
    -------
    ndarray of int64, shape (k,)
        Increasing.
    """
    if len(values) < length + horizon:
        return np.empty(0, np.int64)
    gaps = np.append(0, np.cumsum(np.isnan(values)))
    whole = gaps[length + horizon :] == gaps[: len(gaps) - length - horizon]
    return np.flatnonzero(whole) + length - 1


def behind_of(values: Floats, at: Places, length: int) -> Floats:
    """The last values up to each origin, shape (k, length)."""
    return sliding_window_view(values, length)[at - length + 1]


def ahead_of(values: Floats, at: Places, horizon: int) -> Floats:
    """The values after each origin, shape (k, horizon)."""
    return sliding_window_view(values, horizon)[at + 1]


def spans(length: int) -> list[int]:
    """Lengths of the trailing medians, in values; the last is the whole window."""
    return [*(k for k in MEDIANS if k < length), length]


def steps_read(horizon: int) -> Places:
    """Of the steps ahead those at which the path with a calendar reads it: 12 at most."""
    return np.linspace(0, horizon - 1, min(horizon, 12)).round().astype(np.int64)


@dataclass(frozen=True, slots=True)
class Windows:
    """The values around n origins.

    Attributes
    ----------
    at : ndarray of int64, shape (n,)
        The origins; increasing.
    behind : ndarray of float64, shape (n, length)
        The last values up to each origin.
    medians : ndarray of float64, shape (n, spans)
        Trailing medians of `behind`, of the lengths of `spans`.
    ahead : ndarray of float64, shape (n, horizon)
        The values after each origin.
    usually : ndarray of float64, shape (n, horizon)
        By how much what is usual at the times of those differs from what is at the origin's.
    """

    at: Places
    behind: Floats
    medians: Floats
    ahead: Floats
    usually: Floats

    @classmethod
    def cut(cls, values: Floats, usual: Floats, at: Places, length: int, horizon: int) -> Windows:
        """Cut the windows around origins that no gap crosses; `usual` is as long as `values`."""
        behind = behind_of(values, at, length)
        medians = [np.median(behind[:, -k:], axis=1) for k in spans(length)]
        return cls(
            *(at, behind, np.stack(medians, axis=1), ahead_of(values, at, horizon)),
            ahead_of(usual, at, horizon) - usual[at, None],
        )

    def of(self, at: Places) -> Windows:
        """The windows of some of the origins."""
        rows = np.searchsorted(self.at, at)
        return Windows(
            *(at, self.behind[rows], self.medians[rows], self.ahead[rows], self.usually[rows])
        )

    def from_last(self, values: Floats, unit: float) -> Floats:
        """Changes from the last value behind, in `unit`; `values` has shape (n, k)."""
        return (values - self.behind[:, -1:]) / unit
