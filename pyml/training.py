"""A device's history -> a model to store, the same in a backend and on a worker elsewhere."""

import functools
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from pyml import background, forest, queries
from pyml.telemetry import drift
from pyml.errors import (
    BadArgument,
    BrokenEnvironment,
    ModelNotFound,
    NotEnoughData,
    UnreadableModel,
)
from pyml.models import blob, limits
from pyml.telemetry import series
from pyml.telemetry.history import (
    LONGEST_HOURS,
    Execute,
    Floats,
    History,
    iso,
    measured,
    metric_of,
    window,
)

T = TypeVar("T")
Poll = Callable[[], object]
"""Called several times a second by whoever waits for a training; what it raises ends that."""

LIBRARIES = ("numpy", "scikit-learn", "tensorflow", "keras", "joblib")


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes
    ----------
    data : bytes or None
        The model as it is stored; None where the one in force is better and stays.
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch of what it was trained on.
    rejected : int
        Rows without one usable number.
    parameters, figures : dict
        JSON-able: settings, metrics and seed; what was measured on held-out data.
    told : dict
        JSON-able: what its caller may want to know besides.
    """

    data: bytes | None
    times: Floats
    rejected: int
    parameters: dict[str, Any]
    figures: dict[str, Any]
    told: dict[str, Any]

    def about(self, seconds: float) -> dict[str, Any]:
        """What is stored beside the model: of the form `limits.ABOUT`."""
        return {
            "window_start": float(self.times[0]),
            "window_end": float(self.times[-1]),
            "readings_used": len(self.times),
            "readings_rejected": self.rejected,
            "parameters": self.parameters,
            "figures": self.figures,
            "versions": versions() | {"python": platform.python_version()},
            "seconds": seconds,
        }


@functools.cache
def versions() -> dict[str, str | None]:
    """What is installed of each library; TensorFlow comes as one of two packages."""
    from importlib import metadata  # slow to load, and a backend that scores has no need of it

    def of(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    found = {name: of(name) for name in LIBRARIES}
    return found | {"tensorflow": of("tensorflow-cpu") or found["tensorflow"]}


def _beside(
    prepare: Callable[[], object], work: Callable[[Callable[[], None]], T], poll: Poll
) -> T:
    """Run a training in a thread of its own, so that the caller's can look up from it.

    `prepare` loads the training's library: a cancel need not wait for that.

    Raises
    ------
    BrokenEnvironment
        A library is missing.
    """
    try:
        background.prepare(prepare, poll)
        return background.run(work, poll)
    except ImportError as error:
        raise BrokenEnvironment(
            f"a library for training cannot be loaded: {error}",
            detail="Scoring goes on without it.",
            hint="SELECT * FROM ml_doctor();",
        ) from error


def _given(**arguments: float | None) -> dict[str, Any]:
    """The arguments that a person gave: a later training keeps to them, whatever the settings."""
    return {name: value for name, value in arguments.items() if value is not None}


# ---- Isolation Forest ----------------------------------------------------------


def train_forest(
    history: History,
    metrics: Sequence[series.Metric],
    device: str,
    *,
    hours: int | None,
    until: float,
    contamination: float | None,
    poll: Poll,
) -> Trained:
    """Train an Isolation Forest on a device's last `hours` up to `until`.

    Parameters
    ----------
    hours, contamination : optional
        Where they are not given, the settings tell.

    Raises
    ------
    BadArgument
        Too many metrics, or none.
    NotEnoughData
    """
    settings = history.settings
    given = _given(hours=hours, contamination=contamination)
    hours = given.get("hours", int(settings["training_hours"]))
    contamination = given.get("contamination", float(settings["contamination"]))
    if not 1 <= len(metrics) <= limits.MAX_METRICS:
        raise BadArgument(
            f"{len(metrics) or 'no'} metrics are enabled",
            detail=f"A forest takes 1 to {limits.MAX_METRICS}.",
            hint="UPDATE ml_metric SET enabled = built_in;",
        )
    readings, values, _ = measured(history, device, until - hours * 3600, until, metrics)
    usable = int(np.isfinite(values).any(axis=1).sum())
    needed = int(settings["min_training_samples"])
    if usable < needed:
        raise _too_few(history, device, usable, needed, hours, readings.rejected)
    parameters: dict[str, Any] = {
        "contamination": contamination,
        "n_estimators": int(settings["n_estimators"]),
        "seed": int(settings["seed"]),
        "hours": hours,
        "given": given,
    }
    names = [metric.name for metric in metrics]
    fitted = _beside(
        forest.prepare,
        lambda pulse: forest.fit(
            readings.times,
            values,
            names,
            contamination=contamination,
            n_estimators=parameters["n_estimators"],
            seed=parameters["seed"],
            pulse=pulse,
        ),
        poll,
    )
    parameters["metrics"] = [asdict(metric) for metric in metrics]
    used = [names.index(name) for name in fitted.meta["names"]]
    meta = fitted.meta | {
        "metrics": [parameters["metrics"][i] for i in used],
        "reference": drift.reference(readings.times, values[:, used]),
    }
    return Trained(
        blob.pack(fitted.numbers, meta, "forest"),
        readings.times,
        readings.rejected,
        parameters,
        fitted.figures,
        {
            "training_samples": len(readings.times),
            "rejected_samples": readings.rejected,
            "repeated_samples": readings.repeated,
            "features": fitted.meta["names"],
            "contamination": contamination,
            "window_start": iso(readings.times[0]),
            "window_end": iso(readings.times[-1]),
        },
    )


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


# ---- LSTM ----------------------------------------------------------------------


def train_lstm(
    history: History,
    known: Sequence[series.Metric],
    device: str,
    field: str,
    *,
    hours: int | None,
    until: float,
    bounds: tuple[float | None, float | None],
    in_force: blob.Model | None,
    poll: Poll,
) -> Trained:
    """Train a forecast of a field on a device's last `hours` up to `until`.

    Parameters
    ----------
    known : sequence of Metric
        All metrics, enabled for detection or not.
    hours : int, optional
        Where they are not given, the settings tell.
    bounds : tuple
        Least and greatest value of the field, where known.
    in_force : blob.Model or None
        The model to start from and to be better than, where it is of the shape now asked for.

    Raises
    ------
    NotEnoughData, UnknownField
    """
    from pyml import lstm
    from pyml.forecasters import network

    settings = history.settings
    given = _given(hours=hours)
    hours = given.get("hours", int(settings["training_hours"]))
    since = until - hours * 3600
    metric, totals, readings, values = window(history, device, since, until, field, known)
    usable = int(np.isfinite(values).sum())
    grid = series.regular(readings.times, values)
    shape = {
        "sequence_length": int(settings["sequence_length"]),
        "horizon": int(settings["forecast_horizon"]),
    }
    parameters: dict[str, Any] = shape | {
        "epochs": int(settings["epochs"]),
        "seed": int(settings["seed"]),
        "hours": hours,
        "metric": asdict(metric),
        "given": given,
    }
    previous = None
    if in_force and in_force.meta.items() >= {**shape, "metric": asdict(metric)}.items():
        previous = lstm.Previous(in_force.numbers, in_force.meta, in_force.run)
    try:
        fitted = _beside(
            lambda: network.prepare(**shape),
            lambda pulse: lstm.fit(
                grid.times,
                grid.values,
                interval=grid.interval,
                epochs=parameters["epochs"],
                seed=parameters["seed"],
                bounds=bounds,
                previous=previous,
                pulse=pulse,
                **shape,
            ),
            poll,
        )
    except NotEnoughData as error:
        wider = min(hours * 4, LONGEST_HOURS)
        named = queries.literal(field)
        error.hint = f"SELECT ml_train_lstm('{device}', {named}, hours => {wider});"
        raise
    finally:
        background.trim()
    meta = fitted.meta | {
        "metric": asdict(metric),
        "totals": totals,
        "reference": drift.reference(grid.times, grid.values[:, None]),
    }
    rejected = len(readings.times) + readings.rejected - usable
    return Trained(
        blob.pack(fitted.numbers, meta, "lstm") if fitted.figures["accepted"] else None,
        grid.times,
        rejected,
        parameters,
        fitted.figures,
        {
            "accepted": bool(fitted.figures["accepted"]),
            "training_samples": usable,
            "rejected_samples": rejected,
            "sequence_length": shape["sequence_length"],
            "forecast_horizon": shape["horizon"],
            "interval_seconds": grid.interval,
        },
    )


# ---- the model in force --------------------------------------------------------


def stored(execute: Execute, model_id: int, sha256: str, kind: str) -> blob.Model:
    """A stored model, ready.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    found = execute(queries.BLOB, model_id)
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
    return blob.load(found[0]["blob"], kind)


