"""Accuracy of the anomaly detection on recordings of real machines, as the product is used.

    python bench/detect.py DSN [DATA] [--kind smd] [--quick] [--every 5] [--json FILE]

DSN is a database in which pyml is installed. Each recording is loaded into it as
telemetry; ml_train_forest is called as of the start of each day, with the seven days
before it, and ml_score with the day. All of it is rolled back in the end. DATA is the
folder of the recordings, ../shared/data by default; the protocol is in DATA.md there.
``--kind`` takes the recordings of SMD, ASD, JumpStarter or NAB alone; it may be repeated.

The metrics of ASD and JumpStarter have no names. They are loaded as gauges, and detection
looks at them alone. Baselines are trained with scikit-learn on the recordings themselves,
on the same days: see baselines.py. Their thresholds are the 99 % and 99.9 % quantiles of
their training scores. ``--no-baselines`` leaves them out.

Figures are of each machine, then the mean of a kind's machines, then of the kinds. W and C
are the warning and the critical threshold, "normal" the share of normal rows flagged.
"deaf days" are the most in a row without any flag, in the week after a day of which more
than 20 % of the rows are flagged. ``--json`` keeps all figures; figures.py compares two
such files, those of two versions for instance. The recordings always end at the same
moment, so the same version gives the same figures again.

``--quick`` is one seed and every fourth day, without the baselines: for a first look,
its figures are not those of the protocol. ``--every 5`` takes each fifth row of the eight
SMD machines alone: they then report every five minutes. Baselines look back as many minutes,
and see the network at the moment where the product, which knows the counters, sees means.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psycopg
import recordings
from alarms import alarms, deaf_days, events, judged, ranking, worst_day
from baselines import baselines
from figures import Figures, Found, show
from load_history import load, unnamed_path
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Connection = psycopg.Connection[Any]

WEEK_DAYS, NAB_FIRST_DAYS = 7, 3
DAY_SECONDS = 86400
END = datetime(2026, 1, 5, tzinfo=UTC)
THIN = """
DELETE FROM device_shadow_history AS h
USING (SELECT "timestamp", row_number() OVER (ORDER BY "timestamp") - 1 AS place
       FROM device_shadow_history WHERE device_uuid = %(device)s) AS r
