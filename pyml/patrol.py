"""The scan of one device: what came since the last one, judged and stored.

The procedure in SQL goes from device to device, each in a transaction of its own.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyml import backend, drift, limits, queries, series, store
from pyml.errors import PymlError, UnreadableModel
from pyml.history import Floats, History, series_of, within
from pyml.scoring import SEVERITIES, judge, look_ahead
from pyml.store import Held

# A value further from the forecast than this many half widths is critical.
CRITICAL = 2.0
# Anomalies that are logged by one statement, at which a cancel is heard.
ENTRIES = 2000
# Half widths counted at most: an interval may have no width on one side of a bound.
FARTHEST = 1000.0


@dataclass(slots=True)
class Drift:
    """What a scan sees of the metrics of each model, beside what the training saw."""

    threshold: float
    until: float
    before: Any  # of the last scan: by model_id, as `drift.observe` gives it
    seen: dict[str, Any] = field(default_factory=dict)
    drifted: list[int] = field(default_factory=list)

    def look(
        self, held: Held, names: list[str], times: Floats, values: Floats
    ) -> dict[str, dict[str, float]]:
        """The index and the limit of each of the model's metrics, times (n,), values (n, m)."""
        key, known = str(held.model_id), held.model.meta["reference"]
        before = self.before.get(key) if isinstance(self.before, dict) else None
        # What no scan has written is forgotten, and counting begins anew.
        before = before if limits.seen(before, known, self.until) else None
        with held.speaking():
            seen = drift.observe(known, before, times, values)
            if seen is None:
                return {}
            self.seen[key] = seen
            judged, drifted = drift.judge(names, known, seen, self.threshold)
        if drifted:
            self.drifted.append(held.model_id)
        return judged


@backend.document
def scan(device: str, as_of: str | None) -> dict[str, Any]:
    """Door of ``_ml_scan``: score, compare with the stored forecasts, forecast anew.

    A tier that cannot speak is recorded and the others go on; the watermark
    moves on only where the forest has spoken.
    """
    state = backend.execute(queries.SCAN_STATE, device, as_of)[0]
    history = backend.history_of(state)
    settings = history.settings
    until, mark = within(float(state["until"])), state["watermark"]
    late = 60.0 * int(settings["scan_late_minutes"])
    since = until - 3600.0 * int(settings["scan_first_hours"]) if mark is None else mark - late
    arrived = history.arrivals(device, since, until)
    newest = float(arrived.max()) if len(arrived) else mark
    same = newest == mark and len(arrived) == state["late_rows"]
    # What failed is tried again: it may be well by now, and may not.
    if mark is not None and same and state["outcome"] != "failed":
        backend.execute(queries.SCAN_UNCHANGED, device)
        return {"outcome": "unchanged"}
    failures: list[PymlError] = []
    readings = 0
    found: list[float] = []
    before = limits.parsed(state["seen"] or "{}")
    moved = Drift(float(settings["drift_threshold"]), until, before)
    metrics: dict[str, Any] = {}
    span = 0.0
    try:
        held = store.held(state, device, "forest", "")
        readings, found, metrics = _forest(history, held, device, since, until, moved)
        span = float(held.model.meta["interval"])
        mark, late_rows = newest, int((arrived > newest - late).sum()) if len(arrived) else 0
    except PymlError as error:
        failures.append(error)
        late_rows = state["late_rows"] or 0
    judged: dict[float, list[dict[str, Any]]] = {}
    fields: dict[str, Any] = {}
    for name in state["fields"]:
        try:
            interval, drifts = _lstm(history, device, name, since, until, judged, moved)
            span, fields = max(span, interval), fields | drifts
        except PymlError as error:
            failures.append(error)
    found += _log_outside(device, judged)
    if found:
        gap = max(60.0 * int(settings["incident_gap_minutes"]), 3 * span)
        backend.execute(queries.JOIN_INCIDENTS, device, min(found), gap)
    first = failures[0] if failures else None
    sqlstate, message = (first.sqlstate, first.message[:10_000]) if first else (None, None)
    unreadable = [error.model_id for error in failures if isinstance(error, UnreadableModel)]
    backend.execute(
        queries.SCAN_DONE,
        *(device, sqlstate, message, mark, late_rows, readings, len(found)),
        backend.to_json(moved.seen),
        # Nothing to tell is NULL, as where there is no model.
        *(backend.to_json(drifts) if drifts else None for drifts in (metrics, fields)),
        *(moved.drifted, [model for model in unreadable if model is not None], newest),
    )
    return {
        "outcome": "failed" if failures else "scanned",
        "sqlstate": sqlstate,
        "message": message,
        "readings": readings,
        "anomalies": len(found),
    }


