"""Readings -> how well each signal has been measured in the last day, from scan to scan.

Counted by the hour, so that an hour that is looked at again is counted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeGuard

import numpy as np

from pyml.forms import MAX_METRICS, listed, record, whole
from pyml.seconds import HOUR
from pyml.telemetry.readings import OK, QUALITIES, Readings

HOURS = 24


class Hour(TypedDict):
    """The counts of one hour, as the scan's state stores them.

    Attributes
    ----------
    hour : int
        Since 1970.
    messages : list of int
        A `Ledger`.
    bad : dict
        Readings that are not `OK`, by quality: of each metric that has such, by its place.
    """

    hour: int
    messages: list[int]
    bad: dict[str, list[int]]


Hours = list[Hour]


@dataclass(frozen=True, slots=True)
class Sight:
    """A signal as its last reading left it.

    Attributes
    ----------
    value, at : float or None
        The last value, and the time of the last reading that had it; None where no scan has seen
        one.
    quality : str
        Of the last sample.
    since : float
        From when on it has been of that quality.
    """

    value: float | None
    at: float | None
    quality: str
    since: float


def first_hour(since: float) -> float:
    """When the hour began that a moment lies in."""
    return float(np.floor(since / HOUR) * HOUR)


def counted(before: Hours, readings: Readings, since: float, until: float) -> Hours:
    """The hours of the day up to `until`, those from `since` on, which begins one, counted anew."""
    first = max(since, first_hour(until) - (HOURS - 1) * HOUR)
    kept = [one for one in before if until - HOURS * HOUR < one["hour"] * HOUR < first]
    made: Hours = []
    for begin in np.arange(first, until, HOUR):
        # A moment that begins an hour belongs to it.
        window = np.nextafter(begin, -np.inf), np.nextafter(begin + HOUR, -np.inf)
        ledger = readings.ledger(*window)
        if any(ledger):
            samples = readings.samples(*window)
            bad = np.flatnonzero(samples[:, OK] < ledger.used)
            made.append(
                {
                    "hour": int(begin // HOUR),
                    "messages": list(ledger),
                    "bad": {str(j): samples[j, 1:].tolist() for j in bad},
                }
            )
    return [*kept, *made]


def shares(hours: Hours, metrics: int) -> tuple[list[int], list[list[int]]]:
    """Over all hours: the messages' ledger, and of each metric its samples by quality."""
    messages = np.array([one["messages"] for one in hours] or [[0] * 4]).sum(axis=0)
    found = np.zeros((metrics, len(QUALITIES)), np.int64)
    for one in hours:
        for place, counts in one["bad"].items():
            found[int(place), 1:] += counts
    found[:, OK] = messages[0] - found[:, 1:].sum(axis=1)
    return messages.tolist(), found.tolist()


def sighted(before: Sequence[Sight] | None, readings: Readings, since: float) -> list[Sight] | None:
    """Each signal after the readings from `since` on; None where there are none.

    Parameters
    ----------
    before : sequence of Sight, length m, optional
        What this gave when it was last asked.
    readings : Readings
        Of m metrics.
    since : float
    """
    came = readings.after(since).came()
    if not len(came.times):
        return None
    found = []
    for j in range(came.values.shape[1]):
        code = came.quality[:, j]
        quality = QUALITIES[code[-1]]
        changed = np.flatnonzero(code != code[-1])
        begins = float(came.times[changed[-1] + 1 if len(changed) else 0])
        last = before[j] if before else None
        if last and not len(changed) and last.quality == quality:
            begins = min(begins, last.since)
        there = np.flatnonzero(np.isfinite(came.values[:, j]))
        value, at = (last.value, last.at) if last else (None, None)
        if len(there):
            value, at = float(came.values[there[-1], j]), float(came.times[there[-1]])
        found.append(Sight(value, at, quality, begins))
    return found


# ---- forms -----------------------------------------------------------------------

_COUNT = whole(0, 1 << 40)
_HOUR = record(
    hour=whole(-(1 << 40), 1 << 40),
    messages=listed(_COUNT, 4, 4),
    bad=lambda value: type(value) is dict and len(value) <= MAX_METRICS,
)
_BAD = listed(_COUNT, len(QUALITIES) - 1, len(QUALITIES) - 1)


def is_hours(value: Any, metrics: int) -> TypeGuard[Hours]:
    """Whether a value is what `counted` gives for so many metrics."""
    places = {str(j) for j in range(metrics)}
    return listed(_HOUR, 0, HOURS + 1)(value) and all(
        one["bad"].keys() <= places and all(map(_BAD, one["bad"].values())) for one in value
    )
