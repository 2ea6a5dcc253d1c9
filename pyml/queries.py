"""The SQL that the module sends, named.

What is always the same stands in ``queries.sql``; here is what varies with the history's table,
its columns and the paths that are read.
"""

import functools
import itertools
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyml.paths import Element, Part

# Of a JSON value's text, what may be a number that was measured: 15 digits before the point, and
# more after it than a float64 distinguishes.
MOST_DIGITS = 40
# What no sensor measures is greater (objects, arrays, booleans and large numbers are) or less.
LEAST, GREATEST = "'-1e15'", "'1e15'"
# Readings in which metrics are looked for where no field is named.
NEWEST = 1000
# A part of a path that may count the elements of an array.
INDEX = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Query:
    """A statement and the types of its parameters."""

    text: str
    types: tuple[str, ...] = ()


def _read(text: str) -> dict[str, Query]:
    """The statements of ``queries.sql``, by name."""
    parts: dict[str, str] = {}
    found: dict[str, Query] = {}
    head = r"^-- (part|query): (\w+)(?:\((.*)\))?\n"
    _, *pieces = re.split(head, text, flags=re.MULTILINE)
    for what, name, types, body in zip(*(iter(pieces),) * 4, strict=True):
        lines = [line for line in body.splitlines() if line and not line.startswith("--")]
        statement = re.sub(r"@(\w+)@", lambda part: parts[part[1]], "\n".join(lines))
        if what == "part":
            parts[name] = statement
        else:
            found[name] = Query(statement, tuple(types.split(", ")) if types else ())
    return found


_NAMED = _read((pkgutil.get_data("pyml", "queries.sql") or b"").decode())


def __getattr__(name: str) -> Query:
    """A statement of ``queries.sql``, by its name in capitals."""
    try:
        return _NAMED[name.lower()]
    except KeyError:
        raise AttributeError(name) from None


def literal(text: str) -> str:
    """Text as SQL takes it in quotes, for a statement that a person is to type."""
    quoted = "'" + text.replace("'", "''") + "'"
    # What a backslash means without E is up to standard_conforming_strings.
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


@dataclass(frozen=True, slots=True)
class Columns:
    """The history table as pieces of SQL, as `_ml_history_parts` gives them.

    Attributes
    ----------
    source : str
        The table, as a FROM item called h.
    device, moment : str
        Its columns with the device's id and with the time, as they stand.
    device_type : str
        The type that an id is to be of.
    at : str
        A row's time as timestamptz.
    plain : bool
        Whether `moment` is the same moment, or the same wall clock in UTC.
    bound : str
        With a timestamptz in the place of ``%s``: that moment in the type of the time column. A
        window's bounds are converted to the column's type, not the column to theirs, so that the
        index on it is used.
    shadow : str
        The condition that a row is a reading.
    state : str
        What was reported, of type jsonb.
    """

    source: str
    device: str
    device_type: str
    moment: str
    at: str
    plain: bool
    bound: str
    shadow: str
    state: str

    @property
    def time(self) -> str:
        """A row's time, of a type that `array_send` writes as microseconds in UTC."""
        return self.moment if self.plain else self.at

    def window(self) -> str:
        """The condition on a device (``$1``) and a window: since (``$2``), until (``$3``)."""
        return (
            f"{self.device} = $1 AND {self.shadow}"
            f" AND {self.moment} > {self.bound_at(2)} AND {self.moment} <= {self.bound_at(3)}"
        )

    def bound_at(self, number: int) -> str:
        """A moment that is a parameter, in seconds, in the type of the time column."""
        moment = f"to_timestamp(${number})"
        return re.sub("%(.)", lambda mark: moment if mark[1] == "s" else "%", self.bound)

    def newest_state(self, device: str) -> str:
        """A statement for a person to type: what the device reported last."""
        return (
            f"SELECT {self.moment}, jsonb_pretty({self.state}) FROM {self.source}"
            f" WHERE {self.device} = {literal(device)} ORDER BY {self.moment} DESC LIMIT 1;"
        )


