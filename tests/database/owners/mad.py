"""A detector in a file: how far a metric is from its median, in median absolute deviations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pyml.background import Pulse
from pyml.detectors import sentences
from pyml.detectors.base import (
    DETECTORS,
    KNOWN,
    Detection,
    Fitted,
    Floats,
    Judge,
    Known,
    Reason,
    Signals,
)
from pyml.errors import NotEnoughData
from pyml.forms import listed, number, record
from pyml.models.blob import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """Median and spread of each metric, and two thresholds."""

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    warning: float = -1.0
    critical: float = -1.0

    def distances(self, values: Floats) -> Floats:
        """How far each value is from its median, shape (n, m); 0 where missing."""
        return np.nan_to_num(np.abs(values - np.array(self.centre)) / np.array(self.spread))

    def scores(self, values: Floats) -> Floats:
        """Scores (n,) by the farthest metric of each reading, in (-1, 0]."""
        farthest = self.distances(values).max(axis=1)
        return np.asarray(-farthest / (farthest + 3.0))


_SIZES = listed(number(1e-300), 1)
_IS_MODEL = record(
    **KNOWN, centre=listed(number(), 1), spread=_SIZES, warning=number(), critical=number()
)


@DETECTORS.register
class Mad(Judge[Model]):
    """Median and median absolute deviation of each metric by itself."""

    kind = "mad"
    settings: ClassVar = {"contamination": ("contamination", float)}

    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[Model]:
        """Medians; the thresholds flag the asked share of the training, and a tenth of it."""
        used = np.flatnonzero(np.isfinite(signals.values).any(axis=0))
        if len(signals.times) < 10 or not used.size:
            raise NotEnoughData("too few readings", detail="Ten are needed.", hint="Wait.")
        values = signals.values[:, used]
        centre = np.nanmedian(values, axis=0)
        pulse()
        spread = 1.4826 * np.nanmedian(np.abs(values - centre), axis=0)
        least = 1e-6 * np.maximum(np.abs(centre), 1.0)
        model = Model(
            names=tuple(signals.names[int(j)] for j in used),
            interval=float(np.median(np.diff(signals.times))),
            centre=tuple(centre.tolist()),
            spread=tuple(np.maximum(spread, least).tolist()),
        )
        pulse()
        scores, share = model.scores(values), float(settings["contamination"])
        warning, critical = np.quantile(scores, [share, share / 10]).tolist()
        figures = {"held_out_flagged": float((scores < warning).mean())}
        return Fitted({}, replace(model, warning=warning, critical=critical), figures)

    def lookback(self, model: Model) -> float:
        """Nothing: a reading is judged by itself."""
        return 0.0

    def detect(
        self, model: Model, run: Run, signals: Signals, since: float, pulse: Pulse
    ) -> Detection:
        """Judge the readings that have a value."""
        there = np.isfinite(signals.values).any(axis=1) & ~signals.held
        rows = (signals.times > since) & there
        values = signals.values[rows]
        scores = model.scores(values)
        severity = (scores < model.warning).astype(np.int8) + (scores < model.critical)
        return Detection(signals.times[rows], values, scores, severity.astype(np.int8))

    def explain(
        self, model: Model, run: Run, found: Detection, units: Mapping[str, str], pulse: Pulse
    ) -> list[list[Reason]]:
        """The metrics by their distance."""

        def reason(values: Floats, distances: Floats, j: int) -> Reason:
            name, value, middle = model.names[j], float(values[j]), model.centre[j]
            low, high = middle - 3 * model.spread[j], middle + 3 * model.spread[j]
            said = (name, units.get(name, ""), value, (low, high))
            if not np.isfinite(value):
                kind, sentence = "missing", sentences.missing(name, said[1], (low, high))
            elif low <= value <= high:
                kind, sentence = "far", sentences.far(*said, middle)
            else:
                kind, sentence = "high" if value > high else "low", sentences.placed(*said, None)
            return {
                "metric": name,
                "kind": kind,
                "sentence": sentence,
                "value": value if np.isfinite(value) else None,
                "usual_low": low,
                "usual_high": high,
                "contribution": round(float(distances[j]), 4),
            }

        return [
            [reason(values, distances, int(j)) for j in np.argsort(-distances, kind="stable")]
            for values, distances in zip(found.values, model.distances(found.values), strict=True)
        ]

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        own = {name: tuple(meta[name]) for name in ("centre", "spread")}
        model = Model(**Model.plain(meta) | own)
        fits = len(model.names) == len(model.centre) == len(model.spread)
        return model if fits and model.well_known() else None
