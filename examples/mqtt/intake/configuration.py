"""What is configured: a TOML file, with secrets in files of their own or in the environment."""

import os
import tomllib
import urllib.parse
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from .topics import Topic

PASSWORD = "MQTT_PASSWORD"  # noqa: S105 - the variable's name
PORTS = {"mqtt": 1883, "mqtts": 8883}
# A batch and the one that is read meanwhile are unacknowledged; the protocol counts to 65,535.
MOST_IN_BATCH = 32_767


class Mistake(Exception):
    """Something in the configuration that cannot be used, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Broker:
    """Where the broker is, and who asks."""

    url: str
    client_id: str = "pyml-intake"
    password_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        try:
            known = self.address.scheme in PORTS and self.address.hostname and self.port
        except ValueError:  # the port is no number
            known = False
        if not known:
            raise Mistake(f"broker.url is {self.url!r}; write mqtt://user@host:1883, or mqtts://…")
        if self.address.password:
            raise Mistake(f"broker.url holds a password; put it in password_file or {PASSWORD}")
        if not self.client_id:
            raise Mistake("broker.client_id is empty; the broker keeps messages under it")
        if bool(self.certificate_file) != bool(self.key_file):
            raise Mistake("broker.certificate_file and broker.key_file go together")

    @property
    def address(self) -> urllib.parse.SplitResult:
        """The parts of the URL."""
        return urllib.parse.urlsplit(self.url)

    @property
    def port(self) -> int:
        """The port of the URL, else that of its scheme."""
        return self.address.port or PORTS[self.address.scheme]

    def password(self) -> str | None:
        """The password of the user in the URL.

        Raises
        ------
        Mistake
            If the file is not there.
        """
        if not self.password_file:
            return os.environ.get(PASSWORD)
        try:
            return Path(self.password_file).read_text().rstrip("\n")
        except OSError as error:
            raise Mistake(f"broker.password_file: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Messages:
    """Which messages are taken, how they are read, and how many at a time."""

    topics: tuple[str, ...] = (
        "iot/device/{device}/state",
        "iot/device/{device}/shadow/name/{shadow}/update",
    )
    shadow: str = "device-state"  # of a topic without {shadow}
    time: str = "timestamp"  # the member with the time
    largest: int = 65_536  # bytes of a payload, and of a shadow's state
    batch: int = 2000  # messages a transaction
    seconds: float = 1.0  # that a message waits for others

    def __post_init__(self) -> None:
        if not self.topics:
            raise Mistake("messages.topics is empty")
        for name, least, most in (("largest", 1, 2**24), ("batch", 1, MOST_IN_BATCH)):
            if not least <= getattr(self, name) <= most:
                raise Mistake(f"messages.{name} is not from {least} to {most}")
        if not 0 < self.seconds <= 60:
            raise Mistake("messages.seconds is not above 0 and up to 60")
        self.patterns()

    def patterns(self) -> tuple[Topic, ...]:
        """The topics to listen to.

        Raises
        ------
        Mistake
            If one is no pattern.
        """
        try:
            return tuple(Topic(text, self.shadow) for text in self.topics)
        except ValueError as error:
            raise Mistake(f"messages.topics: {error}") from error


NEW_DEVICES = ("add", "refuse")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The whole file."""

    broker: Broker
    database: str = (
        ""  # libpq's connection string; what it leaves out comes from PGHOST, PGPASSFILE …
    )
    new_devices: str = "add"
    messages: Messages = field(default_factory=Messages)

    def __post_init__(self) -> None:
        if self.new_devices not in NEW_DEVICES:
            raise Mistake(f"new_devices is {self.new_devices!r}; it is 'add' or 'refuse'")


def read(path: Path) -> Configuration:
    """The configuration in a file.

    Raises
    ------
    Mistake
        If the file cannot be read, or holds what cannot be used.
    """
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Mistake(f"{path}: {error}") from error
    parts: dict[str, Any] = {"broker": Broker, "messages": Messages}
    for name, form in parts.items():
        if name in given:
            given[name] = _filled(form, given[name], f"{name}.")
    return _filled(Configuration, given, "")


def _filled(form: type[Any], given: Any, where: str) -> Any:
    """A part of the configuration, of what the file gives for it."""
    if not isinstance(given, Mapping):
        raise Mistake(f"{where[:-1]} is a section: [{where[:-1]}]")
    known = {one.name: one for one in fields(form)}
    for name, value in given.items():
        if name not in known:
            raise Mistake(f"{where}{name} is not known; there are {', '.join(known)}")
        if not _fits(value, known[name].type):
            raise Mistake(f"{where}{name} is {value!r}, which is of the wrong type")
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise Mistake(f"{where}{name} is missing")
    return form(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


def _fits(value: Any, form: Any) -> bool:
    """Whether a value of TOML's is of a field's type."""
    if form == tuple[str, ...]:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return type(value) in ((int, float) if form is float else (form,))
