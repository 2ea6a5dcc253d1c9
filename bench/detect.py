"""Accuracy of the anomaly detection on recordings of real machines, as the product is used.

    python bench/detect.py DSN [DATA] [--quick] [--every 5]

DSN is a database in which pyml is installed. Each recording is loaded into it as
telemetry; ml_train_forest is called as of the start of each day, with the seven days
before it, and ml_score with the day. All of it is rolled back in the end. DATA is the
folder of the recordings, ../shared/data by default; the protocol is in DATA.md there.

Baselines are trained with scikit-learn on the recordings themselves, on the same days.
They are: noise; an Isolation Forest on the values; the same beside the trailing
deviation over 15 readings, and over 5, 15 and 60; and the sum of the standardised
scores of the one over 15 and of a Mahalanobis distance (Ledoit-Wolf). Their
thresholds are the 99 % and 99.9 % quantiles of their training scores.

``--quick`` is one seed and every fourth day, without the baselines: for a first look,
its figures are not those of the protocol. ``--every 5`` takes each fifth row of the eight
machines alone: they then report every five minutes. Baselines look back as many minutes, and
see the network at the moment where the product, which is told counters, sees means.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psycopg
import recordings
from alarms import alarms, events, judged, ranking
from load_history import load
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest

Floats = NDArray[np.float64]
Connection = psycopg.Connection[Any]

WEEK_DAYS, NAB_FIRST_DAYS = 7, 3
THIN = """
DELETE FROM device_shadow_history AS h
USING (SELECT "timestamp", row_number() OVER (ORDER BY "timestamp") - 1 AS place
       FROM device_shadow_history WHERE device_uuid = %(device)s) AS r
