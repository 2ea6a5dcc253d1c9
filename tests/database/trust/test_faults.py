"""Cancels, kills, crashes, full disks and too little memory at random moments of the work.

Afterwards every device has its old models or new ones, whole; the log holds no half of
a scan; what comes next completes. ``--long`` makes two hundred faults.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ..conftest import ROWS
from .conftest import LIMIT, Server
from .test_blobs import cpu_seconds

pytestmark = pytest.mark.server

DEVICES = 2
WORK = {
    "ml_train_forest": "SELECT ml_train_forest('{device}')",
    "ml_train_lstm": "SELECT ml_train_lstm('{device}')",
    "ml_retrain": "CALL ml_retrain()",
    "ml_scan": "CALL ml_scan()",
}
# What makes the next call of each have work to do: one device's models are old, and each
# device has a new reading.
BEFORE = """
UPDATE ml_model SET trained_at = trained_at - interval '2 days' WHERE device_uuid = '{device}';
UPDATE ml_run SET started_at = started_at - interval '2 days' WHERE device_uuid = '{device}';
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT d.uuid, h.reported_state, clock_timestamp() AT TIME ZONE 'UTC'
FROM devices d, LATERAL (
    SELECT * FROM device_shadow_history WHERE device_uuid = d.uuid
    ORDER BY "timestamp" DESC OFFSET 60 LIMIT 1) h;
