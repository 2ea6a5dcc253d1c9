"""When a signal reaches a limit, by its outlook."""

from dataclasses import dataclass

import numpy as np

from pyml.forecasters.outlook import BANDS, Floats, Outlook, Steps
from pyml.seconds import DAY

# The band whose ends are the earliest and the latest.
BAND = BANDS.index(0.8)
# A limit that the signal was at within so many days is nothing that lies ahead.
NEW_DAYS = 7
# Share of the slope that a day has to go for the slope to have begun before it.
GOING = 0.3


@dataclass(frozen=True, slots=True)
class Reach:
    """When a signal reaches a limit.

    Attributes
    ----------
    value : float
        Its last mean.
    at : float
        When that ended; seconds since the Unix epoch, as all times.
    slope : float
        Units a day; 0 where the outlook has none.
    since : float
        From when on it has gone so.
    earliest, probably, latest : float or None
        When the band, the median and the band's other end are there first; None where they are
        not within the outlook.
    there : bool
        Whether it is at the limit now.
    new : bool
        Whether it was not within the last `NEW_DAYS`.
    """

    value: float
    at: float
    slope: float
    since: float
    earliest: float | None
    probably: float | None
    latest: float | None
    there: bool
    new: bool

    def within(self, days: float) -> bool:
        """Whether it probably reaches the limit in so many days, and surely in the outlook."""
        return (
            self.new
            and self.latest is not None
            and self.probably is not None
            and self.probably <= self.at + days * DAY
        )


def reach(signal: Steps, ahead: Outlook, limit: float, upward: bool) -> Reach:
    """When a signal reaches a limit from below (`upward`) or from above."""
    sign = 1.0 if upward else -1.0
    near, far = (ahead.upper, ahead.lower) if upward else (ahead.lower, ahead.upper)
    values = signal.values
    lately = values[-NEW_DAYS * signal.a_day :]
    with np.errstate(invalid="ignore"):
        beyond = sign * (lately - limit) >= 0
    return Reach(
        value=float(values[-1]),
        at=signal.start + len(values) * signal.step,
        slope=ahead.slope,
        since=_since(signal, ahead.slope),
        earliest=_first(ahead.times, near[BAND], limit, sign),
        probably=_first(ahead.times, ahead.predicted, limit, sign),
        latest=_first(ahead.times, far[BAND], limit, sign),
        there=bool(beyond[-1]),
        new=not beyond.any(),
    )


def _first(times: Floats, path: Floats, limit: float, sign: float) -> float | None:
    there = np.flatnonzero(sign * (path - limit) >= 0)
    return float(times[there[0]]) if len(there) else None


def _since(signal: Steps, slope: float) -> float:
    """From when on the days' medians have gone with the slope."""
    whole = signal.values[len(signal.values) % signal.a_day :].reshape(-1, signal.a_day)
    days = np.array([np.median(one[~np.isnan(one)]) for one in whole if not np.isnan(one).all()])
    going = np.diff(days)[::-1] * np.sign(slope) >= GOING * abs(slope)
    count = int(np.argmin(going)) if not going.all() else len(going)
    return signal.start + len(signal.values) * signal.step - max(1, count) * DAY
