"""The one module that knows `plpy`: reads the history, calls the models, stores them."""

import functools
import json
import math
import os
import platform
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import plpy
from numpy.typing import NDArray

from pyml import __version__, blob, forest, limits, queries, series, training
from pyml.errors import BadArgument, ModelNotFound, PymlError, UnreadableModel, translated
from pyml.history import (
    LONGEST_HOURS,
    Floats,
    History,
    bounds_of,
    enabled_metrics,
    iso,
    measured,
    no_numbers,
    series_of,
    window,
)
from pyml.queries import Query

if TYPE_CHECKING:
    from pyml import chart

P = ParamSpec("P")
T = TypeVar("T")
Row = tuple[Any, ...]

SEVERITIES = ("none", "warning", "critical")
# Memory that the models kept ready in one backend may take.
CACHE_BYTES = 6 << 20
# Share of the values that a forecast's interval shall cover where none is asked for.
LEVEL = 0.9


# ---- answers ---------------------------------------------------------------------


def _failure(error: Exception) -> dict[str, Any]:
    """An error as data: the door in SQL raises it without a Python traceback."""
    error = translated(error)
    if isinstance(error, PymlError):
        return error.told()
    data = getattr(error, "spidata", None) or (None, None, None)
    return {
        "sqlstate": getattr(error, "sqlstate", None) or "XX000",
        "message": str(error),
        "detail": data[1],
        "hint": data[2],
    }


