"""Which findings people keep quiet, and what that makes of incidents."""

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.incidents.base import Clock, Incident
from pyml.incidents.lifecycle import step
from pyml.incidents.proposals import About, Case, propose
from pyml.incidents.rules import Kept, Rule, Said, hushed, left_of, parts
from pyml.telemetry.quiet import Window

from .test_incidents import MINUTE, TERMS, Device, finding, spans

HOUR = 60  # in the minutes of `finding`


def rule(number=1, metric=None, direction=None, least=None, mute=False, until=math.inf):
    names = None if metric is None else frozenset({metric})
    return Rule(number, names, direction, least, mute, until * MINUTE)


def window(start, end, metric=None, number=1):
    names = None if metric is None else frozenset({metric})
    return Window(number, names, start * MINUTE, end * MINUTE)


def level(number, start, end, above=0.0, below=0.0, metric="cpu", **more):
    return finding(number, start, end, metric, evidence={"above": above, "below": below}, **more)


def reading(number, at, kind, value, low=10.0, high=20.0, metrics=("cpu",), rarity=500.0):
    """A run that metrics lead, each as the first of them does, and half as rarely."""
    reason = {"kind": kind, "value": value, "usual_low": low, "usual_high": high}
    worst = {
        name: {
            "at": at,
            "reason": reason | {"metric": name, "sentence": f"{name} is {kind}"},
            "score": 1.0,
            "rarity": rarity / 2**i,
            "critical": False,
        }
        for i, name in enumerate(metrics)
    }
    evidence = {"reason": reason, "worst": worst}
    named = frozenset(metrics)
    return finding(number, at, at, metrics[0], "value", rarity, evidence=evidence, metrics=named)


def left(one, *said, incidents=()):
    """What is left of a finding, of which rules and windows say something."""
    rules = tuple(each for each in said if isinstance(each, Rule))
    windows = tuple(each for each in said if isinstance(each, Window))
    [found] = left_of([one], incidents, Said(rules, windows), TERMS)
    return found


def kept(one, *said, incidents=()):
    """What keeps all of a finding quiet."""
    found = left(one, *said, incidents=incidents)
    assert found.is_quiet == (found.kept is not None)
    return found.kept


def quiet_of(found, said, terms=TERMS):
    """The numbers of those that are quiet."""
    return {one.found.finding_id for one in left_of(found, (), said, terms) if one.is_quiet}


def test_a_mute_is_of_its_metric_and_until_its_end():
    one = finding(1, 0, 60)
    assert kept(one, rule(7, "cpu", mute=True)) == Kept(rule_id=7)
    assert kept(one, rule(7, mute=True)) == Kept(rule_id=7)
    assert kept(one, rule(7, "memory", mute=True)) is None
    assert kept(one, rule(7, "cpu", mute=True, until=60)) == Kept(rule_id=7)
    assert kept(one, rule(7, "cpu", mute=True, until=59)) is None


def test_a_device_s_silence_is_muted_by_a_rule_of_all_metrics_alone():
    silent = finding(1, 0, 400, "", "silent", detector="presence")
    assert kept(silent, rule(1, "cpu", mute=True), rule(2, direction="up")) is None
    assert kept(silent, rule(1, mute=True)) == Kept(rule_id=1)


def test_a_run_that_several_metrics_lead_is_told_by_those_that_are_not_quiet():
    one = reading(1, 0, "high", 24.0, metrics=("cpu", "memory", "disk"))
    assert left(one).found == one
    rest = left(one, rule(1, "memory", mute=True))
    assert (rest.kept, rest.is_quiet) == (Kept(rule_id=1), False)
    assert rest.found.metrics == {"cpu", "disk"}
    assert (rest.found.metric, rest.found.rarity) == ("cpu", 500.0)
    rest = left(one, rule(1, "memory", mute=True), rule(2, "cpu", mute=True)).found
    assert (rest.metric, rest.rarity, rest.sentence) == ("disk", 125.0, "disk is high")
    assert rest.metrics == {"disk"}
    every = rule(1, "memory", mute=True), rule(2, "cpu", least=5.0), window(0, 70, "disk")
    assert kept(one, *every) == Kept(rule_id=2)  # of the metric that leads it


