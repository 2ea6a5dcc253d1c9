"""Rolling-origin accuracy of the forecasts on recordings of real machines.

    python bench/forecast.py [DATA] [--only NAME]
    python bench/forecast.py --memory DSN

DATA is the folder of the recordings, ../shared/data by default; the protocol is in
DATA.md beside it: 12 steps ahead, the last fifth of a series as test, trained once
on the 80 % before it (NAB) or the 7 days before it (SMD), an origin every step
(NAB) or every 12th (SMD). Errors and widths are divided by the error of repeating
the last value on the same origins. LightGBM, and statsforecast's AutoARIMA and AutoETS
take part where they are installed (``pip install lightgbm statsforecast``, which
nothing else here needs).

``--memory`` instead makes a database of its own on a server where pyml is installed,
with a day of minutes of 200 devices, and prints the memory of a session that trains a
forecast of each.
"""

import argparse
import importlib.util
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psycopg
import recordings
import timing
from numpy.typing import NDArray

from pyml.forecasters import forecast
from pyml.forecasters.base import Fitted, Previous
from pyml.forecasters.intervals import LEVELS
from pyml.forecasters.network import prepare
from pyml.forecasters.recurrent import Model
from pyml.forecasters.windows import origins
from pyml.lstm import LSTM
from pyml.models.blob import Run
from pyml.telemetry import series
from pyml.telemetry.habits import rhythm

Floats = NDArray[np.float64]

LENGTH, HORIZON = 50, 12
SETTINGS = {"sequence_length": LENGTH, "horizon": HORIZON, "epochs": 50, "seed": 0}
FREE = (None, None)  # no bounds are known
NETWORK = LSTM()
SMD_MACHINES = ("1-3", "2-4", "3-3", "3-10")
SMD_METRICS = ("cpu_r", "mem_u", "eth1_fi")
WEEK, DAY = 7 * 1440, 1440  # minutes
RIDGE_REPLAY = 500
CARRIED = 1000  # values that a model of statsforecast sees before an origin


@dataclass(frozen=True)
class Task:
    """One series: readings on its grid, where training begins, where the test does."""

    name: str
    grid: series.Grid
    begin: int
    test: int
    stride: int

    @property
    def origins(self) -> NDArray[np.int64]:
        """Places of the values that the judged forecasts continue."""
        found = origins(self.grid.values, LENGTH, HORIZON)
        return found[found >= self.test - 1][:: self.stride]


@dataclass(frozen=True)
class Result:
    """Error, coverage and width of one method on one series, relative to the last value."""

    error: float
    coverage: list[float]
    width: list[float]


def tasks(data: Path) -> Iterator[Task]:
    """The 16 series of the protocol."""
    for path in recordings.nab(data):
        found = recordings.read_nab(path)
        grid = series.regular(found.times, found.values[:, 0], rhythm(found.times))
        yield Task(found.name.split("_")[-1], grid, 0, int(0.8 * len(grid.values)), 1)
    for machine in SMD_MACHINES:
        found = recordings.read_smd(data / "smd" / f"machine-{machine}.csv.gz")
        for metric in SMD_METRICS:
            column = 100 * found.values[:, found.names.index(metric)]
            grid = series.regular(found.times, column, rhythm(found.times))
            test = int(0.8 * len(grid.values))
            yield Task(f"{machine} {metric}", grid, test - WEEK, test, HORIZON)


