"""The SQL that the module sends, named.

What is always the same stands in ``queries.sql``; here is what varies with the history's table,
its columns and the paths that are read.
"""

import itertools
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Of a JSON value's text, what may be a number that was measured: 15 digits before the point, and
# more after it than a float64 tells apart.
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


def quoted(identifier: str) -> str:
    """An identifier as SQL takes it, whatever is in it."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Text as SQL takes it in quotes, for a statement that a person is to type."""
    quoted = "'" + text.replace("'", "''") + "'"
    # What a backslash means without E is up to standard_conforming_strings.
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def _source(
    settings: Mapping[str, str], table: tuple[str, ...], zoned: bool
) -> tuple[str, str, str, str]:
    """The history as a FROM item, its time as it stands and as a moment, and its condition.

    The window's bounds are converted to the column's type, not the column to
    theirs, so that the index on it is used whatever the session's time zone.
    """
    time = "h." + quoted(settings["history_time_column"])
    # Read as UTC, a time without zone is the same moment, and no row has to look the zone up.
    plain = zoned or settings["history_time_zone"] == "UTC"
    moment = time if plain else f"({time} AT TIME ZONE $3)"
    where = f"h.{quoted(settings['history_device_column'])} = $1"
    if settings["history_shadow_column"]:
        where += f" AND h.{quoted(settings['history_shadow_column'])} = $2"
    else:
        where += " AND $2::text IS NOT NULL"
    return ".".join(map(quoted, table)) + " AS h", time, moment, where


def _bound(number: int, zoned: bool) -> str:
    """A window's bound (seconds since the epoch) in the type of the time column.

    ``$3`` is the zone of a column without one.
    """
    moment = f"to_timestamp(${number})"
    return moment if zoned else f"({moment} AT TIME ZONE $3)"


def history(
    settings: Mapping[str, str],
    table: tuple[str, ...],
    zoned: bool,
    paths: Sequence[Sequence[str]],
    counted: bool = False,
) -> Query:
    """Times and numbers of one device's window, each column as one value.

    Or, `counted`, how many rows have something at each path, which is soon told.

    A row each would cost more in Python objects than everything else together, so
    the times travel as the bytes of `array_send` and what stands at each path as one
    text, a line a row: JSON text has no line breaks of its own, keeps a string's
    quotes, and takes any number that jsonb can hold, where a cast to float8 would fail.
    `MOST_DIGITS` characters of it are gathered, so that no value makes the text long:
    what is longer has more digits than a float64 keeps, or is no measurement.

    Parameters: device, shadow, zone, since (exclusive), until (inclusive), then the
    parts of what `paths` lie in, each once, and each path's last part.
    """
    source, time, moment, where = _source(settings, table, zoned)
    number = itertools.count(6)

    def step(part: str) -> str:
        # Only #> counts the elements of an array; -> is the faster one.
        return f"#> ARRAY[${next(number)}]" if INDEX.fullmatch(part) else f"-> ${next(number)}"

    # Out of line, or else PostgreSQL would look for what the paths share once for each.
    places = parents(paths)
    state = f"h.{quoted(settings['history_state_column'])}"
    picks = [" ".join([state, *map(step, place), f"AS p{i}"]) for i, place in enumerate(places)]
    cells = [f"(p{places.index(tuple(path[:-1]))} {step(path[-1])})" for path in paths]
    columns = [
        f"count({cell}) AS c{i}"
        if counted
        else f"string_agg(coalesce({cell}::varchar({MOST_DIGITS}), 'null'), E'\\n') AS c{i}"
        for i, cell in enumerate(cells)
    ]
    times = "count(t)" if counted else "array_send(array_agg(t))"
    return Query(
        f"SELECT {times} AS t, {', '.join(columns)}"
        f" FROM (SELECT {moment} AS t, {', '.join(picks)} FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}"
        f" OFFSET 0) AS reading",
        ("uuid", "text", "text", "float8", "float8", *["text"] * (next(number) - 6)),
    )


