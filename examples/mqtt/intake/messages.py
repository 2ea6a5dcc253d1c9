"""A message: from a topic and a payload to what a device says, or to why it cannot be taken."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from .configuration import Messages
from .topics import device_uuid

DEEPEST = 64  # objects and arrays within one another
# pyml counts messages before or beyond as of a bad clock.
EARLIEST = datetime(2010, 1, 1)
AHEAD = timedelta(days=1)
MOST_TOPICS = 10_000  # that are remembered
MOST_VERSION = 2**31 - 1
# Of a number: seconds since 1970 up to the year 5138, milliseconds beyond.
MILLISECONDS = 1e11
# Escaped by an odd number of backslashes, it is the character that jsonb has no place for.
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_no_number)
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Refused(Exception):
    """A message that cannot be taken: why, in a word that is counted, and in detail."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why, detail)
        self.why, self.detail = why, detail


class Message(NamedTuple):
    """What a device says.

    Attributes
    ----------
    topic : str
    device : uuid.UUID
    name : str
        The device's id as its topic has it.
    shadow : str
    at : datetime
        When it was so, UTC without a zone: as the device says, else when it came.
    ordered_at : datetime
        The same, but no later than it came, and when it came where the clock is bad.
    version : int
        0 if it has none.
    state : dict
    text : str
        The state as JSON that PostgreSQL takes.
    remark : str
        What is odd about it, to be counted, or empty.
    """

    topic: str
    device: uuid.UUID
    name: str
    shadow: str
    at: datetime
    ordered_at: datetime
    version: int
    state: dict[str, Any]
    text: str
    remark: str


class Reader:
    """Reads messages as they are configured."""

    def __init__(self, messages: Messages) -> None:
        self.patterns = messages.patterns()
        self.time, self.largest = messages.time, messages.largest
        self._named = lru_cache(MOST_TOPICS)(self._name)

    def read(self, topic: str, payload: bytes, came_at: datetime) -> Message:
        """What a message says.

        Parameters
        ----------
        topic : str
        payload : bytes
            The state, or ``{"state": {"reported": …}, "version": …, "timestamp": …}``.
        came_at : datetime
            UTC, without a zone.

        Raises
        ------
        Refused
        """
        device, name, shadow = self._named(topic)
        if len(payload) > self.largest:
            raise Refused("too large", f"{len(payload)} bytes")
        try:
            document = DECODER.decode(payload.decode())
            deep = (
                payload.count(b"{") + payload.count(b"[") > DEEPEST and _depth(document) > DEEPEST
            )
        except (ValueError, RecursionError) as error:
            raise Refused("bad JSON", str(error)) from error
        if deep:
            raise Refused("bad JSON", f"nested more than {DEEPEST} deep")
        if not isinstance(document, dict):
            raise Refused("no JSON object")
        state, version = _reported(document)
        at, remark = came_at, ""
        if self.time in document:
            at, remark = _time(document[self.time], came_at)
        ordered_at = came_at if at < EARLIEST else min(at, came_at)
        text = _text(state)
        return Message(topic, device, name, shadow, at, ordered_at, version, state, text, remark)

    def _name(self, topic: str) -> tuple[uuid.UUID, str, str]:
        """Of which device a topic is, by uuid and by id, and of which shadow."""
        for one in self.patterns:
            if found := one.match(topic):
                return device_uuid(found[0]), *found
        raise Refused("foreign topic")


def _depth(value: Any) -> int:
    """How many objects and arrays are within one another."""
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, list):
        return 0
    return 1 + max(map(_depth, value), default=0)


def _reported(document: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The state that a document reports, and its version."""
    inner = document.get("state")
    if not isinstance(inner, dict) or not inner.keys() <= {"reported", "desired"} or not inner:
        return document, 0
    state, version = inner.get("reported"), document.get("version", 0)
    if not isinstance(state, dict):
        raise Refused("nothing reported")
    if type(version) is not int or not 0 <= version <= MOST_VERSION:
        raise Refused("bad version", repr(version)[:40])
    return state, version


def _time(value: Any, came_at: datetime) -> tuple[datetime, str]:
    """A time as UTC without a zone, and what is odd about it."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            at = at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at
        else:
            seconds = value / 1000 if abs(value) >= MILLISECONDS else value
            at = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (TypeError, ValueError, OverflowError, OSError):
        return came_at, "time not understood"
    bad = at < EARLIEST or at > came_at + AHEAD
    return at, "bad clock" if bad else ""


def _text(state: dict[str, Any]) -> str:
    """A state as JSON that PostgreSQL takes."""
    try:
        text = ENCODER.encode(state)
        text.encode()
    except ValueError as error:  # an infinite number, half of a surrogate pair
        raise Refused("bad JSON", str(error)) from error
    if "\\u0000" in text and NUL.search(text):
        raise Refused("bad JSON", "it holds the character NUL")
    return text
