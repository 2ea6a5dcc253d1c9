"""The next days of a signal: an outlook.

A few simple forecasts (a level, a slope, the rhythm of the day, of the week, or of the signal's
own resets) are tried on the signal's own past. The one that would have erred least is used, and
its errors make the bands. It is fitted when it is asked for and is no stored model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.forecasters.resets import cycle, median, resets_of
from pyml.parameters import parameter
from pyml.seconds import DAY, HOUR

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

WEEK_DAYS = 7
# Steps of an outlook, in hours: each divides a day.
STEPS = (1, 2, 3, 4, 6, 8, 12, 24)
BANDS = (0.8, 0.9)
"""Probabilities of the bands."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a maintainer may have to derive again."""

    least_days: float = parameter(
        3.0, "days of history below which there is no outlook", "two repeats of a day to test on"
    )
    least_fit: int = parameter(
        7,
        "days that a forecast of the backtest is fitted on at least, of long histories",
        "5 to 10",
    )
    levels: tuple[tuple[float, float], ...] = parameter(
        ((0.25, 1.0), (1.0, 1.0), (1.0, 0.8), (3.0, 0.5), (7.0, 1.0)),
        "days whose median is the level now, and what is left of its distance from the usual"
        " level after each day ahead",
        "spans of 6 h to 7 days, shares of 0 to 1; docs/outlook.md",
    )
    slopes: tuple[int, ...] = parameter(
        (3, 10), "days whose median change from day to day is the slope", "3 to 14 days"
    )
    reset: float = parameter(
        0.4, "share of the signal's range that it goes within three steps at a reset", "0.3 to 0.6"
    )
    recent: float = parameter(
        0.9, "weight of a test, by that of the test a day after it", "0.7 to 1; docs/outlook.md"
    )
    moved: float = parameter(
        2.0,
        "widths of where all days before it were, outside of which the last day shows that the"
        " signal has moved",
        "0.5, at which trouble of some hours counts as well, 2 and none",
    )


PARAMETERS = Parameters()


@dataclass(frozen=True, slots=True)
class Steps:
    """A signal as means over steps of equal length.

    Attributes
    ----------
    start : float
        When the first step begins; seconds since the Unix epoch, a multiple of `step`.
    step : float
        Seconds.
    values : ndarray of float64, shape (n,)
        The first and the last are known; NaN where nothing came.
    """

    start: float
    step: float
    values: Floats

    @property
    def a_day(self) -> int:
        """Steps of a day."""
        return round(DAY / self.step)

    @property
    def days(self) -> float:
        """Days of which something is known."""
        return float(np.isfinite(self.values).sum()) / self.a_day


@dataclass(frozen=True, slots=True)
class Outlook:
    """The next days of a signal; h steps.

    Attributes
    ----------
    times : ndarray of float64, shape (h,)
        When each step begins; seconds since the Unix epoch.
    predicted : ndarray of float64, shape (h,)
        The median.
    lower, upper : ndarray of float64, shape (2, h)
        Of each of `BANDS`.
    slope : float
        Of the last days, in the signal's unit a day; 0 where going on so has not proved better.
    way : str
        Which of the forecasts it is, in words.
    tests : int
        Past days from which it was tried.
    """

    times: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    slope: float
    way: str
    tests: int


def steps_of(times: Floats, values: Floats, interval: float) -> Steps:
    """Means over hours, or over the signal's own rhythm where that is slower.

    The last step, which may still go on, is left out.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds since the Unix epoch, increasing.
    values : ndarray of float64, shape (n,)
        NaN where missing.
    interval : float
        Seconds between two samples, usually.
    """
    step = HOUR * next((hours for hours in STEPS if hours * HOUR >= 0.9 * interval), STEPS[-1])
    known = np.isfinite(values)
    place, values = np.floor(times[known] / step).astype(np.int64), values[known]
    whole = place < place[-1] if len(place) else slice(0)
    place, values = place[whole], values[whole]
    if not len(place):
        return Steps(0.0, step, np.empty(0))
    count = np.bincount(place - place[0])
    total = np.bincount(place - place[0], values)
    with np.errstate(invalid="ignore"):
        return Steps(place[0] * step, step, total / np.where(count, count, np.nan))


