"""What the LSTM's forecasts are tuned by, and what a stored one knows."""

from dataclasses import dataclass
from typing import Any

from pyml.forecasters.base import KNOWN, MAX_HORIZON, Known
from pyml.forecasters.calendar import Calendar, is_calendar
from pyml.forms import listed, number, record, whole
from pyml.parameters import parameter


@dataclass(frozen=True, slots=True)
class Parameters:
    """What training, weighing and intervals are tuned by.

    The shape of the network is no parameter: it is part of the stored form
    (`pyml.forecasters.inference`).

    "44 series" and the like are recordings other than those that `bench/forecast.py` reports:
    hosts of the Numenta Anomaly Benchmark and machines of the Server Machine Dataset.
    """

    batch: int = parameter(256, "windows a step of the training", "16 series")
    rate: float = parameter(5e-3, "learning rate of a training from scratch", "44 series")
    warm_rate: float = parameter(
        2e-3, "learning rate of a training that goes on from the current model", "44 series"
    )
    refit_rate: float = parameter(
        1e-3, "first learning rate of the last pass over all windows; it falls to 0", "44 series"
    )
    patience: int = parameter(5, "epochs without progress after which it ends", "44 series")
    warm_patience: int = parameter(
        4, "the same, where the training goes on from the current model", "44 series"
    )
    least_progress: float = parameter(
        0.003,
        "share of the error that an epoch has to take away to count as progress",
        "44 series: a quarter less time than without, and the same error",
    )
    warm_epochs: int = parameter(
        5, "most epochs of a training that goes on from a model", "44 series; 4 to 8 err the same"
    )
    halve_after: int = parameter(
        3, "epochs without progress after which the rate is halved", "44 series"
    )
    averaging: float = parameter(
        0.7,
        "weight of the earlier epochs in the averaged weights",
        "Polyak and Juditsky, 1992: the same accuracy in fewer epochs",
    )
    refit_epochs: int = parameter(5, "epochs of the last pass over all windows", "44 series")
    warm_refit_epochs: int = parameter(
        3, "epochs of that pass, where the training goes on from the current model", "44 series"
    )
    most_windows: int = parameter(
        12_000,
        "windows that are trained on at most; a week of minutes has 10,019",
        "16 series: more of them cost time and hardly help",
    )
    stop_share: float = parameter(
        0.1, "share of the windows that choose ridge penalty and epoch", "judgement"
    )
    held_share: float = parameter(0.1, "share of the windows held out for the figures", "judgement")
    least_fit: int = parameter(12, "fewest windows to fit on", "judgement")
    least_part: int = parameter(8, "fewest windows to stop by, and to hold out", "judgement")
    measured: int = parameter(
        250, "held-out windows that the figures are measured on, evenly spread", "judgement"
    )
    floor: float = parameter(
        0.2,
        "spread of a window that stands still, in usual changes over the horizon",
        "16 series",
    )
    blocks: int = parameter(7, "blocks of time that a training is cut into", "the days of a week")
    counted: int = parameter(
        3,
        "which block's largest change from a standstill is the largest ordinary one",
        "a fault across midnight is in two days; what is seen on three is a habit",
    )
    most_inflation: float = parameter(
        3.0, "most that errors on windows seen in training are enlarged", "judgement"
    )
    rounds: int = parameter(
        4,
        "IRLS iterations of the linear path; each fit starts from the one before",
        "16 series: the error moves by less than a thousandth in more",
    )
    ridges: tuple[float, ...] = parameter(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0),
        "penalties that the linear path chooses from, a window",
        "16 series",
    )
    reach: float = parameter(
        100.0,
        "usual changes at which the lags of the linear path are clipped; larger ones exhaust "
        "float32",
        "recordings have 60",
    )
    replay: int = parameter(
        400, "steps back from which past forecasts are replayed", "32 series; 200 to 800"
    )
    every: int = parameter(
        4,
        "one origin in so many is replayed; neighbours say nearly the same",
        "16 series; an even number keeps step with a machine that works by turns",
    )
    least_replay: int = parameter(
        30, "unseen replayed forecasts below which seen ones count too", "16 series"
    )
    sharpness: float = parameter(
        20.0,
        "a forecast with a tenth more error over the replay has exp(-sharpness / 10) of the say",
        "32 series",
    )
    prior: float = parameter(
        3.0,
        "the network begins with so many times the say of a simple forecast, of which it is made",
        "32 series",
    )
    folds: int = parameter(
        4,
        "parts of the replay, each weighed by the errors of the others",
        "32 series",
    )
    half_life: int = parameter(
        200, "steps in which an error loses half of its weight in that", "32 series"
    )
    spreading: float = parameter(
        0.75,
        "power of the spread by which errors grow; less than 1, since after a jump the spread "
        "stays wide for long",
        "32 series",
    )
    gain: float = parameter(
        0.5,
        "past intervals that cover a tenth less than they should widen later ones by gain / 10",
        "Angelopoulos, Candes and Tibshirani, 'Conformal PID Control', 2023; 40 series",
    )
    sure: float = parameter(
        1.645,
        "standard errors by which a device's own model has to beat the fleet's",
        "one chance in twenty that it does not",
    )
    pooled_held: float = parameter(
        1 / 6, "share of a device's stretches held out for the figures of a fleet", "judgement"
    )
    pooled_stop: float = parameter(
        1 / 6,
        "share of each stretch of a device by which a fleet's model chooses the epoch",
        "judgement; some stretches as a whole choose badly: few of them are like the others",
    )
    pooled_stops: int = parameter(2500, "such windows, of all devices, at most", "judgement")
    afar: float = parameter(
        20.0,
        "usual changes from the median at which a level counts as far as any, in a fleet",
        "judgement",
    )
    day_from: float = parameter(
        2.6,
        "days of readings from which on the time of day is looked at: three, less what a training"
        " leaves for its first intervals",
        "sunrise is to be foreseen after three",
    )
    week_from: float = parameter(
        18.8,
        "days of readings from which on the time of the week is looked at too: three weeks,"
        " likewise",
        "below that a day of the week has one like it or none",
    )


