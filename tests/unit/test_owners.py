"""Checks of every owner of models, detector or forecaster."""

import re

import pytest

from pyml.detectors.base import DETECTORS
from pyml.forecasters.base import FORECASTERS

from .contracts import kinds, known_settings, with_example

ALL = [*with_example(DETECTORS, "mad.py"), *with_example(FORECASTERS, "yesterday.py")]
DEVICE = "7f0c3c52-0000-4000-8000-000000000001"


@pytest.fixture(params=ALL, ids=lambda one: one.kind)
def owner(request):
    return request.param


def test_its_kind_is_a_name_and_its_own(owner):
    assert re.fullmatch("[a-z][a-z0-9_]{0,30}", owner.kind)  # as the tables take it
    assert owner.kind.isidentifier()
    registered = DETECTORS.get(owner.kind) or FORECASTERS.get(owner.kind)
    assert kinds().count(owner.kind) == (registered is not None)


def test_its_settings_exist_and_are_of_their_type(owner):
    known = known_settings()
    for setting, kind in owner.settings.values():
        assert known[setting][0] is kind


@pytest.mark.parametrize("hours", [None, 672])
def test_it_says_how_to_train_it(owner, hours):
    call = owner.training_call(DEVICE, "it's", hours)
    assert call.startswith(("SELECT ml_", "CALL ml_"))
    assert DEVICE in call
    assert call.endswith(";")


def test_only_the_functions_of_a_kind_are_said_to_train_it():
    for owner in ALL:
        call = owner.training_call(DEVICE, "cpu_usage")
        own = {"forest": "ml_train_forest", "lstm": "ml_train_lstm"}
        assert own.get(owner.kind, "ml_retrain") in call
