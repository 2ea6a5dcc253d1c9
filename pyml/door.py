"""The doors: what each function in SQL calls."""

import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyml import __version__, backend, blob, limits, queries, series, store, training
from pyml.backend import Row, document, rows
from pyml.errors import BadArgument, ModelNotFound, PymlError
from pyml.history import LONGEST_HOURS, Floats, bounds_of, iso, metrics_of, window
from pyml.scoring import SEVERITIES, Judged, judge, look_ahead

if TYPE_CHECKING:
    from pyml import chart

# Share of the values that a forecast's interval shall cover where none is asked for.
LEVEL = 0.9


# ---- arguments -----------------------------------------------------------------


def _given(**arguments: Any) -> None:
    """Refuse NULL for arguments that have no meaning without a value."""
    for name, value in arguments.items():
        if value is None:
            raise BadArgument(
                f"{name} is null",
                detail="It has to be given.",
                hint="SELECT device_uuid FROM ml_device_status;"
                if name == "device"
                else f"Leave {name} out for its default.",
            )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise BadArgument(
            f"{name} {value:g} is out of range",
            detail=f"It has to be from {low:g} to {high:g}.",
            hint=f"Pass {name} => a value in that range, or leave it out for its default.",
        )


def _moments(since: str, until: str) -> tuple[float, float]:
    """Two timestamptz arguments as seconds since the epoch."""
    row = backend.execute(queries.EPOCHS, since, until)[0]
    return float(row["since"]), float(row["until"])


def _finite(name: str, moment: float) -> float:
    if not math.isfinite(moment):
        raise BadArgument(
            f"{name} is infinite",
            detail="It has to be a moment in time.",
            hint=f"Leave {name} out for now().",
        )
    return moment


# ---- models trained elsewhere --------------------------------------------------


@document
def store_model(
    device: str, kind: str, field: str, data: bytes, about: str, replaces: int | None
) -> dict[str, Any]:
    """Door of ``ml_store_model``."""
    _given(device=device, kind=kind, field=field, blob=data, about=about)
    told = limits.parsed(about)
    if not limits.ABOUT(told):
        raise BadArgument(
            "about is of another form",
            detail=f"It has {', '.join(limits.ABOUT_NAMES)}; parameters of at most"
            f" {limits.LONGEST_PARAMETERS} characters, figures and versions of"
            f" {limits.LONGEST_FIGURES}.",
            hint="SELECT * FROM ml_model LIMIT 1;",
        )
    model = store.telling(store.training_call(device, kind, field), None, blob.load, data, kind)
    said = model.meta["metric"]["name"] if kind == "lstm" else ""
    if field != said:
        raise BadArgument(
            f"the model is not of field {field!r}",
            detail=f"It says {said!r}; a forest's field is empty.",
            hint=f"Pass field => {queries.literal(said)}.",
        )
    backend.execute(queries.LOCK_MODEL, device, kind, field)
    current = backend.execute(queries.CURRENT_MODEL, device, kind, field)[0]["model_id"]
    if current != replaces:
        return {"model_id": current, "accepted": False}
    return {"model_id": store.put(device, kind, field, data, told), "accepted": True}


# ---- Isolation Forest ----------------------------------------------------------


@document
def train_forest(
    device: str, hours: int | None, as_of: str, contamination: float | None
) -> dict[str, Any]:
    """Door of ``ml_train_forest``."""
    started = time.monotonic()
    _given(device=device, as_of=as_of)
    if hours is not None:
        _within("hours", hours, 1, LONGEST_HOURS)
    if contamination is not None:
        _within("contamination", contamination, 0.0001, 0.2)
    history = backend.history_of(backend.execute(queries.CONTEXT)[0])
    until = _finite("as_of", _moments(as_of, as_of)[1])
    trained = training.train_forest(
        history,
        metrics_of(backend.execute, enabled=True),
        device,
        hours=hours,
        until=until,
        contamination=contamination,
        poll=backend.progress("training forest"),
    )
    answer: dict[str, Any] = backend.shown(store.keep(device, "forest", "", trained, None, started))
    return answer


