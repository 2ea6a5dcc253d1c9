"""The life of incidents, whatever findings come, and in whatever order."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.incidents.base import Clock, Found, Incident, Terms
from pyml.incidents.lifecycle import step

MINUTE, HOUR = 60.0, 3600.0
TERMS = Terms(rare=168.0, critical=2190.0, gap=30 * MINUTE)
NEVER = 1e12


def finding(number, start, end, metric="cpu", kind="level", rarity=500.0, **more):
    """One whose times are in minutes."""
    brief = kind in ("value", "combination", "forecast")
    given_ = {
        "finding_id": number,
        "incident_id": None,
        "detector": "forest" if brief else "level",
        "kind": kind,
        "metric": metric,
        "brief": brief,
        "metrics": frozenset({metric}),
        "started_at": start * MINUTE,
        "last_at": end * MINUTE,
        "every": 0.0,
        "severe": False,
        "score": 1.0,
        "rarity": rarity,
        "evidence": {},
        "sentence": f"{metric} is odd",
    }
    return Found(**given_ | more)


class Device:
    """What a database keeps of one device: findings, incidents, and what was told."""

    def __init__(self, terms=TERMS):
        self.terms, self.incidents, self.found, self.told = terms, {}, {}, []

    def scan(self, found=(), minute=0.0):
        """A scan that found something, and has read up to a minute."""
        for one in found:
            kept = self.found.get(one.finding_id)
            owner = kept.incident_id if kept else None
            self.found[one.finding_id] = replace(one, incident_id=owner)
        reached = minute * MINUTE
        clock = Clock(now=reached, reached=reached)
        changes = step(self.real, list(self.found.values()), clock, self.terms)
        for change in changes:
            incident = change.incident
            if incident.incident_id is None:
                incident = replace(incident, incident_id=len(self.incidents) + 1)
            self.incidents[incident.incident_id] = incident
            for number in incident.members:
                self.found[number] = replace(self.found[number], incident_id=incident.incident_id)
            self.told += [(incident.incident_id, event) for event in change.events]
        return changes

    @property
    def real(self):
        """The incidents that are no part of others, the first first."""
        found = [one for one in self.incidents.values() if one.why != "joined"]
        return sorted(found, key=lambda one: (one.started_at, one.ended_at, one.leading_metric))


def shown(incident: Incident):
    return (
        incident.kind,
        incident.leading_metric,
        incident.started_at,
        incident.ended_at,
        incident.members,
    )


def test_a_rare_finding_opens_and_wellness_closes():
    device = Device()
    device.scan([finding(1, 0, 10)], 10)
    assert device.told == [(1, "opened")]
    device.scan([finding(1, 0, 60)], 60)
    device.scan((), 85)
    assert device.real[0].state == "open"
    device.scan((), 91)
    assert device.told == [(1, "opened"), (1, "resolved")]
    [one] = device.real
    assert (one.state, one.why, one.started_at, one.ended_at) == ("resolved", "over", 0, 3600)
    assert one.summary == "cpu is odd. Over since 01:00 UTC, after 1 h"


def test_what_is_looked_at_hourly_is_not_over_before_the_next_look():
    device = Device()
    seen = finding(1, 0, 61, every=HOUR)
    device.scan([seen], 62)
    device.scan((), 119)
    assert device.real[0].state == "open"
    device.scan((), 120.5)
    assert device.real[0].state == "resolved"


def test_what_is_not_rare_is_not_told():
    device = Device()
    device.scan([finding(1, 0, 10, rarity=20.0)], 60)
    assert not device.incidents


def test_where_nothing_is_known_of_rarity_the_detector_s_word_counts():
    device = Device()
    device.scan([finding(1, 0, 5, kind="value", rarity=None)], 5)
    assert not device.incidents
    device.scan([finding(2, 200, 205, kind="value", rarity=None, severe=True)], 205)
    assert device.real[0].critical


def test_one_incident_whatever_detectors_take_part():
    """A sensor hangs: first single readings are odd, then it is seen to stand still."""
    device = Device()
    device.scan([finding(1, 20, 30, "temperature", "combination")], 30)
    assert device.real[0].kind == "combination"
    stuck = finding(2, 0, 60, "temperature", "stuck", detector="stuck")
    device.scan([stuck, finding(3, 50, 55, "cpu", "value")], 60)
    [one] = device.real
    assert (one.incident_id, one.kind, one.started_at) == (1, "stuck", 0.0)
    assert one.evidence["findings_in_all"] == 3
    assert device.told == [(1, "opened")]
    assert "Also unusual: cpu" in one.summary


def test_two_metrics_are_two_troubles_unless_they_began_together():
    device = Device()
    device.scan([finding(1, 0, 300), finding(2, 200, 300, "memory")], 300)
    assert len(device.real) == 2
    other = Device()
    other.scan([finding(1, 0, 300), finding(2, 10, 300, "memory")], 300)
    assert len(other.real) == 1


def test_what_a_silent_device_sent_late_is_no_part_of_its_silence():
    device = Device()
    device.scan([finding(1, 0, 400, "", "silent", detector="presence")], 0)
    late = [finding(2, 10, 60), finding(3, 12, 50, kind="value")]
    device.scan([*late, finding(4, 200, 230, "memory", "value")], 400)
    assert [one.members for one in device.real] == [(1,), (2, 3), (4,)]


def test_it_escalates_once_and_never_falls_back():
    device = Device()
    device.scan([finding(1, 0, 10)], 10)
    device.scan([finding(1, 0, 20, rarity=3000.0)], 20)
    device.scan([finding(1, 0, 30, rarity=400.0)], 30)
    device.scan([finding(1, 0, 40, rarity=9000.0)], 40)
    assert device.told == [(1, "opened"), (1, "escalated")]
    assert device.real[0].critical


def test_weak_readings_neither_begin_nor_prolong_but_are_part_of_what_they_lie_within():
    device = Device()
    weak = [finding(i, *span, kind="value", rarity=3.0) for i, *span in ((1, 0, 5), (3, 22, 24))]
    device.scan([*weak, finding(2, 20, 25, kind="value")], 25)
    # Of a metric that goes on, also what is no longer rare: it is not back.
    device.scan([finding(4, 20, 40), finding(5, 45, 70, rarity=3.0)], 70)
    # A young device has some at any time.
    for minute in range(71, 180, 10):
        some = finding(6 + minute, minute, minute + 5, kind="value", rarity=160.0)
        device.scan([some], minute + 5)
    [one] = device.real
    assert (one.started_at, one.ended_at, one.members) == (20 * MINUTE, 70 * MINUTE, (2, 3, 4, 5))
    assert (one.state, one.resolved_at) == ("resolved", 106 * MINUTE)


def test_a_silent_device_s_trouble_is_not_over():
    device = Device()
    device.scan([finding(1, 0, 10)], 10)
    for _ in range(9):
        device.scan((), 10)
    assert device.real[0].state == "open"


def test_what_lasts_three_days_became_usual_and_is_not_told_again():
    device = Device()
    for hour in range(1, 100):
        device.scan([finding(1, 0, 60 * hour)], 60 * hour)
    [one] = device.real
    assert (one.state, one.why, one.ended_at) == ("resolved", "became usual", 99 * HOUR)
    assert device.told == [(1, "opened"), (1, "resolved")]
    device.scan([finding(2, 60 * 99, 60 * 99 + 5)], 60 * 99 + 5)
    assert len(device.real) == 2


def test_what_stood_still_for_three_days_is_over_when_it_moves():
    device = Device()
    for hour in range(1, 100):
        device.scan([finding(1, 0, 60 * hour, kind="stuck")], 60 * hour)
    assert device.real[0].state == "open"
    device.scan((), 60 * 102)
    [one] = device.real
    assert (one.state, one.why) == ("resolved", "over")


def test_a_person_s_word_holds():
    device = Device()
    device.scan([finding(1, 0, 10)], 10)
    device.incidents[1] = replace(
        device.incidents[1], state="resolved", why="a person", resolved_at=11 * MINUTE
    )
    device.scan([finding(1, 0, 60, rarity=9000.0)], 60)
    assert device.told == [(1, "opened")]
    assert device.real[0].ended_at == HOUR
    device.scan([finding(2, 70, 75)], 75)
    assert [one.incident_id for one in device.real] == [1, 2]


def test_a_late_finding_joins_two_incidents_into_the_first():
    device = Device()
    device.scan([finding(1, 0, 10)], 10)
    device.scan([finding(2, 100, 110)], 110)
    assert len(device.real) == 2
    device.scan([finding(3, 5, 105)], 112)
    [one] = device.real
    assert one.incident_id == 1
    assert one.members == (1, 2, 3)
    assert device.incidents[2].why == "joined"
    assert device.incidents[2].evidence["part_of"] == 1


spans = st.builds(
    lambda start, lasts, metric, kind, rarity: (start, start + lasts, metric, kind, rarity),
    st.integers(0, 2000),
    st.integers(0, 300),
    st.sampled_from(["cpu", "memory", "temperature"]),
    st.sampled_from(["level", "drift", "stuck", "value", "combination", "forecast"]),
    st.one_of(st.none(), st.sampled_from([5.0, 200.0, 5000.0])),
)


@settings(deadline=None)
@given(st.lists(spans, max_size=12), st.randoms(use_true_random=False))
def test_the_same_incidents_in_any_order_and_repeated(found, random):
    every = [finding(i, *one) for i, one in enumerate(found)]
    whole = Device()
    whole.scan(every, 3000)
    shuffled = Device()
    order = list(every)
    random.shuffle(order)
    for i, one in enumerate(order):
        shuffled.scan([one], 2300 + i)
        shuffled.scan([one], 2300 + i)
    shuffled.scan(every, 3000)
    shuffled.scan(every, 3000)
    assert [shown(one) for one in shuffled.real] == [shown(one) for one in whole.real]
    # What was told as critical stays critical, though its finding may turn out to be of another.
    for mine, other in zip(shuffled.real, whole.real, strict=True):
        assert mine.critical >= other.critical
    assert shuffled.scan(every, 3000) == []


@settings(deadline=None)
@given(st.lists(spans, max_size=12))
def test_every_incident_closes_in_the_end_and_each_is_told_once(found):
    device = Device()
    for minute in range(0, 2700, 100):
        seen = [
            finding(i, start, min(end, minute), *more)
            for i, (start, end, *more) in enumerate(found)
            if start <= minute
        ]
        device.scan(seen, minute)
    assert all(one.state == "resolved" for one in device.incidents.values())
    for number in device.incidents:
        mine = [event for each, event in device.told if each == number]
        assert mine.count("opened") == mine.count("resolved") >= 1
        assert mine[0] == "opened"
        assert mine[-1] == "resolved"
        assert mine.count("escalated") <= 1


@given(st.lists(spans, max_size=12))
def test_a_finding_is_of_one_incident_and_within_its_span(found):
    device = Device()
    device.scan([finding(i, *one) for i, one in enumerate(found)], 3000)
    members = [number for one in device.real for number in one.members]
    assert len(members) == len(set(members))
    for one in device.real:
        mine = [device.found[number] for number in one.members]
        assert min(each.started_at for each in mine) == one.started_at
        assert max(each.last_at for each in mine) == one.ended_at
    told = set(members)
    for one in device.found.values():
        if one.rarity is not None and one.rarity >= TERMS.rare:
            assert one.finding_id in told
