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
    Signals,
)
from pyml.detectors.standing import Model, Still, changed, within
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
    together_readings: int = parameter(
        2,
        "intervals for which two signals that stop together have to stand still at least",
        "three equal readings; three kinds: 3 findings more in 347 machine-days, to 28",
    )
    together_seconds: float = parameter(120.0, "the same, in seconds", "as three of a minute")
    seen: int = parameter(
        5,
        "readings that have to come in that time, or all that are due",
        "a value that only holds says nothing",
    )
    watched: float = parameter(
        10.0,
        "times that span a training has to last for a habit to be known",
        "judgement",
    )
    named: int = parameter(5, "witnesses that are named at most", "judgement")


PARAMETERS = Parameters()


_IS_MODEL = record(
    **KNOWN,
    longest=listed(number(0), 1),
    allowed=listed(maybe(number(1e-9, 10 * YEAR)), 1),
    low=listed(number(), 1),
    high=listed(number(), 1),
    together=maybe(number(1e-9, 10 * YEAR)),
    longest_together=number(0),
)


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
        """Learn how long each signal stands still, and two that stop together.

        Raises
        ------
        NotEnoughData
            No signal has a habit that is known and short enough.
        """
        times, interval = signals.times, signals.interval
        longest: list[float] = []
        allowed: list[float | None] = []
        ends: list[tuple[float, float]] = []
        parted = self.habits.parted(times, interval)
        for column in signals.values.T:
            pulse()
            known = column[np.isfinite(column)]
            ends.append((float(known.min()), float(known.max())) if len(known) else (0.0, 0.0))
            lasted = times - times[begun(changed(column, parted))]
            own, after = self._habit(times, lasted, self._least(interval), interval)
            longest.append(own)
            allowed.append(after if len(known) else None)
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
        still = Still.of(model, signals, parted, pulse)
        lasted = still.together(pulse).max(axis=0)
        own, after = self._habit(times, lasted, self._least_together(interval), interval)
        model = replace(model, longest_together=own, together=after)
        seen = self._held_out(model, signals, still, lasted, pulse)
        return Fitted({}, model, {"watched": len(still.watched)} | seen)

    def _least(self, interval: float) -> float:
        p = self.parameters
        return max(p.least_seconds, p.least_readings * interval)

    def _least_together(self, interval: float) -> float:
        p = self.parameters
        return max(p.together_seconds, p.together_readings * interval)

    def _habit(
        self, times: Floats, lasted: Floats, least: float, interval: float
    ) -> tuple[float, float | None]:
        """The longest ordinary stretch, and the time from which on one is a finding.

        The latter is None where stretches are ordinarily too long, or the training is too short.
        """
        own = self.habits.ordinary(times, lasted)
        after = self.habits.allowed(own, least, interval)
        span = float(times[-1] - times[0]) if len(times) else 0.0
        known = after is not None and span >= self.parameters.watched * after
        return own, after if known else None

    def _held_out(
        self, model: Model, signals: Signals, still: Still, together: Floats, pulse: Pulse
    ) -> dict[str, Any]:
        """How long signals stood still in each block of the training, by the other blocks."""
        times, interval = signals.times, model.interval
        moving = still.moving.sum(axis=0)
        heights: list[list[float]] = []
        for i, j in enumerate(still.watched):
            pulse()
            lasted, told = still.lasted[i], np.zeros(len(times), bool)
            others = moving - still.moving[i] > 0 if len(still.watched) > 1 else np.ones_like(told)
            rows = np.flatnonzero(~signals.held & others)
            after = np.full(len(rows), still.allowed[i])
            told[rows[self._counts(model, j, signals, rows, after)]] = True
            counts = ended(np.where(told, lasted, 0.0))
            heights.append(self.habits.heights(times, lasted, counts, self._least(interval)))
        if model.together:
            least, counts = self._least_together(interval), ended(together)
            heights.append(self.habits.heights(times, together, counts, least))
        return self.habits.figures(times, interval, heights)

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
        here = ~signals.held & (times > since) & (times <= until)
        if not here.any():
            return []
        still = Still.of(model, signals, self.habits.parted(times, model.interval), pulse)
        together = still.together(pulse)
        found: list[Finding] = []
        for i, j in enumerate(still.watched):
            both = together[i] >= (model.together or np.inf)
            rows = np.flatnonzero(here & (both | (still.lasted[i] >= still.allowed[i])))
            if not len(rows):
                continue
            pulse()
            after = np.where(both, model.together or 0.0, still.allowed[i])
            rows = rows[self._counts(model, j, signals, rows, after[rows])]
            # A witness: where nothing moves the machine is off, or sends its last reading again.
            beside = still.beside(i) & (still.lasted > 0)
            moving = still.moving & ~beside
            moving[i] = False
            if len(still.watched) > 1:
                rows = rows[moving[:, rows].any(axis=0)]
            for span in spans(rows, still.began[i]):
                last = span[-1]
                found.append(
                    self._finding(
                        model,
                        j,
                        signals,
                        int(still.began[i, last]),
                        span,
                        still.names(model, moving[:, last]),
                        still.names(model, beside[:, last]) if both[last] else [],
                    )
                )
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
        self, model: Model, j: int, signals: Signals, rows: NDArray[np.intp], after: Floats
    ) -> NDArray[np.bool_]:
        """Which rows (k,) count.

        Readings have come in the last `after` seconds (k,), and the value is not at the end of its
        range.
        """
        times = signals.times
        came = np.cumsum(~signals.held)
        first = np.searchsorted(times, times[rows] - after)
        due = np.minimum(self.parameters.seen, after // model.interval + 1)
        enough = came[rows] - came[first] + ~signals.held[first] >= due
        return np.asarray(enough & within(model, j, signals.values[rows, j]))

    def _finding(
        self,
        model: Model,
        j: int,
        signals: Signals,
        first: int,
        span: NDArray[np.intp],
        moved: list[str],
        together: list[str],
    ) -> Finding:
        """What is said of the readings of one stretch, which began at the row `first`."""
        times, last = signals.times, int(span[-1])
        reached = np.searchsorted(times, times[span[0]] - self.lookback(model), side="right")
        started = float(times[max(first, int(reached))])
        longest = model.longest_together if together else model.longest[j]
        evidence = {
            "value": float(signals.values[last, j]),
            "longest": max(longest, model.interval),
            "witnesses": moved[: self.parameters.named],
        }
        if together:
            evidence["together"] = together[: self.parameters.named]
        found = Finding(
            kind="stuck",
            metric=model.names[j],
            started_at=started,
            last_at=float(times[last]),
            severity=WARNING,
            score=0.0,
            evidence=evidence,
        )
        return replace(found, score=self.score(model, found))

    def score(self, model: Model, found: Finding) -> float:
        """How long it has stood still, in what is allowed."""
        alone = model.allowed[model.names.index(found.metric)]
        allowed = model.together if "together" in found.evidence else alone
        return (found.last_at - found.started_at) / allowed if allowed else found.score

    def words(self, model: Model, found: Finding, unit: str | None) -> str:
        """What stands still, at which value, and for how long."""
        value = of(f"{found.evidence['value']:,.6g}", unit)
        stood = lasting(found.last_at - found.started_at)
        longest = lasting(found.evidence["longest"])
        if together := found.evidence.get("together"):
            others = " and ".join(together)
            return (
                f"{found.metric} has stood at {value} for {stood}, as long as {others};"
                f" they never stand still together for more than {longest}"
            )
        whose = "on other devices " * pooling.is_fleets(found.evidence)
        return (
            f"{found.metric} has stood at {value} for {stood};"
            f" {whose}it never stands still for more than {longest}"
        )

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        model = Model(**Model.plain(meta))
        return model if model.well_known() and any(model.allowed) else None