def document(door: Callable[P, dict[str, Any]]) -> Callable[P, str]:
    """Make a door answer with JSON text, an error of the user's included."""

    @functools.wraps(door)
    def answer(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            found = door(*args, **kwargs)
        except (PymlError, plpy.SPIError, MemoryError) as error:
            found = {"error": _failure(error)}
        return _json(found)

    return answer


def rows(width: int) -> Callable[[Callable[P, list[Row]]], Callable[P, list[Row]]]:
    """Make a door answer with rows of `width` columns and one for an error of the user's."""

    def decorate(door: Callable[P, list[Row]]) -> Callable[P, list[Row]]:
        @functools.wraps(door)
        def answer(*args: P.args, **kwargs: P.kwargs) -> list[Row]:
            try:
                return [(*row, None) for row in door(*args, **kwargs)]
            except (PymlError, plpy.SPIError, MemoryError) as error:
                return [(*[None] * width, json.dumps(_failure(error)))]

        return answer

    return decorate


# ---- SQL -----------------------------------------------------------------------

_plans: dict[Query, Any] = {}


def _execute(query: Query, *args: Any) -> Any:
    """Rows of a prepared statement; its plan is kept for the session."""
    plan = _plans.get(query)
    if plan is None:
        if len(_plans) > 200:
            _plans.clear()
        plan = _plans[query] = plpy.prepare(query.text, list(query.types))
    return plpy.execute(plan, list(args))


def _history(context: Mapping[str, Any]) -> History:
    return History.of(context, _execute)


def _progress(what: str) -> training.Poll:
    """Tells how long a training goes; a cancel is heard there."""
    started = time.monotonic()
    return lambda: _execute(
        queries.PROGRESS, f"pyml: {what}, {time.monotonic() - started:.0f} s"[:63]
    )


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
    row = _execute(queries.EPOCHS, since, until)[0]
    return float(row["since"]), float(row["until"])


def _finite(name: str, moment: float) -> float:
    if not math.isfinite(moment):
        raise BadArgument(
            f"{name} is infinite",
            detail="It has to be a moment in time.",
            hint=f"Leave {name} out for now().",
        )
    return moment


# ---- models --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """The model in force for a device, kind and field, when it was looked up."""

    now: float
    model_id: int
    trained_at: float
    readings_used: int
    figures: dict[str, Any]
    model: blob.Model


_cache: OrderedDict[tuple[int, str], blob.Model] = OrderedDict()


def _model(model_id: int, sha256: str, kind: str) -> blob.Model:
    """A stored model, ready; kept for the session, the least used leaving first.

    Rows never change, so that what is kept cannot be stale.
    """
    key = (model_id, sha256)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    model = _cache[key] = training.stored(_execute, model_id, sha256, kind)
    while len(_cache) > 1 and sum(kept.size for kept in _cache.values()) > CACHE_BYTES:
        _cache.popitem(last=False)
    return model


def _training_call(device: str, kind: str, field: str) -> str:
    if kind == "forest":
        return f"SELECT ml_train_forest('{device}');"
    return f"SELECT ml_train_lstm('{device}', {queries.literal(field)});"


def _telling(hint: str, call: Callable[..., T], *args: Any) -> T:
    """What a call gives; of a model that cannot be read it says what to do."""
    try:
        return call(*args)
    except UnreadableModel as error:
        error.hint = hint
        raise


def _in_force(device: str, kind: str, field: str = "") -> tuple[History, Held]:
    """The history's description and the model in force.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    row = _execute(queries.CURRENT_MODEL, device, kind, field)[0]
    return _history(row), _held(row, device, kind, field)


def _held(row: Mapping[str, Any], device: str, kind: str, field: str) -> Held:
    """The model in force, of a row that tells of it."""
    if row["model_id"] is None:
        what = "forest" if kind == "forest" else f"forecast model of {field}"
        raise ModelNotFound(
            f"device {device} has no {what}",
            detail="None was trained for it, or it was dropped.",
            hint=_training_call(device, kind, field),
        )
    telling = functools.partial(_telling, _training_call(device, kind, field))
    model = telling(_model, row["model_id"], row["sha256"], kind)
    return Held(
        float(row["now"]),
        row["model_id"],
        float(row["trained_at"]),
        row["readings_used"],
        json.loads(row["figures"]),
        replace(model, run=functools.partial(telling, model.run)),
    )


def _kept(
    device: str,
    kind: str,
    field: str,
    trained: training.Trained,
    current: int | None,
    started: float,
) -> dict[str, Any]:
    """Put a training's model in force, or record that the current one stays; what it tells."""
    about = trained.about(time.monotonic() - started)
    if trained.data is None:
        model_id = current
        _record(device, kind, field, "kept", current, about)
    else:
        model_id = _store(device, kind, field, trained.data, about)
    return {
        "device_uuid": device,
        "model_id": model_id,
        **trained.told,
        "held_out": trained.figures,
        "seconds": round(time.monotonic() - started, 3),
    }


def _store(device: str, kind: str, field: str, data: bytes, about: Mapping[str, Any]) -> int:
    """Add a model and put it in force; readers see the old one or the new."""
    _execute(queries.LOCK_MODEL, device, kind, field)
    _execute(queries.RETIRE_MODEL, device, kind, field)
    stored = _execute(
        queries.INSERT_MODEL,
        *(device, kind, field, about["window_start"], about["window_end"]),
        *(about["readings_used"], about["readings_rejected"]),
        *(_json(about[name]) for name in ("parameters", "figures", "versions")),
        *(about["seconds"], data),
    )
    model_id = int(stored[0]["model_id"])
    _record(device, kind, field, "trained", model_id, about)
    return model_id


def _record(
    device: str,
    kind: str,
    field: str,
    outcome: str,
    model_id: int | None,
    about: Mapping[str, Any],
) -> None:
    _execute(
        queries.INSERT_RUN,
        *(device, kind, field, about["seconds"], outcome, model_id, _json(about["figures"])),
        *(None, None),
    )


@document
def store_model(
    device: str, kind: str, field: str, data: bytes, about: str, replaces: int | None
) -> dict[str, Any]:
    """Door of ``ml_store_model``."""
    _given(device=device, kind=kind, field=field, blob=data, about=about)
    told = json.loads(about)
    if not limits.ABOUT(told):
        raise BadArgument(
            "about is of another form",
            detail=f"It has {', '.join(limits.ABOUT_NAMES)}.",
            hint="SELECT * FROM ml_model LIMIT 1;",
        )
    model = _telling(_training_call(device, kind, field), blob.load, data, kind)
    named = model.meta["metric"]["name"] if kind == "lstm" else ""
    if field != named:
        raise BadArgument(
            f"the model is not of field {field!r}",
            detail=f"It says {named!r}; a forest's field is empty.",
            hint=f"Pass field => {queries.literal(named)}.",
        )
    _execute(queries.LOCK_MODEL, device, kind, field)
    current = _execute(queries.CURRENT_MODEL, device, kind, field)[0]["model_id"]
    if current != replaces:
        return {"model_id": current, "accepted": False}
    return {"model_id": _store(device, kind, field, data, told), "accepted": True}


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} has no place in a document")


# One for all: json.dumps makes an encoder at each call, which costs more than a row's numbers.
_encoder = json.JSONEncoder(allow_nan=False, default=_plain)


def _json(value: Any) -> str:
    """JSON text; a number that is none would not be JSON and is an error."""
    return _encoder.encode(value)


# ---- Isolation Forest ----------------------------------------------------------


@document
def train_forest(
    device: str, hours: int, as_of: str, contamination: float | None
) -> dict[str, Any]:
    """Door of ``ml_train_forest``."""
    started = time.monotonic()
    _given(device=device, hours=hours, as_of=as_of)
    _within("hours", hours, 1, LONGEST_HOURS)
    history = _history(_execute(queries.CONTEXT)[0])
    share = float(history.settings["contamination"]) if contamination is None else contamination
    _within("contamination", share, 0.0001, 0.2)
    until = _finite("as_of", _moments(as_of, as_of)[1])
    trained = training.train_forest(
        history,
        enabled_metrics(_execute),
        device,
        hours=hours,
        until=until,
        contamination=share,
        poll=_progress("training forest"),
    )
    return _kept(device, "forest", "", trained, None, started)


