"""Findings that overlap or touch are one."""

from pyml.detectors.base import CRITICAL, WARNING, Finding
from pyml.detectors.joining import joined

GAP = 600.0
KINDS = ("level", "stuck", "drift")


def finding(first, last, kind="stuck", metric="a", severity=WARNING, score=1.0, **evidence):
    return Finding(kind, metric, first, last, severity, score, evidence)


def spans(found):
    return [(one.kind, one.metric, one.started_at, one.last_at) for one in found]


def test_one_that_overlaps_or_touches_is_the_same():
    for first in (500.0, 1000.0, 1600.0):
        (one,) = joined([finding(0.0, 1000.0)], [finding(first, 2000.0)], GAP, KINDS)
        assert (one.started_at, one.last_at) == (0.0, 2000.0)
    apart = joined([finding(0.0, 1000.0)], [finding(1601.0, 2000.0)], GAP, KINDS)
    assert spans(apart) == [("stuck", "a", 1601.0, 2000.0)]


def test_another_metric_is_another_finding():
    found = joined([finding(0.0, 1000.0, metric="b")], [finding(500.0, 1500.0)], GAP, KINDS)
    assert spans(found) == [("stuck", "a", 500.0, 1500.0)]


def test_the_kind_that_says_most_counts():
    for first, second in (("level", "drift"), ("drift", "level")):
        before, found = finding(0.0, 1000.0, kind=first), finding(500.0, 1500.0, kind=second)
        assert spans(joined([before], [found], GAP, KINDS)) == [("drift", "a", 0.0, 1500.0)]


def test_what_lies_between_two_joins_them():
    before = [finding(0.0, 1000.0), finding(4000.0, 5000.0)]
    (one,) = joined(before, [finding(1200.0, 3800.0)], GAP, KINDS)
    assert (one.started_at, one.last_at) == (0.0, 5000.0)


def test_the_worst_counts_and_the_newest_speaks():
    before = finding(0.0, 1000.0, severity=CRITICAL, score=9.0, value=1)
    (one,) = joined([before], [finding(500.0, 1500.0, score=2.0, value=2)], GAP, KINDS)
    assert (one.severity, one.score, one.evidence) == (CRITICAL, 9.0, {"value": 2})
    # What lies behind changes nothing but when it began.
    (one,) = joined([before], [finding(-500.0, 500.0, score=2.0, value=2)], GAP, KINDS)
    assert (one.started_at, one.severity, one.evidence) == (-500.0, CRITICAL, {"value": 1})
    # Of two that end alike the one that is found now.
    (one,) = joined([before], [finding(-500.0, 1000.0, value=2)], GAP, KINDS)
    assert one.evidence == {"value": 2}


def test_what_is_found_again_is_as_it_was():
    one = finding(0.0, 1000.0, value=1)
    assert joined([one], [finding(400.0, 1000.0, value=1)], GAP, KINDS) == [one]
    assert joined([one], [], GAP, KINDS) == []
