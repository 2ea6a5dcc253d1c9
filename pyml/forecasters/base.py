"""The contract of a forecaster: one signal in, its next steps with an interval out.

A forecaster is one class in a file of its own, marked ``@FORECASTERS.register``. Trainings, the
store, scans, workers and the checks of `tests/unit/test_forecasters.py` find it by its kind.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypedDict, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyml.background import Pulse
from pyml.forms import SOME, Form, listed, maybe, number, path, record, text, truth, whole
from pyml.models.blob import Owner, Run
from pyml.models.wire import Numbers
from pyml.registry import Registry
from pyml.seconds import YEAR
from pyml.telemetry.habits import Habit, is_habit
from pyml.telemetry.series import IS_METRIC, Grid, Metric

Floats = NDArray[np.float64]
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes next.

    Attributes
    ----------
    times : ndarray of float64, shape (h,)
        Seconds; they continue the device's own grid.
    predicted, lower, upper : ndarray of float64, shape (h,)
        In the metric's unit; ``lower <= predicted <= upper``.
    last_time : float
        Time of the last reading, which the forecast continues.
    replayed : int
        Past forecasts whose errors made the interval.
    least : ndarray of float64, shape (h,), or None
        How far it ordinarily goes, though the interval may be narrower: a scan takes no less for
        half of the width. None, or 0, where the interval says it all.
    """

    times: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    last_time: float
    replayed: int
    least: Floats | None = None

    def at_least(self, bounds: Bounds) -> Self:
        """The same with an interval that is no narrower than what it ordinarily goes."""
        if self.least is None:
            return self
        low, high = bounds
        return replace(
            self,
            lower=np.minimum(self.lower, np.clip(self.predicted - self.least, low, high)),
            upper=np.maximum(self.upper, np.clip(self.predicted + self.least, low, high)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What every stored forecast knows. A forecaster's model adds its own fields.

    Attributes
    ----------
    horizon : int
        Steps that it forecasts at most.
    interval : float
        Seconds between two steps.
    bounds : tuple of float or None
        Range that the field cannot leave, where known.
    metric : Metric or None
        What to read; set by `knowing`.
    habit : Habit or None
        How it comes; set by `knowing`.
    totals : tuple of str
        Paths of totals, a zero at which marks a failed collection; set by `knowing`.
    """

    horizon: int
    interval: float
    bounds: Bounds
    metric: Metric | None = None
    habit: Habit | None = None
    totals: tuple[str, ...] = ()

    def knowing(self, metric: Metric, habit: Habit, totals: Sequence[str]) -> Self:
        """The same, with what to read and how it comes."""
        return replace(self, metric=metric, habit=habit, totals=tuple(totals))

    def to_json(self) -> dict[str, Any]:
        """The stored form: one flat object."""
        return asdict(self)

    @staticmethod
    def plain(meta: dict[str, Any]) -> dict[str, Any]:
        """What JSON kept of `to_json`, with the fields of `Known` as they were."""
        return meta | {
            "bounds": tuple(meta["bounds"]),
            "metric": Metric(**meta["metric"]),
            "habit": Habit.of_json(meta["habit"]),
            "totals": tuple(meta["totals"]),
        }

    def well_known(self) -> bool:
        """Whether the fields of `Known` fit together."""
        low, high = self.bounds
        return low is None or high is None or low < high


MAX_HORIZON = 288  # the greatest value of the setting forecast_horizon
KNOWN: dict[str, Form] = {
    "horizon": whole(1, MAX_HORIZON),
    "interval": number(SOME, YEAR),
    "bounds": listed(maybe(number()), 2, 2),
    "metric": IS_METRIC,
    "habit": is_habit,
    "totals": listed(path),
}
"""Forms of the fields of `Known`."""


def _is_coverage(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) <= 10
        and all(text(level) and number(0, 1)(share) for level, share in value.items())
    )


class Figures(TypedDict):
    """Of a training's figures, those that a forecast's document has; None where not measured."""

    mae: float | None
    mase: float | None
    beats_naive: bool | None
    coverage: dict[str, float] | None


_IS_FIGURES = record(
    mae=maybe(number(0)),
    mase=maybe(number(0)),
    beats_naive=maybe(truth),
    coverage=maybe(_is_coverage),
)


def is_figures(value: Any) -> TypeGuard[Figures]:
    """Whether a value of JSON has the form of `Figures`."""
    return _IS_FIGURES(value)


M = TypeVar("M", bound=Known)


@dataclass(frozen=True, slots=True)
class Fitted(Generic[M]):
    """A trained forecaster.

    Attributes
    ----------
    numbers : mapping of ndarray
        Of the graph, where there is one.
    model : M
        All else that a forecast needs.
    figures : dict
        JSON-able: what was measured on held-out data. ``mae``, ``mase``, ``beats_naive`` and
        ``coverage`` are shown with forecasts; ``accepted`` is false where the current model does
        better on what neither has seen, and stays; ``beats_fleet`` is false where the fleet's
        does as well. ``peaks`` and ``ordinary_hours``
        (`pyml.detectors.rarity.figures`) are of distances from the forecast, in half widths of the
        interval that a scan compares with.
    """

    numbers: Numbers
    model: M
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Previous(Generic[M]):
    """The current model, for a training to start from and to be compared with."""

    numbers: Numbers
    model: M
    run: Run


class Forecaster(Owner[M]):
    """Forecasts one signal; what all owners of models have is in `Owner`.

    Attributes
    ----------
    shape : sequence of str
        Those of `settings` that a current model has to share for a training to start from it.
    pools : bool
        Whether one model of its kind can be trained on many devices, and then forecasts any.
    """

    shape: ClassVar[Sequence[str]] = ()
    pools: ClassVar[bool] = False

    def load(self, settings: Mapping[str, Any]) -> None:
        """Import the libraries that `fit` needs; it then starts at once."""

    @abstractmethod
    def fit(
        self,
        series: Grid,
        settings: Mapping[str, Any],
        bounds: Bounds,
        previous: Previous[M] | None,
        fleet: Previous[M] | None,
        pulse: Pulse,
    ) -> Fitted[M]:
        """Train on one signal; the same input gives the same bytes.

        Parameters
        ----------
        series : Grid
            Neighbours one interval apart; NaN at a long gap.
        settings : mapping
            Values of `settings`, by parameter; and ``level``, the share of the values that the
            intervals of scans cover.
        bounds : tuple of float or None
            Range of possible values, where known.
        previous : Previous or None
            The current model, where it has the same `shape`.
        fleet : Previous or None
            The fleet's, likewise. Where it ``pools``.
        pulse : callable

        Raises
        ------
        NotEnoughData
        """

    def fit_fleet(
        self, series: Sequence[Grid], settings: Mapping[str, Any], pulse: Pulse
    ) -> Fitted[M]:
        """Train one model on a signal of many devices; the same input gives the same bytes.

        Parameters
        ----------
        series : sequence of Grid
            One of each device.
        settings : mapping
            As for `fit`.
        pulse : callable

        Raises
        ------
        NotEnoughData
        """
        raise NotImplementedError

    def forecast_any(
        self, model: M, run: Run, series: Grid, horizon: int | None, level: float
    ) -> Forecast:
        """Forecast by what `fit_fleet` gave; arguments and errors are those of `forecast`."""
        raise NotImplementedError

    @abstractmethod
    def lookback(self, model: M) -> float:
        """Seconds before the last reading that a forecast wants to see."""

    @abstractmethod
    def forecast(
        self, model: M, run: Run, series: Grid, horizon: int | None, level: float
    ) -> Forecast:
        """Forecast what comes after the last reading.

        Parameters
        ----------
        model : M
        run : callable
            Runs the graph, where there is one.
        series : Grid
            On the model's own interval, `lookback` seconds of it if possible.
        horizon : int or None
            Steps ahead, at most those that the model was trained for, which None stands for.
        level : float
            Share of the values that the interval shall cover.

        Raises
        ------
        BadArgument
            A horizon or level outside its range.
        NotEnoughData
        """


FORECASTERS: Registry[Forecaster[Any]] = Registry("pyml.forecasters", "pyml.lstm")
