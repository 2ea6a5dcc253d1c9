"""A history -> a model to store, the same in a backend and on a worker elsewhere."""

import json
from collections.abc import Mapping
from typing import Any

from pyml import in_force, queries
from pyml.detectors.base import DETECTORS
from pyml.forecasters.base import FORECASTERS
from pyml.models.blob import Owner
from pyml.telemetry.history import Execute, History
from pyml.telemetry.window import metrics_of
from pyml.training.base import FLEET, Poll, Trained
from pyml.training.detectors import train_detector
from pyml.training.forecasters import train_fleet, train_forecaster

__all__ = [
    "FLEET",
    "Poll",
    "Trained",
    "owner_of",
    "train",
    "train_detector",
    "train_fleet",
    "train_forecaster",
]


def owner_of(kind: str) -> Owner[Any] | None:
    """The detector or the forecaster of a kind."""
    return DETECTORS.get(kind) or FORECASTERS.get(kind)


def train(
    execute: Execute,
    load: in_force.Load,
    history: History,
    device: str,
    kind: str,
    field: str,
    row: Mapping[str, Any],
    poll: Poll,
) -> Trained:
    """Train a model that is due, with the arguments that a person gave to the current one.

    Parameters
    ----------
    execute : callable
        Sends statements to where models are stored.
    load : callable
    history : History
        Where the readings are, be it elsewhere.
    device, kind, field : str
        The model; a detector's field is empty.
    row : mapping
        Of `queries.CURRENT_MODEL`.
    poll : callable
    """
    until = float(row["now"])
    if device == FLEET:
        known = metrics_of(execute)
        devices = [one["device"] for one in execute(queries.FLEET_SAMPLE)]
        return train_fleet(FORECASTERS[kind], history, known, devices, field, until, poll)
    given = execute(queries.GIVEN, device, kind, field)[0]["given"]
    if kind in DETECTORS:
        return train_detector(
            DETECTORS[kind],
            history,
            metrics_of(execute, enabled=True),
            device,
            given=json.loads(given),
            until=until,
            poll=poll,
        )
    return train_forecaster(
        FORECASTERS[kind],
        history,
        metrics_of(execute),
        device,
        field,
        given=json.loads(given),
        until=until,
        current=in_force.usable(FORECASTERS[kind], row, field, load),
        fleet=in_force.fleets(execute, FORECASTERS[kind], field, load),
        poll=poll,
    )