@document
def detect(device: str, hours: int, max_anomalies: int) -> dict[str, Any]:
    """Door of ``ml_detect``."""
    _given(device=device, hours=hours, max_anomalies=max_anomalies)
    _within("hours", hours, 1, LONGEST_HOURS)
    _within("max_anomalies", max_anomalies, 0, 1_000_000)
    history, held = store.in_force(device, "forest")
    meta = held.model.meta
    analyzed = rejected = repeated = detected = 0
    found: list[Judged] = []
    for judged in judge(history, held, device, held.now - hours * 3600, held.now):
        analyzed += len(judged.times)
        rejected += judged.rejected
        repeated += judged.repeated
        flagged = judged.flagged()
        detected += len(flagged)
        found.append(judged.of(flagged))
    anomalies: list[dict[str, Any]] = []
    for judged in reversed(found):  # the newest first
        told = judged.of(np.arange(len(judged.times))[::-1][: max_anomalies - len(anomalies)])
        anomalies += [
            {
                **values,  # first: no metric hides what follows
                "timestamp": iso(moment),
                "is_anomaly": True,
                "anomaly_score": score,
                "severity": SEVERITIES[severity],
                "reasons": why,
            }
            for (moment, score, severity, values), why in zip(
                told.rows(), told.reasons(), strict=True
            )
        ]
    return {
        "device_uuid": device,
        "analyzed_points": analyzed,
        "anomalies_detected": detected,
        "anomalies": anomalies,
        "model_info": {
            "model_id": held.model_id,
            "trained_at": iso(held.trained_at),
            "training_samples": held.readings_used,
            "features": meta["names"],
            "warning_below": backend.shown(meta["warning"]),
            "critical_below": backend.shown(meta["critical"]),
            "rejected_samples": rejected,
            "repeated_samples": repeated,
        },
    }


@rows(6)
def score(device: str, since: str, until: str) -> Iterator[Row]:
    """Door of ``ml_score``."""
    _given(device=device, since=since, until=until)
    first, last = _moments(since, until)
    history, held = store.in_force(device, "forest")
    for judged in judge(history, held, device, first, last):
        reasons = iter(judged.of(judged.flagged()).reasons())
        for moment, anomaly_score, severity, values in judged.rows():
            why = backend.to_json(next(reasons)) if severity else "[]"
            metrics = backend.to_json(values)
            yield moment, anomaly_score, severity > 0, SEVERITIES[severity], metrics, why


# ---- LSTM ----------------------------------------------------------------------


@document
def train_lstm(device: str, field: str, hours: int | None, as_of: str) -> dict[str, Any]:
    """Door of ``ml_train_lstm``."""
    started = time.monotonic()
    _given(device=device, field=field, as_of=as_of)
    if hours is not None:
        _within("hours", hours, 1, LONGEST_HOURS)
    if not limits.path(field):
        raise BadArgument(
            f"field has {len(field)} characters in {field.count('.') + 1} parts",
            detail=f"A path or a metric's name has 1 to {limits.LONGEST_TEXT} characters, in"
            f" {limits.MOST_PARTS} parts at most.",
            hint="SELECT name, path FROM ml_metric;",
        )
    row = backend.execute(queries.CURRENT_MODEL, device, "lstm", field)[0]
    until = _finite("as_of", _moments(as_of, as_of)[1])
    trained = training.train_lstm(
        backend.history_of(row),
        metrics_of(backend.execute),
        device,
        field,
        hours=hours,
        until=until,
        bounds=bounds_of(backend.execute, field),
        in_force=training.in_force(row, field, store.ready),
        poll=backend.progress(f"training lstm {field}"),
    )
    kept = store.keep(device, "lstm", field, trained, row["model_id"], started)
    answer: dict[str, Any] = backend.shown(kept | {"field": field})
    if not trained.figures["beats_naive"]:
        backend.notice(
            f"the forecast of {field} is no better than a naive one: "
            f"mean absolute error {trained.figures['mae']:.4g}"
        )
    return answer


@document
def forecast(device: str, field: str, horizon: int | None) -> dict[str, Any]:
    """Door of ``ml_forecast``."""
    _given(device=device, field=field)
    ahead, held = look_ahead(device, field, horizon, LEVEL, None)
    columns = (ahead.predicted, ahead.lower, ahead.upper)
    return {
        "device_uuid": device,
        "field": field,
        "predictions": [
            {
                "timestamp": iso(moment),
                "predicted_value": predicted,
                "confidence_lower": lower,
                "confidence_upper": upper,
            }
            for moment, predicted, lower, upper in zip(
                ahead.times.tolist(), *(backend.shown(c).tolist() for c in columns), strict=True
            )
        ],
        "model_info": {
            "model_id": held.model_id,
            "trained_at": iso(held.trained_at),
            "training_samples": held.readings_used,
            "sequence_length": held.model.meta["sequence_length"],
            "forecast_horizon": held.model.meta["horizon"],
            "level": LEVEL,
            "interval_from": ahead.replayed,
            "last_reading": iso(ahead.last_time),
            "last_reading_age_seconds": round(held.now - ahead.last_time, 1),
            **held.told(),
        },
    }


