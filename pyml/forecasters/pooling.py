"""The forecast model of a fleet: one network, which many devices' series train together.

It knows each series in units of its own: how far it is from its median of late, in usual changes
over the horizon. So it says something of a device that it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from pyml.background import Pulse
from pyml.errors import NotEnoughData
from pyml.forecasters import inference
from pyml.forecasters.base import Bounds, Fitted, Forecast, Previous
from pyml.forecasters.calendar import Calendar
from pyml.forecasters.forecast import backtest
from pyml.forecasters.intervals import LEVELS
from pyml.forecasters.linear import Paths, Scale, choose_ridge
from pyml.forecasters.network import Part, descend, network_of, numbers_of
from pyml.forecasters.recurrent import LEVEL, Model, Parameters
from pyml.forecasters.standstill import ordinary_changes
from pyml.forecasters.usual import learn
from pyml.forecasters.windows import Floats, Places, Windows, ahead_of, origins
from pyml.models.blob import Run
from pyml.telemetry.series import Grid

ZONE = "UTC"  # of a calendar that tells no times apart


@dataclass(frozen=True, slots=True)
class Unit:
    """What a series is measured in, so that it is like those of other devices.

    Attributes
    ----------
    centre : float
        Its median, in the metric's unit.
    change : float
        Its mean absolute change over 1 to `horizon` steps, in the metric's unit.
    """

    centre: float
    change: float

    @classmethod
    def of(cls, values: Floats, horizon: int) -> Unit | None:
        """That of some values (n,); None where they do not move, or are no numbers."""
        known = values[~np.isnan(values)]
        steps = range(1, min(horizon, len(known) - 1) + 1)
        with np.errstate(over="ignore"):
            moved = [float(np.abs(known[k:] - known[:-k]).mean()) for k in steps]
        change = sum(moved) / max(1, len(moved))
        return cls(float(np.median(known)), change) if 0 < change < np.inf else None

    def standard(self, values: Floats) -> Floats:
        """Values in this unit."""
        return (values - self.centre) / self.change

    def back(self, found: Forecast, bounds: Bounds) -> Forecast:
        """A forecast in this unit in that of the metric, which stays within its bounds."""
        said = (found.predicted, found.lower, found.upper)
        predicted, lower, upper = (
            np.clip(cells * self.change + self.centre, *bounds) for cells in said
        )
        least = None if found.least is None else found.least * self.change
        return replace(found, predicted=predicted, lower=lower, upper=upper, least=least)


def forecast_by(
    run: Previous[Model], times: Floats, values: Floats, at: Places, p: Parameters
) -> Floats:
    """What a fleet's model says from some origins of a device's series.

    Parameters
    ----------
    run : Previous
        The fleet's model.
    times, values : ndarray of float64, shape (n,)
        The series, on its own grid.
    at : ndarray of int64, shape (k,)
        Origins; increasing.

    Returns
    -------
    ndarray of float64, shape (k, horizon)
        In the metric's unit; NaN where the series did not move before.
    """
    model = run.model
    back = model.sequence_length + model.horizon + p.replay
    said = np.full((len(at), model.horizon), np.nan)
    for rows in _near(at, back // 2):
        first = max(0, at[rows[0]] + 1 - back)
        here = slice(first, at[rows[-1]] + 1)
        unit = Unit.of(values[first : at[rows[0]] + 1], model.horizon)
        if unit is not None:
            there = unit.standard(values[here])
            found = backtest(model, run.run, times[here], there, at[rows] - first, (), p)
            said[rows] = found.predicted * unit.change + unit.centre
    return said


def _near(at: Places, steps: int) -> Iterator[Places]:
    """The places in `at` of origins that lie within so many steps, in their order."""
    first = 0
    while first < len(at):
        stop = int(np.searchsorted(at, at[first] + steps))
        yield np.arange(first, stop)
        first = stop


def _joined(several: Sequence[Windows], reach: float) -> Windows:
    """The windows of several series as those of one; a value that is out of reach is as far."""
    parts = {
        one.name: np.concatenate([getattr(each, one.name) for each in several])
        for one in fields(Windows)
    }
    read = ("behind", "medians", "ahead")
    return Windows(**parts | {name: np.clip(parts[name], -reach, reach) for name in read})


class Distances(NamedTuple):
    """How far values lay from their forecasts, in half widths of the interval of scans.

    Attributes
    ----------
    interval : float
        Seconds between two of them.
    times, heights : ndarray of float64, shape (n,)
    """

    interval: float
    times: Floats
    heights: Floats


@dataclass(frozen=True, slots=True)
class _Device:
    """What one device's series brings.

    Attributes
    ----------
    fit, stop : list of Windows
        Of the earlier and of the last part of each stretch, each stretch in a unit of its own; no
        target of one lies in the other.
    held : list of tuple
        Its last stretches, of which those have nothing: each in the unit of what came before it,
        and origins in it.
    ordinary : ndarray of float64, shape (horizon,)
        How far it goes from a standstill, in the unit of all its values.
    """

    fit: list[Windows]
    stop: list[Windows]
    held: list[tuple[Grid, Places]]
    ordinary: Floats

    @classmethod
    def of(
        cls, grid: Grid, devices: int, length: int, horizon: int, p: Parameters
    ) -> _Device | None:
        """Those of one of so many series; None where it has too few values, or does not move."""
        times, values, back = grid.times, grid.values, length + horizon + p.replay
        whole, at = Unit.of(values, horizon), origins(values, length, horizon)
        if whole is None or not len(at):
            return None
        stretches = [at[rows] for rows in _near(at, back // 2)]
        # So that all of them together have as many as a training takes.
        every = -(-len(at) * devices // p.most_windows)
        few = int(np.ceil(len(at) * p.pooled_stop * devices / p.pooled_stops))
        cut: tuple[list[Windows], list[Windows]] = ([], [])
        held_out = max(1, int(p.pooled_held * len(stretches)))
        fit_on = len(stretches) - held_out if len(stretches) > 1 else 1
        for some in stretches[:fit_on]:
            # As of the last of them, all that a forecast then reads.
            stop = max(int(some[-1]) + 1, back)
            unit = Unit.of(values[max(0, stop - back) : stop], horizon)
            if unit is not None:
                alike = unit.standard(values)
                last = some[-1] - len(some) * p.pooled_stop
                split = some[some <= last - horizon][::every], some[some > last][::few]
                for part, rows in zip(cut, split, strict=True):
                    part.append(Windows.cut(alike, np.zeros(len(alike)), rows, length, horizon))
        held = []
        for some in stretches[fit_on:]:
            first = max(0, int(some[0]) + 1 - back)
            before = Unit.of(values[first : some[0] + 1], horizon)
            if before is not None:
                here = slice(first, some[-1] + 1 + horizon)
                alike = before.standard(values[here])
                held.append((Grid(times[here], alike, grid.interval), some[::horizon] - first))
        ordinary = ordinary_changes(whole.standard(values), at, length, horizon, p.floor, p)
        return cls(*cut, held, ordinary)


def fit(
    series: Sequence[Grid],
    p: Parameters,
    pulse: Pulse,
    *,
    sequence_length: int,
    horizon: int,
    epochs: int,
    seed: int,
    zone: str = ZONE,
    level: float = LEVEL,
) -> tuple[Fitted[Model], list[Distances]]:
    """Train one network on the series of many devices.

    Each device has the same say, however long its series is. The last part of each stretch chooses
    the ridge penalty and the epoch, and the last stretches give the figures: forecasts as a scan
    would make them.

    Parameters
    ----------
    series : sequence of Grid
        One of each device.

    Returns
    -------
    fitted : Fitted
    distances : list of Distances
        Of each device.

    Raises
    ------
    NotEnoughData
        Too few windows without a gap.
    """
    found: list[_Device] = []
    for grid in series:
        pulse()
        one = _Device.of(grid, len(series), sequence_length, horizon, p)
        if one is not None:
            found.append(one)
    to_fit = [one for device in found for one in device.fit]
    to_stop = [one for device in found for one in device.stop]
    n, held_out = (sum(len(one.at) for one in some) for some in (to_fit, to_stop))
    if n < p.least_fit or held_out < p.least_part:
        raise NotEnoughData(
            f"{n} + {held_out} windows of {sequence_length} + {horizon} readings without a long"
            f" gap; the forecast of a fleet needs {p.least_fit} + {p.least_part}",
            detail=f"{len(found)} of {len(series)} devices have some.",
            hint="Wait, or UPDATE ml_setting to a longer training_hours.",
        )
    fit_on, stop_on = _joined(to_fit, p.reach), _joined(to_stop, p.reach)
    where = float(np.sqrt(np.square(np.clip(fit_on.behind[:, -1], -p.afar, p.afar)).mean()))
    scale = Scale(0.0, where or 1.0, 1.0)
    calendar = Calendar(ZONE, 1, 1)
    usual = learn(np.empty(0), np.empty(0), calendar, horizon)
    # The windows are of many times: their places are those of rows.
    fit_on, stop_on = (replace(one, at=np.arange(len(one.at))) for one in (fit_on, stop_on))
    ridge, linear = choose_ridge(scale, fit_on, stop_on, p, pulse)
    paths = Paths.fitted(scale, fit_on, ridge, Paths.without(linear), p, pulse)
    network = network_of(sequence_length, horizon)
    pulse()
    part, stop = (Part.of(network, one, scale, paths) for one in (fit_on, stop_on))
    start = network.fresh(seed)
    network.load(start)
    pulse()
    rng = np.random.default_rng(seed)
    said = descend(part, stop, start, stop.error(), epochs, False, rng, p, pulse)
    best, best_epoch, epoch = said
    # As patient as the most patient of the devices, but for a tenth.
    patient = np.quantile([one.ordinary for one in found], 0.9, axis=0, method="lower")
    model = Model(
        sequence_length=sequence_length,
        horizon=horizon,
        interval=float(np.median([grid.interval for grid in series])),
        bounds=(None, None),
        floor=p.floor,
        ordinary=tuple(max(float(f"{one:.9g}"), p.floor) for one in patient),
        inflation=1.0,
        seen_until=0.0,  # one network of so many series hardly remembers any of them
        calendar=calendar,
        astray=0.0,
    )
    numbers = numbers_of(best, scale, paths, usual, 0.0)
    run = inference.runner(numbers, sequence_length, horizon).run
    figures, distances = _measured(model, run, found, level, p, pulse)
    counts = {"devices": len(found), "training_windows": n, "epochs": epoch}
    return Fitted(numbers, model, counts | {"best_epoch": best_epoch} | figures), distances


def _measured(
    model: Model,
    run: Run,
    devices: Sequence[_Device],
    level: float,
    p: Parameters,
    pulse: Pulse,
) -> tuple[dict[str, Any], list[Distances]]:
    """What forecasts of the last stretches of each device were worth, and how far they erred."""
    error, naive, inside, cells = 0.0, 0.0, np.zeros(len(LEVELS)), 0
    distances = []
    for device in devices:
        for series, at in device.held:
            pulse()
            times, values = series.times, series.values
            found = backtest(model, run, times, values, at, (*LEVELS, level), p)
            truth = ahead_of(values, at, model.horizon)
            off = np.abs(truth - found.predicted)
            error += float(off.sum())
            naive += float(np.abs(truth - values[at, None]).sum())
            inside += (off[:, None] <= found.half[:, :-1]).sum(axis=(0, 2))
            cells += off.size
            when = times[at[:, None] + np.arange(1, model.horizon + 1)]
            distances.append(Distances(series.interval, when.ravel(), found.far(truth).ravel()))
    figures = {
        "mae": None,  # each device has a unit of its own
        "mase": None,
        "relative_mae": error / naive if naive else None,
        "beats_naive": error < naive,
        "coverage": {str(one): float(inside[q] / max(1, cells)) for q, one in enumerate(LEVELS)},
    }
    return figures, distances
