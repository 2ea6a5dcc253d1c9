"""How often what is called rare comes on ordinary days: the calibration of rarity.

    python bench/rarity.py [--data DIR] [--stride 2] [--seed 0]

On three kinds of recordings a forest is trained on the week before each day, as in sweep.py. Of
the day's peaks (at least an hour apart, those that touch a labelled event left out) it counts how
many are said to come once a day, once in three days, once a week and once in thirty days, or more
seldom. Printed as counted/expected a device and week: by the device's own week, by the trainings
of all machines together, and by the lesser of both, which is what the product says.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import offline
import recordings
from offline import Day
from recordings import KINDS

from pyml.detectors.rarity import HOUR, Curve, peaks
from pyml.forest import Forest

OFTEN = {"1 day": 24.0, "3 days": 72.0, "1 week": 168.0, "30 days": 720.0}
WEEK = 168.0
Machines = dict[str, list[list[Day]]]
Judged = Callable[[Day, int, recordings.Floats], recordings.Floats]


def ordinary_peaks(day: Day) -> recordings.Floats:
    """The peaks of a day that touch no labelled event."""
    quiet = np.where(day.label, -np.inf, day.score)
    return np.array(peaks(day.times, quiet, day.interval))


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
    asked = parser.parse_args()
    forest, machines = Forest(), Machines()
    try:
        for kind, (paths, _) in KINDS.items():
            machines[kind] = [
                list(offline.days(forest, kind, path, asked.seed, asked.stride))
                for path in paths(asked.data)
            ]
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
    for name, judged in ways.items():
        for kind, each in machines.items():
            line(name, kind, each, judged)
        line(name, "all", [days for each in machines.values() for days in each], judged)


if __name__ == "__main__":
    main()
