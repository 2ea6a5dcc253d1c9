"""Load the sample fleet, train on it inside the server, and show what is found.

    python demo/show.py "dbname=demo"

A second run finds all in place and only asks again; the fleet is loaded anew when its
last reading is older than an hour, so that "now" in a query finds it.
"""

import argparse
import hashlib
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import live
import psycopg
import sample_fleet
from sample_fleet import FLEET

TABLES = Path(__file__).parents[1] / "examples/mqtt/tables.sql"
FRESH = timedelta(hours=1)
# A live fleet's last readings are not due yet: they come one after the other, as those of
# real devices do, and some faults are still going on.
LEAD = timedelta(hours=2)
NAMES = """SELECT ml_setup('device_shadow_history', 'device_uuid', 'timestamp', 'reported_state',
    'shadow_name', 'device-state', device_name => 'public.devices.name')"""
# The models learn from what precedes the first fault.
TRAIN = "SELECT ml_train_forest(%s, as_of => %s - interval '1 day')"
TOLD = """SELECT incident_id, device_uuid, device_name, severity, state, summary
    FROM ml_incidents ORDER BY severity, started_at"""

# One device has a forecast too: an LSTM takes seconds to train.
AHEAD = FLEET[0]
FIELD = "system.cpuUsage"

# A live fleet has one device whose forecast passes a limit.
HOT = next(device for device in FLEET if device.name == "edge-oslo")
LIMIT = "UPDATE ml_metric SET limit_high = 60 WHERE name = 'temperature'"
TRAIN_HOT = "SELECT ml_train_lstm(%s, 'temperature', as_of => %s - interval '1 day')"

NEXT = """
What next? Open the database,

  {psql}

and type

  \\pset format wrapped
  SELECT incident_id, device_name, state, summary FROM ml_incidents;
  SELECT f ->> 'detector' AS detector, f ->> 'sentence' AS what_it_saw
  FROM ml_incidents, jsonb_array_elements(evidence -> 'findings') AS f WHERE incident_id = {first};
  SELECT ml_not_a_fault({last});     -- the rule that would have kept it quiet
  SELECT * FROM ml_score('{device}', now() - interval '1 hour', now());
  SELECT * FROM ml_outlook('{device}', 'cpu_usage', days => 1);
  SELECT * FROM ml_doctor();     -- is all well? What is not has its fix beside it

In a browser: python3 install.py demo --dashboard
What an incident says: docs/reading-an-incident.md. Each call: docs/calls.md.
Your own data: README.md.
"""


