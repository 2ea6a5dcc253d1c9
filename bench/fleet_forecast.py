"""Forecasts by a model of the fleet, on recordings of real machines, beside models of their own.

    python bench/fleet_forecast.py [DATA] [--only NAME] [--poison]

The series, the cut and the measure are those of forecast.py. The fleet of a series is the same
field of all machines of its kind: the four hosts of NAB, the eight machines of SMD.

never seen   the fleet's model, trained without this machine
fleet        the same, trained with it
own          its own model, as forecast.py has it
aged         its own model, trained eight days before
in force     its own where that beats the fleet's on what was held out of the training, as a
             training decides; else the fleet's
first day    the fleet's model that has never seen the machine, on readings 60 to 1,440 (NAB: of
             the first day), and the share of the values that its 90 % interval held

``--poison`` instead trains each fleet again with one machine more, whose sensor sends junk.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import recordings
from forecast import (
    DAY,
    FREE,
    HORIZON,
    LENGTH,
    NETWORK,
    SETTINGS,
    WEEK,
    Floats,
    Task,
    tasks,
    windows,
)

from pyml.errors import NotEnoughData
from pyml.forecasters import forecast
from pyml.forecasters.base import Fitted, Previous
from pyml.forecasters.network import prepare
from pyml.forecasters.pooling import forecast_by
from pyml.forecasters.recurrent import PARAMETERS, Model
from pyml.forecasters.windows import origins
from pyml.telemetry import series
from pyml.telemetry.habits import rhythm

ASKED = SETTINGS | {"level": 0.99}
FIRST, OLDER = 60, 8 * DAY
NAMES = ("never seen", "fleet", "own", "aged", "in force", "first day", "held")


def machines(data: Path, task: Task) -> dict[str, series.Grid]:
    """The series of a task's field on all machines of its kind, up to where its test begins."""
    machine, _, field = task.name.partition(" ")
    found: dict[str, series.Grid] = {}
    if not field:
        for path in recordings.nab(data):
            read = recordings.read_nab(path)
            found[read.name.split("_")[-1]] = series.regular(
                read.times, read.values[:, 0], rhythm(read.times)
            )
    else:
        for path in recordings.smd(data):
            read = recordings.read_smd(path)
            column = 100 * read.values[:, read.names.index(field)]
            name = read.name.removeprefix("machine-")
            found[name] = series.regular(read.times, column, rhythm(read.times))
    assert machine in found
    return {name: cut(grid, int(0.8 * len(grid.values))) for name, grid in found.items()}


def cut(grid: series.Grid, stop: int, steps: int = WEEK) -> series.Grid:
    """So many steps of a series, up to a place."""
    part = slice(max(0, stop - steps), stop)
    return series.Grid(grid.times[part], grid.values[part], grid.interval)


def previous(fitted: Fitted[Model]) -> Previous[Model]:
    """A fitted model as a training and a forecast take it."""
    run = NETWORK.runner(fitted.numbers, fitted.model).run
    return Previous(fitted.numbers, fitted.model, run)


def fleets(grids: list[series.Grid]) -> Previous[Model]:
    """A model of some machines."""
    return previous(NETWORK.fit_fleet(grids, ASKED, lambda: None))


def relative(task: Task, predicted: Floats) -> float:
    """Error of forecasts from the task's origins, relative to repeating the last value."""
    behind, truth = windows(task, task.origins)
    return float(np.abs(truth - predicted).mean() / np.abs(truth - behind[:, -1:]).mean())


def by_fleet(task: Task, model: Previous[Model]) -> Floats:
    """What a fleet's model forecasts from the task's origins."""
    return forecast_by(model, task.grid.times, task.grid.values, task.origins, PARAMETERS)


def own(task: Task, stop: int, rival: Previous[Model] | None) -> tuple[Floats, bool]:
    """What a model of its own, trained up to a place, forecasts; whether it beats the rival."""
    steps = min(WEEK, stop) if task.begin else stop
    fitted = NETWORK.fit(cut(task.grid, stop, steps), ASKED, FREE, None, rival, lambda: None)
    run, grid = previous(fitted).run, task.grid
    found = forecast.backtest(fitted.model, run, grid.times, grid.values, task.origins, ())
    return found.predicted, bool(fitted.figures.get("beats_fleet", True))