@rows(4)
def predict(
    device: str, field: str, horizon: int | None, level: float, as_of: str
) -> Iterator[Row]:
    """Door of ``ml_predict``."""
    _given(device=device, field=field, level=level, as_of=as_of)
    until = _finite("as_of", _moments(as_of, as_of)[1])
    ahead, _ = look_ahead(device, field, horizon, level, until)
    columns = (ahead.predicted, ahead.lower, ahead.upper)
    told = (backend.shown(column).tolist() for column in columns)
    yield from zip(ahead.times.tolist(), *told, strict=True)


# ---- the picture ---------------------------------------------------------------


@document
def draw(device: str, field: str, hours: int) -> dict[str, Any]:
    """Door of ``ml_chart``: what a model is missing for is said in the picture, not refused."""
    from pyml import chart

    _given(device=device, field=field, hours=hours)
    _within("hours", hours, 1, LONGEST_HOURS)
    history = backend.history_of(backend.execute(queries.CONTEXT)[0])
    session = backend.execute(queries.SESSION)[0]
    until = float(session["until"])
    since = until - hours * 3600
    known = metrics_of(backend.execute)
    metric, _, readings, values = window(history, device, since, until, field, known)
    marks: list[chart.Mark] = []
    ahead: chart.Ahead | None = None
    notes: list[str] = []
    try:
        marks = _marks(device, since, until, readings.times, values)
    except PymlError as error:
        notes += [f"No anomalies: {error.message}.", error.hint or ""]
    try:
        ahead = _ahead(device, field, known, until)
    except PymlError as error:
        notes += [f"No forecast: {error.message}.", error.hint or ""]
    percent = bounds_of(backend.execute, field) == (0, 100)
    step = series.MAX_GAP * series.typical_interval(readings.times)
    picture = chart.draw(
        readings.times,
        values,
        title=f"{field}, last {hours} h",
        subtitle=f"device {device}",
        unit="%" if percent else "per second" if metric.kind == "counter" else "",
        window=(since, until),
        longest_step=step,
        zone=chart.zone_of(session["zone"]),
        marks=marks,
        ahead=ahead,
        notes=notes,
        pulse=backend.pulse,
    )
    return {"svg": picture}


def _marks(
    device: str, since: float, until: float, at: Floats, values: Floats
) -> "list[chart.Mark]":
    """What the forest in force flags, at the value that the picture has nearest to it."""
    from pyml import chart

    history, held = store.in_force(device, "forest")
    known = np.isfinite(values)
    at, values = at[known], values[known]
    marks = []
    for judged in judge(history, held, device, since, until):
        told = judged.of(judged.flagged())
        right = np.clip(np.searchsorted(at, told.times), 1, len(at) - 1) if len(at) > 1 else 0
        left = np.maximum(right - 1, 0)
        nearer = np.abs(at[left] - told.times) <= np.abs(at[right] - told.times)
        nearest = values[np.where(nearer, left, right)]
        marks += [
            chart.Mark(moment, value, SEVERITIES[severity], score, why)
            for value, (moment, score, severity, _), why in zip(
                nearest.tolist(), told.rows(), told.reasons(), strict=True
            )
        ]
    return marks


def _ahead(device: str, field: str, known: Sequence[series.Metric], until: float) -> "chart.Ahead":
    """The forecast of a field, whichever of its names the model was trained under."""
    from pyml import chart

    plain = [m for m in known if m.divisor_path is None and m.scale == 1 and m.kind == "gauge"]
    other = {m.name: m.path for m in plain} | {m.path: m.name for m in plain}
    try:
        found, _ = look_ahead(device, field, None, LEVEL, until)
    except ModelNotFound as missing:
        try:
            found, _ = look_ahead(device, other[field], None, LEVEL, until)
        except (KeyError, ModelNotFound):
            raise missing from None
    return chart.Ahead(found.times, found.predicted, found.lower, found.upper, LEVEL)


# ---- health --------------------------------------------------------------------


@document
def environment() -> dict[str, Any]:
    """What this session's Python is made of."""
    libraries = training.versions()
    return {
        "python": platform.python_version(),
        "version": __version__,
        "site": os.path.dirname(os.path.dirname(__file__)),
        "libraries": libraries,
        "missing": [name for name, version in libraries.items() if version is None],
    }
