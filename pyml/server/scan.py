"""The scan of one device: what came since the last one is scored and stored.

The procedure in SQL goes from device to device, each in a transaction of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyml import queries, training
from pyml.detectors.base import DETECTORS, SEVERITIES, Finder, Judge
from pyml.detectors.pooling import PARAMETERS
from pyml.detectors.runs import Run
from pyml.errors import NotEnoughData, PymlError, UnknownField, UnreadableModel
from pyml.forecasters.base import Forecaster
from pyml.forms import parsed
from pyml.incidents.base import Clock
from pyml.seconds import DAY
from pyml.server import backend, capacity, incidents, learning, outside, store
from pyml.server.findings import Findings
from pyml.server.late import Late
from pyml.server.outside import Judged
from pyml.server.rarity import Rarity
from pyml.server.rules import rules_of
from pyml.server.scoring import PIECE, fitted, forecast, score
from pyml.server.signals import SignalState
from pyml.server.store import Current
from pyml.telemetry.day import first_hour
from pyml.telemetry.history import History, within
from pyml.telemetry.readings import lookback
from pyml.telemetry.series import columns_of
from pyml.telemetry.window import signal

# How far back a device's first readings are looked for: a week that it was away for makes it new.
LONGEST = 7 * DAY
# Anomalies that are logged by one statement, at which a cancel is heard.
ENTRIES = 2000


@dataclass(slots=True)
class Scan:
    """One device's scan: its input, and its results so far.

    Attributes
    ----------
    device : str
    history : History
    since, until : float
        The window that is looked at, in seconds since the Unix epoch.
    findings : Findings
        The finders; what they fail at counts with `failures`.
    detectors : list of (Judge, Current)
        The current models that can be read.
    forecasters : list of (Forecaster, str, Current)
        Likewise, each with its field.
    failures : list of PymlError
        What could not be done, the first first; the rest goes on.
    found : list of float
        Times of new anomalies.
    interval : float
        The longest one of the models that did not fail, in seconds.
    signals : SignalState or None
        How the metrics of the first detector are measured; None where that is not looked at.
    """

    device: str
    history: History
    since: float
    until: float
    findings: Findings
    detectors: list[tuple[Judge[Any], Current]] = field(default_factory=list)
    forecasters: list[tuple[Forecaster[Any], str, Current]] = field(default_factory=list)
    failures: list[PymlError] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    interval: float = 0.0
    signals: SignalState | None = None

    @contextmanager
    def _noting(self, of_fleet: bool = False) -> Iterator[None]:
        """Note what fails inside; where the fleet's model has too little to go by, that is none."""
        try:
            yield
        except PymlError as error:
            if not (of_fleet and isinstance(error, NotEnoughData | UnknownField)):
                self.failures.append(error)

    def models(self, state: Any) -> None:
        """Make the device's current models ready."""
        own: list[tuple[Finder[Any], Current]] = []
        for row in parsed(state["models"]):
            with self._noting(of_fleet=row["fleets"]):
                self._take(row, state, own)
        found = learning.finders_for(self.device, state, self.history, self.until, own)
        if found is None:
            known_as = self.history.id(self.device)
            self.failures.insert(0, store.missing(DETECTORS["forest"], known_as, ""))
        self.findings.finders += found or []

    def _take(
        self, row: Mapping[str, Any], state: Any, finders: list[tuple[Finder[Any], Current]]
    ) -> None:
        """Make a model ready, and put it where it belongs: `finders` or an attribute."""
        known_as, name = self.history.id(self.device), row["field"]
        owner = training.owner_of(row["kind"])
        if owner is None:
            raise store.unknown(row["kind"], row["model_id"], known_as)
        current = store.of_row(owner, row, known_as, name, state["metrics"], float(state["now"]))
        if isinstance(owner, Finder):
            finders.append((owner, current))
        elif isinstance(owner, Judge):
            self.detectors.append((owner, current))
        elif isinstance(owner, Forecaster):
            current = fitted(owner, self.history, current, self.device, self.until)
            self.forecasters.append((owner, name, current))

    def fetch(self) -> None:
        """Read the rows once that all models look into."""
        paths, back = self.findings.paths(), self.findings.back(self.since, self.until)
        for detector, current in self.detectors:
            knows = current.knows
            paths |= dict.fromkeys(columns_of(knows.metrics)[0])
            hour = self.since - first_hour(self.since) if self.signals else 0.0
            beyond = lookback(knows.metrics, knows.habits, knows.interval)
            back = max(back, max(hour, detector.lookback(knows)) + beyond)
        for forecaster, _, current in self.forecasters:
            knows = current.knows
            paths |= dict.fromkeys(columns_of([knows.metric])[0])
            paths |= dict.fromkeys(knows.totals)
            beyond = lookback([knows.metric], [knows.habit], knows.interval)
            back = max(back, forecaster.lookback(knows) + 2 * beyond)
        longest = PIECE * min(
            (max(1.0, current.knows.interval) for _, current in self.detectors), default=60.0
        )
        if paths and self.until - self.since <= longest:
            since = self.since - back
            self.history = self.history.fetched(self.device, since, self.until, list(paths))

    def memory(self) -> float:
        """Seconds before it by which a single reading is judged."""
        found = (detector.lookback(current.knows) for detector, current in self.detectors)
        return max(found, default=0.0)

    def detect(self) -> tuple[bool, int]:
        """Log what the detectors flag; whether none failed, and how many readings were scored."""
        failed, readings = len(self.failures), 0
        for detector, current in self.detectors:
            with self._noting():
                readings = max(readings, self._detector(detector, current))
                self.interval = max(self.interval, current.knows.interval)
        spoke = bool(self.detectors) or self.findings.are_fleets
        return spoke and len(self.failures) == failed, readings

    def _detector(self, detector: Judge[Any], current: Current) -> int:
        readings = 0
        signals = self.signals if detector is self.detectors[0][0] else None
        window = (self.device, self.since, self.until)
        whole_hours = signals is not None
        for scored in score(detector, self.history, current, *window, whole_hours=whole_hours):
            if signals is not None:
                signals.look(scored, self.until)
            readings += len(scored.found.times)
            flagged = scored.flagged()
            for first in range(0, len(flagged), ENTRIES):
                some = scored.of(flagged[first : first + ENTRIES])
                rarity = Rarity.of(detector.kind, current.model_id)
                entries = [
                    (moment, score_, SEVERITIES[severity], values, why, current.model_id, hours)
                    for (moment, score_, severity, values), why, hours in zip(
                        some.rows(), some.reasons(), rarity.hours(some.found.scores), strict=True
                    )
                ]
                self._log(detector.kind, False, entries, current.knows.interval)
        return readings

    def _log(
        self, tier: str, foretold: bool, entries: Sequence[tuple[Any, ...]], interval: float
    ) -> None:
        """Add to the log of anomalies; those that are new make findings."""
        columns = map(list, zip(*entries, strict=True))
        times, scores, severities, metrics, reasons, models, rarities = columns
        added = backend.execute(
            queries.PUT_ANOMALIES,
            *(self.device, tier, foretold, times, scores, severities),
            *([backend.to_json(one) for one in each] for each in (metrics, reasons)),
            models,
            rarities,
        )
        new = {float(row["t"]) for row in added}
        found = [
            Run.of_reading(moment, score_, SEVERITIES.index(severity), why, rarity)
            for moment, score_, severity, _, why, _, rarity in entries
            if moment in new
        ]
        if found:
            self.found += sorted(new)
            self.findings.put_runs(tier, found, interval, models[-1])

    def forecast(self) -> None:
        """Log what lies outside the stored forecasts, and store fresh ones."""
        apart: dict[str, dict[float, list[Judged]]] = {}
        for forecaster, name, current in self.forecasters:
            with self._noting(current.of_fleet):
                judged = apart.setdefault(forecaster.kind, {})
                self._forecaster(forecaster, name, current, judged)
                self.interval = max(self.interval, current.knows.interval)
        for kind, judged in apart.items():
            if judged:
                among = sum(forecaster.kind == kind for forecaster, *_ in self.forecasters)
                self._log(kind, True, outside.entries(kind, judged, among), self.interval)

    def _is_new(self) -> bool:
        """Whether a forecast of the fleet does not judge it yet."""
        before = self.until - PARAMETERS.unjudged
        return self.history.first(self.device, before - LONGEST, before) is None

    def _forecaster(
        self,
        forecaster: Forecaster[Any],
        name: str,
        current: Current,
        judged: dict[float, list[Judged]],
    ) -> None:
        settings, knows = self.history.settings, current.knows
        level = float(settings["forecast_level"])
        said = (self.device, forecaster.kind, name)
        points = backend.execute(queries.POINTS, *said, self.since, self.until)
        ahead = forecast(forecaster, self.history, current, self.device, None, level, self.until)
        ahead = ahead.at_least(knows.bounds)
        if points and not (current.of_fleet and self._is_new()):
            readings = signal(
                *(self.history, self.device, self.since, self.until),
                *(knows.metric, knows.totals, knows.habit, knows.interval),
            )
            values = readings.values[:, 0]
            outside.judge(points, name, readings.times, values, knows.interval, judged)
        columns = (ahead.times, ahead.predicted, ahead.lower, ahead.upper)
        backend.execute(
            queries.PUT_FORECAST,
            *(*said, level, current.model_id, ahead.last_time),
            *(column.tolist() for column in columns),
        )


