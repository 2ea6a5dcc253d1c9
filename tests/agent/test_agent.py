"""The agent against a real server: what it writes, and what it does when the server goes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import agent
import psycopg
import pytest
import sample_fleet

PROGRAM = Path(agent.__file__)
DEVICE = uuid.UUID("00000000-0000-4000-8000-00000000000a")
INTERVAL = 0.1
UNREACHABLE = "host=/nonexistent"


def shape(state):
    """The keys of a document, without its values."""
    return {k: shape(v) for k, v in state.items()} if isinstance(state, dict) else None


def until(met: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start(dsn):
    """Start the agent; what is still running at the end is killed."""
    running = []

    def start(connection=dsn, *options):
        program = subprocess.Popen(
            [sys.executable, PROGRAM, connection, "--interval", str(INTERVAL), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(program)
        return program

    yield start
    for program in running:
        program.kill()
        program.communicate()


def is_ready(program) -> bool:
    """Whether it would hear of a SIGTERM by now."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{program.pid}/status").read_text())[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def rows(db) -> int:
    (count,) = db.execute("SELECT count(*) FROM device_shadow_history").fetchone()
    return count


def hang_up(db) -> int:
    """End the agent's sessions; how many there were."""
    found = db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'agent' AND datname = current_database()"
    )
    return len(found.fetchall())


def end(program):
    program.send_signal(signal.SIGTERM)
    return program.communicate(timeout=60)


def test_a_reading_has_the_shape_that_the_fleet_has():
    reading = agent.sample(DEVICE, connected=True)
    (gateway,) = (d for d in sample_fleet.FLEET if d.name == "gateway-lisbon")
    of_fleet = next(
        json.loads(state)
        for device, shadow, state, _ in sample_fleet.rows(days=0.1)
        if device == gateway.uuid and shadow == sample_fleet.SHADOW
    )
    assert shape(reading.state) == shape(of_fleet)
    json.dumps(reading.state, allow_nan=False)


def test_a_reading_is_about_this_host():
    agent.sample(DEVICE, connected=True)
    spin = time.monotonic() + 0.3
    while time.monotonic() < spin:
        pass
    reading = agent.sample(DEVICE, connected=False)
    system = reading.state["system"]
    assert 0 < system["cpuUsage"] <= 100
    assert 0 < system["memoryUsage"] < system["memoryTotal"]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert system["memoryTotal"] == pytest.approx(total / 2**20, abs=1)
    assert 0 < system["diskUsage"] < system["diskTotal"]
    assert reading.state["health"]["uptime"] > 0
    assert reading.state["connectivity"]["cloudConnected"] is False
    assert abs(reading.timestamp.timestamp() - time.time()) < 86400
    assert reading.timestamp.tzinfo is None


def test_the_outbox_is_bounded_and_loses_the_oldest_first():
    outbox = agent.Outbox(agent.Database(UNREACHABLE, DEVICE, "x"), capacity=3)
    readings = [agent.sample(DEVICE, connected=True) for _ in range(5)]
    for reading in readings:
        outbox.add(reading)
        with pytest.raises(psycopg.OperationalError):
            outbox.deliver()
    assert list(outbox.waiting) == readings[2:]
    assert outbox.dropped == 2


