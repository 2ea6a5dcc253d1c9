"""Isolation Forest over a device's metrics: fit, score, severity, reasons.

A reading is described by where its metrics have been of late, by how much each has moved over
several spans, by how far all of them together are from where they usually are, and by how far
they, and the farthest of them alone, have jumped (`pyml.detectors.features`). The forest gives
it a score, which is lower at a sudden jump and in trouble that lasts. Two thresholds, fixed when
the model is trained (`pyml.detectors.thresholds`), turn the score into a severity.

What is stored is one ONNX graph; scoring needs numpy alone, which walks its trees.

References
----------
Liu, Ting and Zhou, "Isolation Forest", ICDM 2008.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors import growing
from pyml.detectors.base import (
    DETECTORS,
    Detection,
    Detector,
    Fitted,
    Reason,
    Signals,
)
from pyml.detectors.features import (
    LEVEL_DISTANCE,
    Features,
    Floats,
    Matrix,
    features,
    levels,
    matrix,
    moves,
    rarity,
    sizes,
    tail,
    trailing_mean,
    whitening,
    with_decay,
)
from pyml.detectors.isolation import PARAMETERS, Model, Parameters, Spans
from pyml.detectors.thresholds import Blocks, Thresholds
from pyml.errors import NotEnoughData, unreadable
from pyml.models import trees
from pyml.models.blob import Run, Runner
from pyml.models.trees import Remembering, Trees
from pyml.models.wire import File, Graph, Numbers
from pyml.queries import literal

# Numbers in one batch of the scores behind the reasons, and readings scored or explained at once:
# some tenths of a second.
BATCH, AT_ONCE = 1_000_000, 10_000


@DETECTORS.register
class Forest(Detector[Model]):
    """The Isolation Forest.

    Its score is scikit-learn's ``score_samples``: negative, lower is more anomalous. It is bounded
    at a sudden jump, and lower where trouble lasts.

    Parameters
    ----------
    parameters : Parameters
    """

    kind = "forest"
    settings: ClassVar = {
        "contamination": ("contamination", float),
        "n_estimators": ("n_estimators", int),
        "seed": ("seed", int),
    }
    max_bytes = 8 << 20  # a thousand trees take 1.4 MB, what is known of 200 metrics 4 MB

    def __init__(self, parameters: Parameters = PARAMETERS) -> None:
        self.parameters = parameters

    def training_call(self, device: str, field: str = "", hours: int | None = None) -> str:
        """The statement that trains it, for a person to type."""
        wider = f", hours => {hours}" if hours else ""
        return f"SELECT ml_train_forest({literal(device)}{wider});"

    def load(self) -> None:
        """Load scikit-learn."""
        growing.load()

    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[Model]:
        """Train on the readings of one device.

        Parameters
        ----------
        signals : Signals
        settings : mapping
            ``contamination``: share of readings to call anomalous, in (0, 0.5]; ``n_estimators``:
            trees; ``seed``.
        pulse : callable

        Returns
        -------
        Fitted
            A metric that the device (almost) never reports is left out.

        Raises
        ------
        NotEnoughData
            No metric is reported often enough.
        """
        p, times = self.parameters, signals.times
        used, rows = _reported(signals, p)
        values = signals.values[:, used]
        known = [column[np.isfinite(column)] for column in values.T]
        spans = Spans.of(signals.interval, p)
        scaling, usual = [], []
        for column in known:
            pulse()
            scaling.append(_scaling(column))
            usual.append(_usual(column, settings["contamination"]))
        pulse()
        columns, jumps, sudden = moves(spans, scaling, p, times, values, pulse)
        pulse()
        level_whitening = whitening(levels(len(used), columns[rows]), p)
        pulse()
        jump_whitening = whitening(jumps[rows], p)
        pulse()
        model = Model(
            names=tuple(signals.names[int(j)] for j in used),
            interval=spans.interval,
            spans=spans,
            scaling=scaling,
            usual=usual,
            level_whitening=level_whitening,
            jump_whitening=jump_whitening,
            jump_sizes=sizes(jumps[rows]),
            sudden_sizes=sizes(sudden[rows]),
        )
        pulse()
        found = with_decay(
            spans, model.jump_whitening, p, times, columns, jumps, sudden, np.flatnonzero(rows)
        )
        pulse()
        cells = matrix(model, p, found)
        pulse()
        distance = trailing_mean(spans, times[rows], cells[:, LEVEL_DISTANCE])
        blocks = Blocks.of(distance, settings["n_estimators"], p)
        fill = growing.medians(cells)
        weights = growing.feature_weights(len(used), cells.shape[1])
        pulse()
        offered = np.where(np.isnan(cells), fill, cells)[:, weights]
        grown = growing.grow(
            offered, blocks.seen(), blocks.rows, settings["n_estimators"], settings["seed"], pulse
        )
        paths = growing.path_lengths(grown)
        numbers = growing.numbers_of(grown, paths, blocks.rows, fill, weights)
        pulse()
        level = cells[:, LEVEL_DISTANCE].astype(np.float64)
        model = replace(model, level_tail=tail(level[blocks.ordinary]))
        unseen = blocks.unseen_scores(grown, paths, offered, pulse)
        alone = bounded(model, p, found, level, unseen)
        scores = persistent(spans, p, times[rows], alone)
        pulse()
        limits = Thresholds.of(blocks, scores, settings["contamination"], p)
        return Fitted(
            numbers,
            replace(model, warning=limits.warning, critical=limits.critical),
            limits.figures | {"features": cells.shape[1]},
        )

    def lookback(self, model: Model) -> float:
        """Seconds before a reading that its score depends on."""
        return model.spans.lookback

    def detect(
        self, model: Model, run: Run, signals: Signals, since: float, pulse: Pulse
    ) -> Detection:
        """Score readings and judge them by the thresholds fixed at training.

        A reading's score depends on those of ``spans.lasting`` intervals before it; a reading
        without any value has none.
        """
        p, spans = self.parameters, model.spans
        there = np.isfinite(signals.values).any(axis=1)
        first = since - spans.lasting * spans.interval
        rows = np.flatnonzero((signals.times > first) & there)
        times = signals.times[rows]
        found = features(model, p, signals.times, signals.values, pulse, rows)
        scores = self.scores(model, run, times, found, pulse)
        severity = (scores < model.warning).astype(np.int8) + (scores < model.critical)
        judged = np.flatnonzero((times > since) & ~signals.held[rows])
        whole = Detection(times, signals.values[rows], scores, severity.astype(np.int8), found)
        return whole.of(judged)

    def scores(
        self, model: Model, run: Run, times: Floats, found: Features, pulse: Pulse
    ) -> Floats:
        """Scores (n,) of readings by their features."""
        cells, alone = matrix(model, self.parameters, found), np.empty(len(times))
        for first in range(0, len(times), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            alone[some] = run({"features": cells[some], "again": np.ones(1)})[0][:, 0]
            if first:
                pulse()
        single = bounded(model, self.parameters, found, cells[:, LEVEL_DISTANCE], alone)
        return persistent(model.spans, self.parameters, times, single)

    def explain(self, model: Model, run: Run, found: Detection, pulse: Pulse) -> list[list[Reason]]:
        """Say which metrics made readings anomalous.

        A metric's contribution is how much nearer to normal the score of the reading by itself
        would be had that metric been missing. Metrics that contribute nothing are left out,
        unless none does.
        """
        metrics, count = len(model.names), len(found.times)
        size = max(1, BATCH // ((metrics + 1) * (model.size - 2)))
        gains = np.empty((count, metrics))
        for first in range(0, count, size):
            some = slice(first, first + size)
            gains[some] = _gains(model, run, found.evidence.of(some), self.parameters)
            if first:
                pulse()
        reasons: list[list[Reason]] = []
        for value, gain in zip(found.values.tolist(), gains, strict=True):
            if len(reasons) % AT_ONCE == AT_ONCE - 1:
                pulse()
            reasons.append(_reasons(model, value, gain))
        return reasons

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        return Model.of_json(meta)

    def numbers(self, file: File) -> Numbers:
        """The trees, and the constants beside them."""
        return file.attributes() | file.tensors()

    def graph(self, numbers: Numbers, model: Model) -> Graph:
        """Fill, sum the path lengths, -2^(-depth / c)."""
        return trees.graph(numbers)

    def runner(self, numbers: Numbers, model: Model) -> Runner:
        """Trees walked by numpy.

        Where ``again`` is fed beside ``features``, readings may come again, and are remembered.
        """
        fill, rate = numbers["fill"], numbers["rate"]
        if fill.shape != (model.size,):
            raise unreadable(f"{len(fill)} features")
        wood = Remembering(Trees.of(numbers), model.size)

        def run(feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            readings = feeds["features"]
            depth = wood.sums(np.where(np.isnan(readings), fill, readings), again="again" in feeds)
            with np.errstate(over="ignore"):
                return [-np.exp(depth * rate)[:, None]]

        return Runner(run, wood.size, [(1,)])


def bounded(
    model: Model, p: Parameters, found: Features, level: Floats | Matrix, scores: Floats
) -> Floats:
    """Scores (n,), no higher than a sudden jump of a metric, or where all of them are, allows.

    How sudden a jump is says the lesser of how large it is and how large beside what the metric
    moved before. Where the metrics are counts by how rare the distance of their levels is, `level`
    (n,). Random splits over many columns dilute an extreme of one of them, and trees know of
    nothing beyond what they have seen.
    """
    metrics = len(model.names)
    relative = found.sudden / np.array(model.sudden_sizes)
    sudden = np.minimum(relative[:, :metrics], relative[:, metrics:]).max(axis=1)
    bound = np.interp(sudden, p.sudden, p.sudden_score, left=0.0)
    far = rarity(model.level_tail, level.astype(np.float64))
    bound = np.minimum(bound, np.interp(far, p.far, p.sudden_score, left=0.0))
    return np.asarray(np.minimum(scores, bound))


def persistent(spans: Spans, p: Parameters, times: Floats, scores: Floats) -> Floats:
    """Scores (n,), lower where those of late were low: trouble that lasts counts more."""
    beyond = p.persistence_from - trailing_mean(spans, times, scores)
    return np.maximum(scores - np.clip(p.persistence_gain * beyond, 0.0, p.persistence_most), -1.0)


def _reported(signals: Signals, p: Parameters) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The metrics that are reported often enough, and the readings that have one of them."""
    values, names = signals.values, signals.names
    reported = np.isfinite(values).mean(axis=0) if len(values) else np.zeros(len(names))
    used = np.flatnonzero(reported >= p.least_reported)
    rows = np.asarray(np.isfinite(values[:, used]).any(axis=1))
    if not used.size or rows.sum() < 2:
        raise NotEnoughData(
            "no metric is reported often enough to train on",
            detail=f"{len(values)} readings; reported share by metric: "
            + ", ".join(f"{n} {r:.0%}" for n, r in zip(names, reported, strict=True)),
            hint="SELECT * FROM ml_metric;  -- do the paths match what the device reports?",
        )
    return used, rows


