"""Accuracy of the outlook, seven days ahead, on recordings of real machines.

    python bench/outlook.py [DATA] [--only NAME] [--origins N] [--rivals] [--set NAME=VALUE ...]

DATA is the folder of the recordings, ../shared/data by default; the protocol is in DATA.md beside
it: hourly means; from each day of the last half of a series seven days ahead, from the 28 days
before it (14 at least). An error is divided by that of repeating the last week on the same hours;
so is the mean width of a band. ``--rivals`` forecasts with statsforecast's AutoETS and MSTL too
(``pip install statsforecast``, which nothing else here needs); they take seconds an origin, for
which ``--origins`` takes so many of each series, evenly spread. ``--set`` changes a parameter of
the outlook.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import recordings
from numpy.typing import NDArray

from pyml.forecasters.outlook import BANDS, Parameters, Steps, outlook, steps_of
from pyml.parameters import changed

Floats = NDArray[np.float64]
DAY, WEEK, MONTH, LEAST = 24, 7 * 24, 28 * 24, 14 * 24


class Said(NamedTuple):
    """A forecast of a week: (168,), and its bands (2, 168)."""

    predicted: Floats
    lower: Floats
    upper: Floats


Forecaster = Callable[[Steps], Said]


def series(data: Path) -> Iterator[tuple[str, Floats]]:
    """The names and the hourly means of the protocol's series."""
    for path in recordings.slow(data):
        read = recordings.read_nab(path)
        yield read.name, steps_of(read.times, read.values[:, 0], 1800.0).values
    for path in recordings.smd(data):
        read = recordings.read_smd(path)
        for metric in ("disk_u", "mem_u"):
            column = read.values[:, read.names.index(metric)]
            yield f"{metric} {read.name}", steps_of(read.times, column, 60.0).values


def origins(values: Floats, most: int | None) -> Iterator[tuple[Steps, Floats, Floats]]:
    """From each day what came before, the week before it, and the week that then came."""
    first = max(LEAST, -(-len(values) // 2 // DAY) * DAY)
    places = np.arange(first, len(values) - WEEK + 1, DAY)
    if most is not None and most < len(places):
        places = places[np.linspace(0, len(places) - 1, most).astype(int)]
    for at in places:
        before, came = values[max(0, at - MONTH) : at], values[at : at + WEEK]
        known = np.flatnonzero(~np.isnan(before))
        if len(known) < LEAST or np.isnan(came).all() or known[-1] < len(before) - 1:
            continue
        before = before[known[0] :]
        yield Steps(0.0, 3600.0, before), filled(before)[-WEEK:], came


def filled(values: Floats) -> Floats:
    """What is missing is as a day before, or on a straight line where nothing came by then."""
    values = values.copy()
    for place in np.flatnonzero(np.isnan(values)):
        if place >= DAY:
            values[place] = values[place - DAY]
    known = np.flatnonzero(~np.isnan(values))
    return np.interp(np.arange(len(values)), known, values[known])


def ours(parameters: Parameters) -> Forecaster:
    """The outlook of pyml."""

    def forecast(signal: Steps) -> Said:
        found = outlook(signal, 7, parameters=parameters)
        return Said(found.predicted, found.lower, found.upper)

    return forecast


def rivals() -> dict[str, Forecaster]:
    """The models of statsforecast, by name."""
    from statsforecast.models import MSTL, AutoETS

    def of(model: object) -> Forecaster:
        def forecast(signal: Steps) -> Said:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                percent = [round(100 * band) for band in BANDS]
                found = model.forecast(filled(signal.values), WEEK, level=percent)
            bands = [(found[f"lo-{100 * b:.0f}"], found[f"hi-{100 * b:.0f}"]) for b in BANDS]
            lower, upper = (np.array(ends) for ends in zip(*bands, strict=True))
            return Said(np.asarray(found["mean"]), lower, upper)

        return forecast

    return {
        "AutoETS": of(AutoETS(season_length=DAY)),
        "MSTL": of(MSTL(season_length=[DAY, WEEK])),
    }


def measured(values: Floats, forecast: Forecaster, most: int | None) -> Floats:
    """Error, coverage of the two bands, and their widths; (5,)."""
    missed = naive = hours = 0.0
    held, width = np.zeros(2), np.zeros(2)
    for before, week, came in origins(values, most):
        said, there = forecast(before), ~np.isnan(came)
        missed += np.abs(came - said.predicted)[there].sum()
        naive += np.abs(came - week)[there].sum()
        inside = (came >= said.lower - 1e-9) & (came <= said.upper + 1e-9)
        held += inside[:, there].sum(axis=1)
        width += (said.upper - said.lower)[:, there].sum(axis=1)
        hours += there.sum()
    return np.array([missed / naive, *held / hours, *width / naive])


def table(data: Path, only: str, most: int | None, forecasters: dict[str, Forecaster]) -> None:
    """Print a line a series and forecaster, and the means."""
    print(f"{'':>42} {'error':>6} {'.8':>6} {'.9':>6} {'width .8':>9} {'.9':>6}")
    rows: dict[str, list[Floats]] = {name: [] for name in forecasters}
    for title, values in series(data):
        for name, forecast in forecasters.items() if only in title else ():
            rows[name].append(measured(values, forecast, most))
            _line(f"{title}, {name}", rows[name][-1])
    for name, found in rows.items():
        every = np.array(found)
        mean = np.append(np.exp(np.log(every[:, 0]).mean()), every[:, 1:].mean(axis=0))
        _line(f"mean of {len(found)}, {name}", mean)


def _line(title: str, found: Floats) -> None:
    error, low, high, narrow, wide = found
    print(f"{title:>42} {error:6.3f} {low:6.3f} {high:6.3f} {narrow:9.2f} {wide:6.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--only", default="", help="series whose name holds this")
    parser.add_argument("--origins", type=int, metavar="N", help="origins of a series at most")
    parser.add_argument("--rivals", action="store_true", help="AutoETS and MSTL beside it")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    asked = parser.parse_args()
    try:
        parameters = changed(Parameters(), dict(one.split("=", 1) for one in asked.set))
        others = rivals() if asked.rivals else {}
        table(asked.data, asked.only, asked.origins, {"pyml": ours(parameters), **others})
    except (recordings.BadRecording, ImportError, KeyError, ValueError) as problem:
        parser.error(str(problem))


if __name__ == "__main__":
    main()
