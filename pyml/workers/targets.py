"""Targets of a notifier: who is told, of what, and where; read from TOML and checked.

A file names its targets as tables. Addresses hold secrets, so nobody else may read it:

    [operators]
    url = "https://ops.example.com/pyml"
    secret = "whsec_..."
    severity = "critical"
"""

import base64
import binascii
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pyml.errors import BadArgument
from pyml.workers import channels

TEXT = "PYML_TARGETS"  # the environment variable that may hold the targets in place of a file
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
KEYS = {"url", "secret", "severity", "kinds", "devices", "link", "fleet_link"}
SEVERITIES = ("warning", "critical")
SECRET = "whsec_"  # noqa: S105 - how a secret may begin
SECRET_BYTES = (24, 64)
NEW_SECRET = 'secret = "whsec_$(openssl rand -base64 32)"'  # noqa: S105
# What a link may name of the incident.
PLACES = {"incident_id", "device_uuid", "device_id"}


@dataclass(frozen=True, slots=True)
class Target:
    """Who is told.

    Attributes
    ----------
    name : str
    url : str
        Where: of a webhook, or as Apprise has it.
    key : bytes
        What a webhook is signed with.
    severity : str
        The least that it is told of.
    kinds, devices : tuple of str or None
        What it is told of; None is all.
    link, fleet_link : str or None
        Pages for an incident, with places for its ids, and for the fleet.
    """

    name: str
    url: str = field(repr=False)
    key: bytes = field(default=b"", repr=False)
    severity: str = "warning"
    kinds: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    link: str | None = None
    fleet_link: str | None = None

    @property
    def is_webhook(self) -> bool:
        """Whether pyml sends to it by itself."""
        return urlsplit(self.url).scheme.lower() in ("http", "https")

    def row(self) -> dict[str, Any]:
        """What the database knows of it: no address and no secret."""
        return {
            "target": self.name,
            "severity": self.severity,
            "kinds": self.kinds,
            "devices": self.devices,
        }

    def redacted(self, words: str) -> str:
        """Words without any part of the address or the secret in them.

        A webhook's host is no secret; with Apprise it may be one.
        """
        parts = urlsplit(self.url)
        secret = self.url.removeprefix(f"{parts.scheme}://")
        if self.is_webhook:
            secret = secret.removeprefix(parts.netloc)
        pieces = {secret, unquote(secret), *re.split(r"[/?&=@:;,+#]", secret)}
        pieces |= {unquote(piece) for piece in pieces}
        for piece in sorted(pieces, key=len, reverse=True):
            if len(piece) >= 3:
                words = words.replace(piece, "…")
        return words