@dataclass(frozen=True, slots=True)
class Judged:
    """The readings of a window, n of them, and what the forest says of each."""

    held: Held
    times: Floats
    values: Floats
    described: forest.Described
    scores: forest.Scores
    readings: series.Readings

    def flagged(self) -> NDArray[np.intp]:
        """Which of them are anomalous."""
        return np.flatnonzero(self.scores.severity)

    def reasons(self, rows: NDArray[np.intp]) -> list[list[dict[str, Any]]]:
        """Why some of them are."""
        model = self.held.model
        return forest.explain(model.meta, model.run, self.described.of(rows), self.values[rows])


def _judged(history: History, held: Held, device: str, since: float, until: float) -> Judged:
    """The readings of a window; those before it that features look back to are read too."""
    meta = held.model.meta
    metrics = [series.Metric(**entry) for entry in meta["metrics"]]
    back = meta["lookback"] + (series.MAX_GAP + 1) * meta["interval"]
    readings, values, _ = measured(history, device, since - back, until, metrics, meta["interval"])
    inside = np.flatnonzero((readings.times > since) & np.isfinite(values).any(axis=1))
    described = forest.describe(meta, readings.times, values, inside)
    scores = forest.score(meta, held.model.run, described)
    return Judged(held, readings.times[inside], values[inside], described, scores, readings)


def _named(names: Sequence[str], values: Floats) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None
        for name, value in zip(names, values.tolist(), strict=True)
    }


@document
def detect(device: str, hours: int, max_anomalies: int) -> dict[str, Any]:
    """Door of ``ml_detect``."""
    _given(device=device, hours=hours, max_anomalies=max_anomalies)
    _within("hours", hours, 1, LONGEST_HOURS)
    _within("max_anomalies", max_anomalies, 0, 1_000_000)
    history, held = _in_force(device, "forest")
    judged = _judged(history, held, device, held.now - hours * 3600, held.now)
    meta, scores = held.model.meta, judged.scores
    flagged = judged.flagged()
    told = flagged[::-1][:max_anomalies]
    anomalies = [
        {
            "timestamp": iso(judged.times[row]),
            "is_anomaly": True,
            "anomaly_score": float(scores.anomaly_score[row]),
            "severity": SEVERITIES[scores.severity[row]],
            **_named(meta["names"], judged.values[row]),
            "reasons": why,
        }
        for row, why in zip(told, judged.reasons(told), strict=True)
    ]
    return {
        "device_uuid": device,
        "analyzed_points": len(judged.times),
        "anomalies_detected": len(flagged),
        "anomalies": anomalies,
        "model_info": {
            "model_id": held.model_id,
            "trained_at": iso(held.trained_at),
            "training_samples": held.readings_used,
            "features": meta["names"],
            "warning_below": meta["warning"],
            "critical_below": meta["critical"],
            "rejected_samples": judged.readings.rejected,
            "repeated_samples": judged.readings.repeated,
        },
    }


@rows(6)
def score(device: str, since: str, until: str) -> list[Row]:
    """Door of ``ml_score``."""
    _given(device=device, since=since, until=until)
    first, last = _moments(since, until)
    history, held = _in_force(device, "forest")
    judged = _judged(history, held, device, first, last)
    names, flagged = held.model.meta["names"], judged.flagged()
    reasons = dict(zip(flagged.tolist(), judged.reasons(flagged), strict=True))
    return [
        (
            moment,
            anomaly_score,
            severity > 0,
            SEVERITIES[severity],
            _json(_named(names, values)),
            _json(reasons.get(row, [])),
        )
        for row, (moment, anomaly_score, severity, values) in enumerate(
            zip(
                judged.times.tolist(),
                judged.scores.anomaly_score.tolist(),
                judged.scores.severity.tolist(),
                judged.values,
                strict=True,
            )
        )
    ]


# ---- LSTM ----------------------------------------------------------------------


@document
def train_lstm(device: str, field: str, hours: int, as_of: str) -> dict[str, Any]:
    """Door of ``ml_train_lstm``."""
    started = time.monotonic()
    _given(device=device, field=field, hours=hours, as_of=as_of)
    _within("hours", hours, 1, LONGEST_HOURS)
    if not 1 <= len(field) <= limits.LONGEST_TEXT:
        raise BadArgument(
            f"field has {len(field)} characters",
            detail=f"A path or a metric's name has 1 to {limits.LONGEST_TEXT}.",
            hint="SELECT name, path FROM ml_metric;",
        )
    row = _execute(queries.CURRENT_MODEL, device, "lstm", field)[0]
    until = _finite("as_of", _moments(as_of, as_of)[1])
    trained = training.train_lstm(
        _history(row),
        enabled_metrics(_execute),
        device,
        field,
        hours=hours,
        until=until,
        bounds=bounds_of(_execute, field),
        in_force=training.in_force(row, _model),
        poll=_progress(f"training lstm {field}"),
    )
    answer = _kept(device, "lstm", field, trained, row["model_id"], started)
    if not trained.figures["beats_naive"]:
        plpy.notice(
            f"the forecast of {field} is no better than a naive one: "
            f"mean absolute error {trained.figures['mae']:.4g}"
        )
    return answer | {"field": field}