def first_day(task: Task, model: Previous[Model]) -> tuple[float, float]:
    """Error on the first day of a device that the model has never seen, and the share held."""
    grid = task.grid
    day = round(86400 / grid.interval)
    at = origins(grid.values, LENGTH, HORIZON)
    at = at[(at >= FIRST - 1) & (at < day)]
    back = int(NETWORK.lookback(model.model) / model.model.interval)
    error, naive, held = [], [], []
    for place in at[:: max(1, len(at) // 250)]:
        seen = cut(grid, int(place) + 1, back)
        truth = grid.values[place + 1 : place + 1 + HORIZON]
        try:
            said = NETWORK.forecast_any(model.model, model.run, seen, None, 0.9)
        except NotEnoughData:  # it has not moved yet
            said = None
        predicted = seen.values[-1] if said is None else said.predicted
        error.append(np.abs(truth - predicted).mean())
        naive.append(np.abs(truth - seen.values[-1]).mean())
        if said is not None:
            held.append(((truth >= said.lower) & (truth <= said.upper)).mean())
    return float(np.sum(error) / np.sum(naive)), float(np.mean(held))


def table(data: Path, only: str) -> None:
    """Print the errors, a row for each series as it is done."""
    prepare(LENGTH, HORIZON)
    print(f"{'':13}" + "".join(f"{name:>11}" for name in NAMES))
    rows, trained = [], []
    for task in tasks(data):
        if only not in task.name:
            continue
        grids = machines(data, task)
        mine = task.name.split()[0]
        unseen = fleets([grid for name, grid in grids.items() if name != mine])
        started = time.process_time()
        seen = fleets([*grids.values()])
        trained.append(time.process_time() - started)
        whole = by_fleet(task, seen)
        fresh, better = own(task, task.test, seen)
        aged = own(task, task.test - OLDER, None)[0] if task.begin > OLDER else None
        day, held = first_day(task, unseen)
        errors = [
            relative(task, by_fleet(task, unseen)),
            relative(task, whole),
            relative(task, fresh),
            np.nan if aged is None else relative(task, aged),
            relative(task, fresh if better else whole),
            day,
        ]
        rows.append([*errors, held])
        print_row(task.name, rows[-1])
    found = np.array(rows)
    means = np.exp(np.nanmean(np.log(found[:, :-1]), axis=0))
    print_row("all", [*means.tolist(), float(found[:, -1].mean())])
    print(f"A training of a fleet of these takes {np.mean(trained):.1f} s of the processor.")


def print_row(name: str, cells: list[float]) -> None:
    """One line."""
    shown = "".join(f"{cell:11.3f}" if np.isfinite(cell) else f"{'':11}" for cell in cells)
    print(f"{name:13}{shown}", flush=True)


def poisoned(data: Path, only: str) -> None:
    """Print what a machine more, whose sensor sends junk, does to the others' forecasts."""
    print(f"{'':13}{'fleet':>11}{'poisoned':>11}")
    rows = []
    for task in tasks(data):
        if only not in task.name:
            continue
        grids = [*machines(data, task).values()]
        rng = np.random.default_rng(0)
        junk = rng.choice([-999.0, 0.0, 1e9, 65535.0], len(grids[0].values))
        worse = [*grids, replace(grids[0], values=junk)]
        rows.append([relative(task, by_fleet(task, fleets(some))) for some in (grids, worse)])
        print_row(task.name, rows[-1])
    print_row("all", np.exp(np.log(np.array(rows)).mean(axis=0)).tolist())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--only", default="", help="series whose name holds this")
    parser.add_argument("--poison", action="store_true", help="with a machine that sends junk")
    asked = parser.parse_args()
    try:
        (poisoned if asked.poison else table)(asked.data, asked.only)
    except recordings.BadRecording as problem:
        parser.error(str(problem))


if __name__ == "__main__":
    main()
