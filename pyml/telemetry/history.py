"""The user's table, read over whatever connection there is: a backend's own, or a worker's.

Clean readings and values of one device's window, for a training, a score or a picture.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml import queries
from pyml.errors import BrokenEnvironment, ModelNotFound
from pyml.paths import parts_of
from pyml.telemetry import series
from pyml.telemetry.quiet import Quiet, quiet_of

Floats = NDArray[np.float64]
# The least number that a float64 distinguishes from 0.
TINY = 5e-324

Execute = Callable[..., Any]
"""Runs a `queries.Query` with its parameters; gives its rows, whose columns go by name."""

LONGEST_HOURS = 24 * 366 * 10
# Seconds: readings of before the year -4600 or after 287000 are not looked at. PostgreSQL's
# time ends a little beyond, and what is reckoned from a reading has to stay within it.
EARLIEST, LATEST = -207_000_000_000.0, 9_000_000_000_000.0
# Seconds: no device has reported before 2010, and none is more than a day ahead of the server
# but by its clock. So many of these rows are counted.
OLDEST, AHEAD, MOST_BAD = 1_262_304_000.0, 86_400.0, 10_000
# Paths that are read without looking first which of them the device reports.
FEW = 16
# Rows whose numbers take so long to parse that a cancel is to be heard in between.
MANY = 50_000


# PostgreSQL counts from 2000-01-01, in microseconds.
POSTGRES_EPOCH = 946_684_800_000_000


def _decoded(array: bytes | None) -> Floats:
    """Unix times of what `array_send` wrote of timestamps; NULL, of no rows, gives none.

    The format (src/backend/utils/adt/arrayfuncs.c): a header of five 4-byte words
    for one dimension, then for each element its length and its bytes, big-endian.
    """
    if not array:
        return np.empty(0)
    cells = np.frombuffer(array, dtype=[("length", ">i4"), ("value", ">i8")], offset=20)
    counted = cells["value"].astype(np.int64)
    limits = np.iinfo(np.int64)
    infinite = (counted == limits.max) | (counted == limits.min)
    # From the year 294247 on the sum is too large for a whole number.
    late = counted > limits.max - POSTGRES_EPOCH
    moments = np.where(late, counted / 1e6 + POSTGRES_EPOCH / 1e6, (counted + POSTGRES_EPOCH) / 1e6)
    return np.where(infinite, np.inf, moments)


def _numbers(lines: str) -> Floats:
    """The numbers among JSON values, a line each; NaN for the others."""
    cells = lines.replace("null", "nan").split("\n")
    try:
        found = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:  # a string, a boolean, an array or an object
        found = np.array([float(cell) if cell[0] in "-0123456789" else np.nan for cell in cells])
    # Of a number next to nothing only zeros have come; but a 0 would say that nothing was measured.
    for place in np.flatnonzero(found == 0):
        if len(cells[place]) == queries.MOST_DIGITS:
            found[place] = -TINY if cells[place][0] == "-" else TINY
    return found


def within(moment: float) -> float:
    """The nearest moment that is looked at."""
    return min(max(moment, EARLIEST), LATEST)


@functools.lru_cache(maxsize=4)
def _pieces(history: str) -> queries.Columns:
    found = json.loads(history)
    return queries.Columns(**{f.name: found[f.name] for f in fields(queries.Columns)})


@dataclass(frozen=True, slots=True)
class History:
    """The user's table, as the settings describe it."""

    execute: Execute
    settings: Mapping[str, str]
    parts: queries.Columns
    extension: Execute
    ids: dict[str, str]

    @classmethod
    def of(
        cls, context: Mapping[str, Any], execute: Execute, extension: Execute | None = None
    ) -> "History":
        """The table that the settings name, from a row of `queries.CONTEXT`.

        Parameters
        ----------
        context : mapping
            A row of `queries.CONTEXT`.
        execute : callable
            Where the table is read.
        extension : callable, optional
            Where the extension is, which knows the devices' ids; the same place if not given.

        Raises
        ------
        BrokenEnvironment
            It does not exist, lacks a column, or has one of a wrong type.
        """
        settings = json.loads(context["settings"])
        if context["absent"]:
            raise BrokenEnvironment(
                f"there is no history in {settings['history_table']}",
                detail="The table does not exist, or has no column "
                f"{', '.join(context['absent'])}.",
                hint="SELECT * FROM ml_doctor();",
            )
        if context["fault"]:
            raise BrokenEnvironment(
                f"the history in {settings['history_table']} cannot be read",
                detail=f"There, {context['fault']}.",
                hint="SELECT * FROM ml_doctor();",
            )
        return cls(execute, settings, _pieces(context["history"]), extension or execute, {})

    def settings_of(self, device: str) -> Mapping[str, Any]:
        """The settings, with what is said of a device in place of them."""
        own = json.loads(self.extension(queries.DEVICE_SETTINGS, device)[0]["settings"])
        return {**self.settings, **own}

    def id(self, device: str) -> str:
        """The id by which the table knows a device, of its uuid.

        Raises
        ------
        ModelNotFound
            The table knows no such device.
        """
        if self.parts.device_type == "uuid":
            return device
        if device not in self.ids:
            found = self.extension(queries.DEVICE_ID, device)[0]["id"]
            if found is None:
                raise self._unknown(device)
            self.ids[device] = found
        return self.ids[device]

    def require(self, device: str) -> None:
        """Refuse a device that was never met, and of which the table has no row at any time.

        Raises
        ------
        ModelNotFound
        """
        rows = self.execute(queries.next_row(self.parts), *self._key(device, EARLIEST, LATEST))
        if not rows and not self.extension(queries.MET, device)[0]["met"]:
            raise self._unknown(device)

    def _unknown(self, device: str) -> ModelNotFound:
        return ModelNotFound(
            f"there is no device {device}",
            detail=f"The history ({self.settings['history_table']}) has no row of it.",
            hint=self.extension(queries.WHICH_DEVICES)[0]["hint"],
        )

    def _key(self, device: str, *moments: float) -> tuple[Any, ...]:
        """The parameters that every query begins with, up to moments that the server can hold."""
        return self.id(device), *map(within, moments)

    def read(
        self, device: str, since: float, until: float, paths: Sequence[str]
    ) -> tuple[Floats, Floats]:
        """Times (n,) and raw numbers (n, k) of one device's window, as they stand."""
        row = self._columns(device, since, until, paths)
        times = _decoded(row["t"])
        columns = np.empty((len(times), len(paths)))
        for i in range(len(paths) if len(times) else 0):
            columns[:, i] = _numbers(row[f"c{i}"])
            if len(times) > MANY:
                self.execute(queries.PULSE)
        return times, columns

    def _columns(
        self, device: str, since: float, until: float, paths: Sequence[str], counted: bool = False
    ) -> Mapping[str, Any]:
        parted = [*map(parts_of, paths)]
        query = queries.history(self.parts, parted, counted)
        parts = queries.parameters(queries.looked_up(parted))
        row: Mapping[str, Any] = self.execute(query, *self._key(device, since, until), *parts)[0]
        return row

    def present(
        self, device: str, since: float, until: float, metrics: Sequence[series.Metric]
    ) -> list[series.Metric]:
        """Those of many metrics that a window has something of; all of them where there are few.

        What a device does not report is not to cost it a column of nothing.
        """
        paths, _ = series.columns_of(metrics)
        if len(paths) <= FEW:
            return list(metrics)
        row = self._columns(device, since, until, paths, counted=True)
        there = {path for i, path in enumerate(paths) if row[f"c{i}"]}
        # A total shows a failed collection, also where nothing is divided by it.
        return [metric for metric in metrics if there & {metric.path, metric.divisor_path}]

    def quiet(self, device: str, since: float, until: float) -> Quiet:
        """The quiet windows that have a part in a span of time."""
        return quiet_of(self.extension(queries.QUIET_SPANS, device, within(since), within(until)))

    def fetched(self, device: str, since: float, until: float, paths: Sequence[str]) -> "Fetched":
        """The same history with one window of it read, once for all who look into it."""
        times, columns = self.read(device, since, until, paths)
        return Fetched(
            self.execute,
            self.settings,
            self.parts,
            self.extension,
            self.ids,
            device,
            since,
            until,
            tuple(paths),
            times,
            columns,
        )

    def pieces(
        self, device: str, since: float, until: float, longest: float
    ) -> Iterator[tuple[float, float]]:
        """Parts of a window, in order, that hold all its rows and last `longest` seconds at most.

        A window that is no longer than that is one part.
        """
        while until - since > longest:
            first = self.first(device, since, until)
            if first is None:
                return
            # A little before it, since a window begins after its first moment.
            since = max(since, first - 1)
            yield since, min(since + longest, until)
            since += longest
        if since < until:
            yield since, until

    def first(self, device: str, since: float, until: float) -> float | None:
        """Time of a device's first row in a window."""
        found = self.execute(queries.next_row(self.parts), *self._key(device, since, until))
        return float(found[0]["t"]) if found else None

    def arrivals(self, device: str, since: float, until: float) -> Floats:
        """Times (n,) of one device's rows in a window, in no order."""
        query = queries.arrivals(self.parts)
        return _decoded(self.execute(query, *self._key(device, since, until))[0]["t"])

    def bad_clock(self, device: str, now: float) -> int:
        """How many of a device's rows have a time that cannot be right, `MOST_BAD` at most."""
        query = queries.bad_clock(self.parts, MOST_BAD)
        return int(self.execute(query, *self._key(device, OLDEST, now + AHEAD))[0]["rows"])

    def last(self, device: str, until: float, path: str, since: float = -math.inf) -> float | None:
        """Time of the newest number at a path in a window."""
        parts = parts_of(path)
        query = queries.last_reading(self.parts, parts)
        found = self.execute(query, *self._key(device, since, until), *queries.place(parts))
        return float(found[0]["t"]) if found else None

    def first_reported(
        self, device: str, since: float, until: float, metrics: Sequence[series.Metric]
    ) -> str | None:
        """Name of the first of some metrics that the newest readings of a window have."""
        wanted = [[metric.name, metric.path, metric.divisor_path] for metric in metrics]
        query = queries.first_reported(self.parts)
        # Letters go as they are: an escape would have to be of the database's encoding.
        places = json.dumps(wanted, ensure_ascii=False)
        found = self.execute(query, *self._key(device, since, until), places)
        return str(found[0]["name"]) if found else None

    def types(self, device: str, since: float, until: float, path: str) -> dict[str, int]:
        """How often each JSON type stands at a path in a window."""
        parts = parts_of(path)
        query = queries.field_types(self.parts, parts)
        found = self.execute(query, *self._key(device, since, until), *queries.place(parts))
        return {row["type"]: row["rows"] for row in found}


