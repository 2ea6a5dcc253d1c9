"""A device's history -> a model to store, the same in a backend and on a worker elsewhere."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from pyml import background, in_force, queries
from pyml.detectors.base import DETECTORS, Detector, Fitted, Signals
from pyml.errors import BadArgument, BrokenEnvironment, NotEnoughData
from pyml.following import LEADS, Follower, Following
from pyml.forecasters.base import FORECASTERS, Forecaster, Previous
from pyml.forms import MAX_METRICS
from pyml.models import blob
from pyml.models.about import About, versions
from pyml.models.blob import Owner
from pyml.telemetry.history import LONGEST_HOURS, Execute, Floats, History, iso
from pyml.telemetry.readings import MISSING, QUALITIES, Readings
from pyml.telemetry.series import Metric, regular
from pyml.telemetry.window import learned, metrics_of, window

T = TypeVar("T")
Poll = Callable[[], object]
"""Called several times a second by whoever waits for a training; what it raises ends that."""

# Readings that a model is trained on, at most and about: what comes faster is thinned evenly.
MOST_READINGS = 200_000


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes
    ----------
    data : bytes or None
        The model as it is stored; None where the current one is better and stays.
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch of the readings that it was trained on.
    rejected : int
        Rows without one usable number.
    parameters, figures : dict
        JSON-able: settings, metrics and seed; what was measured on held-out data.
    details : dict
        JSON-able: what its caller may want to know besides.
    followers : tuple of Follower
        The finders that were trained with it.
    """

    data: bytes | None
    times: Floats
    rejected: int
    parameters: dict[str, Any]
    figures: dict[str, Any]
    details: dict[str, Any]
    followers: tuple[Follower, ...] = ()

    def about(self, seconds: float) -> About:
        """What is stored beside the model."""
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
    given = execute(queries.GIVEN, device, kind, field)[0]["given"]
    until = float(row["now"])
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
        poll=poll,
    )


