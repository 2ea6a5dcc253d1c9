"""A metric that moved: when it began, how far it went, and the sentence that says so."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pyml.detectors.base import Finding, Floats
from pyml.detectors.baseline import SETTLED
from pyml.detectors.pooling import is_fleets
from pyml.detectors.wording import day, figures, moment, of, step
from pyml.seconds import DAY, HOUR

# A move that began with less than this share of where it is now is a drift.
AT_ONCE = 0.5
# One that was there before all that is looked at drifts if it changed by such a share since.
GREW = 0.3
# Share of a window's mean that a move has to account for.
MOST_OF_IT = 0.5
# Readings whose usual gap tells how many fill a pause.
MANY = 1000
# Younger than this, nothing is called a drift.
YOUNG = 2 * HOUR


@dataclass(frozen=True, slots=True)
class Move:
    """A metric that is away from the usual.

    Attributes
    ----------
    kind : {'level', 'drift'}
    started_at, last_at : float
        Seconds since the Unix epoch; the last reading that was looked at.
    seen_at : float
        When it was last as far away as it is in the mean; never, where the window's mean is
        mostly that of something before.
    earlier : bool
        It began before all that was looked at.
    began_at : float or None
        Of a drift, when it began as its course tells; None where it began before all that.
    before, now : float
        What is usual now, and what the metric is: its mean since then, or over the last hour
        where it drifts.
    low, high : float
        The usual range at this time.
    limit, window : float
        How far the mean over so many seconds may be from the usual.
    """

    kind: str
    started_at: float
    last_at: float
    seen_at: float
    earlier: bool
    began_at: float | None
    before: float
    now: float
    low: float
    high: float
    limit: float
    window: float

    @classmethod
    def of(
        cls,
        times: Floats,
        values: Floats,
        expected: Floats,
        away: Floats,
        scale: tuple[float, float, float],
        mean: float,
    ) -> Self:
        """The move that a window's mean shows at the last of some readings.

        It began at the last minimum of the cumulative sum, and was last seen at the maximum after
        it.

        Parameters
        ----------
        times, values, expected : ndarray of float64, shape (n,)
        away : ndarray of float64, shape (n,)
            Distance from the expected, positive in the direction of the move, clipped.
        scale : tuple of float
            Range and limit of the mean over the window that shows it best, and the window.
        mean : float
            That mean, in the direction of the move.
        """
        usual, limit, window = scale
        pause = max(HOUR, window / 4)
        gap = float(np.median(np.diff(times[-MANY:]))) if len(times) > 1 else pause
        fall = limit / 2 * pause / gap
        sums = np.append(0.0, np.cumsum(away - limit / 2))
        # What came before a pause, in which the sum fell, is another move.
        apart = np.flatnonzero(np.maximum.accumulate(sums) - sums >= fall)
        after = int(np.argmax(sums[: apart[-1] + 1])) if len(apart) else 0
        begin = after + int(np.argmin(sums[after:-1]))
        # It is over when the metric is less than half as far away.
        last = begin + int(np.argmax(np.cumsum(away[begin:] - max(limit, mean) / 2)))
        inside = int(np.searchsorted(times, times[-1] - window, side="right"))
        shown = float(away[max(begin, inside) : last + 1].sum())
        accounts = shown >= mean * (len(times) - inside) * MOST_OF_IT
        distance = values - expected
        start, end = times[begin], times[last]

        def around(low: float, high: float) -> float:
            part = distance[slice(*np.searchsorted(times, (low, high), side="right"))]
            return float(np.median(part)) if len(part) else math.nan

        final, long = around(end - HOUR, end), min(max((end - start) / 4, HOUR), 4 * HOUR)
        earlier = bool(start - times[0] < HOUR)
        at_first = around(start - 1, start + long)
        if earlier:
            drifts = abs(final - at_first) > GREW * abs(final)
        else:
            jump = abs(at_first - around(start - long, start - 1))
            drifts = min(jump, abs(at_first)) < AT_ONCE * abs(final)
        drifts = bool(drifts and end - start >= YOUNG)
        course = slice(begin, last + 1)
        began_at = None
        if drifts and not earlier:
            began_at = _began(times[course], distance[course], final)
        since = max(start, end - HOUR) if drifts else start
        rows = slice(int(np.searchsorted(times, since)), last + 1)
        before, now = float(expected[rows].mean()), float(values[rows].mean())
        return cls(
            "drift" if drifts else "level",
            float(start),
            float(times[-1]),
            float(end) if accounts else -math.inf,
            earlier,
            began_at,
            before,
            now,
            before - usual,
            before + usual,
            limit,
            window,
        )

    def is_present(self, shortest: float) -> bool:
        """Whether it was seen within the shortest window, and for more than a moment of it."""
        return (
            self.last_at - self.seen_at < shortest
            and self.seen_at - self.started_at >= shortest / 4
        )

    @property
    def size(self) -> float:
        """How far it is from the middle of the usual."""
        return abs(self.now - self.before)

    @property
    def beyond(self) -> float:
        """How far it is outside of the usual range; from the middle where it is inside."""
        outside = self.now - min(max(self.now, self.low), self.high)
        return outside or self.now - self.before


def _began(times: Floats, distance: Floats, final: float) -> float:
    """When a drift began, whose distance (n,) from the usual has come to `final`.

    The first rows may be of before it: what lay near the usual cannot be told from it. The line
    through where it had come to a tenth and to a half says when it left.
    """
    far = np.append(0.0, np.cumsum(distance * np.sign(final)))
    hour = np.searchsorted(times, times - HOUR, side="right")
    rows = np.arange(len(times))
    trailing = (far[1:] - far[hour]) / (rows - hour + 1)

    def last_below(share: float) -> float:
        below = np.flatnonzero(trailing < share * abs(final))
        return float(times[below[-1]]) if len(below) else float(times[0])

    tenth, half = last_below(0.1), last_below(0.5)
    left = tenth - (half - tenth) / 4 - HOUR / 2
    return min(max(left, float(times[0])), tenth)


def evidence(move: Move, grows: int, score: float) -> dict[str, Any]:
    """The numbers that make the case; JSON-able."""
    width = move.high - move.before
    return {
        "from": move.before,
        "to": move.now,
        "earlier": move.earlier,
        "began_at": move.began_at,
        "usual_low": move.low,
        "usual_high": move.high,
        "beyond": move.beyond,
        "above": score * move.limit * (move.beyond > 0),
        "below": score * move.limit * (move.beyond < 0),
        "widths": move.size / width if width > 0 else None,
        "window_seconds": move.window,
        "limit": move.limit,
        "limits": score,
        "usual_after_days": SETTLED,
        "seen_at": move.seen_at,
        "per_hour": bool(grows),
    }


def sentence(found: Finding, unit: str | None) -> str:
    """What a finding says, in plain words and in the metric's unit."""
    own = found.evidence
    pace = " an hour" * own["per_hour"]
    to, low, high = figures(own["to"], own["usual_low"], own["usual_high"])
    usual = of(low if low == high else f"{low} to {high}", unit) + pace
    side = "above" if own["beyond"] > 0 else "below"
    by = of(figures(abs(own["beyond"]))[0], step(unit)) + pace
    since = "since " + moment(found.started_at, found.last_at)
    where = "on other devices" if is_fleets(own) else "at this hour"
    away = f"{by} {side} what is usual {where} ({usual})"
    place = of(to, unit) + pace
    if found.kind == "drift":
        turn = "rising" if own["beyond"] > 0 else "falling"
        return f"{found.metric} has been {turn} {since}, to {place}, {away}"
    verb = "has been changing by" if own["per_hour"] else "has been at"
    said = f"{found.metric} {verb} {place} {since}, {away}"
    if found.last_at - found.started_at < DAY:
        return said
    usual_from = day(found.started_at + SETTLED * DAY)
    return f"{said}; if it stays, it counts as usual from {usual_from} on"
