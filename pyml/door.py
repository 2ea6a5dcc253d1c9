"""The one module that knows `plpy`: reads the history, calls the models, stores them."""

import functools
import itertools
import json
import math
import os
import platform
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np
import plpy
from numpy.typing import NDArray

from pyml import __version__, blob, chart, drift, forest, limits, queries, series, worker
from pyml.errors import (
    BadArgument,
    BrokenEnvironment,
    ModelNotFound,
    NotEnoughData,
    PymlError,
    UnknownField,
    UnreadableModel,
)
from pyml.queries import Query

P = ParamSpec("P")
T = TypeVar("T")
Floats = NDArray[np.float64]
Row = tuple[Any, ...]

SEVERITIES = ("none", "warning", "critical")
LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn", "tensorflow", "keras", "joblib")
# Memory that the models kept ready in one backend may take.
CACHE_BYTES = 8 << 20
LONGEST_HOURS = 24 * 366 * 10
# Share of the values that a forecast's interval shall cover where none is asked for.
LEVEL = 0.9


# ---- answers ---------------------------------------------------------------------


def _failure(error: Exception) -> dict[str, Any]:
    """An error as data: the door in SQL raises it without a Python traceback."""
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
        except (PymlError, plpy.SPIError) as error:
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
            except (PymlError, plpy.SPIError) as error:
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


# PostgreSQL counts from 2000-01-01, in microseconds.
POSTGRES_EPOCH = 946_684_800_000_000


def _decoded(array: bytes | None) -> Floats:
    """Unix times of what `array_send` wrote of timestamps; NULL, of no rows, gives none.

    The format (src/backend/utils/adt/arrayfuncs.c): a header of five 4-byte words
    for one dimension, then for each element its length and its bytes, big-endian.
    """
    if not array:
        return np.empty(0)
    cells = np.frombuffer(array, dtype=[("length", ">i4"), ("value", ">i8")], offset=20)
    counted = cells["value"].astype(np.int64)
    limits = np.iinfo(np.int64)
    infinite = (counted == limits.max) | (counted == limits.min)
    return np.where(infinite, np.inf, (counted + POSTGRES_EPOCH) / 1e6)


def _numbers(lines: str) -> Floats:
    """The numbers among JSON values, a line each; NaN for the others."""
    cells = lines.replace("null", "nan").split("\n")
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:  # a string, a boolean, an array or an object
        return np.array([float(cell) if cell[0] in "-0123456789" else np.nan for cell in cells])


@dataclass(frozen=True, slots=True)
class History:
    """The user's table, as the settings describe it."""

    settings: Mapping[str, str]
    table: tuple[str, ...]
    zoned: bool

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> "History":
        """The table that the settings name.

        Raises
        ------
        BrokenEnvironment
            It does not exist, or has no such time column.
        """
        settings = json.loads(context["settings"])
        if context["time_type"] is None:
            raise BrokenEnvironment(
                f"there is no history in {settings['history_table']}",
                detail="The table does not exist, or has no column "
                f"{settings['history_time_column']}.",
                hint="SELECT * FROM ml_doctor();",
            )
        zoned = context["time_type"] == "timestamp with time zone"
        return cls(settings, tuple(context["history"]), zoned)

    def _key(self, device: str) -> tuple[str, str, str]:
        return device, self.settings["history_shadow"], self.settings["history_time_zone"]

    def read(
        self, device: str, since: float, until: float, paths: Sequence[str]
    ) -> tuple[Floats, Floats]:
        """Times (n,) and raw numbers (n, k) of one device's window, as they stand."""
        parted = [path.split(".") for path in paths]
        query = queries.history(self.settings, self.table, self.zoned, parted)
        parts = itertools.chain(*queries.parents(parted), (path[-1] for path in parted))
        row = _execute(query, *self._key(device), since, until, *parts)[0]
        times = _decoded(row["t"])
        columns = np.empty((len(times), len(paths)))
        for i in range(len(paths) if len(times) else 0):
            columns[:, i] = _numbers(row[f"c{i}"])
        return times, columns

    def arrivals(self, device: str, since: float, until: float) -> Floats:
        """Times (n,) of one device's rows in a window, in no order."""
        query = queries.arrivals(self.settings, self.table, self.zoned)
        return _decoded(_execute(query, *self._key(device), since, until)[0]["t"])

    def last(self, device: str, until: float, path: str) -> float | None:
        """Time of the newest number at a path."""
        query = queries.last_reading(self.settings, self.table, self.zoned)
        found = _execute(query, *self._key(device), until, path.split("."))
        return float(found[0]["t"]) if found else None

    def types(self, device: str, since: float, until: float, path: str) -> dict[str, int]:
        """How often each JSON type stands at a path in a window."""
        query = queries.field_types(self.settings, self.table, self.zoned)
        found = _execute(query, *self._key(device), since, until, path.split("."))
        return {row["type"]: row["rows"] for row in found}


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


