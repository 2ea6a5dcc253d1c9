"""Write what devices publish into the history.

    python -m intake /etc/pyml/intake.toml

SIGTERM or Ctrl-C stores what has come and ends; what comes meanwhile is kept by the broker.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psycopg

from .broker import Arrival, Session
from .configuration import Configuration, Mistake, read
from .history import PASSING, History
from .ledger import Ledger
from .messages import Message, Reader, Refused

log = logging.getLogger(__package__)

LONGEST_WAIT = 30.0  # seconds between two tries of the database


class Service:
    """Takes messages from the broker, a batch at a time, stores and acknowledges them."""

    def __init__(self, configuration: Configuration, stop: threading.Event) -> None:
        messages = configuration.messages
        self.stop, self.batch, self.seconds = stop, messages.batch, messages.seconds
        self.reader, self.ledger = Reader(messages), Ledger()
        adds = configuration.new_devices == "add"
        self.history = History(configuration.database, adds, messages.largest, self.ledger)
        filters = [one.filter for one in self.reader.patterns]
        # One batch is written while the next one comes.
        self.session = Session(configuration.broker, filters, 2 * messages.batch)

    def run(self) -> None:
        """Go on until told to stop.

        Raises
        ------
        Mistake
            If the broker refuses us.
        psycopg.Error
            If the database does.
        """
        self.stored([])  # tells now what the tables or the privileges lack
        self.session.start()
        while not self.stop.is_set():
            taken = self.session.take(self.batch, self.seconds, self.stop)
            messages = self.read(taken)
            if not messages or self.stored(messages):
                self.session.acknowledge(taken)
            self.ledger.tell()
        self.session.end()
        self.history.close()
        self.ledger.tell(now=True)

    def read(self, taken: Sequence[Arrival]) -> list[Message]:
        """What the messages say; those that cannot be taken are counted."""
        messages = []
        for one in taken:
            try:
                message = self.reader.read(one.topic, one.payload, one.came_at)
            except Refused as refused:
                shown = one.payload[:60]
                self.ledger.count(refused.why, f"{one.topic}: {shown!r} {refused.detail}")
                continue
            if message.remark:
                self.ledger.count(message.remark, f"{message.topic}: {message.at}")
            messages.append(message)
        return messages

    def stored(self, messages: Sequence[Message]) -> bool:
        """Store messages, as soon as the database is there; not if we have to stop before."""
        wait = 0.0
        while True:
            try:
                self.history.store(messages)
            except PASSING as problem:
                if not wait:
                    log.warning("not stored, the broker keeps what comes: %s", problem)
                wait = min(2 * wait + 1, LONGEST_WAIT)
                if self.stop.wait(wait):
                    return False
                self.ledger.tell()
                continue
            if wait:
                log.info("the database is back")
            return True


def _end(told: threading.ExceptHookArgs) -> None:
    """End the service with a thread that has failed; what has not been acknowledged comes again."""
    sys.__excepthook__(told.exc_type, told.exc_value or told.exc_type(), told.exc_traceback)
    os._exit(1)


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configuration", type=Path, help="a TOML file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    threading.excepthook = _end
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        Service(read(options.configuration), stop).run()
    except psycopg.errors.UndefinedTable as refusal:
        sys.exit(f"intake: {refusal.diag.message_primary}; tables.sql and demo/history.sql make it")
    except (Mistake, psycopg.Error) as refusal:
        sys.exit(f"intake: {refusal}")


if __name__ == "__main__":
    main()
