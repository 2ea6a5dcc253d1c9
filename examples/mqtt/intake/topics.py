"""Topics: from a pattern to a filter of MQTT's, and from a topic to a device and a shadow."""

import hashlib
import re
import uuid

PLACES = ("device", "shadow")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
LONGEST = 255  # characters of a name, as in the tables


class Topic:
    """A pattern of topics, such as ``iot/device/{device}/state``.

    Parameters
    ----------
    pattern : str
        A level is ``{device}``, ``{shadow}``, ``+`` or as it is; the last may be ``#``.
    shadow : str
        The shadow's name where the pattern has no ``{shadow}``.

    Raises
    ------
    ValueError
        If it is no such pattern.

    Attributes
    ----------
    filter : str
        What to subscribe to.
    """

    def __init__(self, pattern: str, shadow: str) -> None:
        levels = pattern.split("/")
        self.shadow = shadow
        if levels.count("{device}") != 1 or levels.count("{shadow}") > 1:
            raise ValueError(f"{pattern!r} needs one level {{device}}, and {{shadow}} once at most")
        if "#" in levels[:-1] or any(
            set(level) & set("+#{}") and level not in ("+", "#", "{device}", "{shadow}")
            for level in levels
        ):
            raise ValueError(
                f"{pattern!r} has a level that is not a whole +, #, {{device}} or {{shadow}}"
            )
        self.filter = "/".join("+" if level.startswith("{") else level for level in levels)
        forms = {
            "{device}": "(?P<device>[^/]+)",
            "{shadow}": "(?P<shadow>[^/]+)",
            "+": "[^/]*",
            "#": ".*",
        }
        self._form = re.compile("/".join(forms.get(level, re.escape(level)) for level in levels))

    def match(self, topic: str) -> tuple[str, str] | None:
        """The device's id and the shadow's name that a topic says, or None."""
        found = self._form.fullmatch(topic)
        if not found:
            return None
        named = {"shadow": self.shadow, **found.groupdict()}
        if max(map(len, named.values())) > LONGEST:
            return None
        return named["device"], named["shadow"]


def device_uuid(device: str) -> uuid.UUID:
    """The uuid by which the tables know a device, as pyml makes it of an id that is none."""
    if UUID.fullmatch(device):
        return uuid.UUID(device)
    return uuid.UUID(hashlib.md5(f"pyml/{device}".encode(), usedforsecurity=False).hexdigest())