def test_a_direction_is_the_way_that_is_trouble():
    up = rule(1, "cpu", direction="up")
    assert kept(level(1, 0, 60, above=8.0), up) is None
    assert kept(level(1, 0, 60, below=8.0), up) == Kept(rule_id=1)
    assert kept(level(1, 0, 60, above=1.0, below=8.0), up) is None
    assert kept(reading(1, 0, "fell", 15.0), up) == Kept(rule_id=1)
    assert kept(reading(1, 0, "high for this hour", 15.0), up) is None
    assert kept(finding(1, 0, 60, kind="stuck"), up) is None  # which has no direction
    assert kept(reading(1, 0, "together", 15.0), up) is None


def test_what_is_nearer_than_the_least_deviation_is_quiet():
    floor = rule(1, "cpu", least=5.0)
    assert kept(level(1, 0, 60, above=4.9), floor) == Kept(rule_id=1)
    assert kept(level(1, 0, 60, above=5.0), floor) is None
    assert kept(level(1, 0, 60, above=1.0, below=6.0), floor) is None
    assert kept(reading(1, 0, "high", 24.0), floor) == Kept(rule_id=1)
    assert kept(reading(1, 0, "high", 25.5), floor) is None
    assert kept(reading(1, 0, "rose", 15.0), floor) is None  # how far is not known
    predicted = {"kind": "forecast", "value": 12.0, "predicted": 16.0}
    outside = finding(1, 0, 0, kind="forecast", evidence={"reason": predicted})
    assert kept(outside, floor) == Kept(rule_id=1)
    assert kept(outside, rule(1, "cpu", least=3.0)) is None
    assert kept(outside, rule(1, "cpu", direction="up")) == Kept(rule_id=1)


def test_of_several_rules_the_narrowest_that_says_a_thing_decides():
    broad, narrow = rule(1, direction="up"), rule(2, "cpu", direction="both", least=3.0)
    assert kept(level(1, 0, 60, below=8.0), broad, narrow) is None
    assert kept(level(1, 0, 60, below=2.0), broad, narrow) == Kept(rule_id=2)
    ended = replace(narrow, until=0.0)
    assert kept(level(1, 0, 60, below=8.0), broad, ended) == Kept(rule_id=1)


def test_what_begins_and_ends_in_a_window_is_quiet():
    assert kept(finding(1, 10, 50), window(0, 60)) == Kept(quiet_id=1)
    assert kept(finding(1, 10, 50), window(0, 60, "memory")) is None
    assert kept(finding(1, 10, 70), window(0, 60)) is None
    assert kept(finding(1, -40, 50), window(0, 60)) is None
    # A move is said to begin a little early, and a silence at the reading before it.
    assert kept(finding(1, -20, 61), window(0, 60)) == Kept(quiet_id=1)
    # A window goes on showing for a while what has gone from it.
    seen = finding(1, 10, 75, evidence={"seen_at": 55 * MINUTE})
    assert kept(seen, window(0, 60)) == Kept(quiet_id=1)
    assert kept(finding(1, 10, 90), window(0, 60), window(60, 120)) == Kept(quiet_id=1)


def test_single_readings_after_a_window_are_judged_by_those_in_it():
    terms = replace(TERMS, memory=60 * MINUTE)
    said = Said((), (window(0, 60),))

    def quiet(start, end):
        return bool(quiet_of([finding(1, start, end, kind="value")], said, terms))

    assert quiet(0, 60)
    assert quiet(61, 110)
    assert not quiet(-1, 30)
    assert not quiet(61, 121)
    # A run is told for its worst reading, wherever it began.
    for at, told in ((-3, True), (3, False)):
        run = finding(1, -5, 30, kind="value", evidence={"at": at * MINUTE})
        assert (quiet_of([run], said, terms) == set()) == told


