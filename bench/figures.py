"""Tables of what detect.py found, and what changed between two runs of it.

    python bench/figures.py BEFORE [AFTER]

BEFORE and AFTER are files that ``detect.py --json`` wrote. One file is printed as detect.py
prints it. Of two, each cell is the later figure, by how much it differs, and the noise of the
difference: its standard error over the seeds. That of a kind comes from its machines' seeds.
A star marks kinds that differ by more than twice the noise.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

Figures = dict[str, float]
Machines = dict[str, dict[str, dict[str, Figures]]]  # by machine, detector and seed
Found = dict[str, Machines]  # by kind

RANKED = ("ROC", "AP", "evR@1/7", "evR@1/2", "evR@1", "evR@5")
WARNING = ("W P", "W R", "W false/day", "W events", "W normal")
CRITICAL = ("C false/day", "C events", "C normal")
MEANS = (*RANKED, *WARNING, *CRITICAL)
# The highest of a kind's, not the mean; "worst machine" is made of the machines' "W normal".
WORST = ("worst machine", "worst day", "deaf days")
COMPARED = ("AP", "evR@1/7", "evR@1/2", "evR@1", "evR@5", "W events", "W normal")
BY_MACHINE = ("pyml", "both, tails")


def of_machine(seeds: Iterable[Figures]) -> Figures:
    """The mean over the seeds; of the worst day and of deafness, the highest."""
    runs = list(seeds)
    return {name: statistics.fmean(run[name] for run in runs) for name in MEANS} | {
        name: max(run[name] for run in runs) for name in WORST[1:]
    }


def of_kind(machines: Machines, detector: str) -> Figures:
    """The mean over the machines, and the worst of them."""
    each = [of_machine(machine[detector].values()) for machine in machines.values()]
    return (
        {name: statistics.fmean(one[name] for one in each) for name in MEANS}
        | {name: max(one[name] for one in each) for name in WORST[1:]}
        | {"worst machine": max(one["W normal"] for one in each)}
    )


def of_all(found: Found, detector: str) -> Figures:
    """The mean over the kinds, and the worst of them."""
    each = [of_kind(machines, detector) for machines in found.values()]
    return {name: statistics.fmean(one[name] for one in each) for name in MEANS} | {
        name: max(one[name] for one in each) for name in WORST
    }


def show(found: Found) -> None:
    """Print the tables: the mean of the kinds, each kind, and its machines."""
    columns = (*RANKED, *WARNING, *WORST, *CRITICAL)
    widths = {name: max(8, len(name) + 2) for name in columns}
    header = f"{'':16s}" + "".join(f"{name:>{width}s}" for name, width in widths.items())

    def line(name: str, figures: Figures) -> None:
        cells = (
            f"{figures[column]:{width}.3f}" if column in figures else " " * width
            for column, width in widths.items()
        )
        print(f"{name:16s}" + "".join(cells))

    detectors = list(next(iter(next(iter(found.values())).values())))
    if len(found) > 1:
        print(f"\nMean of {len(found)} kinds\n{header}")
        for detector in detectors:
            line(detector, of_all(found, detector))
    for kind, machines in found.items():
        print(f"\n{kind}, mean of {len(machines)} machines\n{header}")
        for detector in detectors:
            line(detector, of_kind(machines, detector))
        for detector in (name for name in BY_MACHINE if name in detectors):
            print(f"\n{kind}, {detector}, by machine\n{header}")
            for name, machine in machines.items():
                line(name, of_machine(machine[detector].values()))
        print()
        for seed in next(iter(machines.values()))["pyml"]:
            one = {name: {"pyml": {seed: m["pyml"][seed]}} for name, m in machines.items()}
            line(f"pyml, seed {seed}", of_kind(one, "pyml"))


def shared(run: Found, other: Found) -> Found:
    """A run's machines that are in the other too."""
    kept = {
        kind: {name: machine for name, machine in machines.items() if name in other.get(kind, {})}
        for kind, machines in run.items()
    }
    return {kind: machines for kind, machines in kept.items() if machines}


def variance(machine: dict[str, dict[str, Figures]], column: str) -> float:
    """Variance of a machine's mean over the seeds, by pyml; NaN of one seed."""
    values = [figures[column] for figures in machine["pyml"].values()]
    return statistics.variance(values) / len(values) if len(values) > 1 else math.nan


def compare(before: Found, after: Found) -> None:
    """Print how pyml's figures differ."""
    runs = shared(before, after), shared(after, before)
    noise: dict[str, dict[str, float]] = {}  # variance of the difference by kind and column

    def line(name: str, both: list[Figures], variances: Figures, *, marked: bool) -> None:
        then, now = both
        cells = []
        for column in COMPARED:
            difference, error = now[column] - then[column], math.sqrt(variances[column])
            star = "*" if marked and abs(difference) > 2 * error else " "
            cells.append(f"   {now[column]:.4f} {difference:+.4f} ±{error:.4f}{star}")
        print(f"{name:14s}" + "".join(cells))

    print(f"{'':14s}" + "".join(f"   {column:23s}" for column in COMPARED))
    for kind, machines in runs[0].items():
        each = []
        for name, machine in machines.items():
            later = runs[1][kind][name]
            each.append({c: variance(machine, c) + variance(later, c) for c in COMPARED})
            both = [of_machine(one["pyml"].values()) for one in (machine, later)]
            line(name, both, each[-1], marked=False)
        noise[kind] = {c: sum(one[c] for one in each) / len(each) ** 2 for c in COMPARED}
        both = [of_kind(run[kind], "pyml") for run in runs]
        line(kind, both, noise[kind], marked=True)
        print(
            "".join(
                f"   {name} {both[0][name]:.3f} then, {both[1][name]:.3f} now" for name in WORST
            )
            + "\n"
        )
    total = {c: sum(one[c] for one in noise.values()) / len(noise) ** 2 for c in COMPARED}
    line("mean of kinds", [of_all(run, "pyml") for run in runs], total, marked=True)


def main() -> None:
    """Print a run, or the differences of two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("before", type=Path, help="a file of detect.py --json")
    parser.add_argument("after", type=Path, nargs="?", help="one of a later version")
    options = parser.parse_args()
    try:
        runs = [json.loads(path.read_text()) for path in (options.before, options.after) if path]
    except (OSError, ValueError) as problem:
        sys.exit(f"figures: {problem}")
    if len(runs) == 1:
        show(runs[0])
    elif not shared(*runs):
        sys.exit("figures: the two have no machine in common")
    else:
        compare(*runs)


if __name__ == "__main__":
    main()
