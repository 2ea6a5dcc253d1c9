"""Drift: whether a metric is still distributed as in the training (population stability index).

A training keeps a histogram of each metric, with deciles as edges. A scan counts new values
into the same bins. Some metrics differ from day to day in the training already (a disk that
fills up), so each metric has a limit of its own.
"""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.forms import listed, number, record

Floats = NDArray[np.float64]

DAY = 86_400.0
# Half-life of a counted reading, in seconds.
HALF_LIFE = DAY / 2
# Least weight of readings for an index.
LEAST = 200.0
# Limit, over the index of the training's most unusual day.
MARGIN = 1.5


def _bins(edges: Floats, values: Floats) -> Floats:
    """Counts below, in each bin, above, and of missing values; shape (len(edges) + 2,)."""
    known = values[np.isfinite(values)]
    place = np.searchsorted(edges[:-1], known, side="right")
    place[known > edges[-1]] = len(edges)
    counts = np.bincount(place, minlength=len(edges) + 1).astype(np.float64)
    return np.append(counts, len(values) - len(known))


def _index(expected: Floats, seen: Floats) -> float:
    """Population stability index of two histograms, with half a count added to each bin."""
    p = (expected + 0.5) / (expected + 0.5).sum()
    q = (seen + 0.5) / (seen + 0.5).sum()
    return float(((p - q) * np.log(p / q)).sum())


def reference(times: Floats, values: Floats) -> list[dict[str, list[float] | float]]:
    """The histogram of each metric in the training.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    values : ndarray of float64, shape (n, m)
        NaN where missing; each column has a number.

    Returns
    -------
    list of dict, length m
        JSON-able: ``edges`` and ``counts`` of the bins, and ``usual``, the largest index of a
        single day against all days.
    """
    days = np.floor((times - times[-1]) / DAY)
    begins = np.flatnonzero(np.diff(days)) + 1
    found = []
    for column in values.T:
        known = column[np.isfinite(column)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, 11)))
        counts = _bins(edges, column)
        daily = [_bins(edges, of_day) for of_day in np.split(column, begins)]
        usual = [_index(counts, of_day) for of_day in daily if of_day.sum() >= LEAST]
        found.append(
            {
                "edges": edges.tolist(),
                "counts": counts.tolist(),
                "usual": max(usual, default=0.0),
            }
        )
    return found


def observe(
    known: list[dict[str, Any]], seen: dict[str, Any] | None, times: Floats, values: Floats
) -> dict[str, Any] | None:
    """Count the new readings; earlier counts decay.

    Parameters
    ----------
    known : list of dict, length m
        What `reference` gave.
    seen : dict, optional
        What this function gave last time.
    times : ndarray of float64, shape (n,)
        Seconds, increasing.
    values : ndarray of float64, shape (n, m)

    Returns
    -------
    dict, optional
        JSON-able: ``counts`` for each metric, and ``until``, the last reading's time.
    """
    fresh = times > (seen["until"] if seen else -np.inf)
    if not fresh.any():
        return seen
    until = float(times[-1])
    counts = [
        _bins(np.array(one["edges"]), column)
        for one, column in zip(known, values[fresh].T, strict=True)
    ]
    if seen:
        fade = 0.5 ** ((until - seen["until"]) / HALF_LIFE)
        counts = [
            new + fade * np.array(old) for new, old in zip(counts, seen["counts"], strict=True)
        ]
    return {"until": until, "counts": [np.round(one, 3).tolist() for one in counts]}


def judge(
    names: list[str], known: list[dict[str, Any]], seen: dict[str, Any], threshold: float
) -> tuple[dict[str, dict[str, float]], bool]:
    """Index and limit of each metric, and whether one is beyond its limit.

    A metric with too few readings has no index.
    """
    found = {}
    for name, one, counts in zip(names, known, seen["counts"], strict=True):
        if sum(counts) >= LEAST:
            index = _index(np.array(one["counts"]), np.array(counts))
            limit = max(threshold, MARGIN * one["usual"])
            found[name] = {"index": round(index, 3), "limit": round(limit, 3)}
    return found, any(one["index"] > one["limit"] for one in found.values())


# ---- forms -----------------------------------------------------------------------

_REFERENCES = listed(
    record(edges=listed(number(), 1), counts=listed(number(0), 1), usual=number()), 1
)
_SEEN = record(until=number(), counts=listed(listed(number(0), 1)))


def is_reference(value: Any) -> bool:
    """Whether a value is what `reference` gives: increasing edges with counts around them."""
    return _REFERENCES(value) and all(
        len(one["counts"]) - len(one["edges"]) == 2
        and all(a < b for a, b in itertools.pairwise(one["edges"]))
        and sum(one["counts"]) > 0
        for one in value
    )


def is_seen(value: Any, known: list[dict[str, Any]], until: float) -> bool:
    """Whether `observe` up to a moment can go on from a value."""
    return (
        _SEEN(value)
        and value["until"] <= until
        and list(map(len, value["counts"])) == [len(one["counts"]) for one in known]
    )
