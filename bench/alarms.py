"""How well a score finds labelled events, row by row and alarm by alarm; never point-adjusted.

Scores are higher for more anomalous rows, labels 0 or 1; both in time order, of one length.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SILENCE_MINUTES = 60
# Thresholds tried for the events found at so many false alarms a day: each of the
# highest scores, then ever wider steps.
EACH, STEPS = 50, 150
FALSE_A_DAY = {"1/7": 1 / 7, "1/2": 1 / 2, "1": 1.0, "5": 5.0}
# A day of which more than this share is flagged. It stays in the training for a week.
STORM, STORM_DAYS = 0.2, 7
# The Numenta Anomaly Benchmark's standard profile: a false alarm's weight beside a window's 1,
# and half the slope of its sigmoid.
NAB_FALSE, NAB_SLOPE = 0.11, 2.5


def events(label: Bools) -> list[tuple[int, int]]:
    """First row and one past the last of each labelled event."""
    padded = np.concatenate([[False], np.asarray(label, bool), [False]])
    begin = np.flatnonzero(padded[1:] & ~padded[:-1])
    end = np.flatnonzero(~padded[1:] & padded[:-1])
    return list(zip(begin.tolist(), end.tolist(), strict=True))


def alarms(flag: Bools, silence: int) -> NDArray[np.intp]:
    """Rows at which an alarm fires, when each silences the rows from it on for `silence` rows."""
    flagged = np.flatnonzero(flag)
    fired = []
    at = 0
    while at < len(flagged):
        fired.append(flagged[at])
        at = int(np.searchsorted(flagged, flagged[at] + silence))
    return np.array(fired, dtype=np.intp)


def silence(per_day: float) -> int:
    """Rows that an alarm silences, its own among them; `per_day` rows make a day."""
    return max(1, int(SILENCE_MINUTES * per_day / 1440))


def false_per_day(flag: Bools, label: Bools, per_day: float) -> float:
    """Alarms a day that fire on normal rows; `per_day` rows make a day."""
    fired = alarms(flag, silence(per_day))
    return float((~np.asarray(label, bool)[fired]).sum() / (len(flag) / per_day))


def events_at(score: Floats, label: Bools, false_a_day: float, per_day: float) -> float:
    """Share of events hit at the lowest threshold with at most `false_a_day` false alarms.

    Thresholds are tried downwards until one gives more.
    """
    ranked = np.sort(score)[::-1]
    steps = np.geomspace(EACH, len(ranked), STEPS).astype(int)
    lowest = np.inf
    ranks = np.unique(np.concatenate([np.arange(1, EACH), steps]))
    for rank in ranks[ranks <= len(ranked)]:
        if false_per_day(score >= ranked[rank - 1], label, per_day) > false_a_day:
            break
        lowest = ranked[rank - 1]
    return float(np.mean([score[a:b].max() >= lowest for a, b in events(label)]))


def ranking(score: Floats, label: Bools, per_day: float = 1440) -> dict[str, float]:
    """Figures that need no threshold."""
    return {
        "ROC": float(roc_auc_score(label, score)),
        "AP": float(average_precision_score(label, score)),
    } | {f"evR@{name}": events_at(score, label, k, per_day) for name, k in FALSE_A_DAY.items()}


def judged(flag: Bools, label: Bools, per_day: float = 1440) -> dict[str, float]:
    """Figures of a threshold: of the rows, of the alarms, of the events."""
    label = np.asarray(label, bool)
    hit = (flag & label).sum()
    return {
        "P": float(hit / max(1, flag.sum())),
        "R": float(hit / max(1, label.sum())),
        "false/day": false_per_day(flag, label, per_day),
        "events": float(np.mean([flag[a:b].any() for a, b in events(label)])),
        "normal": float(flag[~label].mean()),
    }


def worst_day(flags: Sequence[Bools], labels: Sequence[Bools]) -> float:
    """Highest share of normal rows flagged on one of the days.

    A day that is mostly labelled does not count: its few normal rows say little.
    """
    return max(
        (
            float(flag[~label].mean())
            for flag, label in zip(flags, labels, strict=True)
            if 2 * label.sum() < len(label)
        ),
        default=0.0,
    )


def deaf_days(flags: Sequence[Bools]) -> int:
    """Most days in a row without any flag, within the week after a storm."""
    longest = 0
    for day, flag in enumerate(flags):
        if flag.mean() > STORM:
            run = 0
            for later in flags[day + 1 : day + 1 + STORM_DAYS]:
                run = 0 if later.any() else run + 1
                longest = max(longest, run)
    return longest


def nab_score(flag: Bools, label: Bools, per_day: float) -> float:
    """The Numenta Anomaly Benchmark's own score of the alarms, by its standard profile.

    A window counts by its first alarm: 1 at the window's first row, less towards its end, and
    -1 without an alarm. A false alarm costs up to `NAB_FALSE`, less if it comes soon after a
    window.

    Parameters
    ----------
    flag, label : ndarray of bool, shape (n,)
        Each run of labelled rows is a window; there is at least one.
    per_day : float
        Rows a day.

    Returns
    -------
    float
        100 with an alarm at the first row of each window and no other, 0 with no alarm at all;
        negative where false alarms cost more than the windows are worth.

    References
    ----------
    Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly
    Benchmark", ICMLA 2015.
    """
    windows, fired = events(label), alarms(flag, silence(per_day))
    total = 0.0
    for begin, end in windows:
        inside = fired[(begin <= fired) & (fired < end)]
        left = (end - inside[:1]) / (end - begin)  # share of the window that is to come
        total += (np.tanh(NAB_SLOPE * left) / np.tanh(NAB_SLOPE)).sum() if len(inside) else -1
    for row in fired[~np.asarray(label, bool)[fired]]:
        past = [(row - end + 1) / max(1, end - begin - 1) for begin, end in windows if end <= row]
        total -= NAB_FALSE * np.tanh(NAB_SLOPE * (past[-1] if past else np.inf))
    return float(50 * (1 + total / len(windows)))
