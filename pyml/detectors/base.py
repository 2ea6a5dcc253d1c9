"""The contract of a detector: signals in, judged readings or findings out.

A judge says of each reading how unusual it is. A finder says of a span of time what is wrong with
a metric in it. Either is one class in a file of its own, marked ``@DETECTORS.register``. Trainings,
the store, scans, workers and the checks of `tests/unit/test_detectors.py` find it by its kind.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any, ClassVar, Generic, Self, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.forms import SOME, Form, listed, number, text
from pyml.models.blob import Owner, Run
from pyml.models.wire import Numbers
from pyml.registry import Registry
from pyml.seconds import YEAR
from pyml.telemetry.habits import Habit, is_habit
from pyml.telemetry.quiet import NOTHING, Quiet
from pyml.telemetry.readings import Readings
from pyml.telemetry.series import IS_METRIC, Metric

Floats = NDArray[np.float64]


class Reason(TypedDict):
    """Why a reading is, or is not, an anomaly: one metric's part, as the answer's JSON has it.

    Attributes
    ----------
    metric : str
    kind : str
        What is unusual about it: one of `pyml.detectors.sentences.KINDS`.
    sentence : str
        The same in plain words with the numbers that make the case, in the metric's unit.
    value : float or None
        None where missing.
    usual_low, usual_high : float
        The range that the training's values usually had.
    contribution : float
        Greater is more; in the detector's own measure.
    """

    metric: str
    kind: str
    sentence: str
    value: float | None
    usual_low: float
    usual_high: float
    contribution: float


NORMAL, WARNING, CRITICAL = 0, 1, 2
SEVERITIES = ("none", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Signals:
    """A device's metrics over time; n readings, m metrics.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch, strictly increasing.
    values : ndarray of float64, shape (n, m)
        In the metrics' units; NaN where missing.
    names : tuple of str, length m
        The metrics' names.
    interval : float
        Seconds between two readings, usually.
    held : ndarray of bool, shape (n,)
        Moments at which nothing came and the values before hold: to look back on, and to learn
        from, but not to judge.
    unfit : ndarray of float64, shape (n, m)
        What a metric has said last, where that is no measurement; NaN elsewhere.
    quiet : Quiet
        Windows of which nothing is to be learned: what came in them has been left out.
    """

    times: Floats
    values: Floats
    names: tuple[str, ...]
    interval: float
    held: NDArray[np.bool_]
    unfit: Floats
    quiet: Quiet = NOTHING

    @classmethod
    def of(
        cls, readings: Readings, names: Sequence[str], interval: float, quiet: Quiet = NOTHING
    ) -> Self:
        """Those of readings whose columns have these names."""
        r = readings
        return cls(r.times, r.values, tuple(names), interval, r.held, r.unfit, quiet)

    def of_metrics(self, names: Sequence[str]) -> Self:
        """Those of some of the metrics, in the order of `names`."""
        places = [self.names.index(name) for name in names]
        return replace(
            self,
            values=self.values[:, places],
            unfit=self.unfit[:, places],
            names=tuple(names),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What every stored detector knows; m metrics. A detector's model adds its own fields.

    Attributes
    ----------
    names : tuple of str, length m
        The metrics, in the order of their columns.
    interval : float
        Seconds between two readings of the training.
    metrics : tuple of Metric, length m
        What to read for each; set by `knowing`.
    habits : tuple of Habit, length m
        How each comes; set by `knowing`.
    """

    EACH: ClassVar[tuple[str, ...]] = ("names", "metrics", "habits")
    """The fields that are of length m."""

    names: tuple[str, ...]
    interval: float
    metrics: tuple[Metric, ...] = ()
    habits: tuple[Habit, ...] = ()

    def of_metrics(self, names: Collection[str]) -> Self:
        """The same of some of the metrics."""
        kept = [name in names for name in self.names]
        some: dict[str, Any] = {
            field: tuple(compress(getattr(self, field), kept)) for field in self.EACH
        }
        return replace(self, **some)

    def knowing(self, metrics: Sequence[Metric], habits: Sequence[Habit]) -> Self:
        """The same, with what to read and how it comes."""
        return replace(self, metrics=tuple(metrics), habits=tuple(habits))

    def to_json(self) -> dict[str, Any]:
        """The stored form: one flat object."""
        return asdict(self)

    @classmethod
    def plain(cls, meta: dict[str, Any]) -> dict[str, Any]:
        """What JSON kept of `to_json`: the fields of `Known` as they were, and `EACH` as tuples."""
        each = {field: tuple(meta[field]) for field in cls.EACH}
        return (
            meta
            | each
            | {
                "metrics": tuple(Metric(**entry) for entry in meta["metrics"]),
                "habits": tuple(map(Habit.of_json, meta["habits"])),
            }
        )

    def well_known(self) -> bool:
        """Whether the fields of `Known` fit together, and those of `EACH` are of length m."""
        return (
            tuple(metric.name for metric in self.metrics) == self.names
            and len(set(self.names)) == len(self.names)
            and all(len(getattr(self, field)) == len(self.names) for field in self.EACH)
        )


