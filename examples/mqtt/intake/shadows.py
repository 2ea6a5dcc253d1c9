"""Shadows: the current state of a device under a name, and how a message changes it."""

from dataclasses import dataclass
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
    """A row of ``device_shadows``; as JSON, the state has `size` bytes at most."""

    state: dict[str, Any]
    size: int
    version: int
    at: datetime

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
        size = self.size + len(message.text.encode())
        if size > largest:
            size = len(ENCODER.encode(state).encode())
            if size > largest:
                return "shadow too large"
        self.state, self.size = state, size
        self.version = message.version or self.version
        self.at = max(self.at, message.ordered_at)
        return ""
