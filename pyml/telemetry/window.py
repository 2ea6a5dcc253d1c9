"""What a field means, and a window of a device's history as readings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyml import queries
from pyml.errors import NotEnoughData, PymlError, UnknownField
from pyml.telemetry.habits import Habit
from pyml.telemetry.history import Execute, History, iso
from pyml.telemetry.messages import Received, received
from pyml.telemetry.quiet import NOTHING, LeftOut, Quiet
from pyml.telemetry.readings import Readings, assemble, learn, lookback
from pyml.telemetry.series import Metric, columns_of


@dataclass(frozen=True, slots=True)
class Learned:
    """A window's readings, and what was learned of its m metrics to make them.

    Attributes
    ----------
    readings : Readings
    habits : tuple of Habit, length m
    interval : float
        Seconds between two readings.
    left_out : LeftOut
        By quiet windows.
    """

    readings: Readings
    habits: tuple[Habit, ...]
    interval: float
    left_out: LeftOut


def learned(
    history: History,
    device: str,
    since: float,
    until: float,
    metrics: Sequence[Metric],
    quiet: Quiet,
    most: int | None = None,
) -> Learned:
    """About `most` readings of a window, from which the metrics' habits are learned too."""
    paths, totals = columns_of(metrics)
    times, columns = history.read(device, since, until, paths)
    times, columns, left_out = quiet.left_out(times, columns, metrics, paths)
    return _learned(received(times, columns, totals), len(times), metrics, quiet, left_out, most)


def _learned(
    found: Received,
    messages: int,
    metrics: Sequence[Metric],
    quiet: Quiet,
    left_out: LeftOut,
    most: int | None,
) -> Learned:
    habits, interval = learn(found, metrics, quiet)
    interval *= math.ceil(messages / most) if most and messages else 1
    readings = assemble(found, metrics, habits, interval).without(quiet, metrics)
    return Learned(readings, habits, interval, left_out)


def measured(
    history: History,
    device: str,
    since: float,
    until: float,
    metrics: Sequence[Metric],
    habits: Sequence[Habit],
    interval: float,
    back: float = 0.0,
) -> Readings:
    """The readings of a window, and of `back` seconds before it."""
    paths, totals = columns_of(metrics)
    first = since - back - lookback(metrics, habits, interval)
    times, columns = history.read(device, first, until, paths)
    found = received(times, columns, totals)
    return assemble(found, metrics, habits, interval).after(since - back)


def signal(
    history: History,
    device: str,
    since: float,
    until: float,
    metric: Metric,
    totals: Sequence[str],
    habit: Habit,
    interval: float,
) -> Readings:
    """The readings of one metric in a window."""
    first = since - lookback([metric], [habit], interval)
    found, _, _ = _signal(history, device, first, until, metric, totals, NOTHING)
    return assemble(found, [metric], [habit], interval).after(since)


def _signal(
    history: History,
    device: str,
    since: float,
    until: float,
    metric: Metric,
    totals: Sequence[str],
    quiet: Quiet,
) -> tuple[Received, int, LeftOut]:
    """What the messages of a window say of one metric, their number, and what is left out."""
    paths, own = columns_of([metric])
    others = [path for path in totals if path not in paths]
    times, columns = history.read(device, since, until, paths)
    if others and (columns[:, 0] == 0).any():
        # Only where the value is 0 can the collection have failed: then the totals are read.
        times, columns = history.read(device, since, until, paths + others)
        columns[columns[:, 0] != 0, len(paths) :] = np.nan
        own = [*own, *range(len(paths), len(paths) + len(others))]
    times, columns, left_out = quiet.left_out(times, columns, [metric], paths)
    return received(times, columns, own), len(times), left_out


def metrics_of(execute: Execute, *, enabled: bool = False) -> list[Metric]:
    """All metrics, or those that are enabled for detection; in the order of their names."""
    found = [dict(row) for row in execute(queries.METRICS)]
    return [Metric(**row) for row in found if row.pop("enabled") or not enabled]


def metric_of(field: str, known: Sequence[Metric]) -> Metric:
    """What a field means: a metric by its name, or the number at a path.

    The number at the path of a metric that takes it as it is has that metric's bounds.
    """
    for metric in known:
        if metric.name == field:
            return metric
    for metric in known:
        if metric.is_plain and metric.path == field:
            return replace(metric, name=field)
    return Metric(field, field, None, 1.0, "gauge")


def no_numbers(
    history: History, device: str, metric: Metric, since: float, until: float
) -> PymlError:
    """Why a field has no number in a window.

    Raises
    ------
    ModelNotFound
        There is no such device.
    """
    types = history.types(device, since, until, metric.path)
    rows_read = sum(types.values())
    known_as = history.id(device)
    newest = history.parts.newest_state(known_as)
    if not rows_read:
        history.require(device)
        return NotEnoughData(
            f"device {known_as} has no readings in the window",
            detail=f"Looked in {history.settings['history_table']} from {iso(since)} to "
            f"{iso(until)}.",
            hint=newest,
        )
    found = ", ".join(f"{name} in {count} rows" for name, count in types.items())
    return UnknownField(
        f"field {metric.path} holds no usable number",
        detail=f"Found: {found}.",
        hint=newest,
    )


def window(
    history: History,
    device: str,
    since: float,
    until: float,
    field: str,
    known: Sequence[Metric],
    quiet: Quiet = NOTHING,
    most: int | None = None,
) -> tuple[Metric, list[str], Learned]:
    """What a field means, the paths of totals, and the readings of a window, about `most` of them.

    Raises
    ------
    ModelNotFound, NotEnoughData, UnknownField
        There is no number.
    """
    metric = metric_of(field, known)
    paths, places = columns_of(known)
    totals = [paths[place] for place in places]
    came, messages, left_out = _signal(history, device, since, until, metric, totals, quiet)
    found = _learned(came, messages, [metric], quiet, left_out, most)
    if not np.isfinite(found.readings.values).any():
        raise no_numbers(history, device, metric, since, until)
    return metric, totals, found
