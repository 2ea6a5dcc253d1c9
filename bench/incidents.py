"""Incidents on recordings of real machines, as a fleet is scanned: how often, and of what.

    python bench/incidents.py DSN [DATA] [--kind smd] [--days N] [--per-week 1] [--hours 2]

DSN is a database of its own in which pyml is installed: its history and pyml's log are emptied. The
machines of a kind are one fleet. Each day every machine's forest and finders are trained on the
seven days before it, their peaks are pooled as ml_retrain does it, and ml_scan is called every
``--hours`` of the day, as of then. ``--days`` takes the last so many days alone.

An incident is false if its span touches no labelled event. "alarms" are incidents a device and
week, "false" those of them that are false, "touched" the share of events that an incident touches,
"minutes" the median from an event's begin to when the first incident that touches it could be
told; with scans as often as that. "covered" is the share of labelled time within incidents.
Figures are of each machine, then the mean of a kind's machines. "NAB" is its own score of alarms
told once, when they could be told.
"""

import argparse
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psycopg
import recordings
from alarms import events, nab_score
from detect import DAY_SECONDS, END, GAUGES, KINDS, WEEK_DAYS
from load_history import load, unnamed_path

Connection = psycopg.Connection[Any]

# Those whose machines are a fleet.
FLEETS = ("smd", "asd", "jumpstarter", "nab")
EMPTY = """
DELETE FROM device_shadow_history;
DELETE FROM ml_model; DELETE FROM ml_run; DELETE FROM ml_anomaly; DELETE FROM ml_finding;
DELETE FROM ml_incident; DELETE FROM ml_event; DELETE FROM ml_scan_state; DELETE FROM ml_rarity;
DELETE FROM ml_signal_state; DELETE FROM ml_late; DELETE FROM ml_arrival; DELETE FROM ml_device;
DELETE FROM ml_metric WHERE NOT built_in; UPDATE ml_metric SET enabled = true;
UPDATE ml_setting SET value = default_value;
UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields';
UPDATE ml_setting SET value = '36500' WHERE name IN ('anomaly_days', 'incident_days', 'run_days');
"""
FOUND = """
SELECT extract(epoch FROM started_at)::float8, extract(epoch FROM ended_at)::float8,
    extract(epoch FROM opened_at)::float8, kind
FROM ml_incidents WHERE device_uuid = %s ORDER BY opened_at"""
TALLY = """
SELECT kind, count(*), count(*) FILTER (WHERE severity = 'critical') FROM ml_incidents
GROUP BY kind ORDER BY 2 DESC"""


class Machine:
    """A recording in the database: its device, and when its rows are."""

    def __init__(
        self, conn: Connection, path: Path, recording: recordings.Recording, gauges: bool
    ) -> None:
        places = {name: unnamed_path(name) for name in recording.names} if gauges else {}
        loaded = load(conn, path, end=END, mapping=places)
        self.name, self.device, self.places = recording.name, loaded.device, places
        first = loaded.first.replace(tzinfo=UTC).timestamp()
        self.times = first + recording.times - recording.times[0]
        self.label = recording.label == 1
        self.judged = np.isfinite(recording.label)

    def figures(self, conn: Connection, begin: float) -> dict[str, float]:
        """What its incidents since a moment are worth."""
        rows = np.flatnonzero(self.judged & (self.times > begin))
        times, label = self.times[rows], self.label[rows]
        step = float(np.median(np.diff(times)))
        found = [row for row in conn.execute(FOUND, [self.device]) if row[1] > begin]
        spans = [(times[a], times[b - 1]) for a, b in events(label)]

        def touching(start: float, end: float) -> list[tuple[float, float, float]]:
            return [row[:3] for row in found if row[0] <= end and row[1] >= start]

        true = {row for start, end in spans for row in touching(start, end)}
        first = [min(row[2] for row in mine) for span in spans if (mine := touching(*span))]
        waited = [
            max(0.0, min(row[2] for row in mine) - span[0]) / 60
            for span in spans
            if (mine := touching(*span))
        ]
        inside = np.zeros(len(times), bool)
        told = np.zeros(len(times), bool)
        for start, end, opened, _ in found:
            inside |= (times >= start) & (times <= end)
            told[np.searchsorted(times, opened).clip(0, len(times) - 1)] = True
        weeks = (times[-1] - times[0]) / DAY_SECONDS / WEEK_DAYS
        return {
            "alarms": len(found) / weeks,
            "false": (len(found) - len(true)) / weeks,
            "touched": len(first) / len(spans) if spans else np.nan,
            "minutes": float(np.median(waited)) if waited else np.nan,
            "covered": float(inside[label].mean()) if label.any() else np.nan,
            "NAB": nab_score(told, label, DAY_SECONDS / step) if spans else np.nan,
        }


def judge(
    conn: Connection, kind: str, data: Path, days: int | None, per_week: float, hours: float
) -> None:
    """Scan the fleet of a kind day by day, and print what came of it."""
    of = KINDS[kind]
    conn.execute(EMPTY)
    conn.execute(
        "UPDATE ml_setting SET value = %s WHERE name = 'false_alarms_per_week'", [str(per_week)]
    )
    fleet = [Machine(conn, path, of.read(path), of.gauges) for path in of.paths(data)]
    if places := fleet[0].places:
        conn.execute(GAUGES, (list(places), list(places.values())))
    start = min(
        max(machine.times[machine.judged][0], machine.times[0] + of.first * DAY_SECONDS)
        for machine in fleet
    )
    end = END.timestamp()
    first = start if days is None else max(start, end - days * DAY_SECONDS)
    begun = time.monotonic()
    for begin in np.arange(first, end, DAY_SECONDS):
        as_of = datetime.fromtimestamp(begin, UTC)
        for machine in fleet:
            conn.execute("SELECT ml_train_forest(%s, as_of => %s)", (machine.device, as_of))
        conn.execute("SELECT _ml_pool_peaks()")
        for after in np.arange(hours, 24 + hours / 2, hours):
            moment = min(as_of + timedelta(hours=float(after)), END)
            conn.execute("CALL ml_scan(as_of => %s)", (moment,))
        print(f"{kind} {as_of:%d %b}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    found = {machine.name: machine.figures(conn, first) for machine in fleet}
    names = list(next(iter(found.values())))
    print(f"\n{kind:<16}" + "".join(f"{name:>9}" for name in names))
    for name, figures in found.items():
        print(f"{name:<16}" + "".join(f"{value:9.2f}" for value in figures.values()))
    mean = np.nanmean([list(figures.values()) for figures in found.values()], axis=0)
    print(f"{'mean':<16}" + "".join(f"{value:9.2f}" for value in mean))
    said = [f"{name} {many} ({critical} critical)" for name, many, critical in conn.execute(TALLY)]
    print("of kind: " + ", ".join(said), flush=True)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a database of its own, with pyml")
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--kind", action="append", choices=FLEETS, help="these recordings alone")
    parser.add_argument("--days", type=int, metavar="N", help="the last N days alone")
    parser.add_argument("--per-week", type=float, default=1.0, help="false_alarms_per_week")
    parser.add_argument("--hours", type=float, default=2.0, help="hours between two scans")
    options = parser.parse_args()
    try:
        with psycopg.connect(options.dsn, autocommit=True) as conn:
            for kind in options.kind or FLEETS:
                judge(
                    *(conn, kind, options.data, options.days),
                    *(options.per_week, options.hours),
                )
    except (recordings.BadRecording, psycopg.Error, OSError) as problem:
        sys.exit(f"incidents: {problem}")


if __name__ == "__main__":
    main()