WHERE device_uuid = %(device)s AND h."timestamp" = r."timestamp" AND place %% %(every)s > 0"""
UNNAMED = """
WITH others AS (UPDATE ml_metric SET enabled = false)
INSERT INTO ml_metric (name, path) SELECT * FROM unnest(%s::text[], %s::text[])"""
SEEDS = (0, 1, 2)
KINDS = {
    "smd": (recordings.smd, recordings.read_smd),
    "asd": (recordings.asd, recordings.read_unnamed),
    "jumpstarter": (recordings.jumpstarter, recordings.read_unnamed),
}


@dataclass(slots=True)
class Marks:
    """One detector over the judged rows of a recording, in time order."""

    score: list[Floats] = field(default_factory=list)  # higher is more anomalous
    warning: list[Bools] = field(default_factory=list)
    critical: list[Bools] = field(default_factory=list)

    def add(self, score: Floats, warning: Bools, critical: Bools) -> None:
        """Append a day."""
        self.score.append(score)
        self.warning.append(warning)
        self.critical.append(critical)

    def figures(self, labels: list[Bools], per_day: float) -> Figures:
        """All figures of the protocol; W and C are the two thresholds."""
        label = np.concatenate(labels)
        found = ranking(np.concatenate(self.score), label, per_day)
        for sign, flags in (("W", self.warning), ("C", self.critical)):
            found |= {
                f"{sign} {name}": value
                for name, value in judged(np.concatenate(flags), label, per_day).items()
            }
        return found | {
            "worst day": worst_day(self.warning, labels),
            "deaf days": deaf_days(self.warning),
        }


class Product:
    """A recording in the database, scored through the functions in SQL."""

    def __init__(
        self, conn: Connection, path: Path, recording: recordings.Recording, every: int = 1
    ) -> None:
        self._conn = conn
        loaded = load(conn, path, end=END)
        self._device = loaded.device
        if every > 1:
            conn.execute(THIN, {"device": self._device, "every": every})
        if recording.names == recordings.UNNAMED:
            paths = [unnamed_path(name) for name in recording.names]
            conn.execute(UNNAMED, (recording.names, paths))
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


def judge(
    conn: Connection,
    kind: str,
    path: Path,
    seeds: Iterable[int],
    *,
    stride: int,
    every: int,
    compared: bool,
) -> dict[str, dict[str, Figures]] | None:
    """Figures of one machine by detector and seed; of each `stride`-th day, `every`-th row.

    None where these days hold no event: nothing can be said of how many are found.
    """
    machine = KINDS[kind][1](path)
    times, values = machine.times[::every], machine.values[::every]
    label, known = machine.label[::every] == 1, np.isfinite(machine.label[::every])
    step = round(float(np.median(np.diff(times))))
    per_day = DAY_SECONDS // step
    begins = range(int(np.flatnonzero(known)[0]), len(label), per_day)[::stride]
    days = [slice(begin, min(begin + per_day, len(label))) for begin in begins]
    labels = [label[day] for day in days]
    if not np.concatenate(labels).any():
        return None
    product = Product(conn, path, machine, every)
    others = baselines(values, step / 60) if compared else {}
    found: dict[str, dict[str, Figures]] = {name: {} for name in ("pyml", *others)}
    for seed in seeds:
        marks = {name: Marks() for name in found}
        product.seed(seed)
        for day in days:
            train = slice(day.start - WEEK_DAYS * per_day, day.start)
            score, severity = product.day(times[day.start - 1], times[day])
            marks["pyml"].add(score, severity != "none", severity == "critical")
            for name, detector in others.items():
                before, now = detector(train, day, seed)
                warning, critical = np.quantile(before, [0.99, 0.999])
                marks[name].add(now, now > warning, now > critical)
        for name, mark in marks.items():
            found[name][str(seed)] = mark.figures(labels, per_day)
    return found


def replay(conn: Connection, path: Path) -> list[str]:
    """One line for each labelled window of a NAB series, and one for the series."""
    host = recordings.read_nab(path)
    product = Product(conn, path, host)
    per_day = DAY_SECONDS / float(np.median(np.diff(host.times)))
    first = host.times[0] + NAB_FIRST_DAYS * DAY_SECONDS
    starts = np.arange(first, host.times[-1], DAY_SECONDS)
    flags = {
        "warning": np.zeros(len(host.times), bool),
        "critical": np.zeros(len(host.times), bool),
    }
    product.seed(0)
    for start in starts:
        inside = np.flatnonzero((host.times > start) & (host.times <= start + DAY_SECONDS))
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


def main() -> None:
    """Judge every recording and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a database with pyml")
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument(
        "--kind", action="append", choices=[*KINDS, "nab"], help="these recordings alone"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, every fourth day")
    parser.add_argument("--no-baselines", action="store_true", help="the product alone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th row of SMD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures there")
    options = parser.parse_args()
    if options.every < 1:
        parser.error("--every takes a number of rows, 1 or more")
    # The others report every five minutes as they are.
    kinds = options.kind or (["smd"] if options.every > 1 else [*KINDS, "nab"])
    if options.every > 1 and kinds != ["smd"]:
        parser.error("--every is for SMD's machines alone")
    found: Found = {}
    try:
        paths = {kind: KINDS[kind][0](options.data) for kind in KINDS if kind in kinds}
        hosts = recordings.nab(options.data) if "nab" in kinds else []
        with psycopg.connect(options.dsn) as conn:
            for kind, path in [(name, path) for name in paths for path in paths[name]]:
                started = time.monotonic()
                machine = judge(
                    conn,
                    kind,
                    path,
                    SEEDS[:1] if options.quick else SEEDS,
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
            if hosts:
                print("NAB, a model a day; time from the window's begin to the first alarm")
                print(f"{'':32s}  warning      critical")
                for path in hosts:
                    print("\n".join(replay(conn, path)))
                    conn.rollback()
    except (recordings.BadRecording, psycopg.Error, OSError) as problem:
        sys.exit(f"detect: {problem}")
    if found:
        show(found)


if __name__ == "__main__":
    main()
