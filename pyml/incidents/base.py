"""What incidents are made of: findings as they are stored, incidents, events."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyml.seconds import DAY

KINDS = (
    "combination",
    "value",
    "forecast",
    "level",
    "drift",
    "breach",
    "stuck",
    "missing",
    "junk",
    "silent",
)
"""Kinds of findings, the most specific last: of several that is what an incident is."""

OPEN, RESOLVED = "open", "resolved"
"""States; between them a person may say `acknowledged`."""

OPENED, ESCALATED = "opened", "escalated"
"""Events, beside `RESOLVED` and what a person says."""

OVER, USUAL, JOINED, RULED = "over", "became usual", "joined", "a rule"
"""Why an incident is resolved; also by a person, and as its device is retired."""


@dataclass(frozen=True, slots=True)
class Found:
    """A stored finding.

    Attributes
    ----------
    finding_id : int
    incident_id : int or None
        The incident that it belongs to.
    detector, kind, metric : str
        `metric` is empty where it is the device.
    brief : bool
        It is of single readings (of a detector that judges them, or of a forecast), not of how
        one metric goes on.
    metrics : frozenset of str
        All that it names.
    started_at, last_at : float
        Seconds since the Unix epoch.
    every : float
        Seconds from one look that brings it up to date to the next; 0: each does.
    severe : bool
        Whether its detector calls it critical.
    score : float
        In its detector's own measure; higher is more unusual.
    rarity : float or None
        Hours between two such on ordinary days; None where not known.
    evidence : mapping
    sentence : str
    phase : float
        Seconds since the Unix epoch at which one of the looks of `every` falls due.
    alone : bool
        Whether it is looked at without a model, so that it need not wait for what has one.
    """

    finding_id: int
    incident_id: int | None
    detector: str
    kind: str
    metric: str
    brief: bool
    metrics: frozenset[str]
    started_at: float
    last_at: float
    every: float
    severe: bool
    score: float
    rarity: float | None
    evidence: Mapping[str, Any]
    sentence: str
    phase: float = 0.0
    alone: bool = False

    @property
    def order(self) -> tuple[float, str, str, float]:
        """Its place among others; the same whatever the order in which they came."""
        return self.started_at, self.detector, self.metric, self.last_at

    @property
    def ended_at(self) -> float:
        """When it was last there; a window goes on showing for a while what has gone from it."""
        return min(float(self.evidence.get("seen_at") or self.last_at), self.last_at)


@dataclass(frozen=True, slots=True)
class Incident:
    """Trouble of a device.

    Attributes
    ----------
    incident_id : int or None
        None before it is stored.
    kind, leading_metric : str
    state : str
        `OPEN`, `acknowledged` or `RESOLVED`.
    why : str or None
        Why it is resolved.
    critical : bool
    started_at, ended_at : float
        When the trouble began, and when it was last seen; seconds since the Unix epoch.
    opened_at, resolved_at : float or None
        When it could be told, and when it was found to be over.
    rarity : float or None
        That of its rarest finding, in hours.
    summary : str
    evidence : mapping
        JSON-able.
    members : tuple of int
        The findings that it is made of.
    """

    incident_id: int | None
    kind: str
    leading_metric: str
    state: str
    why: str | None
    critical: bool
    started_at: float
    ended_at: float
    opened_at: float
    resolved_at: float | None
    rarity: float | None
    summary: str
    evidence: Mapping[str, Any]
    members: tuple[int, ...]

    @property
    def is_closed(self) -> bool:
        """Whether it stays resolved, whatever is found of it."""
        return self.state == RESOLVED and self.why not in (OVER, RULED)


@dataclass(frozen=True, slots=True)
class Change:
    """An incident as it is now, and what happened to it.

    Attributes
    ----------
    incident : Incident
    events : tuple of str
        `OPENED`, `ESCALATED`, `RESOLVED`; in that order.
    """

    incident: Incident
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """When to speak, and when trouble is over.

    Attributes
    ----------
    rare : float
        Hours between two findings from which on they are told.
    critical : float
        Hours from which on they are critical.
    gap : float
        Seconds for which all has to be well before trouble is over. What is nearer is one trouble.
    memory : float
        Seconds before it by which a single reading is judged.
    usual_after : float
        Seconds after which trouble that lasts is how things are.
    """

    rare: float
    critical: float
    gap: float
    memory: float = 0.0
    usual_after: float = 3 * DAY


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a scan stands; seconds since the Unix epoch.

    Attributes
    ----------
    now : float
    reached : float or None
        The newest reading that was looked at.
    newest : float or None
        The newest that there is; without a model none is looked at.
    """

    now: float
    reached: float | None
    newest: float | None = None
