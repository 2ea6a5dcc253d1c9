"""The incidents of one device, as a scan's findings make them: read, brought on, written."""

from typing import Any

from pyml import queries
from pyml.detectors.base import DETECTORS, Finder
from pyml.forms import parsed
from pyml.incidents.base import Change, Clock, Found, Incident, Terms
from pyml.incidents.lifecycle import step
from pyml.incidents.rules import hushed, left_of
from pyml.server import backend, capacity
from pyml.server.rules import put_kept, said_of

WEEK_HOURS = 168.0
# Critical is what comes once in a quarter of a year.
QUARTER_HOURS = 2190.0
# All has to be well for so long, and so many intervals, before trouble is over.
QUIET_SECONDS, QUIET_READINGS = 1800.0, 10.0
# Share of its readings that a metric has to lead for a run of anomalies to be of it, too.
OFTEN = 0.1


def terms_of(state: Any, interval: float = 0.0, memory: float = 0.0) -> Terms:
    """When to speak of a device, and when trouble of it is over.

    Each detector may speak as often as the device may be spoken of: what they say is joined, and
    each says that a thing is as common as the device or the fleet knows it (docs/incidents.md).
    """
    rare = WEEK_HOURS / float(state["false_alarms"])
    gap = max(QUIET_SECONDS, QUIET_READINGS * interval)
    return Terms(rare=rare, critical=max(QUARTER_HOURS, rare), gap=gap, memory=memory)


def bring_on(
    device: str,
    state: Any,
    first: float | None,
    clock: Clock,
    interval: float,
    memory: float,
    replayed: bool,
) -> None:
    """Write what a device's findings make of its incidents.

    Parameters
    ----------
    device : str
    state : mapping
        A row of `queries.SCAN_STATE`.
    first : float or None
        When the earliest of the findings began that have changed; None where none has.
    clock : Clock
    interval : float
        Seconds between the device's readings, usually.
    memory : float
        Seconds before it by which a single reading is judged.
    replayed : bool
        Whether the scan is of the past: nobody is told.
    """
    terms = terms_of(state, interval, memory)
    since = None if first is None else first - terms.gap
    incidents = [_incident(row) for row in backend.execute(queries.INCIDENTS, device, since)]
    if first is None and not incidents:
        return
    ids = [one.incident_id for one in incidents]
    rows = backend.execute(queries.INCIDENT_FINDINGS, device, since, ids)
    found = [found_of(row, device) for row in rows]
    said = said_of(device, state["rules"], found, clock.now)
    left = left_of(found, incidents, said, terms)
    put_kept(device, rows, found, left, terms.rare)
    told, quiet = (
        [one.found for one in left],
        [one.found.finding_id for one in left if one.is_quiet],
    )
    changes = step(incidents, told, clock, terms, quiet, hushed(told, said, clock.now))
    if changes:
        documents = backend.to_json([_stored(one) for one in changes])
        backend.execute(queries.PUT_INCIDENTS, device, clock.now, replayed, documents)


def _incident(row: Any) -> Incident:
    return Incident(
        incident_id=int(row["incident_id"]),
        kind=row["kind"],
        leading_metric=row["leading_metric"],
        state=row["state"],
        why=row["why"],
        critical=row["severity"] == "critical",
        started_at=float(row["started_at"]),
        ended_at=float(row["ended_at"]),
        opened_at=float(row["opened_at"]),
        resolved_at=row["resolved_at"],
        rarity=row["rarity"],
        summary=row["summary"],
        evidence=parsed(row["evidence"]) or {},
        members=tuple(row["members"] or ()),
    )


def found_of(row: Any, device: str) -> Found:
    """A row of `queries.INCIDENT_FINDINGS` of a device."""
    said = parsed(row["evidence"])
    evidence = said if isinstance(said, dict) else {}
    finder = DETECTORS.get(row["detector"])
    every = finder.every if isinstance(finder, Finder) else 0.0
    limits = row["detector"] == capacity.DETECTOR
    return Found(
        finding_id=int(row["finding_id"]),
        incident_id=row["incident_id"],
        detector=row["detector"],
        kind=row["kind"],
        metric=row["metric"],
        brief=row["brief"],
        metrics=_metrics(row["metric"], evidence.get("metrics")),
        started_at=float(row["started_at"]),
        last_at=float(row["last_at"]),
        every=capacity.EVERY if limits else every,
        phase=capacity.phase(device) if limits else 0.0,
        alone=limits,
        severe=row["severity"] == "critical",
        score=float(row["score"]),
        rarity=row["rarity"],
        evidence=evidence,
        sentence=row["sentence"],
    )


def _metrics(leading: str, counts: Any) -> frozenset[str]:
    """What a finding names: its metric, and those that lead often enough in a run."""
    if not isinstance(counts, dict):
        return frozenset({leading})
    least = OFTEN * sum(counts.values())
    return frozenset({leading, *(name for name, count in counts.items() if count >= least)})


def _stored(change: Change) -> dict[str, Any]:
    one = change.incident
    return {
        "incident_id": one.incident_id,
        "kind": one.kind,
        "state": one.state,
        "why": one.why,
        "severity": "critical" if one.critical else "warning",
        "leading_metric": one.leading_metric,
        "started_at": one.started_at,
        "ended_at": one.ended_at,
        "opened_at": one.opened_at,
        "resolved_at": one.resolved_at,
        "rarity": one.rarity,
        "summary": one.summary,
        "evidence": backend.shown(dict(one.evidence)),
        "members": list(one.members),
        "events": list(change.events),
    }
