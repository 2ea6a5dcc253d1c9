r"""Tell people and programs of incidents: webhooks, and whatever Apprise sends to.

    python3 -m pyml.workers.notify --targets /etc/pyml/targets.toml --dsn "dbname=fleet"
    python3 -m pyml.workers.notify --targets /etc/pyml/targets.toml --check

Each event that a target is to be told of is a row of `ml_delivery`, which the notifier locks
while it sends: several notifiers may run, and where one dies the next attempt is another's.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

from pyml import queries
from pyml.errors import PymlError
from pyml.workers import channels, messages, targets
from pyml.workers.channels import NotSent, Send
from pyml.workers.database import LOST, Connection, at_home, connect
from pyml.workers.targets import Target

# Seconds: between looks at what is due where no notification comes; between notes that the
# notifier is at work; before a lost server is tried again; most between two failed attempts.
POLL, AT_WORK, LOST_FOR, PAUSE = 30.0, 60.0, 2.0, 60.0
# Failures in a row after which a single run gives a target up.
FRUITLESS = 3


def say(words: str) -> None:
    """One line of the log."""
    print(words, file=sys.stderr, flush=True)


def pause(failures: int) -> float:
    """Seconds before the next attempt, after so many failures in a row."""
    return min(2.0 ** min(failures, 10), PAUSE)


def deliver(conn: Connection, target: Target, send: Send) -> bool | float:
    """Send what is due next to a target.

    Parameters
    ----------
    conn : psycopg.Connection
    target : Target
    send : callable
        Sends a message, or raises.

    Returns
    -------
    bool or float
        Whether the target took it; where nothing was due, the seconds until something is.

    Raises
    ------
    PymlError, psycopg.Error
        What the next message would meet as well.
    """
    with at_home(conn) as execute:
        claimed = json.loads(execute(queries.CLAIM_DELIVERY, target.name)[0]["claimed"])
        if "message" not in claimed:
            due = claimed["due_in"]
            return POLL if due is None else min(max(float(due), 1.0), POLL)
        events, told = claimed["event_ids"], claimed["message"]
        what = f"{target.name}: event {told['event_id']} ({told['event']})"
        error = attempt(target, send, told)
        if error is None:
            execute(queries.CONFIRM_DELIVERY, events, target.name, claimed.get("flood"))
        else:
            execute(queries.POSTPONE_DELIVERY, events, target.name, error)
    if error is not None:
        say(f"{what} not sent: {error}")
        return False
    say(f"{what} sent" + (f", for {len(events)} events" if len(events) > 1 else ""))
    return True


def attempt(target: Target, send: Send, told: Mapping[str, Any]) -> str | None:
    """Tell a target of something; why it was not taken, without a secret, or None."""
    try:
        send(messages.message(target, told))
    except NotSent as error:
        return target.redacted(" ".join(str(error).split())) or "not sent"
    except Exception as error:  # one message stops no other; its words may hold an address
        return type(error).__name__
    return None


class Notifier:
    """Threads that send, one a target, so that one that is down stops no other.

    Parameters
    ----------
    dsn : str
    told : list of Target
    """

    def __init__(self, dsn: str, told: list[Target]) -> None:
        self.dsn = dsn
        self.targets = {target.name: (target, channels.sender(target)) for target in told}
        self.wakes = {name: threading.Event() for name in self.targets}
        self.stopping = threading.Event()
        self.failed = False

    def register(self, conn: Connection) -> None:
        """Make the targets known, and look whether scans come."""
        rows = [target.row() for target, _ in self.targets.values()]
        with at_home(conn) as execute:
            execute(queries.PUT_TARGETS, json.dumps(rows))
            execute(queries.WATCH_SCANS)

    def once(self) -> None:
        """Send what is due; `failed` says whether some of it was not taken."""
        with closing(connect(self.dsn, "pyml.notify")) as conn:
            self.register(conn)
        self._each(self._empty)

    def run(self) -> None:
        """Send what is due, until a signal ends it."""
        with closing(connect(self.dsn, "pyml.notify")) as conn:
            self.register(conn)  # what is wrong from the start ends it
        say(f"telling {', '.join(self.targets)}")
        watch = threading.Thread(target=self._guarded, args=(self._watch,), name="watch")
        watch.start()
        self._each(self._serve)
        watch.join()

    def stop(self) -> None:
        """End when the messages at hand are sent."""
        self.stopping.set()
        for wake in self.wakes.values():
            wake.set()

    def _each(self, work: Any) -> None:
        threads = [
            threading.Thread(target=self._guarded, args=(work, name), name=name)
            for name in self.targets
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guarded(self, work: Any, *args: str) -> None:
        """Work in a thread whose end by a fault ends all, so that it is started anew."""
        try:
            work(*args)
            return
        except (PymlError, psycopg.Error) as error:
            say(f"{error}".strip())
        except Exception:
            say(traceback.format_exc())
        self.failed = True
        self.stop()

    def _lost(self, error: Exception) -> None:
        say(f"the server is gone, trying again: {error}".strip().splitlines()[0])
        self.stopping.wait(LOST_FOR)

    def _watch(self) -> None:
        """Hear of events, and note now and then that the notifier is at work."""
        while not self.stopping.is_set():
            try:
                with closing(connect(self.dsn, "pyml.notify")) as conn:
                    with at_home(conn) as execute:
                        execute(queries.LISTEN)
                    self._listen(conn)
            except LOST as error:
                self._lost(error)

    def _listen(self, conn: Connection) -> None:
        noted = -AT_WORK
        while not self.stopping.is_set():
            if time.monotonic() - noted >= AT_WORK:
                self.register(conn)
                noted = time.monotonic()
            for _ in conn.notifies(timeout=1.0, stop_after=1):
                for wake in self.wakes.values():
                    wake.set()

    def _serve(self, name: str) -> None:
        target, send = self.targets[name]
        wake, failures = self.wakes[name], 0
        while not self.stopping.is_set():
            try:
                with closing(connect(self.dsn, "pyml.notify")) as conn:
                    while not self.stopping.is_set():
                        wake.clear()
                        came = deliver(conn, target, send)
                        if came is True:
                            failures = 0
                        elif came is False:
                            failures += 1
                            self.stopping.wait(pause(failures))
                        elif not self.stopping.is_set():
                            wake.wait(came)
            except LOST as error:
                self._lost(error)

    def _empty(self, name: str) -> None:
        target, send = self.targets[name]
        failures = 0
        with closing(connect(self.dsn, "pyml.notify")) as conn:
            while failures < FRUITLESS and not self.stopping.is_set():
                came = deliver(conn, target, send)
                if came is False:
                    failures, self.failed = failures + 1, True
                elif came is True:
                    failures = 0
                else:
                    return


def check(dsn: str, told: list[Target]) -> None:
    """Look whether the database would take what a notifier writes; nothing is sent or kept."""
    with closing(connect(dsn, "pyml.notify")) as conn, conn.transaction(force_rollback=True):
        Notifier(dsn, told).register(conn)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python3 -m pyml.workers.notify", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--targets", type=Path, help=f"TOML file that only its user may read; else {targets.TEXT}"
    )
    parser.add_argument("--dsn", default="", help="the primary; libpq's PG* by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--once", action="store_true", help="send what is due, and end; for cron")
    what.add_argument("--check", action="store_true", help="say what is wrong; send nothing")
    what.add_argument("--test", metavar="TARGET", help="send a test message, without the database")
    given = parser.parse_args()
    try:
        told, wrong = targets.read(targets.text(given.targets, os.environ))
        if wrong:
            sys.exit("\n".join(wrong))
        if given.test is not None:
            _test(told, given.test)
        elif given.check:
            check(given.dsn, told)
            print(f"nothing is wrong: {', '.join(target.name for target in told)}")
        else:
            _tell(Notifier(given.dsn, told), given.once)
    except PymlError as error:
        sys.exit("\n".join(filter(None, (error.message, error.detail, f"hint: {error.hint}"))))
    except psycopg.Error as error:
        sys.exit(str(error).strip())


def _test(told: list[Target], name: str) -> None:
    named = {target.name: target for target in told}
    if name not in named:
        sys.exit(f"there is no target {name}; the targets are {', '.join(named)}")
    target = named[name]
    error = attempt(target, channels.sender(target), messages.trial(time.time()))
    if error is not None:
        sys.exit(f"{name}: not sent: {error}")
    print(f"{name}: sent")


def _tell(notifier: Notifier, once: bool) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        notifier.stop()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    if once:
        notifier.once()
    else:
        notifier.run()
    sys.exit(1 if notifier.failed else 0)


if __name__ == "__main__":
    main()
