"""Checks of every finder that is registered."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml.detectors.base import CRITICAL, WARNING, Signals
from pyml.detectors.pooling import FLEETS
from pyml.detectors.rarity import MOST_PEAKS
from pyml.following import Following, finders
from pyml.models import blob

from .contracts import (
    Ended,
    ending,
    frozen,
    junk,
    known_settings,
    nothing,
    read,
    settings_of,
    signals_of,
    train,
    unless_too_little,
)

ALL = finders()
NAMES = ("cpu", "memory", "received")
START, MINUTE = 1.7e9, 60.0
# What is below has no part in the values, as the readings leave out what is no measurement.
IMPOSSIBLE = -100.0


@pytest.fixture(params=ALL, ids=lambda one: one.kind)
def finder(request):
    return request.param


def telemetry(seed=0, n=3000, start=START, interval=MINUTE):
    """Daily rhythm plus noise, a reading a minute."""
    rng = np.random.default_rng(seed)
    times = start + interval * np.arange(n)
    rhythm = np.sin(times * 2 * np.pi / 86400)[:, None] * np.arange(1, 4)
    return signals_of(times, 40 + 3 * rhythm + 2 * rng.normal(size=(n, 3)), NAMES)


def changed(signals, change):
    """The same with values changed in place, and without the readings that `change` gives."""
    values = signals.values.copy()
    gone = change(values)
    kept = np.ones(len(values), bool)
    if gone is not None:
        kept[gone] = False
    found = signals_of(signals.times[kept], values[kept], signals.names)
    impossible = found.values < IMPOSSIBLE
    return replace(
        found,
        values=np.where(impossible, np.nan, found.values),
        unfit=np.where(impossible, found.values, np.nan),
    )


def hang(values):
    values[1200:2800, 0] = values[1200, 0]


def vanish(values):
    values[1200:2800, 1] = np.nan


def fall_silent(values):
    return slice(1200, 2800)


def shift(values):
    values[1200:2800, 2] += 20


def answer_junk(values):
    values[1200:2800, 1] = -999.0


FAULTS = (hang, vanish, fall_silent, shift, answer_junk)


def ready(finder, signals):
    fitted, model = train(finder, signals)
    return blob.load(finder, blob.pack(finder, fitted.numbers, model)).knows


@pytest.fixture
def model(finder):
    return ready(finder, telemetry())


def found_by(finder, model, signals, since=None, until=None, pulse=nothing):
    seen = signals.of_metrics(model.names)
    since = float(signals.times[0]) - 1 if since is None else since
    until = float(signals.times[-1]) if until is None else until
    return finder.find(model, seen, since, until, pulse)


def test_the_same_data_and_seed_give_the_same_bytes(finder):
    def packed(signals):
        fitted, model = train(finder, signals)
        return blob.pack(finder, fitted.numbers, model)

    first = packed(telemetry())
    packed(telemetry(seed=9))  # another device in between
    assert packed(telemetry()) == first
    assert len(first) <= finder.max_bytes


def test_inputs_are_left_as_they_are(finder):
    """Arrays that cannot be written to do."""
    plain = telemetry()
    model = ready(finder, signals_of(*frozen(plain.times, plain.values), NAMES))
    for fault in FAULTS:
        later = changed(telemetry(seed=5), fault)
        times, values, unfit = frozen(later.times, later.values, later.unfit)
        fixed = replace(later, times=times, values=values, unfit=unfit)
        assert found_by(finder, model, fixed) == found_by(finder, model, later)


def test_the_stored_form_is_exact(finder):
    fitted, model = train(finder, telemetry())
    again = finder.of_json(json.loads(json.dumps(finder.to_json(model), allow_nan=False)))
    assert again == model
    data = blob.pack(finder, fitted.numbers, model)
    loaded = blob.load(finder, data)
    assert loaded.knows == model
    assert blob.pack(finder, loaded.numbers, loaded.knows) == data
    assert json.loads(json.dumps(fitted.figures, allow_nan=False)) == fitted.figures


def test_a_training_says_how_high_its_score_is_on_days_held_out(finder):
    week = telemetry(n=10080)
    figures = train(finder, week)[0].figures
    assert figures["ordinary_hours"] == pytest.approx(168)
    peaks = figures["peaks"]
    assert peaks == sorted(peaks, reverse=True)
    assert 7 <= len(peaks) <= MOST_PEAKS
    assert 0 <= peaks[-1] <= peaks[0] < 1  # ordinary days have no finding


FINDS = {
    "stuck": (hang,),
    "presence": (vanish, fall_silent),
    "level": (shift,),
    "junk": (answer_junk,),
}


@pytest.mark.parametrize(
    ("finder", "fault"),
    [(one, fault) for one in ALL for fault in FINDS.get(one.kind, ())],
    ids=lambda part: getattr(part, "__name__", getattr(part, "kind", "")),
)
@pytest.mark.parametrize("begin", [2500, 2800])  # the third day begins at 2880
def test_a_fault_in_the_training_is_one_peak_about_as_high_as_its_like(finder, fault, begin):
    def for_two_hours(first):
        def of(values):
            gone = fault(values[first - 1200 : first + 120])
            return slice(first, first + 120) if gone else None

        return of

    week = telemetry(n=10080)
    plain = train(finder, week)[0].figures["peaks"]
    peaks = train(finder, changed(week, for_two_hours(begin)))[0].figures["peaks"]
    model = ready(finder, week)
    found = found_by(finder, model, changed(telemetry(seed=5), for_two_hours(1500)))
    score = max(finder.score(model, one) for one in found)
    if peaks[0] < 1:  # that day is no ordinary one
        assert finder.kind == "level"
        assert peaks[0] == pytest.approx(plain[0], abs=0.3)
        return
    (high,) = [peak for peak in peaks if peak >= 1]
    assert 0.5 < high / score < 2  # a level's score depends on the window that shows it best
    assert peaks[1] == pytest.approx(plain[0], abs=0.3)


def test_metadata_of_another_form_is_none(finder):
    assert finder.of_json({}) is None
    _, model = train(finder, telemetry())
    whole = json.loads(json.dumps(finder.to_json(model)))
    assert finder.of_json(dict(whole)) == model
    for key in whole:
        less = {name: value for name, value in whole.items() if name != key}
        assert finder.of_json(less) is None, key
        assert finder.of_json(whole | {key: "x"}) is None, key
        if isinstance(whole[key], list):
            assert finder.of_json(whole | {key: whole[key][:-1]}) is None, key
    assert finder.of_json(whole | {"more": 1}) is None


def test_ordinary_days_have_no_finding(finder, model):
    for seed in range(3, 9):
        assert found_by(finder, model, telemetry(seed=seed)) == []


def test_one_of_the_faults_is_found_and_said_in_words(finder, model):
    every = {fault: found_by(finder, model, changed(telemetry(5), fault)) for fault in FAULTS}
    assert any(every.values())
    times = telemetry().times
    for fault, found in every.items():
        for one in found:
            assert one.metric in ("", *NAMES)
            assert one.severity in (WARNING, CRITICAL)
            assert 0 < one.score < math.inf
            assert times[0] <= one.started_at < one.last_at <= times[-1]
            assert json.loads(json.dumps(one.evidence, allow_nan=False)) == one.evidence
            words = one.sentence or finder.words(model, one, "°C")
            assert one.metric in words, fault
            assert "nan" not in words


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_neither_the_future_nor_the_distant_past_matters(finder, model, fault):
    signals = changed(telemetry(seed=5), fault)
    since, until = START + 1500 * MINUTE, START + 2000 * MINUTE
    whole = found_by(finder, model, signals, since, until)
    wild = signals.values.copy()
    wild[signals.times > until] = 500
    reach = signals.times > since - finder.lookback(model)
    wild[~reach] = np.nan
    bounded = reach & (signals.times <= until)
    for times, values in (
        (signals.times, wild),
        (signals.times[reach], signals.values[reach]),
        (signals.times[bounded], signals.values[bounded]),
    ):
        rows = np.isin(signals.times, times)
        part = replace(
            signals, times=times, values=values, held=signals.held[rows], unfit=signals.unfit[rows]
        )
        assert found_by(finder, model, part, since, until) == whole


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_only_what_is_wrong_in_the_window_is_said(finder, model, fault):
    """The same spans come of one look as of many, each at some readings."""
    signals = changed(telemetry(seed=5), fault)
    whole = found_by(finder, model, signals)
    assert found_by(finder, model, signals, since=START + 2950 * MINUTE) == []
    many = []
    for minute in range(0, 3000, 20):
        since = START + (minute - 1) * MINUTE
        many += found_by(finder, model, signals, since, since + 20 * MINUTE)
    for one in whole:
        same = [part for part in many if part.metric == one.metric]
        assert max((part.kind for part in same), key=finder.kinds.index) == one.kind
        assert min(part.started_at for part in same) == one.started_at
        # Of a silence that ends, a look that does not reach back to when it began says nothing.
        slack = 20 * MINUTE if one.kind == "silent" else 0.0
        assert one.last_at - slack <= max(part.last_at for part in same) <= one.last_at
    assert {part.metric for part in many} == {one.metric for one in whole}


def test_the_order_of_rows_does_not_matter(finder):
    signals = telemetry()
    mixed = np.random.default_rng(3).permutation(len(signals.times))

    def cleaned(order):
        return Signals.of(read(signals.times[order], signals.values[order]), NAMES, MINUTE)

    assert ready(finder, cleaned(np.arange(len(mixed)))) == ready(finder, cleaned(mixed))


def test_what_pulse_raises_ends_the_training(finder):
    calls, pulse = ending(after=0)
    finder.fit(telemetry(), settings_of(finder), pulse)
    assert calls[0] > 0
    for after in {1, calls[0]}:
        with pytest.raises(Ended):
            finder.fit(telemetry(), settings_of(finder), ending(after)[1])


def test_what_pulse_raises_ends_a_look(finder, model):
    for fault in FAULTS:
        signals = changed(telemetry(seed=5), fault)
        calls, pulse = ending(after=0)
        found_by(finder, model, signals, pulse=pulse)
        for after in {min(1, calls[0]), calls[0]} - {0}:
            with pytest.raises(Ended):
                found_by(finder, model, signals, pulse=ending(after)[1])


def test_nothing_to_look_at(finder, model):
    nobody = signals_of(np.empty(0), np.empty((0, 3)), NAMES)
    found = finder.find(model, nobody, START, START + 1e6, nothing)
    assert [(one.metric, one.last_at) for one in found] in ([], [("", START + 1e6)])
    assert all(one.started_at == START - finder.lookback(model) for one in found)


def test_it_looks_when_a_device_is_silent(finder, model):
    """From `silent_from` on, and not before, nothing is something."""
    signals = telemetry(seed=5)
    last = float(signals.times[-1])
    begins = finder.silent_from(model, last)
    if math.isinf(begins):
        assert found_by(finder, model, signals, last, last + 1e7) == []
        return
    assert begins > last
    assert found_by(finder, model, signals, last, begins - 1) == []
    (one,) = found_by(finder, model, signals, last, begins + 1)
    assert (one.started_at, one.last_at) == (last, begins + 1)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(trained=junk(3, (0, 1, 2, 3, 15, 60, 400, 800), 60.0), later=st.sampled_from((1, 60, 400)))
def test_junk_is_found_or_is_too_little(one, trained, later):
    times, values = trained
    signals = signals_of(times, values, NAMES[: values.shape[1]])
    reported = np.isfinite(values).any(axis=0)  # a forest's metrics have a number
    signals = signals.of_metrics([n for n, there in zip(NAMES, reported, strict=False) if there])
    if not len(signals.names):
        return
    model = unless_too_little(lambda: ready(one, signals))
    if model is None:
        return
    rng = np.random.default_rng(later)
    wild = rng.choice([-1e15, -1.0, 0.0, 7.0, 1e15, np.nan], (later, len(signals.names)))
    after = float(times[-1]) + 60.0 * np.arange(1, later + 1)
    both = signals_of(
        np.append(times, after), np.concatenate([signals.values, wild]), signals.names
    )
    both = replace(both, held=rng.random(len(both.times)) < 0.1)
    for found in found_by(one, model, both):
        assert math.isfinite(found.score)
        assert found.score > 0
        assert found.started_at <= found.last_at
        assert found.sentence or one.words(model, found, None)


def jump_far(values):
    values[1200:2800, 2] = 65535.0


GROSS = {
    "stuck": (hang,),
    "presence": (vanish, fall_silent),
    "level": (jump_far,),
    "junk": (answer_junk,),
}


@pytest.fixture(scope="module")
def several():
    """Models of a fleet of five, by kind."""
    return {one.kind: [ready(one, telemetry(seed=s)) for s in range(20, 25)] for one in ALL}


def test_what_stands_in_is_a_model_as_any_other(finder, several):
    models = several[finder.kind]
    model = finder.pooled(models)
    data = blob.pack(finder, {}, model)
    assert blob.load(finder, data).knows == model
    assert blob.pack(finder, {}, finder.pooled(models[::-1])) == data
    assert finder.pooled(models[:2]) is None
    assert finder.pooled([]) is None
    less = [one.of_metrics({"cpu"} if place > 1 else NAMES) for place, one in enumerate(models)]
    assert finder.pooled(less) == replace(model.of_metrics({"cpu"}), interval=MINUTE)


def test_what_stands_in_tells_of_what_is_gross_alone(finder, several):
    """Nor does a device whose training was a fault make it deaf."""
    faults = GROSS.get(finder.kind, ())
    poisoned = [ready(finder, changed(telemetry(seed=25), fault)) for fault in faults]
    for models in (several[finder.kind], *([*several[finder.kind] * 2, one] for one in poisoned)):
        model = finder.pooled(models)
        for seed in range(3, 6):
            assert found_by(finder, model, telemetry(seed=seed)) == []
        for fault in faults:
            found = found_by(finder, model, changed(telemetry(seed=5), fault))
            assert found, fault
            words = [
                finder.words(model, replace(one, evidence=one.evidence | FLEETS), None)
                for one in found
            ]
            assert not any(
                "at this hour" in each or "it never" in each
                for each in words
                if "other devices" not in each
            )


def test_a_device_of_another_scale_or_habit_is_not_compared(finder, several):
    model = finder.pooled(several[finder.kind])

    def first(change):
        seen = changed(telemetry(seed=5, n=60), change).of_metrics(model.names)
        return finder.unlike(model, seen, float(seen.times[-1]), nothing)

    def another(values):
        values[:, 2] += 500

    def still(values):
        values[:, 0] = 41.0

    def junk_only(values):
        values[:, 1] = -999.0

    assert first(lambda values: None) == set()
    odd = {
        "level": (another, {"received"}),
        "stuck": (still, {"cpu"}),
        "presence": (junk_only, {"memory"}),
        "junk": (junk_only, {"memory"}),
    }
    change, names = odd.get(finder.kind, (lambda values: None, set()))
    assert first(change) == names


def test_devices_that_differ_much_make_it_speak_of_none_of_them(finder):
    scales = (1.0, 1.5, 30.0, 1e4)
    fleet = [replace(one, values=one.values * scale) for scale in scales for one in [telemetry(7)]]
    model = finder.pooled([ready(finder, one) for one in fleet])
    if finder.kind == "level":  # no three are where others are
        assert model is None
        return
    for one in fleet:
        first = replace(
            one, **{k: getattr(one, k)[:60] for k in ("times", "values", "held", "unfit")}
        )
        unlike = finder.unlike(model, first, float(first.times[-1]), nothing)
        found = found_by(finder, model, one)
        assert {each.metric for each in found} <= unlike


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.kind)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(of=st.lists(junk(2, (60, 400, 800), 60.0), min_size=3, max_size=4))
def test_of_junk_comes_a_model_or_none(one, of):
    models = []
    for times, values in of:
        values = values[:, np.isfinite(values).any(axis=0)]
        signals = signals_of(times, values, NAMES[: values.shape[1]])
        if values.size:
            models.append(unless_too_little(lambda signals=signals: ready(one, signals)))
    model = one.pooled([model for model in models if model])
    if model is not None:
        assert blob.load(one, blob.pack(one, {}, model)).knows == model
        for found in found_by(one, model, telemetry(n=400)):
            assert 0 < found.score < math.inf


def test_one_that_has_too_little_to_go_by_is_left_out():
    given_ = {name: text for name, (_, text) in known_settings().items()}
    short = telemetry(n=20)
    following = Following.of(short, given_, nothing)
    kinds = {one.kind for one, *_ in following.fitted}
    assert kinds | set(following.left_out) == {one.kind for one in ALL}
    assert "stuck" in following.left_out