def _taken(
    owner: Owner[Any], settings: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a training takes: the arguments that a person gave, and else the device's settings."""
    return {
        name: kind(given.get(name, settings[setting]))
        for name, (setting, kind) in owner.settings.items()
    } | {"hours": int(given.get("hours", settings["training_hours"]))}


def _beside(prepare: Callable[[], object], work: Callable[[background.Pulse], T], poll: Poll) -> T:
    """Run a training in a thread of its own, while the caller's thread goes on polling.

    `prepare` loads the training's library: a cancel need not wait for that.

    Raises
    ------
    BrokenEnvironment
        A library is missing.
    """
    try:
        background.prepare(prepare, poll)
        return background.run(work, poll)
    # The second is what a compiled module raises that gets no memory as it is loaded.
    except (ImportError, SystemError) as error:
        raise BrokenEnvironment(
            f"a library for training cannot be loaded: {error}",
            detail="Scoring goes on without it.",
            hint="SELECT * FROM ml_doctor();",
        ) from error


# ---- detectors -------------------------------------------------------------------


def train_detector(
    detector: Detector[Any],
    history: History,
    metrics: Sequence[Metric],
    device: str,
    *,
    given: Mapping[str, Any],
    until: float,
    poll: Poll,
) -> Trained:
    """Train a detector on a device's last hours up to `until`.

    Parameters
    ----------
    metrics : sequence of Metric
        Those that are enabled for detection.
    given : mapping
        Arguments that a person gave, by parameter, ``hours`` among them. They stay: a later
        training keeps to them, whatever the settings.

    Raises
    ------
    BadArgument
        Too many metrics, or none.
    ModelNotFound
        There is no such device.
    NotEnoughData
    """
    if not 1 <= len(metrics) <= MAX_METRICS:
        raise BadArgument(
            f"{len(metrics) or 'no'} metrics are enabled",
            detail=f"A detector takes 1 to {MAX_METRICS}.",
            hint="UPDATE ml_metric SET enabled = built_in;",
        )
    own = history.settings_of(device)
    settings = _taken(detector, own, given)
    hours = settings["hours"]
    since = until - hours * 3600
    reported = history.present(device, since, until, metrics) or metrics
    quiet = history.quiet(device, since, until)
    found = learned(history, device, since, until, reported, quiet, MOST_READINGS)
    readings, ledger = found.readings, found.readings.ledger()
    usable = int(np.isfinite(readings.came().values).any(axis=1).sum())
    needed = int(history.settings["min_training_samples"])
    if usable < needed:
        of_no_use = ledger.rejected, found.left_out.rows
        raise _too_few(detector, history, device, usable, needed, hours, *of_no_use)
    names = tuple(metric.name for metric in reported)
    signals = Signals.of(readings, names, found.interval, quiet)
    following = Following([], {})

    def fit(pulse: background.Pulse) -> Fitted[Any]:
        fitted = detector.fit(signals, settings, pulse)
        if detector.kind == LEADS:  # finders look at the metrics that it uses
            mine = signals.of_metrics(fitted.model.names)
            finders = Following.of(mine, own, pulse)
            following.fitted, following.left_out = finders.fitted, finders.left_out
        return fitted

    fitted = _beside(detector.load, fit, poll)
    used = [names.index(name) for name in fitted.model.names]
    poll()
    known = [reported[i] for i in used], [found.habits[i] for i in used]
    model = fitted.model.knowing(*known)
    followers = following.stored(model.names, *known)
    left_out = _left_out(metrics, names, model.names, readings, hours)
    why_not = {metric.name: left_out.get(metric.name) for metric in metrics}
    return Trained(
        blob.pack(detector, fitted.numbers, model),
        readings.came().times,
        ledger.rejected,
        {
            **settings,
            "given": dict(given),
            "metrics": [asdict(metric) for metric in metrics],
            "signals": why_not,
            "quiet": found.left_out._asdict(),
        },
        fitted.figures,
        {
            "training_samples": ledger.used,
            "rejected_samples": ledger.rejected,
            "repeated_samples": ledger.merged,
            "quiet_samples": found.left_out.rows,
            "features": list(model.names),
            "left_out": left_out,
            "finders": [one.kind for one in followers],
            "finders_left_out": following.left_out,
            "window_start": iso(readings.times[0]),
            "window_end": iso(readings.times[-1]),
        },
        followers,
    )


def _left_out(
    metrics: Sequence[Metric],
    reported: Sequence[str],
    used: Sequence[str],
    readings: Readings,
    hours: int,
) -> dict[str, str]:
    """Why each metric that is enabled and not in a model is not."""
    every = readings.samples()
    found = {}
    for name in sorted({metric.name for metric in metrics} - {*used}):
        counts = every[reported.index(name)] if name in reported else np.zeros(len(QUALITIES))
        share = counts / max(1, counts.sum())
        worst = int(np.argmax(share[1:])) + 1
        found[name] = (
            f"{share[worst]:.0%} of its samples in {hours} h are {QUALITIES[worst]}"
            if worst != MISSING and share[worst] > 0
            else f"it has a value in {1 - share[MISSING]:.0%} of the readings of {hours} h"
            if counts.any() and share[MISSING] < 1
            else f"nothing came in {hours} h"
        )
    return found


def _wider(hours: int) -> int:
    """The hours that a person is to try where those were too few."""
    return min(hours * 4, LONGEST_HOURS)


def _too_few(
    detector: Detector[Any],
    history: History,
    device: str,
    usable: int,
    needed: int,
    hours: int,
    rejected: int,
    quiet: int,
) -> NotEnoughData:
    in_windows = f", and {quiet} were in quiet windows" * (quiet > 0)
    if not usable:
        history.require(device)
    return NotEnoughData(
        f"device {history.id(device)} has {usable} usable readings, {needed} are needed",
        detail=f"Looked at {hours} hours of {history.settings['history_table']}; "
        f"{rejected} more rows there held no usable number{in_windows}.",
        hint=detector.training_call(history.id(device), hours=_wider(hours))
        if usable
        else history.parts.newest_state(history.id(device)),
    )


# ---- forecasters -----------------------------------------------------------------


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

    Raises
    ------
    ModelNotFound, NotEnoughData, UnknownField
    """
    settings = _taken(forecaster, history.settings_of(device), given)
    hours = settings["hours"]
    since = until - hours * 3600
    quiet = history.quiet(device, since, until)
    metric, totals, found = window(
        history, device, since, until, field, known, quiet, MOST_READINGS
    )
    readings, (habit,) = found.readings, found.habits
    ledger = readings.ledger()
    values = readings.values[:, 0]
    usable = int(np.isfinite(readings.came().values).sum())
    grid = regular(readings.times, values, found.interval)
    bounds = (metric.lower, metric.upper)
    previous = None
    if (
        current
        and current.knows.metric == metric
        and all(getattr(current.knows, name) == settings[name] for name in forecaster.shape)
    ):
        previous = Previous(current.numbers, current.knows, current.run)
    asked = {name: settings[name] for name in forecaster.settings}
    asked["level"] = float(history.settings["forecast_level"])
    try:
        fitted = _beside(
            lambda: forecaster.load(asked),
            lambda pulse: forecaster.fit(grid, asked, bounds, previous, pulse),
            poll,
        )
    except NotEnoughData as error:
        error.hint = forecaster.training_call(history.id(device), field, _wider(hours))
        raise
    finally:
        background.trim()
    model = fitted.model.knowing(metric, habit, totals)
    accepted = bool(fitted.figures.get("accepted", True))
    rejected = ledger.used + ledger.rejected - usable
    return Trained(
        blob.pack(forecaster, fitted.numbers, model) if accepted else None,
        grid.times,
        rejected,
        {
            **settings,
            "given": dict(given),
            "metric": asdict(metric),
            "quiet": found.left_out._asdict(),
        },
        fitted.figures,
        {
            "accepted": accepted,
            "training_samples": usable,
            "rejected_samples": rejected,
            "quiet_samples": sum([found.left_out.rows, *found.left_out.values.values()]),
            "forecast_horizon": model.horizon,
            "interval_seconds": grid.interval,
        },
    )
