"""Checks of every detector that judges readings: the registered ones, and one of a file."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.detectors import sentences
from pyml.detectors.base import (
    CRITICAL,
    DETECTORS,
    NORMAL,
    SEVERITIES,
    Judge,
    Reason,
    Signals,
)
from pyml.models import blob

from .contracts import (
    Ended,
    ending,
    frozen,
    junk,
    nothing,
    read,
    signals_of,
    train,
    unless_too_little,
    with_example,
)

ALL = [one for one in with_example(DETECTORS, "mad.py") if isinstance(one, Judge)]
NAMES = ("cpu", "memory", "received")
UNITS = {"cpu": "%", "received": "B/s"}
EVER = -np.inf


@pytest.fixture(params=ALL, ids=lambda one: one.kind)
def detector(request):
    return request.param


def telemetry(seed=0, n=2000):
    """Daily rhythm plus noise, a reading a minute."""
    rng = np.random.default_rng(seed)
    times = 1.7e9 + 60.0 * np.arange(n)
    rhythm = np.sin(times * 2 * np.pi / 86400)[:, None] * np.arange(1, 4)
    values = 40 + 3 * rhythm + 2 * rng.normal(size=(n, 3))
    values[::50, 1] = np.nan
    return signals_of(times, values, NAMES)


def packed(detector, signals):
    fitted, model = train(detector, signals)
    return blob.pack(detector, fitted.numbers, model)


def seen_by(model, signals):
    """The columns that a model uses."""
    columns = [signals.names.index(name) for name in model.names]
    return signals_of(signals.times, signals.values[:, columns], model.names)


def found_by(detector, loaded, signals, since=EVER, pulse=nothing):
    given_ = seen_by(loaded.knows, signals)
    return detector.detect(loaded.knows, loaded.run, given_, since, pulse)


def ready(detector, signals):
    return blob.load(detector, packed(detector, signals))


@pytest.fixture
def loaded(detector):
    return ready(detector, telemetry())


def says(reason):
    """That a reason has a kind that fits its value, and a sentence that a person can read."""
    value, kind, sentence = reason["value"], reason["kind"], reason["sentence"]
    assert kind in sentences.KINDS
    assert sentence.startswith(f"{reason['metric']} ")
    assert sentence.isascii()
    assert sentence.isprintable()
    assert not re.search(r"\b(nan|inf|None)\b", sentence)
    assert len(re.findall(r"\d", sentence)) > 0
    assert (kind == "missing") == (value is None)
    if value is not None and reason["usual_low"] <= value <= reason["usual_high"]:
        assert kind not in ("high", "low")


def test_the_same_data_and_seed_give_the_same_bytes(detector):
    first = packed(detector, telemetry())
    packed(detector, telemetry(seed=9))  # another device in between
    assert packed(detector, telemetry()) == first
    assert len(first) <= detector.max_bytes


def test_inputs_are_left_as_they_are(detector):
    """Arrays that cannot be written to do."""
    plain = telemetry()
    signals = signals_of(*frozen(plain.times, plain.values), NAMES)
    loaded = ready(detector, signals)
    given_ = seen_by(loaded.knows, signals)
    given_ = signals_of(*frozen(given_.times, given_.values), given_.names)
    found = detector.detect(loaded.knows, loaded.run, given_, EVER, nothing)
    detector.explain(loaded.knows, loaded.run, found.of(slice(0, 20)), UNITS, nothing)
    np.testing.assert_array_equal(signals.values, plain.values)
    np.testing.assert_array_equal(given_.values, plain.values)


def test_the_stored_form_is_exact(detector):
    signals = telemetry()
    fitted, model = train(detector, signals)
    again = detector.of_json(json.loads(json.dumps(detector.to_json(model), allow_nan=False)))
    assert again == model
    data = blob.pack(detector, fitted.numbers, model)
    loaded = blob.load(detector, data)
    assert loaded.knows == model
    assert blob.pack(detector, loaded.numbers, loaded.knows) == data
    run = detector.runner(fitted.numbers, model).run
    here = detector.detect(model, run, seen_by(model, signals), EVER, nothing)
    there = found_by(detector, loaded, signals)
    np.testing.assert_array_equal(here.scores, there.scores)
    np.testing.assert_array_equal(here.severity, there.severity)
    some = slice(0, 50)
    assert detector.explain(model, run, here.of(some), UNITS, nothing) == detector.explain(
        loaded.knows, loaded.run, there.of(some), UNITS, nothing
    )


def test_its_figures_are_json(detector):
    fitted, _ = train(detector, telemetry())
    assert json.loads(json.dumps(fitted.figures, allow_nan=False)) == fitted.figures


@pytest.mark.parametrize("meta", [{}, {"names": ["a"]}, {"a": None}])
def test_metadata_of_another_form_is_none(detector, meta):
    assert detector.of_json(meta) is None


def test_metadata_without_one_of_its_parts_is_none(detector):
    _, model = train(detector, telemetry())
    whole = json.loads(json.dumps(detector.to_json(model)))
    assert detector.of_json(dict(whole)) == model
    for key in whole:
        less = json.loads(json.dumps(whole))
        del less[key]
        assert detector.of_json(less) is None, key
        assert detector.of_json(json.loads(json.dumps(whole)) | {key: "x"}) is None, key
    assert detector.of_json(json.loads(json.dumps(whole)) | {"more": 1}) is None


def test_an_extreme_is_found_and_its_metric_is_the_reason(detector, loaded):
    later = telemetry(seed=5)
    later.values[1500, 2] += 200
    found = found_by(detector, loaded, later)
    at = int(np.flatnonzero(found.times == later.times[1500])[0])
    assert found.severity[at] == CRITICAL
    assert found.scores[at] <= np.quantile(found.scores, 0.02)
    one = found.of(slice(at, at + 1))
    (reasons,) = detector.explain(loaded.knows, loaded.run, one, UNITS, nothing)
    first = reasons[0]
    assert set(first) == set(Reason.__annotations__)
    assert first["kind"] == "high"
    assert first["metric"] == "received"
    assert first["value"] == later.values[1500, 2]
    assert first["usual_low"] < first["usual_high"] < first["value"]
    contributions = [reason["contribution"] for reason in reasons]
    assert contributions == sorted(contributions, reverse=True)


def test_a_quiet_day_is_quiet(detector, loaded):
    found = found_by(detector, loaded, telemetry(seed=6))
    assert (found.severity > NORMAL).mean() < 0.06


def test_scores_and_severities_fit_together(detector, loaded):
    found = found_by(detector, loaded, telemetry(seed=5))
    assert set(found.severity.tolist()) <= set(range(len(SEVERITIES)))
    for milder, worse in ((0, 1), (1, 2)):
        above, below = (found.scores[found.severity == one] for one in (milder, worse))
        assert not len(above) or not len(below) or above.min() >= below.max()


def test_only_what_came_after_is_judged(detector, loaded):
    signals = telemetry()
    whole = found_by(detector, loaded, signals)
    since = float(signals.times[1200])
    part = found_by(detector, loaded, signals, since)
    assert part.times.min() > since
    np.testing.assert_array_equal(part.times, whole.times[whole.times > since])
    np.testing.assert_array_equal(part.scores, whole.scores[whole.times > since])


def test_moments_at_which_nothing_came_are_not_judged(detector, loaded):
    signals = seen_by(loaded.knows, telemetry(seed=5))
    held = np.arange(len(signals.times)) % 3 == 1
    given_ = replace(signals, held=held)
    found = detector.detect(loaded.knows, loaded.run, given_, EVER, nothing)
    judged = signals.times[~held & np.isfinite(signals.values).any(axis=1)]
    np.testing.assert_array_equal(found.times, judged)


def test_the_order_of_rows_does_not_matter(detector):
    signals = telemetry()
    mixed = np.random.default_rng(3).permutation(len(signals.times))

    def cleaned(order):
        return Signals.of(read(signals.times[order], signals.values[order]), NAMES, 60.0)

    sorted_, shuffled = cleaned(np.arange(len(mixed))), cleaned(mixed)
    loaded, again = ready(detector, sorted_), ready(detector, shuffled)
    assert loaded.data == again.data
    here, there = (found_by(detector, one, s) for one, s in ((loaded, sorted_), (again, shuffled)))
    np.testing.assert_array_equal(here.scores, there.scores)


@pytest.mark.parametrize("interval", [60.0, 900.0])
def test_neither_the_future_nor_the_distant_past_matters(detector, interval):
    plain = telemetry()
    signals = signals_of(1.7e9 + interval * np.arange(2000), plain.values, NAMES)
    loaded = ready(detector, signals)
    start, end = 1500, 1700
    since = float(signals.times[start - 1])
    whole = found_by(detector, loaded, signals, since)
    reach = signals.times >= signals.times[start] - detector.lookback(loaded.knows)
    changed = signals.values.copy()
    changed[end:] += 500
    changed[~reach] = -500
    for times, values in (
        (signals.times, changed),
        (signals.times[reach], changed[reach]),
        (signals.times[:end][reach[:end]], changed[:end][reach[:end]]),
    ):
        part = found_by(detector, loaded, signals_of(times, values, NAMES), since)
        np.testing.assert_array_equal(
            part.scores[part.times < signals.times[end]],
            whole.scores[whole.times < signals.times[end]],
        )


def test_what_pulse_raises_ends_the_training(detector):
    calls, pulse = ending(after=0)
    train(detector, telemetry(), pulse)
    assert calls[0] > 0
    for after in {1, calls[0]}:
        with pytest.raises(Ended):
            train(detector, telemetry(), ending(after)[1])
    assert packed(detector, telemetry()) == packed(detector, telemetry())


def test_what_pulse_raises_ends_a_long_look(detector, loaded):
    """The pulse raises at its first or its last call in a month of minutes."""
    month = telemetry(seed=4, n=43_200)
    calls, pulse = ending(after=0)
    found = found_by(detector, loaded, month, pulse=pulse)
    assert len(found.scores) == len(month.times)
    for after in {min(1, calls[0]), calls[0]} - {0}:
        with pytest.raises(Ended):
            found_by(detector, loaded, month, pulse=ending(after)[1])


def test_nothing_to_judge(detector, loaded):
    nobody = signals_of(np.empty(0), np.empty((0, 3)), NAMES)
    assert len(found_by(detector, loaded, nobody).scores) == 0
    found = found_by(detector, loaded, telemetry()).of(slice(0, 0))
    assert detector.explain(loaded.knows, loaded.run, found, UNITS, nothing) == []


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(trained=junk(3, (0, 1, 2, 3, 15, 60, 400, 800), 60.0), later=st.sampled_from((1, 60, 400)))
def test_junk_has_finite_scores_or_is_too_little(one, trained, later):
    """As `pyml.telemetry.series` lets it through: within ±1e15, or missing."""
    times, values = trained
    signals = signals_of(times, values, NAMES[: values.shape[1]])
    loaded = unless_too_little(lambda: ready(one, signals))
    if loaded is None:
        return
    rng = np.random.default_rng(later)
    wild = rng.choice([-1e15, -1.0, 0.0, 7.0, 1e15, np.nan], (later, values.shape[1]))
    after = float(times[-1]) + 60.0 * np.arange(1, later + 1)
    both = signals_of(np.append(times, after), np.concatenate([values, wild]), signals.names)
    found = found_by(one, loaded, both)
    assert np.isfinite(found.scores).all()
    assert (found.scores <= 0).all()
    assert set(found.severity.tolist()) <= {0, 1, 2}
    for reasons in one.explain(loaded.knows, loaded.run, found, UNITS, nothing):
        assert reasons
        for reason in reasons:
            assert reason["metric"] in loaded.knows.names
            numbers = [reason[key] for key in ("usual_low", "usual_high", "contribution")]
            assert all(map(math.isfinite, numbers))
            assert reason["value"] is None or math.isfinite(reason["value"])
            says(reason)
