"""Accuracy of the anomaly detection on recordings of real machines, as the product is used.

    python bench/detect.py DSN [DATA] [--kind smd] [--seeds 1] [--quick] [--every 5] [--json FILE]

DSN is a database in which pyml is installed. Each recording is loaded into it as
telemetry; ml_train_forest is called as of the start of each day, with the seven days
before it, and ml_score with the day. All of it is rolled back in the end. DATA is the
folder of the recordings, ../shared/data by default; the protocol is in DATA.md there.
``--kind`` takes the recordings of one kind alone; it may be repeated.

smd, asd, jumpstarter: machines with several metrics. nab: hosts of which the CPU is known;
the first model has three days to learn from. slow: a series of the half hour and one of the
hour; a model a week, of all that is before it, at least four weeks.

The metrics of asd, jumpstarter and slow are loaded as gauges, and detection looks at them
alone. Baselines are trained with scikit-learn on the recordings themselves, on the same
days: see baselines.py. Their thresholds are the 99 % and 99.9 % quantiles of their training
scores. ``--no-baselines`` leaves them out.

Figures are of each machine, then the mean of a kind's machines, then of the kinds smd, asd
and jumpstarter. W and C are the warning and the critical threshold, "normal" the share of
normal rows flagged. The labels of nab and slow are windows: figures.py says what is printed
of them, and "events" are windows there.
"deaf days" are the most in a row without any flag, in the week after a day of which more
than 20 % of the rows are flagged. ``--json`` keeps all figures; figures.py compares two
such files, those of two versions for instance. The recordings always end at the same
moment, so the same version gives the same figures again.

``--seeds`` is how many seeds are averaged. ``--quick`` is one seed and every fourth model,
without the baselines: for a first look, its figures are not those of the protocol.
``--every 5`` takes each fifth row of the eight SMD machines alone: they then report every
five minutes. Baselines look back as many minutes, and see the network at the moment where
the product, which knows the counters, sees means.
"""

import argparse
import json
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
from alarms import deaf_days, events, judged, nab_score, ranking, worst_day
from baselines import baselines
from figures import Figures, Found, show
from load_history import load, unnamed_path
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Connection = psycopg.Connection[Any]

WEEK_DAYS = 7
DAY_SECONDS, HOUR_SECONDS = 86400, 3600
END = datetime(2026, 1, 5, tzinfo=UTC)
THIN = """
DELETE FROM device_shadow_history AS h
USING (SELECT "timestamp", row_number() OVER (ORDER BY "timestamp") - 1 AS place
       FROM device_shadow_history WHERE device_uuid = %(device)s) AS r
WHERE device_uuid = %(device)s AND h."timestamp" = r."timestamp" AND place %% %(every)s > 0"""
GAUGES = """
WITH others AS (UPDATE ml_metric SET enabled = false)
INSERT INTO ml_metric (name, path) SELECT * FROM unnest(%s::text[], %s::text[])"""


@dataclass(frozen=True, slots=True)
class Kind:
    """Recordings that are judged alike."""

    paths: Callable[[Path], list[Path]]
    read: Callable[[Path], recordings.Recording]
    gauges: bool = False  # loaded as metrics of their own, not as those that pyml has
    first: int = WEEK_DAYS  # days before the first model, at least
    learns: int | None = WEEK_DAYS  # days before it that a model sees, at most; None: all
    judges: int = 1  # days that a model judges


KINDS = {
    "smd": Kind(recordings.smd, recordings.read_smd),
    "asd": Kind(recordings.asd, recordings.read_unnamed, gauges=True),
    "jumpstarter": Kind(recordings.jumpstarter, recordings.read_unnamed, gauges=True),
    "nab": Kind(recordings.nab, recordings.read_nab, first=3),
    "slow": Kind(
        recordings.slow, recordings.read_nab, gauges=True, first=28, learns=None, judges=WEEK_DAYS
    ),
}


@dataclass(slots=True)
class Marks:
    """One detector over the judged rows of a recording, in time order."""

    score: list[Floats] = field(default_factory=list)  # higher is more anomalous
    warning: list[Bools] = field(default_factory=list)
    critical: list[Bools] = field(default_factory=list)

    def add(self, score: Floats, warning: Bools, critical: Bools) -> None:
        """Append what one model judged."""
        self.score.append(score)
        self.warning.append(warning)
        self.critical.append(critical)

    def figures(self, label: Bools, per_day: int) -> Figures:
        """All figures of the protocol; W and C are the two thresholds."""
        warning = np.concatenate(self.warning)
        found = ranking(np.concatenate(self.score), label, per_day)
        for sign, flag in (("W", warning), ("C", np.concatenate(self.critical))):
            said = judged(flag, label, per_day) | {"NAB": nab_score(flag, label, per_day)}
            found |= {f"{sign} {name}": value for name, value in said.items()}
        ends = range(per_day, len(label), per_day)
        flags = np.split(warning, ends)
        return found | {
            "worst day": worst_day(flags, np.split(label, ends)),
            "deaf days": deaf_days(flags),
            "windows": len(events(label)),
        }


