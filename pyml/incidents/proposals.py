"""An incident that is no fault -> the smallest rule that would have kept it and its like quiet.

Candidates go from narrow to broad. Each is tried on the incident's own findings, by the function
that scans go by; the first that keeps all of them quiet is proposed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pyml.detectors.wording import figures, of, step
from pyml.incidents.base import Found, Terms
from pyml.incidents.grouping import is_rare
from pyml.incidents.rules import BOTH, DOWN, UP, Rule, Said, deviations, left_of
from pyml.seconds import DAY
from pyml.telemetry.quiet import Window

# A floor lies so much above what was seen.
ABOVE = 1.1
# Days that a mute lasts: of metrics, of the whole device.
MUTED, DEAF = 30, 7
# What comes again came on so many other days, within so long of the same time of day; of each day
# in a week, or of one day of the week in four.
OTHER_DAYS, NEAR, WEEK, WEEKS = 2, timedelta(hours=1), 7, 28
# The steps in which a window of the day is cut, and its longest.
CUT, LONGEST = 900.0, 43_200.0


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a metric that findings name.

    Attributes
    ----------
    name : str
        In `ml_metric`.
    unit : str or None
    direction : str
    """

    name: str
    unit: str | None
    direction: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would have kept an incident quiet.

    Attributes
    ----------
    table : str
        `ml_rule` or `ml_quiet`.
    rows : list of dict
        JSON-able; columns beside the device and the reason, in each the same.
    words : str
        What is then no longer told.
    said : Said
        The same as scans would read it.
    """

    table: str
    rows: list[dict[str, Any]]
    words: str
    said: Said = field(repr=False)


@dataclass(frozen=True, slots=True)
class Case:
    """An incident's findings, and what its device is like.

    Attributes
    ----------
    told : list of Found
        Those that are told by themselves, and not kept quiet yet; each of one metric
        (`pyml.incidents.rules.parts`), or of the device.
    others : sequence of Found
        Of the same device, at other times.
    about : mapping of About
        By what findings call a metric; without those that `ml_metric` does not have.
    said : Said
        What people have said before.
    terms : Terms
    now : float
    zone : str
    """

    told: list[Found]
    others: Sequence[Found]
    about: Mapping[str, About]
    said: Said
    terms: Terms
    now: float
    zone: str

    @property
    def names(self) -> list[str]:
        """What the findings name."""
        return sorted(frozenset().union(*(one.metrics for one in self.told)))


def propose(case: Case) -> Proposal | None:
    """The narrowest proposal that keeps all findings quiet; None where nothing is told of them."""
    for proposal in _candidates(case) if case.told else ():
        said = Said(
            (*case.said.rules, *proposal.said.rules), (*case.said.windows, *proposal.said.windows)
        )
        if all(one.is_quiet for one in left_of(case.told, (), said, case.terms)):
            return proposal
    return None


def _candidates(case: Case) -> Iterator[Proposal]:
    known = list(dict.fromkeys(case.about[name] for name in case.names if name in case.about))
    if all(name in case.about for name in case.names):
        yield from _at_hours(case, known)
        # A floor far beyond all limits would hide much, both ways.
        far = any(one.severe for one in case.told)
        yield from (*_ways(case), *_floors(case)) if far else (*_floors(case), *_ways(case))
        yield _muted(case, known)
    elif case.names == [""]:
        yield from _at_hours(case, ())
    yield _muted(case, ())


def _muted(case: Case, known: Sequence[About]) -> Proposal:
    """A mute with an end, of some metrics, or of the device."""
    until = math.ceil(case.now / 3600) * 3600 + (MUTED if known else DEAF) * DAY
    what = _listed(known) if known else "the device, its silence included,"
    words = f"Until {_iso(until)[:16]} UTC nothing is told of {what} whatever happens."
    given = {"mute": True, "until": _iso(until)}
    rule = Rule(0, None, None, None, True, until)
    return _rules(case, known, given, rule, words)


def _ways(case: Case) -> Iterator[Proposal]:
    """The other way, where a metric has left the usual one way only, and both are told."""
    for way, other, told, not_told in (
        (UP, DOWN, "lower", "higher"),
        (DOWN, UP, "higher", "lower"),
    ):
        mine = [case.about[one.metric] for one in case.told]
        one_way = all(deviations(one).keys() == {way} for one in case.told)
        said_before = any(
            rule.direction not in (None, BOTH) and rule.covers(one.metric)
            for rule in case.said.rules
            for one in case.told
        )
        if one_way and not said_before and all(one.direction == BOTH for one in mine):
            known = sorted(set(mine), key=lambda one: one.name)
            words = (
                f"Of {_listed(known)} only what is {told} than usual is told; what is {not_told},"
                " by however much, no longer."
            )
            rule = Rule(0, None, other, None, False, math.inf)
            yield _rules(case, known, {"direction": other}, rule, words)


def _floors(case: Case) -> Iterator[Proposal]:
    """The least deviation, where it is known how far each metric was from the usual."""
    farthest: dict[About, float] = {}
    for one in case.told:
        about, sizes = case.about[one.metric], deviations(one)
        farthest[about] = max(farthest.get(about, 0.0), *(sizes or {"": math.inf}).values())
    if not all(map(math.isfinite, farthest.values())):
        return
    floors = {about: _rounded_up(ABOVE * size) for about, size in farthest.items()}
    words = []
    for about, floor in floors.items():
        least, was = figures(floor, farthest[about])
        unit = step(about.unit)
        words.append(
            f"{about.name} is told only from {of(least, unit)} above or below the usual on;"
            f" it was {of(was, unit)} away."
        )
    yield Proposal(
        "ml_rule",
        [{"metric": about.name, "least_deviation": floor} for about, floor in floors.items()],
        " ".join(words),
        Said(
            tuple(
                Rule(0, _called(case, about), None, floor, False, math.inf)
                for about, floor in floors.items()
            )
        ),
    )


def _at_hours(case: Case, known: Sequence[About]) -> Iterator[Proposal]:
    """A window of the day, where the like came at the same time of other days."""
    zone = ZoneInfo(case.zone)
    began = min(one.started_at for one in case.told)
    ended = max(one.last_at for one in case.told)
    day = datetime.fromtimestamp(began, zone)
    names, since, until = {*case.names}, began, ended
    dates = set()
    for one in case.others:
        if not (names & one.metrics and is_rare(one, case.terms.rare)):
            continue
        at = datetime.fromtimestamp(one.started_at, zone)
        # The same time of day, as the clock on the wall shows it.
        same = datetime.combine(at.date(), day.time(), zone)
        for there in (same - timedelta(days=1), same, same + timedelta(days=1)):
            apart = round((day.date() - there.date()) / timedelta(days=1))
            if apart and abs(apart) <= WEEKS and abs(at - there) <= NEAR:
                shift = began - there.timestamp()
                since, until = min(since, one.started_at + shift), max(until, one.last_at + shift)
                dates.add(apart)
    daily = sum(abs(apart) <= WEEK for apart in dates) >= OTHER_DAYS
    weekly = len(dates) >= OTHER_DAYS and all(apart % WEEK == 0 for apart in dates)
    since, until = (math.floor(since / CUT) - 1) * CUT, (math.ceil(until / CUT) + 1) * CUT
    if not (daily or weekly) or until - since > LONGEST:
        return
    repeat = "weekly" if weekly else "daily"
    first, last = (datetime.fromtimestamp(at, zone) for at in (since, until))
    each = f"Each {first:%A}" if weekly else "Each day"
    what = _listed(known) if known else "the device, its silence included,"
    words = (
        f"{each} from {first:%H:%M} to {last:%H:%M} ({case.zone}) nothing is told of"
        f" {what} and no training learns from it. The like came on {len(dates)} other days."
    )
    given = {
        "starts_at": _iso(since),
        "ends_at": _iso(until),
        "repeat": repeat,
        "zone": case.zone,
    }
    every: Sequence[About | None] = known or (None,)
    yield Proposal(
        "ml_quiet",
        [{"metric": about and about.name, **given} for about in every],
        words,
        Said((), tuple(Window(0, _called(case, about), since, until) for about in every)),
    )


def _rules(
    case: Case, known: Sequence[About], given: dict[str, Any], rule: Rule, words: str
) -> Proposal:
    """The same rule of each of some metrics; of the device where there are none."""
    every: Sequence[About | None] = known or (None,)
    return Proposal(
        "ml_rule",
        [{"metric": about and about.name, **given} for about in every],
        words,
        Said(tuple(replace(rule, names=_called(case, about)) for about in every)),
    )


def _called(case: Case, about: About | None) -> frozenset[str] | None:
    """What findings call a metric; None: all of them."""
    if about is None:
        return None
    return frozenset(name for name, own in case.about.items() if own == about)


def _listed(known: Sequence[About]) -> str:
    return " and ".join(one.name for one in known)


def _rounded_up(size: float) -> float:
    """To two digits."""
    if size <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(size)) - 1)
    return float(f"{math.ceil(size / unit) * unit:.3g}")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")