def _forecast(
    device: str, field: str, horizon: int | None, level: float, until: float | None
) -> tuple[Any, Held]:
    """A forecast of one field from the last reading up to a moment or now, and its model."""
    from pyml import lstm

    history, held = _in_force(device, "lstm", field)
    until = held.now if until is None else until
    meta = held.model.meta
    metric, interval = series.Metric(**meta["metric"]), meta["interval"]
    spare = (series.MAX_GAP + 1) * interval
    back = lstm.lookback(meta) + spare

    def read(end: float) -> series.Grid:
        readings, values = series_of(
            history, device, end - back, end, metric, meta["totals"], interval
        )
        return series.regular(readings.times, values, interval)

    grid = read(until)
    # The forecast of a stale device goes on from its last reading.
    last = float(grid.times[-1]) if len(grid.times) else history.last(device, until, metric.path)
    if last is not None and until - last > spare:
        grid = read(last)
    if not len(grid.values):
        raise no_numbers(history, device, metric, until - back, until)
    return (
        lstm.forecast(meta, held.model.run, grid.times, grid.values, horizon=horizon, level=level),
        held,
    )


@document
def forecast(device: str, field: str, horizon: int | None) -> dict[str, Any]:
    """Door of ``ml_forecast``."""
    _given(device=device, field=field)
    ahead, held = _forecast(device, field, horizon, LEVEL, None)
    figures = held.figures
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
                *(c.tolist() for c in (ahead.times, ahead.predicted, ahead.lower, ahead.upper)),
                strict=True,
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
            **{key: figures.get(key) for key in ("mae", "mase", "beats_naive", "coverage")},
        },
    }


@rows(4)
def predict(device: str, field: str, horizon: int | None, level: float, as_of: str) -> list[Row]:
    """Door of ``ml_predict``."""
    _given(device=device, field=field, level=level, as_of=as_of)
    until = _finite("as_of", _moments(as_of, as_of)[1])
    ahead, _ = _forecast(device, field, horizon, level, until)
    columns = (ahead.times, ahead.predicted, ahead.lower, ahead.upper)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ---- the picture ---------------------------------------------------------------


@document
def draw(device: str, field: str, hours: int) -> dict[str, Any]:
    """Door of ``ml_chart``: what a model is missing for is said in the picture, not refused."""
    from pyml import chart

    _given(device=device, field=field, hours=hours)
    _within("hours", hours, 1, LONGEST_HOURS)
    history = _history(_execute(queries.CONTEXT)[0])
    session = _execute(queries.SESSION)[0]
    until = float(session["until"])
    since = until - hours * 3600
    known = enabled_metrics(_execute)
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
    percent = bounds_of(_execute, field) == (0, 100)
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
    )
    return {"svg": picture}


def _marks(
    device: str, since: float, until: float, at: Floats, values: Floats
) -> "list[chart.Mark]":
    """What the forest in force flags, at the value that the picture has nearest to it."""
    from pyml import chart

    history, held = _in_force(device, "forest")
    judged = _judged(history, held, device, since, until)
    flagged, scores = judged.flagged(), judged.scores
    shown = np.flatnonzero(np.isfinite(values))
    nearest = [shown[np.abs(at[shown] - moment).argmin()] for moment in judged.times[flagged]]
    return [
        chart.Mark(
            float(judged.times[row]),
            float(values[place]),
            SEVERITIES[scores.severity[row]],
            float(scores.anomaly_score[row]),
            why,
        )
        for row, place, why in zip(flagged.tolist(), nearest, judged.reasons(flagged), strict=True)
    ]


def _ahead(device: str, field: str, known: Sequence[series.Metric], until: float) -> "chart.Ahead":
    """The forecast of a field, whichever of its names the model was trained under."""
    from pyml import chart

    plain = [m for m in known if m.divisor_path is None and m.scale == 1 and m.kind == "gauge"]
    other = {m.name: m.path for m in plain} | {m.path: m.name for m in plain}
    try:
        found, _ = _forecast(device, field, None, LEVEL, until)
    except ModelNotFound as missing:
        try:
            found, _ = _forecast(device, other[field], None, LEVEL, until)
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
