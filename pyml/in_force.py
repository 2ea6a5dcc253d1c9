"""The current model: whether a stored model may be used, as things stand now."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyml import queries
from pyml.detectors.base import Detector
from pyml.errors import ModelNotFound, UnreadableModel
from pyml.forecasters.base import Forecaster
from pyml.models import blob
from pyml.models.blob import Owner
from pyml.telemetry.history import Execute
from pyml.telemetry.series import Metric
from pyml.telemetry.window import metric_of

Load = Callable[[Owner[Any], int, str], blob.Model[Any]]
"""Gives a stored model of an owner, by its model_id and sha256."""


def stored(
    execute: Execute, owner: Owner[Any], model_id: int | None, sha256: str
) -> blob.Model[Any]:
    """A stored model, ready; without a `model_id` the fleet's of its kind.

    Raises
    ------
    ModelNotFound
    UnreadableModel
    """
    fleets = model_id is None
    found = execute(queries.FLEET_BLOB, owner.kind) if fleets else execute(queries.BLOB, model_id)
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
    model: blob.Model[Any] = blob.load(owner, found[0]["blob"])
    return model


@functools.lru_cache(maxsize=4)
def _configured(rows: str | None) -> dict[str, Metric]:
    """The metrics of `ml_metric` by name, from `queries.CONTEXT`."""
    metrics = [Metric(*row) for row in json.loads(rows or "[]")]
    return {metric.name: metric for metric in metrics}


def check_metrics(
    used: Sequence[Metric], totals: Sequence[str], field: str, rows: str | None
) -> None:
    """Refuse a model that reads anything but what it is meant to read, as things stand now.

    Whoever may train chooses what a model says of itself. Whoever scores with it may read
    more than they, and a scan writes down what it reads.

    Parameters
    ----------
    used : sequence of Metric
        What the model reads.
    totals : sequence of str
        The paths of totals that it reads besides.
    field : str
        A forecast's: a metric's name, or a path. A detector's is empty.
    rows : str or None
        `metrics` of `queries.CONTEXT`: all metrics, those that are disabled too.

    Raises
    ------
    UnreadableModel
    """
    known = _configured(rows)
    meant = {field: known.get(field) or metric_of(field, ())} if field else known
    for metric in used:
        if metric != meant.get(metric.name):
            raise UnreadableModel(
                f"the stored model is not of the metrics that are configured: {metric.name}",
                detail=f"It reads {metric.path}; ml_metric has no such row now.",
            )
    strangers = set(totals) - {metric.divisor_path for metric in known.values()}
    if strangers:
        raise UnreadableModel(
            "the stored model is not of the metrics that are configured",
            detail=f"It reads the totals {', '.join(sorted(strangers))}; ml_metric has none there.",
        )


def check(owner: Owner[Any], model: blob.Model[Any], field: str, rows: str | None) -> None:
    """`check_metrics` of a stored model."""
    if isinstance(owner, Detector):
        check_metrics(model.knows.metrics, (), "", rows)
    else:
        check_metrics([model.knows.metric], model.knows.totals, field, rows)


def fleets(
    execute: Execute, forecaster: Forecaster[Any], field: str, load: Load
) -> tuple[int, blob.Model[Any]] | None:
    """The fleet's model of a field, with its model_id; None where there is none to use."""
    for row in execute(queries.FLEET_MODEL, forecaster.kind, field) if forecaster.pools else ():
        model = usable(forecaster, row, field, load)
        if model is not None:
            return int(row["model_id"]), model
    return None


def usable(
    forecaster: Forecaster[Any],
    row: Mapping[str, Any],
    field: str,
    load: Load,
) -> blob.Model[Any] | None:
    """The forecast model in a row of `queries.CURRENT_MODEL`, for a training to start from."""
    if row["model_id"] is None:
        return None
    try:
        model = load(forecaster, row["model_id"], row["sha256"])
        check(forecaster, model, field, row["metrics"])
        return model
    except UnreadableModel:
        return None