def _forest(
    history: History, held: Held, device: str, since: float, until: float, moved: Drift
) -> tuple[int, list[float], dict[str, Any]]:
    """Log what the forest flags; how many readings were scored, new anomalies' times, drift."""
    names = held.model.meta["names"]
    found: list[float] = []
    times, seen = [np.empty(0)], [np.empty((0, len(names)))]
    for judged in judge(history, held, device, since, until):
        times.append(judged.times)
        seen.append(judged.values)
        flagged = judged.flagged()
        for first in range(0, len(flagged), ENTRIES):
            told = judged.of(flagged[first : first + ENTRIES])
            found += _log(
                device,
                "forest",
                [
                    (moment, score, SEVERITIES[severity], values, why, held.model_id)
                    for (moment, score, severity, values), why in zip(
                        told.rows(), told.reasons(), strict=True
                    )
                ],
            )
    at = np.concatenate(times)
    drifts = moved.look(held, names, at, np.concatenate(seen))
    return len(at), found, drifts


def _lstm(
    history: History,
    device: str,
    name: str,
    since: float,
    until: float,
    judged: dict[float, list[dict[str, Any]]],
    moved: Drift,
) -> tuple[float, dict[str, Any]]:
    """Add to `judged` what lies outside the stored forecast, store a fresh one.

    The device's interval, and the field's drift.
    """
    settings = history.settings
    level = float(settings["forecast_level"])
    points = backend.execute(queries.POINTS, device, name, since, until)
    ahead, held = look_ahead(device, name, None, level, until)
    meta = held.model.meta
    interval = float(meta["interval"])
    back = (series.MAX_GAP + 1) * interval
    metric = series.Metric(**meta["metric"])
    readings, values = series_of(
        history, device, since - back, until, metric, meta["totals"], interval
    )
    if points:
        _outside(points, name, readings.times, values, interval, judged)
    limit = json.loads(settings["forecast_limits"]).get(name)
    columns = (ahead.times, ahead.predicted, ahead.lower, ahead.upper)
    backend.execute(
        queries.PUT_FORECAST,
        *(device, name, level, limit, held.model_id, ahead.last_time),
        *(column.tolist() for column in columns),
    )
    late = readings.times > since
    return interval, moved.look(held, [name], readings.times[late], values[late, None])


def _outside(
    points: Any,
    name: str,
    times: Floats,
    values: Floats,
    interval: float,
    judged: dict[float, list[dict[str, Any]]],
) -> None:
    """Add the readings outside the interval forecast for the point nearest to them."""
    forecast_at = np.array([point["t"] for point in points])
    known = np.isfinite(values)
    known &= (times >= forecast_at[0] - interval) & (times <= forecast_at[-1] + interval)
    for moment, value in zip(times[known].tolist(), values[known].tolist(), strict=True):
        right = min(int(np.searchsorted(forecast_at, moment)), len(forecast_at) - 1)
        left = max(right - 1, 0)
        nearest = min(left, right, key=lambda i: abs(forecast_at[i] - moment))
        point = points[nearest]
        if abs(point["t"] - moment) > interval / 2 or point["lower"] <= value <= point["upper"]:
            continue
        side = point["upper"] if value > point["upper"] else point["lower"]
        half = abs(side - point["predicted"])
        distance = abs(value - point["predicted"]) / half if half > 0 else FARTHEST
        judged.setdefault(moment, []).append(
            {
                "metric": name,
                "value": backend.shown(value),
                "usual_low": backend.shown(point["lower"]),
                "usual_high": backend.shown(point["upper"]),
                "predicted": backend.shown(point["predicted"]),
                "contribution": round(min(distance, FARTHEST), 3),
                "model_id": point["model_id"],
            }
        )


def _log_outside(device: str, judged: dict[float, list[dict[str, Any]]]) -> list[float]:
    """Log the readings outside a forecast, one row for all fields of one time."""
    entries = []
    for moment, reasons in sorted(judged.items()):
        reasons.sort(key=lambda reason: -reason["contribution"])
        models = [reason.pop("model_id") for reason in reasons]
        worst = reasons[0]["contribution"]
        entries.append(
            (
                moment,
                -worst,
                SEVERITIES[1 + (worst >= CRITICAL)],
                {reason["metric"]: reason["value"] for reason in reasons},
                reasons,
                models[0],
            )
        )
    return _log(device, "lstm", entries) if entries else []


def _log(device: str, tier: str, entries: list[tuple[Any, ...]]) -> list[float]:
    """Add to the log of anomalies; the times of those that are new."""
    times, scores, severities, metrics, reasons, models = map(list, zip(*entries, strict=True))
    added = backend.execute(
        queries.PUT_ANOMALIES,
        *(device, tier, times, scores, severities),
        *([backend.to_json(one) for one in each] for each in (metrics, reasons)),
        models,
    )
    return [float(row["t"]) for row in added]
