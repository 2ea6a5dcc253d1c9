"""Messages, commands, files written whole: what every other module uses."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
IS_ROOT = os.geteuid() == 0
STARTED = time.monotonic()

# What a server and pip see of the environment: a PYTHONPATH or a version manager's
# directory in PATH would lead PL/Python to another interpreter's library.
PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}


class Failure(Exception):
    """What is wrong and the command that helps; the user sees these two and no traceback."""

    def __init__(self, wrong: str, fix: str = "") -> None:
        super().__init__(wrong)
        self.fix = fix


def say(text: str) -> None:
    """Write a message to stderr: stdout is for the result."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path], *, user: str | None = None, wrong: str = "", **options: Any
) -> str:
    """Run a command (as another user, when root) and give its output; a failure says `wrong`."""
    if user and IS_ROOT:
        entry = pwd.getpwnam(user)
        options.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
    done = subprocess.run(
        [str(part) for part in command],
        text=True,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        stdin=None if "input" in options else subprocess.DEVNULL,
        cwd="/",
        **options,
    )
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip()
        raise Failure(f"{wrong or shlex.join(map(str, command))}: {said or done.returncode}")
    return (done.stdout or "").strip()


def run_reporting(command: Sequence[str | Path], wrong: str, fix: str = "", **options: Any) -> None:
    """Run a long command, and every few seconds report its last line of output."""
    process = subprocess.Popen(
        [str(part) for part in command],
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        **options,
    )
    lines: list[str] = []
    shown = time.monotonic()
    try:
        for line in process.stdout or ():
            lines = [*lines[-20:], line.strip()]
            if line.strip() and time.monotonic() - shown > 4:
                say("  … " + line.strip()[:90])
                shown = time.monotonic()
    except BaseException:
        process.kill()
        raise
    finally:
        process.communicate()  # waits, and closes the pipe
    if process.returncode:
        raise Failure(f"{wrong}:\n  " + "\n  ".join(lines[-8:]), fix)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text)
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failure(f"cannot write {path}: {error.strerror}", privileged()) from error


def privileged() -> str:
    """Give this very command, for somebody who may."""
    return "sudo " + shlex.join(["python3", str(HERE / "install.py"), *sys.argv[1:]])


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, so that two runs take turns."""
    with open(path, "a") as handle:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {path}")
            fcntl.flock(handle, kind)
        yield


def digest(*paths: Path) -> str:
    """One hash over the names and contents of files and folders."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(HERE)}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]