WHERE device_uuid = %(device)s AND h."timestamp" = r."timestamp" AND place %% %(every)s > 0"""
SEEDS = (0, 1, 2)
RANKED = ("ROC", "AP", "evR@1", "evR@5")
LIMITED = ("P", "R", "false/day", "events", "normal")


@dataclass(slots=True)
class Marks:
    """One detector over the judged rows of a recording, in time order."""

    score: list[Floats] = field(default_factory=list)  # higher is more anomalous
    warning: list[NDArray[np.bool_]] = field(default_factory=list)
    critical: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, score: Floats, warning: NDArray[np.bool_], critical: NDArray[np.bool_]) -> None:
        """Append a day."""
        self.score.append(score)
        self.warning.append(warning)
        self.critical.append(critical)

    def figures(self, label: NDArray[np.bool_], per_day: float) -> dict[str, float]:
        """All figures of the protocol; W and C are the two thresholds."""
        found = ranking(np.concatenate(self.score), label, per_day)
        for sign, flags in (("W", self.warning), ("C", self.critical)):
            found |= {
                f"{sign} {name}": value
                for name, value in judged(np.concatenate(flags), label, per_day).items()
            }
        return found


class Product:
    """A recording in the database, scored through the functions in SQL."""

    def __init__(
        self, conn: Connection, path: Path, recording: recordings.Recording, every: int = 1
    ) -> None:
        self._conn = conn
        loaded = load(conn, path, end=datetime.now(UTC).replace(microsecond=0))
        self._device = loaded.device
        if every > 1:
            conn.execute(THIN, {"device": self._device, "every": every})
        self._zero = loaded.first.replace(tzinfo=UTC) - timedelta(seconds=recording.times[0])

    def _moment(self, seconds: float) -> datetime:
        return self._zero + timedelta(seconds=float(seconds))

    def seed(self, seed: int) -> None:
        """The seed of the next trainings."""
        self._conn.execute("UPDATE ml_setting SET value = %s WHERE name = 'seed'", (str(seed),))

    def day(self, before: float, times: Floats) -> tuple[Floats, NDArray[np.str_]]:
        """Scores and severities of the readings at `times`, by a model that ends at `before`.

        A reading that the product drops as a repeat counts as its most normal one.
        """
        self._conn.execute(
            "SELECT ml_train_forest(%s, as_of => %s)", (self._device, self._moment(before))
        )
        rows = self._conn.execute(
            'SELECT "timestamp", anomaly_score, severity FROM ml_score(%s, %s, %s)',
            (self._device, self._moment(before), self._moment(times[-1])),
        ).fetchall()
        score, severity = np.full(len(times), -1.0), np.full(len(times), "none", dtype="U8")
        at = np.array([(row[0] - self._zero).total_seconds() for row in rows])
        place = np.searchsorted(times, at - 0.5)
        score[place] = [-row[1] for row in rows]
        severity[place] = [row[2] for row in rows]
        return score, severity


def deviation(values: Floats, window: int) -> Floats:
    """Standard deviation over the trailing `window` rows, fewer at the start."""
    total = np.cumsum(np.vstack([np.zeros((2, values.shape[1])), values]), axis=0)[1:]
    square = np.cumsum(np.vstack([np.zeros((2, values.shape[1])), values**2]), axis=0)[1:]
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(end - window, 0)
    n = (end - begin)[:, None]
    mean = (total[end] - total[begin]) / n
    return np.sqrt(np.maximum((square[end] - square[begin]) / n - mean**2, 0.0))


def isolation(train: Floats, day: Floats, seed: int) -> tuple[Floats, Floats]:
    """Scores of both, higher for more anomalous."""
    forest = IsolationForest(n_estimators=100, random_state=seed).fit(train)
    return -forest.score_samples(train), -forest.score_samples(day)


def mahalanobis(train: Floats, day: Floats) -> tuple[Floats, Floats]:
    """Logarithm of the distance, for both."""
    fitted = LedoitWolf().fit(train)
    return np.log(fitted.mahalanobis(train) + 1e-9), np.log(fitted.mahalanobis(day) + 1e-9)


def baselines(
    values: Floats, every: int
) -> dict[str, Callable[[slice, slice, int], tuple[Floats, Floats]]]:
    """Detectors that give the scores of a training's and of a day's rows."""
    spreads = {span: deviation(values, max(2, span // every)) for span in (5, 15, 60)}
    one = np.hstack([values, spreads[15]])
    three = np.hstack([values, *spreads.values()])

    def noise(train: slice, day: slice, seed: int) -> tuple[Floats, Floats]:
        draw = np.random.default_rng((seed, day.start))
        return draw.random(train.stop - train.start), draw.random(day.stop - day.start)

    def both(train: slice, day: slice, seed: int) -> tuple[Floats, Floats]:
        total = [0.0, 0.0]
        for a, b in (isolation(one[train], one[day], seed), mahalanobis(one[train], one[day])):
            total[0] = total[0] + (a - a.mean()) / a.std()
            total[1] = total[1] + (b - a.mean()) / a.std()
        return np.asarray(total[0]), np.asarray(total[1])

    return {
        "random": noise,
        "forest, values": lambda t, d, seed: isolation(values[t], values[d], seed),
        "forest, 15": lambda t, d, seed: isolation(one[t], one[d], seed),
        "forest, 5 15 60": lambda t, d, seed: isolation(three[t], three[d], seed),
        "forest 15 + Mahalanobis": both,
    }


def judge(
    conn: Connection, path: Path, seeds: Iterable[int], quick: bool, every: int
) -> dict[tuple[str, int], dict[str, float]]:
    """Figures of one SMD machine by detector and seed."""
    machine = recordings.read_smd(path)
    times, values = machine.times[::every], machine.values[::every]
    label, known = machine.label[::every] == 1, np.isfinite(machine.label[::every])
    half, per_day = int(np.flatnonzero(known)[0]), 1440 // every
    product = Product(conn, path, machine, every)
    others = {} if quick else baselines(values, every)
    found = {}
    for seed in seeds:
        marks = {name: Marks() for name in ("pyml", *others)}
        product.seed(seed)
        judged_rows = []
        for begin in range(half, len(label), per_day)[:: 4 if quick else 1]:
            day = slice(begin, min(begin + per_day, len(label)))
            train = slice(begin - WEEK_DAYS * per_day, begin)
            judged_rows.append(label[day])
            score, severity = product.day(times[begin - 1], times[day])
            marks["pyml"].add(score, severity != "none", severity == "critical")
            for name, detector in others.items():
                before, now = detector(train, day, seed)
                warning, critical = np.quantile(before, [0.99, 0.999])
                marks[name].add(now, now > warning, now > critical)
        rows = np.concatenate(judged_rows)
        for name, mark in marks.items():
            found[name, seed] = mark.figures(rows, per_day)
    return found


def replay(conn: Connection, path: Path) -> list[str]:
    """One line for each labelled window of a NAB series, and one for the series."""
    host = recordings.read_nab(path)
    product = Product(conn, path, host)
    per_day = 86400 / float(np.median(np.diff(host.times)))
    first = host.times[0] + NAB_FIRST_DAYS * 86400
    starts = np.arange(first, host.times[-1], 86400)
    flags = {
        "warning": np.zeros(len(host.times), bool),
        "critical": np.zeros(len(host.times), bool),
    }
    product.seed(0)
    for start in starts:
        inside = np.flatnonzero((host.times > start) & (host.times <= start + 86400))
        if not len(inside):
            continue
        _, severity = product.day(start, host.times[inside])
        flags["warning"][inside] = severity != "none"
        flags["critical"][inside] = severity == "critical"
    seen = host.times > first
    lines = []
    for begin, end in events(host.label == 1):
        cells = []
        for flag in flags.values():
            hit = np.flatnonzero(flag[begin:end])
            hours = (host.times[begin + hit[0]] - host.times[begin]) / 3600 if len(hit) else None
            cells.append("not found" if hours is None else f"after {hours:4.1f} h")
        length = (host.times[end - 1] - host.times[begin]) / 3600
        lines.append(
            f"{host.name.split('_')[-1]:12s} window of {length:4.1f} h " + "   ".join(cells)
        )
    cells = []
    for flag in flags.values():
        fired = alarms(flag[seen], max(1, int(per_day / 24)))
        false = (host.label[seen][fired] == 0).sum() / (seen.sum() / per_day)
        cells.append(f"{false:4.2f} a day ")
    return [*lines, f"{host.name.split('_')[-1]:12s} false alarms      " + "   ".join(cells)]


def show(found: dict[str, dict[tuple[str, int], dict[str, float]]]) -> None:
    """The tables: by detector, then pyml and the best forest by machine, over the seeds."""
    detectors = list(dict.fromkeys(name for figures in found.values() for name, _ in figures))
    columns = [*RANKED, *(f"W {name}" for name in LIMITED), *(f"C {name}" for name in LIMITED)]

    def line(name: str, figures: list[dict[str, float]]) -> None:
        cells = [np.mean([figure[column] for figure in figures]) for column in columns]
        print(f"{name:24s}" + "".join(f"{cell:12.3f}" for cell in cells))

    header = f"{'':24s}" + "".join(f"{column:>12s}" for column in columns)
    print(f"\nMean of {len(found)} machines over the seeds\n{header}")
    for name in detectors:
        line(name, [f for figures in found.values() for (n, _), f in figures.items() if n == name])
    for name in detectors[:1] + detectors[4:5]:
        print(f"\n{name}, by machine\n{header}")
        for machine, figures in found.items():
            line(machine, [f for (n, _), f in figures.items() if n == name])
    for seed in sorted({seed for figures in found.values() for _, seed in figures}):
        line(f"pyml, seed {seed}", [figures["pyml", seed] for figures in found.values()])


def main() -> None:
    """Judge every recording and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a database with pyml")
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--quick", action="store_true", help="one seed, every fourth day")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th row alone")
    options = parser.parse_args()
    if options.every < 1:
        parser.error("--every takes a number of rows, 1 or more")
    seeds = SEEDS[:1] if options.quick else SEEDS
    found = {}
    try:
        machines, hosts = recordings.smd(options.data), recordings.nab(options.data)
        with psycopg.connect(options.dsn) as conn:
            for path in machines:
                started = time.monotonic()
                found[path.name.split(".")[0]] = judge(
                    conn, path, seeds, options.quick, options.every
                )
                conn.rollback()
                print(f"{path.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
            if options.every == 1:  # the hosts report every five minutes as they are
                print("NAB, a model a day; time from the window's begin to the first alarm")
                print(f"{'':32s}  warning      critical")
                for path in hosts:
                    print("\n".join(replay(conn, path)))
                    conn.rollback()
    except (recordings.BadRecording, psycopg.Error) as problem:
        sys.exit(f"detect: {problem}")
    show(found)


if __name__ == "__main__":
    main()
