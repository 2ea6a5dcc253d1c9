"""Accuracy of the forest with changed parameters, on recordings of real machines.

    python bench/sweep.py [--set forest.NAME=VALUE …] [--data DIR] [--quick]
    python bench/sweep.py --list

For each day of a recording's labelled part a forest is trained on the seven days before it and
scores the day; the days of a machine are pooled. No database takes part, so the metrics are those
of the recording as they are. The recordings and the protocol are in DATA.md, ../shared by default.

AP is the average precision of the score. The next columns are the share of labelled events found
at 1/7, 1/2, 1 and 5 false alarms a day; "normal" is the share of normal rows that are flagged.
``--quick`` takes every fourth day. ``--list`` prints the parameters, what they mean and where
their values come from.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import recordings
from alarms import FALSE_A_DAY, events_at, judged
from detect import WEEK_DAYS
from sklearn.metrics import average_precision_score

from pyml.detectors.base import NORMAL, Signals
from pyml.detectors.isolation import PARAMETERS, Parameters
from pyml.forest import Forest
from pyml.parameters import changed, described

PER_DAY = 1440
SETTINGS = {"contamination": 0.01, "n_estimators": 100}
COLUMNS = ("AP", *FALSE_A_DAY, "normal")
OWNER = "forest."


def signals(times: recordings.Floats, values: recordings.Floats, names: Sequence[str]) -> Signals:
    """A reading a minute, all of which came."""
    return Signals(times, values, tuple(names), 60.0, np.zeros(len(times), bool))


def machine(forest: Forest, path: Path, seed: int, quick: bool) -> dict[str, float]:
    """The figures of one machine."""
    found = recordings.read_smd(path)
    names, settings = tuple(found.names), SETTINGS | {"seed": seed}
    first = int(np.flatnonzero(np.isfinite(found.label))[0])
    scores, flags, labels = [], [], []
    for begin in range(first, len(found.label), PER_DAY)[:: 4 if quick else 1]:
        week = slice(begin - WEEK_DAYS * PER_DAY, begin)
        fitted = forest.fit(
            signals(found.times[week], found.values[week], names), settings, lambda: None
        )
        model, run = fitted.model, forest.runner(fitted.numbers, fitted.model).run
        used = [names.index(name) for name in model.names]
        end, since = min(begin + PER_DAY, len(found.label)), found.times[begin - 1]
        read = np.flatnonzero(found.times[:end] > since - forest.lookback(model))
        day = signals(found.times[read], found.values[read][:, used], model.names)
        said = forest.detect(model, run, day, since, lambda: None)
        # A row without a value is not judged: it counts as the most normal one.
        score, flag = np.full(end - begin, -1.0), np.zeros(end - begin, bool)
        place = np.searchsorted(found.times[begin:end], said.times)
        score[place], flag[place] = -said.scores, said.severity > NORMAL
        scores.append(score)
        flags.append(flag)
        labels.append(found.label[begin:end] == 1)
    score, flag, label = (np.concatenate(each) for each in (scores, flags, labels))
    return {
        "AP": float(average_precision_score(label, score)),
        **{name: events_at(score, label, most, PER_DAY) for name, most in FALSE_A_DAY.items()},
        "normal": judged(flag, label, PER_DAY)["normal"],
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


def line(name: str, figures: dict[str, float]) -> None:
    """Print one line of the table."""
    print(f"{name:14}" + "".join(f"{figures[column]:9.3f}" for column in COLUMNS), flush=True)


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
    parser.add_argument("--only", default="", help="machines whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="every fourth day")
    parser.add_argument("--list", action="store_true", help="print the parameters")
    asked = parser.parse_args()
    try:
        parameters = parsed(asked.set)
        if asked.list:
            listed(parameters)
            return
        paths = [path for path in recordings.smd(asked.data) if asked.only in path.name]
        if not paths:
            parser.error(f"no machine's name holds {asked.only!r}")
        forest, found = Forest(parameters), []
        print(f"{'':14}" + "".join(f"{column:>9}" for column in COLUMNS))
        for path in paths:
            found.append(machine(forest, path, asked.seed, asked.quick))
            line(path.name.split(".")[0], found[-1])
        mean = {name: float(np.mean([one[name] for one in found])) for name in COLUMNS}
        line("mean", mean)
    except ValueError as problem:  # a recording that cannot be read is one too
        parser.error(str(problem))


if __name__ == "__main__":
    main()