def _step(place: str, part: Part, number: int) -> str:
    """What stands at a part of a path, which is parameter `number`, below a place."""
    if isinstance(part, Element):
        return f"jsonb_path_query_first({place}, ${number}, '{{}}', true)"
    # Only #> counts the elements of an array; -> is the faster one.
    return f"{place} #> ARRAY[${number}]" if INDEX.fullmatch(part) else f"{place} -> ${number}"


def _types(parts: Iterable[Part]) -> list[str]:
    return ["jsonpath" if isinstance(part, Element) else "text" for part in parts]


def parameters(parts: Iterable[Part]) -> list[str]:
    """Parts of paths as `history` takes them."""
    return [part.jsonpath if isinstance(part, Element) else part for part in parts]


def place(parts: Sequence[Part]) -> list[Any]:
    """A path as `last_reading` and `field_types` take it."""
    found = parameters(parts)
    return found if any(isinstance(part, Element) for part in parts) else [found]


def _at(state: str, parts: Sequence[Part]) -> tuple[str, list[str]]:
    """What stands at a path, and the types of its parameters, of which the first is ``$4``."""
    if not any(isinstance(part, Element) for part in parts):
        return f"{state} #> $4", ["text[]"]
    for number, part in enumerate(parts, 4):
        state = _step(state, part, number)
    return f"({state})", _types(parts)


def history(columns: Columns, paths: Sequence[Sequence[Part]], counted: bool = False) -> Query:
    """Times and numbers of one device's window, each column as one value.

    Or, `counted`, how many rows have something at each path, which is fast.

    A row each would cost more in Python objects than everything else together, so
    the times travel as the bytes of `array_send` and what stands at each path as one
    text, a line a row: JSON text has no line breaks of its own, keeps a string's
    quotes, and takes any number that jsonb can hold, where a cast to float8 would fail.
    `MOST_DIGITS` characters of it are gathered, so that no value makes the text long:
    what is longer has more digits than a float64 keeps, or is no measurement.

    Parameters: device, since (exclusive), until (inclusive), then the
    parts of what `paths` lie in, each once, and each path's last part.
    """
    number = itertools.count(4)

    def step(place: str, part: Part) -> str:
        return _step(place, part, next(number))

    # Out of line, or else PostgreSQL would look for what the paths share once for each.
    places = parents(paths)
    source, time, state = f"{columns.source} WHERE {columns.window()}", columns.time, columns.state
    if not state.startswith("h."):  # it is parsed: once a row
        source = f"(SELECT {time} AS t, {state} AS state FROM {source} OFFSET 0) AS h"
        time, state = "h.t", "h.state"
    picks = [f"{functools.reduce(step, place, state)} AS p{i}" for i, place in enumerate(places)]
    cells = [f"({step(f'p{places.index(tuple(path[:-1]))}', path[-1])})" for path in paths]
    values = [
        f"count({cell}) AS c{i}"
        if counted
        else f"string_agg(coalesce({cell}::varchar({MOST_DIGITS}), 'null'), E'\\n') AS c{i}"
        for i, cell in enumerate(cells)
    ]
    times = "count(t)" if counted else "array_send(array_agg(t))"
    return Query(
        f"SELECT {times} AS t, {', '.join(values)}"
        f" FROM (SELECT {time} AS t, {', '.join(picks)} FROM {source} OFFSET 0) AS reading",
        (columns.device_type, "float8", "float8", *_types(looked_up(paths))),
    )


def looked_up(paths: Sequence[Sequence[Part]]) -> list[Part]:
    """The parts that `history` looks up, in the order of its parameters."""
    return [*itertools.chain(*parents(paths)), *(path[-1] for path in paths)]


def parents(paths: Sequence[Sequence[Part]]) -> list[tuple[Part, ...]]:
    """The distinct places that the ends of `paths` lie in."""
    return list(dict.fromkeys(tuple(path[:-1]) for path in paths))


