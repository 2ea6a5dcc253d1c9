"""What is usual of a signal at each time of the day, or of the week, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pyml.forecasters.calendar import MOST_BINS, WEEK_DAYS, Calendar
from pyml.forecasters.recurrent import Parameters
from pyml.forecasters.windows import Floats, Places, Windows, ahead_of, origins
from pyml.seconds import DAY

# Days of which a part has to be known; parts before and after one that are as sure as it is.
LEAST, NEIGHBOURS = 2, 2


class Usual(NamedTuple):
    """What is usual by a calendar.

    Attributes
    ----------
    calendar : Calendar
    parts : ndarray of float64, shape (calendar.size,)
        Median over all days, in the signal's unit, less each day's level; 0 where too little is
        known.
    sure : ndarray of float64, shape (calendar.size,)
        Share of what is usual of the next steps that came indeed; 0 to 1.
    others, sure_others : ndarray of float64, shape (n,)
        Both at each time of the series, by the other days alone: a day that is forecast is not
        known yet.
    """

    calendar: Calendar
    parts: Floats
    sure: Floats
    others: Floats
    sure_others: Floats

    def due(self, at: Places, horizon: int) -> Floats:
        """What was to be expected of the steps after each origin, as changes (k, horizon)."""
        change = ahead_of(self.others, at, horizon) - self.others[at, None]
        return change * self.sure_others[at, None]

    def risen(self, seconds: float) -> Floats:
        """How far each part is from the median of so long before it, of the shape of `parts`."""
        steps = max(1, round(seconds * self.calendar.bins / DAY))
        before = np.pad(self.parts, (steps - 1, 0), mode="wrap")
        return np.asarray(self.parts - np.median(sliding_window_view(before, steps), axis=1))


def usual_of(
    times: Floats, values: Floats, interval: float, horizon: int, zone: str, p: Parameters
) -> Usual:
    """What is usual by the day, or by the week where that tells more.

    Parameters
    ----------
    times, values : ndarray of float64, shape (n,)
        A series on a grid.
    interval : float
        Seconds between two of them.
    horizon : int
        Steps that are forecast.
    zone : str
        Whose clock counts.
    p : Parameters

    Raises
    ------
    BadArgument
        There is no such zone.
    """
    bins = int(np.clip(DAY // interval, 1, MOST_BINS))
    days = np.isfinite(values).sum() * interval / DAY
    if days < p.day_from:
        return learn(times, values, Calendar(zone, 1, 1), horizon)
    periods = (1, WEEK_DAYS) if days >= p.week_from else (1,)
    found = [learn(times, values, Calendar(zone, days, bins), horizon) for days in periods]
    at = origins(values, 1, horizon)
    came = ahead_of(values, at, horizon) - values[at, None]
    # Squares: what is seldom and large counts, such as a job of each Monday.
    missed = [float(((came - usual.due(at, horizon)) ** 2).sum()) for usual in found]
    return found[int(np.argmin(missed))]


def learn(
    times: Floats, values: Floats, calendar: Calendar, horizon: int, seen: int | None = None
) -> Usual:
    """What is usual by a calendar, from the first `seen` values of a series."""
    if calendar.size == 1:
        return Usual(calendar, *np.zeros((2, 1)), *np.zeros((2, len(times))))
    seen = len(times) if seen is None else seen
    rows, period, part = calendar.matrix(times[:seen], values[:seen])
    usual, others = _medians(rows)
    right, weight = _came(rows, others, horizon)
    sure = _share(right.sum(axis=0), weight.sum(axis=0))
    sure_others = _share(right.sum(axis=0) - right, weight.sum(axis=0) - weight)
    later = calendar.places(times[seen:])
    return Usual(
        calendar,
        usual,
        sure,
        np.append(others[period, part], usual[later]),
        np.append(sure_others[period, part], sure[later]),
    )


def _came(rows: Floats, usual: Floats, horizon: int) -> tuple[Floats, Floats]:
    """Of each part's next steps the product of what came and what is usual, and its square."""
    came, said = rows.ravel(), usual.ravel()
    right, weight = np.zeros((2, rows.size))
    for h in range(1, min(horizon, rows.size - 1) + 1):
        change = said[h:] - said[:-h]
        product = change * (came[h:] - came[:-h])
        right[:-h] += np.nan_to_num(product)
        weight[:-h] += np.where(np.isnan(product), 0.0, change**2)
    return right.reshape(rows.shape), weight.reshape(rows.shape)


def _share(right: Floats, weight: Floats) -> Floats:
    """The factor on what is usual that would have erred least, of each part and its neighbours."""
    near = range(-NEIGHBOURS, NEIGHBOURS + 1)
    right, weight = (
        np.sum([np.roll(one, k, axis=-1) for k in near], axis=0) for one in (right, weight)
    )
    return np.asarray(np.clip(right / np.where(weight > 0, weight, 1.0), 0, 1))


def astray(windows: Windows, usual: Usual, risen: Floats, replay: int) -> float:
    """Mean error of what was due and no origin shortly before had a like of, as a share of that.

    Parameters
    ----------
    windows : Windows
        To learn from.
    usual : Usual
    risen : ndarray of float64, shape (n,)
        `Usual.risen` at each time of the series.
    replay : int
        Steps before, in which a like is looked for.
    """
    at, last = windows.at, windows.behind[:, -1:]
    due = usual.due(at, windows.ahead.shape[1])
    due -= early(due, last - windows.medians[:, -1:] - risen[at, None])
    rows = max(1, round(replay * len(at) / (at[-1] - at[0] + 1)))
    beyond = np.maximum(np.abs(due) - _greatest_before(np.abs(due), rows), 0)
    error = np.abs(windows.ahead - last - due)
    total = float(beyond.sum())
    return float(np.minimum(error, beyond).sum()) / total if total > 0 else 1.0


def early(due: Floats, risen: Floats) -> Floats:
    """What has come already of what is due (n, horizon), by how far the value has risen (n, 1)."""
    return np.asarray(np.clip(risen, np.minimum(due, 0), np.maximum(due, 0)))


def _greatest_before(cells: Floats, rows: int) -> Floats:
    """The greatest of the `rows` rows before each, shape (n, k); 0 where there are none."""
    found, done = np.vstack([np.zeros_like(cells[:1]), cells[:-1]]), 1
    while done < min(rows, len(cells)):
        step = min(done, rows - done)
        found[step:] = np.maximum(found[step:], found[:-step].copy())
        done += step
    return found


def _medians(rows: Floats) -> tuple[Floats, Floats]:
    """Median of each column, and that without each row; 0 where fewer than `LEAST` are known.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, k)
        NaN where missing.

    Returns
    -------
    all : ndarray of float64, shape (k,)
    others : ndarray of float64, shape (n, k)
    """
    ordered = np.sort(rows, axis=0)  # what is missing comes last
    ordered = np.vstack([ordered, np.full(len(rows[0]), np.nan)])
    count, column = (~np.isnan(rows)).sum(axis=0), np.arange(rows.shape[1])

    def middle(n: Places, least: int, at: Floats | None) -> Floats:
        """The median of n; where `at` is given, of what is left without that."""
        found = []
        for k in ((n - 1) // 2, n // 2):
            k = np.clip(k, 0, len(rows) - 1)
            one = ordered[k, column]
            if at is not None:
                one = np.where(at <= one, ordered[k + 1, column], one)
            found.append(one)
        return np.where(n >= least, (found[0] + found[1]) / 2, 0.0)

    there = ~np.isnan(rows)
    usual = middle(count, LEAST, None)
    return usual, np.where(there, middle(count - 1, LEAST - 1, rows), usual)
