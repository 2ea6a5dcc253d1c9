"""The forest against scikit-learn, against itself on other windows, and on awkward input."""

import functools
import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length

from pyml import forest
from pyml.detectors import features, growing, hours, thresholds
from pyml.detectors.base import CRITICAL, NORMAL, WARNING
from pyml.detectors.isolation import PARAMETERS, Spans
from pyml.errors import NotEnoughData
from pyml.models import blob

from .contracts import HABIT, gauges, read, signals_of

NAMES = ["cpu", "memory", "received"]
FOREST = forest.Forest()


def nothing():
    """A pulse that goes on."""


def telemetry(seed=0, days=2, interval=60.0, metrics=3):
    """Daily rhythm plus noise with a memory of a few readings; a steady machine."""
    rng = np.random.default_rng(seed)
    times = 1.7e9 + np.arange(0, days * 86400, interval)
    noise = rng.normal(size=(len(times), metrics))
    for row in range(1, len(times)):
        noise[row] += 0.7 * noise[row - 1]
    rhythm = np.sin(times * 2 * np.pi / 86400)[:, None] * np.arange(1, metrics + 1)
    return times, 40 + 3 * rhythm + 2 * noise


def packed(fitted):
    return blob.pack(FOREST, fitted.numbers, fitted.model)


def runner(fitted):
    session = onnxruntime.InferenceSession(packed(fitted))
    return lambda inputs: session.run(None, {"features": inputs["features"]})


def signals(times, values, names=None):
    return signals_of(times, values, tuple(names or [f"m{j}" for j in range(values.shape[1])]))


def train(times, values, names=None, pulse=nothing, **options):
    options = {"contamination": 0.01, "n_estimators": 50, "seed": 1} | options
    return FOREST.fit(signals(times, values, names), options, pulse)


def scored(fitted, times, values):
    """What the forest says of the readings that have a value."""
    given = signals(times, values, fitted.model.names)
    return FOREST.detect(fitted.model, runner(fitted), given, -np.inf, nothing)


def features_of(fitted, times, values):
    return features.features(fitted.model, times, values, nothing)


def scores_of(fitted, times, values):
    """Scores of all readings, those without a value too."""
    return FOREST.scores(fitted.model, runner(fitted), features_of(fitted, times, values), nothing)


def matrix_of(fitted, times, values):
    return features_of(fitted, times, values).matrix()


def distance_of(fitted, times, values):
    return fitted.model.together.distance(features_of(fitted, times, values).vectors)


def alone(fitted, matrix):
    """Scores of the trees."""
    return runner(fitted)({"features": matrix})[0][:, 0]


def trained_on(fitted, times, values, trees):
    """What the trees of a training are grown on, nothing missing; which see what; its blocks."""
    model, m = fitted.model, values.shape[1]
    scaled = features.standardised(model.scaling, values)
    columns = features.moves(model.spans, times, scaled, nothing)
    _, compared = hours.learn(times, columns[:, : 2 * m], np.arange(2 * m) >= m, nothing)
    seen = features.Features(columns, compared)
    matrix = seen.matrix()
    filled = np.where(np.isnan(matrix), np.nanmedian(matrix, axis=0), matrix)
    return filled, seen.views(), FOREST.blocks(model.spans, times, compared, trees)


def explained(fitted, times, values, row):
    found = scored(fitted, times, values).of(slice(row, row + 1))
    return FOREST.explain(fitted.model, runner(fitted), found, {}, nothing)[0]


@pytest.mark.parametrize("trees", [1, 6])
def test_trees_that_see_everything_are_those_of_scikit_learn(trees):
    times, values = (cells[: PARAMETERS.subsample] for cells in telemetry())
    values[5:90:7, 1] = np.nan
    filled, views, blocks = trained_on(train(times, values), times, values, trees)
    assert blocks.groups == 1
    all_, rows = np.ones_like(views), len(filled)
    grown = growing.grow(filled, all_, blocks.seen(), rows, trees, 3, nothing)
    found = blocks.unseen_scores(grown, growing.path_lengths(grown), filled, nothing)
    oracle = IsolationForest(n_estimators=trees, random_state=3).fit(filled)
    np.testing.assert_allclose(found, oracle.score_samples(filled), atol=1e-5)


