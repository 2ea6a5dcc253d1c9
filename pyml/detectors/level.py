"""One metric against what is usual at this time: it moved and stays, or it drifts.

The mean distance from the usual (`pyml.detectors.baseline`) over trailing windows is compared with
what such means came to on the training's own days, each day held out from what it is compared
with. A large move shows in the shortest window within minutes, a small one in a longer window
after hours. Telemetry is strongly autocorrelated, so the scale of a window's mean is learned for
each window; it never follows from that of single readings.

References
----------
Page, "Continuous inspection schemes", Biometrika 1954: where a move began is the last minimum of
the cumulative sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.detectors import baseline
from pyml.detectors.base import (
    CRITICAL,
    DETECTORS,
    KNOWN,
    WARNING,
    Finder,
    Finding,
    Fitted,
    Floats,
    Known,
    Signals,
)
from pyml.detectors.baseline import SLOTS_OF_DAY, SLOTS_OF_WEEK, Baseline, Learned
from pyml.detectors.moved import Move, evidence, sentence
from pyml.errors import NotEnoughData
from pyml.forms import listed, number, record, truth, whole
from pyml.parameters import parameter

# Fixed point for running sums: whole numbers add up to the same from wherever they start.
UNIT = float(1 << 30)
HOUR = 3_600.0
# Readings with a value that a metric needs, and a window.
LEAST, FEWEST = 30, 3


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the finder is tuned by. docs/level.md says what was tried."""

    windows: tuple[float, ...] = parameter(
        (900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0),
        "trailing windows whose means are compared, in seconds",
        "from what has to be told in minutes to what shows in a day; each about four of the last",
    )
    factors: tuple[float, ...] = parameter(
        (2.5, 2.5, 2.6, 3.0, 3.5),
        "limit of each window, in what its mean stays within on three days of four",
        "0.7 to 1.3 of these were tried on three kinds of recordings",
    )
    peaks: tuple[float, ...] = parameter(
        (3.0, 2.6, 2.0, 1.5, 1.15),
        "the same in standard deviations of the window's mean",
        "normal: the two-sided quantile of a quarter over the windows in a day",
    )
    part: float = parameter(
        0.75,
        "share of the training's days that a window's usual range is taken from",
        "faults in a quarter of the days do not widen it; judgement",
    )
    few: float = parameter(
        2.0,
        "limits are wider by so many days over the days that they were learned from",
        "the quantile of few days is uncertain; judgement",
    )
    most: float = parameter(
        2.0,
        "a reading counts for so many limits of the first window at most",
        "a burst of less than half of that window is no move",
    )
    of_value: float = parameter(
        0.005, "least limit, in the metric's median: less is next to nothing", "judgement"
    )
    of_range: float = parameter(
        0.02, "least limit, in the range of the training's values", "judgement"
    )
    of_still: float = parameter(
        0.05, "least limit of a metric that stood still, in its value", "judgement"
    )
    least: float = parameter(0.01, "least limit of a metric that was always 0", "judgement")
    steps: float = parameter(
        1.5, "least limit, in steps of a coarse metric", "one step up or down is no move"
    )
    critical: float = parameter(2.5, "limits beyond which a finding is critical", "judgement")
    lookback: float = parameter(172_800.0, "seconds back to where a move began", "two days")


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual of one metric's windows; w windows.

    Attributes
    ----------
    baseline : Baseline
    ranges : tuple of float, length w
        What the mean of each window stays within on ordinary days; 0 where the training was too
        short for it, or its readings too few.
    limits : tuple of float, length w
        Beyond these it moved; 0 likewise.
    most : float
        A reading counts for so much at most.
    settled : bool
        Whether the training took its last three days for the usual, unlike those before.
    """

    baseline: Baseline
    ranges: tuple[float, ...]
    limits: tuple[float, ...]
    most: float
    settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """What a stored finder knows; m metrics.

    Attributes
    ----------
    windows : tuple of float
        Seconds.
    usual : tuple of Usual, length m
    """

    windows: tuple[float, ...]
    usual: tuple[Usual, ...]

    @property
    def grows(self) -> bool:
        """Whether any metric is judged by its change in an hour."""
        return any(one.baseline.grows for one in self.usual)


@DETECTORS.register
class Level(Finder[Model]):
    """Finds that a metric moved and stays, or that it drifts.

    A finding's score is how far the metric is beyond its limit, in limits: 1 is just beyond.

    Parameters
    ----------
    parameters : Parameters
    """

    kind = "level"
    max_bytes = 4 << 20  # 200 metrics with weeks of their own take 1.2 MB

    def __init__(self, parameters: Parameters = PARAMETERS) -> None:
        self.parameters = parameters

    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[Model]:
        """Learn what is usual of each metric; one that comes too seldom is left out.

        Raises
        ------
        NotEnoughData
            None of them comes often enough.
        """
        p = self.parameters
        usual: dict[str, Usual] = {}
        for name, column in zip(signals.names, signals.values.T, strict=True):
            pulse()
            found = _learn(signals, column, p)
            if found is not None:
                usual[name] = found
        if not usual:
            raise NotEnoughData(
                "no metric comes often enough for its level to be learned",
                detail=f"{len(signals.times)} readings, one in {signals.interval:g} s; "
                f"{LEAST} with a value are needed, in three times {p.windows[0]:g} s at least.",
                hint="SELECT * FROM ml_signals;  -- what comes, and how often",
            )
        figures = {
            "limits": {name: list(one.limits) for name, one in usual.items()},
            "became_usual": [name for name, one in usual.items() if one.settled],
        }
        names = tuple(usual)
        model = Model(
            names=names,
            interval=signals.interval,
            windows=p.windows,
            usual=tuple(usual.values()),
        )
        return Fitted({}, model, figures)

    def lookback(self, model: Model) -> float:
        """Two days: a move is said to begin there at the earliest."""
        return self.parameters.lookback + HOUR * model.grows

    def find(
        self, model: Model, signals: Signals, since: float, until: float, pulse: Pulse
    ) -> list[Finding]:
        """What moved, or drifts, at some reading in (since, until]."""
        rows = slice(
            *np.searchsorted(signals.times, (since - self.lookback(model), until), side="right")
        )
        times, values = signals.times[rows], signals.values[rows]
        found: list[Finding] = []
        for j, usual in enumerate(model.usual):
            pulse()
            known = ~np.isnan(values[:, j])
            at, column = times[known], values[known, j]
            judged = usual.baseline.judged(at, column)
            if usual.baseline.grows:
                known = ~np.isnan(judged)
                at, judged = at[known], judged[known]
            if not len(at) or at[-1] <= since:
                continue
            found += self._of_metric(model, j, at, judged, since)
        return sorted(found, key=lambda one: (one.started_at, one.metric, one.kind))

    def _of_metric(
        self, model: Model, j: int, times: Floats, values: Floats, since: float
    ) -> list[Finding]:
        """The findings of one metric whose values (n,) are all known."""
        p, usual = self.parameters, model.usual[j]
        metric = model.metrics[j] if model.metrics else None
        # A model of a training before these were stored has neither.
        direction = getattr(metric, "direction", None) or "both"
        least = getattr(metric, "least_deviation", None) or 0.0
        limits = [max(limit, least) if limit else np.inf for limit in usual.limits]
        # Some limits may be raised beyond what a reading counted for in the training.
        most = max(usual.most, p.most * min(limits))
        expected = usual.baseline.expected(times)
        residual = np.clip(values - expected, -most, most)
        first = int(np.searchsorted(times, since, side="right"))
        ends = np.arange(first, len(times))
        running = _running(residual / most)
        means = np.stack([_means(times, running, ends, window) * most for window in model.windows])
        found: list[Finding] = []
        for sign, name in ((1.0, "up"), (-1.0, "down")):
            if direction not in ("both", name):
                continue
            with np.errstate(invalid="ignore"):
                ratio = np.nan_to_num(sign * means / np.array(limits)[:, None])
            alarm = np.flatnonzero(ratio.max(axis=0) >= 1)
            pauses = np.flatnonzero(np.diff(times[ends[alarm]]) > HOUR) + 1
            for some in np.split(alarm, pauses) if len(alarm) else ():
                window = int(ratio[:, some].max(axis=1).argmax())
                scale = usual.ranges[window], limits[window], model.windows[window]
                place = int(ends[some[0]]), int(ends[some[-1]])
                mean = float(ratio[window, some].max()) * limits[window]
                move = Move.of(times, values, expected, sign * residual, place, scale, mean)
                if move.last_at > since:
                    # A reading counts for so much at most in the means; a score says it all.
                    score = max(float(ratio[:, some].max()), move.size / limits[window])
                    found.append(self._finding(model, j, move, score))
        return _joined(found)

    def _finding(self, model: Model, j: int, move: Move, score: float) -> Finding:
        grows = model.usual[j].baseline.grows
        return Finding(
            move.kind,
            model.names[j],
            move.started_at,
            move.last_at,
            CRITICAL if score >= self.parameters.critical else WARNING,
            score,
            evidence(move, grows, score),
            "",
        )

    def words(self, model: Model, found: Finding, unit: str | None) -> str:
        """Where the metric is, since when, and what is usual."""
        return sentence(found, unit)

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta) or meta["windows"] != list(self.parameters.windows):
            return None
        usual = tuple(_usual_of(one) for one in meta["usual"])
        own = {"windows": tuple(meta["windows"]), "usual": usual}
        model = Model(**Model.plain(meta) | own)
        fits = all(
            len(one.ranges) == len(one.limits) == len(model.windows)
            and len(one.baseline.day) in (1, SLOTS_OF_DAY)
            and len(one.baseline.week) in (0, SLOTS_OF_WEEK)
            for one in usual
        )
        return model if fits and len(usual) == len(model.names) and model.well_known() else None


def _learn(signals: Signals, column: Floats, p: Parameters) -> Usual | None:
    """What is usual of one metric; None where too little is known of it."""
    known = ~np.isnan(column)
    times, values = signals.times[known], column[known]
    if len(times) < LEAST or times[-1] - times[0] < baseline.CYCLES * p.windows[0]:
        return None
    learned = baseline.learn(times, values)
    if learned is None:
        return None
    judged = learned.baseline.judged(times, values)
    ranges = np.full(len(p.windows), np.nan)
    floor = _floor(judged[~np.isnan(judged)], p)
    wider = 1 + p.few / len(learned.ordinary)
    shortest = max(p.windows[0], FEWEST * signals.interval)
    first = _peak(learned, shortest, np.inf, signals.interval, p) or 0.0
    most = p.most * max(first * p.factors[0] * wider, floor)
    spread, before = 0.0, p.windows[0]
    for place, window in enumerate(p.windows):
        peak = _peak(learned, window, most, signals.interval, p)
        if peak is None:
            continue
        # A mean over more readings varies no less than if they were independent.
        spread = max(peak / p.peaks[place], spread * np.sqrt(before / window))
        ranges[place], before = spread * p.peaks[place], window
    if np.isnan(ranges).all():
        return None
    limits = np.nan_to_num(np.maximum(ranges * p.factors * wider, floor))
    ranges = np.nan_to_num(ranges)
    return Usual(
        learned.baseline,
        tuple(ranges.tolist()),
        tuple(limits.tolist()),
        float(most),
        learned.settled,
    )


def _peak(
    learned: Learned, window: float, most: float, interval: float, p: Parameters
) -> float | None:
    """What a window's mean stays within on a day that is not the most unusual quarter of them."""
    length = baseline.DAY if len(learned.baseline.day) > 1 else float(np.ptp(learned.times)) / 6
    if window > length or window < FEWEST * interval:
        return None
    known = ~np.isnan(learned.residual)
    times, days = learned.times[known], learned.days[known]
    residual = np.clip(learned.residual[known], -most, most)
    scale = float(np.abs(residual).max(initial=0.0)) or 1.0
    means = _means(times, _running(residual / scale), np.arange(len(times)), window) * scale
    peaks = [
        float(own.max())
        for day in learned.ordinary
        if len(own := (part := np.abs(means[days == day]))[~np.isnan(part)])
    ]
    return float(np.quantile(peaks, p.part)) if len(peaks) > 1 else None


