"""Let the sample fleet go on: each reading that is to come reaches the history at its time.

    python demo/live.py "dbname=demo" [--mqtt mqtt://127.0.0.1:1883]

By SQL, or published on a broker for the service of examples/mqtt. Goes on until SIGTERM or Ctrl-C.
"""

import argparse
import json
import signal
import sys
import threading
import urllib.parse
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

TOPIC = "iot/device/{}/shadow/name/{}/update"
EVERY = 1.0  # seconds
PATIENCE = 10.0  # seconds for the broker to take what is published

TABLE = """
CREATE TABLE IF NOT EXISTS demo_to_come (
    device_uuid uuid, shadow_name text, reported_state jsonb, "timestamp" timestamp)
"""
# What has a time that is still to come, out of the history.
KEEP = """
WITH early AS (
    DELETE FROM device_shadow_history WHERE "timestamp" > now() AT TIME ZONE 'UTC'
    RETURNING device_uuid, shadow_name, reported_state, "timestamp")
INSERT INTO demo_to_come SELECT * FROM early
"""
STORE = """
WITH due AS (
    DELETE FROM demo_to_come WHERE "timestamp" <= now() AT TIME ZONE 'UTC' RETURNING *)
INSERT INTO device_shadow_history (device_uuid, shadow_name, reported_state, "timestamp")
SELECT * FROM due ORDER BY "timestamp"
"""
TAKE = """
WITH due AS (
    DELETE FROM demo_to_come WHERE "timestamp" <= now() AT TIME ZONE 'UTC' RETURNING *)
SELECT * FROM due ORDER BY "timestamp"
"""


class Message(NamedTuple):
    """What a device says."""

    device: UUID
    shadow: str
    state: dict[str, Any]
    timestamp: datetime


def keep(conn: psycopg.Connection[Any]) -> None:
    """Take what is to come out of the history, in place of what was kept before."""
    conn.execute(TABLE)
    conn.execute("TRUNCATE demo_to_come")
    conn.execute(KEEP)


def catch_up(conn: psycopg.Connection[Any]) -> int:
    """Store what has become due; how many readings these were."""
    conn.execute(TABLE)
    return conn.execute(STORE).rowcount


def publish(client: Client, messages: Sequence[Message]) -> None:
    """Publish messages; returns when the broker has taken them."""
    sent = []
    for one in messages:
        said = {"state": {"reported": one.state}, "timestamp": one.timestamp.isoformat()}
        topic = TOPIC.format(one.device, one.shadow)
        sent.append(client.publish(topic, json.dumps(said), qos=1))
    for each in sent:
        each.wait_for_publish(PATIENCE)
        if not each.is_published():
            sys.exit("the broker does not take what is published")


def connected(url: str) -> Client:
    """A connection to the broker."""
    address = urllib.parse.urlsplit(url)
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(str(address.hostname), address.port or 1883)
    client.loop_start()
    return client


def main() -> None:
    """Go on until told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dsn", help="libpq connection string of the demo's database")
    parser.add_argument("--mqtt", metavar="URL", help="a broker, in place of SQL")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    client = connected(options.mqtt) if options.mqtt else None
    with psycopg.connect(options.dsn, autocommit=True) as conn:
        while not stop.wait(EVERY):
            if client is None:
                conn.execute(STORE)
                continue
            with conn.transaction():  # what was not published stays
                publish(client, [Message(*row) for row in conn.execute(TAKE)])
    if client is not None:
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    main()
