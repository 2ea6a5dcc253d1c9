"""Stretches of time in which something stays as it is: how long they ordinarily last, in words too.

What lasts longer than it ever does by its own habit is a finding. "Ever" is robust: a training may
hold faults, and those of one day do not make a habit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.detectors.base import Floats
from pyml.detectors.rarity import figures
from pyml.parameters import parameter
from pyml.seconds import HOUR


@dataclass(frozen=True, slots=True)
class Habits:
    """How it is learned how long something ordinarily lasts."""

    blocks: int = parameter(7, "blocks of time that a training is cut into", "the days of a week")
    counted: int = parameter(
        3,
        "which block's longest stretch is the longest ordinary one, from the longest",
        "a fault across midnight is in two days; what is seen on three is a habit",
    )
    times: float = parameter(
        3.0,
        "longest ordinary stretches after which it is no longer ordinary",
        "with an exponential tail, 1440 readings a day and none beyond one longest stretch, one "
        "beyond three comes in 1440 days squared; silence is agreed to be three",
    )
    most_readings: int = parameter(
        120,
        "readings, or two hours where that is longer, after which it has to be told: what "
        "ordinarily lasts longer is not looked at",
        "two hours of a reading a minute; bounds how far back a scan reads",
    )
    pause: float = parameter(
        900.0,
        "seconds without a reading, or three and a half intervals where that is longer, that end a "
        "stretch: nobody knows what happened meanwhile",
        "judgement",
    )

    def longest(self, interval: float) -> float:
        """Seconds after which it has to be told, of a device that reports once in `interval`."""
        return self.most_readings * max(interval, 60.0)

    def longest_pause(self, interval: float) -> float:
        """Seconds between two readings of one stretch, at most."""
        return max(self.pause, 3.5 * interval)

    def parted(self, times: Floats, interval: float) -> NDArray[np.bool_]:
        """Which of increasing `times` (n,) come after a pause; the first one does."""
        return np.diff(times, prepend=-np.inf) > self.longest_pause(interval)

    def ordinary(self, times: Floats, lasted: Floats) -> float:
        """Longest ordinary stretch, of how long each had lasted (n,) at increasing `times`.

        In seconds. Blocks without a time do not count.
        """
        return self._habit(self._longest(times, lasted))

    def allowed(self, ordinary: float, least: float, interval: float) -> float | None:
        """Seconds after which what ordinarily lasts so long is a finding; None: not looked at."""
        after = max(least, self.times * ordinary)
        return after if after <= self.longest(interval) else None

    def _habit(self, longest: Iterable[float]) -> float:
        found = sorted((one for one in longest if one >= 0), reverse=True)
        return found[min(self.counted, len(found)) - 1] if found else 0.0

    def _longest(self, times: Floats, lasted: Floats) -> list[float]:
        """The longest stretch of each block, of how long each had lasted (n,); -1 without any."""
        if not len(times):
            return [-1.0] * self.blocks
        ends = times[0] + (times[-1] - times[0]) * np.arange(1, self.blocks) / self.blocks
        parts = np.split(lasted, np.searchsorted(times, ends, side="right"))
        return [float(part.max()) if len(part) else -1.0 for part in parts]

    def heights(self, times: Floats, lasted: Floats, counts: Floats, least: float) -> list[float]:
        """How far each block's longest stretch goes, in what the other blocks allow.

        Parameters
        ----------
        times : ndarray of float64, shape (n,)
        lasted : ndarray of float64, shape (n,)
            As `ordinary` takes them.
        counts : ndarray of float64, shape (n,)
            The same of what would be a finding; 0 where it would be none.
        least : float
            Seconds that are allowed at least.
        """
        longest = self._longest(times, lasted)
        found = []
        for block, own in enumerate(self._longest(times, counts)):
            ordinary = self._habit(longest[:block] + longest[block + 1 :])
            found.append(max(own, 0.0) / max(least, self.times * ordinary))
        return found

    def figures(
        self, times: Floats, interval: float, heights: Iterable[list[float]]
    ) -> dict[str, Any]:
        """What a training says of the heights of its metrics: of each block the highest.

        Of times (n,), a reading in so many seconds.
        """
        highest = np.max([[0.0] * self.blocks, *heights], axis=0)
        return figures(float(times[-1] - times[0] + interval) / HOUR, highest.tolist())


HABITS = Habits()


def begun(changed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The row at which the stretch began that each row (n,) is in; each row may begin one."""
    return np.asarray(np.maximum.accumulate(np.where(changed, np.arange(len(changed)), 0)))


def throughout(holds: NDArray[np.bool_], parted: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The first row of those, up to each one (n,), at which something `holds` without an end."""
    return begun(parted | ~holds | np.append(True, ~holds[:-1])[: len(holds)])


def ended(lasted: Floats) -> Floats:
    """How long stretches had lasted (n,), where each ends; 0 elsewhere."""
    return np.where(np.append(lasted[1:] <= lasted[:-1], True)[: len(lasted)], lasted, 0.0)


def spans(rows: NDArray[np.intp], began: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Rows that are told of, by the stretch that each is in; `began` (n,) is of all rows."""
    return np.split(rows, np.flatnonzero(np.diff(began[rows])) + 1) if len(rows) else []
