"""What became of the messages: counted, and told once a minute with an example of each."""

import logging
import time
from collections import Counter
from datetime import UTC, datetime

log = logging.getLogger(__package__)

EVERY = 60.0  # seconds
LONGEST = 200  # characters of an example


class Ledger:
    """Counts of messages since they were told last."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._devices: set[object] = set()
        self._lag = 0.0
        self._told = time.monotonic()

    def stored(self, count: int, devices: set[object], newest: datetime) -> None:
        """Count what is in the history, of which devices, and the time of the newest of it."""
        self._counts["stored"] += count
        self._devices |= devices
        self._lag = (datetime.now(UTC).replace(tzinfo=None) - newest).total_seconds()

    def count(self, why: str, example: str) -> None:
        """Count a message that was not taken, or is odd."""
        self._counts[why] += 1
        self._examples.setdefault(why, example[:LONGEST])

    def tell(self, now: bool = False) -> None:
        """Log the counts, if it is time, and begin anew."""
        if not now and time.monotonic() - self._told < EVERY:
            return
        if stored := self._counts.pop("stored", 0):
            log.info(
                "stored %d messages of %d devices in %.0f s; the newest is %.1f s behind",
                *(stored, len(self._devices), time.monotonic() - self._told, self._lag),
            )
        for why, count in self._counts.most_common():
            log.warning("%s: %d, such as %s", why, count, self._examples[why])
        self._begin()
