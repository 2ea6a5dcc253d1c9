"""Signals that stand still for longer than they ever do.

A sensor that hangs goes on reporting its last value. Each value of it is ordinary; that it stays
is not. How long a signal stands still at most is learned from the training; one that often
stands still for hours (coarse, slow, sent on change) is not looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors import pooling
from pyml.detectors.base import (
    DETECTORS,
    KNOWN,
    WARNING,
    Finder,
    Finding,
    Fitted,
    Floats,
    Known,
    Signals,
)
from pyml.detectors.stretches import HABITS, Habits, begun, ended, spans
from pyml.detectors.wording import lasting, of
from pyml.errors import NotEnoughData
from pyml.forms import listed, maybe, number, record
from pyml.parameters import parameter
from pyml.seconds import YEAR


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the finder is tuned by."""

    least_readings: int = parameter(
        9,
        "intervals for which a signal has to stand still at least: ten equal readings",
        "of 30 and 10: no more findings on SMD and JumpStarter, one more in six weeks of ASD",
    )
    least_seconds: float = parameter(
        540.0,
        "seconds for which a signal has to stand still at least",
        "as ten readings of a minute: told in a quarter of an hour, with scans of five minutes",
    )
    seen: int = parameter(
        5, "readings that have to come in that time", "a value that only holds says nothing"
    )
    watched: float = parameter(
        10.0,
        "times that span a training has to last for a habit to be known",
        "judgement",
    )
    named: int = parameter(5, "witnesses that are named at most", "judgement")


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """How long each signal ordinarily stands still; m metrics.

    Attributes
    ----------
    longest : tuple of float, length m
        The longest ordinary stretch of one value, in seconds.
    allowed : tuple of float or None, length m
        Seconds of standing still from which on it is a finding; None where it is not looked at.
    low, high : tuple of float, length m
        The extremes of the training: a signal that stands there is at the end of its range, but
        for one that is never 0 and stands there.
    """

    EACH = (*Known.EACH, "longest", "allowed", "low", "high")

    longest: tuple[float, ...]
    allowed: tuple[float | None, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


_EACH = listed(number(), 1)
_IS_MODEL = record(
    **KNOWN,
    longest=listed(number(0), 1),
    allowed=listed(maybe(number(1e-9, 10 * YEAR)), 1),
    low=_EACH,
    high=_EACH,
)
_OWN = ("longest", "allowed", "low", "high")


@DETECTORS.register
class Stuck(Finder[Model]):
    """Signals that stand still while the others move.

    A finding's score is how long the signal has stood still, in the time from which on that is a
    finding: 1 is just beyond.

    Parameters
    ----------
    parameters : Parameters
    habits : Habits
    """

    kind, kinds = "stuck", ("stuck",)

    def __init__(self, parameters: Parameters = PARAMETERS, habits: Habits = HABITS) -> None:
        self.parameters, self.habits = parameters, habits

    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[Model]:
        """Learn how long each signal stands still.

        Raises
        ------
        NotEnoughData
            No signal has a habit that is known and short enough.
        """
        p, times, interval = self.parameters, signals.times, signals.interval
        least = max(p.least_seconds, p.least_readings * interval)
        longest: list[float] = []
        allowed: list[float | None] = []
        ends: list[tuple[float, float]] = []
        span = float(times[-1] - times[0]) if len(times) else 0.0
        parted = self.habits.parted(times, interval)
        for column in signals.values.T:
            pulse()
            known = column[np.isfinite(column)]
            ends.append((float(known.min()), float(known.max())) if len(known) else (0.0, 0.0))
            lasted = times - times[begun(_changed(column, parted))]
            own = self.habits.ordinary(times, lasted)
            after = self.habits.allowed(own, least, interval)
            told = after is not None and span >= p.watched * after
            longest.append(own)
            allowed.append(after if told and len(known) else None)
        if not any(allowed):
            raise NotEnoughData(
                "no signal is known to move often enough to say when it stands still",
                detail=f"{len(times)} readings; one that ordinarily stands still for more than a"
                f" third of {lasting(self.habits.longest(interval))} is not looked at.",
                hint="SELECT * FROM ml_signals;",
            )
        low, high = zip(*ends, strict=True)
        model = Model(
            names=signals.names,
            interval=interval,
            longest=tuple(longest),
            allowed=tuple(allowed),
            low=low,
            high=high,
        )
        seen = self._held_out(model, signals, least, pulse)
        return Fitted({}, model, {"watched": sum(after is not None for after in allowed)} | seen)

    def _held_out(
        self, model: Model, signals: Signals, least: float, pulse: Pulse
    ) -> dict[str, Any]:
        """How long signals stood still in each block of the training, by the other blocks."""
        times, values = signals.times, signals.values
        parted = self.habits.parted(times, model.interval)
        watched = [(j, after) for j, after in enumerate(model.allowed) if after is not None]

        def still(j: int) -> Floats:
            return times - times[begun(_changed(values[:, j], parted))]

        def moves(j: int, after: float) -> NDArray[np.bool_]:
            return np.asarray((still(j) < after) & _known(signals, j))

        moving = np.zeros(len(times), np.intp)
        for j, after in watched:
            pulse()
            moving += moves(j, after)
        heights: list[list[float]] = []
        for j, after in watched:
            pulse()
            lasted, told = still(j), np.zeros(len(times), bool)
            others = moving - moves(j, after) > 0 if len(watched) > 1 else np.ones_like(told)
            rows = np.flatnonzero(~signals.held & others)
            told[rows[self._counts(model, j, signals, rows)]] = True
            counts = ended(np.where(told, lasted, 0.0))
            heights.append(self.habits.heights(times, lasted, counts, least))
        return self.habits.figures(times, model.interval, heights)

    def lookback(self, model: Model) -> float:
        """As long as the longest span from which on standing still is a finding."""
        # Readings of one stretch are no further apart than a pause: one of them lies before it.
        longest = max((after for after in model.allowed if after), default=0.0)
        return longest + self.habits.longest_pause(model.interval)

    def find(
        self, model: Model, signals: Signals, since: float, until: float, pulse: Pulse
    ) -> list[Finding]:
        """Signals that stood still at a reading in (since, until]."""
        times = signals.times
        watched = [j for j, after in enumerate(model.allowed) if after is not None]
        here = ~signals.held & (times > since) & (times <= until)
        if not here.any():
            return []
        parted = self.habits.parted(times, model.interval)
        began = {j: begun(_changed(signals.values[:, j], parted)) for j in watched}
        still = {j: times - times[began[j]] for j in watched}
        found: list[Finding] = []
        for j in watched:
            after = float(model.allowed[j] or 0.0)
            rows = np.flatnonzero(here & (still[j] >= after))
            if not len(rows):
                continue
            pulse()
            rows = rows[self._counts(model, j, signals, rows)]
            others = [k for k in watched if k != j]
            moving = np.array([(still[k] < after) & _known(signals, k) for k in others])
            if others:  # where nothing moves the machine is off, or sends its last reading again
                rows = rows[moving[:, rows].any(axis=0)]
            for span in spans(rows, began[j]):
                moved = [
                    model.names[k]
                    for k, moves in zip(others, moving, strict=True)
                    if moves[span[-1]]
                ]
                found.append(self._finding(model, j, signals, int(began[j][span[0]]), span, moved))
        return found

    def pooled(self, models: Sequence[Model]) -> Model | None:
        """What stands still on most devices for so long stands still; see `Finder.pooled`."""
        shared = pooling.Shared.by(models)
        allowed = tuple(map(pooling.greatest, shared.each("allowed")))
        if not any(allowed):
            return None
        return Model(
            **shared.known(),
            longest=tuple(map(pooling.most, shared.each("longest"))),
            allowed=allowed,
            low=tuple(map(pooling.least, shared.each("low"))),
            high=tuple(map(pooling.most, shared.each("high"))),
        )

    def unlike(self, model: Model, signals: Signals, until: float, pulse: Pulse) -> set[str]:
        """Also what has stood still from the first reading on: it may do so for days."""
        moved = (np.diff(signals.values, axis=0) != 0) & ~np.isnan(signals.values[1:])
        still = {
            name for name, any_ in zip(signals.names, moved.any(axis=0), strict=True) if not any_
        }
        return still | super().unlike(model, signals, until, pulse)

    def _counts(
        self, model: Model, j: int, signals: Signals, rows: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """Which rows count: readings have come, and the value is not at the end of its range."""
        times, values = signals.times, signals.values[rows, j]
        came = np.cumsum(~signals.held)
        first = np.searchsorted(times, times[rows] - float(model.allowed[j] or 0.0))
        enough = came[rows] - came[first] + ~signals.held[first] >= self.parameters.seen
        ends: list[float | None] = []
        if model.metrics:  # which a training does not know yet
            metric = model.metrics[j]
            ends = [metric.lower, metric.upper, 0.0 if metric.kind == "counter" else None]
        within = (values > model.low[j]) & (values < model.high[j])
        within &= ~np.isin(values, [end for end in ends if end is not None])
        # What is never 0 has stopped; what is 0 at times may be idle.
        return np.asarray(enough & (within | (values == 0) & (model.low[j] > 0)))

    def _finding(
        self,
        model: Model,
        j: int,
        signals: Signals,
        first: int,
        span: NDArray[np.intp],
        moved: list[str],
    ) -> Finding:
        """What is said of the readings of one stretch, which began at the row `first`."""
        times, last = signals.times, int(span[-1])
        reached = np.searchsorted(times, times[span[0]] - self.lookback(model), side="right")
        started = float(times[max(first, int(reached))])
        found = Finding(
            kind="stuck",
            metric=model.names[j],
            started_at=started,
            last_at=float(times[last]),
            severity=WARNING,
            score=0.0,
            evidence={
                "value": float(signals.values[last, j]),
                "longest": max(model.longest[j], model.interval),
                "witnesses": moved[: self.parameters.named],
            },
        )
        return replace(found, score=self.score(model, found))

    def score(self, model: Model, found: Finding) -> float:
        """How long it has stood still, in what is allowed."""
        allowed = model.allowed[model.names.index(found.metric)]
        return (found.last_at - found.started_at) / allowed if allowed else found.score

    def words(self, model: Model, found: Finding, unit: str | None) -> str:
        """What stands still, at which value, and for how long."""
        value = of(f"{found.evidence['value']:,.6g}", unit)
        whose = "on other devices " * pooling.is_fleets(found.evidence)
        return (
            f"{found.metric} has stood at {value} for {lasting(found.last_at - found.started_at)};"
            f" {whose}it never stands still for more than {lasting(found.evidence['longest'])}"
        )

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        model = Model(**Model.plain(meta) | {name: tuple(meta[name]) for name in _OWN})
        sizes = {len(getattr(model, name)) for name in _OWN}
        fits = model.well_known() and sizes == {len(model.names)} and any(model.allowed)
        return model if fits else None


def _changed(column: Floats, parted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a signal (n,) has another value than before, or the one before is not known."""
    return np.asarray(parted | np.append(True, column[1:] != column[:-1])[: len(column)])


def _known(signals: Signals, j: int) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(signals.values[:, j]))
