"""Shadows: the current state of a device under a name, and how a message changes it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .messages import ENCODER, Message


def merged(state: Any, change: Any) -> Any:
    """A state after a change: objects deep, null deletes, all else takes the place of what was.

    References
    ----------
    RFC 7396, JSON Merge Patch.
    """
    if not isinstance(change, dict):
        return change
    result = dict(state) if isinstance(state, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@dataclass(slots=True)
class Shadow:
    """A row of ``device_shadows``; `text` is the state as JSON that PostgreSQL takes."""

    state: dict[str, Any] = field(default_factory=dict)
    text: str = "{}"
    version: int = 0
    at: datetime = datetime(1970, 1, 1)

    def take(self, message: Message, largest: int) -> str:
        """Merge what a message says; why not, if it is left as it is.

        Parameters
        ----------
        message : Message
        largest : int
            Bytes that the state may have.
        """
        if message.version <= self.version if message.version else message.ordered_at < self.at:
            return "older than the shadow"
        state = merged(self.state, message.state)
        text = ENCODER.encode(state)
        if len(text.encode()) > largest:
            return "shadow too large"
        self.state, self.text = state, text
        self.version = message.version or self.version
        self.at = max(self.at, message.ordered_at)
        return ""
