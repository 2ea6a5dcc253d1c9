"""Findings of one device -> those of one trouble together.

What is said depends on the set of findings alone, not on the order in which they came.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pyml.incidents.base import Found


class Span(Protocol):
    """What has a begin and an end; seconds since the Unix epoch."""

    @property
    def started_at(self) -> float: ...  # noqa: D102

    @property
    def last_at(self) -> float: ...  # noqa: D102


@dataclass(slots=True, eq=False)
class Group:
    """Findings of one trouble."""

    members: list[Found] = field(default_factory=list)

    @property
    def started_at(self) -> float:
        """When the trouble began."""
        return min(one.started_at for one in self.members)

    @property
    def last_at(self) -> float:
        """When it was last seen."""
        return max(one.last_at for one in self.members)

    @property
    def metrics(self) -> frozenset[str]:
        """All that its findings name."""
        return frozenset().union(*(one.metrics for one in self.members))


def is_rare(one: Found, rare: float) -> bool:
    """Whether a finding is told by itself.

    Where it is not known how often it comes, its detector's own word counts.
    """
    if one.rarity is None:
        return one.severe or not one.brief
    return one.rarity >= rare


def groups(found: Iterable[Found], rare: float, gap: float) -> list[Group]:
    """Those troubles of which something is rare enough to be told.

    - What is said of how metrics go on is one trouble where it is one metric and the spans touch,
      or where it began together: one cause.
    - Single readings belong to such a trouble if they name its metric, or came after it began:
      a detector that looks at all metrics goes on seeing it. Else those that touch are one.
    - What is not rare begins nothing. How a metric goes on belongs to what touches it and has that
      metric. Single readings belong to what they lie within and prolong nothing: a young device
      has some at any time, and what waited for their end would never be over.

    Parameters
    ----------
    found : iterable of Found
    rare : float
        Hours.
    gap : float
        Seconds.

    Returns
    -------
    list of Group
        In the order in which they began; no finding is in two.
    """
    ordered = sorted(found, key=lambda one: one.order)
    rarely = [one for one in ordered if is_rare(one, rare)]
    often = [one for one in ordered if not is_rare(one, rare)]

    def one_cause(a: Found, b: Found) -> bool:
        # What a silent device said after all is no part of its silence.
        together = a.metric != "" != b.metric and abs(a.started_at - b.started_at) <= gap
        return together or (a.metric == b.metric and _touch(a, b, gap))

    troubles = _components([one for one in rarely if not one.brief], one_cause)
    brief = _components([one for one in rarely if one.brief], lambda a, b: _touch(a, b, gap))
    alone = [group for group in brief if not _given(group, troubles, gap)]
    every = sorted([*troubles, *alone], key=lambda group: group.members[0].order)
    for one in sorted(often, key=lambda one: (one.brief, one.order)):
        for group in every:
            goes_on = one.metric in group.metrics and _touch(group, one, gap)
            if _within(group, one) if one.brief else goes_on:
                group.members.append(one)
                break
    return every


def _given(group: Group, troubles: Sequence[Group], gap: float) -> bool:
    """Whether single readings belong to one of the troubles, to which they are then added."""
    began, names = group.started_at, group.metrics
    near = [trouble for trouble in troubles if _touch(trouble, group, gap)]
    named = [trouble for trouble in near if trouble.metrics & names]
    after = [one for one in near if one.metrics != {""} and began >= one.started_at - gap]
    for trouble in named or after:
        trouble.members += group.members
        return True
    return False


def _within(group: Group, one: Found) -> bool:
    """Whether single readings lie within a trouble; what a silent device said is no part of it."""
    inside = group.started_at <= one.started_at and one.last_at <= group.last_at
    return inside and group.metrics != {""}


def _touch(a: Span, b: Span, gap: float) -> bool:
    """Whether they overlap, or are no farther apart than `gap`."""
    return a.started_at <= b.last_at + gap and b.started_at <= a.last_at + gap


def _components(found: Sequence[Found], related: Callable[[Found, Found], bool]) -> list[Group]:
    """Findings that are related, directly or by way of others, together."""
    made: list[Group] = []
    for one in found:
        mine = [group for group in made if any(related(one, other) for other in group.members)]
        joined = Group([*(other for group in mine for other in group.members), one])
        joined.members.sort(key=lambda other: other.order)
        made = [group for group in made if group not in mine] + [joined]
    return made
