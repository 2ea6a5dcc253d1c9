"""The rows of a device that came late and are to be scanned: from the notes, or by counting."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyml import queries
from pyml.seconds import HOUR
from pyml.server import backend
from pyml.telemetry import late
from pyml.telemetry.history import Floats, History


@dataclass(slots=True)
class Late:
    """Where rows lie that came after newer ones had been scanned.

    Attributes
    ----------
    span : (float, float) or None
        From the first to the last of them, in seconds since the Unix epoch.
    note : int or None
        The number of the last note about them, which a scan takes away.
    counts : late.Counts or None
        The rows of each hour that scans have looked at, where late rows are found by counting.
    counted_at : float or None
        When they were last compared.
    """

    span: tuple[float, float] | None
    note: int | None
    counts: late.Counts | None = None
    counted_at: float | None = None

    @classmethod
    def of(cls, state: Any, history: History, device: str, until: float, counted: bool) -> "Late":
        """From a row of `queries.SCAN_STATE`; where rows are `counted`, once an hour."""
        found = cls(None, state["late_id"])
        if found.note is not None:
            found.span = state["late_first"], state["late_last"]
        if not counted or state["counted_to"] is None:
            return found
        rows = np.array(state["hour_rows"], np.int64)
        before = late.Counts(float(state["counted_to"]), rows)
        found.counts, found.counted_at = before, float(state["counted_at"])
        if until - found.counted_at >= HOUR:
            now = _counted(history, device, before.until)
            span = before.late(now)
            found.counts, found.counted_at = now, until
            noted = backend.execute(
                queries.PUT_COUNTS, device, now.rows.tolist(), until, *(span or (None, None))
            )
            if span is not None:
                found.note = noted[0]["late_id"]
                known = found.span or span
                found.span = min(known[0], span[0]), max(known[1], span[1])
        return found

    def seen(self, history: History, device: str, times: Floats, up_to: float, now: float) -> None:
        """Count the rows of a scan, of times (n,), that no later scan looks at again."""
        if self.counts is None:
            self.counts, self.counted_at = _counted(history, device, up_to), now
        elif up_to > self.counts.until:
            self.counts = self.counts.and_then(times, up_to)


def _counted(history: History, device: str, until: float) -> late.Counts:
    since = late.counted(np.empty(0), until).since
    # A window begins after its first moment.
    return late.counted(history.arrivals(device, since - 1, until), until)
