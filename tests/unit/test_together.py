"""How far all are together."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from pyml.detectors.together import STEP, Together


def vectors(n=2000, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, k))


def test_it_is_the_distance_of_scikit_learn():
    usual = vectors()
    far = usual[:50] * 3
    square = LedoitWolf().fit(usual).mahalanobis(far)
    found = Together.of(usual).distance(far)
    np.testing.assert_allclose(found, np.log1p(square), atol=1 / STEP)


def test_what_is_missing_is_as_usual():
    usual = vectors() + 5
    found = Together.of(usual)
    assert found.distance(np.full((1, 3), np.nan))[0] == 0
    some = np.array([[np.nan, 9.0, np.nan]])
    filled = np.where(np.isnan(some), usual.mean(axis=0), some)
    np.testing.assert_allclose(found.distance(some), found.distance(filled), atol=2 / STEP)


@pytest.mark.parametrize("constant", [[0], [0, 1, 2]])
def test_a_constant_is_far_once_it_moves(constant):
    usual = vectors() / 100
    usual[:, constant] = 0.25
    found = Together.of(usual)
    assert np.isfinite(found.whitening).all()
    assert (found.distance(usual) < 5).all()
    moved = usual[:1].copy()
    moved[0, 0] += 0.1
    assert found.distance(moved)[0] > 5


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_vectors_suffice(rows):
    found = Together.of(vectors()[:rows])
    assert np.isfinite(found.distance(vectors())).all()


def test_any_batch_gives_the_same_bits():
    found, many = Together.of(vectors(k=20)), vectors(500, 20, seed=1)
    whole = found.distance(many)
    for size in (1, 2, 3, 7, 64):
        np.testing.assert_array_equal(
            found.distance(many[100 : 100 + size]), whole[100 : 100 + size]
        )