@dataclass(frozen=True, slots=True)
class _Way:
    """One of the simple forecasts.

    Attributes
    ----------
    shape : str
        What repeats: nothing, the `day`, the `week`, or the `cycle` from reset to reset.
    span : float
        Days whose median is the level now.
    keep : float
        What is left of the level's distance from the usual one after each day ahead.
    slope : int
        Days whose median daily change goes on; 0: none.
    """

    shape: str
    span: float = 0.0
    keep: float = 1.0
    slope: int = 0

    @property
    def words(self) -> str:
        if self.shape == "cycle":
            return "from reset to reset" + (", rising or falling" if self.slope else "")
        rhythm = f"rhythm of the {self.shape}" if self.shape else "level"
        return f"{rhythm} and slope of {self.slope} days" if self.slope else rhythm


def outlook(
    signal: Steps,
    days: int,
    bounds: tuple[float | None, float | None] = (None, None),
    parameters: Parameters = PARAMETERS,
) -> Outlook:
    """The next days of a signal.

    Parameters
    ----------
    signal : Steps
        Of `Parameters.least_days` at least.
    days : int
    bounds : tuple of float or None
        The range that the signal cannot leave, where known.
    parameters : Parameters

    Returns
    -------
    Outlook

    Notes
    -----
    From each day of the past that leaves enough to fit on, each way forecasts what then came. Bands
    are quantiles of those errors by the day ahead, as in conformal prediction; since days that
    follow each other err alike, a test counts, not a step of it. They never narrow with the days
    ahead. Beyond the longest test they grow as those of an unknown slope do.

    References
    ----------
    Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", 3rd edition, 2021,
    sections 5.2 (simple methods), 5.5 (intervals of errors) and 5.10 (rolling origins).
    """
    p = parameters
    values, a_day = _filled(signal.values, signal.a_day), signal.a_day
    known = np.isfinite(signal.values)
    h = days * a_day
    ways = [*_ways(values, a_day, p)]
    errors = _backtest(values, known, a_day, h, ways, p)
    best = _best(errors, p)
    ahead, slopes = _forecasts(values, a_day, h, [ways[best]], p)
    predicted = np.clip(ahead[0], *bounds)
    low, high = _bands(errors[:, best], a_day)
    places = np.arange(len(values), len(values) + h, dtype=np.float64)
    times = signal.start + signal.step * places
    return Outlook(
        times,
        predicted,
        np.clip(predicted + low, *bounds),
        np.clip(predicted + high, *bounds),
        slopes[0],
        ways[best].words,
        len(errors),
    )


def _filled(values: Floats, a_day: int) -> Floats:
    """Without gaps: what is missing is as a day before, or as the next that is known."""
    values = values.copy()
    for place in np.flatnonzero(np.isnan(values)):
        if place >= a_day:
            values[place] = values[place - a_day]
    known = np.flatnonzero(~np.isnan(values))
    filled: Floats = np.interp(np.arange(len(values)), known, values[known])
    return filled


def _ways(values: Floats, a_day: int, p: Parameters) -> Iterator[_Way]:
    """The forecasts that a history can have, the simplest first."""
    days = len(values) // a_day
    shapes = ["", *["day"] * (a_day > 1), *["week"] * (days >= 2 * WEEK_DAYS)]
    moved = _has_moved(values, a_day, p)
    for shape in shapes:
        for span, keep in p.levels:
            if not moved or (span <= 1 and keep == 1):
                yield _Way(shape, span, keep)
        for slope in p.slopes:
            if slope <= days:
                yield _Way(shape, 1.0, 1.0, slope)
    resets = len(resets_of(values, p.reset))
    if resets > 1:
        yield _Way("cycle")
    if resets > 2:
        yield _Way("cycle", slope=1)


def _has_moved(values: Floats, a_day: int, p: Parameters) -> bool:
    """Whether the last day is where none before it was: what was usual before says nothing now."""
    rest = _level(values, a_day, a_day, _Way("day"))[2]
    days = median(rest[len(values) % a_day :].reshape(-1, a_day))
    low, high = days[:-1].min(), days[:-1].max()
    return bool(max(low - days[-1], days[-1] - high) > p.moved * (high - low))


