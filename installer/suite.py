"""The tests: the suite on a private server."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from installer.broker import find_mosquitto
from installer.cluster import Cluster, home, private
from installer.dashboard import find_node
from installer.debian import apt_install
from installer.orphans import adopt_orphans, leave_nothing
from installer.postgres import Postgres
from installer.process import HERE, Failure, digest, locked, say


def find_browser() -> None:
    """Chromium, in which the dashboard is tested."""
    if not shutil.which("chromium"):
        why = "the dashboard is tested in Chromium, which is not here"
        apt_install(["chromium", "fonts-dejavu-core"], why)


def find_plproxy(postgres: Postgres) -> None:
    """PL/Proxy, with which a sharded fleet is tested."""
    if not postgres.has("plproxy"):
        why = "a sharded fleet is tested with PL/Proxy, which is not here"
        apt_install([f"postgresql-{postgres.major}-plproxy"], why)


def find_strace() -> None:
    """What shows whom a session calls and which files it writes."""
    if not shutil.which("strace"):
        apt_install(["strace"], "that nothing is reported is tested with strace, which is not here")


def have_mosquitto() -> None:
    """An MQTT broker: each test that needs one has its own."""
    if not find_mosquitto():
        why = "MQTT is tested with mosquitto, which is not here"
        apt_install(["mosquitto"], why, services=False)


def leave(cluster: Cluster) -> None:
    """Stop the tests' server, and remove those of tests that were killed, if no run is going on."""
    with open(home() / "test-runs", "a") as handle, contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for place in cluster.base.glob("*-[0-9]*"):
            Cluster(home(), place.name, cluster.postgres).stop()
            shutil.rmtree(place)
        cluster.stop()


def interrupt(*_: object) -> None:
    """Take a signal to end as Ctrl-C, so that what was begun is put away."""
    raise KeyboardInterrupt


# Arguments that choose no tests and need no terminal: with these alone all cores are used.
WHOLE_SUITE = re.compile(r"--(quick|long|durations=\d+|maxfail=\d+)|-[qvx]+")
CORES = 4  # at most: each backend that trains takes some 600 MB


def command_test(options: argparse.Namespace) -> int:
    """Run the suite against a private server."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
    with private("test", leave) as (cluster, environment):
        lock = HERE / "requirements-test.lock"
        if environment.state().get("test") != digest(lock):
            environment.pip(lock)
            environment.record(test=digest(lock))
    arguments = options.arguments
    cores = min(os.cpu_count() or 1, CORES)
    if cores > 1 and all(WHOLE_SUITE.fullmatch(one) for one in arguments):
        arguments = ["-n", str(cores), "--dist", "loadfile", "--no-loadscope-reorder", *arguments]
    try:
        have_tools(cluster)
        with locked(home() / "test-runs", shared=True):
            say("running the tests")
            return run_pytest(cluster, [environment.python, "-m", "pytest", *arguments])
    finally:
        leave(cluster)


def have_tools(cluster: Cluster) -> None:
    """Find or install what some tests need; without it they are skipped."""
    find_proxy = partial(find_plproxy, cluster.postgres)
    for need in (find_node, find_browser, find_strace, have_mosquitto, find_proxy):
        try:
            need()
        except Failure as failure:
            say(f"{failure}: tests that need it are skipped ({failure.fix})")


def run_pytest(cluster: Cluster, command: Sequence[str | Path]) -> int:
    """Run pytest on a server, and end what it leaves running; its exit status."""
    settings = {
        "PYML_TEST_HOST": str(cluster.run),
        "PYML_TEST_PORT": "5432",
        "PYML_TEST_USER": "postgres",
    }
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PG"))}
    adopt_orphans()
    # Ctrl-C reaches pytest too, and its summary is worth waiting for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env={**keep, **settings},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while process.returncode is None:  # orphans are reaped meanwhile
            pid, status = os.wait()
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode
    finally:
        leave_nothing(process)