@dataclass(frozen=True, slots=True)
class Fetched(History):
    """A history of which one window has been read: that is not read again.

    Attributes
    ----------
    device : str
    since, until : float
        The window: exclusive, inclusive.
    paths : tuple of str, length k
    times : ndarray of float64, shape (n,)
    columns : ndarray of float64, shape (n, k)
    """

    device: str
    since: float
    until: float
    paths: tuple[str, ...]
    times: Floats
    columns: Floats

    def read(
        self, device: str, since: float, until: float, paths: Sequence[str]
    ) -> tuple[Floats, Floats]:
        """Times (n,) and raw numbers (n, k) of one device's window, as they stand."""
        inside = device == self.device and self.since <= since and until <= self.until
        if not inside or not set(paths) <= set(self.paths):
            return History.read(self, device, since, until, paths)
        rows = (self.times > since) & (self.times <= until)
        places = [self.paths.index(path) for path in paths]
        return self.times[rows], self.columns[rows][:, places]


def iso(moment: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, of any year that PostgreSQL knows.

    Either end of time is called as PostgreSQL calls it.
    """
    if not math.isfinite(moment):
        return "infinity" if moment > 0 else "-infinity"
    thousandths = round(moment * 1e6) // 1000
    return f"{np.datetime64(thousandths, 'ms')}+00:00"