def _backtest(
    values: Floats,
    known: NDArray[np.bool_],
    a_day: int,
    h: int,
    ways: Sequence[_Way],
    p: Parameters,
) -> Floats:
    """Errors of each way from each past day, shape (tests, ways, h); NaN where nothing came."""
    days = len(values) // a_day
    least = p.least_fit if days >= 2 * p.least_fit else max(1, days // 2)
    errors = np.full((days - least, len(ways), h), np.nan)
    for back in range(1, days - least + 1):
        at = len(values) - back * a_day
        m = min(h, back * a_day)
        ahead, _ = _forecasts(values[:at], a_day, m, ways, p)
        errors[back - 1, :, :m] = np.where(known[at : at + m], values[at : at + m] - ahead, np.nan)
    return errors


def _best(errors: Floats, p: Parameters) -> int:
    """The way that errs least, the last tests counting most; of several that of the first."""
    there = np.isfinite(errors)
    weight = p.recent ** np.arange(len(errors))[:, None, None] * there
    missed = (weight * np.abs(np.where(there, errors, 0.0))).sum(axis=(0, 2))
    return int(np.argmin(missed / np.maximum(weight.sum(axis=(0, 2)), 1e-9)))


def _forecasts(
    values: Floats, a_day: int, h: int, ways: Sequence[_Way], p: Parameters
) -> tuple[Floats, list[float]]:
    """What each way says of the next h steps, shape (ways, h), and its slope a day."""
    made: dict[tuple[str, int], tuple[float, Floats, Floats, float]] = {}
    ahead, slopes = np.empty((len(ways), h)), []
    days_ahead = np.arange(1, h + 1) / a_day
    left = {keep: keep**days_ahead for keep in {way.keep for way in ways}}
    for i, way in enumerate(ways):
        if way.shape == "cycle":
            ahead[i], slope = cycle(values, h, bool(way.slope), p.reset)
            slopes.append(slope * a_day)
            continue
        key = way.shape, way.slope
        if key not in made:
            made[key] = _level(values, a_day, h, way)
        slope, shape, rest, usual = made[key]
        away = median(rest[-max(1, round(way.span * a_day)) :]) - usual
        ahead[i] = usual + shape + away * left[way.keep] + slope * days_ahead
        slopes.append(slope)
    return ahead, slopes


def _level(values: Floats, a_day: int, h: int, way: _Way) -> tuple[float, Floats, Floats, float]:
    """Slope a day; the shape of the next h steps; what both leave of the values; its median."""
    slope = 0.0
    if way.slope and len(values) > a_day:
        span = values[-min(len(values), (way.slope + 1) * a_day) :]
        slope = median(span[a_day:] - span[:-a_day])
        values = values - slope * np.arange(1 - len(values), 1) / a_day
    n, period = len(values), {"": 1, "day": a_day, "week": WEEK_DAYS * a_day}[way.shape]
    shape = _shape(values, period if n >= 2 * period else min(a_day, n))
    rest = values - _repeated(shape, -n, 0)
    whole = n - n % (WEEK_DAYS * a_day) or n  # weeks, so that no day of the week counts more
    return slope, _repeated(shape, 0, h), rest, median(rest[-whole:])


def _repeated(shape: Floats, first: int, stop: int) -> Floats:
    """A period, which begins at step 0, again and again; `np.resize` takes ten times as long."""
    return shape[np.arange(first, stop) % len(shape)]


def _shape(values: Floats, period: int) -> Floats:
    """How a period ordinarily goes, about a median of 0, shape (period,); it ends with `values`."""
    if period == 1:
        return np.zeros(1)
    rows = values[len(values) % period :].reshape(-1, period)
    shape = median((rows - median(rows)[:, None]).T)
    centred: Floats = shape - median(shape)
    return centred


def _bands(errors: Floats, a_day: int) -> tuple[Floats, Floats]:
    """How far below and above the forecast each band goes, shape (2, h) each.

    Parameters
    ----------
    errors : ndarray of float64, shape (tests, h)
        What came less what was forecast.
    """
    tests, h = errors.shape
    days = h // a_day
    low, high = np.zeros((2, days)), np.zeros((2, days))
    for day in range(days):
        some = errors[:, day * a_day : (day + 1) * a_day]
        some = some[np.isfinite(some).any(axis=1)]
        count = len(some)
        if day and count < min(2, tests):  # the first has one at least: the last step is known
            grown = (day + 1) / day
            low[:, day], high[:, day] = low[:, day - 1] * grown, high[:, day - 1] * grown
            continue
        found = some[np.isfinite(some)]
        for k, band in enumerate(BANDS):
            # The tests are few, and the way was chosen by them: wider than they say.
            beyond = 1 - (1 - band) / 2 * max(0, count - 1) / (count + 1)
            low[k, day] = min(0.0, float(np.quantile(found, 1 - beyond)))
            high[k, day] = max(0.0, float(np.quantile(found, beyond)))
    low, high = np.minimum.accumulate(low, axis=1), np.maximum.accumulate(high, axis=1)
    return np.repeat(low, a_day, axis=1), np.repeat(high, a_day, axis=1)
