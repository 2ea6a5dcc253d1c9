"""How a device's signals are measured, from scan to scan: what the view ml_signals shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyml import queries
from pyml.forms import parsed
from pyml.server import backend
from pyml.server.scoring import Scored
from pyml.telemetry.day import Hours, Sight, counted, first_hour, is_hours, shares, sighted
from pyml.telemetry.history import History
from pyml.telemetry.readings import JUNK, MISSING, OUT_OF_RANGE, RESET


@dataclass(slots=True)
class SignalState:
    """The state of a device's signals.

    Attributes
    ----------
    before : mapping
        As the last scan left it: arrays by name, of `queries.SCAN_STATE`; empty where none has.
    names : tuple of str, length m
        The metrics.
    rhythm : list of float, length m
        Seconds.
    hours : list
    sights : list of Sight, length m, or None
        None where nothing is known of any of them.
    """

    before: Mapping[str, Any]
    names: tuple[str, ...] = ()
    rhythm: list[float] = field(default_factory=list)
    hours: Hours = field(default_factory=list)
    sights: list[Sight] | None = None

    @classmethod
    def of(cls, stored: str | None) -> "SignalState":
        """The state to go on from."""
        before = parsed(stored or "{}")
        return cls(before if isinstance(before, dict) else {})

    def look(self, scored: Scored, until: float) -> None:
        """Go on with the next piece of a window; it comes with what its first hour had before."""
        knows = scored.current.knows
        if not self.names:
            self.names = knows.names
            # To three digits: a minute is a minute, whatever the clocks' jitter.
            self.rhythm = [float(f"{habit.rhythm:.3g}") for habit in knows.habits]
            self._resume()
        readings, since = scored.readings, scored.since
        self.hours = counted(self.hours, readings, first_hour(since), until)
        self.sights = sighted(self.sights, readings, since) or self.sights

    def _resume(self) -> None:
        """Go on from the stored state, where a scan of these metrics has written it."""
        b, count = self.before, len(self.names)
        if b.get("metrics") != [*self.names] or not is_hours(b["hours"], count):
            return
        parts = (b["value"], b["at"], b["quality"], b["since"])
        if all(len(part) == count for part in parts):
            self.hours, self.sights = (
                b["hours"],
                [Sight(*each) for each in zip(*parts, strict=True)],
            )

    def put(self, history: History, device: str, now: float) -> None:
        """Store it, where there is something to store."""
        if self.sights is None:
            return
        messages, samples = shares(self.hours, len(self.names))
        counts = ([one[code] for one in samples] for code in (MISSING, OUT_OF_RANGE, JUNK, RESET))
        backend.execute(
            queries.PUT_SIGNALS,
            *(device, list(self.names), self.rhythm),
            [backend.shown(one.value) for one in self.sights],
            *([getattr(one, name) for one in self.sights] for name in ("at", "quality", "since")),
            *counts,
            *(messages, history.bad_clock(device, now), backend.to_json(self.hours)),
        )
