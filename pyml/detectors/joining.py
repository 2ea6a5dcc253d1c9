"""Findings of one trouble, as scans find them one after the other -> one finding."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pyml.detectors.base import Finding

# Numbers of the evidence that are of all that was found, and not of the newest.
FARTHEST = ("above", "below")


def joined(
    before: Iterable[Finding], found: Iterable[Finding], gap: float, kinds: Sequence[str]
) -> list[Finding]:
    """Findings of a detector, each as one with those of its metric that it overlaps or touches.

    Parameters
    ----------
    before : iterable of Finding
        What was found earlier.
    found : iterable of Finding
        What is found now.
    gap : float
        Seconds; nearer ones touch.
    kinds : sequence of str
        Those of the detector. Of several the last is what is wrong.

    Returns
    -------
    list of Finding
        Those that have one of `found` in them. What is newest speaks for all: of two that end
        alike, the one of `found`.
    """
    spans: dict[str, list[tuple[Finding, bool]]] = {}
    for is_new, some in ((False, before), (True, found)):
        for one in some:
            spans.setdefault(one.metric, []).append((one, is_new))
    told: list[Finding] = []
    for each in spans.values():
        each.sort(key=lambda pair: pair[0].started_at)
        groups = [[each[0]]]
        until = each[0][0].last_at
        for pair in each[1:]:
            if pair[0].started_at > until + gap:
                groups.append([])
            groups[-1].append(pair)
            until = max(until, pair[0].last_at)
        told += [_one_of(group, kinds) for group in groups if any(is_new for _, is_new in group)]
    return told


def _one_of(group: Sequence[tuple[Finding, bool]], kinds: Sequence[str]) -> Finding:
    """Findings as one; each comes with whether it is found now."""
    newest, _ = max(group, key=lambda pair: (pair[0].last_at, pair[1]))
    # The further a drift has gone the better it is seen when it began.
    seen = [pair for pair in group if pair[0].evidence.get("began_at") is not None]
    told = max(seen, key=lambda pair: (pair[0].last_at, pair[1]), default=None)
    began = None if told is None else told[0].evidence["began_at"]
    known: dict[str, Any] = {} if began is None else {"began_at": began}
    for side in FARTHEST:
        if side in newest.evidence:
            known[side] = max(one.evidence.get(side, 0.0) for one, _ in group)
    return replace(
        newest,
        kind=max((one.kind for one, _ in group), key=kinds.index),
        started_at=min(one.started_at for one, _ in group) if began is None else began,
        severity=max(one.severity for one, _ in group),
        score=max(one.score for one, _ in group),
        evidence=newest.evidence | known,
    )
