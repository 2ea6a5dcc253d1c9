"""What ml_chart draws of a field."""

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import numpy as np

from pyml import queries
from pyml.detectors.base import SEVERITIES, judge
from pyml.errors import ModelNotFound, PymlError
from pyml.forecasters.base import FORECASTERS
from pyml.forecasters.outlook import BANDS
from pyml.server import arguments, backend, chart, fields, scoring, store
from pyml.server.backend import document
from pyml.server.outlooks import outlook_of
from pyml.server.scoring import LEVEL, forecast_of
from pyml.telemetry.counters import MAX_GAP
from pyml.telemetry.history import LONGEST_HOURS, Floats, History
from pyml.telemetry.series import Metric
from pyml.telemetry.window import metrics_of, window
from pyml.zones import zone_of

# Hours of a picture in which some minutes ahead would not show: it has the outlook, a day ahead for
# each of so many back, seven at most.
OUTLOOK_HOURS, BACK, MOST_AHEAD = 72, 3, 7


@document
def draw(device: str, field: str | None, hours: int) -> dict[str, Any]:
    """``ml_chart``: what a model is missing for is said in the picture, not refused."""
    arguments.given(device=device, hours=hours)
    arguments.within("hours", hours, 1, LONGEST_HOURS)
    history = backend.history_of(backend.execute(queries.CONTEXT)[0])
    session = backend.execute(queries.SESSION)[0]
    until = float(session["until"])
    since = until - hours * 3600
    if field is None:
        field = fields.reported(history, device, since, until)
    known = metrics_of(backend.execute)
    metric, _, found = window(history, device, since, until, field, known)
    readings = found.readings.came()
    values = readings.values[:, 0]
    marks: list[chart.Mark] = []
    ahead: chart.Ahead | None = None
    notes: list[str] = []
    try:
        marks = _marks(device, since, until, readings.times, values)
    except PymlError as error:
        notes += [f"No anomalies: {error.message}.", error.hint or ""]
    try:
        if hours >= OUTLOOK_HOURS:
            ahead = _days_ahead(history, device, field, hours, until, known)
        else:
            ahead = _ahead(device, field, known, until)
    except PymlError as error:
        notes += [f"No forecast: {error.message}.", error.hint or ""]
    spans = [
        chart.Span(row["started_at"], row["ended_at"], row["severity"], row["summary"])
        for row in backend.execute(queries.INCIDENT_SPANS, device, since, until)
    ]
    zone = zone_of(session["zone"])
    notes += _unscanned(device, since, zone or UTC)
    unit = fields.unit_of(field) or ("per second" if metric.kind == "counter" else "")
    step = max(MAX_GAP * found.interval, found.habits[0].hold)
    picture = chart.draw(
        readings.times,
        values,
        title=f"{field}, last {hours} h",
        subtitle=f"device {history.id(device)}",
        unit=unit,
        window=(since, until),
        longest_step=step,
        zone=(session["zone"], zone) if zone else ("UTC", UTC),
        spans=spans,
        marks=marks,
        ahead=ahead,
        notes=notes,
        pulse=backend.pulse,
    )
    return {"svg": picture}


def _unscanned(device: str, since: float, zone: tzinfo) -> list[str]:
    """A note where scans have not looked at the whole window."""
    rows = backend.execute(queries.SCANNED_FROM, device)
    first = rows[0]["scanned_from"] if rows else None
    if first is None:
        return ["No incidents: the device has not been scanned.", "CALL ml_scan();"]
    if first <= since:
        return []
    return [f"Incidents are known from {datetime.fromtimestamp(first, zone):%Y-%m-%d %H:%M} on."]


def _marks(device: str, since: float, until: float, at: Floats, values: Floats) -> list[chart.Mark]:
    """What the current forest flags, at the value that the picture has nearest to it."""
    forest = judge("forest")
    history, current = store.current(forest, device)
    known = np.isfinite(values)
    at, values = at[known], values[known]
    marks = []
    for scored in scoring.score(forest, history, current, device, since, until):
        some = scored.of(scored.flagged())
        times = some.found.times
        right = np.clip(np.searchsorted(at, times), 1, len(at) - 1) if len(at) > 1 else 0
        left = np.maximum(right - 1, 0)
        nearer = np.abs(at[left] - times) <= np.abs(at[right] - times)
        nearest = values[np.where(nearer, left, right)]
        marks += [
            chart.Mark(moment, value, SEVERITIES[severity], score, why)
            for value, (moment, score, severity, _), why in zip(
                nearest.tolist(), some.rows(), some.reasons(), strict=True
            )
        ]
    return marks


def _ahead(device: str, field: str, known: Sequence[Metric], until: float) -> chart.Ahead:
    """The forecast of a field, whichever of its names the model was trained under."""
    plain = [metric for metric in known if metric.is_plain]
    other = {m.name: m.path for m in plain} | {m.path: m.name for m in plain}
    lstm = FORECASTERS["lstm"]
    try:
        found, _ = forecast_of(lstm, device, field, None, LEVEL, until)
    except ModelNotFound as missing:
        try:
            found, _ = forecast_of(lstm, device, other[field], None, LEVEL, until)
        except (KeyError, ModelNotFound):
            raise missing from None
    return chart.Ahead(found.times, found.predicted, found.lower, found.upper, LEVEL)


def _days_ahead(
    history: History, device: str, field: str, hours: int, until: float, known: Sequence[Metric]
) -> chart.Ahead:
    """The outlook of a field."""
    days = min(MOST_AHEAD, hours // 24 // BACK)
    _, found = outlook_of(history, device, field, days, until, known)
    band = BANDS.index(LEVEL)
    return chart.Ahead(found.times, found.predicted, found.lower[band], found.upper[band], LEVEL)
