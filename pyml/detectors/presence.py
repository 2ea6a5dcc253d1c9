"""What is gone: a device that reports nothing, and metrics that stay away while it reports.

How long either ordinarily stays away is learned from the training: a rhythm of six hours is no
silence, and a device that pauses each night does not fall silent each night.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors import pooling
from pyml.detectors.base import (
    CRITICAL,
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
from pyml.detectors.wording import lasting
from pyml.errors import NotEnoughData
from pyml.forms import listed, maybe, number, record
from pyml.parameters import parameter
from pyml.seconds import YEAR


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the finder is tuned by."""

    least_seconds: float = parameter(
        1800.0,
        "seconds for which a metric, or a device, has to stay away at least",
        "judgement: a restart or an update of a host takes minutes",
    )
    least_readings: int = parameter(
        5, "intervals for which a metric has to be missing at least", "judgement"
    )
    seen: int = parameter(
        3, "readings in which a metric has been missing, so far back as is looked", "judgement"
    )
    silent_readings: float = parameter(
        3.0, "intervals without a reading at least", "silence is agreed to be three"
    )
    reported: float = parameter(
        0.5,
        "share of the training's readings in which a metric has a value, for it to be missed",
        "what comes in fewer is ordinarily missing",
    )


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """How long what ordinarily stays away; m metrics.

    Attributes
    ----------
    quiet : float
        The longest ordinary time without a reading, in seconds.
    silence : float
        Seconds without a reading from which on the device is silent.
    away : tuple of float, length m
        The longest ordinary time for which a metric is missing, in seconds.
    allowed : tuple of float or None, length m
        Seconds for which a metric may be missing; None where it is not looked at.
    """

    EACH = (*Known.EACH, "away", "allowed")

    quiet: float
    silence: float
    away: tuple[float, ...]
    allowed: tuple[float | None, ...]


_SPAN = number(0, 10 * YEAR)
_IS_MODEL = record(
    **KNOWN,
    quiet=_SPAN,
    silence=number(1.0, 10 * YEAR),
    away=listed(_SPAN, 1),
    allowed=listed(maybe(number(1.0, 10 * YEAR)), 1),
)


