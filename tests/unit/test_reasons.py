"""What is unusual about a metric: the kind fits the numbers, and the sentence says them."""

import functools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml import forest
from pyml.detectors import sentences
from pyml.detectors.evidence import start_of
from pyml.detectors.reasons import _outside
from pyml.detectors.wording import figures

from .contracts import nothing, signals_of

FOREST = forest.Forest()
NAMES = ("load", "heat", "level")
UNITS = {"load": "%", "heat": "C"}
DAYS = 7
NUMBER = st.floats(-1e15, 1e15)
SCALES = {"trillion": 1e12, "billion": 1e9, "million": 1e6}


def read(text):
    """The number that a person reads."""
    digits, _, word = text.partition(" ")
    return float(digits.replace(",", "")) * SCALES.get(word, 1.0)


# ---- sentences -------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(NUMBER, min_size=1, max_size=5))
def test_numbers_are_near_what_they_stand_for_and_told_apart(numbers):
    first, *rest = texts = figures(*numbers)
    for text, number in zip(texts, numbers, strict=True):
        assert re.fullmatch(r"-?[\d.,]+(e[+-]\d+)?( (million|billion|trillion))?", text)
        assert read(text) == pytest.approx(number, rel=5e-3)
    for text, number in zip(rest, numbers[1:], strict=True):
        if not math.isclose(number, numbers[0], rel_tol=1e-8):
            assert text != first


@settings(deadline=None)
@given(NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, st.floats(1, 1e7), st.sampled_from(["", "%", "C"]))
def test_sentences_are_plain_whatever_the_numbers(a, b, c, d, e, seconds, unit):
    name, usual, hour = "cpu_usage", (b, c), (d, e)
    for sentence in (
        sentences.placed(name, unit, a, usual, hour),
        sentences.placed(name, unit, a, usual, None),
        sentences.far(name, unit, a, usual, d),
        sentences.moved(name, unit, a, b, seconds, 2 * seconds, hour),
        sentences.jumped(name, unit, a, b, seconds, abs(c)),
        sentences.varied(name, unit, abs(a), seconds, usual, True),
        sentences.ranged(name, unit, a, b, seconds, hour),
        sentences.expected(name, unit, a, b, [sentences.at("x", unit, c)]),
        sentences.expected_spread(name, unit, a, b, seconds, [sentences.varying("x", unit, c)]),
        sentences.together(name, unit, a, usual, [sentences.own_past(unit, d, seconds)]),
        sentences.missing(name, unit, usual),
        sentences.forecast(name, unit, a, b, hour),
    ):
        assert sentence.startswith("cpu_usage ")
        assert sentence.isascii()
        assert sentence.isprintable()
        assert "  " not in sentence
        assert not re.search(r"nan|inf|None", sentence)


def test_without_a_unit_numbers_stand_alone():
    assert sentences.missing("queue", "", (1.0, 20.0)) == "queue is missing; usually 1 to 20"
    assert sentences.varied("queue", "", 9, 900, (1, 4), False).endswith("usually by 1 to 4")


# ---- moves -----------------------------------------------------------------------


def moves(values):
    return start_of(60.0 * np.arange(len(values)), np.asarray(values, float))


def test_a_step_is_told_from_where_it_began():
    assert moves([5] * 10 + [9] * 5) == (5.0, 300.0)
    assert moves([5] * 14 + [1]) == (5.0, 60.0)


def test_a_line_is_told_from_its_first_value():
    assert moves(range(15)) == (0.0, 840.0)


@pytest.mark.parametrize("values", [[5, 9] * 7, [5] * 7 + [9] + [5] * 7, [5] * 15, [1, 2], [1]])
def test_what_came_back_or_only_varied_is_no_move(values):
    assert moves(values) is None


# ---- kinds -----------------------------------------------------------------------


@functools.cache
def trained():
    """A week of minutes: a rhythm of the day, a wandering level, and heat that follows load."""
    rng = np.random.default_rng(4)
    n = DAYS * 1440
    times = 1.7e9 + 60.0 * np.arange(n)
    wander = np.zeros((n, 2))
    for row in range(1, n):
        wander[row] = [0.9, 0.995] * wander[row - 1] + rng.normal(size=2) * [1, 0.3]
    load = 45 + 15 * np.sin(times * 2 * np.pi / 86400) + wander[:, 0] + 0.3 * rng.normal(size=n)
    heat = 30 + 0.5 * load + 0.1 * rng.normal(size=n)
    values = np.stack([load, heat, 100 + 10 * wander[:, 1] + rng.normal(size=n)], axis=1)
    fitted = FOREST.fit(
        signals_of(times, values, NAMES),
        {"contamination": 0.01, "n_estimators": 20, "seed": 1},
        nothing,
    )
    return fitted, times, values