def text(file: Path | None, environment: Mapping[str, str]) -> str:
    """The targets' TOML, of a file that only its user may read, or of the environment.

    Raises
    ------
    BadArgument
        There is neither, or both, or others may read the file.
    """
    inline = environment.get(TEXT)
    if (file is None) == (inline is None):
        raise BadArgument(
            f"targets come from --targets or from {TEXT}",
            detail="Both are given." if inline else "Neither is given.",
            hint="python3 -m pyml.workers.notify --targets /etc/pyml/targets.toml",
        )
    if file is None:
        return inline or ""
    try:
        with file.open(encoding="utf-8") as opened:
            status = os.fstat(opened.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise BadArgument(
                    f"others than its owner may read or write {file}",
                    detail=f"It holds secrets, and its mode is {stat.S_IMODE(status.st_mode):04o}.",
                    hint=f"chmod 600 {file}",
                )
            if status.st_uid not in (0, os.geteuid()):
                raise BadArgument(
                    f"{file} belongs to another user",
                    detail=f"Its owner has the number {status.st_uid}, this user {os.geteuid()}.",
                    hint=f"chown {os.geteuid()} {file}",
                )
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise BadArgument(f"cannot read {file}: {why}", hint=f"ls -l {file}") from error


def read(source: str) -> tuple[list[Target], list[str]]:
    """The targets of a TOML text, and what is wrong with it, in words without a secret."""
    try:
        tables = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        return [], [f"that is no TOML: {error}"]
    if not tables:
        return [], ["no target is named: each is a table, as [operators]"]
    targets: list[Target] = []
    wrong: list[str] = []
    for name, table in tables.items():
        if not NAME.fullmatch(name):
            wrong.append(
                f"[{name[:80]}]: a name is of a to z, 0 to 9, - and _, and begins with a letter"
            )
        elif not isinstance(table, dict):
            wrong.append(f"{name}: it stands outside of a table such as [operators]")
        else:
            found = _wrong(table)
            wrong += [f"[{name}]: {words}" for words in found]
            if not found:
                targets.append(_target(name, table))
    return targets, wrong


def _target(name: str, table: Mapping[str, Any]) -> Target:
    kinds, devices = table.get("kinds"), table.get("devices")
    return Target(
        name=name,
        url=table["url"],
        key=_key(table["secret"]) or b"" if "secret" in table else b"",
        severity=table.get("severity", SEVERITIES[0]),
        kinds=None if kinds is None else tuple(kinds),
        devices=None if devices is None else tuple(devices),
        link=table.get("link"),
        fleet_link=table.get("fleet_link"),
    )


def _wrong(table: Mapping[str, Any]) -> list[str]:
    """What is wrong with a target."""
    found = [
        f"there is no key {key}; they are {', '.join(sorted(KEYS))}" for key in table.keys() - KEYS
    ]
    found += _wrong_address(table)
    if table.get("severity", SEVERITIES[0]) not in SEVERITIES:
        found.append("severity has to be warning or critical")
    for key in ("kinds", "devices"):
        values = table.get(key)
        if key in table and not (
            isinstance(values, list)
            and 0 < len(values) <= 1000
            and all(isinstance(one, str) and 0 < len(one) <= 2000 for one in values)
        ):
            found.append(f"{key} has to be a list of texts, at least one")
    for key, places in (("link", PLACES), ("fleet_link", set[str]())):
        if key in table and not _is_link(table[key], places):
            named = ", ".join(f"{{{place}}}" for place in sorted(places)) or "nothing in braces"
            found.append(f"{key} has to be an address as https://..., in which may stand {named}")
    return found


def _wrong_address(table: Mapping[str, Any]) -> list[str]:
    url = table.get("url")
    if not isinstance(url, str) or not url:
        return ["it has no url"]
    parts = _split(url)
    if parts is None or not parts.scheme:
        return ["url is no address"]
    if parts.scheme.lower() not in ("http", "https"):
        if "secret" in table:
            return ["a secret signs webhooks alone: https://..."]
        why = channels.why_not(url)
        return [why] if why else []
    found = []
    if not parts.hostname or not url.isascii() or re.search(r"\s", url):
        found.append("url is no address")
    if parts.username is not None or parts.password is not None:
        found.append("url holds a user or a password: a receiver knows pyml by the signature")
    if "secret" not in table:
        found.append(f"a webhook needs a secret, which signs it: {NEW_SECRET}")
    elif _key(table["secret"]) is None:
        least, most = SECRET_BYTES
        found.append(f"secret has to be {least} to {most} bytes in base64: {NEW_SECRET}")
    return found


def _split(url: str) -> SplitResult | None:
    """An address in its parts; None where it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is looked at only now
    except ValueError:
        return None
    return parts


def _key(secret: Any) -> bytes | None:
    """The bytes of a secret; None where it is none."""
    if not isinstance(secret, str):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(SECRET), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1] else None


def _is_link(value: Any, places: set[str]) -> bool:
    if not isinstance(value, str) or not re.match(r"https?://\S+$", value):
        return False
    try:
        named = {name for _, name, form, how in Formatter().parse(value) if name is not None}
        plain = all(not form and not how for _, name, form, how in Formatter().parse(value))
    except ValueError:
        return False
    return plain and named <= places
