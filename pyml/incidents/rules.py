"""What people say of a device -> which of its findings are not told.

A rule says that a metric is no trouble, or which way and from how far on it is. A quiet window
says when nothing is told. What they keep quiet stays a finding, and makes and prolongs no
incident.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pyml.incidents.base import Found, Incident, Terms
from pyml.telemetry.quiet import Window
from pyml.telemetry.series import Metric

UP, DOWN = "up", "down"
BOTH: Final = "both"
"""Which way of leaving the usual is trouble."""

# Kinds of reasons that tell which way, also where the value itself is usual at other hours.
WAYS = {
    "high": UP,
    "high for this hour": UP,
    "rose": UP,
    "low": DOWN,
    "low for this hour": DOWN,
    "fell": DOWN,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of `ml_rule` that is about a device.

    Attributes
    ----------
    rule_id : int
    names : frozenset of str or None
        What findings call its metric: its name, or its path; None: all of them.
    direction : str or None
    least : float or None
        What differs from the usual by less is no trouble; in the metric's unit.
    mute : bool
    until : float
        What is still seen after this is told; seconds since the Unix epoch.
    """

    rule_id: int
    names: frozenset[str] | None
    direction: str | None
    least: float | None
    mute: bool
    until: float

    def covers(self, name: str) -> bool:
        """Whether it is about a metric."""
        return self.names is None or name in self.names