@functools.lru_cache(maxsize=4)
def _configured(rows: str | None) -> dict[str, series.Metric]:
    """The metrics of `ml_metric` by name, as `queries.CONTEXT` tells them."""
    metrics = [series.Metric(*row) for row in json.loads(rows or "[]")]
    return {metric.name: metric for metric in metrics}


def check_metrics(meta: Mapping[str, Any], kind: str, field: str, rows: str | None) -> None:
    """Refuse a model that reads anything but what it is meant to read, as things stand now.

    Whoever may train chooses what a model says of itself. Whoever scores with it may read
    more than they, and a scan writes down what it reads.

    Parameters
    ----------
    meta : dict
        The model's metadata.
    kind, field : str
        What it is in force for. A forecast's field is a metric's name, or a path.
    rows : str or None
        `metrics` of `queries.CONTEXT`: all metrics, those that are disabled too.

    Raises
    ------
    UnreadableModel
    """
    known = _configured(rows)
    if kind == "forest":
        used, meant = [series.Metric(**entry) for entry in meta["metrics"]], known
    else:
        used = [series.Metric(**meta["metric"])]
        meant = {field: known.get(field) or metric_of(field, ())}
    for metric in used:
        if metric != meant.get(metric.name):
            raise UnreadableModel(
                f"the stored model is not of the metrics that are configured: {metric.name}",
                detail=f"It reads {metric.path}; ml_metric has no such row now.",
            )
    strangers = set(meta.get("totals", ())) - {metric.divisor_path for metric in known.values()}
    if strangers:
        raise UnreadableModel(
            "the stored model is not of the metrics that are configured",
            detail=f"It reads the totals {', '.join(sorted(strangers))}; ml_metric has none there.",
        )


def in_force(
    row: Mapping[str, Any], field: str, load: Callable[[int, str, str], blob.Model]
) -> blob.Model | None:
    """The forecast model that `queries.CURRENT_MODEL` tells of, for a training to start from."""
    if row["model_id"] is None:
        return None
    try:
        model = load(row["model_id"], row["sha256"], "lstm")
        check_metrics(model.meta, "lstm", field, row["metrics"])
        return model
    except UnreadableModel:
        return None
