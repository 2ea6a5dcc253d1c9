"""What stands in for the finders of a device that has no models of its own yet.

`ml_retrain` makes it of the finders of a fleet. A device is known by its first readings: what does
not fit these is not asked of the fleet.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from pyml import in_force, queries
from pyml.detectors.base import DETECTORS, Finder, Judge, Known, Signals
from pyml.detectors.pooling import PARAMETERS
from pyml.errors import PymlError, UnreadableModel
from pyml.following import finders
from pyml.forms import parsed
from pyml.models import blob
from pyml.seconds import HOUR
from pyml.server import backend, store
from pyml.server.store import Current
from pyml.telemetry.habits import Habit
from pyml.telemetry.history import History
from pyml.telemetry.quiet import NOTHING
from pyml.telemetry.readings import lookback
from pyml.telemetry.series import Metric, columns_of
from pyml.telemetry.window import learned, measured


@backend.document
def pool() -> dict[str, Any]:
    """``_ml_pool_models``: make what stands in, of the finders in force of a sample of devices."""
    metrics = backend.execute(queries.CONTEXT)[0]["metrics"]
    models: defaultdict[str, list[Any]] = defaultdict(list)
    for row in backend.execute(queries.FLEET_FINDERS):
        finder = DETECTORS.get(row["kind"])
        if isinstance(finder, Finder):
            backend.pulse()
            with suppress(PymlError):  # one that cannot be read takes no part
                model = in_force.stored(backend.execute, finder, row["model_id"], row["sha256"])
                in_force.check(finder, model, "", metrics)
                models[finder.kind].append(model.knows)
    made: list[tuple[str, int, bytes]] = []
    for finder in finders():
        several = models[finder.kind]
        with suppress(PymlError), blob.guarded():
            one = finder.pooled(several)
            if one is not None:
                made.append((finder.kind, len(several), blob.pack(finder, {}, one)))
    backend.execute(queries.PUT_FLEET_MODELS, *([row[i] for row in made] for i in range(3)))
    return {"kinds": [kind for kind, *_ in made]}


@dataclass(frozen=True, slots=True)
class First:
    """A device's first readings.

    Attributes
    ----------
    since, until : float
        The window that they are in, in seconds since the Unix epoch.
    interval : float
        Seconds between two of them.
    habits : mapping
        How each metric comes that does, by its name.
    """

    since: float
    until: float
    interval: float
    habits: Mapping[str, Habit]

    @classmethod
    def of(
        cls, device: str, history: History, until: float, metrics: Sequence[Metric]
    ) -> Self | None:
        """Those of a device as of a moment; None as long as they are too few."""
        back = HOUR * int(history.settings_of(device)["training_hours"])
        first = history.first(device, until - back, until)
        if first is None:
            return None
        since, span = first - 1, PARAMETERS.seconds
        while since + span <= until:
            seen = learned(history, device, since, since + span, metrics, NOTHING)
            ledger, readings = seen.readings.ledger(), seen.readings
            if ledger.used + ledger.rejected >= PARAMETERS.readings:
                said = np.isfinite(readings.values) | np.isfinite(readings.unfit)
                came = np.flatnonzero(said.any(axis=0)).tolist()
                habits = {metrics[j].name: seen.habits[j] for j in came}
                return cls(since, since + span, seen.interval, habits)
            span *= 2
        return None

    def fitted(
        self, finder: Finder[Any], model: Known, device: str, history: History
    ) -> Known | None:
        """A stand-in as it fits the device; None where it does not."""
        if self.interval > PARAMETERS.slower * model.interval:
            return None
        own = model.of_metrics(self.habits)
        habits = tuple(
            replace(
                habit,
                rhythm=self.habits[name].rhythm,
                hold=max(habit.hold, self.habits[name].hold),
                total_hold=max(habit.total_hold, self.habits[name].total_hold),
            )
            for name, habit in zip(own.names, own.habits, strict=True)
        )
        own = replace(own, interval=self.interval, habits=habits)
        if not own.names:
            return None
        window = self.since, self.until
        readings = measured(history, device, *window, own.metrics, own.habits, own.interval)
        signals = Signals.of(readings, own.names, own.interval)
        unlike = finder.unlike(own, signals, self.until, backend.pulse)
        own = own.of_metrics({*own.names} - unlike)
        return own if own.names and "" not in unlike else None


def finders_for(
    device: str,
    state: Mapping[str, Any],
    history: History,
    until: float,
    own: Sequence[tuple[Finder[Any], Current]],
) -> list[tuple[Finder[Any], Current]] | None:
    """The finders that look at a device: its own, and the fleet's where these are young or none.

    None where it has no model that judges it, and there is nothing of the fleet that fits it.

    Parameters
    ----------
    device : str
    state : mapping
        A row of `queries.SCAN_STATE`.
    history : History
    until : float
        The moment as of which is asked.
    own : sequence of (Finder, Current)
        Those of its own that can be read.
    """
    rows = parsed(state["models"])
    judged = any(isinstance(DETECTORS.get(row["kind"]), Judge) for row in rows)
    longest = max((one.readings_used * one.knows.interval for _, one in own), default=math.inf)
    if judged and longest >= PARAMETERS.young:
        return [*own]
    found = _stand_ins(device, state, history, until)
    if not judged:
        return found
    stood = {finder.kind for finder, _ in found or ()}
    return [one for one in own if one[0].kind not in stood] + (found or [])


def _stand_ins(
    device: str, state: Mapping[str, Any], history: History, until: float
) -> list[tuple[Finder[Any], Current]] | None:
    """The fleet's finders as they fit a device; None where there are none that do.

    Empty as long as too few readings have come to tell.
    """
    found: list[tuple[Finder[Any], Current]] = []
    for row in backend.execute(queries.FLEET_MODELS):
        finder = DETECTORS.get(row["kind"])
        if isinstance(finder, Finder):
            with suppress(PymlError):  # one of other metrics: ml_retrain makes another
                found.append((finder, store.of_fleet(finder, row, history.id(device), state)))
    metrics = {metric.name: metric for _, one in found for metric in one.knows.metrics}
    if not metrics:
        return None
    first = First.of(device, history, until, [*metrics.values()])
    if first is None:
        return []
    knows = [current.knows for _, current in found]
    back = max(lookback(one.metrics, one.habits, first.interval) for one in knows)
    paths, _ = columns_of([*metrics.values()])
    once = history.fetched(device, first.since - back, first.until, paths)
    fitting = []
    for finder, current in found:
        with suppress(UnreadableModel), current.in_use():
            own = first.fitted(finder, current.knows, device, once)
            if own is not None:
                model = replace(current.model, knows=own)
                fitting.append((finder, replace(current, model=model)))
    return fitting or None