@dataclass(frozen=True, slots=True)
class Said:
    """What people say of a device.

    Attributes
    ----------
    rules : tuple of Rule
        The broadest first: of several, the last one that says a thing decides.
    windows : tuple of Window
    """

    rules: tuple[Rule, ...] = ()
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """What keeps a finding quiet: a rule, or a window."""

    rule_id: int | None = None
    quiet_id: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a finding.

    Attributes
    ----------
    found : Found
        What is told of it; as it was, where all of it is quiet.
    kept : Kept or None
        What keeps the rest quiet; None where nothing does.
    is_quiet : bool
        Whether nothing is left.
    """

    found: Found
    kept: Kept | None = None
    is_quiet: bool = False


def parts(one: Found) -> list[Found]:
    """A run of anomalous readings as one finding for each metric that leads some of them.

    Each has the worst reading that its metric leads. Other findings are of one metric, or of the
    device.
    """
    worst = one.evidence.get("worst") if one.brief else None
    if not isinstance(worst, Mapping) or not worst:
        return [one]
    return [
        replace(
            one,
            metric=name,
            metrics=frozenset({name}),
            severe=bool(own["critical"]),
            score=float(own["score"]),
            rarity=own["rarity"],
            evidence={"readings": one.evidence.get("readings", 1), **own},
            sentence=str(own["reason"].get("sentence", "")),
        )
        for name, own in worst.items()
    ]


def left_of(
    found: Iterable[Found], incidents: Iterable[Incident], said: Said, terms: Terms
) -> list[Left]:
    """What is told of each of some findings.

    - A run that several metrics lead is told by those of them that are not quiet.
    - A rule with an end is about what is no longer seen after it.
    - A window is about what began and ended in it, and about runs whose worst reading is in it and
      which ended. Where an incident had been opened before the window began, it goes on.
    """
    opened = {one.incident_id: one.opened_at for one in incidents}
    return [_left(one, said, terms, opened.get(one.incident_id)) for one in found]


def _left(one: Found, said: Said, terms: Terms, opened: float | None) -> Left:
    every = [(part, _kept(part, said, terms, opened)) for part in parts(one)]
    told = [part for part, kept in every if kept is None]
    if len(told) == len(every):
        return Left(one)
    leads = [kept for part, kept in every if kept is not None and part.metric == one.metric]
    kept = [*leads, *(kept for _, kept in every if kept is not None)][0]
    if not told:
        return Left(one, kept, is_quiet=True)
    names = {part.metric for part in told}
    lead = one
    if leads:
        worst = max(told, key=lambda part: (part.rarity or -1.0, part.score, part.metric))
        lead = replace(worst, evidence={**one.evidence, **worst.evidence})
    return Left(replace(lead, metrics=one.metrics & names | {lead.metric}), kept)


def hushed(found: Iterable[Found], said: Said, now: float) -> set[int]:
    """The findings all of whose metrics are in a quiet window at the moment `now`."""
    here = [window for window in said.windows if window.since <= now < window.until]
    return {
        one.finding_id
        for one in found
        if all(any(window.covers(name) for window in here) for name in one.metrics)
    }


def _kept(one: Found, said: Said, terms: Terms, opened: float | None) -> Kept | None:
    """What keeps quiet a finding of one metric, or of the device."""
    return _by_window(one, said.windows, terms, opened) or _by_rule(one, said.rules)


def _by_window(
    one: Found, windows: Sequence[Window], terms: Terms, opened: float | None
) -> Kept | None:
    # When something began is known no better than what belongs together, and when it ended by the
    # next reading. Of a run the worst reading is told; those after a window are judged by those in
    # it.
    began, ended = one.started_at + terms.gap, one.ended_at - terms.gap / 10
    if one.brief:
        began, ended = float(one.evidence.get("at", one.started_at)), one.last_at - terms.memory
    for window in _joined(window for window in windows if window.covers(one.metric)):
        was_there = opened is not None and opened < window.since
        if window.since <= began and ended <= window.until and not was_there:
            return Kept(quiet_id=window.quiet_id)
    return None


def _joined(windows: Iterable[Window]) -> list[Window]:
    """Windows that touch, as one."""
    made: list[Window] = []
    for one in sorted(windows, key=lambda window: (window.since, window.until)):
        if made and one.since <= made[-1].until:
            last = made.pop()
            until = max(last.until, one.until)
            one = Window(last.quiet_id, last.names, last.since, until)
        made.append(one)
    return made


def _by_rule(one: Found, rules: Iterable[Rule]) -> Kept | None:
    mine = [rule for rule in rules if rule.covers(one.metric) and one.last_at <= rule.until]
    muted = [rule for rule in mine if rule.mute]
    if muted:
        return Kept(muted[-1].rule_id)
    sizes = deviations(one)
    ways = [rule for rule in mine if rule.direction is not None]
    if ways:
        way = ways[-1].direction
        wrong = {side: size for side, size in sizes.items() if way in (BOTH, side)}
        if sizes and not wrong:
            return Kept(ways[-1].rule_id)
        sizes = wrong
    floors = [rule for rule in mine if rule.least is not None]
    if floors and sizes and max(sizes.values()) < (floors[-1].least or 0.0):
        return Kept(floors[-1].rule_id)
    return None


def deviations(one: Found) -> dict[str, float]:
    """How far the metric of a finding has been from the usual at most, either way.

    Infinite where the way is known and not how far; empty where neither is: of what stands still,
    is gone, or is unusual only beside other metrics.
    """
    own: Mapping[str, Any] = one.evidence
    if not one.brief:
        sizes = {UP: _number(own.get("above")), DOWN: _number(own.get("below"))}
        return {side: size for side, size in sizes.items() if size}
    reason = own.get("reason")
    if not isinstance(reason, Mapping):
        return {}
    value, predicted = _number(reason.get("value")), _number(reason.get("predicted"))
    if value is not None and predicted is not None:
        return {UP if value > predicted else DOWN: abs(value - predicted)}
    way = WAYS.get(str(reason.get("kind")))
    if way is None:
        return {}
    end = _number(reason.get("usual_high" if way == UP else "usual_low"))
    beyond = 0.0 if value is None or end is None else value - end
    size = beyond if way == UP else -beyond
    return {way: size if size > 0 else float("inf")}


def overruled(metrics: Iterable[Metric], rules: Sequence[Rule]) -> tuple[Metric, ...]:
    """Metrics without what a rule says in its place: that is found, and then kept quiet."""
    return tuple(
        replace(
            metric,
            direction=BOTH if any(rule.direction for rule in mine) else metric.direction,
            least_deviation=None
            if any(rule.least is not None for rule in mine)
            else metric.least_deviation,
        )
        for metric in metrics
        for mine in ([rule for rule in rules if rule.covers(metric.name)],)
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