def _floor(values: Floats, p: Parameters) -> float:
    """The least move that is more than next to nothing, by what the training's values did."""
    distinct = np.unique(values)
    level = abs(float(np.median(values)))
    if len(distinct) == 1:
        return p.of_still * level or p.least
    low, high = np.quantile(values, (0.01, 0.99))
    step = float(np.median(np.diff(distinct)))
    return max(p.of_value * level, p.of_range * float(high - low), p.steps * step)


def _running(scaled: Floats) -> NDArray[np.int64]:
    """Running sums of numbers (n,) in [-1, 1], in fixed point; shape (n + 1,)."""
    return np.concatenate([[0], np.cumsum(np.rint(scaled * UNIT).astype(np.int64))])


def _means(
    times: Floats, running: NDArray[np.int64], ends: NDArray[np.intp], window: float
) -> Floats:
    """Means over the windows up to some readings; NaN where the older half of one is empty."""
    last = times[ends]
    first = np.searchsorted(times, last - window, side="right")
    half = np.searchsorted(times, last - window / 2, side="right")
    count = ends + 1 - first
    mean = (running[ends + 1] - running[first]) / (np.maximum(count, 1) * UNIT)
    return np.where((half > first) & (count >= FEWEST), mean, np.nan)


def _joined(found: list[Finding]) -> list[Finding]:
    """Findings of one metric, of which those of one kind that overlap become one."""
    kept: list[Finding] = []
    for one in sorted(found, key=lambda one: (one.kind, one.started_at, one.last_at)):
        last = kept[-1] if kept else None
        if last is None or last.kind != one.kind or one.started_at > last.last_at:
            kept.append(one)
            continue
        worse = max(last, one, key=lambda each: each.score)
        until = max(last.last_at, one.last_at)
        kept[-1] = replace(worse, started_at=last.started_at, last_at=until)
    return kept


def _usual_of(meta: dict[str, Any]) -> Usual:
    own = meta["baseline"]
    return Usual(
        Baseline(**own | {"day": tuple(own["day"]), "week": tuple(own["week"])}),
        tuple(meta["ranges"]),
        tuple(meta["limits"]),
        meta["most"],
        meta["settled"],
    )


_POSITIVE = listed(number(0), 1, 9)
_PROFILE = listed(number(), 0, SLOTS_OF_WEEK)
_IS_MODEL = record(
    **KNOWN,
    windows=_POSITIVE,
    usual=listed(
        record(
            baseline=record(
                grows=whole(-1, 1), day=_PROFILE, week=_PROFILE, slope=number(), end=number()
            ),
            ranges=_POSITIVE,
            limits=_POSITIVE,
            most=number(1e-300),
            settled=truth,
        ),
        1,
    ),
)
