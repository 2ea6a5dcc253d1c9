"""A window of a device's history and the current model: what the model says of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.detectors.base import Detection, Judge, Reason, Signals
from pyml.forecasters.base import Forecast, Forecaster
from pyml.seconds import HOUR
from pyml.server import backend, fields, store
from pyml.server.store import Current
from pyml.telemetry.day import first_hour
from pyml.telemetry.history import History
from pyml.telemetry.readings import Readings, lookback
from pyml.telemetry.series import Grid, regular
from pyml.telemetry.window import measured, metrics_of, no_numbers, signal, window

# Intervals, a week of minutes: a longer window is scored in pieces of as many, so that a
# cancel is heard in time and memory does not grow with the window.
PIECE = 10_080
# Share of the values that a forecast's interval shall cover where none is asked for.
LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Scored:
    """Readings of a window, and what a detector says of each.

    Attributes
    ----------
    detector : Judge
    current : Current
    found : Detection
    readings : Readings
        Those of the window and some before it.
    since : float
        When the window begins.
    """

    detector: Judge[Any]
    current: Current
    found: Detection
    readings: Readings
    since: float

    def flagged(self) -> NDArray[np.intp]:
        """Which of them are anomalous."""
        return np.flatnonzero(self.found.severity)

    def of(self, rows: NDArray[np.intp]) -> "Scored":
        """Some of them."""
        return replace(self, found=self.found.of(rows))

    def rows(self) -> Iterator[tuple[float, float, int, dict[str, float | None]]]:
        """Each one's time, score, severity and values by their metrics' names, as shown."""
        names, found = self.current.knows.names, self.found
        return zip(
            found.times.tolist(),
            backend.shown(found.scores).tolist(),
            found.severity.tolist(),
            (
                dict(zip(names, values, strict=True))
                for values in map(_known, backend.shown(found.values).tolist())
            ),
            strict=True,
        )

    def reasons(self) -> list[list[Reason]]:
        """Why each of them is, or is not, an anomaly."""
        model = self.current.model
        rates = {one.name: "per second" for one in model.knows.metrics if one.kind == "counter"}
        units = rates | fields.units_of(model.knows.names) if len(self.found.times) else rates
        found = replace(self.found, values=backend.shown(self.found.values))
        with self.current.in_use():
            why = self.detector.explain(model.knows, model.run, found, units, backend.pulse)
        return [[backend.shown(reason) for reason in reasons] for reasons in why]


def score(
    detector: Judge[Any],
    history: History,
    current: Current,
    device: str,
    since: float,
    until: float,
    whole_hours: bool = False,
) -> Iterator[Scored]:
    """The readings of a window, in one or more pieces; a reading is the same in any of them.

    Where asked for, each piece has beside them all readings of the hour that it begins in.
    """
    longest = PIECE * max(1.0, current.knows.interval)
    for first, last in history.pieces(device, since, until, longest):
        before = first - first_hour(first) if whole_hours else 0.0
        yield _piece(detector, history, current, device, first, last, before)


def _piece(
    detector: Judge[Any],
    history: History,
    current: Current,
    device: str,
    since: float,
    until: float,
    before: float,
) -> Scored:
    """The readings of a window; those before it that their scores look back to are read too."""
    knows = current.knows
    readings = measured(
        *(history, device, since, until, knows.metrics, knows.habits, knows.interval),
        back=max(before, detector.lookback(knows)),
    )
    signals = Signals.of(readings, knows.names, knows.interval)
    with current.in_use():
        found = detector.detect(knows, current.model.run, signals, since, backend.pulse)
    return Scored(detector, current, found, readings, since)


def _known(values: Sequence[float]) -> Sequence[float | None]:
    """The values of one reading; None where missing."""
    if math.isfinite(sum(values)):
        return values
    return [value if math.isfinite(value) else None for value in values]


def forecast(
    forecaster: Forecaster[Any],
    history: History,
    current: Current,
    device: str,
    horizon: int | None,
    level: float,
    until: float,
) -> Forecast:
    """A forecast of one field from the last reading up to a moment."""
    knows = current.knows
    beyond = lookback([knows.metric], [knows.habit], knows.interval)
    back = forecaster.lookback(knows) + beyond

    def read(end: float) -> Grid:
        said = (knows.metric, knows.totals, knows.habit, knows.interval)
        readings = signal(history, device, end - back, end, *said)
        return regular(readings.times, readings.values[:, 0], knows.interval)

    grid = read(until)
    # The forecast of a stale device goes on from its last reading.
    path = knows.metric.path
    last = float(grid.times[-1]) if len(grid.times) else history.last(device, until, path)
    if last is not None and until - last > beyond:
        grid = read(last)
    if not len(grid.values):
        raise no_numbers(history, device, knows.metric, until - back, until)
    with current.in_use():
        by = forecaster.forecast_any if current.of_fleet else forecaster.forecast
        return by(knows, current.model.run, grid, horizon, level)


def fitted(
    forecaster: Forecaster[Any], history: History, current: Current, device: str, until: float
) -> Current:
    """A forecast model as it fits a device: the fleet's learns how the device's readings come.

    Raises
    ------
    NotEnoughData, UnknownField
        There are too few to tell.
    """
    if not current.of_fleet:
        return current
    knows = current.knows
    back, longest = 0.0, HOUR * int(history.settings_of(device)["training_hours"])
    last = history.last(device, until, knows.metric.path, until - longest)
    end, known = until if last is None else last, metrics_of(backend.execute)
    while back < forecaster.lookback(knows) and back < longest:
        back = min(forecaster.lookback(knows), longest)
        metric, _, found = window(history, device, end - back, end, knows.metric.name, known)
        bounds = (metric.lower, metric.upper)
        knows = replace(knows, interval=found.interval, habit=found.habits[0], bounds=bounds)
    return replace(current, model=replace(current.model, knows=knows))


def forecast_of(
    forecaster: Forecaster[Any],
    device: str,
    field: str | None,
    horizon: int | None,
    level: float,
    until: float | None,
) -> tuple[Forecast, Current]:
    """The forecast of a field (None: of one that has a model), up to a moment or now."""
    history, current = store.current(forecaster, device, field)
    moment = current.now if until is None else until
    current = fitted(forecaster, history, current, device, moment)
    return forecast(forecaster, history, current, device, horizon, level, moment), current
