"""What each function in SQL calls."""

import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyml import __version__, in_force, queries, training
from pyml.detectors.base import DETECTORS, SEVERITIES, Finder, Judge, judge
from pyml.errors import BadArgument
from pyml.forecasters.base import FORECASTERS, Forecaster
from pyml.forms import LONGEST_TEXT, MOST_PARTS, parsed, path
from pyml.models import blob
from pyml.models.about import ABOUT, LONGEST_FIGURES, LONGEST_PARAMETERS, is_about, versions
from pyml.paths import parts_of
from pyml.server import arguments, backend, fields, scoring, store
from pyml.server.backend import Row, document, rows
from pyml.server.rarity import Rarity
from pyml.server.scoring import Scored, forecast_of
from pyml.telemetry.history import LONGEST_HOURS, iso
from pyml.telemetry.window import metrics_of


def _forest() -> Judge[Any]:
    return judge("forest")


def _lstm() -> Forecaster[Any]:
    return FORECASTERS["lstm"]


# ---- kinds -----------------------------------------------------------------------


@rows
def kinds() -> Iterator[Row]:
    """``_ml_kinds``: whether a kind detects, or pools, and the settings that its models follow.

    Without finders, which are trained with the forest.
    """
    for owner in (*(one for one in DETECTORS if not isinstance(one, Finder)), *FORECASTERS):
        settings = {name: setting for name, (setting, _) in owner.settings.items()}
        pools = isinstance(owner, Forecaster) and owner.pools
        yield owner.kind, owner.kind in DETECTORS, pools, backend.to_json(settings)


@document
def train(device: str, kind: str, field: str) -> dict[str, Any]:
    """``_ml_train``: what is due, with the arguments that a person gave before."""
    started = time.monotonic()
    row = backend.execute(queries.CURRENT_MODEL, device, kind, field)[0]
    poll = backend.progress(" ".join(filter(None, ["training", kind, field])))
    history = backend.history_of(row)
    trained = training.train(backend.execute, store.ready, history, device, kind, field, row, poll)
    answer: dict[str, Any] = backend.shown(
        store.keep(history, device, kind, field, trained, row["model_id"], started)
    )
    return answer


# ---- models trained elsewhere --------------------------------------------------


@document
def store_model(
    device: str, kind: str, field: str, data: bytes, about: str, replaces: int | None
) -> dict[str, Any]:
    """``ml_store_model``."""
    arguments.given(device=device, kind=kind, field=field, blob=data, about=about)
    beside = parsed(about)
    if not is_about(beside):
        raise BadArgument(
            "about is of another form",
            detail=f"It has {', '.join(ABOUT)}; parameters of at most"
            f" {LONGEST_PARAMETERS} characters, figures and versions of"
            f" {LONGEST_FIGURES}.",
            hint="SELECT * FROM ml_model LIMIT 1;",
        )
    owner = training.owner_of(kind)
    if owner is None:
        known = sorted(each.kind for each in (*DETECTORS, *FORECASTERS))
        raise BadArgument(
            f"there is no kind {kind}",
            detail=f"Known are {', '.join(known)}.",
            hint=f"Pass kind => {queries.literal(known[0])}.",
        )
    model = store.naming(owner.training_call(device, field), None, blob.load, owner, data)
    said = "" if kind in DETECTORS else model.knows.metric.name
    if field != said:
        raise BadArgument(
            f"the model is not of field {field!r}",
            detail=f"It says {said!r}; a detector's field is empty.",
            hint=f"Pass field => {queries.literal(said)}.",
        )
    backend.execute(queries.LOCK_MODEL, device, kind, field)
    current = backend.execute(queries.CURRENT_MODEL, device, kind, field)[0]["model_id"]
    if current != replaces:
        return {"model_id": current, "accepted": False}
    return {"model_id": store.put(device, kind, field, data, beside), "accepted": True}


# ---- Isolation Forest ----------------------------------------------------------


