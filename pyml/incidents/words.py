"""What an incident is called, in a sentence: what, from what to what, since when, what else."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pyml.detectors.wording import lasting, moment
from pyml.incidents.base import KINDS, Found

# Findings that an incident's evidence lists, and metrics that its sentence names beside the first.
LISTED, NAMED = 20, 3


def leading(members: Iterable[Found]) -> Found:
    """The finding that says best what the trouble is: of the most specific kind, the rarest."""

    def telling(one: Found) -> tuple[int, float, float, str]:
        place = KINDS.index(one.kind) if one.kind in KINDS else 0
        return place, one.rarity or 0.0, -one.started_at, one.metric

    return max(members, key=telling)


def summary(lead: Found, members: Sequence[Found], began: float, ended: float, over: bool) -> str:
    """The trouble in words for a person. No score is in it.

    Parameters
    ----------
    lead : Found
        What says best what it is; its sentence is the first of the summary.
    members : sequence of Found
    began, ended : float
        When the trouble began and was last seen; seconds since the Unix epoch.
    over : bool
        Whether it is over.
    """
    since = moment(began, ended)
    said = lead.sentence
    if lead.brief:
        lone = began == ended
        when = f"at {since}" if lone else f"from {since} on"
        if over and not lone:
            when = f"from {since} to {moment(ended, ended)}"
        said = f"{when}: {said}"
    also = others(lead, members)
    if also:
        more = len(also) - NAMED
        names = ", ".join(also[:NAMED]) + (f" and {more} more" if more > 0 else "")
        said += f". Also unusual: {names}"
    if over and not lead.brief:
        last = lead.ended_at
        said += f". Over since {moment(last, ended)}, after {lasting(last - lead.started_at)}"
    return said


def others(lead: Found, members: Iterable[Found]) -> list[str]:
    """The other metrics that an incident's findings lead with, in order of their names."""
    return sorted({one.metric for one in members} - {lead.metric, ""})


def evidence(lead: Found, members: Sequence[Found]) -> dict[str, Any]:
    """What makes the case, for pages; JSON-able.

    Returns
    -------
    dict
        ``detector`` and ``evidence`` of the leading finding; ``metrics`` that are named; who spoke
        (``detectors``), how many ``readings`` were anomalies, and their ``worst_score``, of a
        detector where one spoke; the ``findings``, first the earliest, `LISTED` at most.
    """
    ordered = sorted(members, key=lambda one: one.order)
    brief = [one for one in ordered if one.brief]
    judged = [one for one in brief if one.kind != "forecast"] or brief
    return {
        "detectors": sorted({one.detector for one in ordered}),
        "readings": sum(one.evidence.get("readings", 0) for one in brief),
        "worst_score": -max(one.score for one in judged) if judged else None,
        "detector": lead.detector,
        "evidence": dict(lead.evidence),
        "metrics": sorted(frozenset().union(*(one.metrics for one in members)) - {""}),
        "findings": [_listed(one) for one in ordered[:LISTED]],
        "findings_in_all": len(ordered),
    }


def _listed(one: Found) -> Mapping[str, Any]:
    return {
        "detector": one.detector,
        "kind": one.kind,
        "metric": one.metric or None,
        "started_at": _iso(one.started_at),
        "last_at": _iso(one.last_at),
        "rarity": one.rarity,
        "sentence": one.sentence,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