def test_rows_arrive_at_the_interval_in_utc(db, start):
    program = start(f"{db.info.dsn} options='-c timezone=Asia/Tokyo'", "--name", "laptop")
    until(lambda: rows(db) >= 20)
    end(program)
    found = db.execute(
        "SELECT d.name, shadow_name, timestamp, (now() AT TIME ZONE 'UTC') - timestamp"
        " FROM device_shadow_history JOIN devices d ON d.uuid = device_uuid ORDER BY timestamp"
    ).fetchall()
    assert {(name, shadow) for name, shadow, _, _ in found} == {("laptop", "device-state")}
    assert all(0 <= age.total_seconds() < 60 for *_, age in found)
    steps = sorted((b[2] - a[2]).total_seconds() for a, b in pairwise(found))
    assert steps[len(steps) // 2] == pytest.approx(INTERVAL, rel=0.3)


def test_a_device_is_created_once_and_keeps_its_name(db, start):
    for name in ("first", "second"):
        before = rows(db)
        program = start(db.info.dsn, "--device", str(DEVICE), "--name", name)
        until(lambda before=before: rows(db) > before)
        end(program)
    assert db.execute("SELECT uuid, name FROM devices").fetchall() == [(DEVICE, "first")]


def test_a_fleet_without_names_gets_readings_too(db, start):
    db.execute("DROP TABLE devices CASCADE")
    program = start()
    until(lambda: rows(db) >= 2)
    end(program)
    assert program.returncode == 0


def test_sigterm_ends_it_cleanly(db, start):
    program = start()
    until(lambda: rows(db) >= 2)
    began = time.monotonic()
    out, err = end(program)
    assert program.returncode == 0
    assert time.monotonic() - began < 3
    assert re.fullmatch(r"device [0-9a-f-]{36} \(.+\), every 0.1 s\n", out)
    assert err == ""


def test_a_broken_connection_loses_nothing(db, start):
    program = start()
    until(lambda: rows(db) >= 5)
    assert hang_up(db) == 1
    before = rows(db)
    until(lambda: rows(db) >= before + 10)
    out, err = end(program)
    assert "connected again; 0 readings lost" in out
    assert "not delivered, readings wait" in err
    assert longest_step(db) < 5 * INTERVAL


@pytest.mark.slow
def test_readings_of_an_outage_arrive_after_it(db, dsn, start):
    name = db.info.dbname
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as server:
        program = start()
        until(lambda: rows(db) >= 5)
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            hang_up(db)
            before = rows(db)
            time.sleep(15 * INTERVAL)
            assert rows(db) == before
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        until(lambda: rows(db) >= before + 15)
        _, err = end(program)
    assert err.count("not delivered") == 1
    assert longest_step(db) < 5 * INTERVAL
    (offline,) = db.execute(
        "SELECT count(*) FROM device_shadow_history"
        ' WHERE reported_state @> \'{"connectivity": {"cloudConnected": false}}\''
    ).fetchone()
    assert offline >= 10


def longest_step(db) -> float:
    """Seconds between two neighbouring readings; no timestamp may come twice."""
    times = [t for (t,) in db.execute("SELECT timestamp FROM device_shadow_history ORDER BY 1")]
    assert len(times) == len(set(times))
    return max((b - a).total_seconds() for a, b in pairwise(times))


@pytest.mark.slow
def test_what_cannot_be_delivered_at_the_end_is_told(start):
    program = start(UNREACHABLE)
    until(lambda: is_ready(program))
    time.sleep(1)
    out, err = end(program)
    assert program.returncode == 0
    assert re.search(r"^\d+ readings could not be delivered$", out, re.MULTILINE)
    assert err.count("not delivered") == 1


def test_a_refusal_ends_it(db, start):
    db.execute("DROP TABLE device_shadow_history CASCADE")
    program = start()
    _, err = program.communicate(timeout=60)
    assert program.returncode == 1
    assert 'agent: relation "device_shadow_history" does not exist' in err
    assert "Traceback" not in err


def test_the_privileges_that_the_readme_names_are_enough(db, start):
    readme = PROGRAM.with_name("README.md").read_text()
    grants = re.findall(r"^GRANT .*;", readme, re.MULTILINE)
    assert len(grants) == 3
    role = f"agent_{db.info.dbname}"
    db.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        for grant in grants:
            db.execute(grant.replace("TO agent", f'TO "{role}"'))
        program = start(f"{db.info.dsn} options='-c role={role}'")
        until(lambda: rows(db) >= 2)
        end(program)
        assert program.returncode == 0
    finally:
        db.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@pytest.mark.slow
@pytest.mark.parametrize("interval", ["0", "-1", "nan", "soon", "1e9"])
def test_a_senseless_interval_is_refused(interval):
    done = subprocess.run(
        [sys.executable, PROGRAM, UNREACHABLE, f"--interval={interval}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"'{interval}' is not a number of seconds up to 3600" in done.stderr
