"""Anomalous readings, one after the other -> findings: a run of them is one."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyml.detectors.base import CRITICAL, Finding, Reason

# Metrics of which a run keeps how many of its readings they lead.
MOST_METRICS = 50


@dataclass(frozen=True, slots=True)
class Run:
    """A finding that anomalous readings make.

    Attributes
    ----------
    finding : Finding
        Of kind `value` (one metric is where it never is), `combination` (each is as usual, not so
        together) or `forecast`, as the worst reading is. Evidence: how many ``readings``, how many
        ``critical`` ones, ``metrics`` (how many readings each leads), of the worst one ``at``, its
        ``score`` and its first ``reason``, and ``worst``: of each of these metrics the worst
        reading that it leads, with its ``at``, ``reason``, ``score``, ``rarity``, and whether it
        is ``critical``.
    rarity : float or None
        Hours between two readings like the worst.
    """

    finding: Finding
    rarity: float | None

    @classmethod
    def of_reading(
        cls,
        at: float,
        score: float,
        severity: int,
        reasons: Sequence[Reason],
        rarity: float | None,
    ) -> "Run":
        """That of one reading, whose score is lower the more anomalous it is."""
        first: Any = reasons[0] if reasons else {}
        metric, critical = str(first.get("metric", "")), severity == CRITICAL
        own = {"at": at, "reason": first, "score": -score}
        worst = own | {"rarity": rarity, "critical": critical}
        evidence = {
            "readings": 1,
            "critical": int(critical),
            "metrics": {metric: 1} if metric else {},
            "worst": {metric: worst} if metric else {},
            **own,
        }
        kind = {"together": "combination", "forecast": "forecast"}.get(first.get("kind"), "value")
        sentence = str(first.get("sentence", ""))
        return cls(Finding(kind, metric, at, at, severity, -score, evidence, sentence), rarity)

    def with_(self, other: "Run") -> "Run":
        """Both as one, where they have no reading in common; the worst reading speaks for it."""
        worst, less = (self, other) if self._bad() >= other._bad() else (other, self)
        a, b = worst.finding, less.finding
        metrics = Counter(a.evidence.get("metrics", {}))
        metrics.update(b.evidence.get("metrics", {}))
        counts = {
            name: a.evidence.get(name, 0) + b.evidence.get(name, 0)
            for name in ("readings", "critical")
        }
        kept = dict(sorted(metrics.items(), key=lambda one: (-one[1], one[0]))[:MOST_METRICS])
        ends = [one.evidence.get("worst", {}) for one in (a, b)]
        of_each = {
            name: max((end[name] for end in ends if name in end), key=_bad)
            for name in kept
            if any(name in end for end in ends)
        }
        return Run(
            replace(
                a,
                started_at=min(a.started_at, b.started_at),
                last_at=max(a.last_at, b.last_at),
                severity=max(a.severity, b.severity),
                score=max(a.score, b.score),
                evidence=a.evidence | counts | {"metrics": kept, "worst": of_each},
            ),
            worst.rarity,
        )

    def _bad(self) -> tuple[float, float, float]:
        one = self.finding
        at = one.evidence.get("at", one.started_at)
        # Of that reading, whose score need not be the run's greatest.
        score = one.evidence.get("score", one.score)
        return _bad({"rarity": self.rarity, "score": score, "at": at})


def _bad(one: Mapping[str, Any]) -> tuple[float, float, float]:
    """How bad a reading is, beside others; of several that are alike, the first."""
    return -1.0 if one["rarity"] is None else one["rarity"], one["score"], -one["at"]


def runs(every: Iterable[Run], gap: float) -> list[Run]:
    """Those that overlap or are nearer than `gap` seconds, as one; in order of time."""
    made: list[Run] = []
    for one in sorted(every, key=lambda one: one.finding.started_at):
        if made and one.finding.started_at <= made[-1].finding.last_at + gap:
            made[-1] = made[-1].with_(one)
        else:
            made.append(one)
    return made