def _gains(model: Model, run: Run, found: Features, p: Parameters) -> Floats:
    """How much each metric lowers the scores of readings, shape (n, m)."""
    m, n = len(model.names), len(found.columns)
    parts = (found.columns, found.jumps, found.sudden)
    columns, jumps, sudden = (np.tile(part, (m + 1, 1)) for part in parts)
    decay = np.tile(found.decay, m + 1)
    for j in range(m):  # as it is first, then without each metric
        without = slice((j + 1) * n, (j + 2) * n)
        columns[without, j::m], jumps[without, j::m], sudden[without, j::m] = np.nan, 0.0, 0.0
    each = Features(columns, jumps, decay, sudden)
    cells = matrix(model, p, each)
    alone = run({"features": cells})[0][:, 0]
    scores = bounded(model, p, each, cells[:, LEVEL_DISTANCE], alone)
    scores = scores.reshape(m + 1, n)
    return np.asarray((scores[1:] - scores[0]).T, np.float64)


def _reasons(model: Model, values: list[float], gain: Floats) -> list[Reason]:
    order = np.argsort(-gain, kind="stable")
    return [
        {
            "metric": model.names[j],
            "value": values[j] if math.isfinite(values[j]) else None,
            "usual_low": model.usual[j][0],
            "usual_high": model.usual[j][1],
            "contribution": round(float(gain[j]), 4),
        }
        for j in [j for j in order if gain[j] > 0] or [order[0]]
    ]


def _scaling(column: Floats) -> list[float]:
    """Median and a robust scale of one metric; 1 for a constant."""
    low, centre, high = np.quantile(column, [0.25, 0.5, 0.75])
    scale = (high - low) / 1.349 or float(np.std(column)) or 1.0
    return [float(centre), float(scale)]


def _usual(column: Floats, contamination: float) -> list[float]:
    """The range that holds all but `contamination` of one metric's values."""
    low, high = np.quantile(column, [contamination / 2, 1 - contamination / 2])
    return [float(low), float(high)]
