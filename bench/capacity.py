"""How often a signal that nears its limit is told in time, and how often for nothing.

    python bench/capacity.py [DATA] [--days N] [--seeds N]

DATA is the folder of the recordings, ../shared/data by default. Disk and memory of each SMD machine
are looked at once a day from the 14th day on, as a scan does, with limits at several heights above
all that the first 14 days had. Told is what probably reaches its limit within ``--days`` (7); days
in a row are told once. That is false where the hourly mean is not at the limit within twice as many
days. Signals that are generated fill up (with a rhythm, in steps, with resets, since long or
since some days) or stay below their limit (rhythms, resets, walks, level shifts).

Beside it are two rules that people use: a straight line through now and a week ago, and the least
squares line of the last six hours (Prometheus' predict_linear).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import outlook as bench
import recordings
from numpy.typing import NDArray

from pyml.forecasters.capacity import NEW_DAYS, reach
from pyml.forecasters.outlook import Steps, outlook

Floats = NDArray[np.float64]
DAY, WEEK = 24, 7 * 24
FIRST, MONTH = 14, 28 * 24
# Heights of limits above what the first days had, in widths of it.
HEIGHTS = (0.1, 0.25, 0.5)
QUARTER = 91.0
# A true crossing counts where the signal had been on its way for so many days, two days ahead.
AHEAD, GOING = 2, 4
RULES = ("pyml", "a week's line", "six hours' line")


def told(before: Floats, limits: list[float], days: int) -> NDArray[np.bool_]:
    """Whether each rule tells of each limit, shape (3, limits)."""
    signal = Steps(0.0, 3600.0, before[-MONTH:])
    ahead = outlook(signal, 2 * days)
    hours = np.arange(-5, 1)
    lines = {
        "a week's line": (before[-1] - before[-1 - WEEK]) / WEEK,
        "six hours' line": np.polyfit(hours, before[-6:], 1)[0],
    }
    found = np.zeros((3, len(limits)), bool)
    for i, limit in enumerate(limits):
        new = (before[-NEW_DAYS * DAY :] < limit).all()
        found[0, i] = reach(signal, ahead, limit, True).within(days)
        for j, slope in enumerate(lines.values(), 1):
            found[j, i] = new and before[-1] + slope * days * DAY >= limit
    return found


def judged(
    values: Floats, limits: list[float], days: int, fills: bool
) -> tuple[Floats, Floats, float]:
    """False ones and crossings told in time of each rule, and true crossings; of one signal.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
    limits : list of float
    days : int
    fills : bool
        Whether it is known to have been on its way to its limit for a week.

    Returns
    -------
    false, early : ndarray, shape (3,)
    crossings : float
    """
    looks = range(FIRST * DAY, len(values) - days * DAY + 1, DAY)
    every = np.array([told(values[:at], limits, days) for at in looks])  # (looks, 3, limits)
    false, early, crossings = np.zeros(3), np.zeros(3), 0.0
    for i, limit in enumerate(limits):
        there = np.flatnonzero(values >= limit)
        for rule in range(3):
            said = every[:, rule, i]
            begins = np.flatnonzero(said & ~np.append(False, said[:-1]))
            for look in begins:
                at = looks[look]
                end = at + 2 * days * DAY
                false[rule] += not ((there >= at) & (there < end)).any()
        for at in there[:1]:  # the first time; what follows is not new
            if at < (FIRST + AHEAD) * DAY or not (fills or _was_going(values[:at], limit)):
                continue
            crossings += 1
            in_time = [n for n, look in enumerate(looks) if look <= at - AHEAD * DAY]
            early += every[in_time[-2:], :, i].any(axis=0)
    return false, early, crossings


def _was_going(before: Floats, limit: float) -> bool:
    """Whether two days ahead of the crossing the days' means had risen long enough to tell."""
    then = before[: len(before) - AHEAD * DAY]
    means = then[-(GOING + 1) * DAY :].reshape(-1, DAY).mean(axis=1)
    steps = np.diff(means)
    return bool((steps > 0).all() and means[-1] + 7 * steps.mean() >= limit)


