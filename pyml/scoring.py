"""A window of a device's history and the model in force: what the model says of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyml import forest, series, store
from pyml.history import Floats, History, measured, no_numbers, series_of
from pyml.store import Held

if TYPE_CHECKING:
    from pyml import forecast

SEVERITIES = ("none", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Judged:
    """The readings of a window, n of them, and what the forest says of each."""

    held: Held
    times: Floats
    values: Floats
    described: forest.Described
    scores: forest.Scores
    readings: series.Readings

    def flagged(self) -> NDArray[np.intp]:
        """Which of them are anomalous."""
        return np.flatnonzero(self.scores.severity)

    def reasons(self, rows: NDArray[np.intp]) -> list[list[dict[str, Any]]]:
        """Why some of them are."""
        model = self.held.model
        with self.held.speaking():
            return forest.explain(model.meta, model.run, self.described.of(rows), self.values[rows])


def judge(history: History, held: Held, device: str, since: float, until: float) -> Judged:
    """The readings of a window; those before it that their scores look back to are read too."""
    meta = held.model.meta
    metrics = [series.Metric(**entry) for entry in meta["metrics"]]
    back = meta["lookback"] + (series.MAX_GAP + 1) * meta["interval"]
    readings, values, _ = measured(history, device, since - back, until, metrics, meta["interval"])
    there = np.isfinite(values).any(axis=1)
    first = since - meta["lasting"] * meta["interval"]
    rows = np.flatnonzero((readings.times > first) & there)
    times = readings.times[rows]
    with held.speaking():
        described = forest.describe(meta, readings.times, values, rows)
        scores = forest.score(meta, held.model.run, times, described)
    inside = slice(int(np.searchsorted(times, since, side="right")), None)
    values, described, scores = values[rows[inside]], described.of(inside), scores.of(inside)
    return Judged(held, times[inside], values, described, scores, readings)


def named(names: Sequence[str], values: Floats) -> dict[str, float | None]:
    """The values of one reading by their metrics' names; None where missing."""
    return {
        name: value if math.isfinite(value) else None
        for name, value in zip(names, values.tolist(), strict=True)
    }


def look_ahead(
    device: str, field: str, horizon: int | None, level: float, until: float | None
) -> "tuple[forecast.Forecast, Held]":
    """A forecast of one field from the last reading up to a moment or now, and its model."""
    from pyml import forecast

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
