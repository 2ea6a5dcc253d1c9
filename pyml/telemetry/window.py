"""What a field means, and its values in a window of a device's history."""

from collections.abc import Sequence

import numpy as np

from pyml import queries
from pyml.errors import NotEnoughData, PymlError, UnknownField
from pyml.telemetry import series
from pyml.telemetry.history import Execute, Floats, History, iso


def measured(
    history: History,
    device: str,
    since: float,
    until: float,
    metrics: Sequence[series.Metric],
    interval: float | None = None,
    back: float = 0.0,
) -> tuple[series.Readings, Floats, float]:
    """Clean readings of a window, the metrics' values (n, m) at each, and the interval.

    Readings of `back` seconds before it come too; repeats and rejected rows there are not counted.
    """
    paths, totals = series.columns_of(metrics)
    times, columns = history.read(device, since - back, until, paths)
    readings = series.clean(times, columns, totals, interval, since)
    step = series.typical_interval(readings.times) if interval is None else interval
    return readings, series.measure(readings, metrics, step), step


def series_of(
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


def metrics_of(execute: Execute, *, enabled: bool = False) -> list[series.Metric]:
    """All metrics, or those that are enabled for detection; in the order of their names."""
    found = [dict(row) for row in execute(queries.METRICS)]
    return [series.Metric(**row) for row in found if row.pop("enabled") or not enabled]


def bounds_of(execute: Execute, field: str) -> tuple[float | None, float | None]:
    """Least and greatest value of a field, where known."""
    found = execute(queries.BOUNDS, field)
    return (found[0]["lower_bound"], found[0]["upper_bound"]) if found else (None, None)


def metric_of(field: str, known: Sequence[series.Metric]) -> series.Metric:
    """What a field means: a metric by its name, or the number at a path."""
    for metric in known:
        if metric.name == field:
            return metric
    return series.Metric(field, field, None, 1.0, "gauge")


def no_numbers(
    history: History, device: str, metric: series.Metric, since: float, until: float
) -> PymlError:
    """Why a field has no number in a window."""
    types = history.types(device, since, until, metric.path)
    rows_read = sum(types.values())
    known_as = history.id(device)
    newest = history.parts.newest_state(known_as)
    if not rows_read:
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
    known: Sequence[series.Metric],
) -> tuple[series.Metric, list[str], series.Readings, Floats]:
    """What a field means, the paths of totals, and a window's readings and values of it.

    Raises
    ------
    NotEnoughData, UnknownField
        There is no number.
    """
    metric = metric_of(field, known)
    paths, places = series.columns_of(known)
    totals = [paths[place] for place in places]
    readings, values = series_of(history, device, since, until, metric, totals)
    if not np.isfinite(values).any():
        raise no_numbers(history, device, metric, since, until)
    return metric, totals, readings, values
