"""Isolation Forest over a device's metrics, and how far they are together: fit, score, reasons.

Each reading is seen in two ways. Trees see its values and how much each metric has moved over two
spans; half of them see, in place of the shorter span's, how far the value and that are beyond what
is usual at that hour (`pyml.detectors.hours`). A distance sees how far all metrics are beyond that
together (`pyml.detectors.together`), or one of them alone. Either is turned into how rare it was in
the training (`pyml.detectors.tails`), and both are added to one score: negative, lower is more
anomalous. Two thresholds, fixed when the model is trained (`pyml.detectors.thresholds`), turn the
score into a severity.

What is stored is one ONNX graph; scoring needs numpy alone, which walks its trees.

References
----------
Liu, Ting and Zhou, "Isolation Forest", ICDM 2008.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors import growing
from pyml.detectors import hours as usual_hours
from pyml.detectors.base import (
    DETECTORS,
    Detection,
    Fitted,
    Judge,
    Reason,
    Signals,
)
from pyml.detectors.evidence import Evidence
from pyml.detectors.features import (
    Features,
    Floats,
    features,
    largest,
    moves,
    sizes_of,
    standardised,
    trailing_mean,
)
from pyml.detectors.isolation import PARAMETERS, Model, Parameters, Spans
from pyml.detectors.rarity import Excursions
from pyml.detectors.reasons import Cases
from pyml.detectors.tails import Tail
from pyml.detectors.thresholds import Blocks, Thresholds
from pyml.detectors.together import Together
from pyml.errors import NotEnoughData, unreadable
from pyml.models import trees
from pyml.models.blob import Run, Runner
from pyml.models.trees import Remembering, Trees
from pyml.models.wire import File, Graph, Numbers
from pyml.queries import literal
from pyml.seconds import HOUR

# Numbers in one batch of the scores behind the reasons, and readings scored or explained at once:
# some tenths of a second.
BATCH, AT_ONCE = 1_000_000, 10_000
# Reasons between two pulses, likewise.
SAID = 2_000


@DETECTORS.register
class Forest(Judge[Model]):
    """The Isolation Forest.

    Its score is the sum of two powers of ten: -6 is a reading whose likes, by its trees and by its
    distance, are together a millionth of ordinary ones, were the two independent.

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
        columns = moves(spans, times, standardised(scaling, values), pulse)[rows]
        metrics = len(used)
        spread = np.arange(2 * metrics) >= metrics
        hours, compared = usual_hours.learn(times[rows], columns[:, : 2 * metrics], spread, pulse)
        pulse()
        blocks = self.blocks(spans, times[rows], compared, settings["n_estimators"])
        pulse()
        together = Together.of(compared[blocks.ordinary])
        pulse()
        seen = Features(columns, compared)
        cells = seen.matrix()
        fill = growing.medians(cells)
        filled = np.where(np.isnan(cells), fill, cells)
        pulse()
        trees_, seed = settings["n_estimators"], settings["seed"]
        grown = growing.grow(filled, seen.views(), blocks.seen(), blocks.rows, trees_, seed, pulse)
        paths = growing.path_lengths(grown)
        alone = -blocks.unseen_scores(grown, paths, filled, pulse)
        apart = _unseen_distances(blocks, compared, pulse)
        pulse()
        sizes = sizes_of(seen.single())
        single = largest(sizes, seen.single())
        pulse()
        model = Model(
            names=tuple(signals.names[int(j)] for j in used),
            interval=spans.interval,
            spans=spans,
            scaling=scaling,
            usual=usual,
            hours=hours,
            together=together,
            sizes=sizes,
            lonely=Tail.of(alone[blocks.ordinary]),
            apart=Tail.of(apart[blocks.ordinary]),
            single=Tail.of(single[blocks.ordinary]),
        )
        pulse()
        scores = self.joined(model, alone, apart, single)
        pulse()
        limits = Thresholds.of(blocks, scores, settings["contamination"], p)
        pulse()
        ordinary = blocks.ordinary
        heights = -scores[ordinary]
        highest = Excursions.lasting(spans.interval, times[rows][ordinary], heights).peaks().heights
        hours_seen = float(ordinary.sum() * spans.interval / HOUR)
        return Fitted(
            growing.numbers_of(grown, paths, blocks.rows, fill),
            replace(model, warning=limits.warning, critical=limits.critical),
            limits.figures
            | {"features": cells.shape[1], "peaks": highest.tolist(), "ordinary_hours": hours_seen},
        )

    def blocks(self, spans: Spans, times: Floats, compared: Floats, n_estimators: int) -> Blocks:
        """The days of a training, and what is ordinary in them."""
        p, distance = self.parameters, Together.of(compared).distance(compared)
        if not usual_hours.are_known(times):  # what each day has is no fault
            p = replace(p, fault_share=0.0)
        far = trailing_mean(spans.interval, spans.lasting, times, distance)
        return Blocks.of(far, n_estimators, p)

    def lookback(self, model: Model) -> float:
        """Seconds before a reading that its score depends on."""
        return model.spans.lookback

    def detect(
        self, model: Model, run: Run, signals: Signals, since: float, pulse: Pulse
    ) -> Detection:
        """Score readings and judge them by the thresholds fixed at training.

        A reading without any value has none.
        """
        there = np.isfinite(signals.values).any(axis=1)
        rows = np.flatnonzero((signals.times > since) & ~signals.held & there)
        found = features(model, signals.times, signals.values, pulse, rows)
        scores = self.scores(model, run, found, pulse)
        severity = (scores < model.warning).astype(np.int8) + (scores < model.critical)
        evidence = Evidence(found, signals, rows)
        return Detection(
            signals.times[rows], signals.values[rows], scores, severity.astype(np.int8), evidence
        )

    def scores(self, model: Model, run: Run, found: Features, pulse: Pulse) -> Floats:
        """Scores (n,) of readings by their features."""
        scores = np.empty(len(found.columns))
        for first in range(0, len(scores), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            scores[some] = self._scores(model, run, found.of(some), again=True)
            if first:
                pulse()
        return scores

    def joined(self, model: Model, alone: Floats, apart: Floats, single: Floats) -> Floats:
        """Scores (n,): minus how rare the views are, in powers of ten.

        Among many metrics the distance of all says little of one that is far out: that one then
        counts in its place.
        """
        odd = model.single.powers(single) - self.parameters.single_odds
        return -(model.lonely.powers(alone) + np.maximum(model.apart.powers(apart), odd))

    def _scores(self, model: Model, run: Run, found: Features, *, again: bool = False) -> Floats:
        feeds: dict[str, NDArray[Any]] = {"features": found.matrix()}
        if again:
            feeds["again"] = np.ones(1)
        alone = -run(feeds)[0][:, 0].astype(np.float64)
        apart = model.together.distance(found.vectors)
        return self.joined(model, alone, apart, largest(model.sizes, found.single()))

    def _gains(self, model: Model, run: Run, found: Features) -> Floats:
        """How much each metric lowers the scores of readings, shape (n, m)."""
        m, n = len(model.names), len(found.columns)
        columns, vectors = (np.tile(part, (m + 1, 1)) for part in (found.columns, found.vectors))
        for j in range(m):  # as it is first, then without each metric
            without = slice((j + 1) * n, (j + 2) * n)
            columns[without, j::m], vectors[without, j::m] = np.nan, np.nan
        scores = self._scores(model, run, Features(columns, vectors)).reshape(m + 1, n)
        return np.asarray((scores[1:] - scores[0]).T)

    def explain(
        self, model: Model, run: Run, found: Detection, units: Mapping[str, str], pulse: Pulse
    ) -> list[list[Reason]]:
        """Say which metrics made readings anomalous.

        A metric's contribution is how much nearer to normal the score of the reading would be had
        that metric been missing. Metrics that contribute nothing are left out,
        unless none does.
        """
        metrics, count = len(model.names), len(found.times)
        size = max(1, BATCH // ((metrics + 1) * model.size))
        gains = np.empty((count, metrics))
        for first in range(0, count, size):
            some = slice(first, first + size)
            gains[some] = self._gains(model, run, found.evidence.features.of(some))
            if first:
                pulse()
        reasons: list[list[Reason]] = []
        for first in range(0, count, max(1, BATCH // model.size)):
            some = slice(first, first + max(1, BATCH // model.size))
            cases, said = Cases(model, found.of(some), units), 0
            for i, gain in enumerate(gains[some]):
                reasons.append(_reasons(cases, i, gain))
                said += len(reasons[-1])
                if said >= SAID:
                    pulse()
                    said = 0
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


def _unseen_distances(blocks: Blocks, compared: Floats, pulse: Pulse) -> Floats:
    """Distances (n,) of each block's readings from what is usual in the other blocks."""
    found = np.empty(len(compared))
    for block in range(blocks.groups):
        pulse()
        mine = blocks.block == block
        others = blocks.ordinary & (~mine | (blocks.groups == 1))
        found[mine] = Together.of(compared[others]).distance(compared[mine])
    return found


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


def _reasons(cases: Cases, i: int, gain: Floats) -> list[Reason]:
    order = np.argsort(-gain, kind="stable").tolist()
    gained = [j for j in order if gain[j] > 0] or order[:1]
    return [cases.reason(i, j, float(gain[j])) for j in gained]


def _scaling(column: Floats) -> list[float]:
    """Median and range of one metric; a range of 1 for a constant."""
    return [float(np.median(column)), float(np.ptp(column)) or 1.0]


def _usual(column: Floats, contamination: float) -> list[float]:
    """The range that holds all but `contamination` of one metric's values."""
    low, high = np.quantile(column, [contamination / 2, 1 - contamination / 2])
    return [float(low), float(high)]
