"""Rows of the history -> messages: in time order, one a moment, those that failed counted apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# Messages nearer to each other than this share of the interval are parts of one reading, repeats
# of it (at-least-once delivery), or come faster than models look. Where they come as dense as
# that for longer, one an interval counts.
NEAR = 0.25
# Beyond this a number is no measurement; the largest 64-bit counter is within it.
ABSURD = 1e20


@dataclass(frozen=True, slots=True)
class Messages:
    """When messages came, in seconds, in no order.

    Attributes
    ----------
    usable, unknown, failed : ndarray of float64
        Those with a usable number, those without a number at any of the metrics' paths, and the
        collections that failed.
    """

    usable: Floats
    unknown: Floats
    failed: Floats


@dataclass(frozen=True, slots=True)
class Received:
    """Messages with a usable number, in time order: one a moment; n of them, k paths.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
        Strictly increasing.
    columns : ndarray of float64, shape (n, k)
    messages : Messages
        All that came.
    """

    times: Floats
    columns: Floats
    messages: Messages


def received(times: Floats, columns: Floats, totals: Sequence[int]) -> Received:
    """Sort messages, put those of one moment together and blank what no sensor measured.

    Parameters
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, in any order, repeats allowed.
    columns : ndarray of float64, shape (n, k)
        Raw numbers; NaN where missing.
    totals : sequence of int
        Columns that hold a total (memory, disk). A zero there means that the whole collection
        failed.
    """
    columns = np.where(np.abs(columns) <= ABSURD, columns, np.nan)  # NaN compares false
    known = ~np.isnan(columns).all(axis=1) & np.isfinite(times)
    usable = known
    if totals:
        usable = known & ~(columns[:, list(totals)] == 0).any(axis=1)
    unknown, failed = times[~known], times[known & ~usable]
    times, columns = times[usable], columns[usable]
    at = times
    if not (np.diff(times) > 0).all():
        # Ties broken by value, so that the order of rows in the table cannot matter.
        order = np.lexsort((*columns.T[::-1], times))
        at, columns = times[order], columns[order]
        last = np.append(np.diff(at) > 0, True)
        if not last.all():
            first = np.flatnonzero(np.append(True, last[:-1]))[np.cumsum(last) - last]
            place = latest(~np.isnan(columns))
            there = place >= first[:, None]
            columns = np.where(there, np.take_along_axis(columns, place, axis=0), np.nan)[last]
        times = at[last]
    return Received(times, columns, Messages(at, unknown, failed))


def latest(there: NDArray[np.bool_]) -> Places:
    """Row of the latest true cell up to each row, in each column; -1 where there is none."""
    rows = np.arange(len(there))[:, None]
    return np.asarray(np.maximum.accumulate(np.where(there, rows, -1), axis=0))


def fresh(times: Floats, interval: float) -> NDArray[np.bool_]:
    """Which of the messages at increasing `times` are readings of their own.

    A message after a pause is one. In a run of messages without a pause, the first in each slot
    of an interval is one too, unless the run began less than half an interval before. Slots are
    cut at multiples of the interval since 1970, so that they are the same in every window.
    """
    found = np.diff(times, prepend=-np.inf) >= max(NEAR * interval, 1e-6)
    if not found.all():
        slot = np.floor(times / max(interval, 1e-6))
        began = np.maximum.accumulate(np.where(found, times, -np.inf))
        found |= (np.diff(slot, prepend=-np.inf) > 0) & (times - began >= interval / 2)
    return found
