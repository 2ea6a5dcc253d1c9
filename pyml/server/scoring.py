"""A window of a device's history and the model in force: what the model says of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyml import forest
from pyml.server import backend, store
from pyml.server.store import Held
from pyml.telemetry import series
from pyml.telemetry.history import Floats, History, measured, no_numbers, series_of

if TYPE_CHECKING:
    from pyml.forecasters import forecast

SEVERITIES = ("none", "warning", "critical")
# Intervals, a week of minutes: a longer window is judged in pieces of as many, so that a
# cancel is heard in time and memory does not grow with the window.
PIECE = 10_080


@dataclass(frozen=True, slots=True)
class Judged:
    """The readings of a window, n of them, and what the forest says of each.

    Beside them, the rows without a usable number and those that repeat another.
    """

    held: Held
    times: Floats
    values: Floats
    described: forest.Described
    scores: forest.Scores
    rejected: int
    repeated: int

    def flagged(self) -> NDArray[np.intp]:
        """Which of them are anomalous."""
        return np.flatnonzero(self.scores.severity)

    def of(self, rows: NDArray[np.intp]) -> "Judged":
        """Some of them."""
        return replace(
            self,
            times=self.times[rows],
            values=self.values[rows],
            described=self.described.of(rows),
            scores=self.scores.of(rows),
        )

    def rows(self) -> Iterator[tuple[float, float, int, dict[str, float | None]]]:
        """Each one's time, score, severity and values by their metrics' names, as told."""
        names = self.held.model.meta["names"]
        return zip(
            self.times.tolist(),
            backend.shown(self.scores.anomaly_score).tolist(),
            self.scores.severity.tolist(),
            (
                dict(zip(names, values, strict=True))
                for values in map(_known, backend.shown(self.values).tolist())
            ),
            strict=True,
        )

    def reasons(self) -> list[list[dict[str, Any]]]:
        """Why each of them is, or is not, an anomaly."""
        meta, run = self.held.model.meta, self.held.model.run
        told = meta | {"usual": backend.shown(np.array(meta["usual"])).tolist()}
        values = backend.shown(self.values)
        with self.held.speaking():
            return forest.explain(told, run, self.described, values, backend.pulse)


def judge(
    history: History, held: Held, device: str, since: float, until: float
) -> Iterator[Judged]:
    """The readings of a window, in one or more pieces; a reading is the same in any of them."""
    longest = PIECE * max(1.0, held.model.meta["interval"])
    for first, last in history.pieces(device, since, until, longest):
        yield _judge(history, held, device, first, last)


def _judge(history: History, held: Held, device: str, since: float, until: float) -> Judged:
    """The readings of a window; those before it that their scores look back to are read too."""
    meta = held.model.meta
    metrics = [series.Metric(**entry) for entry in meta["metrics"]]
    back = meta["lookback"] + (series.MAX_GAP + 1) * meta["interval"]
    readings, values, _ = measured(history, device, since, until, metrics, meta["interval"], back)
    there = np.isfinite(values).any(axis=1)
    first = since - meta["lasting"] * meta["interval"]
    rows = np.flatnonzero((readings.times > first) & there)
    times = readings.times[rows]
    with held.speaking():
        described = forest.describe(meta, readings.times, values, rows)
        scores = forest.score(meta, held.model.run, times, described, backend.pulse)
    inside = slice(int(np.searchsorted(times, since, side="right")), None)
    values, described, scores = values[rows[inside]], described.of(inside), scores.of(inside)
    return Judged(
        held, times[inside], values, described, scores, readings.rejected, readings.repeated
    )


def _known(values: Sequence[float]) -> Sequence[float | None]:
    """The values of one reading; None where missing."""
    if math.isfinite(sum(values)):
        return values
    return [value if math.isfinite(value) else None for value in values]


def look_ahead(
    device: str, field: str, horizon: int | None, level: float, until: float | None
) -> "tuple[forecast.Forecast, Held]":
    """A forecast of one field from the last reading up to a moment or now, and its model."""
    from pyml.forecasters import forecast

    history, held = store.in_force(device, "lstm", field)
    until = held.now if until is None else until
    meta = held.model.meta
    metric, interval = series.Metric(**meta["metric"]), meta["interval"]
    spare = (series.MAX_GAP + 1) * interval
    back = forecast.lookback(meta) + spare

    def read(end: float) -> series.Grid:
        readings, values = series_of(
            history, device, end - back, end, metric, meta["totals"], interval
        )
        return series.regular(readings.times, values, interval)

    grid = read(until)
    # The forecast of a stale device goes on from its last reading.
    last = float(grid.times[-1]) if len(grid.times) else history.last(device, until, metric.path)
    if last is not None and until - last > spare:
        grid = read(last)
    if not len(grid.values):
        raise no_numbers(history, device, metric, until - back, until)
    with held.speaking():
        ahead = forecast.forecast(
            meta, held.model.run, grid.times, grid.values, horizon=horizon, level=level
        )
    return ahead, held
