"""Debian's packages: installed when root, else named in an error."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from installer.process import IS_ROOT, Failure, run, run_reporting, say


def apt_install(packages: Sequence[str], why: str, services: bool = True) -> None:
    """Install Debian packages, when root; else raise an error that names them.

    Without `services`, what they would start stays off.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if not shutil.which("apt-get"):
        raise Failure(f"{why}; install what Debian calls {' '.join(packages)}")
    if not IS_ROOT:
        raise Failure(why, "sudo " + shlex.join(command))
    say(f"{why}: installing {' '.join(packages)} with apt-get")
    apt_update()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_default_cluster(environment), contextlib.ExitStack() as undo:
        if not services:
            undo.enter_context(no_services())
        run_reporting(command, "apt-get failed", shlex.join(command), env=environment)


@functools.cache
def apt_update() -> None:
    """Fetch the package lists, once a run: a fresh machine has none, an old one stale ones."""
    run_reporting(["apt-get", "update"], "apt-get update failed", "apt-get update")


def apt_candidate(package: str) -> int:
    """The major version in which apt-get would install a package; 0 where it knows none."""
    if IS_ROOT:
        apt_update()
    found = re.search(r"Candidate: (\d+)", run(["apt-cache", "policy", package]))
    return int(found[1]) if found else 0


@contextlib.contextmanager
def no_default_cluster(environment: Mapping[str, str]) -> Iterator[None]:
    """Keep Debian's PostgreSQL package from making and starting a server that nobody asked for."""
    settings = Path("/etc/postgresql-common/createcluster.d/pyml.conf")
    if glob.glob("/usr/lib/postgresql/*/bin/postgres"):
        yield
        return
    common = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql-common"]
    run_reporting(common, "apt-get failed", shlex.join(common), env=dict(environment))
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:  # the user's own next server is made as always
        settings.unlink(missing_ok=True)


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Keep packages from starting their services: only their programs are wanted."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # the machine has one of its own
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()
