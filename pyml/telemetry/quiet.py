"""Quiet windows: times of which a training learns nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyml.telemetry.series import Metric

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that is left out.

    Attributes
    ----------
    quiet_id : int
        The row of `ml_quiet` that says so.
    names : frozenset of str or None
        What its metric is called: its name, or its path; None: all metrics, and the device.
    since, until : float
        Seconds since the Unix epoch; it ends before `until`.
    """

    quiet_id: int
    names: frozenset[str] | None
    since: float
    until: float

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Window":
        """That of a row of `queries.QUIET_SPANS`."""
        names = row["names"] and frozenset(row["names"])
        return cls(int(row["quiet_id"]), names, float(row["since"]), float(row["until"]))

    def covers(self, name: str) -> bool:
        """Whether it is about a metric."""
        return self.names is None or name in self.names


class LeftOut(NamedTuple):
    """How much a training has left out.

    Attributes
    ----------
    rows : int
        Messages in a window of all metrics.
    values : dict of int
        Of single metrics, by name.
    """

    rows: int
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class Quiet:
    """The windows of a device that have a part in some time."""

    windows: tuple[Window, ...] = ()

    def inside(self, times: Floats, name: str | None = None) -> Mask:
        """Which of some times (n,) are in a window of all metrics, or of this one alone."""
        found = np.zeros(len(times), bool)
        for window in self.windows:
            if window.names is None if name is None else name in (window.names or ()):
                found |= (times >= window.since) & (times < window.until)
        return found

    def across(self, times: Floats, name: str | None = None) -> Mask:
        """Between which of increasing `times` (n,) and the next one a window lies, in part.

        Windows are those of all metrics and, if given, those of one.
        """
        found = np.zeros(max(len(times) - 1, 0), bool)
        for window in self.windows:
            if window.names is None or name in window.names:
                found |= (times[:-1] < window.until) & (times[1:] >= window.since)
        return found

    def left_out(
        self, times: Floats, columns: Floats, metrics: Sequence[Metric], paths: Sequence[str]
    ) -> tuple[Floats, Floats, LeftOut]:
        """Messages without what is in a window, and how much that was.

        What several metrics read at one path goes with any of them.

        Parameters
        ----------
        times : ndarray of float64, shape (n,)
        columns : ndarray of float64, shape (n, k)
        metrics : sequence of Metric
        paths : sequence of str, length k
        """
        if not self.windows:
            return times, columns, LeftOut(0, {})
        gone = self.inside(times)
        times, columns, values = times[~gone], columns[~gone], {}
        for metric in metrics:
            column = columns[:, paths.index(metric.path)]
            hidden = self.inside(times, metric.name) & ~np.isnan(column)
            column[hidden] = np.nan
            if hidden.any():
                values[metric.name] = int(hidden.sum())
        return times, columns, LeftOut(int(gone.sum()), values)


NOTHING = Quiet()


def quiet_of(rows: Iterable[Mapping[str, Any]]) -> Quiet:
    """That of rows of `queries.QUIET_SPANS`."""
    return Quiet(tuple(map(Window.of_row, rows)))