"""
HALVES = {
    "devices without one model in force of each kind": """
        SELECT d.uuid, k FROM devices d, unnest(ARRAY['forest', 'lstm']) k WHERE 1 <>
            (SELECT count(*) FROM ml_model m WHERE m.device_uuid = d.uuid AND m.kind = k
             AND m.is_current)""",
    "models without their run, runs without their model": """
        SELECT m.model_id, r.run_id FROM ml_model m
        FULL JOIN (SELECT * FROM ml_run WHERE outcome = 'trained') r ON r.model_id = m.model_id
        WHERE (m.model_id IS NULL OR r.run_id IS NULL) AND m.trained_with IS NULL""",
    "finders without their forest, or not in force with it": """
        SELECT m.model_id FROM ml_model m LEFT JOIN ml_model f ON f.model_id = m.trained_with
        WHERE m.trained_with IS NOT NULL AND m.is_current IS DISTINCT FROM f.is_current""",
    "findings beyond their scan, or without it": """
        SELECT f.finding_id FROM ml_finding f
        LEFT JOIN ml_scan_state s ON s.device_uuid = f.device_uuid
        WHERE s.watermark IS NULL OR f.last_at > s.scanned_at""",
    "anomalies beyond their scan, or without it": """
        SELECT a.device_uuid, a.timestamp, s.watermark FROM ml_anomaly a
        LEFT JOIN ml_scan_state s ON s.device_uuid = a.device_uuid
        WHERE s.watermark IS NULL OR a.timestamp > s.last_reading""",
    # The first step may be past: a row that comes too soon after a reading is none of its own.
    "forecasts that are not whole": """
        SELECT s.device_uuid, count(p.*), count(p.*) FILTER (WHERE p.timestamp > s.last_reading)
        FROM ml_scan_state s LEFT JOIN ml_forecast_point p ON p.device_uuid = s.device_uuid
            AND p.made_at = (SELECT max(made_at) FROM ml_forecast_point l
                             WHERE l.device_uuid = s.device_uuid)
        WHERE s.outcome <> 'failed' GROUP BY s.device_uuid
        HAVING count(p.*) <> 12
            OR count(p.*) FILTER (WHERE p.timestamp > s.last_reading) < 11""",
    "damaged models": """
        SELECT m.model_id FROM ml_model m WHERE m.sha256 <> encode(sha256(m.blob), 'hex')""",
}
# How an interrupted statement may end, beside well.
ENDS = {
    "cancel": {"57014"},
    "terminate": {"57P01", "closed"},
    "kill -9": {"closed"},
    "stop -m immediate": {"57P01", "57P02", "closed"},
    "statement_timeout": {"57014"},
    "lock_timeout": {"55P03"},
    "disk full": {"53100"},
    "memory": {"53200", "ML006", "closed", "no room"},
}
# What PostgreSQL says, as XX000, where it has no room for a library of its own, such as its JIT's.
NO_ROOM = "could not load library"


class Fleet:
    """A database with trained devices, and somebody who hurts whoever works on it."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)
        server.database()
        self.devices: list[str] = []
        self.session = server.connect()
        self.lasts: dict[str, float] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.cancels: list[tuple[float, float]] = []
        # Nothing is pruned meanwhile: work is made due by making what was done older.
        kept = {"models_kept": 1000, "run_days": 36500}
        for name, value in ({"epochs": 2, "n_estimators": 50} | kept).items():
            self.session.execute(
                "UPDATE ml_setting SET value = %s WHERE name = %s", [str(value), name]
            )
        self.session.execute(LIMIT)
        for _ in range(DEVICES):
            row = self.session.execute(
                "INSERT INTO devices VALUES (gen_random_uuid(), 'hurt') RETURNING uuid::text"
            )
            self.devices.append(row.fetchone()[0])
            values = {"device": self.devices[-1], "readings": 400, "interval": 60}
            self.session.execute(ROWS, values)
        self.session.execute("CALL ml_retrain()")
        self.session.execute("CALL ml_scan()")
        for work, statement in WORK.items():
            self.session.execute(BEFORE.format(device=self.devices[0]))
            started = time.monotonic()
            self.session.execute(statement.format(device=self.devices[0]))
            self.lasts[work] = time.monotonic() - started
        self.check()

    def work(self) -> psycopg.Connection:
        """A session to hurt: the one of before, where that has survived."""
        if self.session.closed or self.random.random() < 0.3:
            self.session.close()
            self.session = self.server.connect()
        return self.session

    def hurt(self, fault: str, work: str) -> None:
        """One fault at a random moment of some work; then look at what is left."""
        device = self.random.choice(self.devices)
        with self.server.connect() as other:
            other.execute(BEFORE.format(device=device))
        session = self.work()
        moment = self.random.uniform(0, 1.2 * self.lasts[work])
        ended: list[str] = []
        said: list[str] = []
        begun = time.monotonic()

        def body() -> None:
            try:
                session.execute(WORK[work].format(device=device))
                ended.append("done")
            except psycopg.Error as error:
                no_room = str(error).startswith(NO_ROOM)
                ended.append("no room" if no_room else error.sqlstate or "closed")
                said.append(f"{error}\n{error.diag.context}")

        with getattr(self, "_" + fault.translate(str.maketrans(" ", "_", "-")))(
            session, moment
        ) as inject:
            thread = threading.Thread(target=body)
            thread.start()
            inject()
            thread.join(120)
            assert not thread.is_alive(), f"{work} hangs after {fault}"
        self.outcomes[fault, ended[0]] += 1
        assert ended[0] in ENDS[fault] | {"done"}, (fault, work, ended, said)
        took = time.monotonic() - begun
        print(f"{fault} at {moment:.2f} s of {work}: {ended[0]} after {took:.2f} s", flush=True)
        self.check()

    def settle(self) -> None:
        """Wait until the server has noticed that a backend has died, and recovered."""
        with contextlib.suppress(psycopg.OperationalError), self.server.connect() as session:
            for _ in range(20):
                time.sleep(0.05)
                session.execute("SELECT 1")

    def check(self) -> None:
        """Nothing is there by half, and every model in force answers."""
        with self.server.connect() as session:
            for what, query in HALVES.items():
                assert session.execute(query).fetchall() == [], what
            for device in self.devices:
                session.execute("SELECT ml_detect(%s), ml_forecast(%s)", [device, device])

    def finish(self) -> None:
        """What comes next completes."""
        with self.server.connect() as session:
            session.execute(BEFORE.format(device=self.devices[0]))
            session.execute("CALL ml_retrain()")
            session.execute("CALL ml_scan()")
            due = session.execute(
                "SELECT d.* FROM _ml_due(ARRAY(SELECT uuid FROM devices)) d"
            ).fetchall()
            assert due == []
            failed = session.execute("SELECT * FROM ml_scan_state WHERE outcome = 'failed'")
            assert failed.fetchall() == []
        self.check()

    # ---- faults: each readies something, gives what to do while the work goes on, and
    # puts it right afterwards

    @contextlib.contextmanager
    def _told(self, session: psycopg.Connection, moment: float, ask: str) -> Iterator[object]:
        pid = session.info.backend_pid
        with self.server.connect() as other:
            told = [0.0, 0.0]

            def inject() -> None:
                time.sleep(moment)
                told[:] = time.monotonic(), cpu_seconds(pid)
                other.execute(ask, [pid])

            yield inject
            if ask.endswith("cancel_backend(%s)"):
                took = time.monotonic() - told[0]
                self.cancels.append((took, cpu_seconds(pid) - told[1]))

    def _cancel(self, session, moment):
        return self._told(session, moment, "SELECT pg_cancel_backend(%s)")

    @contextlib.contextmanager
    def _terminate(self, session, moment):
        with self._told(session, moment, "SELECT pg_terminate_backend(%s)") as inject:
            yield inject
        session.close()  # it may not know yet, where the work was done before

    @contextlib.contextmanager
    def _kill_9(self, session, moment):
        pid = session.info.backend_pid  # 0 once it is gone, which would be all of this group

        def inject():
            time.sleep(moment)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        yield inject
        session.close()
        self.settle()

    @contextlib.contextmanager
    def _stop_m_immediate(self, session, moment):
        def inject():
            time.sleep(moment)
            self.server.cluster.control("stop", "-m", "immediate")

        yield inject
        session.close()
        self.server.start()

    @contextlib.contextmanager
    def _statement_timeout(self, session, moment):
        session.execute(f"SET statement_timeout = {max(1, int(moment * 1000))}")
        yield lambda: None
        session.execute("SET statement_timeout = 0")

    @contextlib.contextmanager
    def _lock_timeout(self, session, moment):
        session.execute("SET lock_timeout = '100ms'")
        with self.server.connect() as other:

            def inject():
                time.sleep(moment)
                with other.transaction():
                    other.execute("LOCK TABLE ml_model, ml_scan_state IN EXCLUSIVE MODE")
                    time.sleep(2)

            yield inject
        session.execute("SET lock_timeout = 0")

    @contextlib.contextmanager
    def _disk_full(self, session, moment):
        place = Path(f"/tmp/pyml-disk-{os.getpid()}")
        place.mkdir()
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "pyml", place], check=True)
            shutil.chown(place, self.server.cluster.owner)
            with self.server.connect() as other:
                other.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
                other.execute("ALTER TABLE ml_model SET TABLESPACE small")
                full = place / "full"

                def inject():
                    with contextlib.suppress(OSError), open(full, "wb") as handle:
                        while True:
                            handle.write(bytes(4096))
                            handle.flush()

                inject()
                yield lambda: None
                full.unlink()
                other.execute("ALTER TABLE ml_model SET TABLESPACE pg_default")
                other.execute("CHECKPOINT")
                other.execute("DROP TABLESPACE small")
        finally:
            subprocess.run(["umount", "-l", place], check=True)
            place.rmdir()

    @contextlib.contextmanager
    def _memory(self, session, moment):
        # A limit of the backend's own: root may not limit another account's process everywhere.
        # The package is there before: a Python without room to start has no words for it.
        session.execute("SELECT count(*) FROM ml_doctor()")
        more = self.random.choice((1, 20, 80, 300, 900)) << 20
        session.execute("SELECT limit_memory(%s)", [more])
        yield lambda: None
        session.close()
        self.settle()


