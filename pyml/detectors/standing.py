"""Readings -> which signals stand still, since when, and which stopped together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors.base import Floats, Known, Signals
from pyml.detectors.stretches import begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """How long each signal ordinarily stands still; m metrics.

    Attributes
    ----------
    longest : tuple of float, length m
        The longest ordinary stretch of one value, in seconds.
    allowed : tuple of float or None, length m
        Seconds of standing still from which on it is a finding; None where it is not looked at.
    together : float or None
        Seconds from which on two that stopped together are a finding, while a third moves; None
        where that is not looked at.
    longest_together : float
        The longest ordinary stretch of that, in seconds.
    low, high : tuple of float, length m
        The extremes of the training: a signal that stands there is at the end of its range, but
        for one that is never 0 and stands there.
    """

    EACH = (*Known.EACH, "longest", "allowed", "low", "high")

    longest: tuple[float, ...]
    allowed: tuple[float | None, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    together: float | None = None
    longest_together: float = 0.0


# Readings within which signals that stop together take their values: one may have come before by
# chance.
APART = 2


@dataclass(frozen=True, slots=True)
class Still:
    """Which of the signals that are looked at stand still at which reading; k signals.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
    watched : list of int, length k
        Their columns.
    allowed : list of float, length k
    began : ndarray of int, shape (k, n)
        The row at which each one took its value.
    lasted : ndarray of float64, shape (k, n)
        Seconds since then.
    moving : ndarray of bool, shape (k, n)
        Where a signal has a value, and has not stood still for too long.
    within : ndarray of bool, shape (k, n)
        Where it is not at the end of its range.
    """

    times: Floats
    watched: list[int]
    allowed: list[float]
    began: NDArray[np.intp]
    lasted: Floats
    moving: NDArray[np.bool_]
    within: NDArray[np.bool_]

    @classmethod
    def of(cls, model: Model, signals: Signals, parted: NDArray[np.bool_], pulse: Pulse) -> "Still":
        """That of readings, some of which come after a pause."""
        watched = [j for j, after in enumerate(model.allowed) if after is not None]
        allowed = [after for after in model.allowed if after is not None]
        values, times = signals.values[:, watched].T, signals.times
        began = np.empty(values.shape, np.intp)
        for i, column in enumerate(values):
            pulse()
            began[i] = begun(changed(column, parted))
        lasted = times - times[began]
        moving = (lasted < np.array(allowed)[:, None]) & np.isfinite(values)
        inner = [within(model, j, column) for j, column in zip(watched, values, strict=True)]
        return cls(times, watched, allowed, began, lasted, moving, np.array(inner))

    def beside(self, i: int) -> NDArray[np.bool_]:
        """Which others (k, n) stopped with signal i, not at the end of their ranges.

        They took their values within `APART` readings of each other.
        """
        near = np.abs(self.began - self.began[i]) <= APART
        near[i] = False
        return np.asarray(near & self.within & self.within[i])

    def together(self, pulse: Pulse) -> Floats:
        """Seconds (k, n) for which a signal and one beside it have stood still.

        0 where no third has moved meanwhile.
        """
        lasted, latest = np.zeros_like(self.lasted), self.began.max(axis=0)
        for i, began in enumerate(self.began):
            pulse()
            both = np.maximum(self.began, began)
            since = np.where(self.beside(i), both, latest).min(axis=0)
            lasted[i] = np.where(since < latest, self.times - self.times[since], 0.0)
        return lasted

    def names(self, model: Model, which: NDArray[np.bool_]) -> list[str]:
        """Of some of them (k,)."""
        return [model.names[self.watched[i]] for i in np.flatnonzero(which)]


def within(model: Model, j: int, values: Floats) -> NDArray[np.bool_]:
    """Which values (n,) of a metric are not at the end of its range."""
    ends: list[float | None] = []
    if model.metrics:  # which a training does not know yet
        metric = model.metrics[j]
        ends = [metric.lower, metric.upper, 0.0 if metric.kind == "counter" else None]
    within = (values > model.low[j]) & (values < model.high[j])
    within &= ~np.isin(values, [end for end in ends if end is not None])
    # What is never 0 has stopped; what is 0 at times may be idle.
    return np.asarray(within | (values == 0) & (model.low[j] > 0))


def changed(column: Floats, parted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a signal (n,) has another value than before, or the one before is not known."""
    return np.asarray(parted | np.append(True, column[1:] != column[:-1])[: len(column)])