def arrivals(columns: Columns) -> Query:
    """Times of a device's rows in a window, as `array_send` writes them.

    Parameters: device, since (exclusive), until (inclusive).
    """
    return Query(
        f"SELECT array_send(array_agg({columns.time})) AS t FROM {columns.source}"
        f" WHERE {columns.window()}",
        (columns.device_type, "float8", "float8"),
    )


def bad_clock(columns: Columns, most: int) -> Query:
    """How many of a device's rows lie before one moment or after another, `most` at most.

    Parameters: device, the one, the other.
    """
    sides = (f"<= {columns.bound_at(2)}", f"> {columns.bound_at(3)}")
    rows = (
        f"(SELECT FROM {columns.source} WHERE {columns.device} = $1 AND {columns.shadow}"
        f" AND {columns.moment} {side} LIMIT {most})"
        for side in sides
    )
    return Query(
        f"SELECT least(count(*), {most})::int AS rows FROM ({' UNION ALL '.join(rows)}) AS r",
        (columns.device_type, "float8", "float8"),
    )


def next_row(columns: Columns) -> Query:
    """Time of a device's first row in a window.

    Parameters: device, since (exclusive), until (inclusive).
    """
    return Query(
        f"SELECT date_part('epoch', {columns.time}) AS t FROM {columns.source}"
        f" WHERE {columns.window()} ORDER BY {columns.moment} LIMIT 1",
        (columns.device_type, "float8", "float8"),
    )


def last_reading(columns: Columns, path: Sequence[Part]) -> Query:
    """Time of a device's newest reading in a window that holds a usable number at a path.

    Parameters: device, since (exclusive), until (inclusive), then `place` of the path.
    """
    value, types = _at(columns.state, path)
    return Query(
        f"SELECT date_part('epoch', {columns.time}) AS t FROM {columns.source}"
        f" WHERE {columns.window()} AND {value} BETWEEN {LEAST} AND {GREATEST}"
        f" ORDER BY {columns.moment} DESC LIMIT 1",
        (columns.device_type, "float8", "float8", *types),
    )


def first_reported(columns: Columns) -> Query:
    """Which metric comes first of those with a usable number in a device's newest readings.

    Parameters: device, since (exclusive), until (inclusive), and a JSON array of metrics: the
    name, and the paths of value and total (null where it has none).
    """
    return Query(
        f"WITH reading AS MATERIALIZED (SELECT {columns.state} AS state FROM {columns.source}"
        f" WHERE {columns.window()} ORDER BY {columns.moment} DESC LIMIT {NEWEST})"
        " SELECT w.name FROM (SELECT m.value ->> 0 AS name, m.value ->> 1 AS path,"
        " m.value ->> 2 AS total, m.place"
        " FROM jsonb_array_elements($4) WITH ORDINALITY AS m (value, place)) AS w"
        " WHERE EXISTS (SELECT FROM reading r"
        f" WHERE _ml_at(r.state, w.path) BETWEEN {LEAST} AND {GREATEST}"
        f" AND (w.total IS NULL OR _ml_at(r.state, w.total) BETWEEN '1e-300' AND {GREATEST}))"
        " ORDER BY w.place LIMIT 1",
        (columns.device_type, "float8", "float8", "jsonb"),
    )


def field_types(columns: Columns, path: Sequence[Part]) -> Query:
    """How often each JSON type stands at a path in a window.

    Parameters: device, since, until, then `place` of the path.
    """
    value, types = _at(columns.state, path)
    return Query(
        "SELECT CASE WHEN jsonb_typeof(s.value) = 'number'"
        f" AND s.value NOT BETWEEN {LEAST} AND {GREATEST} THEN 'number beyond 1e15'"
        " ELSE coalesce(jsonb_typeof(s.value), 'missing') END AS type, count(*)::int AS rows"
        f" FROM (SELECT {value} AS value FROM {columns.source}"
        f" WHERE {columns.window()}) AS s"
        " GROUP BY 1 ORDER BY 2 DESC",
        (columns.device_type, "float8", "float8", *types),
    )