def _scan_late(run: Scan, came: Late, mark: float | None) -> tuple[bool, int]:
    """Log what the detectors flag where rows came late; whether none failed, readings scored.

    Late readings are compared with no forecast.
    """
    if came.span is None or mark is None:
        return True, 0  # a first scan goes back scan_first_hours
    # A window begins after its first moment; what is later is looked at again anyway.
    since, until = came.span[0] - 1, min(came.span[1], run.since)
    if until <= since:
        return True, 0
    behind = Scan(run.device, run.history, since, until, run.findings, run.detectors)
    behind.fetch()
    spoke, readings = behind.detect()
    spoke &= run.findings.look(behind.history, since, until)
    run.failures += behind.failures
    run.found += behind.found
    return spoke, readings


@backend.document
def scan(device: str, as_of: str | None, counted: bool) -> dict[str, Any]:
    """``_ml_scan``: score, compare with the stored forecasts, forecast anew.

    A model that fails is recorded and the others go on; the watermark moves on only where no
    detector has failed. Rows that came late are found by their ids before this, or
    here, `counted`.
    """
    state = backend.execute(queries.SCAN_STATE, device, as_of)[0]
    history = backend.history_of(state)
    settings = history.settings
    until, mark = within(float(state["until"])), state["watermark"]
    back = 60.0 * int(settings["scan_late_minutes"])
    since = until - 3600.0 * int(settings["scan_first_hours"]) if mark is None else mark - back
    came = Late.of(state, history, device, until, counted)
    arrived = history.arrivals(device, since, until)
    newest = float(arrived.max()) if len(arrived) else mark
    gap = 60.0 * int(settings["incident_gap_minutes"])
    found = Findings(device, until, gap, rules_of(state["rules"]))
    bring_on = partial(incidents.bring_on, device, state, replayed=as_of is not None)
    same = newest == mark and len(arrived) == state["late_rows"]
    # What failed is tried again: it may be well by now, and may not.
    if mark is not None and same and state["outcome"] != "failed" and came.note is None:
        if state["silent_from"] is not None and until >= state["silent_from"]:
            found.silence(state, history, mark, until)
            if found.first is not None:
                bring_on(found.first, Clock(until, mark, newest), found.interval, 0.0)
        backend.execute(queries.SCAN_UNCHANGED, device)
        return {"outcome": "unchanged"}
    signals = SignalState.of(state["signals"])
    run = Scan(device, history, since, until, found, signals=signals)
    run.models(state)
    looked_back, behind = _scan_late(run, came, mark)
    run.fetch()
    spoke, readings = run.detect()
    spoke &= found.look(run.history, since, until)
    run.failures += found.failures
    readings += behind
    late_rows = state["late_rows"] or 0
    if spoke:
        mark, late_rows = newest, int((arrived > newest - back).sum()) if len(arrived) else 0
        if counted and mark is not None:
            came.seen(history, device, arrived, mark - back, until)
    run.forecast()
    capacity.look(device, history, newest, found)
    if found.first is not None or state["troubled"]:
        interval = max(run.interval, found.interval)
        bring_on(found.first, Clock(until, mark, newest), interval, run.memory())
    signals.put(history, device, float(state["now"]))
    first = run.failures[0] if run.failures else None
    sqlstate, message = (first.sqlstate, first.message[:10_000]) if first else (None, None)
    unreadable = [error.model_id for error in run.failures if isinstance(error, UnreadableModel)]
    backend.execute(
        queries.SCAN_DONE,
        *(device, sqlstate, message, mark, late_rows, readings, len(run.found)),
        *([model for model in unreadable if model is not None], newest),
        came.note if looked_back else None,
        came.counts and came.counts.rows.tolist(),
        came.counts and came.counts.until,
        came.counted_at,
        found.silent_from(newest),
        since if spoke else None,
    )
    return {
        "outcome": "failed" if run.failures else "scanned",
        "sqlstate": sqlstate,
        "message": message,
        "readings": readings,
        "anomalies": len(run.found),
    }