def test_half_the_trees_see_how_much_a_metric_moves_and_half_how_unusual_that_is_at_its_hour():
    times, values = telemetry(days=3)
    m, n = values.shape[1], 56
    filled, views, blocks = trained_on(train(times, values), times, values, n)
    grown = growing.grow(filled, views, blocks.seen(), blocks.rows, n, 3, nothing)
    value, spread, longer, beyond, unusual = range(5)
    for i, tree in enumerate(grown):
        split = set((tree.feature[tree.feature >= 0] // m).tolist())
        assert split == (
            {value, longer, beyond, unusual} if i // 7 % 2 else {value, spread, longer}
        )


def lengths(grown, filled):
    """Path lengths of readings in trees, shape (trees, readings), as scikit-learn has them."""
    found = np.zeros((len(grown), len(filled)))
    for i, tree in enumerate(grown):
        leaf = tree.apply(filled)
        steps = np.asarray(tree.decision_path(filled).sum(axis=1)).ravel() - 1
        found[i] = steps + _average_path_length(tree.n_node_samples[leaf])
    return found


@pytest.mark.parametrize("trees", [7, 50, 130])
def test_scores_are_those_of_trees_that_each_see_four_days_of_seven(trees):
    times, values = telemetry(days=3)
    fitted = train(times, values, n_estimators=trees, seed=3)
    filled, views, blocks = trained_on(fitted, times, values, trees)
    grown = growing.grow(filled, views, blocks.seen(), blocks.rows, trees, 3, nothing)
    assert blocks.groups == 7
    length = lengths(grown, filled)
    usual = _average_path_length([PARAMETERS.subsample])[0]
    found = alone(fitted, filled)
    np.testing.assert_allclose(found, -(2 ** (-length.mean(axis=0) / usual)), atol=1e-5)
    # What the limits are made from: each block by the trees of the groups that have not seen it.
    unseen = blocks.unseen_scores(grown, growing.path_lengths(grown), filled, lambda: None)
    for block in range(7):
        inside = blocks.block == block
        groups = [g for g in range(7) if not inside[blocks.seen()[g]].any()]
        assert len(groups) == 3
        mine = np.concatenate([length[g::7][:, inside] for g in groups])
        expected = -(2 ** (-mine.mean(axis=0) / usual))
        np.testing.assert_allclose(unseen[inside], expected, atol=1e-5)


@pytest.mark.slow
def test_trees_of_a_leaf_or_a_single_split_score_as_scikit_learns():
    """Many of the trees see a constant, or constants and one or two other readings."""
    times, values = telemetry()
    values[:] = 7.0
    values[-3:] = [[7.0, 7.0, -90.0], [7.0, -90.0, 7.0], [-90.0, 7.0, 7.0]]
    sizes = set()
    usual = _average_path_length([PARAMETERS.subsample])[0]
    for seed in range(40):
        fitted = train(times, values, n_estimators=5, seed=seed)
        filled, views, blocks = trained_on(fitted, times, values, 5)
        grown = growing.grow(filled, views, blocks.seen(), blocks.rows, 5, seed, nothing)
        sizes |= {tree.node_count for tree in grown}
        found = alone(fitted, filled)
        wanted = -(2 ** (-lengths(grown, filled).mean(axis=0) / usual))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert sizes >= {1, 3, 5}


def test_same_seed_same_bytes_and_another_seed_another_forest():
    times, values = telemetry()
    first, again, other = (train(times, values, seed=s) for s in (1, 1, 2))
    assert packed(first) == packed(again)
    assert first.model == again.model
    assert packed(first) != packed(other)


def test_inputs_are_left_as_they_are():
    times, values = telemetry()
    values[10, 0] = np.nan
    kept = times.copy(), values.copy()
    fitted = train(times, values)
    scored(fitted, times, values)
    explained(fitted, times, values, 5)
    np.testing.assert_array_equal(times, kept[0])
    np.testing.assert_array_equal(values, kept[1])


@pytest.mark.parametrize("interval", [10.0, 60.0, 300.0, 900.0])
def test_any_window_gives_the_same_bits(interval):
    times, values = telemetry(days=interval / 20, interval=interval)
    rng = np.random.default_rng(4)
    kept = rng.random(len(times)) > 0.1  # irregular
    kept[2000:2400] = False  # an outage
    times, values = times[kept] + rng.uniform(0, interval / 12, kept.sum()), values[kept]
    values[rng.random(values.shape) < 0.05] = np.nan
    fitted = train(times, values)
    whole = scores_of(fitted, times, values)
    for start, end in [(500, 1500), (1700, 2400), (2100, 2101), (3000, len(times))]:
        reach = times > times[start] - fitted.model.spans.lookback
        reach[end:] = False
        part = scores_of(fitted, times[reach], values[reach])
        np.testing.assert_array_equal(part[-(end - start) :], whole[start:end])


def test_any_batch_and_any_number_of_threads_give_the_same_bits():
    times, values = telemetry()
    fitted = train(times, values, n_estimators=100)
    matrix = matrix_of(fitted, times, values)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(packed(fitted), options).run
    whole = runner(fitted)({"features": matrix})[0]
    for size in [1, 2, 3, 7, 31, 64, 200, 1440]:
        found = run(None, {"features": matrix[100 : 100 + size]})[0]
        np.testing.assert_array_equal(found, whole[100 : 100 + size])


def test_the_future_does_not_matter():
    times, values = telemetry()
    fitted = train(times, values)
    changed = values.copy()
    changed[1000:] += 50
    before = scored(fitted, times, values).scores[:1000]
    np.testing.assert_array_equal(scored(fitted, times, changed).scores[:1000], before)


def test_a_burst_is_found_and_explained():
    times, values = telemetry(days=4)
    fitted = train(times[:4320], values[:4320], NAMES)
    values[5000:5010, 2] += 60
    result = scored(fitted, times, values)
    assert (result.severity[5000:5010] >= WARNING).all()
    assert (result.severity[5000:5010] == CRITICAL).any()
    reasons = explained(fitted, times, values, 5005)
    assert reasons[0]["metric"] == "received"
    assert reasons[0]["value"] > reasons[0]["usual_high"] > reasons[0]["usual_low"]
    gains = [reason["contribution"] for reason in reasons]
    assert gains == sorted(gains, reverse=True)


def test_metrics_that_part_are_far_though_each_stays_in_its_range():
    times, values = telemetry(days=4)
    values[:, 2] = values[:, 1] + np.random.default_rng(2).normal(0, 0.05, len(times))
    fitted = train(times[:4320], values[:4320])
    values[5000, 2] -= 4 * np.sign(values[5000, 2] - 40)  # towards the middle
    distance = distance_of(fitted, times, values)
    assert distance[5000] > distance[:4320].max() + 1


@pytest.mark.parametrize(
    ("interval", "windows", "lasting"),
    [
        (10, (15, 60), 90),
        (60, (15, 60), 90),
        (120, (8, 30), 45),
        (300, (3, 12), 18),
        (900, (2, 4), 6),
        (1800, (2,), 3),
        (86400, (2,), 3),
    ],
)
def test_a_device_that_reports_less_often_looks_back_as_many_minutes(interval, windows, lasting):
    spans = Spans.of(interval, PARAMETERS)
    assert (spans.windows, spans.lasting) == (windows, lasting)
    assert spans.lookback == windows[-1] * interval


def test_a_level_far_out_is_far_while_it_lasts():
    """One metric of six, at rest where it never was: its spread is ordinary."""
    times, values = telemetry(days=4, metrics=6)
    fitted = train(times[:4320], values[:4320])
    values[4700:5060, 2] += 45  # six hours
    distance = distance_of(fitted, times, values)
    assert distance[4705:5060].min() > distance[:4320].max() + 1
    assert explained(fitted, times, values, 5050)[0]["metric"] == "m2"


@functools.cache
def _a_week(seed, interval):
    times, values = telemetry(seed, days=9, interval=interval)
    week = int(7 * 86400 / interval)
    return times, values, train(times[:week], values[:week])


def _after_a_gap(times, values, at, hour):
    kept = (np.arange(len(times)) < at - 6 * hour) | (np.arange(len(times)) >= at)
    return times[kept], values[kept]


def _after_a_restart(times, values, at, hour):
    values[at - 2 : at] = np.nan
    return times, values


def _after_the_clock_went_forward(times, values, at, hour):
    times[at:] += 3600
    return times, values


def _after_the_clock_went_back(times, values, at, hour):
    times[at + hour :] -= 3600
    return times, values


def _in_a_slow_trend(times, values, at, hour):
    """Each day by as much as the metric goes up and down in it."""
    values[:, 0] += 6 * np.clip((times - times[0]) / 86400 - 7, 0, 2)
    return times, values


@pytest.mark.parametrize("interval", [60, 300])
@pytest.mark.parametrize(
    "disturb",
    [
        _after_a_gap,
        _after_a_restart,
        _after_the_clock_went_forward,
        _after_the_clock_went_back,
        _in_a_slow_trend,
    ],
)
def test_there_is_no_storm(disturb, interval):
    """Four devices' next three hours."""
    flagged = []
    for seed in range(4):
        times, values, fitted = _a_week(seed, interval)
        hour = int(3600 / interval)
        at = 8 * 24 * hour
        since = times[at]
        came = read(*disturb(times.copy(), values.copy(), at, hour), interval)
        result = scored(fitted, came.times, came.values)
        hours = (result.times >= since) & (result.times < since + 3 * 3600)
        assert hours.sum() >= 2 * hour
        flagged += (result.severity[hours] > NORMAL).tolist()
    assert np.mean(flagged) < 0.04


@pytest.mark.parametrize("seed", range(3))
def test_a_fault_that_is_there_when_a_model_is_trained_stays_one(seed):
    """Three hours of it are in the training, as after a nightly retraining in its midst."""
    times, values = telemetry(days=8, seed=seed)
    values[9900:10500] += np.random.default_rng(seed).normal(0, 10, (600, 3))
    result = scored(train(times[:10080], values[:10080]), times, values)
    assert (result.severity[10080:10500] >= WARNING).all()


def test_what_a_machine_does_each_night_is_ordinary():
    """Half an hour a day that looks like nothing else in it; of a single night it is not."""
    times, values = telemetry(days=7)
    nights = (times - times[0]) % 86400 < 1800
    often, once = values.copy(), values.copy()
    often[nights] += 20
    once[nights & (times < times[1500])] += 20
    *_, blocks = trained_on(train(times, often), times, often, 50)
    assert blocks.ordinary[nights].mean() > 0.9
    *_, blocks = trained_on(train(times, once), times, once, 50)
    assert not blocks.ordinary[1440 + 25 : 1440 + 45].any()
    # Two days do not tell a habit from a fault: nothing is left out.
    times, often = times[:2880], often[:2880]
    *_, blocks = trained_on(train(times, often), times, often, 50)
    assert blocks.ordinary.all()


@pytest.mark.parametrize("rows", range(7, 60))
def test_every_block_has_something_ordinary(rows):
    far = np.arange(rows, dtype=float)
    blocks = thresholds.Blocks.of(far, 50, PARAMETERS)
    assert all(len(part) for part in blocks.parts(far, blocks.ordinary))
    assert all(len(seen) >= blocks.rows > 0 for seen in blocks.seen())


@pytest.mark.parametrize("readings", [150, 288, 1440])
def test_a_limit_from_few_readings_is_no_looser(readings):
    """What comes after is beyond it as often as was asked, however few there were."""
    random = np.random.default_rng(0)
    limits = [thresholds.lowest(random.random(readings), np.array([0.01])) for _ in range(2000)]
    assert np.mean(limits) == pytest.approx(0.01, rel=0.06)


def test_a_single_reading_far_out_is_critical_and_says_which_metric():
    times, values = telemetry(days=8)
    fitted = train(times[:10080], values[:10080])
    values[10240, 1] += 60
    result = scored(fitted, times, values)
    assert result.severity[10240] == CRITICAL
    assert result.severity[10239] == NORMAL
    reasons = explained(fitted, times, values, 10240)
    assert reasons[0]["metric"] == fitted.model.names[1]
    assert reasons[0]["contribution"] > 1


def test_one_metric_far_out_is_flagged_among_many():
    """The distance of all says little of it where there are nearly as many metrics as readings."""
    rng = np.random.default_rng(0)
    times = 1.7e9 + 60.0 * np.arange(700)
    values = rng.normal(50, 5, (700, 100))
    fitted = train(times[:600], values[:600])
    values[650, 7] = 500
    result = scored(fitted, times, values)
    assert result.severity[650] > NORMAL
    assert explained(fitted, times, values, 650)[0]["metric"] == "m7"


def test_what_is_far_out_is_rarer_than_what_was_highest_in_the_training():
    times, values = telemetry(days=4)
    fitted = train(times[:4320], values[:4320])
    fault = slice(5000, 5120)
    values[fault, 2] += 3 * np.ptp(values[:4320, 2])
    result = scored(fitted, times, values)
    highest = max(fitted.figures["peaks"])
    assert (-result.scores[fault] > 1.1 * highest).mean() > 0.9


def test_what_is_usual_at_another_hour_alone_is_flagged():
    """The load of a working day, in the night."""
    times, values = telemetry(days=8)
    busy = (times % 86400 >= 8 * 3600) & (times % 86400 < 18 * 3600)
    values[busy] += 60
    fitted = train(times[:10080], values[:10080])
    night = (times >= times[10080]) & (times % 86400 >= 3600) & (times % 86400 < 3 * 3600)
    values[night] += 60
    result = scored(fitted, times, values)
    assert (result.severity[night] > NORMAL).mean() > 0.9
    assert (result.severity[(times >= times[10080]) & busy] > NORMAL).mean() < 0.05


@pytest.mark.parametrize("shift", [-12.0, 8.0, 15.0])
def test_metrics_that_stay_where_they_never_were_are_flagged_to_the_end(shift):
    """Twelve hours in which nothing jumps and nothing is restless, but all is elsewhere."""
    times, values = telemetry(days=8)
    fitted = train(times[:10080], values[:10080])
    values[10080 + 720 :] += shift * values[:10080].std(axis=0)
    result = scored(fitted, times[9000:], values[9000:])
    later = result.times > times[10080 + 730]
    assert (result.severity[later] > NORMAL).mean() > 0.98


def test_one_bad_day_does_not_hide_another():
    times, values = telemetry(days=8)
    quiet = train(times[:10080], values[:10080]).model.warning
    values[4000:5000] += np.random.default_rng(3).normal(0, 30, (1000, 3))
    fitted = train(times[:10080], values[:10080])
    assert fitted.figures["held_out_flagged_most"] > 0.2
    assert fitted.model.warning > 1.5 * quiet
    values[11000:11060] += np.random.default_rng(4).normal(0, 15, (60, 3))
    result = scored(fitted, times, values)
    assert (result.severity[11005:11060] >= WARNING).all()


def test_a_machine_that_has_changed_for_good_is_soon_normal():
    times, values = telemetry(days=8)
    values[8640:] += 25  # the last day of the training, and the day that is scored
    result = scored(train(times[:10080], values[:10080]), times, values)
    assert (result.severity[10080 + 240 :] >= WARNING).mean() < 0.03


def test_severity_follows_the_stored_thresholds():
    times, values = telemetry()
    fitted = train(times, values)
    result = scored(fitted, times, values)
    assert fitted.model.critical < fitted.model.warning < 0
    expected = (result.scores < fitted.model.warning).astype(int)
    expected += result.scores < fitted.model.critical
    np.testing.assert_array_equal(result.severity, expected)


@pytest.mark.parametrize("rows", [2, 3, 100])
def test_short_input_gives_finite_scores(rows):
    times, values = telemetry()
    fitted = train(times[:rows], values[:rows])
    assert np.isfinite(scored(fitted, times, values).scores).all()


def test_awkward_columns():
    times, values = telemetry(metrics=5)
    values[:, 1] = 7.0  # constant
    values[:, 2] = np.nan  # never reported
    values[::3, 3] = np.nan
    values[50, 0] = 1e14
    fitted = train(times, values, ["a", "b", "c", "d", "e"])
    assert fitted.model.names == ("a", "b", "d", "e")
    values = values[:, [0, 1, 3, 4]]
    values[7] = np.nan
    scores, found = scores_of(fitted, times, values), scored(fitted, times, values)
    assert np.isfinite(scores).all()
    assert (scores < 0).all()
    assert scores[7] >= fitted.model.warning
    np.testing.assert_array_equal(found.times, np.delete(times, 7))
    np.testing.assert_array_equal(found.scores, np.delete(scores, 7))
    with pytest.raises(ValueError, match="expected the columns"):
        features_of(fitted, times, values[:, :3])


def test_a_machine_that_never_changes_is_normal():
    times, values = telemetry()
    values[:] = 7.0
    assert not scored(train(times, values), times, values).severity.any()


def test_nothing_to_train_on():
    times, values = telemetry()
    with pytest.raises(NotEnoughData) as caught:
        train(times, np.full_like(values, np.nan))
    assert caught.value.hint
    with pytest.raises(NotEnoughData):
        train(times[:0], values[:0])


def test_nothing_to_score():
    times, values = telemetry()
    found = scored(train(times, values), times[:0], values[:0])
    assert len(found.scores) == len(found.severity) == len(found.times) == 0


def test_the_metadata_is_json():
    times, values = telemetry()
    fitted = train(times, values)
    metrics = gauges(fitted.model.names)
    model = fitted.model.knowing(metrics, [HABIT] * len(metrics))
    stored = json.dumps(model.to_json())
    json.dumps(fitted.figures)
    restored = FOREST.of_json(json.loads(stored))
    assert restored == model
    again = scored(replace(fitted, model=restored), times, values)
    np.testing.assert_array_equal(again.scores, scored(fitted, times, values).scores)


def test_what_pulse_raises_ends_the_training():
    class Cancelled(Exception):
        pass

    def pulse():
        raise Cancelled

    times, values = telemetry()
    with pytest.raises(Cancelled):
        train(times, values, pulse=pulse)


def test_what_hardly_moves_is_as_still():
    """A disk that fills evenly: by how much less than even it did is no size to measure by."""
    rng = np.random.default_rng(0)
    even = np.abs(rng.normal(0, 1e-9, (1000, 1)))
    assert features.sizes_of(even) == [features.LEAST]
    assert features.largest([features.LEAST], even).max() < 1e-5
    assert features.sizes_of(np.zeros((10, 1))) == [0.01]
    assert features.sizes_of(np.ones((10, 1))) == [1.0]
