"""What a session and a worker ask the operating system for: no connection, no file elsewhere.

Seen by strace from the first call to the end of the process, and for a while after the last
call: a library that reports what it is used for does so some seconds later.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import pyml
from tests.receivers import COMMAND, ROOT, environment, receiving, table, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace here"),
]

# An uploader was seen to begin 10 s after its library was loaded.
LATE = 15
CALLS = "%file,%network,ftruncate,fallocate"
# Calls that change what their path, or one of their paths, names.
CHANGES = re.compile(
    r"(creat|truncate|mkdir(at)?|rmdir|rename(at2?)?|unlink(at)?|link(at)?|symlink(at)?"
    r"|mknod(at)?|chmod|fchmodat2?|l?chown|fchownat|utimensat|utimes?|l?(set|remove)xattr)\("
)
OPENS = re.compile(r"open(at2?)?\(")
WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")
# Those that lead to another process; what goes on over the client's own socket names nobody.
REACHES = re.compile(r"(connect|listen|accept4?)\(|send(to|m?msg)\(.*sa_family|socket\(AF_NETLINK")
# The C library asks a cache of accounts first, where there is one.
ACCOUNTS = re.compile(r'connect\(.*sun_path="/var/run/nscd/socket"')
PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
# Nothing can be kept there: what a thread is called, and a file that cannot exist.
NOWHERE = re.compile(r"/dev/null(/.*)?|/proc/(self|\d+)/task/\d+/comm")
# Memory, in which a library tries whether it could share a semaphore with other processes.
SHARED = Path("/dev/shm")
# Every function, in an order that makes each have something to do.
STATEMENTS = (
    "SELECT ml_train_forest('{}')",
    "SELECT ml_train_lstm('{}')",
    "CALL ml_retrain()",
    "SELECT ml_detect('{}')",
    "SELECT count(*) FROM ml_score('{}', now() - interval '1 day', now())",
    "SELECT ml_forecast('{}')",
    "SELECT count(*) FROM ml_predict('{}', 'system.cpuUsage')",
    "SELECT count(*) FROM ml_zscore('{}', 'system.cpuUsage')",
    "SELECT count(*) FROM ml_chart('{}', 'system.cpuUsage')",
    "CALL ml_scan()",
    "SELECT ml_model_info('{}')",
    "SELECT count(*) FROM ml_doctor()",
)


SURROUNDINGS = """
CREATE FUNCTION surroundings() RETURNS text LANGUAGE plpython3u AS $$
    import os, tempfile
    names = ('HOME', 'TMPDIR', 'KERAS_HOME', 'TEST_TMPDIR')
    return f'{[os.environ.get(name) for name in names]} {tempfile.tempdir}'
$$
"""


class Trace:
    """What a process and its children asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        """The calls as strace writes them, without the processes' numbers."""
        return [line.split(None, 1)[1] for line in self.path.read_text().splitlines()]

    def outside(self, *places: Path) -> list[str]:
        """The calls that would write, or have written, something outside these places."""
        return [line for line in self.lines() if _writes(line, places)]

    def left(self, place: Path) -> set[Path]:
        """What it has made there that is still there."""
        made = {path for line in self.outside() for path in _named(line) if place in path.parents}
        return {path for path in made if path.exists()}

    def calls(self) -> list[str]:
        """The calls that would reach another process over a socket."""
        return [line for line in self.lines() if REACHES.match(line) and not ACCOUNTS.match(line)]


def _writes(line: str, places: tuple[Path, ...]) -> bool:
    if not (CHANGES.match(line) or (OPENS.match(line) and WRITES.search(line))):
        return False
    return not all(
        NOWHERE.fullmatch(str(path)) or any(path.is_relative_to(place) for place in places)
        for path in _named(line)
    )


def _named(line: str) -> list[Path]:
    """The paths in a call; relative ones are made absolute."""
    named = [Path(os.path.normpath(Path(at or "/", path))) for at, path in PATH.findall(line)]
    assert named, line
    return named


