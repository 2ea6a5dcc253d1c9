"""How far a device's metrics are from the trainings of its models, from scan to scan."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pyml.server.store import Current
from pyml.telemetry import drift
from pyml.telemetry.drift import Index
from pyml.telemetry.history import Floats


@dataclass(slots=True)
class Drift:
    """The metrics of each model in this scan, compared with its training."""

    threshold: float
    until: float
    before: Any  # of the last scan: by model_id, as `drift.observe` gives it
    seen: dict[str, drift.Seen] = field(default_factory=dict)
    drifted: list[int] = field(default_factory=list)

    def look(
        self, current: Current, names: Sequence[str], times: Floats, values: Floats
    ) -> dict[str, Index]:
        """The index and the limit of each of the model's metrics, times (n,), values (n, m)."""
        key, known = str(current.model_id), current.knows.reference
        before = self.before.get(key) if isinstance(self.before, dict) else None
        # What is not in the form that a scan writes is dropped, and counting begins anew.
        before = before if drift.is_seen(before, known, self.until) else None
        with current.in_use():
            seen = drift.observe(known, before, times, values)
            if seen is None:
                return {}
            self.seen[key] = seen
            judged, drifted = drift.judge(names, known, seen, self.threshold)
        if drifted:
            self.drifted.append(current.model_id)
        return judged