def windows(task: Task, at: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Values behind and ahead of each origin."""
    places = at[:, None]
    return (
        task.grid.values[places + np.arange(1 - LENGTH, 1)],
        task.grid.values[places + np.arange(1, HORIZON + 1)],
    )


def judged(task: Task, predicted: Floats, half: Floats | None = None) -> Result:
    """Compare forecasts, shape (origins, horizon), with what came."""
    behind, truth = windows(task, task.origins)
    naive = np.abs(truth - behind[:, -1:]).mean()
    error = np.abs(truth - predicted)
    if half is None:
        return Result(error.mean() / naive, [], [])
    levels = range(len(LEVELS))
    return Result(
        error.mean() / naive,
        [float((error <= half[:, q]).mean()) for q in levels],
        [float(2 * half[:, q].mean() / naive) for q in levels],
    )


def last_value(task: Task) -> Result:
    """Repeat the last value."""
    behind, _ = windows(task, task.origins)
    return judged(task, np.repeat(behind[:, -1:], HORIZON, axis=1))


def median_of_12(task: Task) -> Result:
    """Repeat the median of the last 12."""
    behind, _ = windows(task, task.origins)
    middle = np.median(behind[:, -12:], axis=1, keepdims=True)
    return judged(task, np.repeat(middle, HORIZON, axis=1))


def training(task: Task) -> tuple[Floats, Floats]:
    """Lags minus the last value, and what came minus the last value."""
    at = origins(task.grid.values, LENGTH, HORIZON)
    behind, truth = windows(task, at[(at >= task.begin + LENGTH - 1) & (at < task.test - HORIZON)])
    return behind, truth


def ridge(task: Task) -> Result:
    """Ridge on the lags, penalty validated on the last fifth; scaled conformal intervals.

    The intervals: for each step, the quantile of the errors at the last 500 origins,
    in units of the standard deviation of the 50 values of each.
    """
    behind, truth = training(task)
    x, y = behind[:, :-1] - behind[:, -1:], truth - behind[:, -1:]
    cut = int(0.8 * len(x))

    def solved(penalty: float, rows: slice) -> Floats:
        a, b = x[rows], y[rows] - y[rows].mean(axis=0)
        a = a - x[rows].mean(axis=0)
        return np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b)

    def applied(weights: Floats, rows: slice, lags: Floats) -> Floats:
        return (lags - x[rows].mean(axis=0)) @ weights + y[rows].mean(axis=0)

    early, whole = slice(0, cut - HORIZON), slice(None)
    penalties = 10.0 ** np.arange(-3, 7)
    errors = [
        np.square(y[cut:] - applied(solved(p, early), early, x[cut:])).mean() for p in penalties
    ]
    weights = solved(penalties[int(np.argmin(errors))], whole)

    def predict(at: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        behind, truth = windows(task, at)
        told = behind[:, -1:] + applied(weights, whole, behind[:, :-1] - behind[:, -1:])
        return told, truth, np.maximum(behind.std(axis=1), 1e-3 * behind.std())[:, None]

    past = origins(task.grid.values, LENGTH, HORIZON)
    told, truth, spread = predict(past)
    scores = np.abs(truth - told) / spread
    predicted, _, now = predict(task.origins)
    half = np.empty((len(now), len(LEVELS), HORIZON))
    for i, stop in enumerate(np.searchsorted(past, task.origins - HORIZON, side="right")):
        recent = scores[max(0, stop - RIDGE_REPLAY) : stop]
        for q, level in enumerate(LEVELS):
            place = min(1.0, np.ceil((len(recent) + 1) * level) / len(recent))
            half[i, q] = np.quantile(recent, place, axis=0, method="higher") * now[i]
    return judged(task, predicted, half)


def boosted(task: Task) -> Result:
    """LightGBM on the lags and the last value, one model a step, absolute error."""
    from lightgbm import LGBMRegressor

    behind, truth = training(task)
    here, _ = windows(task, task.origins)

    def inputs(rows: Floats) -> Floats:
        return np.hstack([rows[:, :-1] - rows[:, -1:], rows[:, -1:]])

    steps = []
    for step in range(HORIZON):
        model = LGBMRegressor(
            objective="l1", n_estimators=200, learning_rate=0.05, n_jobs=1, seed=0, verbose=-1
        )
        model.fit(inputs(behind), truth[:, step] - behind[:, -1])
        steps.append(here[:, -1] + model.booster_.predict(inputs(here)))
    return judged(task, np.stack(steps, axis=1))


def automatic(name: str) -> Callable[[Task], Result]:
    """A model that statsforecast chooses and fits once, on the training, carried on to each origin.

    Without a season: one of a day of minutes is beyond it. What is missing is as it was last.
    """

    def forecast(task: Task) -> Result:
        from statsforecast import models

        values = task.grid.values.copy()
        for place in np.flatnonzero(np.isnan(values)):
            values[place] = values[place - 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(models, name)(season_length=1).fit(values[task.begin : task.test])
            ahead = [
                model.forward(values[max(0, at + 1 - CARRIED) : at + 1], HORIZON)["mean"]
                for at in task.origins
            ]
        return judged(task, np.array(ahead))

    return forecast


@dataclass(frozen=True)
class Cost:
    """Seconds of one training, and the longest stretch in which no cancel could land."""

    wall: float
    cpu: float
    deaf: float


def network(task: Task) -> tuple[Result, Cost, Cost]:
    """The product's own forecast, and what a cold and a warm training cost.

    The warm one is tomorrow's: the same model a day of readings later.
    """
    grid, day = task.grid, int(86400 / task.grid.interval)
    begin, test = task.begin, task.test

    def fit(shift: int, previous: Previous[Model] | None) -> tuple[Fitted[Model], Cost]:
        part = slice(begin + shift, test + shift)
        looks = [time.perf_counter()]
        cpu = time.process_time()
        history = series.Grid(grid.times[part], grid.values[part], grid.interval)

        def pulse() -> None:
            looks.append(time.perf_counter())

        fitted = NETWORK.fit(history, SETTINGS, FREE, previous, None, pulse)
        looks.append(time.perf_counter())
        wall, cpu = looks[-1] - looks[0], time.process_time() - cpu
        return fitted, Cost(wall, cpu, float(np.diff(looks).max()))

    fitted, cold = fit(0, None)
    run = run_of(fitted)
    _, warm = fit(day, Previous(fitted.numbers, fitted.model, run))
    predicted, half, _ = forecast.backtest(fitted.model, run, grid.times, grid.values, task.origins)
    return judged(task, predicted, half), cold, warm


def run_of(fitted: Fitted[Model]) -> Run:
    """What runs a model."""
    return NETWORK.runner(fitted.numbers, fitted.model).run


def milliseconds(task: Task) -> float:
    """Of one warm forecast: readings to grid, replay, interval."""
    part = slice(task.begin, task.test)
    history = series.Grid(task.grid.times[part], task.grid.values[part], task.grid.interval)
    fitted = NETWORK.fit(history, SETTINGS | {"epochs": 1}, FREE, None, None, lambda: None)
    run = run_of(fitted)
    back = int(NETWORK.lookback(fitted.model) / task.grid.interval)
    times, values = (a[task.test : task.test + back] for a in (task.grid.times, task.grid.values))
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        grid = series.regular(times, values, task.grid.interval)
        NETWORK.forecast(fitted.model, run, grid, None, 0.9)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def memory(dsn: str, devices: int = 200) -> None:
    """Train many devices in one session and watch the private memory of its backend."""
    with psycopg.connect(timing.database(dsn, "bench_forecast"), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS pyml CASCADE")
        fleet = timing.fleet(conn, devices, 1)
        conn.execute("SET client_min_messages = error")
        status = Path(f"/proc/{conn.info.backend_pid}/status")
        print(f"{'trainings':>9}  {'MiB':>6}  {'seconds':>7}")
        started = time.perf_counter()
        for done in range(devices + 1):
            if done % 20 == 0 or done == 1:
                held = int(re.findall(r"RssAnon:\s+(\d+)", status.read_text())[0]) / 1024
                print(f"{done:9}  {held:6.0f}  {time.perf_counter() - started:7.1f}", flush=True)
            if done < devices:
                conn.execute("SELECT ml_train_lstm(%s)", [fleet[done]])


def table(data: Path, only: str) -> None:
    """Print the comparison, a row for each series as it is done."""
    methods = {"last": last_value, "med 12": median_of_12, "ridge": ridge, "LightGBM": boosted}
    methods |= {name: automatic(name) for name in ("AutoARIMA", "AutoETS")}
    for library, theirs in {
        "lightgbm": ["LightGBM"],
        "statsforecast": ["AutoARIMA", "AutoETS"],
    }.items():
        if importlib.util.find_spec(library) is None:
            print(f"{', '.join(theirs)} left out: pip install {library}")
            for name in theirs:
                del methods[name]
    prepare(LENGTH, HORIZON)  # TensorFlow loaded, as in a session that has trained before
    levels = "".join(f"  {level:>5.0%} width ridge" for level in LEVELS)
    print(
        f"{'':13}{''.join(f'{m:>10}' for m in methods)}{'pyml':>10}{levels}"
        "  cold s  (CPU)  warm s  (CPU)"
    )
    rows: list[tuple[Floats, Floats]] = []
    costs: list[tuple[Cost, Cost]] = []
    for task in tasks(data):
        if only not in task.name:
            continue
        told = {name: method(task) for name, method in methods.items()}
        told["pyml"], cold, warm = network(task)
        ours, theirs = told["pyml"], told["ridge"]
        cells = [(ours.coverage[q], ours.width[q], theirs.width[q]) for q in range(len(LEVELS))]
        rows.append((np.array([r.error for r in told.values()]), np.array(cells)))
        costs.append((cold, warm))
        print_row(task.name, *rows[-1], seconds(costs[-1:]))
    errors = np.array([row[0] for row in rows])
    cells = np.array([row[1] for row in rows])
    centre = np.exp(np.log(errors).mean(axis=0))
    widths = np.exp(np.log(np.maximum(cells[:, :, 1:], 1e-9)).mean(axis=0))
    means = np.concatenate([cells[:, :, :1].mean(axis=0), widths], axis=1)
    print_row("all", centre, means, seconds(costs))
    print_row("worst", errors.max(axis=0), np.empty((0, 3)), "")
    print_row("pyml by it", centre[-1] / centre, np.empty((0, 3)), "")
    off = np.abs(cells[:, :, 0] - LEVELS).max(axis=0)
    print(
        "\nCoverage misses its level by at most "
        + ", ".join(f"{miss:.3f} ({level:.0%})" for miss, level in zip(off, LEVELS, strict=True))
        + "."
    )
    deaf = max(cost.deaf for pair in costs for cost in pair)
    print(f"Longest stretch of a training in which no cancel could land: {deaf:.2f} s.")
    example = next(task for task in tasks(data) if only in task.name)
    print(f"One forecast, warm: {milliseconds(example):.1f} ms.")


def seconds(costs: list[tuple[Cost, Cost]]) -> str:
    """Mean cost of the cold and of the warm trainings, as the table's last cells."""
    return "".join(
        f"{np.mean([c.wall for c in kind]):8.1f} {np.mean([c.cpu for c in kind]):6.1f}"
        for kind in zip(*costs, strict=True)
    )


def print_row(name: str, errors: Floats, cells: Floats, rest: str) -> None:
    """One line: relative errors, then coverage and both widths at each level."""
    told = "".join(f"{e:10.3f}" for e in errors)
    print(f"{name:13}{told}{''.join(f'  {c:5.3f} {w:5.2f} {r:5.2f}' for c, w, r in cells)}{rest}")
    sys.stdout.flush()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--only", default="", help="series whose name holds this")
    parser.add_argument("--memory", metavar="DSN", help="memory over 200 trainings")
    asked = parser.parse_args()
    if asked.memory:
        memory(asked.memory)
        return
    try:
        table(asked.data, asked.only)
    except recordings.BadRecording as problem:
        parser.error(str(problem))


if __name__ == "__main__":
    main()