def recorded(data: Path) -> Iterator[tuple[str, Floats, list[float]]]:
    """Disk and memory of the machines, with limits above all that the first days had."""
    for name, values in bench.series(data):
        if name.startswith(("disk", "mem")):
            low, high = values[: FIRST * DAY].min(), values[: FIRST * DAY].max()
            yield name, values, [high + part * max(high - low, 0.01) for part in HEIGHTS]


def generated(seed: int) -> Iterator[tuple[str, Floats, list[float]]]:
    """Signals of 45 days that cross 90 (`fills`) or stay below it, by the kind of their way."""
    rng = np.random.default_rng(seed)
    days = np.arange(45 * DAY) / DAY
    noise = rng.normal(0, rng.uniform(0.1, 0.6), len(days))
    day = rng.uniform(1, 5) * np.sin(2 * np.pi * (days + rng.random()))
    at = rng.uniform(24, 40)  # the day on which it crosses
    slope = rng.uniform(0.4, 3)
    young = np.maximum(days - rng.uniform(at - 14, at - 7), 0)
    start = young[np.searchsorted(days, at)]
    yield "fills, a line", 90 + slope * (days - at) + noise, [90.0]
    yield "fills, a rhythm", 90 + slope * (days - at) + day + noise, [90.0]
    yield "fills, a young line", 90 + slope * (young - start) + noise, [90.0]
    yield "fills, in steps", 90 + slope * (np.floor(days) - np.floor(at)) + noise, [90.0]
    period = rng.uniform(1.5, 6)
    saw = rng.uniform(10, 40) * ((days + 9 * rng.random()) % period) / period
    yield "fills, with resets", 90 + slope * (days - at) + saw - saw.max() + noise, [90.0]
    yield "stays, a rhythm", 60 + 4 * day + noise, [90.0]
    yield "stays, resets", 45 + saw + noise, [90.0]
    walk = np.cumsum(rng.normal(0, 0.15, len(days)))
    yield "stays, a walk", np.minimum(70 + walk - 0.005 * np.cumsum(walk), 89.0), [90.0]
    shift = np.where(days < at, 40, 40 + rng.uniform(10, 40))
    yield "stays, a level shift", shift + day + noise, [90.0]


def table(data: Path, days: int, seeds: int) -> None:
    """Print false ones a device and quarter and crossings told in time, by kind and rule."""
    found: dict[str, list[tuple[Floats, Floats, float, float]]] = {}
    every = [("recordings", *one[1:]) for one in recorded(data)]
    every += [one for seed in range(seeds) for one in generated(seed)]
    for kind, values, limits in every:
        watched = (len(values) / DAY - FIRST - days) * len(limits)
        found.setdefault(kind, []).append((*judged(values, limits, days, "fills" in kind), watched))
    rules = "".join(f"{rule:>18}" for rule in RULES)
    print(f"{'false a device and quarter':>28}{rules}")
    for kind, rows in found.items():
        # A device of the recordings has a disk and a memory.
        parts = 2 if kind == "recordings" else 1
        rates = parts * QUARTER * sum(row[0] for row in rows) / sum(row[3] for row in rows)
        print(f"{kind:>28}" + "".join(f"{rate:18.2f}" for rate in rates))
    print(f"{'told two days ahead':>28}{rules}   crossings")
    for kind, rows in found.items():
        count = sum(row[2] for row in rows)
        if count:
            shares = sum(row[1] for row in rows) / count
            print(f"{kind:>28}" + "".join(f"{part:18.2f}" for part in shares) + f"{count:12.0f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--days", type=int, default=7, help="days in which a limit is near")
    parser.add_argument("--seeds", type=int, default=10, help="signals of each generated kind")
    asked = parser.parse_args()
    try:
        table(asked.data, asked.days, asked.seeds)
    except recordings.BadRecording as problem:
        parser.error(str(problem))


if __name__ == "__main__":
    main()