@document
def train_forest(
    device: str, hours: int | None, as_of: str, contamination: float | None
) -> dict[str, Any]:
    """``ml_train_forest``."""
    started = time.monotonic()
    arguments.given(device=device, as_of=as_of)
    if hours is not None:
        arguments.within("hours", hours, 1, LONGEST_HOURS)
    if contamination is not None:
        arguments.within("contamination", contamination, 0.0001, 0.2)
    history = backend.history_of(backend.execute(queries.CONTEXT)[0])
    until = arguments.finite("as_of", arguments.moments(as_of, as_of)[1])
    trained = training.train_detector(
        _forest(),
        history,
        metrics_of(backend.execute, enabled=True),
        device,
        given=arguments.chosen(hours=hours, contamination=contamination),
        until=until,
        poll=backend.progress("training forest"),
    )
    kept = store.keep(history, device, _forest().kind, "", trained, None, started)
    share = {"contamination": trained.parameters["contamination"]}
    answer: dict[str, Any] = backend.shown(kept | share)
    left_out: dict[str, str] = trained.details["left_out"]
    if left_out:
        words = "; ".join(f"{name} ({why})" for name, why in left_out.items())
        backend.notice(f"not in the model: {words}; see the view ml_signals")
    return answer


@document
def detect(device: str, hours: int, max_anomalies: int) -> dict[str, Any]:
    """``ml_detect``."""
    arguments.given(device=device, hours=hours, max_anomalies=max_anomalies)
    arguments.within("hours", hours, 1, LONGEST_HOURS)
    arguments.within("max_anomalies", max_anomalies, 0, 1_000_000)
    history, current = store.current(_forest(), device)
    knows = current.knows
    analyzed = rejected = repeated = detected = 0
    found: list[Scored] = []
    since = current.now - hours * 3600
    for scored in scoring.score(_forest(), history, current, device, since, current.now):
        analyzed += len(scored.found.times)
        ledger = scored.readings.ledger(scored.since)
        rejected += ledger.rejected
        repeated += ledger.merged
        flagged = scored.flagged()
        detected += len(flagged)
        found.append(scored.of(flagged))
    anomalies: list[dict[str, Any]] = []
    rarity = Rarity.of(_forest().kind, current.model_id)
    for scored in reversed(found):  # the newest first
        newest = np.arange(len(scored.found.times))[::-1]
        some = scored.of(newest[: max_anomalies - len(anomalies)])
        anomalies += [
            {
                **values,  # first: no metric hides what follows
                "timestamp": iso(moment),
                "is_anomaly": True,
                "anomaly_score": score,
                "severity": SEVERITIES[severity],
                "rarity": hours_between,
                "reasons": why,
            }
            for (moment, score, severity, values), why, hours_between in zip(
                some.rows(), some.reasons(), rarity.hours(some.found.scores), strict=True
            )
        ]
    return {
        "device_uuid": device,
        "device_id": current.device_id,
        "analyzed_points": analyzed,
        "anomalies_detected": detected,
        "anomalies": anomalies,
        "units": fields.units_of(knows.names),
        "model_info": {
            "model_id": current.model_id,
            "trained_at": iso(current.trained_at),
            "training_samples": current.readings_used,
            "features": list(knows.names),
            "warning_below": backend.shown(knows.warning),
            "critical_below": backend.shown(knows.critical),
            "rarity_from": rarity.basis(),
            "rejected_samples": rejected,
            "repeated_samples": repeated,
        },
    }


@rows
def score(device: str, since: str, until: str) -> Iterator[Row]:
    """``ml_score``."""
    arguments.given(device=device, since=since, until=until)
    first, last = arguments.moments(since, until)
    history, current = store.current(_forest(), device)
    for scored in scoring.score(_forest(), history, current, device, first, last):
        reasons = iter(scored.of(scored.flagged()).reasons())
        for moment, anomaly_score, severity, values in scored.rows():
            why = backend.to_json(next(reasons)) if severity else "[]"
            metrics = backend.to_json(values)
            yield moment, anomaly_score, severity > 0, SEVERITIES[severity], metrics, why


# ---- LSTM ----------------------------------------------------------------------


