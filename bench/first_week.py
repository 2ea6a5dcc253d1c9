"""A device's first week on recordings of real machines, with and without its fleet.

    python bench/first_week.py DSN [DATA] [--kind asd] [--hours 2]

DSN is a database of its own in which pyml is installed: its history and pyml's log are emptied. The
machines of a kind are one fleet, trained on all that lies before their last week. In its turn each
machine is new: its history begins with that week. It is scanned every ``--hours``, trained at the
first scan that finds a hundred readings, and once a day from then on: first with nothing that
stands in, then with what the others' models make.

"false" are the week's incidents that touch no labelled event, "day one" all that are told on the
first day, "touched" is the share of events that an incident touches.
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
import recordings
from detect import DAY_SECONDS, END, GAUGES, KINDS, WEEK_DAYS
from incidents import EMPTY, FLEETS, FOUND, Connection, Machine

LEAST = 100  # min_training_samples
ASIDE = """
CREATE TEMP TABLE aside AS SELECT * FROM device_shadow_history
WHERE device_uuid = %(device)s AND "timestamp" <= %(since)s;
DELETE FROM device_shadow_history h USING aside a WHERE h.id = a.id;
"""
BACK = "INSERT INTO device_shadow_history SELECT * FROM aside; DROP TABLE aside"


def first_week(
    conn: Connection, machine: Machine, since: float, hours: float, fleet: bool
) -> dict[str, float]:
    """What is told of a machine in its first week."""
    conn.execute("SELECT ml_forget(%s)", [machine.device])
    conn.execute("DELETE FROM ml_incident; DELETE FROM ml_fleet_model; DELETE FROM ml_rarity")
    conn.execute("SELECT _ml_pool_peaks()")
    if fleet:
        conn.execute("SELECT _ml_answer(_ml_pool_models())")
    week = machine.times[machine.times > since]
    due = week[min(LEAST, len(week) - 1)]
    for after in np.arange(hours, WEEK_DAYS * 24 + hours / 2, hours).tolist():
        moment = min(datetime.fromtimestamp(since, UTC) + timedelta(hours=after), END)
        if moment.timestamp() > due:
            conn.execute("SELECT ml_train_forest(%s, as_of => %s)", (machine.device, moment))
            due = moment.timestamp() + DAY_SECONDS
        conn.execute("CALL ml_scan(%s, %s)", (machine.device, moment))
    told = machine.figures(conn, since)
    first = since + DAY_SECONDS
    day = [row for row in conn.execute(FOUND, [machine.device]) if row[2] <= first]
    return {"false": told["false"], "day one": len(day), "touched": told["touched"]}


def judge(conn: Connection, kind: str, data: Path, hours: float) -> None:
    """Let each machine of a kind be new, and print what is told."""
    of = KINDS[kind]
    conn.execute(EMPTY)
    fleet = [Machine(conn, path, of.read(path), of.gauges) for path in of.paths(data)]
    if places := fleet[0].places:
        conn.execute(GAUGES, (list(places), list(places.values())))
    since = END.timestamp() - WEEK_DAYS * DAY_SECONDS
    begin = datetime.fromtimestamp(since, UTC)

    def train(machine: Machine) -> None:
        conn.execute("SELECT ml_train_forest(%s, as_of => %s)", (machine.device, begin))
        conn.execute("UPDATE ml_scan_state SET retired_at = NULL")

    for machine in fleet:
        train(machine)
    names = ("false", "day one", "touched")
    print(f"\n{kind:<16}" + "".join(f"{name:>9}" for name in names + names))
    found = []
    for machine in fleet:
        at = {"device": machine.device, "since": begin.replace(tzinfo=None)}
        for statement in ASIDE.split(";")[:-1]:
            conn.execute(statement, at)
        both = [first_week(conn, machine, since, hours, fleet) for fleet in (False, True)]
        found.append([one[name] for one in both for name in names])
        print(f"{machine.name:<16}" + "".join(f"{one:9.2f}" for one in found[-1]), flush=True)
        conn.execute(BACK)
        conn.execute("SELECT ml_forget(%s)", [machine.device])
        train(machine)
    print(f"{'mean':<16}" + "".join(f"{one:9.2f}" for one in np.nanmean(found, axis=0)))


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a database of its own, with pyml")
    parser.add_argument("data", nargs="?", type=Path, default=recordings.DATA)
    parser.add_argument("--kind", action="append", choices=FLEETS, help="these recordings alone")
    parser.add_argument("--hours", type=float, default=2.0, help="hours between two scans")
    options = parser.parse_args()
    try:
        with psycopg.connect(options.dsn, autocommit=True) as conn:
            for kind in options.kind or FLEETS:
                judge(conn, kind, options.data, options.hours)
    except (recordings.BadRecording, psycopg.Error, OSError) as problem:
        sys.exit(f"first_week: {problem}")


if __name__ == "__main__":
    main()
