"""How often what is called rare comes on ordinary days: the calibration of rarity.

    python bench/rarity.py [--data DIR] [--stride 2] [--seed 0] [--detector forest|level]

On three kinds of recordings a forest is trained on the week before each day, as in sweep.py. Of
the day's peaks (at least an hour apart, those that touch a labelled event left out) it counts how
many are said to come once a day, once in three days, once a week and once in thirty days, or more
seldom. Printed as counted/expected a device and week: by the device's own week, by the trainings
of all machines together, and by the lesser of both, which is what the product says.

Of a finder, what begins on the day is counted in place of peaks: findings that overlap in time,
whatever their metric, are one.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import offline
import recordings
from offline import Day
from recordings import KINDS

from pyml.detectors.base import Finder
from pyml.detectors.joining import joined
from pyml.detectors.level import Level
from pyml.detectors.rarity import Curve, Excursions
from pyml.forest import Forest
from pyml.seconds import HOUR
from pyml.telemetry.series import Metric

OFTEN = {"1 day": 24.0, "3 days": 72.0, "1 week": 168.0, "30 days": 720.0}
WEEK = 168.0
# Seconds; nearer findings are one, as by the setting incident_gap_minutes.
GAP = 600.0
Machines = dict[str, list[list[Day]]]
Judged = Callable[[Day, int, recordings.Floats], recordings.Floats]


def ordinary_peaks(day: Day) -> recordings.Floats:
    """The peaks of a day that touch no labelled event."""
    quiet = np.where(day.label, -np.inf, day.score)
    return Excursions.lasting(day.interval, day.times, quiet).peaks().heights


def found_days(finder: Finder[Any], kind: str, path: Path, stride: int) -> Iterator[Day]:
    """Each `stride`-th day of a recording's labelled part, judged by a finder.

    A day's score is that of the findings that begin in it, at the reading at which they do.
    """
    recording = KINDS[kind][1](path)
    times, values, names = recording.times, recording.values, tuple(recording.names)
    interval = float(np.median(np.diff(times)))
    per_day = round(offline.DAY_SECONDS / interval)
    week = offline.WEEK_DAYS * per_day
    first = int(np.flatnonzero(np.isfinite(recording.label))[0])
    for begin in range(first, len(times), per_day)[::stride]:
        end = min(begin + per_day, len(times))
        known = offline.signals(times[begin - week : begin], values[begin - week : begin], names)
        fitted = finder.fit(known, {}, lambda: None)
        metrics = [Metric(name, name, None, 1.0, "gauge") for name in fitted.model.names]
        # How a metric comes, and what it was, a finder of levels does not ask.
        model = fitted.model.knowing(metrics, ())
        seen = offline.signals(times[begin - week : end], values[begin - week : end], names)
        mine = seen.of_metrics(model.names)
        since, until = float(times[begin - 1]), float(times[end - 1])
        found = finder.find(model, mine, since, until, lambda: None)
        score, label = np.full(end - begin, -np.inf), recording.label[begin:end] == 1
        # As those of one metric are joined, here those of all.
        together = joined((), [replace(one, metric="") for one in found], GAP, finder.kinds)
        for one in together:
            rows = slice(*np.searchsorted(times[begin:end], (one.started_at, one.last_at + 1)))
            if one.started_at > since and not label[rows].any():
                score[rows.start] = one.score
        figures = fitted.figures
        peaks_, hours = figures.get("peaks", []), figures.get("ordinary_hours", 0.0)
        yield Day(times[begin:end], score, score > 0, label, interval, peaks_, hours)


def pooled(machines: Machines) -> dict[int, Curve]:
    """The curve of all machines' trainings, by the number of the day."""
    every = [days for kind in machines.values() for days in kind]
    found = {}
    for number in range(max(map(len, every))):
        trainings = [days[min(number, len(days) - 1)] for days in every]
        heights = [height for day in trainings for height in day.peaks]
        found[number] = Curve.of(sum(day.hours for day in trainings), heights)
    return found


def line(name: str, kind: str, machines: list[list[Day]], judged: Judged) -> None:
    """Print one line of the table."""
    counts, hours, worst = np.zeros(len(OFTEN)), 0.0, 0.0
    for days in machines:
        mine, seen = np.zeros(len(OFTEN)), 0.0
        for number, day in enumerate(days):
            rarity = judged(day, number, ordinary_peaks(day))
            mine += [(rarity >= often).sum() for often in OFTEN.values()]
            seen += (~day.label).sum() * day.interval / HOUR
        counts, hours = counts + mine, hours + seen
        worst = max(worst, float(mine[2] / (seen / WEEK)))
    shown = zip(counts / (hours / WEEK), OFTEN.values(), strict=True)
    cells = "".join(f"{f'{count:.2f}/{WEEK / often:.2f}':>13}" for count, often in shown)
    print(f"{name:18}{kind:13}{cells}{worst:12.1f}")


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=recordings.DATA, help="the recordings")
    parser.add_argument("--stride", type=int, default=2, help="each so many-th day")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detector", choices=["forest", "level"], default="forest")
    asked = parser.parse_args()
    machines = Machines()

    def judged(kind: str, path: Path) -> Iterator[Day]:
        if asked.detector == "forest":
            return offline.days(Forest(), kind, path, asked.seed, asked.stride)
        return found_days(Level(), kind, path, asked.stride)

    try:
        for kind, (paths, _) in KINDS.items():
            machines[kind] = [list(judged(kind, path)) for path in paths(asked.data)]
    except ValueError as problem:
        parser.error(str(problem))
    fleet = pooled(machines)

    def own(day: Day, _: int, heights: recordings.Floats) -> recordings.Floats:
        return Curve.of(day.hours, day.peaks).hours_between(heights)

    def together(_: Day, number: int, heights: recordings.Floats) -> recordings.Floats:
        return fleet[number].hours_between(heights)

    def lesser(day: Day, number: int, heights: recordings.Floats) -> recordings.Floats:
        return np.minimum(own(day, number, heights), together(day, number, heights))

    print(f"{'':31}" + "".join(f"{name:>13}" for name in OFTEN) + f"{'worst, week':>12}")
    ways: dict[str, Judged] = {"own week": own, "all machines": together, "lesser": lesser}
    for name, way in ways.items():
        for kind, each in machines.items():
            line(name, kind, each, way)
        line(name, "all", [days for each in machines.values() for days in each], way)


if __name__ == "__main__":
    main()