class Product:
    """A recording in the database, scored through the functions in SQL."""

    def __init__(
        self,
        conn: Connection,
        path: Path,
        recording: recordings.Recording,
        gauges: bool,
        every: int,
    ) -> None:
        self._conn = conn
        places = {name: unnamed_path(name) for name in recording.names} if gauges else {}
        loaded = load(conn, path, end=END, mapping=places)
        self._device = loaded.device
        if every > 1:
            conn.execute(THIN, {"device": self._device, "every": every})
        if gauges:
            conn.execute(GAUGES, (list(places), list(places.values())))
        self._zero = loaded.first.replace(tzinfo=UTC) - timedelta(seconds=recording.times[0])

    def _moment(self, seconds: float) -> datetime:
        return self._zero + timedelta(seconds=float(seconds))

    def seed(self, seed: int) -> None:
        """The seed of the next trainings."""
        self._conn.execute("UPDATE ml_setting SET value = %s WHERE name = 'seed'", (str(seed),))

    def judge(self, before: float, hours: int, times: Floats) -> tuple[Floats, NDArray[np.str_]]:
        """Scores and severities of the readings at `times`.

        The model learns from the `hours` up to `before`. A reading that the product drops as
        a repeat counts as its most normal one.
        """
        self._conn.execute(
            "SELECT ml_train_forest(%s, hours => %s, as_of => %s)",
            (self._device, hours, self._moment(before)),
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


def judge(
    conn: Connection,
    kind: Kind,
    path: Path,
    seeds: Iterable[int],
    *,
    stride: int,
    every: int,
    compared: bool,
) -> dict[str, dict[str, Figures]] | None:
    """Figures of one machine by detector and seed; of each `stride`-th model, `every`-th row.

    None where what they judge holds no event: nothing can be said of how many are found.
    """
    machine = kind.read(path)
    times, values = machine.times[::every], machine.values[::every]
    label, known = machine.label[::every] == 1, np.isfinite(machine.label[::every])
    step = round(float(np.median(np.diff(times))))
    per_day = DAY_SECONDS // step
    first, rows = max(int(np.flatnonzero(known)[0]), kind.first * per_day), kind.judges * per_day
    spans = [
        (
            slice(max(0, begin - kind.learns * per_day) if kind.learns else 0, begin),
            slice(begin, min(begin + rows, len(label))),
        )
        for begin in range(first, len(label), rows)[::stride]
    ]
    seen = np.concatenate([label[now] for _, now in spans])
    if not seen.any():
        return None
    product = Product(conn, path, machine, kind.gauges, every)
    others = baselines(values, step / 60) if compared else {}
    found: dict[str, dict[str, Figures]] = {name: {} for name in ("pyml", *others)}
    for seed in seeds:
        marks = {name: Marks() for name in found}
        product.seed(seed)
        for train, now in spans:
            before = times[train.stop - 1]
            hours = round((before - times[train.start] + step) / HOUR_SECONDS)
            score, severity = product.judge(before, hours, times[now])
            marks["pyml"].add(score, severity != "none", severity == "critical")
            for name, detector in others.items():
                usual, score = detector(train, now, seed)
                warning, critical = np.quantile(usual, [0.99, 0.999])
                marks[name].add(score, score > warning, score > critical)
        for name, mark in marks.items():
            found[name][str(seed)] = mark.figures(seen, per_day)
    return found


def main() -> None:
    """Judge every recording and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a database with pyml")
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--kind", action="append", choices=KINDS, help="these recordings alone")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="as many seeds from 0 on")
    parser.add_argument("--quick", action="store_true", help="one seed, every fourth model")
    parser.add_argument("--no-baselines", action="store_true", help="the product alone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th row of SMD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures there")
    options = parser.parse_args()
    if min(options.every, options.seeds) < 1:
        parser.error("--every and --seeds take a number, 1 or more")
    # The others report every five minutes, or less often, as they are.
    kinds = options.kind or (["smd"] if options.every > 1 else list(KINDS))
    if options.every > 1 and kinds != ["smd"]:
        parser.error("--every is for SMD's machines alone")
    found: Found = {}
    try:
        paths = [
            (kind, path)
            for kind in KINDS
            if kind in kinds
            for path in KINDS[kind].paths(options.data)
        ]
        with psycopg.connect(options.dsn) as conn:
            for kind, path in paths:
                started = time.monotonic()
                machine = judge(
                    conn,
                    KINDS[kind],
                    path,
                    range(1 if options.quick else options.seeds),
                    stride=4 if options.quick else 1,
                    every=options.every,
                    compared=not (options.quick or options.no_baselines),
                )
                conn.rollback()
                took = f"{time.monotonic() - started:.0f} s"
                if machine:
                    found.setdefault(kind, {})[path.name.split(".")[0]] = machine
                else:
                    took = "left out, these days hold no event"
                if options.json:  # what there is so far, should the run be interrupted
                    options.json.write_text(json.dumps(found, indent=1))
                print(f"{kind} {path.name}: {took}", file=sys.stderr)
    except (recordings.BadRecording, psycopg.Error, OSError) as problem:
        sys.exit(f"detect: {problem}")
    if found:
        show(found)


if __name__ == "__main__":
    main()
