"""Scans, notifiers, their receiver and the server, killed at random moments.

No event is lost, none comes out of order for its incident, and one comes twice only where the
word that it had come was lost.
"""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pyml.workers import job
from tests.receivers import COMMAND, ROOT, SECRET, environment, free_port, table, until

from ..conftest import ROWS
from .conftest import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

# Takes what comes to a port, and writes down in a file when which event came, before it answers.
RECEIVER = """
import http.server, json, sys, time
port, log = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        log.write(f"{time.time()} {told['incident_id']} {told['event_id']}\\n")
        time.sleep(0.05)
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
# Each device's trouble began twenty minutes before that of the next, so that it is no flood.
HOT = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,temperature}',
    to_jsonb((reported_state #>> '{system,temperature}')::float8 + 25))
WHERE device_uuid = %s AND (now() AT TIME ZONE 'UTC') - "timestamp"
    < make_interval(mins => %s)
"""
LAST = "SELECT max(incident_id) FROM ml_incident WHERE state <> 'resolved'"
WAITING = "SELECT count(*) FROM ml_delivery WHERE confirmed_at IS NULL"
TRIED = "SELECT coalesce(max(attempts), 1) > 0 FROM ml_delivery WHERE confirmed_at IS NULL"
# What a killed scan has opened waits as long for its other incidents, as of one that goes on.
PASSES = "UPDATE ml_event SET written_at = written_at - interval '25 seconds'"
TAKES = 15.0  # seconds at most from a message's arrival to its confirmation


class Fleet:
    """A server, two notifiers and a receiver, each of which may be killed and comes back."""

    def __init__(self, server: Server, log: Path) -> None:
        self.server, self.log, self.port = server, log, free_port()
        self.targets = table("ops", url=f"http://127.0.0.1:{self.port}/", secret=SECRET)
        self.kills: list[tuple[str, float]] = []
        self.stopped = contextlib.ExitStack()
        self.receiver = self.begin(self.receive)
        self.notifiers = [self.begin(self.notify) for _ in range(2)]
        with server.connect() as session:
            until(lambda: session.execute("SELECT count(*) FROM ml_target").fetchone() == (1,))

    def begin(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        process = start()
        self.stopped.callback(process.wait)
        self.stopped.callback(process.kill)
        return process

    def receive(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", RECEIVER, str(self.port), str(self.log)])

    def notify(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, "--dsn", self.server.dsn("fleet")],
            cwd=ROOT,
            env=environment(self.targets),
            stderr=subprocess.DEVNULL,
        )

    def kill(self, what: str, backend: int) -> None:
        self.kills.append((what, time.time()))
        if what == "scan":
            with contextlib.suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)
        elif what == "receiver":
            self.receiver.kill()
            self.receiver.wait()
        elif what == "notifier":
            for process in self.notifiers:
                process.kill()
                process.wait()
        else:
            postmaster = self.server.cluster.data / "postmaster.pid"
            pid = int(postmaster.read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            until(lambda: not Path(f"/proc/{pid}").exists())
            until(self.restarted)

    def restarted(self) -> bool:
        """Whether the server starts again, for which its last processes have to be gone."""
        with contextlib.suppress(Exception):
            self.server.start()
            return True
        time.sleep(0.5)
        return False

    def mend(self) -> None:
        """Start again what has ended, as systemd does."""
        if self.receiver.poll() is not None:
            self.receiver = self.begin(self.receive)
        for place, process in enumerate(self.notifiers):
            if process.poll() is not None:
                self.notifiers[place] = self.begin(self.notify)

    def came(self) -> list[tuple[float, int, int]]:
        """When which incident's which event came."""
        rows = (line.split() for line in self.log.read_text().splitlines())
        return [(float(at), int(incident), int(event)) for at, incident, event in rows]


def disturbed(fleet: Fleet, statement: str, what: str, moment: float) -> None:
    """Run a statement, and kill something at a moment after it has begun."""
    session = fleet.server.connect()

    def body() -> None:
        with contextlib.suppress(psycopg.Error):
            session.execute(statement)

    thread = threading.Thread(target=body)
    thread.start()
    time.sleep(moment)
    fleet.kill(what, session.info.backend_pid)
    thread.join(60)
    assert not thread.is_alive()
    session.close()


def prepared(server: Server, count: int) -> list[str]:
    """Devices that are trained, and whose trouble is still to be found."""
    server.database()
    devices = []
    with server.connect() as session:
        # What an undisturbed scan has told must not be lost where another's backend is killed.
        session.execute("ALTER DATABASE fleet SET synchronous_commit = on")
        session.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
        session.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")
        for number in range(count):
            row = session.execute(
                "INSERT INTO devices VALUES (gen_random_uuid(), 'hot') RETURNING uuid::text"
            )
            device = row.fetchone()[0]
            session.execute(ROWS, {"device": device, "readings": 3000, "interval": 60})
            outcome = job.retrain_one(server.dsn("fleet"), None, device, "forest", "")[1]
            assert outcome == "trained"
            session.execute(HOT, [device, 20 * (number + 1)])
            devices.append(device)
    job.disconnect()
    return devices


def test_no_event_is_lost_or_out_of_order_whatever_is_killed(
    server: Server, tmp_path: Path, long: bool
) -> None:
    chance = random.Random(11)
    rounds = 100 if long else 4
    devices = prepared(server, -(-rounds // 3))
    fleet = Fleet(server, tmp_path / "came")
    steps = itertools.cycle(("CALL ml_scan('{}')", "ml_acknowledge", "ml_resolve"))
    faults = itertools.cycle(("scan", "notifier", "receiver", "server"))
    waiting = iter(devices)
    with fleet.stopped:
        for step, fault, _ in zip(steps, faults, range(rounds), strict=False):
            if step.startswith("CALL"):
                statement = step.format(next(waiting))
            else:
                with server.connect() as session:
                    number = session.execute(LAST).fetchone()[0]
                statement = f"SELECT {step}({number})"
            moment = chance.uniform(0, 0.6 if step.startswith("CALL") else 0.05)
            disturbed(fleet, statement, fault, moment)
            time.sleep(chance.uniform(0, 0.5))
            if fault == "receiver":  # away for long enough to be missed
                with server.connect() as session:
                    if not long:
                        session.execute(PASSES)
                    until(lambda: session.execute(TRIED).fetchone() == (True,), 60)
            fleet.mend()
            with server.connect() as session:  # what was killed is done again, as a timer does
                session.execute(statement)
        with server.connect() as session:
            if not long:
                session.execute(PASSES)
            until(lambda: session.execute(WAITING).fetchone() == (0,), 120)
            events = session.execute(
                "SELECT incident_id, event_id FROM ml_event ORDER BY event_id"
            ).fetchall()
            states = session.execute("SELECT DISTINCT state, flood FROM ml_deliveries").fetchall()
    came = fleet.came()
    assert states == [("confirmed", None)]
    assert len(events) >= rounds
    # None is lost, and none is told that did not happen.
    assert {(incident, event) for _, incident, event in came} == set(events)
    for incident in {incident for incident, _ in events}:
        own = [event for _, other, event in came if other == incident]
        assert own == sorted(own), (incident, own, fleet.kills)
    seen: dict[int, float] = {}
    for at, _, event in came:
        if event in seen:  # between its two arrivals something was killed
            first = seen[event]
            assert any(first - TAKES <= kill <= at for _, kill in fleet.kills), (event, fleet.kills)
        seen[event] = at
    again = len(came) - len(seen)
    assert again <= 2 * len(fleet.kills)
    print(f"{len(events)} events, {again} came twice, {len(fleet.kills)} kills")