@DETECTORS.register
class Presence(Finder[Model]):
    """Devices that are silent, and metrics that are missing.

    A finding's score is how long it has lasted, in the time from which on it is a finding: 1 is
    just beyond.

    Parameters
    ----------
    parameters : Parameters
    habits : Habits
    """

    kind, kinds = "presence", ("missing", "silent")

    def __init__(self, parameters: Parameters = PARAMETERS, habits: Habits = HABITS) -> None:
        self.parameters, self.habits = parameters, habits

    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[Model]:
        """Learn how long the device, and each metric, stays away.

        Raises
        ------
        NotEnoughData
            The device has reported too few times for that.
        """
        p, interval, came = self.parameters, signals.interval, ~signals.held
        times = signals.times[came]
        if len(times) <= self.habits.blocks:
            raise NotEnoughData(
                "too few readings to say how long the device stays away",
                detail=f"{len(times)} readings, more than {self.habits.blocks} are needed.",
                hint="SELECT * FROM ml_signals;",
            )
        # What a quiet window has left out has not stayed away.
        gaps = np.where(signals.quiet.across(times), 0.0, np.diff(times))
        quiet = self.habits.ordinary(times[1:], gaps)
        silence = max(p.least_seconds, p.silent_readings * interval, self.habits.times * quiet)
        least = max(p.least_seconds, p.least_readings * interval)
        parted = self.habits.parted(times, interval)
        away: list[float] = []
        allowed: list[float | None] = []
        least_quiet = max(p.least_seconds, p.silent_readings * interval)
        heights = [self.habits.heights(times[1:], gaps, gaps, least_quiet)]
        for name, column in zip(signals.names, signals.values[came].T, strict=True):
            pulse()
            column = np.where(signals.quiet.inside(times, name), 0.0, column)
            lasted = times - times[throughout(np.isnan(column), parted)]
            own = self.habits.ordinary(times, lasted)
            there = np.isfinite(column).mean() >= p.reported
            away.append(own)
            allowed.append(self.habits.allowed(own, least, interval) if there else None)
            if allowed[-1] is not None:
                heights.append(self.habits.heights(times, lasted, ended(lasted), least))
        model = Model(
            names=signals.names,
            interval=interval,
            quiet=quiet,
            silence=min(silence, YEAR),
            away=tuple(away),
            allowed=tuple(allowed),
        )
        watched = sum(after is not None for after in allowed)
        seen = self.habits.figures(times, interval, heights)
        return Fitted({}, model, {"watched": watched} | seen)

    def _after(self, model: Model, j: int) -> float | None:
        """Seconds from a metric's first missing reading to the finding; None: never.

        Where a value holds for long, a metric has been away for long when it is first missing.
        """
        after = model.allowed[j]
        if after is None or model.habits[j].hold / 2 > self.habits.longest(model.interval):
            return None
        return max(after, model.habits[j].hold / 2)

    def lookback(self, model: Model) -> float:
        """As long as the longest time from which on something is gone."""
        spans_ = [
            after + model.habits[j].hold
            for j in range(len(model.names))
            if (after := self._after(model, j)) is not None
        ]
        pause = self.habits.longest_pause(model.interval)
        return max(max(spans_, default=0.0) + pause, model.silence + model.interval)

    def silent_from(self, model: Model, last: float) -> float:
        """From when on the device is silent."""
        return last + model.silence

    def find(
        self, model: Model, signals: Signals, since: float, until: float, pulse: Pulse
    ) -> list[Finding]:
        """Metrics that were missing from a reading in (since, until], and silence in it."""
        reach = self.lookback(model)
        rows = ~signals.held & (signals.times > since - reach) & (signals.times <= until)
        times, values = signals.times[rows], signals.values[rows]
        found = self._silent(model, times, since, until)
        parted = self.habits.parted(times, model.interval)
        for j in np.flatnonzero(np.isnan(values).any(axis=0)).tolist():
            after = self._after(model, j)
            if after is not None:
                pulse()
                began = throughout(np.isnan(values[:, j]), parted)
                first = np.searchsorted(times, times - reach, side="right")
                lasted = times - times[began]
                enough = (
                    np.arange(len(times)) - np.maximum(began, first) >= self.parameters.seen - 1
                )
                here = np.flatnonzero((times > since) & (lasted >= after) & enough)
                for span in spans(here, began):
                    found.append(self._missing(model, j, times, began, span, parted))
        return found

    def pooled(self, models: Sequence[Model]) -> Model | None:
        """What most devices never do for so long is silence; see `Finder.pooled`."""
        shared = pooling.Shared.by(models)
        if not shared.of:
            return None
        return Model(
            **shared.known(),
            quiet=pooling.most(model.quiet for model in models),
            silence=pooling.most(model.silence for model in models),
            away=tuple(map(pooling.most, shared.each("away"))),
            allowed=tuple(map(pooling.greatest, shared.each("allowed"))),
        )

    def unlike(self, model: Model, signals: Signals, until: float, pulse: Pulse) -> set[str]:
        """Also what the device reports too seldom to be missed."""
        there = np.isfinite(signals.values[~signals.held]).mean(axis=0)
        seldom = {
            name
            for name, share in zip(signals.names, there, strict=True)
            if share < self.parameters.reported
        }
        return seldom | super().unlike(model, signals, until, pulse)

    def _silent(self, model: Model, times: Floats, since: float, until: float) -> list[Finding]:
        """Spans without a reading, each from a reading of increasing `times` (n,) on.

        Where there is none at all the silence began before what is looked at. Before a first
        reading there may have been no device.
        """
        if not len(times):
            times = np.array([since - self.lookback(model)])
        ends = np.append(times[1:], until)
        told = (ends - times >= model.silence) & (ends > since)
        ordinary = max(model.quiet, model.interval)
        return [
            Finding(
                kind="silent",
                metric="",
                started_at=float(times[i]),
                last_at=float(ends[i]),
                severity=CRITICAL,
                score=float(ends[i] - times[i]) / model.silence,
                evidence={"longest": ordinary},
            )
            for i in np.flatnonzero(told)
        ]

    def _missing(
        self,
        model: Model,
        j: int,
        times: Floats,
        began: NDArray[np.intp],
        span: NDArray[np.intp],
        parted: NDArray[np.bool_],
    ) -> Finding:
        """What is said of some of the readings in which a metric is missing."""
        first, habit = int(began[span[0]]), model.habits[j]
        started = float(times[first])
        if not parted[first]:  # its last value held until then
            before = int(np.searchsorted(times, started - habit.hold)) - 1
            started = float(times[max(before, 0)])
        reached = np.searchsorted(times, times[span[0]] - self.lookback(model), side="right")
        started, last = max(started, float(times[reached])), float(times[span[-1]])
        found = Finding(
            kind="missing",
            metric=model.names[j],
            started_at=started,
            last_at=last,
            severity=WARNING,
            score=0.0,
            evidence={"longest": model.away[j], "rhythm": habit.rhythm},
        )
        return replace(found, score=self.score(model, found))

    def score(self, model: Model, found: Finding) -> float:
        """How long it has lasted, in what is allowed; a metric's last value holds before that."""
        lasted = found.last_at - found.started_at
        if found.kind == "silent":
            return lasted / model.silence
        j = model.names.index(found.metric)
        after = self._after(model, j)
        return found.score if after is None else lasted / (after + model.habits[j].hold)

    def words(self, model: Model, found: Finding, unit: str | None) -> str:
        """What is gone, and for how long."""
        lasted, evidence = lasting(found.last_at - found.started_at), found.evidence
        if found.kind == "silent":
            who = "other devices never pause" if pooling.is_fleets(evidence) else "it never pauses"
            return (
                f"the device has sent no reading for {lasted}; {who} for more than"
                f" {lasting(evidence['longest'])}"
            )
        return (
            f"{found.metric} has had no measurement for {lasted}, while the device reports;"
            f" it comes every {lasting(evidence['rhythm'])}"
        )

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        model = Model(**Model.plain(meta))
        return model if model.well_known() else None
