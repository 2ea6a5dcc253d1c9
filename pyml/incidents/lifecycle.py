"""Incidents as they were, and findings as they are -> incidents as they are, and what happened.

One pure function, `step`. A finding that comes late moves an incident's begin; the same findings
again change nothing; severity never falls.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from pyml.incidents import words
from pyml.incidents.base import (
    ESCALATED,
    JOINED,
    OPEN,
    OPENED,
    OVER,
    RESOLVED,
    RULED,
    USUAL,
    Change,
    Clock,
    Found,
    Incident,
    Terms,
)
from pyml.incidents.grouping import Group, groups, is_rare

# What lasts becomes usual, but for these: nothing can be learned of what stands still or is gone,
# and a limit that nears is not usual.
NEVER_USUAL = ("stuck", "missing", "junk", "silent", "breach")


def step(
    incidents: Sequence[Incident],
    found: Sequence[Found],
    clock: Clock,
    terms: Terms,
    quiet: Collection[int] = (),
    hushed: Collection[int] = (),
) -> list[Change]:
    """The incidents of a device that have changed.

    Parameters
    ----------
    incidents : sequence of Incident
        As they are stored: all that are not resolved, and those that ended lately, without those
        that are part of another one.
    found : sequence of Found
        All findings of these, and those that may belong to them or make new ones.
    clock : Clock
    terms : Terms
    quiet : collection of int
        Findings that are not told, since people say so (`pyml.incidents.rules`).
    hushed : collection of int
        Findings of which nothing is told just now. An incident of theirs goes on, and that is all.

    Returns
    -------
    list of Change
        In the order in which the troubles began. Those without an event are brought up to date.
    """
    free, changes = list(found), []
    for one in incidents:
        if one.is_closed:
            mine = _belated(one, free, terms.gap)
            free = [each for each in free if each not in mine]
            changes.append(_prolonged(one, mine))
    known = {
        one.incident_id: one
        for one in incidents
        if one.incident_id is not None and not one.is_closed
    }
    ruled, free = _ruled(known, free, quiet, terms.rare)
    changes += [_resolved(known.pop(each), RULED, clock) for each in ruled]
    every = groups(free, terms.rare, terms.gap)
    every += _kept(known, every, free)
    left = dict(known)
    for group in sorted(every, key=lambda group: group.started_at):
        theirs = sorted({one.incident_id for one in group.members if one.incident_id in left})
        was = [left.pop(each) for each in theirs]
        hush = all(one.finding_id in hushed for one in group.members)
        changes.append(_told(was[0] if was else None, group, clock, terms, hush))
        changes += [_joined(one, was[0].incident_id, clock) for one in was[1:]]
    owners = {one.incident_id for one in free}
    changes += [_joined(one, None, clock) for key, one in left.items() if key in owners]
    before = {one.incident_id: one for one in incidents}
    return [
        one
        for one in sorted(changes, key=lambda one: one.incident.started_at)
        if one.events or one.incident != before.get(one.incident.incident_id)
    ]


def _ruled(
    known: Collection[int], found: Sequence[Found], quiet: Collection[int], rare: float
) -> tuple[list[int], list[Found]]:
    """Incidents of which nothing is left that would be told, and the findings that are not quiet.

    What is not rare prolongs an incident, and goes with what it prolonged.
    """
    ruled = []
    for each in known:
        own = [one for one in found if one.incident_id == each]
        left = [one for one in own if one.finding_id not in quiet]
        if len(left) < len(own) and not any(is_rare(one, rare) for one in left):
            ruled.append(each)
    return ruled, [
        one for one in found if one.finding_id not in quiet and one.incident_id not in ruled
    ]


def _resolved(incident: Incident, why: str, clock: Clock) -> Change:
    """An incident that ends; nothing happens to one that has ended."""
    if incident.state == RESOLVED:
        return Change(incident)
    ended = replace(incident, state=RESOLVED, why=why, resolved_at=clock.now)
    return Change(ended, (RESOLVED,))


def _belated(incident: Incident, found: Iterable[Found], gap: float) -> list[Found]:
    """What belongs to an incident that is closed: what is its own, or came late for it."""
    own = [one for one in found if one.incident_id == incident.incident_id]
    names = frozenset().union(*(one.metrics for one in own))
    until = min(incident.ended_at + gap, incident.resolved_at or incident.ended_at)
    return own + [
        one
        for one in found
        if one.incident_id is None
        and incident.started_at - gap <= one.last_at
        and one.started_at <= until
        and (one.brief or one.metrics & names)
    ]


def _prolonged(incident: Incident, members: Sequence[Found]) -> Change:
    """A closed incident whose findings go on; nobody is told."""
    return Change(
        replace(
            incident,
            started_at=min([incident.started_at, *(one.started_at for one in members)]),
            ended_at=max([incident.ended_at, *(one.last_at for one in members)]),
            members=_ids(members),
        )
    )


def _kept(known: Collection[int], every: Sequence[Group], found: Sequence[Found]) -> list[Group]:
    """Groups of incidents whose findings are no longer rare enough to be told anew."""
    placed = {one.finding_id for group in every for one in group.members}
    there = {one.incident_id for group in every for one in group.members}
    made: list[Group] = []
    for each in known:
        own = [one for one in found if one.incident_id == each and one.finding_id not in placed]
        if own and each not in there:
            made.append(Group(own))
    return made


def _told(was: Incident | None, group: Group, clock: Clock, terms: Terms, hushed: bool) -> Change:
    """An incident as its findings make it now; nothing happens to one that is `hushed`."""
    began, ended = group.started_at, group.last_at
    lead = words.leading(group.members)
    over = all(_is_over(one, clock, terms.gap) for one in group.members)
    usual = ended - began >= terms.usual_after and lead.kind not in NEVER_USUAL
    rarities = [one.rarity for one in group.members if one.rarity is not None]
    critical = _is_critical(group.members, terms)
    now = Incident(
        incident_id=was.incident_id if was else None,
        kind=lead.kind,
        leading_metric=lead.metric,
        state=was.state if was and was.state != RESOLVED else OPEN,
        why=None,
        critical=critical or (was is not None and was.critical),
        started_at=began,
        ended_at=ended,
        opened_at=was.opened_at if was else clock.now,
        resolved_at=None,
        rarity=max(rarities, default=None),
        summary="",
        evidence=words.evidence(lead, group.members),
        members=_ids(group.members),
    )
    events = [] if was and was.state != RESOLVED else [OPENED]
    if was and now.critical and not was.critical:
        events.append(ESCALATED)
    if over or usual:
        closes = was.resolved_at if was and was.state == RESOLVED else clock.now
        why = USUAL if usual else OVER
        now = replace(now, state=RESOLVED, why=why, resolved_at=closes)
        events = [] if was and was.state == RESOLVED else [*events, RESOLVED]
    if was and hushed:
        now = replace(now, critical=was.critical, state=was.state)
        now, events = replace(now, why=was.why, resolved_at=was.resolved_at), []
    summary = words.summary(lead, group.members, began, ended, over)
    return Change(replace(now, summary=summary), tuple(events))


def _is_over(one: Found, clock: Clock, gap: float) -> bool:
    """Whether all has been well for long enough, as readings since then show."""
    reached = clock.newest if one.alone else clock.reached
    if reached is None or reached <= one.last_at + gap:
        return False
    return not one.every or reached - (reached - one.phase) % one.every > one.last_at


def _is_critical(members: Iterable[Found], terms: Terms) -> bool:
    """Whether something comes so seldom, or is told and far beyond all limits.

    A short training cannot tell what comes once in months.
    """
    return any(
        (one.rarity or 0.0) >= terms.critical
        or (one.severe and (one.rarity is None or not one.brief) and is_rare(one, terms.rare))
        for one in members
    )


def _joined(incident: Incident, other: int | None, clock: Clock) -> Change:
    """An incident that turned out to be part of another one; None where those are several."""
    if incident.why == JOINED:
        return Change(incident)
    part_of = {} if other is None else {"part_of": other}
    evidence = {**incident.evidence, **part_of}
    now = replace(incident, state=RESOLVED, why=JOINED, evidence=evidence, members=())
    if incident.state == RESOLVED:
        return Change(now)
    return Change(replace(now, resolved_at=clock.now), (RESOLVED,))


def _ids(members: Iterable[Found]) -> tuple[int, ...]:
    return tuple(sorted(one.finding_id for one in members))
