"""The stored models as a backend uses them: the current one, kept ready; a new one, put there."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pyml import in_force, queries, training
from pyml.errors import ModelNotFound, PymlError, UnreadableModel, unreadable
from pyml.following import LEADS, columns
from pyml.forecasters.base import Figures, Forecaster, is_figures
from pyml.forms import parsed
from pyml.models import blob
from pyml.models.about import About
from pyml.models.blob import Owner
from pyml.server import backend, fields
from pyml.telemetry.history import History
from pyml.telemetry.window import metric_of, metrics_of

T = TypeVar("T")

# Memory that the models kept ready in one backend may take.
CACHE_BYTES = 10 << 20


@dataclass(frozen=True, slots=True)
class Current:
    """The current model of a device, kind and field, when it was looked up.

    A finder of the fleet, which stands in for a device's own, has no `model_id`; a forecast of the
    fleet is marked.
    """

    device_id: str
    now: float
    model_id: int | None
    trained_at: float
    readings_used: int
    figures: str
    model: blob.Model[Any]
    hint: str
    of_fleet: bool = False

    @property
    def knows(self) -> Any:
        """What its owner needs beside the graph."""
        return self.model.knows

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Turn what is raised while the model is used into an error that names it, with a HINT.

        Raises
        ------
        UnreadableModel
        """
        try:
            with blob.guarded():
                yield
        except UnreadableModel as error:
            error.hint, error.model_id = self.hint, self.model_id
            raise

    def shown_figures(self) -> Figures:
        """Those of the training's figures that a forecast's document has.

        Raises
        ------
        UnreadableModel
        """
        figures = parsed(self.figures)
        with self.in_use():
            if not is_figures(figures):
                raise unreadable("figures of another form")
        return figures


_cache: OrderedDict[tuple[int | None, str, str], blob.Model[Any]] = OrderedDict()


def ready(owner: Owner[Any], model_id: int | None, sha256: str) -> blob.Model[Any]:
    """A stored model, ready; kept for the session, the least used leaving first.

    Rows never change, so that what is kept cannot be stale.
    """
    key = (model_id, sha256, owner.kind)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    model = _cache[key] = in_force.stored(backend.execute, owner, model_id, sha256)
    while len(_cache) > 1 and sum(kept.size for kept in _cache.values()) > CACHE_BYTES:
        _cache.popitem(last=False)
    return model


def naming(hint: str, model_id: int | None, call: Callable[..., T], *args: Any) -> T:
    """The result of a call; an `UnreadableModel` that it raises gets the model and a HINT."""
    try:
        return call(*args)
    except UnreadableModel as error:
        error.hint, error.model_id = hint, model_id
        raise


def current(owner: Owner[Any], device: str, field: str | None = "") -> tuple[History, Current]:
    """The history's description and the current model; for field None, of any field that has one.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    foretells = isinstance(owner, Forecaster)
    named = queries.FORECAST_MODEL if foretells else queries.CURRENT_MODEL
    query, wanted = (named, field) if field is not None else (queries.ANY_MODEL, fields.USUAL)
    row = backend.execute(query, device, owner.kind, wanted)[0]
    history = backend.history_of(row)
    if field is None:
        field = row["field"]
        if field is None:
            field = _trainable(history, device, float(row["now"]))
            row = backend.execute(named, device, owner.kind, field)[0]
    try:
        known_as = history.id(device)
        return history, of_row(owner, row, known_as, field, row["metrics"], float(row["now"]))
    except ModelNotFound as error:
        if field:
            _no_number(error, history, device, field, float(row["now"]))
        raise


def _trainable(history: History, device: str, now: float) -> str:
    """The field that a device without any model could have one of."""
    hours = int(history.settings_of(device)["training_hours"])
    try:
        return fields.reported(history, device, now - hours * 3600, now)
    except PymlError as error:
        raise ModelNotFound(
            f"device {history.id(device)} has no forecast model",
            detail=f"None can be trained: {error.message}. {error.detail}",
            hint=error.hint,
        ) from None


def _no_number(error: ModelNotFound, history: History, device: str, field: str, now: float) -> None:
    """Change the DETAIL and HINT where the field has no number, so that no training can help."""
    metric = metric_of(field, metrics_of(backend.execute))
    hours = int(history.settings_of(device)["training_hours"])
    types = history.types(device, now - hours * 3600, now, metric.path)
    if "number" not in types:
        found = ", ".join(f"{name} in {count} rows" for name, count in types.items())
        error.detail = f"None can be trained: in the last {hours} hours it held no number." + (
            f" Found: {found}." if found else " There were no readings."
        )
        error.hint = history.parts.newest_state(history.id(device))


def of_row(
    owner: Owner[Any],
    row: Mapping[str, Any],
    device: str,
    field: str,
    metrics: str | None,
    now: float,
) -> Current:
    """The current model that a row describes.

    Parameters
    ----------
    device : str
        Its id in the history.
    row : mapping
        ``model_id`` (None where there is none), ``sha256``, ``trained_at``, ``readings_used`` and
        ``figures``; ``fleets`` where it may be the fleet's.
    metrics : str or None
        Of `queries.CONTEXT`.
    now : float
        Seconds since the Unix epoch.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    hint = owner.training_call(device, field)
    if row["model_id"] is None:
        raise missing(owner, device, field)
    model = naming(hint, row["model_id"], ready, owner, row["model_id"], row["sha256"])
    naming(hint, row["model_id"], in_force.check, owner, model, field, metrics)
    return Current(
        device,
        now,
        row["model_id"],
        float(row["trained_at"]),
        row["readings_used"],
        row["figures"],
        model,
        hint,
        bool(row.get("fleets")),
    )


