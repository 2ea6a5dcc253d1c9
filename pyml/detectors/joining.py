"""Findings of one trouble, as scans find them one after the other -> one finding."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pyml.detectors.base import Finding

Key = tuple[str, str]
"""Kind and metric."""


def joined(before: Iterable[Finding], found: Iterable[Finding], gap: float) -> list[Finding]:
    """Findings, each as one with those of its kind and metric that it overlaps or touches.

    Parameters
    ----------
    before : iterable of Finding
        What was found earlier.
    found : iterable of Finding
        What is found now.
    gap : float
        Seconds; nearer ones touch.

    Returns
    -------
    list of Finding
        Those that have one of `found` in them. What is newest speaks for all: of two that end
        alike, the one of `found`.
    """
    spans: dict[Key, list[tuple[Finding, bool]]] = {}
    for is_new, some in ((False, before), (True, found)):
        for one in some:
            spans.setdefault((one.kind, one.metric), []).append((one, is_new))
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
        told += [_one_of(group) for group in groups if any(is_new for _, is_new in group)]
    return told


def _one_of(group: Sequence[tuple[Finding, bool]]) -> Finding:
    """Findings as one; each comes with whether it is found now."""
    newest, _ = max(group, key=lambda pair: (pair[0].last_at, pair[1]))
    return replace(
        newest,
        started_at=min(one.started_at for one, _ in group),
        severity=max(one.severity for one, _ in group),
        score=max(one.score for one, _ in group),
    )
