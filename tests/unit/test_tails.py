"""How rare a score is."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from pyml.detectors.tails import BEYOND, LEVELS, MOST, TRUSTED, Tail, is_tail


def test_a_rarity_is_the_share_of_ordinary_scores_as_high_and_beyond_them_that_of_their_tail():
    scores = np.random.default_rng(0).exponential(0.3, 100_000)
    asked = np.array([0.5, 1.0, 2.0, 3.0, 4.0, 12.0])
    found = Tail.of(scores).powers(asked * 0.3 * np.log(10))
    np.testing.assert_allclose(found[:4], asked[:4], rtol=0.05)
    np.testing.assert_allclose(found[4:], TRUSTED + BEYOND * np.array([1, 9]), rtol=0.05)


@pytest.mark.parametrize(
    "scores", [np.ones(100), np.array([3.0, 3.0]), np.arange(7.0), np.full(50, -1e-9)]
)
def test_it_is_finite_and_never_0(scores):
    tail = Tail.of(scores)
    found = tail.powers(np.array([-1e300, -1.0, 0.0, 1.0, 50.0, 1e300]))
    assert (np.diff(found) >= 0).all()
    assert found[0] == pytest.approx(LEVELS[0])
    assert 0 < found[0] <= found[-1] <= MOST


def test_where_all_are_alike_none_is_rare_for_a_rounding():
    assert Tail.of(np.full(100, 0.45)).powers(np.array([0.45 + 1e-7])) < 2


def test_json_keeps_it():
    tail = Tail.of(np.random.default_rng(1).normal(size=1000))
    stored = json.loads(json.dumps(asdict(tail)))
    assert is_tail(stored)
    assert Tail.of_json(stored) == tail


@pytest.mark.parametrize(
    "other",
    [
        {"scores": [1.0] * 17 + [0.0]},
        {"scores": [1.0] * 17},
        {"excess": 0.0},
        {"excess": float("nan")},
        {"more": 1},
    ],
)
def test_what_no_training_writes_is_none(other):
    stored = json.loads(json.dumps(asdict(Tail.of(np.arange(100.0)))))
    assert not is_tail(stored | other)
