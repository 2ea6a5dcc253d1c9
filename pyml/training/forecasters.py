"""A device's history -> a forecast to store; and that of many devices -> one of the fleet."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from pyml import background
from pyml.detectors.pooling import PARAMETERS, pooled
from pyml.errors import ModelNotFound, NotEnoughData, UnknownField
from pyml.forecasters.base import Forecaster, Previous
from pyml.models import blob
from pyml.telemetry.habits import Habit
from pyml.telemetry.history import Floats, History
from pyml.telemetry.series import Grid, Metric, regular
from pyml.telemetry.window import Learned, window
from pyml.training.base import MOST_READINGS, Poll, Trained, beside, taken, try_again

# Devices that a fleet's model is trained on, at most.
MOST_DEVICES = 60


def train_forecaster(
    forecaster: Forecaster[Any],
    history: History,
    known: Sequence[Metric],
    device: str,
    field: str,
    *,
    given: Mapping[str, Any],
    until: float,
    current: blob.Model[Any] | None,
    fleet: tuple[int, blob.Model[Any]] | None,
    poll: Poll,
) -> Trained:
    """Train a forecast of a field on a device's last hours up to `until`.

    Parameters
    ----------
    known : sequence of Metric
        All metrics, enabled for detection or not.
    given : mapping
        As in `train_detector`.
    current : Model or None
        The model to start from and to be better than, where it is of the shape now asked for.
    fleet : tuple or None
        The fleet's model_id and model, likewise to be better than.

    Raises
    ------
    ModelNotFound, NotEnoughData, UnknownField
    """
    settings = taken(forecaster, history.settings_of(device), given)
    hours = settings["hours"]
    metric, totals, found, grid = _read(history, device, field, known, hours, until)
    readings, (habit,) = found.readings, found.habits
    ledger = readings.ledger()
    usable = int(np.isfinite(readings.came().values).sum())
    bounds = (metric.lower, metric.upper)

    def alike(model: blob.Model[Any] | None) -> Previous[Any] | None:
        if model is None or model.knows.metric != metric:
            return None
        if any(getattr(model.knows, name) != settings[name] for name in forecaster.shape):
            return None
        return Previous(model.numbers, model.knows, model.run)

    rival = alike(fleet[1] if fleet else None)
    asked = _asked(forecaster, settings, history)
    try:
        fitted = beside(
            lambda: forecaster.load(asked),
            lambda pulse: forecaster.fit(grid, asked, bounds, alike(current), rival, pulse),
            poll,
        )
    except NotEnoughData as error:
        call = partial(forecaster.training_call, history.id(device), field)
        error.hint = try_again(call, history, device, until, hours, error.hours)
        raise
    finally:
        background.trim()
    model = fitted.model.knowing(metric, habit, totals)
    better = bool(fitted.figures.get("beats_fleet", True))
    accepted = better and bool(fitted.figures.get("accepted", True))
    rejected = ledger.used + ledger.rejected - usable
    return Trained(
        data=blob.pack(forecaster, fitted.numbers, model) if accepted else None,
        times=grid.times,
        rejected=rejected,
        parameters={
            **settings,
            "given": dict(given),
            "metric": asdict(metric),
            "quiet": found.left_out._asdict(),
        },
        figures=fitted.figures,
        details={
            "accepted": accepted,
            "training_samples": usable,
            "rejected_samples": rejected,
            "quiet_samples": sum([found.left_out.rows, *found.left_out.values.values()]),
            "forecast_horizon": model.horizon,
            "interval_seconds": grid.interval,
        },
        instead=fleet[0] if fleet and not better else None,
    )


def train_fleet(
    forecaster: Forecaster[Any],
    history: History,
    known: Sequence[Metric],
    devices: Sequence[str],
    field: str,
    until: float,
    poll: Poll,
) -> Trained:
    """Train one forecast of a field on the last hours of many devices, up to `until`.

    Parameters
    ----------
    known : sequence of Metric
        All metrics, enabled for detection or not.
    devices : sequence of str
        In the order in which they are asked; those that do not report the field are passed over.

    Raises
    ------
    NotEnoughData
        It takes longer than the settings allow.
    UnknownField
        Too few devices report it.
    """
    settings = taken(forecaster, history.settings, {})
    hours = settings["hours"]
    longest = float(history.settings["fleet_training_seconds"])
    begun = time.monotonic()

    def within() -> None:
        poll()
        if time.monotonic() - begun > longest:
            raise NotEnoughData(
                f"the forecast of {field} of the fleet took longer than {longest:g} s",
                detail="What is in force stays.",
                hint=f"UPDATE ml_setting SET value = '{2 * longest:g}' "  # noqa: S608 (a hint)
                "WHERE name = 'fleet_training_seconds';",
            )

    grids: list[Grid] = []
    habits: list[Habit] = []
    times: list[Floats] = []
    for device in devices:
        within()
        with suppress(NotEnoughData, UnknownField, ModelNotFound):
            metric, totals, found, grid = _read(history, device, field, known, hours, until)
            grids.append(grid)
            habits += found.habits
            times.append(found.readings.came().times)
        if len(grids) == MOST_DEVICES:
            break
    if len(grids) < PARAMETERS.least:
        raise UnknownField(
            f"{len(grids)} devices report {field}; the forecast of a fleet takes"
            f" {PARAMETERS.least}",
            detail=f"{len(devices)} devices were asked.",
            hint="SELECT * FROM ml_discover();",
        )
    asked = _asked(forecaster, settings, history)
    try:
        fitted = beside(
            lambda: forecaster.load(asked),
            lambda pulse: forecaster.fit_fleet(grids, asked, pulse),
            within,
        )
    finally:
        background.trim()
    model = fitted.model.knowing(metric, pooled(habits), totals)
    of_all = np.sort(np.concatenate(times))
    return Trained(
        data=blob.pack(forecaster, fitted.numbers, model),
        times=of_all,
        rejected=0,
        parameters={**settings, "given": {}, "metric": asdict(metric)},
        figures=fitted.figures,
        details={
            "accepted": True,
            "devices": len(grids),
            "training_samples": len(of_all),
            "forecast_horizon": model.horizon,
        },
    )


def _read(
    history: History,
    device: str,
    field: str,
    known: Sequence[Metric],
    hours: int,
    until: float,
) -> tuple[Metric, list[str], Learned, Grid]:
    """What a field means, the paths of totals, and a device's last hours, also on its grid."""
    since = until - hours * 3600
    quiet = history.quiet(device, since, until)
    metric, totals, found = window(
        history, device, since, until, field, known, quiet, MOST_READINGS
    )
    readings = found.readings
    grid = regular(readings.times, readings.values[:, 0], found.interval)
    return metric, totals, found, grid


def _asked(
    forecaster: Forecaster[Any], settings: Mapping[str, Any], history: History
) -> dict[str, Any]:
    """What a forecaster's training is given."""
    asked = {name: settings[name] for name in forecaster.settings}
    return asked | {"level": float(history.settings["forecast_level"])}