KNOWN: dict[str, Form] = {
    "names": listed(text, 1),
    "interval": number(SOME, YEAR),
    "metrics": listed(IS_METRIC, 1),
    "habits": listed(is_habit, 1),
}
"""Forms of the fields of `Known`."""

M = TypeVar("M", bound=Known)


@dataclass(frozen=True, slots=True)
class Fitted(Generic[M]):
    """A trained detector.

    Attributes
    ----------
    numbers : mapping of ndarray
        Of the graph, where there is one.
    model : M
        All else that scoring needs. ``model.names`` are the metrics that it uses, in the order in
        which `Detector.detect` expects their columns.
    figures : dict
        JSON-able: what was measured on held-out readings.
    """

    numbers: Numbers
    model: M
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Detection:
    """What a detector says of n readings.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
    values : ndarray of float64, shape (n, m)
    scores : ndarray of float64, shape (n,)
        Negative; lower is more anomalous.
    severity : ndarray of int8, shape (n,)
        `NORMAL`, `WARNING` or `CRITICAL`.
    evidence : object
        What the detector needs to explain these readings; it has ``of(rows)`` for some of them.
    """

    times: Floats
    values: Floats
    scores: Floats
    severity: NDArray[np.int8]
    evidence: Any = None

    def of(self, rows: NDArray[np.intp] | slice) -> "Detection":
        """Some of the readings."""
        return Detection(
            self.times[rows],
            self.values[rows],
            self.scores[rows],
            self.severity[rows],
            None if self.evidence is None else self.evidence.of(rows),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """A finder's statement about a span of time.

    Attributes
    ----------
    kind : str
        What is wrong, in a word: `stuck`, `missing`, `junk`, `silent`, `level`, `drift`.
    metric : str
        The metric's name; empty where it is the device.
    started_at, last_at : float
        When it began, and when it was last seen; seconds since the Unix epoch.
    severity : int
        `WARNING` or `CRITICAL`.
    score : float
        Positive: how far beyond what is ordinary, in what the finder allows; 1 is just beyond.
    evidence : dict
        JSON-able: the numbers that make the case.
    sentence : str
        The same in plain words, for a person; empty where `Finder.words` makes it.
    """

    kind: str
    metric: str
    started_at: float
    last_at: float
    severity: int
    score: float
    evidence: dict[str, Any]
    sentence: str = ""


class Detector(Owner[M]):
    """Finds what is not as usual; what all owners of models have is in `Owner`."""

    def load(self) -> None:
        """Import the libraries that `fit` needs; it then starts at once."""

    @abstractmethod
    def fit(self, signals: Signals, settings: Mapping[str, Any], pulse: Pulse) -> Fitted[M]:
        """Train on one device; the same input gives the same bytes.

        Parameters
        ----------
        signals : Signals
            May hold anomalies.
        settings : mapping
            Values of `settings`, by parameter.
        pulse : callable

        Raises
        ------
        NotEnoughData
        """

    @abstractmethod
    def lookback(self, model: M) -> float:
        """Seconds before a reading that what is said of it depends on."""


class Judge(Detector[M]):
    """Judges single readings, and says why."""

    @abstractmethod
    def detect(self, model: M, run: Run, signals: Signals, since: float, pulse: Pulse) -> Detection:
        """Judge the readings after `since` that came; the others are what it looks back on.

        Causal: a reading's score depends on readings up to its own, no older than `lookback`.

        Parameters
        ----------
        model : M
        run : callable
            Runs the graph, where there is one.
        signals : Signals
            Whose columns are those of ``model.names``.
        since : float
            Seconds since the Unix epoch.
        pulse : callable
        """

    @abstractmethod
    def explain(
        self, model: M, run: Run, found: Detection, units: Mapping[str, str], pulse: Pulse
    ) -> list[list[Reason]]:
        """Say why readings are not as usual.

        Parameters
        ----------
        model : M
        run : callable
        found : Detection
        units : mapping of str
            Of the metrics that have one, by name: for the sentences.
        pulse : callable

        Returns
        -------
        list of list of Reason
            For each reading its metrics, the most important first.
        """


class Finder(Detector[M]):
    """Finds spans of time in which something is wrong.

    It is trained with the forest and is not due by itself, whatever its settings. Its figures have
    the highest peaks of its score on held-out stretches of the training (`rarity.figures`).

    Attributes
    ----------
    kinds : tuple of str
        Of its findings. Where two of one metric are one trouble, the last of these is what it is.
    """

    kinds: ClassVar[tuple[str, ...]]

    @property
    def every(self) -> float:
        """Seconds, since the Unix epoch, whose multiples bring findings up to date; 0: each look.

        In between, one that goes on may have ended as far as its last moment tells.
        """
        return 0.0

    def reach(self, model: M, since: float, until: float) -> float:
        """Seconds before `since` that a look at (since, until] needs; `lookback` at most."""
        return self.lookback(model)

    @abstractmethod
    def find(
        self, model: M, signals: Signals, since: float, until: float, pulse: Pulse
    ) -> list[Finding]:
        """What is wrong at some time in (since, until].

        Causal, as a judge is: what is said of a moment depends on readings up to it, no older
        than `lookback`. What began before that is said to begin there; who keeps findings joins
        it to what was found before.

        Parameters
        ----------
        model : M
        signals : Signals
            Whose columns are those of ``model.names``.
        since, until : float
            Seconds since the Unix epoch; `until` is now, or the moment that is replayed.
        pulse : callable
        """

    def score(self, model: M, found: Finding) -> float:
        """The score of a finding, as long as it now is.

        It is asked for when the finding has been joined to what was found before.
        """
        return found.score

    def words(self, model: M, found: Finding, unit: str | None) -> str:
        """The sentence of a finding, in the unit of its metric.

        It is asked for when the finding has been joined to what was found before, so that it can
        say since when.
        """
        return found.sentence

    def silent_from(self, model: M, last: float) -> float:
        """From when on it finds something though nothing came after the moment `last`."""
        return math.inf

    def pooled(self, models: Sequence[M]) -> M | None:
        """What stands in for a device that has no model of its own yet.

        As patient as the most patient of several devices' models (`pyml.detectors.pooling`), of
        the metrics that enough of them report, in whatever order they come; None where there is
        none.
        """
        return None

    def unlike(self, model: M, signals: Signals, until: float, pulse: Pulse) -> set[str]:
        """Metrics of a device's first readings that such a model does not fit; "": the device.

        What it would find there is how the device is.
        """
        since = float(signals.times[0]) - 1
        return {one.metric for one in self.find(model, signals, since, until, pulse)}


DETECTORS: Registry[Detector[Any]] = Registry("pyml.detectors", "pyml.forest")


def judge(kind: str) -> Judge[Any]:
    """The detector of a kind that judges readings."""
    return cast(Judge[Any], DETECTORS[kind])
