"""The database: a batch of messages becomes rows, in one transaction."""

import json
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from . import statements
from .ledger import Ledger
from .messages import ENCODER, Message
from .shadows import Shadow

Cursor = psycopg.Cursor[Any]
Shadows = dict[tuple[uuid.UUID, str], Shadow]

# Without these a cable that is pulled stops the service for minutes (libpq's names).
IMPATIENT: dict[str, Any] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 30,
}
# Lies in a message: a value, a constraint, a trigger's refusal, more than an index takes.
OF_A_MESSAGE = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.RaiseException,
)
# Passes by itself: not reachable, shutting down, full, or a standby about to be promoted.
PASSING = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)


class History:
    """The tables ``devices``, ``device_shadows`` and ``device_shadow_history``.

    Parameters
    ----------
    dsn : str
        A libpq connection string; what it leaves out comes from PGHOST and its kin.
    add_devices : bool
        Whether a device that is not in ``devices`` is added, or its messages are refused.
    largest : int
        Bytes that a shadow's state may have.
    ledger : Ledger
        Where messages are counted.
    """

    def __init__(self, dsn: str, add_devices: bool, largest: int, ledger: Ledger) -> None:
        self._dsn, self._add, self._largest, self._ledger = dsn, add_devices, largest, ledger
        self._conn: psycopg.Connection[Any] | None = None

    def store(self, messages: Sequence[Message]) -> None:
        """Write messages; those that the database refuses are counted and left out.

        Raises
        ------
        psycopg.Error
            One of `PASSING`: nothing more is written, call again later. Any other (no table, no
            privilege): calling again will not help.
        """
        try:
            odd = self._store_together(messages)
        except OF_A_MESSAGE as error:
            if len(messages) == 1:
                detail = str(error).splitlines()[0]
                self._ledger.count("refused by the database", f"{messages[0].topic}: {detail}")
                return
            half = len(messages) // 2
            self.store(messages[:half])
            self.store(messages[half:])
            return
        except psycopg.Error:
            self.close()
            raise
        for why, message in odd:
            self._ledger.count(why, f"{message.topic}: {message.text}")

    def close(self) -> None:
        """Hang up."""
        if self._conn is not None:
            with suppress(psycopg.Error):
                self._conn.close()
        self._conn = None

    def _store_together(self, messages: Sequence[Message]) -> list[tuple[str, Message]]:
        """Write messages in one transaction; those not written, or not merged, and why."""
        odd: list[tuple[str, Message]] = []
        conn = self._connection()
        with conn.transaction(), conn.cursor() as cursor:
            known = self._known(cursor, messages)
            odd += [("unknown device", one) for one in messages if one.device not in known]
            messages = [one for one in messages if one.device in known]
            # Whoever stores the same message holds its shadow, until it has committed.
            shadows = _shadows(cursor, messages)
            repeated = _repeated(cursor, messages)
            odd += [("repeated", messages[place]) for place in repeated]
            messages = [one for place, one in enumerate(messages) if place not in repeated]
            for one in messages:
                if why := shadows[one.device, one.shadow].take(one, self._largest):
                    odd.append((why, one))
            _put(cursor, shadows)
            with cursor.copy(statements.COPY) as copy:
                for one in messages:
                    copy.write_row((one.device, one.shadow, one.text, one.version, one.at))
        if messages:
            devices: set[object] = {one.device for one in messages}
            newest = max(one.ordered_at for one in messages)
            self._ledger.stored(len(messages), devices, newest)
        return odd

    def _known(self, cursor: Cursor, messages: Iterable[Message]) -> set[object]:
        """The devices that messages may be of; new ones are added, if they may be."""
        names = {one.device: one.name for one in messages}
        given = {"devices": list(names), "names": list(names.values())}
        if self._add:
            cursor.execute(statements.ADD_DEVICES, given)
            return set(names)
        return {device for (device,) in cursor.execute(statements.KNOWN_DEVICES, given)}

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None:
            self._conn = psycopg.connect(
                self._dsn, autocommit=True, application_name="intake", **IMPATIENT
            )
            self._conn.execute(statements.DURABLE)
        return self._conn


def _shadows(cursor: Cursor, messages: Iterable[Message]) -> Shadows:
    """The shadows that messages are for, made where they are missing, and locked."""
    keys = list({(one.device, one.shadow) for one in messages})
    given = {"devices": [device for device, _ in keys], "shadows": [name for _, name in keys]}
    cursor.execute(statements.ADD_SHADOWS, given)
    return {
        (device, name): Shadow(json.loads(text), len(text.encode()), version, at)
        for device, name, text, version, at in cursor.execute(statements.SHADOWS, given)
    }


def _put(cursor: Cursor, shadows: Shadows) -> None:
    """Write the shadows."""
    given = {
        "devices": [device for device, _ in shadows],
        "shadows": [name for _, name in shadows],
        "states": ENCODER.encode([one.state for one in shadows.values()]),
        "versions": [one.version for one in shadows.values()],
        "times": [one.at for one in shadows.values()],
    }
    cursor.execute(statements.PUT_SHADOWS, given)


def _repeated(cursor: Cursor, messages: Sequence[Message]) -> set[int]:
    """The places of messages that are in the history, or among those before them."""
    said = [(one.device, one.shadow, one.at, one.text) for one in messages]
    first: dict[Any, int] = {}
    again = {place for place, one in enumerate(said) if first.setdefault(one, place) != place}
    given = {
        "devices": [one.device for one in messages],
        "shadows": [one.shadow for one in messages],
        "times": [one.at for one in messages],
    }
    for place, state in cursor.execute(statements.OF_THAT_TIME, given):
        if _in_order(json.loads(state)) == _in_order(messages[place].state):
            again.add(place)
    return again


def _in_order(state: dict[str, Any]) -> str:
    """A text that is the same for the same state: unlike in Python, true is not 1 in it."""
    return json.dumps(state, sort_keys=True)