def say(text: str) -> None:
    """Tell what is going on; stdout is for the result."""
    print(f"[{datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


def prepare(
    conn: psycopg.Connection[Any], made: str, refresh: bool, coming: bool = False
) -> datetime:
    """Have the fleet, the extension and the models in place.

    Parameters
    ----------
    conn : psycopg.Connection
    made : str
        Names the sources of the extension; another one than last time installs it anew.
    refresh : bool
        Whether to load the fleet again when it has aged.
    coming : bool
        Have readings to come, of an hour at least, which ``live.py`` lets come.

    Returns
    -------
    datetime
        Naive UTC: the present of the fleet that is loaded.
    """
    conn.execute("CREATE TABLE IF NOT EXISTS demo_state (extension text, fleet text, at timestamp)")
    row = conn.execute("SELECT extension, fleet, at FROM demo_state").fetchone()
    extension, fleet, now = row or ("", "", datetime.min)
    here = hashlib.sha256(Path(sample_fleet.__file__).read_bytes()).hexdigest()
    present = datetime.now(UTC).replace(tzinfo=None)
    aged = now - present < LEAD / 2 if coming else refresh and present - now > FRESH
    if fleet != here or aged:
        say(f"loading {len(FLEET)} devices with {sample_fleet.DAYS} days of readings")
        now = present + (LEAD if coming else timedelta())
        sample_fleet.load(conn.info.dsn, now=now)
        live.keep(conn)
    else:
        came = live.catch_up(conn)
        if extension == made:
            if came:
                conn.execute("CALL ml_scan()")
            return now
    conn.execute(TABLES.read_bytes())
    conn.execute("DELETE FROM demo_state")
    conn.execute("DROP EXTENSION IF EXISTS pyml CASCADE")
    conn.execute("CREATE EXTENSION pyml CASCADE")
    conn.execute(NAMES)
    for number, device in enumerate(FLEET, 1):
        say(f"training the forest of {device.name} ({number} of {len(FLEET)})")
        conn.execute(TRAIN, (device.uuid, now.replace(tzinfo=UTC)))
    say(f"training the forecast of {AHEAD.name}'s CPU")
    conn.execute("SELECT ml_train_lstm(%s, %s)", (AHEAD.uuid, FIELD))
    if coming:
        say(f"training the forecast of {HOT.name}'s temperature")
        conn.execute(LIMIT)
        conn.execute(TRAIN_HOT, (HOT.uuid, now.replace(tzinfo=UTC)))
    say("scanning the last day")
    conn.execute("CALL ml_scan()")
    conn.execute("INSERT INTO demo_state VALUES (%s, %s, %s)", (made, here, now))
    return now


def report(conn: psycopg.Connection[Any], now: datetime, psql: str) -> None:
    """Print the trouble that was found, what comes next, and what to type next."""
    told = found(conn, now) or [(1, AHEAD.uuid)]
    [(ahead,)] = conn.execute("SELECT ml_forecast(%s, %s)", (AHEAD.uuid, FIELD)).fetchall()
    step, level = ahead["predictions"][-1], ahead["model_info"]["level"]
    moment = datetime.fromisoformat(step["timestamp"]).astimezone(UTC)
    low, high = step["confidence_lower"], step["confidence_upper"]
    print(
        f"\nThe CPU of {AHEAD.name} will be at {step['predicted_value']:.1f} % at "
        f"{moment:%H:%M} UTC ({100 * level:g} % interval: {low:.1f} to {high:.1f})."
    )
    (first, device), (last, _) = told[0][:2], told[-1][:2]
    print(NEXT.format(psql=psql, first=first, last=last, device=device))


def found(conn: psycopg.Connection[Any], now: datetime) -> list[tuple[Any, ...]]:
    """Print each incident, beside what had been injected; gives the incidents."""
    planted = {fault.device_uuid: fault for fault in sample_fleet.faults(now=now)}
    told = conn.execute(TOLD).fetchall()
    print(f"\n{len(FLEET)} devices, of which {len(planted)} had a fault today. pyml has found:")
    for number, device, name, severity, state, summary in told:
        fault = planted.get(device)
        why = f"{fault.kind}, {fault.start:%H:%M} to {fault.end:%H:%M} UTC" if fault else "nothing"
        print(f"\n{number}  {name}, {severity}, {state}  (injected: {why})")
        print(textwrap.fill(summary, 100, initial_indent="   ", subsequent_indent="   "))
    missed = planted.keys() - {device for _, device, *_ in told}
    if missed:
        print("\nNot found: " + ", ".join(planted[one].device_name for one in missed))
    return told


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dsn", help="libpq connection string of the database")
    parser.add_argument("--made", default="", help="names the extension's sources")
    parser.add_argument("--psql", default="psql", help="the program that the printed command has")
    parser.add_argument("--quiet", action="store_true", help="prepare only, an aged fleet too")
    parser.add_argument("--live", action="store_true", help="a fleet whose readings go on coming")
    options = parser.parse_args()
    with psycopg.connect(options.dsn, autocommit=True) as conn:
        now = prepare(conn, options.made, not options.quiet, options.live)
        if not options.quiet:
            report(conn, now, f"{options.psql} '{options.dsn}'")


if __name__ == "__main__":
    main()
