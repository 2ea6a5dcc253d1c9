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

import psycopg
import sample_fleet
from sample_fleet import FLEET

from pyml.workers.messages import message
from pyml.workers.targets import Target

FRESH = timedelta(hours=1)
# A live fleet's last readings are not due yet: they appear one after the other, as
# those of real devices do, and some faults are still going on.
LEAD = timedelta(hours=2)
NAMES = """SELECT ml_setup('device_shadow_history', 'device_uuid', 'timestamp', 'reported_state',
    'shadow_name', 'device-state', device_name => 'public.devices.name')"""
# The models learn from what precedes the first fault.
TRAIN = "SELECT ml_train_forest(%s, as_of => %s - interval '1 day')"
TOLD = """SELECT incident_id, state, severity, summary FROM ml_incidents
    WHERE device_uuid = %s ORDER BY started_at"""
TELLING = "SELECT _ml_telling(event_id) FROM ml_event WHERE NOT replayed ORDER BY event_id"
ON_CALL = Target("on-call", "mailto://on-call@example.com", link="https://fleet/{incident_id}")

# One device has a forecast too: an LSTM takes seconds to train.
AHEAD = FLEET[0]
FIELD = "system.cpuUsage"

# A live fleet has one device whose forecast passes a limit.
HOT = next(device for device in FLEET if device.name == "edge-oslo")
LIMIT = "UPDATE ml_metric SET limit_high = 60 WHERE name = 'temperature'"
TRAIN_HOT = "SELECT ml_train_lstm(%s, 'temperature', as_of => %s - interval '1 day')"

NEXT = """
Try next:
  SELECT incident_id, device_name, state, severity, summary FROM ml_incidents;
  SELECT ml_acknowledge(1, 'on my way');
  SELECT ml_not_a_fault(1); -- what would have kept it quiet
  SELECT jsonb_pretty(ml_detect('{device}'));
  SELECT * FROM ml_score('{device}', now() - interval '1 hour', now());
  SELECT * FROM ml_predict('{ahead}', '{field}', level => 0.8);
  SELECT * FROM ml_doctor();
"""


def say(text: str) -> None:
    """Tell what is going on; stdout is for the result."""
    print(f"[{datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


def prepare(
    conn: psycopg.Connection[Any], made: str, refresh: bool, live: bool = False
) -> datetime:
    """Have the fleet, the extension and the models in place.

    Parameters
    ----------
    conn : psycopg.Connection
    made : str
        Names the sources of the extension; another one than last time installs it anew.
    refresh : bool
        Whether to load the fleet again when it has aged.
    live : bool
        Have readings to come, of an hour at least, and a scan behind them.

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
    aged = now - present < LEAD / 2 if live else refresh and present - now > FRESH
    if fleet != here or aged:
        say(f"loading {len(FLEET)} devices with {sample_fleet.DAYS} days of readings")
        now = present + (LEAD if live else timedelta())
        sample_fleet.load(conn.info.dsn, now=now)
    elif extension == made:
        return now
    conn.execute("DELETE FROM demo_state")
    conn.execute("DROP EXTENSION IF EXISTS pyml CASCADE")
    conn.execute("CREATE EXTENSION pyml CASCADE")
    conn.execute(NAMES)
    for number, device in enumerate(FLEET, 1):
        say(f"training the forest of {device.name} ({number} of {len(FLEET)})")
        conn.execute(TRAIN, (device.uuid, now.replace(tzinfo=UTC)))
    say(f"training the forecast of {AHEAD.name}'s CPU")
    conn.execute("SELECT ml_train_lstm(%s, %s)", (AHEAD.uuid, FIELD))
    if live:
        say(f"training the forecast of {HOT.name}'s temperature")
        conn.execute(LIMIT)
        conn.execute(TRAIN_HOT, (HOT.uuid, now.replace(tzinfo=UTC)))
    say("scanning the last day")
    conn.execute("CALL ml_scan()")
    conn.execute("INSERT INTO demo_state VALUES (%s, %s, %s)", (made, here, now))
    return now


def report(conn: psycopg.Connection[Any], now: datetime) -> None:
    """Print, for each device, what was injected and what pyml tells of it."""
    planted = {fault.device_uuid: fault for fault in sample_fleet.faults(now=now)}
    print(f"\n{'device':<16}{'injected (UTC)':<34}incident")
    for device in FLEET:
        fault = planted.get(device.uuid)
        injected = f"{fault.kind} {fault.start:%H:%M}–{fault.end:%H:%M}" if fault else "nothing"
        told = conn.execute(TOLD, (device.uuid,)).fetchall()
        print(f"{device.name:<16}{injected:<34}{f'{len(told)}' if told else 'none'}")
        for number, state, severity, summary in told:
            said = textwrap.wrap(f"{number} {state}, {severity}: {summary}", 100)
            print(*(f"    {line}" for line in said), sep="\n")
    print("\nA notifier (docs/alerting.md) would have sent, each with the summary and a link:")
    for (event,) in conn.execute(TELLING).fetchall():
        print(f"    {message(ON_CALL, event).title}")
    [(ahead,)] = conn.execute("SELECT ml_forecast(%s, %s)", (AHEAD.uuid, FIELD)).fetchall()
    steps, model = ahead["predictions"], ahead["model_info"]
    print(f"\nThe CPU of {AHEAD.name} next, with {model['level']:.0%} intervals:")
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        moment = datetime.fromisoformat(step["timestamp"]).astimezone(UTC)
        low, high = step["confidence_lower"], step["confidence_upper"]
        print(f"  {moment:%H:%M} UTC  {step['predicted_value']:5.1f} %  ({low:.1f} to {high:.1f})")
    print(
        f"On held-out readings it was wrong by {model['mae']:.2f} points on average and the "
        f"interval held {model['coverage']['0.9']:.0%} of them."
    )
    faulty = next(one.uuid for one in FLEET if one.uuid in planted)
    print(NEXT.format(device=faulty, ahead=AHEAD.uuid, field=FIELD))


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dsn", help="libpq connection string of the database")
    parser.add_argument("--made", default="", help="names the extension's sources")
    parser.add_argument("--quiet", action="store_true", help="prepare only, an aged fleet too")
    parser.add_argument("--live", action="store_true", help="a fleet whose readings go on coming")
    options = parser.parse_args()
    with psycopg.connect(options.dsn, autocommit=True) as conn:
        now = prepare(conn, options.made, not options.quiet, options.live)
        if not options.quiet:
            report(conn, now)


if __name__ == "__main__":
    main()
