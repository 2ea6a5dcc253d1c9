"""The forest on recordings, without a database: day by day, each by the week before it.

No database takes part, so the metrics are those of the recording as they are. The protocol is in
DATA.md beside the recordings.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import recordings
from recordings import KINDS, Floats

from pyml.detectors.base import NORMAL, Signals
from pyml.forest import Forest

SETTINGS = {"contamination": 0.01, "n_estimators": 100}
DAY_SECONDS, WEEK_DAYS = 86400, 7


@dataclass(frozen=True, slots=True)
class Day:
    """One judged day; n rows.

    Attributes
    ----------
    times, score : ndarray of float64, shape (n,)
        Higher scores are more anomalous. A row without a value counts as the most normal one.
    flag, label : ndarray of bool, shape (n,)
    interval : float
        Seconds between two rows.
    peaks, hours
        Of the training: its highest ordinary scores, and the ordinary hours that it held.
    """

    times: Floats
    score: Floats
    flag: recordings.Bools
    label: recordings.Bools
    interval: float
    peaks: list[float]
    hours: float

    @property
    def per_day(self) -> int:
        """Rows of a whole day."""
        return round(DAY_SECONDS / self.interval)


def days(forest: Forest, kind: str, path: Path, seed: int, stride: int = 1) -> Iterator[Day]:
    """Each `stride`-th day of a recording's labelled part."""
    found = KINDS[kind][1](path)
    names, settings = tuple(found.names), SETTINGS | {"seed": seed}
    interval = float(np.median(np.diff(found.times)))
    per_day = round(DAY_SECONDS / interval)
    first = int(np.flatnonzero(np.isfinite(found.label))[0])
    for begin in range(first, len(found.label), per_day)[::stride]:
        week, end = (
            slice(begin - WEEK_DAYS * per_day, begin),
            min(begin + per_day, len(found.label)),
        )
        known = signals(found.times[week], found.values[week], names)
        fitted = forest.fit(known, settings, lambda: None)
        model, run = fitted.model, forest.runner(fitted.numbers, fitted.model).run
        used, since = [names.index(name) for name in model.names], found.times[begin - 1]
        read = np.flatnonzero(found.times[:end] > since - forest.lookback(model))
        day = signals(found.times[read], found.values[read][:, used], model.names)
        said = forest.detect(model, run, day, since, lambda: None)
        score, flag = np.full(end - begin, -1.0), np.zeros(end - begin, bool)
        place = np.searchsorted(found.times[begin:end], said.times)
        score[place], flag[place] = -said.scores, said.severity > NORMAL
        yield Day(
            found.times[begin:end],
            score,
            flag,
            found.label[begin:end] == 1,
            interval,
            fitted.figures["peaks"],
            fitted.figures["ordinary_hours"],
        )


def signals(times: Floats, values: Floats, names: Sequence[str]) -> Signals:
    """Readings all of which came."""
    interval = float(np.median(np.diff(times)))
    held, unfit = np.zeros(len(times), bool), np.full(values.shape, np.nan)
    return Signals(times, values, tuple(names), interval, held, unfit)
