"""The stored models as a backend uses them: the one in force, kept ready; a new one, put there."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pyml import queries, training
from pyml.errors import ModelNotFound, UnreadableModel, unreadable
from pyml.models import blob, limits
from pyml.server import backend
from pyml.telemetry.history import History, metric_of, metrics_of

T = TypeVar("T")

# Memory that the models kept ready in one backend may take.
CACHE_BYTES = 10 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """The model in force for a device, kind and field, when it was looked up."""

    now: float
    model_id: int
    trained_at: float
    readings_used: int
    figures: str
    model: blob.Model
    hint: str

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Whatever is raised while the model is used is said of it, with what to do.

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

    def told(self) -> dict[str, Any]:
        """What is told of the figures beside a forecast.

        Raises
        ------
        UnreadableModel
        """
        figures = limits.parsed(self.figures)
        with self.speaking():
            if not limits.FIGURES(figures):
                raise unreadable("figures of another form")
        return dict(figures)


_cache: OrderedDict[tuple[int, str, str], blob.Model] = OrderedDict()


def ready(model_id: int, sha256: str, kind: str) -> blob.Model:
    """A stored model, ready; kept for the session, the least used leaving first.

    Rows never change, so that what is kept cannot be stale.
    """
    key = (model_id, sha256, kind)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    model = _cache[key] = training.stored(backend.execute, model_id, sha256, kind)
    while len(_cache) > 1 and sum(kept.size for kept in _cache.values()) > CACHE_BYTES:
        _cache.popitem(last=False)
    return model


def training_call(device: str, kind: str, field: str) -> str:
    """The statement that trains a model."""
    if kind == "forest":
        return f"SELECT ml_train_forest('{device}');"
    return f"SELECT ml_train_lstm('{device}', {queries.literal(field)});"


def telling(hint: str, model_id: int | None, call: Callable[..., T], *args: Any) -> T:
    """What a call gives; of a model that cannot be read it says which one and what to do."""
    try:
        return call(*args)
    except UnreadableModel as error:
        error.hint, error.model_id = hint, model_id
        raise


def in_force(device: str, kind: str, field: str = "") -> tuple[History, Held]:
    """The history's description and the model in force.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    row = backend.execute(queries.CURRENT_MODEL, device, kind, field)[0]
    history = backend.history_of(row)
    try:
        return history, held(row, device, kind, field)
    except ModelNotFound as error:
        if kind == "lstm":
            _no_number(error, history, device, field, float(row["now"]))
        raise


def _no_number(error: ModelNotFound, history: History, device: str, field: str, now: float) -> None:
    """Where a field holds no number, a training is not what helps."""
    metric = metric_of(field, metrics_of(backend.execute))
    hours = int(history.settings["training_hours"])
    types = history.types(device, now - hours * 3600, now, metric.path)
    if "number" not in types:
        found = ", ".join(f"{name} in {count} rows" for name, count in types.items())
        error.detail = f"None can be trained: in the last {hours} hours it held no number." + (
            f" Found: {found}." if found else " There were no readings."
        )
        error.hint = queries.newest_state(history.settings, history.table, device)


def held(row: Mapping[str, Any], device: str, kind: str, field: str) -> Held:
    """The model in force, of a row that tells of it."""
    if row["model_id"] is None:
        what = "forest" if kind == "forest" else f"forecast model of {field}"
        raise ModelNotFound(
            f"device {device} has no {what}",
            detail="None was trained for it, or it was dropped.",
            hint=training_call(device, kind, field),
        )
    hint = training_call(device, kind, field)
    model = telling(hint, row["model_id"], ready, row["model_id"], row["sha256"], kind)
    telling(hint, row["model_id"], training.check_metrics, model.meta, kind, field, row["metrics"])
    return Held(
        float(row["now"]),
        row["model_id"],
        float(row["trained_at"]),
        row["readings_used"],
        row["figures"],
        model,
        hint,
    )


def keep(
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
        backend.execute(
            queries.PUT_RUN,
            *(device, kind, field, about["seconds"], "kept", current),
            *(backend.to_json(about["figures"]), None, None),
        )
    else:
        model_id = put(device, kind, field, trained.data, about)
    return {
        "device_uuid": device,
        "model_id": model_id,
        **trained.told,
        "held_out": trained.figures,
        "seconds": round(time.monotonic() - started, 3),
    }


def put(device: str, kind: str, field: str, data: bytes, about: Mapping[str, Any]) -> int:
    """Add a model and put it in force; readers see the old one or the new."""
    stored = backend.execute(
        queries.PUT_MODEL,
        *(device, kind, field, about["window_start"], about["window_end"]),
        *(about["readings_used"], about["readings_rejected"]),
        *(backend.to_json(about[name]) for name in ("parameters", "figures", "versions")),
        *(about["seconds"], data),
    )
    return int(stored[0]["model_id"])