def opened(minute):
    """An incident that was opened at some minute."""
    device = Device()
    device.scan([finding(1, minute - 5, minute)], minute)
    return device.real


def test_an_incident_that_was_there_before_a_window_goes_on():
    mine = replace(finding(1, -5, 50), incident_id=1)
    assert kept(mine, window(0, 60), incidents=opened(-1)) is None
    assert kept(mine, window(0, 60), incidents=opened(1)) == Kept(quiet_id=1)


class Told(Device):
    """A device of which people say something."""

    said = Said()

    def scan(self, found=(), minute=0.0):
        for one in found:
            was = self.found.get(one.finding_id)
            self.found[one.finding_id] = replace(one, incident_id=was and was.incident_id)
        every, clock = list(self.found.values()), Clock(minute * MINUTE, minute * MINUTE)
        rest = left_of(every, self.real, self.said, self.terms)
        told = [one.found for one in rest]
        quiet = [one.found.finding_id for one in rest if one.is_quiet]
        hush = hushed(told, self.said, clock.now)
        changes = step(self.real, told, clock, self.terms, quiet, hush)
        for change in changes:
            one: Incident = change.incident
            if one.incident_id is None:
                one = replace(one, incident_id=len(self.incidents) + 1)
            self.incidents[one.incident_id] = one
            for number, each in self.found.items():
                if number in one.members:
                    self.found[number] = replace(each, incident_id=one.incident_id)
                elif each.incident_id == one.incident_id:
                    self.found[number] = replace(each, incident_id=None)
            self.told += [(one.incident_id, event) for event in change.events]
        return changes


def test_a_rule_made_while_an_incident_is_open_resolves_it_and_its_end_opens_it_again():
    device = Told()
    weak = finding(2, 20, 40, kind="value", rarity=3.0)
    device.scan([finding(1, 0, 60), weak], 60)
    device.said = Said((rule(1, "cpu", mute=True, until=100),))
    device.scan([finding(1, 0, 70)], 70)
    [one] = device.real
    assert (one.state, one.why, one.resolved_at) == ("resolved", "a rule", 70 * MINUTE)
    assert device.scan([finding(1, 0, 80)], 80) == []
    device.scan([finding(1, 0, 101)], 101)
    assert device.told == [(1, "opened"), (1, "resolved"), (1, "opened")]
    assert device.real[0].state == "open"


def test_a_rule_of_one_metric_leaves_the_rest_of_the_incident():
    device = Told()
    device.scan([finding(1, 0, 60), finding(2, 5, 60, "memory")], 60)
    device.said = Said((rule(1, "cpu", mute=True),))
    device.scan([finding(1, 0, 70), finding(2, 5, 70, "memory")], 70)
    [one] = device.real
    assert (one.state, one.leading_metric, one.members) == ("open", "memory", (2,))
    assert device.told == [(1, "opened")]


def test_nothing_is_told_of_an_incident_while_a_window_lasts():
    device = Told()
    device.scan([finding(1, 0, 60)], 60)
    device.said = Said((), (window(70, 200),))
    device.scan([finding(1, 0, 90, rarity=9000.0)], 90)
    device.scan((), 190)
    assert device.told == [(1, "opened")]
    assert device.real[0].state == "open"
    device.scan((), 201)
    assert device.told == [(1, "opened"), (1, "escalated"), (1, "resolved")]


def test_what_goes_on_after_a_window_is_told_then():
    device = Told()
    device.said = Said((), (window(0, 100),))
    for minute in range(10, 101, 10):
        device.scan([finding(1, 5, minute)], minute)
    assert device.incidents == {}
    device.scan([finding(1, 5, 110)], 110)
    assert device.told == [(1, "opened")]
    assert device.real[0].started_at == 5 * MINUTE