@contextlib.contextmanager
def traced(pid: int, path: Path) -> Iterator[Trace]:
    """Look at a running process until it has ended."""
    command = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", path]
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stderr.readline()
            if "attached" not in said:
                pytest.skip(f"strace may not look at another process here: {said}")
            yield Trace(path)
            process.wait(60)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def test_a_session_calls_nobody_and_writes_nothing_elsewhere(db, dsn, device, tmp_path, long):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    db.execute(SURROUNDINGS)
    data = Path(db.execute("SHOW data_directory").fetchone()[0])
    with psycopg.connect(dsn, autocommit=True) as session:
        before = session.execute("SELECT surroundings()").fetchone()
        with traced(session.info.backend_pid, tmp_path / "trace") as trace:
            for statement in STATEMENTS:
                session.execute(statement.format(device))
            assert session.execute("SELECT surroundings()").fetchone() == before
            time.sleep(LATE if long else 0)
            session.execute("SELECT ml_forecast(%s)", [device])
            session.close()
    assert [line for line in trace.lines() if "base/" in line]  # it did look
    assert trace.calls() == []
    assert trace.outside(data, SHARED) == []
    assert trace.left(SHARED) == set()


@pytest.mark.long
def test_a_worker_calls_the_database_and_writes_nothing_elsewhere(db, dsn, device, tmp_path):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    home = tmp_path / "home"
    home.mkdir()
    trace = Trace(tmp_path / "trace")
    watch = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", trace.path]
    work = [sys.executable, "-m", "pyml.workers.fleet", "retrain", "--jobs", "2", "--dsn", dsn]
    done = subprocess.run(
        [*watch, *work],
        env={**os.environ, "HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "2 trained\n", done.stderr
    mine = f'sun_path="{os.environ["PYML_TEST_HOST"]}/.s.PGSQL.'
    calls = trace.calls()
    assert [line for line in calls if mine in line]
    assert [line for line in calls if mine not in line] == []
    assert trace.outside(Path(pyml.__file__).parent, SHARED) == []
    assert trace.left(SHARED) == set()
    assert list(home.iterdir()) == []


OPENED = """
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, summary, evidence, updated_at) SELECT gen_random_uuid(), 'silent', 'open', 'warning',
    '', now(), now(), now(), 'it is silent', '{}'::jsonb, now();
SELECT _ml_put_event(incident_id, device_uuid, 'opened', now(), false) FROM ml_incident;
"""


@pytest.mark.long
def test_a_notifier_calls_the_database_and_its_targets_and_writes_nothing(db, dsn, one, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    trace = Trace(tmp_path / "trace")
    with receiving() as hook, receiving(lambda handler, document: 204) as other:
        there = f"127.0.0.1:{other.port}"
        mail = f"mailto://{there}?to=a@example.com&from=b@example.com&mode=insecure"
        targets = hook.table("hook")
        targets += table("page", url=f"json://{there}/") + table("mail", url=mail)
        watch = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", trace.path]
        process = subprocess.Popen(
            [*watch, *COMMAND, "--dsn", dsn],
            env=environment(targets, HOME=str(home), TMPDIR=str(home), PYTHONDONTWRITEBYTECODE="1"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: one("SELECT count(*) FROM ml_target") == 3, 60)
            db.execute(OPENED)
            until(lambda: one("SELECT count(*) FROM ml_delivery WHERE attempts > 0") == 3, 60)
            time.sleep(LATE)
        finally:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(children.split()[0]), signal.SIGTERM)  # strace itself does not hear it
            said = process.communicate(timeout=60)[1]
    assert len(hook.got) == 1, said
    local = 'sin_port=htons({}), sin_addr=inet_addr("127.0.0.1")'
    allowed = (
        f'sun_path="{os.environ["PYML_TEST_HOST"]}/.s.PGSQL.',
        *(local.format(port) for port in (hook.port, other.port)),
    )
    for place in allowed:
        assert [line for line in trace.calls() if place in line]
    assert [line for line in trace.calls() if not any(one in line for one in allowed)] == []
    assert trace.outside() == []
    assert list(home.iterdir()) == []