def parents(paths: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The distinct places that the ends of `paths` lie in."""
    return list(dict.fromkeys(tuple(path[:-1]) for path in paths))


def arrivals(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """Times of a device's rows in a window, as `array_send` writes them.

    Parameters: device, shadow, zone, since (exclusive), until (inclusive).
    """
    source, time, moment, where = _source(settings, table, zoned)
    return Query(
        f"SELECT array_send(array_agg({moment})) AS t FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}",
        ("uuid", "text", "text", "float8", "float8"),
    )


def next_row(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """Time of a device's first row in a window.

    Parameters: device, shadow, zone, since (exclusive), until (inclusive).
    """
    source, time, moment, where = _source(settings, table, zoned)
    return Query(
        f"SELECT date_part('epoch', {moment}) AS t FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}"
        f" ORDER BY {time} LIMIT 1",
        ("uuid", "text", "text", "float8", "float8"),
    )


def last_reading(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """Time of a device's newest reading in a window that holds a usable number at a path.

    Parameters: device, shadow, zone, since (exclusive), until (inclusive), path.
    """
    source, time, moment, where = _source(settings, table, zoned)
    return Query(
        f"SELECT date_part('epoch', {moment}) AS t FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}"
        f" AND h.{quoted(settings['history_state_column'])} #> $6 BETWEEN {LEAST} AND {GREATEST}"
        f" ORDER BY {time} DESC LIMIT 1",
        ("uuid", "text", "text", "float8", "float8", "text[]"),
    )


def first_held(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """Which metric comes first of those with a usable number in a device's newest readings.

    Parameters: device, shadow, zone, since (exclusive), until (inclusive), and a JSON array of
    metrics: the name, and the parts of the paths of value and total (null where it has none).
    """
    source, time, _, where = _source(settings, table, zoned)
    state = f"h.{quoted(settings['history_state_column'])}"
    window = f"{time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}"
    parts = "ARRAY(SELECT jsonb_array_elements_text(nullif(m.value -> {}, 'null')))"
    return Query(
        f"WITH reading AS MATERIALIZED (SELECT {state} AS state FROM {source}"
        f" WHERE {where} AND {window} ORDER BY {time} DESC LIMIT {NEWEST})"
        f" SELECT w.name FROM (SELECT m.value ->> 0 AS name, {parts.format(1)} AS path,"
        f" {parts.format(2)} AS total, m.place"
        " FROM jsonb_array_elements($6) WITH ORDINALITY AS m (value, place)) AS w"
        " WHERE EXISTS (SELECT FROM reading r"
        f" WHERE r.state #> w.path BETWEEN {LEAST} AND {GREATEST}"
        f" AND (w.total = '{{}}' OR r.state #> w.total BETWEEN '1e-300' AND {GREATEST}))"
        " ORDER BY w.place LIMIT 1",
        ("uuid", "text", "text", "float8", "float8", "jsonb"),
    )


def field_types(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """How often each JSON type stands at a path in a window.

    Parameters: device, shadow, zone, since, until, path.
    """
    source, time, _, where = _source(settings, table, zoned)
    return Query(
        "SELECT CASE WHEN jsonb_typeof(s.value) = 'number'"
        f" AND s.value NOT BETWEEN {LEAST} AND {GREATEST} THEN 'number beyond 1e15'"
        " ELSE coalesce(jsonb_typeof(s.value), 'missing') END AS type, count(*)::int AS rows"
        f" FROM (SELECT h.{quoted(settings['history_state_column'])} #> $6 AS value FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}) AS s"
        " GROUP BY 1 ORDER BY 2 DESC",
        ("uuid", "text", "text", "float8", "float8", "text[]"),
    )


def newest_state(settings: Mapping[str, str], table: tuple[str, ...], device: str) -> str:
    """A statement for a person to type: what the device reported last."""
    return (
        f"SELECT jsonb_pretty({quoted(settings['history_state_column'])})"
        f" FROM {'.'.join(map(quoted, table))}"
        f" WHERE {quoted(settings['history_device_column'])} = '{device}'"
        f" ORDER BY {quoted(settings['history_time_column'])} DESC LIMIT 1;"
    )