@settings(deadline=None)
@given(st.lists(spans, max_size=12))
def test_where_nobody_has_said_anything_nothing_changes(found):
    plain, told = Device(), Told()
    told.said = Said((rule(1, "disk", mute=True),), (window(0, 3000, "disk"),))
    for minute in range(0, 2700, 300):
        seen = [
            finding(i, start, min(end, minute), *more)
            for i, (start, end, *more) in enumerate(found)
            if start <= minute
        ]
        plain.scan(seen, minute)
        told.scan(seen, minute)
    assert (told.real, told.told) == (plain.real, plain.told)


said = st.builds(
    lambda rules, windows: Said(
        tuple(rule(i, metric, mute=True, until=until) for i, (metric, until) in enumerate(rules)),
        tuple(window(start, start + lasts, metric) for metric, start, lasts in windows),
    ),
    st.lists(
        st.tuples(st.sampled_from([None, "cpu", "memory"]), st.sampled_from([500, math.inf])),
        max_size=3,
    ),
    st.lists(
        st.tuples(
            st.sampled_from([None, "cpu", "memory"]), st.integers(-100, 2000), st.integers(1, 400)
        ),
        max_size=3,
    ),
)


@settings(deadline=None)
@given(st.lists(spans, max_size=12), said)
def test_no_quiet_finding_is_in_an_incident_that_is_told_and_a_second_look_changes_nothing(
    found, said
):
    device = Told()
    device.said = said
    every = [finding(i, *one) for i, one in enumerate(found)]
    device.scan(every, 3000)
    quiet = quiet_of(every, said)
    members = {number for one in device.real for number in one.members}
    assert not members & quiet
    assert device.scan(every, 3000) == []


@given(st.lists(spans, max_size=8), said, said)
def test_more_that_is_said_keeps_more_quiet(found, one, other):
    every = [finding(i, *each) for i, each in enumerate(found)]
    both = Said(one.rules + other.rules, one.windows + other.windows)
    assert quiet_of(every, one) <= quiet_of(every, both)


# ---- what is proposed ------------------------------------------------------------

ABOUT = {name: About(name, "%", "both") for name in ("cpu", "memory", "temperature")}
DAY = 24 * HOUR


def case(*told, others=(), now=3000, about=ABOUT, **more):
    given_ = {"said": Said(), "terms": TERMS, "now": now * MINUTE, "zone": "UTC"}
    every = [part for one in told for part in parts(one)]
    return Case(every, list(others), about, **given_ | more)


def test_a_small_move_wants_a_least_deviation_and_a_large_one_a_direction():
    small = propose(case(level(1, 0, 60, above=8.3)))
    assert small.rows == [{"metric": "cpu", "least_deviation": 9.2}]
    assert small.words == (
        "cpu is told only from 9.2 points above or below the usual on; it was 8.3 points away."
    )
    large = propose(case(level(1, 0, 60, above=48.0, severe=True)))
    assert large.rows == [{"metric": "cpu", "direction": "down"}]
    assert "Of cpu only what is lower than usual is told" in large.words


def test_where_one_way_is_told_already_the_other_is_not_proposed():
    one = level(1, 0, 60, above=48.0, severe=True)
    upward = {"cpu": About("cpu", "%", "up")}
    assert propose(case(one, about=upward)).rows == [{"metric": "cpu", "least_deviation": 53.0}]
    before = Said((rule(1, "cpu", direction="up"),))
    assert "least_deviation" in propose(case(one, said=before)).rows[0]


def test_what_has_no_direction_and_no_distance_is_muted_for_a_time():
    stuck = finding(1, 0, 60, kind="stuck", detector="stuck")
    proposal = propose(case(stuck))
    [row] = proposal.rows
    assert (row["metric"], row["mute"]) == ("cpu", True)
    assert row["until"] == "1970-02-02 02:00:00+00:00"
    silent = finding(1, 0, 60, "", "silent", detector="presence")
    [row] = propose(case(silent)).rows
    assert (row["metric"], row["until"]) == (None, "1970-01-10 02:00:00+00:00")


