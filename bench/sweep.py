"""Accuracy of the forest with changed parameters, on recordings of real machines.

    python bench/sweep.py [--set forest.NAME=VALUE …] [--data DIR] [--kind asd] [--quick]
    python bench/sweep.py --list

For each day of a recording's labelled part a forest is trained on the seven days before it and
scores the day; the days of a machine are pooled, see offline.py. The recordings are in
../shared/data by default. Means are of a kind's machines, then of the kinds.

AP is the average precision of the score. The next columns are the share of labelled events found
at 1/7, 1/2, 1 and 5 false alarms a day; "normal" is the share of normal rows that are flagged.
``--quick`` takes every fourth day. ``--list`` prints the parameters, what they mean and where
their values come from.
"""

import argparse
import textwrap
from pathlib import Path

import numpy as np
import offline
import recordings
from alarms import FALSE_A_DAY, events_at, judged
from recordings import KINDS
from sklearn.metrics import average_precision_score

from pyml.detectors.isolation import PARAMETERS, Parameters
from pyml.forest import Forest
from pyml.parameters import changed, described

COLUMNS = ("AP", *FALSE_A_DAY, "normal")
OWNER = "forest."


def machine(
    forest: Forest, kind: str, path: Path, seed: int, stride: int
) -> dict[str, float] | None:
    """The figures of one machine; None where the days hold no event."""
    days = list(offline.days(forest, kind, path, seed, stride))
    score, flag, label = (
        np.concatenate([getattr(day, name) for day in days]) for name in ("score", "flag", "label")
    )
    if not label.any():
        return None
    per_day = days[0].per_day
    return {
        "AP": float(average_precision_score(label, score)),
        **{name: events_at(score, label, most, per_day) for name, most in FALSE_A_DAY.items()},
        "normal": judged(flag, label, per_day)["normal"],
    }


def parsed(given: list[str]) -> Parameters:
    """The parameters with what the command line sets.

    Raises
    ------
    ValueError
        No parameter of that name, or no value of its type; the message says what there is.
    """
    texts = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name.startswith(OWNER):
            raise ValueError(f"{one!r} is not of the form {OWNER}NAME=VALUE")
        texts[name.removeprefix(OWNER)] = text
    try:
        return changed(PARAMETERS, texts)
    except KeyError as unknown:
        raise ValueError(
            f"there is no parameter {OWNER}{unknown.args[0]}; --list prints those that there are"
        ) from None


def listed(parameters: Parameters) -> None:
    """Print each parameter's value, meaning and source."""
    for name, value, meaning, source in described(parameters):
        print(f"{OWNER}{name} = {value}")
        print(textwrap.indent(textwrap.fill(f"{meaning}. [{source}]", 90), "    "))


def mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {name: float(np.mean([one[name] for one in found])) for name in COLUMNS}


def line(name: str, figures: dict[str, float]) -> None:
    """Print one line of the table."""
    print(f"{name:20}" + "".join(f"{figures[column]:9.3f}" for column in COLUMNS), flush=True)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="forest.NAME=VALUE",
        help="a parameter other than it is",
    )
    parser.add_argument("--data", type=Path, default=recordings.DATA, help="the recordings")
    parser.add_argument("--kind", action="append", choices=KINDS, help="these recordings alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="every fourth day")
    parser.add_argument("--list", action="store_true", help="print the parameters")
    asked = parser.parse_args()
    try:
        parameters = parsed(asked.set)
        if asked.list:
            listed(parameters)
            return
        forest, means = Forest(parameters), []
        print(f"{'':20}" + "".join(f"{column:>9}" for column in COLUMNS))
        for kind in asked.kind or KINDS:
            found = []
            for path in KINDS[kind][0](asked.data):
                figures = machine(forest, kind, path, asked.seed, 4 if asked.quick else 1)
                if figures:
                    found.append(figures)
                    line(path.name.split(".")[0], figures)
            means.append(mean(found))
            line(f"{kind}, mean", means[-1])
        line("mean of kinds", mean(means))
    except ValueError as problem:  # a recording that cannot be read is one too
        parser.error(str(problem))


if __name__ == "__main__":
    main()
