"""A device's history -> a detector to store, with the finders that follow it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pyml import background
from pyml.detectors.base import Detector, Fitted, Signals
from pyml.errors import BadArgument, NotEnoughData
from pyml.following import LEADS, Following
from pyml.forms import MAX_METRICS
from pyml.models import blob
from pyml.telemetry.history import History, iso
from pyml.telemetry.readings import MISSING, QUALITIES, Readings
from pyml.telemetry.series import Metric
from pyml.telemetry.window import learned
from pyml.training.base import MOST_READINGS, Poll, Trained, beside, taken, try_again


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
    settings = taken(detector, own, given)
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
        raise _too_few(detector, history, device, until, usable, needed, hours, *of_no_use)
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

    fitted = beside(detector.load, fit, poll)
    used = [names.index(name) for name in fitted.model.names]
    poll()
    known = [reported[i] for i in used], [found.habits[i] for i in used]
    model = fitted.model.knowing(*known)
    followers = following.stored(model.names, *known)
    left_out = _left_out(metrics, names, model.names, readings, hours)
    why_not = {metric.name: left_out.get(metric.name) for metric in metrics}
    return Trained(
        data=blob.pack(detector, fitted.numbers, model),
        times=readings.came().times,
        rejected=ledger.rejected,
        parameters={
            **settings,
            "given": dict(given),
            "metrics": [asdict(metric) for metric in metrics],
            "signals": why_not,
            "quiet": found.left_out._asdict(),
        },
        figures=fitted.figures,
        details={
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
        followers=followers,
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


def _too_few(
    detector: Detector[Any],
    history: History,
    device: str,
    until: float,
    usable: int,
    needed: int,
    hours: int,
    rejected: int,
    quiet: int,
) -> NotEnoughData:
    in_windows = f", and {quiet} were in quiet windows" * (quiet > 0)
    if not usable:
        history.require(device)

    def call(hours: int | None) -> str:
        return detector.training_call(history.id(device), hours=hours)

    return NotEnoughData(
        f"device {history.id(device)} has {usable} usable readings, {needed} are needed",
        detail=f"Looked at {hours} hours of {history.settings['history_table']}; "
        f"{rejected} more rows there held no usable number{in_windows}.",
        hint=try_again(call, history, device, until, hours, -(-hours * needed // usable) + 1)
        if usable
        else history.parts.newest_state(history.id(device)),
    )
