"""Ending what a command has started, and all that outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import signal
import subprocess
import time
from pathlib import Path

from installer.process import say


def adopt_orphans() -> None:
    """Become the parent of what outlives its own, such as a server that a test has started."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def descendants(root: int) -> list[int]:
    """The processes that `root` has started, and those that they have; the children last."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = Path(path).read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.split("/")[2])] = int(parent)
    found: list[int] = []
    generation = [root]
    while generation:
        generation = [pid for pid, parent in parents.items() if parent in generation]
        found = generation + found
    return found


def leave_nothing(process: subprocess.Popen[bytes]) -> None:
    """End the tests, if they still run, and whatever they have left running."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if process.poll() is None:
        say("ending the tests")
        # As Ctrl-C does; each process of a parallel run then takes down what it has set up.
        pytests = [pid for pid in descendants(process.pid) if is_python(pid)]
        for pid in [*pytests, process.pid]:
            send(pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
    # A PostgreSQL server that quits ends its sessions too.
    for number in (signal.SIGQUIT, signal.SIGKILL):
        until = time.monotonic() + 10
        left = descendants(os.getpid())
        if left:
            say(f"ending what the tests have left running: {' '.join(map(str, left))}")
        for pid in left:
            send(pid, number)
        while descendants(os.getpid()) and time.monotonic() < until:
            time.sleep(0.1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def is_python(pid: int) -> bool:
    """Whether a process runs a Python interpreter."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("python")
    return False


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
