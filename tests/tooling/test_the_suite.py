"""What a failing test shows, and that a run leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAILING = """
def test_failing(db):
    db.execute("SELECT %s + %s, 'it''s'", [1, None])
    assert False
"""
LEAKING = """
import psycopg
kept = []

def test_keeping(dsn):
    kept.append(psycopg.connect(dsn))
"""
NOT_LEAKING = """
import psycopg

def test_dropping(dsn):
    conn = psycopg.connect(dsn)

def test_closing(dsn):
    psycopg.connect(dsn).close()
"""
# A server, and a process of its own session: neither ends with who has started it.
STARTING = """
import subprocess, time
from installer.cluster import Cluster, home
from installer.postgres import find_postgres

def test_starting():
    cluster = Cluster(home(), "left-1", find_postgres())
    cluster.start()
    sleeper = subprocess.Popen(["sleep", "300"], start_new_session=True)
    with open({!r}, "w") as handle:
        handle.write(f"{{cluster.data}} {{sleeper.pid}}")
    time.sleep(300)
"""


def pytest_on(path: Path, text: str, *options: str) -> subprocess.CompletedProcess:
    """Run the tests in `text` as the suite is run."""
    path.write_text(text)
    given = ["-p", "tests.conftest", "-c", "pyproject.toml", *options]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *given, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
    )


def test_a_failure_shows_its_statements_and_how_to_run_it_again(tmp_path):
    done = pytest_on(tmp_path / "test_failing.py", FAILING)
    assert done.returncode == 1, done.stdout + done.stderr
    shown = done.stdout.partition("to see it by hand")[2].splitlines()
    assert "python3 install.py test" in shown[1]
    assert "::test_failing" in shown[1]
    assert "SELECT 1 + NULL, 'it''s';" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("-n", "2"), marks=pytest.mark.long)],
    ids=["alone", "parallel"],
)
def test_a_connection_that_is_left_open_fails_the_run(tmp_path, options):
    done = pytest_on(tmp_path / "test_leaking.py", LEAKING, *options)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    assert "left open:" in done.stderr
    done = pytest_on(tmp_path / "test_not_leaking.py", NOT_LEAKING, *options)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "::test_dropping" in done.stdout
    assert "left open:" not in done.stderr


@pytest.mark.server
@pytest.mark.long
def test_a_run_that_is_ended_leaves_nothing_running(tmp_path):
    told = tmp_path / "told"
    path = tmp_path / "test_starting.py"
    path.write_text(STARTING.format(str(told)))
    run = subprocess.Popen(
        [sys._base_executable, ROOT / "install.py", "test", path, "-c", "pyproject.toml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until = time.monotonic() + 120
        while not told.exists() or not told.read_text():
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        data, sleeper = told.read_text().split()
        postmaster = int(Path(data, "postmaster.pid").read_text().split()[0])
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=90)[0]
        assert run.returncode == 130, said
        for pid in (postmaster, int(sleeper)):
            stat = Path(f"/proc/{pid}/stat")
            assert not stat.exists() or ") Z " in stat.read_text(), said
    finally:
        run.kill()
        run.communicate()