PARAMETERS = Parameters()
# Share of the values that the intervals of scans cover, as the setting has it by default.
LEVEL = 0.99


MAX_LENGTH = 500  # as the setting has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Known):
    """What a stored forecast knows beside its network.

    Attributes
    ----------
    sequence_length : int
        Steps read.
    floor : float
        Spread of a window that stands still, in the metric's unit.
    ordinary : tuple of float, length horizon
        How far the metric ordinarily goes from a standstill, by each step ahead; in its unit.
    inflation : float
        Factor on errors at windows that the training has seen.
    seen_until : float
        Time of the last value that the training has seen, in seconds.
    calendar : Calendar
        By which times of the day, or of the week, it knows what is usual.
    astray : float
        Mean error of what the calendar foresees, as a share of that.
    """

    sequence_length: int
    floor: float
    ordinary: tuple[float, ...]
    inflation: float
    seen_until: float
    calendar: Calendar
    astray: float

    def lookback(self, p: Parameters = PARAMETERS) -> float:
        """How far back a forecast reads, in seconds before the last reading."""
        return float((self.sequence_length + self.horizon + p.replay) * self.interval)

    @classmethod
    def of_json(cls, meta: dict[str, Any]) -> "Model | None":
        """What `to_json` gave and JSON kept; None where no training has written it."""
        if not _IS_MODEL(meta):
            return None
        own = {"ordinary": tuple(meta["ordinary"]), "calendar": Calendar(**meta["calendar"])}
        model = cls(**cls.plain(meta) | own)
        return model if model.well_known() and len(model.ordinary) == model.horizon else None


_IS_MODEL = record(
    **KNOWN,
    sequence_length=whole(1, MAX_LENGTH),
    floor=number(1e-300),
    ordinary=listed(number(1e-300), 1, MAX_HORIZON),
    inflation=number(1e-3, 1e3),
    seen_until=number(),
    calendar=is_calendar,
    astray=number(0, 1),
)
