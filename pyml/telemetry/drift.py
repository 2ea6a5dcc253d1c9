"""Drift: whether a metric is still distributed as in the training (population stability index).

A training keeps a histogram of each metric, with deciles as edges. A scan counts new values
into the same bins. Some metrics differ from day to day in the training already (a disk that
fills up), so each metric has a limit of its own.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeGuard

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


class Histogram(TypedDict):
    """One metric in the training, as a model stores it.

    Attributes
    ----------
    edges : list of float
        Of the bins, increasing.
    counts : list of float, length len(edges) + 2
        Readings below, in each bin, above, and without a value.
    usual : float
        The largest index of a single day against all days.
    """

    edges: list[float]
    counts: list[float]
    usual: float


class Seen(TypedDict):
    """What scans have counted of one model's metrics, as the scan's state stores it.

    Attributes
    ----------
    until : float
        The last counted reading's time.
    counts : list of list of float, length m
        For each metric as in its `Histogram`.
    """

    until: float
    counts: list[list[float]]


class Index(TypedDict):
    """How far a metric is from the training, and from where on it has drifted."""

    index: float
    limit: float


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


def reference(times: Floats, values: Floats) -> list[Histogram]:
    """The histogram of each metric in the training.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, strictly increasing.
    values : ndarray of float64, shape (n, m)
        NaN where missing; each column has a number.

    Returns
    -------
    list of Histogram, length m
    """
    days = np.floor((times - times[-1]) / DAY)
    begins = np.flatnonzero(np.diff(days)) + 1
    found: list[Histogram] = []
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
    known: Sequence[Histogram], seen: Seen | None, times: Floats, values: Floats
) -> Seen | None:
    """Count the new readings; earlier counts decay.

    Parameters
    ----------
    known : sequence of Histogram, length m
    seen : Seen, optional
        What this function gave last time.
    times : ndarray of float64, shape (n,)
        Seconds, increasing.
    values : ndarray of float64, shape (n, m)

    Returns
    -------
    Seen, optional
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
    names: Sequence[str], known: Sequence[Histogram], seen: Seen, threshold: float
) -> tuple[dict[str, Index], bool]:
    """Index and limit of each metric, and whether one is beyond its limit.

    A metric with too few readings has no index.
    """
    found: dict[str, Index] = {}
    for name, one, counts in zip(names, known, seen["counts"], strict=True):
        if sum(counts) >= LEAST:
            index = _index(np.array(one["counts"]), np.array(counts))
            limit = max(threshold, MARGIN * one["usual"])
            found[name] = {"index": round(index, 3), "limit": round(limit, 3)}
    return found, any(one["index"] > one["limit"] for one in found.values())


def farthest(drifts: Iterable[Mapping[str, Index]]) -> dict[str, Index]:
    """Of several models the index of each metric that is most beyond, or nearest to, its limit."""
    found: dict[str, Index] = {}
    for drift in drifts:
        for name, one in drift.items():
            other = found.get(name)
            if other is None or one["index"] - one["limit"] > other["index"] - other["limit"]:
                found[name] = one
    return found


# ---- forms -----------------------------------------------------------------------

_REFERENCES = listed(
    record(edges=listed(number(), 1), counts=listed(number(0), 1), usual=number()), 1
)
_SEEN = record(until=number(), counts=listed(listed(number(0), 1)))


def is_reference(value: Any) -> TypeGuard[list[Histogram]]:
    """Whether a value is what `reference` gives: increasing edges with counts around them."""
    return _REFERENCES(value) and all(
        len(one["counts"]) - len(one["edges"]) == 2
        and all(a < b for a, b in itertools.pairwise(one["edges"]))
        and sum(one["counts"]) > 0
        for one in value
    )


def is_seen(value: Any, known: Sequence[Histogram], until: float) -> TypeGuard[Seen]:
    """Whether `observe` up to a moment can go on from a value."""
    return (
        _SEEN(value)
        and value["until"] <= until
        and list(map(len, value["counts"])) == [len(one["counts"]) for one in known]
    )