def _iso(moment: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, of any year that PostgreSQL knows."""
    thousandths = round(moment * 1e6) // 1000
    return f"{np.datetime64(thousandths, 'ms')}+00:00"


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
    found = _execute(queries.BLOB, model_id)
    if not found:
        raise ModelNotFound(
            f"model {model_id} has just been dropped",
            detail="Another session has pruned or forgotten it meanwhile.",
            hint="SELECT model_id, device_uuid, kind, field, trained_at FROM ml_models;",
        )
    if found[0]["sha256"] != sha256:
        raise UnreadableModel(
            "the stored model cannot be read",
            detail=f"The checksum of model {model_id} does not match its bytes.",
        )
    model = blob.load(found[0]["blob"], kind)
    _cache[key] = model
    while len(_cache) > 1 and sum(kept.size for kept in _cache.values()) > CACHE_BYTES:
        _cache.popitem(last=False)
    return model


def _training_call(device: str, kind: str, field: str) -> str:
    if kind == "forest":
        return f"SELECT ml_train_forest('{device}');"
    return f"SELECT ml_train_lstm('{device}', {_literal(field)});"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _in_force(device: str, kind: str, field: str = "") -> tuple[History, Held]:
    """The history's description and the model in force.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    row = _execute(queries.CURRENT_MODEL, device, kind, field)[0]
    return History.of(row), _held(row, device, kind, field)


def _held(row: Mapping[str, Any], device: str, kind: str, field: str) -> Held:
    """The model in force, of a row that tells of it."""
    if row["model_id"] is None:
        what = "forest" if kind == "forest" else f"forecast model of {field}"
        raise ModelNotFound(
            f"device {device} has no {what}",
            detail="None was trained for it, or it was dropped.",
            hint=_training_call(device, kind, field),
        )

    def telling(call: Callable[..., T], *args: Any) -> T:
        try:
            return call(*args)
        except UnreadableModel as error:
            error.hint = _training_call(device, kind, field)
            raise

    model = telling(_model, row["model_id"], row["sha256"], kind)
    return Held(
        float(row["now"]),
        row["model_id"],
        float(row["trained_at"]),
        row["readings_used"],
        json.loads(row["figures"]),
        replace(model, run=functools.partial(telling, model.run)),
    )


def _store(
    device: str,
    kind: str,
    field: str,
    fitted: Any,
    meta: dict[str, Any],
    times: Floats,
    rejected: int,
    parameters: dict[str, Any],
    started: float,
) -> int:
    """Add a model and put it in force; readers see the old one or the new."""
    data = blob.pack(fitted.graph, meta, kind)
    versions = _versions() | {"python": platform.python_version()}
    seconds = time.monotonic() - started
    _execute(queries.LOCK_MODEL, device, kind, field)
    _execute(queries.RETIRE_MODEL, device, kind, field)
    stored = _execute(
        queries.INSERT_MODEL,
        *(device, kind, field, float(times[0]), float(times[-1]), len(times), rejected),
        *(_json(parameters), _json(fitted.figures), _json(versions), seconds, data),
    )
    model_id = int(stored[0]["model_id"])
    _record(device, kind, field, seconds, "trained", model_id, fitted.figures)
    return model_id


def _record(
    device: str,
    kind: str,
    field: str,
    seconds: float,
    outcome: str,
    model_id: int | None,
    figures: dict[str, Any],
) -> None:
    _execute(queries.INSERT_RUN, device, kind, field, seconds, outcome, model_id, _json(figures))


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


@functools.cache
def _versions() -> dict[str, str | None]:
    """What is installed of each library; TensorFlow comes as one of two packages."""
    from importlib import metadata  # slow to load, and a backend that scores has no need of it

    def of(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    found = {name: of(name) for name in LIBRARIES}
    return found | {"tensorflow": of("tensorflow-cpu") or found["tensorflow"]}


def _trained(
    what: str, prepare: Callable[[], object], work: Callable[[Callable[[], None]], T]
) -> T:
    """Run a training beside this thread, which looks up for cancels and tells how long it goes.

    `prepare` loads the training's library: a cancel need not wait for that.

    Raises
    ------
    BrokenEnvironment
        A library is missing.
    """
    started = time.monotonic()

    def poll() -> None:
        _execute(queries.PROGRESS, f"pyml: {what}, {time.monotonic() - started:.0f} s"[:63])

    try:
        worker.prepare(prepare, poll)
        return worker.run(work, poll)
    except ImportError as error:
        raise BrokenEnvironment(
            f"a library for training cannot be loaded: {error}",
            detail="Scoring goes on without it.",
            hint="SELECT * FROM ml_doctor();",
        ) from error


# ---- Isolation Forest ----------------------------------------------------------


def _metrics() -> list[series.Metric]:
    return [series.Metric(**row) for row in _execute(queries.METRICS)]


def _measured(
    history: History,
    device: str,
    since: float,
    until: float,
    metrics: Sequence[series.Metric],
    interval: float | None = None,
) -> tuple[series.Readings, Floats, float]:
    """Clean readings of a window, the metrics' values (n, m) at each, and the interval."""
    paths, totals = series.columns_of(metrics)
    times, columns = history.read(device, since, until, paths)
    readings = series.clean(times, columns, totals, interval)
    step = series.typical_interval(readings.times) if interval is None else interval
    return readings, series.measure(readings, metrics, step), step


@document
def train_forest(
    device: str, hours: int, as_of: str, contamination: float | None
) -> dict[str, Any]:
    """Door of ``ml_train_forest``."""
    started = time.monotonic()
    _given(device=device, hours=hours, as_of=as_of)
    _within("hours", hours, 1, LONGEST_HOURS)
    history = History.of(_execute(queries.CONTEXT)[0])
    settings = history.settings
    share = float(settings["contamination"]) if contamination is None else contamination
    _within("contamination", share, 0.0001, 0.2)
    until = _finite("as_of", _moments(as_of, as_of)[1])
    metrics = _metrics()
    if not 1 <= len(metrics) <= limits.MAX_METRICS:
        raise BadArgument(
            f"{len(metrics) or 'no'} metrics are enabled",
            detail=f"A forest takes 1 to {limits.MAX_METRICS}.",
            hint="UPDATE ml_metric SET enabled = built_in;",
        )
    since = until - hours * 3600
    readings, values, _ = _measured(history, device, since, until, metrics)
    usable = int(np.isfinite(values).any(axis=1).sum())
    needed = int(settings["min_training_samples"])
    if usable < needed:
        raise _too_few(history, device, usable, needed, hours, readings.rejected)
    parameters: dict[str, Any] = {
        "contamination": share,
        "n_estimators": int(settings["n_estimators"]),
        "seed": int(settings["seed"]),
        "hours": hours,
    }
    names = [metric.name for metric in metrics]
    fitted = _trained(
        "training forest",
        forest.prepare,
        lambda pulse: forest.fit(
            readings.times,
            values,
            names,
            contamination=share,
            n_estimators=parameters["n_estimators"],
            seed=parameters["seed"],
            pulse=pulse,
        ),
    )
    parameters["metrics"] = [asdict(metric) for metric in metrics]
    used = [names.index(name) for name in fitted.meta["names"]]
    meta = fitted.meta | {
        "metrics": [parameters["metrics"][i] for i in used],
        "reference": drift.reference(readings.times, values[:, used]),
    }
    model_id = _store(
        device, "forest", "", fitted, meta, readings.times, readings.rejected, parameters, started
    )
    return {
        "device_uuid": device,
        "model_id": model_id,
        "training_samples": len(readings.times),
        "rejected_samples": readings.rejected,
        "repeated_samples": readings.repeated,
        "features": fitted.meta["names"],
        "contamination": share,
        "window_start": _iso(readings.times[0]),
        "window_end": _iso(readings.times[-1]),
        "held_out": fitted.figures,
        "seconds": round(time.monotonic() - started, 3),
    }


def _too_few(
    history: History, device: str, usable: int, needed: int, hours: int, rejected: int
) -> NotEnoughData:
    wider = min(hours * 4, LONGEST_HOURS)
    return NotEnoughData(
        f"device {device} has {usable} usable readings, {needed} are needed",
        detail=f"Looked at {hours} hours of {history.settings['history_table']}; "
        f"{rejected} more rows there held no usable number.",
        hint=f"SELECT ml_train_forest('{device}', hours => {wider});"
        if usable
        else queries.newest_state(history.settings, history.table, device),
    )


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
    readings, values, _ = _measured(history, device, since - back, until, metrics, meta["interval"])
    inside = np.flatnonzero((readings.times > since) & np.isfinite(values).any(axis=1))
    described = forest.describe(meta, readings.times, values).of(inside)
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
            "timestamp": _iso(judged.times[row]),
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
            "trained_at": _iso(held.trained_at),
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


def _series_of(
    history: History,
    device: str,
    since: float,
    until: float,
    metric: series.Metric,
    totals: Sequence[str],
    interval: float | None = None,
) -> tuple[series.Readings, Floats]:
    """Clean readings of one field's window and its values (n,)."""
    paths, own = series.columns_of([metric])
    others = [path for path in totals if path not in paths]
    times, columns = history.read(device, since, until, paths)
    if others and (columns[:, 0] == 0).any():
        # Only where the value is 0 can the collection have failed: the totals tell.
        times, columns = history.read(device, since, until, paths + others)
        columns[columns[:, 0] != 0, len(paths) :] = np.nan
        own = [*own, *range(len(paths), len(paths) + len(others))]
    readings = series.clean(times, columns, own, interval)
    step = series.typical_interval(readings.times) if interval is None else interval
    return readings, series.measure(readings, [metric], step)[:, 0]


def _metric_of(field: str, known: Sequence[series.Metric]) -> series.Metric:
    """What a field means: a metric by its name, or the number at a dotted path."""
    for metric in known:
        if metric.name == field:
            return metric
    return series.Metric(field, field, None, 1.0, "gauge")


def _no_numbers(
    history: History, device: str, metric: series.Metric, since: float, until: float
) -> PymlError:
    """Why a field has no number in a window."""
    types = history.types(device, since, until, metric.path)
    rows_read = sum(types.values())
    newest = queries.newest_state(history.settings, history.table, device)
    if not rows_read:
        return NotEnoughData(
            f"device {device} has no readings in the window",
            detail=f"Looked in {history.settings['history_table']} from {_iso(since)} to "
            f"{_iso(until)}.",
            hint=newest,
        )
    found = ", ".join(f"{name} in {count} rows" for name, count in types.items())
    return UnknownField(
        f"field {metric.path} holds no usable number",
        detail=f"Found: {found}.",
        hint=newest,
    )


def _window(
    history: History,
    device: str,
    since: float,
    until: float,
    field: str,
    known: Sequence[series.Metric],
) -> tuple[series.Metric, list[str], series.Readings, Floats]:
    """What a field means, the paths of totals, and a window's readings and values of it.

    Raises
    ------
    NotEnoughData, UnknownField
        There is no number.
    """
    metric = _metric_of(field, known)
    paths, places = series.columns_of(known)
    totals = [paths[place] for place in places]
    readings, values = _series_of(history, device, since, until, metric, totals)
    if not np.isfinite(values).any():
        raise _no_numbers(history, device, metric, since, until)
    return metric, totals, readings, values


@document
def train_lstm(device: str, field: str, hours: int, as_of: str) -> dict[str, Any]:
    """Door of ``ml_train_lstm``."""
    from pyml import lstm

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
    history = History.of(row)
    settings = history.settings
    until = _finite("as_of", _moments(as_of, as_of)[1])
    since = until - hours * 3600
    metric, totals, readings, values = _window(history, device, since, until, field, _metrics())
    usable = int(np.isfinite(values).sum())
    grid = series.regular(readings.times, values)
    shape = {
        "sequence_length": int(settings["sequence_length"]),
        "horizon": int(settings["forecast_horizon"]),
    }
    bounds = _execute(queries.BOUNDS, field)
    ends = (bounds[0]["lower_bound"], bounds[0]["upper_bound"]) if bounds else (None, None)
    parameters: dict[str, Any] = shape | {
        "epochs": int(settings["epochs"]),
        "seed": int(settings["seed"]),
        "hours": hours,
        "metric": asdict(metric),
    }
    previous = _previous(row, shape, asdict(metric))
    try:
        fitted = _trained(
            f"training lstm {field}",
            lambda: lstm.prepare(**shape),
            lambda pulse: lstm.fit(
                grid.times,
                grid.values,
                interval=grid.interval,
                epochs=parameters["epochs"],
                seed=parameters["seed"],
                bounds=ends,
                previous=previous,
                pulse=pulse,
                **shape,
            ),
        )
    except NotEnoughData as error:
        wider = min(hours * 4, LONGEST_HOURS)
        error.hint = f"SELECT ml_train_lstm('{device}', {_literal(field)}, hours => {wider});"
        raise
    accepted = bool(fitted.figures["accepted"])
    rejected = len(readings.times) + readings.rejected - usable
    if accepted:
        meta = fitted.meta | {
            "metric": asdict(metric),
            "totals": totals,
            "reference": drift.reference(grid.times, grid.values[:, None]),
        }
        model_id = _store(
            device, "lstm", field, fitted, meta, grid.times, rejected, parameters, started
        )
    else:
        model_id = row["model_id"]
        seconds = time.monotonic() - started
        _record(device, "lstm", field, seconds, "kept", model_id, fitted.figures)
    if not fitted.figures["beats_naive"]:
        plpy.notice(
            f"the forecast of {field} is no better than a naive one: "
            f"mean absolute error {fitted.figures['mae']:.4g}"
        )
    return {
        "device_uuid": device,
        "field": field,
        "model_id": model_id,
        "accepted": accepted,
        "training_samples": usable,
        "rejected_samples": rejected,
        "sequence_length": shape["sequence_length"],
        "forecast_horizon": shape["horizon"],
        "interval_seconds": grid.interval,
        "held_out": fitted.figures,
        "seconds": round(time.monotonic() - started, 3),
    }


def _previous(row: Mapping[str, Any], shape: dict[str, int], metric: dict[str, Any]) -> Any:
    """The model in force to start from and compare with, where it is of the shape now asked for."""
    from pyml import lstm

    if row["model_id"] is None:
        return None
    try:
        model = _model(row["model_id"], row["sha256"], "lstm")
    except UnreadableModel:
        return None
    same = {key: model.meta[key] for key in shape} == shape and model.meta["metric"] == metric
    return lstm.Previous(model.graph, model.meta, model.run) if same else None


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
        readings, values = _series_of(
            history, device, end - back, end, metric, meta["totals"], interval
        )
        return series.regular(readings.times, values, interval)

    grid = read(until)
    # The forecast of a stale device goes on from its last reading.
    last = float(grid.times[-1]) if len(grid.times) else history.last(device, until, metric.path)
    if last is not None and until - last > spare:
        grid = read(last)
    if not len(grid.values):
        raise _no_numbers(history, device, metric, until - back, until)
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
                "timestamp": _iso(moment),
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
            "trained_at": _iso(held.trained_at),
            "training_samples": held.readings_used,
            "sequence_length": held.model.meta["sequence_length"],
            "forecast_horizon": held.model.meta["horizon"],
            "level": LEVEL,
            "interval_from": ahead.replayed,
            "last_reading": _iso(ahead.last_time),
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
    _given(device=device, field=field, hours=hours)
    _within("hours", hours, 1, LONGEST_HOURS)
    history = History.of(_execute(queries.CONTEXT)[0])
    session = _execute(queries.SESSION)[0]
    until = float(session["until"])
    since = until - hours * 3600
    known = _metrics()
    metric, _, readings, values = _window(history, device, since, until, field, known)
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
    bounds = _execute(queries.BOUNDS, field)
    percent = bool(bounds) and (bounds[0]["lower_bound"], bounds[0]["upper_bound"]) == (0, 100)
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


def _marks(device: str, since: float, until: float, at: Floats, values: Floats) -> list[chart.Mark]:
    """What the forest in force flags, at the value that the picture has nearest to it."""
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


def _ahead(device: str, field: str, known: Sequence[series.Metric], until: float) -> chart.Ahead:
    """The forecast of a field, whichever of its names the model was trained under."""
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
    libraries = _versions()
    return {
        "python": platform.python_version(),
        "version": __version__,
        "site": os.path.dirname(os.path.dirname(__file__)),
        "libraries": libraries,
        "missing": [name for name, version in libraries.items() if version is None],
    }
