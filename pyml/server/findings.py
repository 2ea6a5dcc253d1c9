"""What finders say of a window of a device, joined to what was found before and stored."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pyml import queries
from pyml.detectors.base import DETECTORS, SEVERITIES, Finder, Finding, Signals
from pyml.detectors.joining import joined
from pyml.detectors.pooling import FLEETS
from pyml.detectors.runs import Run, runs
from pyml.errors import PymlError
from pyml.forms import parsed
from pyml.incidents.rules import Rule, overruled
from pyml.server import backend, fields, learning, store
from pyml.server.rarity import Rarity
from pyml.server.scoring import PIECE
from pyml.server.store import Current
from pyml.telemetry.history import History
from pyml.telemetry.readings import Readings, lookback
from pyml.telemetry.series import columns_of
from pyml.telemetry.window import measured


@dataclass(slots=True)
class Findings:
    """One device's finders, in one scan.

    Attributes
    ----------
    device : str
    at : float
        The moment up to which the scan looks; seconds since the Unix epoch.
    gap : float
        Seconds; findings of one kind and metric that are nearer to each other are one.
    rules : tuple of Rule
        What people have said of the device.
    finders : list of (Finder, Current)
        Whose current models can be read.
    failures : list of PymlError
        What could not be done; the rest goes on.
    first : float or None
        When the earliest of those began that were stored; None where none was.
    """

    device: str
    at: float
    gap: float
    rules: tuple[Rule, ...] = ()
    finders: list[tuple[Finder[Any], Current]] = field(default_factory=list)
    failures: list[PymlError] = field(default_factory=list)
    first: float | None = None

    @property
    def interval(self) -> float:
        """The longest of the models, in seconds."""
        return max((current.knows.interval for _, current in self.finders), default=0.0)

    @property
    def are_fleets(self) -> bool:
        """Whether all of these stand in for the device's own."""
        return bool(self.finders) and all(current.model_id is None for _, current in self.finders)

    def paths(self) -> dict[str, None]:
        """What they read, in order."""
        found: dict[str, None] = {}
        for _, current in self.finders:
            found |= dict.fromkeys(columns_of(current.knows.metrics)[0])
        return found

    def back(self, since: float, until: float) -> float:
        """Seconds before a window that they look back on."""
        found = (_back(*one, since, until) for one in self.finders)
        return max(found, default=0.0)

    def silent_from(self, last: float | None) -> float | None:
        """From when on one of them finds something if nothing comes after the moment `last`."""
        if last is None:
            return None
        moments = (finder.silent_from(current.knows, last) for finder, current in self.finders)
        first = min(moments, default=math.inf)
        return first if math.isfinite(first) else None

    def silence(self, state: Any, history: History, last: float, until: float) -> None:
        """Look where nothing came after the moment `last`, with those finders that tell of it.

        What fails here is said by the next scan that has something to look at.
        """
        known_as = history.id(self.device)
        own: list[tuple[Finder[Any], Current]] = []
        for row in parsed(state["models"]):
            finder = DETECTORS.get(row["kind"])
            if isinstance(finder, Finder):
                with suppress(PymlError):
                    of_device = known_as, "", state["metrics"], float(state["now"])
                    own.append((finder, store.of_row(finder, row, *of_device)))
        known = learning.finders_for(self.device, state, history, until, own)
        self.finders += [
            (finder, current)
            for finder, current in known or ()
            if finder.silent_from(current.knows, last) <= until
        ]
        self.look(history, last, until)

    def look(self, history: History, since: float, until: float) -> bool:
        """Store what is wrong in (since, until]; whether none of them has failed."""
        if not self.finders or until <= since:
            return True
        failed = len(self.failures)
        intervals = [max(1.0, current.knows.interval) for _, current in self.finders]
        pieces = [*history.pieces(self.device, since, until, PIECE * min(intervals))]
        # A window may be looked at in pieces that leave out what is empty; silence is not.
        begins = [since, *(first for first, _ in pieces[1:])]
        for first, last in zip(begins, [*begins[1:], until], strict=True):
            shared: dict[Any, Readings] = {}
            for finder, current in self.finders:
                try:
                    readings = self._readings(history, current, first, last, shared)
                    self._one(finder, current, readings, first, last)
                except PymlError as error:
                    self.failures.append(error)
        return len(self.failures) == failed

    def _readings(
        self, history: History, current: Current, since: float, until: float, shared: Any
    ) -> Readings:
        """The readings of a window and before it; made once for models that measure alike."""
        knows = current.knows
        alike = knows.metrics, knows.habits, knows.interval
        if alike not in shared:
            back = max(
                finder.reach(other.knows, since, until)
                for finder, other in self.finders
                if (other.knows.metrics, other.knows.habits, other.knows.interval) == alike
            )
            window = self.device, since, until
            shared[alike] = measured(history, *window, *alike, back=back)
        found: Readings = shared[alike]
        return found

    def _one(
        self, finder: Finder[Any], current: Current, readings: Readings, since: float, until: float
    ) -> None:
        knows = current.knows
        seen = readings.after(since - finder.reach(knows, since, until))
        signals = Signals.of(seen, knows.names, knows.interval)
        ruled = replace(knows, metrics=overruled(knows.metrics, self.rules))
        with current.in_use():
            found = finder.find(ruled, signals, since, until, backend.pulse)
        if not found:
            return
        if current.model_id is None:
            found = [replace(one, evidence={**one.evidence, **FLEETS}) for one in found]
        gap = self._gap(knows.interval)
        first = min(one.started_at for one in found) - gap
        before = backend.execute(queries.FINDINGS, self.device, finder.kind, first)
        units = fields.units_of(sorted({one.metric for one in found} - {""}))
        with current.in_use():
            told = []
            for one in joined(map(_stored, before), found, gap, finder.kinds):
                score = max(one.score, finder.score(knows, one))
                words = one.sentence or finder.words(knows, one, units.get(one.metric))
                told.append(replace(one, score=score, sentence=words))
        rarity = Rarity.of(finder.kind, current.model_id)
        hours = rarity.hours(-np.array([one.score for one in told]))
        self.put(finder.kind, False, current.model_id, gap, told, hours)

    def put_runs(self, detector: str, found: Sequence[Run], interval: float, model_id: int) -> None:
        """Store anomalous readings that are new, each run of them as a finding."""
        gap = self._gap(interval)
        first = min(one.finding.started_at for one in found) - gap
        before = [
            Run(_stored(row), row["rarity"])
            for row in backend.execute(queries.FINDINGS, self.device, detector, first)
        ]
        every = runs([*before, *found], gap)
        changed = [one for one in every if one not in before]
        told, hours = [one.finding for one in changed], [one.rarity for one in changed]
        self.put(detector, True, model_id, gap, told, hours)

    def _gap(self, interval: float) -> float:
        """Seconds to which findings are one, of a model that has a reading in so many."""
        return max(self.gap, 3 * interval)

    def put(
        self,
        detector: str,
        brief: bool,
        model_id: int | None,
        gap: float,
        found: Sequence[Finding],
        rarities: Sequence[float | None],
    ) -> None:
        """Store findings, each joined to those that it touches, and remember the earliest."""
        earliest = min(one.started_at for one in found)
        self.first = earliest if self.first is None else min(self.first, earliest)
        backend.execute(
            queries.PUT_FINDINGS,
            *(self.device, detector, brief, self.at, gap),
            *([getattr(one, name) for one in found] for name in ("kind", "metric")),
            *([getattr(one, name) for one in found] for name in ("started_at", "last_at")),
            [SEVERITIES[one.severity] for one in found],
            [backend.shown(one.score) for one in found],
            rarities,
            [backend.to_json(backend.shown(one.evidence)) for one in found],
            [one.sentence for one in found],
            model_id,
        )


def _back(finder: Finder[Any], current: Current, since: float, until: float) -> float:
    knows = current.knows
    beyond = lookback(knows.metrics, knows.habits, knows.interval)
    return finder.reach(knows, since, until) + beyond


def _stored(row: Any) -> Finding:
    """A finding that was stored before; evidence of another form is none."""
    evidence = parsed(row["evidence"])
    return Finding(
        row["kind"],
        row["metric"],
        float(row["started_at"]),
        float(row["last_at"]),
        SEVERITIES.index(row["severity"]),
        float(row["score"]),
        evidence if isinstance(evidence, dict) else {},
        row["sentence"],
    )
