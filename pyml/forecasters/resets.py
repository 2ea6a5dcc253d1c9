"""Signals that are reset: log rotation, a disk that is cleaned, a battery that is charged."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def median(values: NDArray[Any]) -> Any:
    """Along the last axis; many times faster than numpy's where there are few values."""
    ordered, n = np.sort(values, axis=-1), values.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def cycle(values: Floats, h: int, rises: bool, part: float) -> tuple[Floats, float]:
    """The signal as it went after its resets, at the same time after the last; its slope a step."""
    starts = resets_of(values, part)
    if len(starts) < 2:
        return np.full(h, values[-1]), 0.0
    gaps = np.diff(starts)
    slope = float(median(np.diff(values[starts]) / gaps)) if rises else 0.0
    values = values - slope * np.arange(1 - len(values), 1)
    period = int(median(gaps))
    rows = np.empty((len(gaps), period))
    for row, first, end in zip(rows, starts[:-1], starts[1:], strict=True):
        came = values[first : min(first + period, end)]
        row[: len(came)], row[len(came) :] = came, came[-1]  # it may have been reset early
    phase = (len(values) - starts[-1] + np.arange(h)) % period
    usual: Floats = median(rows.T)[phase]
    return usual + slope * np.arange(1, h + 1), slope


def resets_of(values: Floats, part: float) -> list[int]:
    """Where each reset has ended: a fall, or of what falls slowly a rise, of much of the range."""
    if len(values) < 8:
        return []
    moved = values[3:] - values[:-3]
    low, high = np.quantile(values, (0.05, 0.95))
    far = part * (high - low)
    if far <= 0:
        return []
    sign = -1.0 if -moved.min() >= moved.max() else 1.0
    there = np.flatnonzero(sign * moved > far)
    found = []
    for group in np.split(there, np.flatnonzero(np.diff(there) > 3) + 1):
        if len(group):
            first, last = group[0], min(group[-1] + 3, len(values) - 1)
            found.append(int(first + np.argmax(sign * values[first : last + 1])))
    return found