@document
def train_lstm(device: str, field: str | None, hours: int | None, as_of: str) -> dict[str, Any]:
    """``ml_train_lstm``."""
    started = time.monotonic()
    arguments.given(device=device, as_of=as_of)
    if hours is not None:
        arguments.within("hours", hours, 1, LONGEST_HOURS)
    until = arguments.finite("as_of", arguments.moments(as_of, as_of)[1])
    if field is None:
        history = backend.history_of(backend.execute(queries.CONTEXT)[0])
        longest = 3600 * (hours or int(history.settings_of(device)["training_hours"]))
        field = fields.reported(history, device, until - longest, until)
    if not path(field):
        raise BadArgument(
            f"field has {len(field)} characters in {len(parts_of(field))} parts",
            detail=f"A path or a metric's name has 1 to {LONGEST_TEXT} characters, in"
            f" {MOST_PARTS} parts at most.",
            hint="SELECT name, path FROM ml_metric;",
        )
    row = backend.execute(queries.CURRENT_MODEL, device, _lstm().kind, field)[0]
    history = backend.history_of(row)
    trained = training.train_forecaster(
        _lstm(),
        history,
        metrics_of(backend.execute),
        device,
        field,
        given=arguments.chosen(hours=hours),
        until=until,
        current=in_force.usable(_lstm(), row, field, store.ready),
        fleet=in_force.fleets(backend.execute, _lstm(), field, store.ready),
        poll=backend.progress(f"training lstm {field}"),
    )
    kept = store.keep(history, device, _lstm().kind, field, trained, row["model_id"], started)
    length = {"sequence_length": trained.parameters["sequence_length"]}
    answer: dict[str, Any] = backend.shown(kept | length | {"field": field})
    if trained.instead is not None:
        backend.notice(
            f"the fleet's model forecasts {field} as well, and is in force: mean absolute error"
            f" {trained.figures['fleet_mae']:.4g}, of the device's own {trained.figures['mae']:.4g}"
        )
    elif not trained.figures["beats_naive"]:
        backend.notice(
            f"the forecast of {field} is no better than a naive one: "
            f"mean absolute error {trained.figures['mae']:.4g}"
        )
    return answer


@document
def forecast(device: str, field: str | None, horizon: int | None) -> dict[str, Any]:
    """``ml_forecast``."""
    arguments.given(device=device)
    ahead, current = forecast_of(_lstm(), device, field, horizon, scoring.LEVEL, None)
    columns = (ahead.predicted, ahead.lower, ahead.upper)
    field = current.knows.metric.name
    return {
        "device_uuid": device,
        "device_id": current.device_id,
        "field": field,
        "unit": fields.unit_of(field),
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
            "model_id": current.model_id,
            "trained_at": iso(current.trained_at),
            "training_samples": current.readings_used,
            "scope": "fleet" if current.of_fleet else "device",
            "sequence_length": current.knows.sequence_length,
            "forecast_horizon": current.knows.horizon,
            "level": scoring.LEVEL,
            "interval_from": ahead.replayed,
            "last_reading": iso(ahead.last_time),
            "last_reading_age_seconds": round(current.now - ahead.last_time, 1),
            **backend.shown(current.shown_figures()),
        },
    }


@rows
def predict(
    device: str, field: str, horizon: int | None, level: float, as_of: str
) -> Iterator[Row]:
    """``ml_predict``."""
    arguments.given(device=device, field=field, level=level, as_of=as_of)
    until = arguments.finite("as_of", arguments.moments(as_of, as_of)[1])
    ahead, _ = forecast_of(_lstm(), device, field, horizon, level, until)
    columns = (ahead.predicted, ahead.lower, ahead.upper)
    shown = (backend.shown(column).tolist() for column in columns)
    yield from zip(ahead.times.tolist(), *shown, strict=True)


# ---- the picture ---------------------------------------------------------------


def draw(device: str, field: str | None, hours: int) -> str:
    """``ml_chart``. Most sessions never draw, and need not load what does."""
    from pyml.server import picture

    return picture.draw(device, field, hours)


# ---- health --------------------------------------------------------------------


@document
def environment() -> dict[str, Any]:
    """What this session's Python is made of."""
    libraries = versions()
    return {
        "python": platform.python_version(),
        "version": __version__,
        "site": os.path.dirname(os.path.dirname(__file__)),
        "libraries": libraries,
        "missing": [name for name, version in libraries.items() if version is None],
    }