def test_a_run_of_several_metrics_mutes_each_of_them():
    run = reading(1, 60, "together", 15.0, metrics=("cpu", "memory"))
    assert {row["metric"] for row in propose(case(run)).rows} == {"cpu", "memory"}


def test_what_came_at_the_same_hour_of_other_days_wants_a_window():
    at = 9 * DAY + 2 * HOUR
    others = [level(i, at - i * DAY + 20 * i, at - i * DAY + 90, above=9.0) for i in (1, 2)]
    proposal = propose(case(level(9, at, at + 80, above=9.0), others=others, now=at + 100))
    assert proposal.table == "ml_quiet"
    assert proposal.rows == [
        {
            "metric": "cpu",
            "starts_at": "1970-01-10 01:45:00+00:00",
            "ends_at": "1970-01-10 03:45:00+00:00",
            "repeat": "daily",
            "zone": "UTC",
        }
    ]
    assert proposal.words.startswith("Each day from 01:45 to 03:45 (UTC) nothing is told of cpu")
    weekly = [level(i, at - 7 * i * DAY, at - 7 * i * DAY + 90, above=9.0) for i in (1, 2)]
    proposal = propose(case(level(9, at, at + 80, above=9.0), others=weekly, now=at + 100))
    assert proposal.rows[0]["repeat"] == "weekly"
    assert "Each Saturday" in proposal.words
    once = propose(case(level(9, at, at + 80, above=9.0), others=others[:1], now=at + 100))
    assert once.table == "ml_rule"


def test_the_hour_of_a_window_is_the_clock_s_in_its_zone():
    # On 29 March 2026 Berlin's clocks go from 2 to 3.
    first = 1774573200 / MINUTE  # 2026-03-27 01:00 UTC, 02:00 in Berlin
    found = [level(i, first + i * DAY, first + i * DAY + 60, above=9.0) for i in (0, 1)]
    shifted = level(9, first + 3 * DAY - HOUR, first + 3 * DAY, above=9.0)  # 02:00 on the 30th
    proposal = propose(
        case(shifted, others=found, now=first + 3 * DAY + HOUR, zone="Europe/Berlin")
    )
    assert "from 01:45 to 03:15 (Europe/Berlin)" in proposal.words


kinds = st.one_of(
    st.builds(
        lambda start, lasts, above, below, metric, severe: level(
            0, start, start + lasts, above, below, metric, severe=severe
        ),
        st.integers(0, 2000),
        st.integers(0, 300),
        st.sampled_from([0.0, 3.0, 1e6]),
        st.sampled_from([0.0, 1e-9, 4.0]),
        st.sampled_from([*ABOUT, "unknown", ""]),
        st.booleans(),
    ),
    st.builds(
        lambda at, kind, value, metrics: reading(0, at, kind, value, metrics=metrics),
        st.integers(0, 2000),
        st.sampled_from(["high", "rose", "fell", "together", "restless", "missing", "forecast"]),
        st.one_of(st.none(), st.floats(-1e9, 1e9)),
        st.lists(st.sampled_from([*ABOUT, "unknown"]), min_size=1, max_size=3, unique=True),
    ),
)


@settings(deadline=None)
@given(st.lists(kinds, min_size=1, max_size=5), st.lists(kinds, max_size=8))
def test_whatever_is_found_something_is_proposed_that_keeps_it_quiet(told, others):
    told = [replace(one, finding_id=i) for i, one in enumerate(told)]
    proposal = propose(case(*told, others=others))
    assert len(quiet_of(told, proposal.said)) == len(told)
    assert len({tuple(row) for row in proposal.rows}) == 1
    assert proposal.words.endswith(".")


def test_what_is_quiet_already_needs_nothing():
    assert propose(case()) is None
