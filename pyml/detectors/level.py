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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyml.background import Pulse
from pyml.detectors import pooling
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
from pyml.detectors.joining import joined
from pyml.detectors.moved import Move, evidence, sentence
from pyml.detectors.rarity import Excursions
from pyml.detectors.rarity import figures as rarity
from pyml.detectors.usual import (
    LEAST,
    PARAMETERS,
    HeldOut,
    Parameters,
    Usual,
    is_usual,
    learn,
    means_of,
    running_sums,
    together,
)
from pyml.errors import NotEnoughData
from pyml.forms import listed, number, record
from pyml.seconds import HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """What a stored finder knows; m metrics.

    Attributes
    ----------
    windows : tuple of float
        Seconds.
    usual : tuple of Usual, length m
    """

    EACH = (*Known.EACH, "usual")

    windows: tuple[float, ...]
    usual: tuple[Usual, ...]

    @property
    def grows(self) -> bool:
        """Whether any metric is judged by its change in an hour."""
        return any(one.baseline.grows for one in self.usual)

    def around(self, metric: str, times: Floats) -> tuple[Floats, Floats] | None:
        """Between what the means of its shortest window stay on ordinary days, at times (n,).

        None where that is not known, as after a training that is too short for a rhythm of the
        day, or where its change in an hour is judged, not its value.
        """
        if metric not in self.names:
            return None
        usual = self.usual[self.names.index(metric)]
        reach = next((one for one in usual.ranges if one > 0), None)
        if reach is None or usual.baseline.grows or len(usual.baseline.day) == 1:
            return None
        middle = usual.baseline.expected(times)
        return middle - reach, middle + reach


# Readings judged between two pulses.
OFTEN = 100


@DETECTORS.register
class Level(Finder[Model]):
    """Finds that a metric moved and stays, or that it drifts.

    A finding's score is how far the metric is beyond its limit, in limits: 1 is just beyond.

    Parameters
    ----------
    parameters : Parameters
    """

    kind, kinds = "level", ("level", "drift")
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
        held_out: list[HeldOut] = []
        for name, column in zip(signals.names, signals.values.T, strict=True):
            pulse()
            found = learn(signals.times, column, signals.interval, p, pulse)
            if found is not None:
                usual[name] = found[0]
                held_out.append(found[1])
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
        # What several metrics do at a time is one trouble of the device.
        together = Excursions.of([one.excursions for one in held_out]).peaks()
        hours = max(one.hours for one in held_out)
        if hours:
            figures |= rarity(hours, together.heights.tolist())
        names = tuple(usual)
        model = Model(
            names=names,
            interval=signals.interval,
            windows=p.windows,
            usual=tuple(usual.values()),
        )
        return Fitted({}, model, figures)

    @property
    def every(self) -> float:
        """How often long windows are looked at."""
        return self.parameters.every

    def lookback(self, model: Model) -> float:
        """Two days: a move is said to begin there at the earliest."""
        return self.parameters.lookback + HOUR * model.grows

    def reach(self, model: Model, since: float, until: float) -> float:
        """As far as the longest window that is looked at, and where a move in it began.

        Windows of hours are looked at every `every` seconds: a scan of each minute does not read
        two days each time.
        """
        every = self.parameters.every
        if until // every > (since - model.interval) // every:
            return self.lookback(model)
        return self.parameters.brief + HOUR * model.grows

    def find(
        self, model: Model, signals: Signals, since: float, until: float, pulse: Pulse
    ) -> list[Finding]:
        """What moved, or drifts, at some reading in (since, until]."""
        reach = self.reach(model, since, until)
        rows = slice(*np.searchsorted(signals.times, (since - reach, until), side="right"))
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
            found += self._of_metric(model, j, at, judged, since, pulse)
        return sorted(found, key=lambda one: (one.started_at, one.metric, one.kind))

    def pooled(self, models: Sequence[Model]) -> Model | None:
        """What lies far outside of where most devices ever are; see `Finder.pooled`."""
        shared = pooling.Shared.by(models)
        windows = self.parameters.windows
        usual = {
            metric: found
            for metric, each in zip(shared.of, shared.each("usual"), strict=True)
            if (found := together(each, len(windows), self.parameters)) is not None
        }
        if not usual:
            return None
        shared = replace(shared, of={metric: shared.of[metric] for metric in usual})
        return Model(**shared.known(), windows=windows, usual=tuple(usual.values()))

    def _of_metric(
        self, model: Model, j: int, times: Floats, values: Floats, since: float, pulse: Pulse
    ) -> list[Finding]:
        """The findings of one metric whose values (n,) are all known."""
        p, usual, metric = self.parameters, model.usual[j], model.metrics[j]
        direction, least = metric.direction, metric.least_deviation or 0.0
        limits = [max(limit, least) if limit else np.inf for limit in usual.limits]
        # Some limits may be raised beyond what a reading counted for in the training.
        most = max(usual.most, p.most * min(limits))
        expected = usual.baseline.expected(times)
        residual = np.clip(values - expected, -most, most)
        first = int(np.searchsorted(times, since, side="right"))
        ends = np.arange(first, len(times))
        # At the first reading after so many seconds all windows count, at the others brief ones.
        turns = times // p.every
        whole = turns[ends] > turns[np.maximum(ends - 1, 0)]
        long = np.array(model.windows) > p.brief / 2
        running = running_sums(residual / most)
        means = np.stack(
            [means_of(times, running, ends, window) * most for window in model.windows]
        )
        found: list[Finding] = []
        for sign, name in ((1.0, "up"), (-1.0, "down")):
            if direction not in ("both", name):
                continue
            with np.errstate(invalid="ignore"):
                ratio = np.nan_to_num(sign * means / np.array(limits)[:, None])
            ratio[np.ix_(long, ~whole)] = 0.0
            # Each reading is judged by what came up to it, so one look says what many do.
            for row in np.flatnonzero(ratio.max(axis=0) >= 1).tolist():
                last = int(ends[row])
                if row % OFTEN == 0:
                    pulse()
                back = p.lookback if whole[row] else p.brief
                rows = slice(int(np.searchsorted(times, times[last] - back)), last + 1)
                window = int(ratio[:, row].argmax())
                scale = usual.ranges[window], limits[window], model.windows[window]
                move = Move.of(
                    times[rows],
                    values[rows],
                    expected[rows],
                    sign * residual[rows],
                    scale,
                    float(ratio[window, row]) * limits[window],
                )
                if move.is_present(model.windows[0]):
                    # A reading counts for so much at most in the means; a score says it all.
                    score = max(float(ratio[window, row]), move.size / limits[window])
                    found.append(self._finding(model, j, move, score))
        return joined((), found, 0.0, self.kinds)

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
        usual = tuple(map(Usual.of_json, meta["usual"]))
        own = {"windows": tuple(meta["windows"]), "usual": usual}
        model = Model(**Model.plain(meta) | own)
        fits = model.well_known() and all(one.fits(len(model.windows)) for one in usual)
        return model if fits else None


_IS_MODEL = record(
    **KNOWN,
    windows=listed(number(0), 1, 9),
    usual=listed(is_usual, 1),
)
