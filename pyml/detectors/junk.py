"""Signals of which only junk comes: values that are no measurement.

A broken sensor answers -127, 85 or 65535, each time it is asked. Such samples are left out of all
that is learned and judged (`pyml.telemetry.readings`), so nothing else tells of them. How long a
signal ordinarily sends nothing else is learned from the training.
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
from pyml.detectors.stretches import HABITS, Habits, ended, spans, throughout
from pyml.detectors.wording import lasting, of
from pyml.forms import listed, maybe, number, record
from pyml.parameters import parameter
from pyml.seconds import YEAR


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the finder is tuned by."""

    least_seconds: float = parameter(
        120.0, "seconds for which only junk has to come at least", "judgement: three of a minute"
    )
    least_readings: int = parameter(
        2,
        "intervals for which only junk has to come at least",
        "one is a glitch; of three in a row the sensor is broken",
    )


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """For how long each signal ordinarily sends only junk; m metrics.

    Attributes
    ----------
    longest : tuple of float, length m
        The longest ordinary time, in seconds.
    allowed : tuple of float or None, length m
        Seconds from which on it is a finding; None where it is not looked at.
    """

    EACH = (*Known.EACH, "longest", "allowed")

    longest: tuple[float, ...]
    allowed: tuple[float | None, ...]


_IS_MODEL = record(
    **KNOWN,
    longest=listed(number(0, 10 * YEAR), 1),
    allowed=listed(maybe(number(1e-9, 10 * YEAR)), 1),
)


@DETECTORS.register
class Junk(Finder[Model]):
    """Signals of which only junk comes.

    A finding's score is how long only junk has come, in the time from which on that is a finding:
    1 is just beyond.

    Parameters
    ----------
    parameters : Parameters
    habits : Habits
    """

    kind, kinds = "junk", ("junk",)

    def __init__(self, parameters: Parameters = PARAMETERS, habits: Habits = HABITS) -> None:
        self.parameters, self.habits = parameters, habits

    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[Model]:
        """Learn for how long each signal sends only junk."""
        p, interval, came = self.parameters, signals.interval, ~signals.held
        times = signals.times[came]
        least = max(p.least_seconds, p.least_readings * interval)
        parted = self.habits.parted(times, interval)
        longest: list[float] = []
        allowed: list[float | None] = []
        heights: list[list[float]] = []
        for column in signals.unfit[came].T:
            pulse()
            lasted = times - times[throughout(np.isfinite(column), parted)]
            own = self.habits.ordinary(times, lasted)
            longest.append(own)
            allowed.append(self.habits.allowed(own, least, interval))
            if allowed[-1] is not None:
                heights.append(self.habits.heights(times, lasted, ended(lasted), least))
        model = Model(
            names=signals.names,
            interval=interval,
            longest=tuple(longest),
            allowed=tuple(allowed),
        )
        watched = sum(after is not None for after in allowed)
        seen = self.habits.figures(times, interval, heights)
        return Fitted({}, model, {"watched": watched} | seen)

    def _after(self, model: Model, j: int) -> float | None:
        """Seconds of junk from which on it is a finding; None: never.

        A single sample stands as long as it would hold.
        """
        after, hold = model.allowed[j], model.habits[j].hold
        return None if after is None else max(after, hold + model.interval)

    def lookback(self, model: Model) -> float:
        """As long as the longest time from which on it is a finding."""
        every = [self._after(model, j) or 0.0 for j in range(len(model.names))]
        return max(every, default=0.0) + self.habits.longest_pause(model.interval)

    def find(
        self, model: Model, signals: Signals, since: float, until: float, pulse: Pulse
    ) -> list[Finding]:
        """Signals of which only junk had come at a reading in (since, until]."""
        rows = ~signals.held & (signals.times > since - self.lookback(model))
        rows &= signals.times <= until
        times, unfit = signals.times[rows], signals.unfit[rows]
        parted = self.habits.parted(times, model.interval)
        found: list[Finding] = []
        for j in np.flatnonzero(np.isfinite(unfit).any(axis=0)).tolist():
            after = self._after(model, j)
            if after is not None:
                pulse()
                began = throughout(np.isfinite(unfit[:, j]), parted)
                lasted = times - times[began]
                here = np.flatnonzero((times > since) & (lasted >= after))
                found += [
                    self._finding(model, j, times, unfit[:, j], int(began[span[0]]), span)
                    for span in spans(here, began)
                ]
        return found

    def pooled(self, models: Sequence[Model]) -> Model | None:
        """What is junk on most devices for so long is junk; see `Finder.pooled`."""
        shared = pooling.Shared.by(models)
        if not shared.of:
            return None
        return Model(
            **shared.known(),
            longest=tuple(map(pooling.most, shared.each("longest"))),
            allowed=tuple(map(pooling.greatest, shared.each("allowed"))),
        )

    def _finding(
        self,
        model: Model,
        j: int,
        times: Floats,
        unfit: Floats,
        first: int,
        span: NDArray[np.intp],
    ) -> Finding:
        """What is said of the readings of one stretch of junk, which began at the row `first`."""
        last = int(span[-1])
        reached = np.searchsorted(times, times[span[0]] - self.lookback(model), side="right")
        found = Finding(
            kind="junk",
            metric=model.names[j],
            started_at=float(times[max(first, int(reached))]),
            last_at=float(times[last]),
            severity=WARNING,
            score=0.0,
            evidence={"value": float(unfit[last]), "longest": model.longest[j]},
        )
        return replace(found, score=self.score(model, found))

    def score(self, model: Model, found: Finding) -> float:
        """How long only junk has come, in what is allowed."""
        after = self._after(model, model.names.index(found.metric))
        return found.score if after is None else (found.last_at - found.started_at) / after

    def words(self, model: Model, found: Finding, unit: str | None) -> str:
        """What comes instead of measurements, and for how long."""
        value = of(f"{found.evidence['value']:,.6g}", unit)
        return (
            f"{found.metric} has sent only impossible values for"
            f" {lasting(found.last_at - found.started_at)}, lastly {value}"
        )

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        model = Model(**Model.plain(meta))
        return model if model.well_known() else None
