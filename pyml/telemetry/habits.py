"""What a training learns of how a signal comes: its rhythm, its hold and where it ordinarily is.

These few numbers are all that the cleaning of later messages goes by (`pyml.telemetry.readings`);
they are stored with the model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.forms import SOME, listed, maybe, number, record
from pyml.seconds import DAY, YEAR

Floats = NDArray[np.float64]

# A pause so many times as long as the usual gap, and as what comes between two of them, parts
# bursts: a device that sleeps, wakes, sends several readings and sleeps again.
PAUSE = 10.0
# The gap that all but this share of the gaps are within is the longest ordinary one.
RARE_GAP = 0.01
# Longest ordinary gaps for which a value holds, and seconds for which it holds at most.
HOLDS, LONGEST_HOLD = 2.0, 2 * DAY
# Share of the samples at either end that may be anything at all.
TRIM = 0.015
# Samples below which nothing is said of where a signal ordinarily is.
LEAST = 50
# Widths outside of where a signal ordinarily is from which a value that comes again and again is
# a sentinel, and from which a single one is impossible: no fault moves it so far at once.
APART, IMPOSSIBLE = 1.0, 10.0
# Visits after which a value apart from all else is a sentinel, and sentinels kept.
VISITS, MOST_SENTINELS = 3, 8


@dataclass(frozen=True, slots=True)
class Habit:
    """How one signal comes.

    Attributes
    ----------
    rhythm : float
        Its usual gap between samples, in seconds.
    hold : float
        How long its last value stands for it, in seconds.
    total_hold : float
        The same of the total that it is divided by; 0 where there is none.
    usual : tuple of float or None
        Least and greatest value that it ordinarily has. None where nothing is said of that: a
        counter, a signal that stands still, a known range.
    sentinels : tuple of float
        Values apart from all others that came again and again: the sensor's way to say that it
        has none.
    """

    rhythm: float
    hold: float
    total_hold: float = 0.0
    usual: tuple[float, float] | None = None
    sentinels: tuple[float, ...] = ()

    @property
    def reach(self) -> float:
        """The width of where it ordinarily is: how far a signal may jump at once."""
        return self.usual[1] - self.usual[0] if self.usual else np.inf

    def beyond(self, widths: float) -> tuple[float, float]:
        """Values below and above these lie so many widths outside of where it ordinarily is."""
        if self.usual is None:
            return -np.inf, np.inf
        return self.usual[0] - widths * self.reach, self.usual[1] + widths * self.reach

    @classmethod
    def of_json(cls, meta: dict[str, Any]) -> "Habit":
        """What `asdict` gave and JSON kept."""
        ends = meta["usual"]
        return cls(**meta | {"usual": ends and tuple(ends), "sentinels": tuple(meta["sentinels"])})


def rhythm(times: Floats) -> float:
    """Usual gap between samples at increasing `times`, in seconds; 60 of fewer than two.

    Of bursts it is the gap between their beginnings.
    """
    gaps = np.diff(times)
    if not len(gaps):
        return 60.0
    ordered = np.sort(gaps)
    usual, longest_first = float(ordered[(len(gaps) - 1) // 2]), ordered[::-1]
    # The gap in which half of all time lies in longer ones.
    pause = longest_first[np.searchsorted(np.cumsum(longest_first), gaps.sum() / 2)]
    if pause > PAUSE * usual:
        begins = np.flatnonzero(np.append(True, gaps > pause / 2))
        ends = np.append(begins[1:] - 1, len(times) - 1)
        if len(begins) > 2 and np.median(times[ends] - times[begins]) * PAUSE < pause:
            return float(np.median(np.diff(times[begins])))
    return usual


def hold(gaps: Floats) -> float:
    """How long a value stands, of samples that come so many seconds after each other."""
    if not len(gaps):
        return LONGEST_HOLD
    longest = float(np.quantile(gaps, 1 - RARE_GAP, method="higher"))
    return min(HOLDS * longest, LONGEST_HOLD)


def usual(values: Floats) -> tuple[float, float] | None:
    """Least and greatest ordinary value of samples (n,) that may hold some junk.

    From the middle outward, up to the first gap that is as wide as the middle.
    """
    if len(values) < LEAST:
        return None
    ordered = np.sort(values)
    middle = slice(int(TRIM * len(ordered)), len(ordered) - int(TRIM * len(ordered)))
    low, high = ordered[middle][0], ordered[middle][-1]
    if not high > low:
        return None
    above, below = ordered[middle.stop :], ordered[: middle.start][::-1]
    wide_up = np.diff(above, prepend=high) > high - low
    wide_down = -np.diff(below, prepend=low) > high - low
    up = int(np.argmax(wide_up)) if wide_up.any() else len(above)
    down = int(np.argmax(wide_down)) if wide_down.any() else len(below)
    return float(below[down - 1] if down else low), float(above[up - 1] if up else high)


def sentinels(values: Floats, habit: Habit) -> tuple[float, ...]:
    """Values that came again and again, apart from all else that samples (n,) in time order say."""
    low, high = habit.beyond(APART)
    far = (values < low) | (values > high)
    visits = values[far & (values != np.append(np.nan, values[:-1]))]
    found, count = np.unique(visits, return_counts=True)
    often = np.argsort(-count, kind="stable")[:MOST_SENTINELS]
    return tuple(sorted(found[often][count[often] >= VISITS].tolist()))


_HABIT = record(
    rhythm=number(SOME, YEAR),
    hold=number(SOME, LONGEST_HOLD),
    total_hold=number(0, LONGEST_HOLD),
    usual=maybe(listed(number(), 2, 2)),
    sentinels=listed(number(), 0, MOST_SENTINELS),
)


def is_habit(value: Any) -> bool:
    """Whether a value is a `Habit` as JSON has it."""
    return _HABIT(value) and (value["usual"] is None or value["usual"][0] < value["usual"][1])
