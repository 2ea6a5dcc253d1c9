"""A forecaster in a file: the value of a day ago, with an interval from past errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyml.background import Pulse
from pyml.errors import BadArgument, NotEnoughData
from pyml.forecasters.base import (
    FORECASTERS,
    KNOWN,
    Bounds,
    Fitted,
    Floats,
    Forecast,
    Forecaster,
    Known,
    Previous,
)
from pyml.forms import record
from pyml.models.blob import Run
from pyml.telemetry.series import Grid

DAY = 86_400.0
_IS_MODEL = record(**KNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """Nothing but what every forecast knows."""


def day_ago(series: Grid, times: Floats) -> Floats:
    """The value a day before each moment; NaN where there was none."""
    wanted, half = times - DAY, series.interval / 2
    place = np.searchsorted(series.times, wanted - half)
    place = np.clip(place, 0, len(series.times) - 1)
    there = np.abs(series.times[place] - wanted) <= half
    return np.where(there, series.values[place], np.nan)


def past_errors(series: Grid) -> Floats:
    """How wrong the value of a day ago was, at each reading of the last day that had one."""
    if not len(series.times):
        return np.empty(0)
    errors = np.abs(series.values - day_ago(series, series.times))
    recent = series.times > series.times[-1] - DAY
    return errors[recent & np.isfinite(errors)]


@FORECASTERS.register
class Yesterday(Forecaster[Model]):
    """The value of a day ago."""

    kind = "yesterday"
    settings: ClassVar = {"horizon": ("forecast_horizon", int)}

    def fit(
        self,
        series: Grid,
        settings: Mapping[str, Any],
        bounds: Bounds,
        previous: Previous[Model] | None,
        fleet: Previous[Model] | None,
        pulse: Pulse,
    ) -> Fitted[Model]:
        """Nothing is learnt; the figures are the errors of the last day."""
        pulse()
        errors = past_errors(series)
        if not len(errors):
            raise NotEnoughData("no value of a day ago", detail="A day is needed.", hint="Wait.")
        model = Model(horizon=settings["horizon"], interval=series.interval, bounds=bounds)
        figures = {"mae": float(errors.mean()), "mase": None, "beats_naive": None}
        return Fitted({}, model, figures | {"coverage": {}})

    def lookback(self, model: Model) -> float:
        """Two days: of each reading of the last one the value a day before."""
        return 2 * DAY + model.interval

    def forecast(
        self, model: Model, run: Run, series: Grid, horizon: int | None, level: float
    ) -> Forecast:
        """The values of a day ago, the last one where there was none."""
        steps = model.horizon if horizon is None else horizon
        if not 1 <= steps <= model.horizon or not 0.5 <= level <= 0.999:
            raise BadArgument("out of range", detail="See the model.", hint="Ask for less.")
        errors = past_errors(series)
        if not len(errors):
            raise NotEnoughData("no value of a day ago", detail="A day is needed.", hint="Wait.")
        last = float(series.times[-1])
        times = last + model.interval * np.arange(1, steps + 1)
        told = day_ago(series, times)
        told = np.where(np.isnan(told), series.values[-1], told)
        half = float(np.quantile(errors, level))
        low, high = model.bounds
        predicted, lower, upper = (np.clip(told + by, low, high) for by in (0.0, -half, half))
        return Forecast(times, predicted, lower, upper, last, len(errors))

    def of_json(self, meta: dict[str, Any]) -> Model | None:
        """What `to_json` gave and JSON kept; None where no training has written it."""
        model = Model(**Model.plain(meta)) if _IS_MODEL(meta) else None
        return model if model is not None and model.well_known() else None
