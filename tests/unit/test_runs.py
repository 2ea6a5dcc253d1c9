"""Anomalous readings as findings: a run of them is one, in whatever pieces it comes."""

from hypothesis import given
from hypothesis import strategies as st

from pyml.detectors.runs import Run, runs

GAP = 600.0
readings = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.floats(-9, -0.1),
        st.sampled_from([1, 2]),
        st.sampled_from(["cpu", "temperature", "memory"]),
        st.one_of(st.none(), st.floats(1, 1e4)),
    ),
    unique_by=lambda one: one[0],
    max_size=30,
)


def run_of(reading):
    minute, score, severity, metric, rarity = reading
    reason = {"metric": metric, "kind": "high", "sentence": f"{metric} is high"}
    return Run.of_reading(60.0 * minute, score, severity, [reason], rarity)


def test_neighbours_are_one_run_and_the_worst_speaks():
    found = runs(map(run_of, [(0, -1, 1, "cpu", 5.0), (5, -3, 2, "memory", 90.0)]), GAP)
    assert len(found) == 1
    one = found[0].finding
    assert (one.started_at, one.last_at, one.metric, one.severity) == (0.0, 300.0, "memory", 2)
    assert one.evidence["metrics"] == {"cpu": 1, "memory": 1}
    assert (one.evidence["readings"], one.evidence["critical"]) == (2, 1)
    assert found[0].rarity == 90.0
    assert one.sentence == "memory is high"


def test_of_readings_that_are_alike_the_first_speaks():
    one, two, three = (run_of((minute, -1.0, 1, "cpu", None)) for minute in (0, 1, 2))
    for pieces in ([one, two, three], [three, two, one], [runs([two, three], GAP)[0], one]):
        assert runs(pieces, GAP)[0].finding.evidence["at"] == 0.0


def test_the_worst_is_the_rarest_though_another_scores_higher():
    found = [(0, -1.0, 1, "cpu", 1.0), (1, -2.0, 1, "cpu", None), (2, -1.5, 1, "memory", 1.0)]
    one, two, three = map(run_of, found)
    for pieces in ([one, two, three], [runs([one, two], GAP)[0], three]):
        assert runs(pieces, GAP)[0].finding.metric == "memory"


def test_a_pause_ends_a_run():
    assert len(runs(map(run_of, [(0, -1, 1, "cpu", 5.0), (11, -1, 1, "cpu", 5.0)]), GAP)) == 2


def test_what_is_unusual_together_is_a_combination():
    reason = {"metric": "cpu", "kind": "together", "sentence": "."}
    assert Run.of_reading(0.0, -1.0, 1, [reason], None).finding.kind == "combination"


@given(readings, st.integers(0, 30))
def test_in_two_pieces_it_is_the_same(found, cut):
    whole = runs(map(run_of, found), GAP)
    first = runs(map(run_of, found[:cut]), GAP)
    assert runs([*first, *map(run_of, found[cut:])], GAP) == whole
    assert sum(one.finding.evidence["readings"] for one in whole) == len(found)
    assert runs(whole, GAP) == whole
