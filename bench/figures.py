"""Tables of what detect.py found, and what changed between two runs of it.

    python bench/figures.py BEFORE [AFTER]

BEFORE and AFTER are files that ``detect.py --json`` wrote. One file is printed as detect.py
prints it. Of two, each cell is the later figure, by how much it differs, and the noise of the
difference: its standard error over the seeds. That of a kind comes from its machines' seeds.
A star marks kinds that differ by more than twice the noise.

The mean of the kinds is that of SMD, ASD and JumpStarter. Of NAB's series, whose labels are
windows of hours or days, a second table says how many windows are found and how many false
alarms there are a week. "NAB" is the benchmark's own score; 100 is perfect, 0 is no alarm at all.
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
IN_MEAN = ("smd", "asd", "jumpstarter")


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


def in_mean(found: Found) -> Found:
    """What there is of the kinds that the mean is of."""
    return {kind: machines for kind, machines in found.items() if kind in IN_MEAN}


def of_windows(seeds: Iterable[Figures]) -> Figures:
    """A machine's windows, how many of them are found, and false alarms a week."""
    runs = list(seeds)
    mean = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    figures = {"windows": mean["windows"], "found at 1/week": mean["windows"] * mean["evR@1/7"]}
    for sign in "WC":
        figures |= {
            f"{sign} found": mean["windows"] * mean[f"{sign} events"],
            f"{sign} false/week": 7 * mean[f"{sign} false/day"],
            f"{sign} NAB": mean[f"{sign} NAB"],
        }
    return figures


def of_all_windows(each: list[Figures]) -> Figures:
    """Windows are added up, NAB's score is that of all of them, the rest is the mean."""
    windows = [one["windows"] for one in each]
    pooled = {}
    for name in each[0]:
        values = [one[name] for one in each]
        if "NAB" in name:
            pooled[name] = statistics.fmean(values, weights=windows)
        else:
            pooled[name] = statistics.fmean(values) if "false" in name else sum(values)
    return pooled


def of_all(found: Found, detector: str) -> Figures:
    """The mean over the kinds, and the worst of them."""
    each = [of_kind(machines, detector) for machines in in_mean(found).values()]
    return {name: statistics.fmean(one[name] for one in each) for name in MEANS} | {
        name: max(one[name] for one in each) for name in WORST
    }


def show_table(title: str, lines: dict[str, Figures]) -> None:
    """Print figures, a line for each name."""
    widths = {name: max(9, len(name) + 2) for name in next(iter(lines.values()))}
    first = max(16, *(len(name) for name in lines))
    print(f"\n{title}\n{'':{first}s}" + "".join(f"{name:>{n}s}" for name, n in widths.items()))
    for name, figures in lines.items():
        print(f"{name:{first}s}" + "".join(f"{figures[c]:{n}.3f}" for c, n in widths.items()))


def show(found: Found) -> None:
    """Print the tables: the mean of the kinds, each kind, and its machines."""
    detectors = list(next(iter(next(iter(found.values())).values())))
    if len(in_mean(found)) > 1:
        show_table(
            f"Mean of {len(in_mean(found))} kinds",
            {detector: of_all(found, detector) for detector in detectors},
        )
    for kind, machines in found.items():
        show_table(
            f"{kind}, mean of {len(machines)} machines",
            {detector: of_kind(machines, detector) for detector in detectors},
        )
        for detector in (name for name in BY_MACHINE if name in detectors):
            show_table(
                f"{kind}, {detector}, by machine",
                {
                    name: of_machine(machine[detector].values())
                    for name, machine in machines.items()
                },
            )
        by_seed = {}
        for seed in next(iter(machines.values()))["pyml"]:
            one = {name: {"pyml": {seed: m["pyml"][seed]}} for name, m in machines.items()}
            by_seed[f"seed {seed}"] = of_kind(one, "pyml")
        show_table(f"{kind}, pyml, by seed", by_seed)
        if kind not in IN_MEAN:
            show_windows(kind, machines)


def show_windows(kind: str, machines: Machines) -> None:
    """Print a table of the windows of each machine and of all."""
    tables = {
        name: {detector: of_windows(seeds.values()) for detector, seeds in machine.items()}
        for name, machine in machines.items()
    }
    detectors = next(iter(tables.values()))
    pooled = {d: of_all_windows([lines[d] for lines in tables.values()]) for d in detectors}
    for name, lines in (tables | {"all": pooled}).items():
        show_table(f"{kind}, windows of {name}", lines)


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
    if counted := [noise[kind] for kind in in_mean(runs[0])]:
        total = {c: sum(one[c] for one in counted) / len(counted) ** 2 for c in COMPARED}
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
