"""What a device's fields measured over a span of time, and what is usual of them."""

from collections.abc import Iterator

import numpy as np

from pyml import queries
from pyml.detectors.base import DETECTORS, SEVERITIES
from pyml.errors import ModelNotFound, NotEnoughData, UnknownField
from pyml.server import arguments, backend, store
from pyml.server.backend import Row, rows
from pyml.telemetry.history import LONGEST_HOURS, Floats, History
from pyml.telemetry.readings import OK
from pyml.telemetry.series import Metric, columns_of
from pyml.telemetry.thinning import thinned
from pyml.telemetry.window import metric_of, metrics_of, window

# Values below which there is no judgement; deviations beyond which an anomaly is critical.
LEAST_VALUES, CRITICAL_Z = 10, 3.0
# Values that a client may ask for at a time.
MOST_POINTS = 100_000
# Seconds between two points of what is usual at most: it goes in straight lines between half hours.
USUAL_STEP = 1800.0


def _history() -> History:
    return backend.history_of(backend.execute(queries.CONTEXT)[0])


def _measured(
    history: History, device: str, field: str, since: float, until: float, known: list[Metric]
) -> tuple[Floats, Floats]:
    """Times and values of what a field measured in a window."""
    _, _, found = window(history, device, since, until, field, known)
    came = found.readings.came()
    good = came.quality[:, 0] == OK
    return came.times[good], backend.shown(came.values[good, 0])


@rows
def history(device: str, field: str, since: str, until: str, points: int) -> Iterator[Row]:
    """``ml_history``."""
    arguments.given(device=device, field=field, since=since, until=until, points=points)
    arguments.within("points", points, 2, MOST_POINTS)
    first, last = arguments.moments(since, until)
    times, values = _measured(_history(), device, field, first, last, metrics_of(backend.execute))
    kept = thinned(times, values, points)
    yield from zip(times[kept].tolist(), values[kept].tolist(), strict=True)


@rows
def histories(device: str, since: str, until: str, points: int) -> Iterator[Row]:
    """``ml_histories``: the window is read once for all metrics."""
    arguments.given(device=device, since=since, until=until, points=points)
    arguments.within("points", points, 2, MOST_POINTS)
    first, last = arguments.moments(since, until)
    history = _history()
    known = metrics_of(backend.execute)
    there = history.present(device, first, last, metrics_of(backend.execute, enabled=True))
    read = columns_of([*there, *(one for one in known if one.divisor_path)])[0]
    once = history.fetched(device, first, last, read)
    if not len(once.times):
        history.require(device)
        return
    for metric in there:
        if np.isnan(once.columns[:, read.index(metric.path)]).all():
            continue
        try:
            times, values = _measured(once, device, metric.name, first, last, known)
        except (NotEnoughData, UnknownField):
            continue  # what came is no measurement
        kept = thinned(times, values, points)
        for moment, value in zip(times[kept].tolist(), values[kept].tolist(), strict=True):
            yield metric.name, moment, value


@rows
def usual(device: str, metric: str, since: str, until: str, points: int) -> Iterator[Row]:
    """``ml_usual``."""
    arguments.given(device=device, metric=metric, since=since, until=until, points=points)
    arguments.within("points", points, 2, MOST_POINTS)
    first, last = arguments.moments(since, until)
    arguments.finite("since", first)
    arguments.finite("until", last)
    try:
        _, current = store.current(DETECTORS["level"], device)
    except ModelNotFound:
        _history().require(device)
        return
    step = max(USUAL_STEP, (last - first) / (points - 1))
    before = np.arange(min(np.ceil((last - first) / step), points - 1))
    times = np.append(first + step * before, last)
    band = current.knows.around(metric, times) if last > first else None
    if band is not None:
        bounds = metric_of(metric, current.knows.metrics)
        least = -np.inf if bounds.lower is None else bounds.lower
        most = np.inf if bounds.upper is None else bounds.upper
        clipped = (np.clip(end, least, most) for end in band)
        ends = (backend.shown(end).tolist() for end in clipped)
        yield from zip(times.tolist(), *ends, strict=True)


@rows
def zscore(device: str, field: str, hours: int, threshold: float) -> Iterator[Row]:
    """``ml_zscore``."""
    arguments.given(device=device, field=field, hours=hours, threshold=threshold)
    arguments.within("hours", hours, 1, LONGEST_HOURS)
    arguments.within("threshold", threshold, 0.1, 100)
    until = float(backend.execute(queries.SESSION)[0]["until"])
    since = until - hours * 3600
    times, values = _measured(_history(), device, field, since, until, metrics_of(backend.execute))
    # A value that still holds may come from a message of which no reading was made.
    spread = float(values.std()) if len(values) and np.ptp(values) > 0 else 0.0
    z = (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
    judged = len(values) >= LEAST_VALUES
    for moment, value, score in zip(times.tolist(), values.tolist(), z.tolist(), strict=True):
        far = judged and abs(score) > threshold
        severity = SEVERITIES[far + (far and abs(score) > CRITICAL_Z)]
        yield moment, value, score if judged else None, far, severity