def reasons(values, last):
    """Of the last readings of values that go on from a training."""
    fitted, times, _ = trained()
    run = FOREST.runner(fitted.numbers, fitted.model).run
    after = times[-1] - 60.0 * len(values) + 60.0 * np.arange(1, len(values) + 1) + 86400.0
    found = FOREST.detect(fitted.model, run, signals_of(after, values, NAMES), -np.inf, nothing)
    some = found.of(slice(len(found.times) - last, None))
    return FOREST.explain(fitted.model, run, some, UNITS, nothing)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 20),
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2]),
            st.sampled_from([-1e15, -60.0, -8.0, 0.0, 5.0, 30.0, 1e15, np.nan]),
            st.integers(1, 90),
        ),
        max_size=4,
    ),
)
def test_a_reason_says_what_its_numbers_are(seed, changes):
    """Values of a past day with jumps, of any size and length, up to their end."""
    rng = np.random.default_rng(seed)
    values = trained()[2][-240:].copy()
    for column, jump, length in changes:
        values[-length:, column] += jump * rng.choice([1.0, rng.random()])
    if np.isnan(values[-1]).all():
        values[-1, 0] = 45.0
    for said in reasons(values, 5):
        for reason in said:
            holds(reason)


def holds(reason):
    """That the kind is of the vocabulary and true of the numbers that the reason has."""
    kind, value, sentence = reason["kind"], reason["value"], reason["sentence"]
    low, high = reason["usual_low"], reason["usual_high"]
    assert kind in sentences.KINDS
    assert sentence.startswith(f"{reason['metric']} ")
    assert not re.search(r"nan|inf\b|None", sentence)
    assert (kind == "missing") == (value is None)
    if value is None:
        return
    inside = low <= value <= high
    number = r"(-?[\d.,]+(?: (?:million|billion|trillion))?)"
    if inside:
        assert kind not in ("high", "low")
    if kind in ("high", "low"):
        assert (value > high) == (kind == "high")
    elif kind in ("high for this hour", "low for this hour"):
        first, last = re.search(rf"at this hour {number}(?: to {number})?", sentence).groups()
        assert (read(first) > value) if kind.startswith("low") else (read(last or first) < value)
    elif kind in ("rose", "fell"):
        moved = sentence.partition(";")[0]
        start, end = re.search(rf"from (?:a mean of )?{number}.* to {number}", moved).groups()
        assert (read(end) > read(start)) == (kind == "rose")
        assert read(end) == pytest.approx(value, rel=5e-3, abs=1e-9)
    elif kind == "still":
        assert "usually" in sentence
    elif kind == "together":
        assert inside
        others = [name for name in NAMES if name != reason["metric"]]
        # Where nothing else came it is the metric's own past.
        assert any(word in sentence for word in [*others, " a variation by "])


def test_a_value_at_its_limit_is_not_outside():
    """Digits are cut before people and this see them."""
    assert _outside(30.96, (27.6, 30.959999999999997)) == 0
    assert [_outside(value, (1.0, 2.0)) for value in (0.9, 1.0, 1.5, 2.0, 2.1)] == [-1, 0, 0, 0, 1]


def lead(values):
    return reasons(values, 1)[0][0]


def test_a_value_outside_all_hours_is_high():
    values = trained()[2][-240:].copy()
    values[-1, 0] = 99
    reason = lead(values)
    assert (reason["metric"], reason["kind"]) == ("load", "high")
    assert reason["sentence"].startswith("load is 99 %, usually 2")
    assert " at all hours; at this hour " in reason["sentence"]


def test_metrics_that_part_are_told_together():
    """Heat stays where it was while load wanders on."""
    values = trained()[2][-240:].copy()
    values[-60:, 1] -= np.linspace(0, 3, 60)
    reason = lead(values)
    assert reason["kind"] == "together"
    assert {"load", "heat"} <= set(re.findall(r"[a-z]+", reason["sentence"]))


def test_a_level_that_falls_within_its_range_has_fallen():
    values = trained()[2][-240:].copy()
    values[-240:, 2] = 105 + np.random.default_rng(0).normal(size=240)
    values[-3:, 2] -= 25
    reason = lead(values)
    assert (reason["metric"], reason["kind"]) == ("level", "fell")
    assert re.match(r"level fell from .*10\d(\.\d)? .*to \d", reason["sentence"])


def test_a_level_that_trembles_is_restless():
    values = trained()[2][-240:].copy()
    values[-240:, 2] = 100 + np.random.default_rng(0).normal(size=240)
    values[-20:, 2] += 12 * np.tile([1, -1], 10)
    reason = lead(values)
    assert (reason["metric"], reason["kind"]) == ("level", "restless")
    assert re.match(r"level varied by 1\d(\.\d)? over the last 15 min; ", reason["sentence"])