@pytest.fixture
def fleet(server: Server) -> Iterator[Fleet]:
    """A fleet to hurt."""
    fleet = Fleet(server, seed=7)
    yield fleet
    fleet.session.close()


def test_after_any_fault_everything_is_whole(fleet, server, long):
    faults = list(ENDS)
    if os.geteuid() != 0:  # who cannot mount a small disk
        faults.remove("disk full")
    works = ["ml_train_forest", "ml_train_lstm", "ml_retrain", "ml_scan"]
    for number in range(208 if long else 5):
        fault = faults[number % len(faults)]
        # Each fault meets each kind of work; in the short form one.
        work = works[(number // len(faults) + number) % len(works)]
        fleet.hurt(fault, work)
    fleet.finish()
    crashes = server.log().count("was terminated by signal")
    killed = sum(n for (fault, _), n in fleet.outcomes.items() if fault == "kill -9")
    starved = fleet.outcomes["memory", "closed"]
    waits = sorted(fleet.cancels)
    print(
        f"{dict(fleet.outcomes)}; {crashes} crashes of which {killed} kills, {starved} starved;"
        f" cancels took (s, processor s) {waits[len(waits) // 2]} to {waits[-1]}"
    )
    assert crashes <= killed + starved
    assert max(processor for _, processor in fleet.cancels) < 1