def of_fleet(owner: Owner[Any], row: Mapping[str, Any], device: str, state: Any) -> Current:
    """The fleet's model that a row describes, for a device that has no model of its own.

    Parameters
    ----------
    owner : Owner
    row : mapping
        Of `queries.FLEET_MODELS`.
    device : str
        Its id in the history.
    state : mapping
        A row of `queries.SCAN_STATE`.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    model = ready(owner, None, row["sha256"])
    in_force.check(owner, model, "", state["metrics"])
    hint = owner.training_call(device)
    return Current(device, float(state["now"]), None, float(row["made_at"]), 0, "{}", model, hint)


def missing(owner: Owner[Any], device: str, field: str) -> ModelNotFound:
    """The error where a device has no model."""
    what = f"forecast model of {field}" if field else owner.kind
    return ModelNotFound(
        f"device {device} has no {what}",
        detail="None was trained for it, or it was dropped.",
        hint=owner.training_call(device, field),
    )


def unknown(kind: str, model_id: int, device: str) -> UnreadableModel:
    """The error for a model whose detector or forecaster this pyml does not have.

    It has no `model_id`: the model is not due, since no training here could replace it.
    """
    return UnreadableModel(
        f"model {model_id} of device {device} is not used: this pyml has no detector or"
        f" forecaster of kind {kind}",
        detail="Another version of pyml has trained it, or one with a detector of its own.",
        hint="SELECT model_id, kind, field, versions FROM ml_models WHERE is_current;",
    )


def keep(
    history: History,
    device: str,
    kind: str,
    field: str,
    trained: training.Trained,
    current: int | None,
    started: float,
) -> dict[str, Any]:
    """Make a training's model the current one, or record that that stays; the answer."""
    about = trained.about(time.monotonic() - started)
    if trained.data is None:
        model_id = current if trained.instead is None else trained.instead
        backend.execute(
            queries.PUT_RUN,
            *(device, kind, field, about["seconds"], "kept", model_id),
            *(backend.to_json(about["figures"]), None, None),
        )
    else:
        model_id = put(device, kind, field, trained.data, about)
        if kind == LEADS:
            backend.execute(queries.PUT_FINDERS, model_id, *columns(trained.followers))
    return {
        "device_uuid": device,
        "device_id": device if device == training.FLEET else history.id(device),
        "model_id": model_id,
        **trained.details,
        "held_out": {
            name: value for name, value in trained.figures.items() if not isinstance(value, list)
        },
        "seconds": round(time.monotonic() - started, 3),
    }


def put(device: str, kind: str, field: str, data: bytes, about: About) -> int:
    """Add a model and make it the current one; readers see the old one or the new."""
    if device != training.FLEET:
        backend.execute(queries.MEET, device)
    stored = backend.execute(
        queries.PUT_MODEL,
        *(device, kind, field, about["window_start"], about["window_end"]),
        *(about["readings_used"], about["readings_rejected"]),
        *map(backend.to_json, (about["parameters"], about["figures"], about["versions"])),
        *(about["seconds"], data),
    )
    return int(stored[0]["model_id"])
