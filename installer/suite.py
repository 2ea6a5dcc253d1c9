"""The tests: the suite on a private server."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess

from installer.cluster import home, private
from installer.dashboard import find_node
from installer.debian import apt_install
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


def command_test(options: argparse.Namespace) -> int:
    """Run the suite against a private server."""
    with private("test") as (cluster, environment):
        lock = HERE / "requirements-test.lock"
        if environment.state().get("test") != digest(lock):
            environment.pip(lock)
            environment.record(test=digest(lock))
    for need in (find_node, find_browser, lambda: find_plproxy(cluster.postgres)):
        try:
            need()
        except Failure as failure:
            say(f"{failure}: tests that need it are skipped ({failure.fix})")
    settings = {
        "PYML_TEST_HOST": str(cluster.run),
        "PYML_TEST_PORT": "5432",
        "PYML_TEST_USER": "postgres",
    }
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PG"))}
    in_use = home() / "test-runs"
    with locked(in_use, shared=True):
        say("running the tests")
        # Ctrl-C reaches pytest too, and its summary is worth waiting for.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        command = [str(environment.python), "-m", "pytest", *options.arguments]
        outcome = subprocess.call(
            command,
            cwd=HERE,
            env={**keep, **settings},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    with open(in_use, "a") as handle, contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cluster.stop()
    return outcome
