"""The SQL that the module sends, named.

Tables of the extension need no schema here: each function pins `search_path` to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """A statement and the types of its parameters."""

    text: str
    types: tuple[str, ...] = ()


# Every call needs the settings and the history table's name and time type: one row.
_CONTEXT = (
    " (SELECT settings::text, parse_ident(settings ->> 'history_table') AS history,"
    "   (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a"
    "    WHERE a.attrelid = to_regclass(settings ->> 'history_table')"
    "      AND a.attname = settings ->> 'history_time_column' AND NOT a.attisdropped) AS time_type"
    "  FROM (SELECT jsonb_object_agg(name, value) AS settings FROM ml_setting) AS s) AS c"
)

CONTEXT = Query("SELECT c.* FROM" + _CONTEXT)

METRICS = Query(
    "SELECT name, path, divisor_path, scale, kind FROM ml_metric WHERE enabled ORDER BY name"
)

BOUNDS = Query(
    "SELECT lower_bound, upper_bound FROM ml_metric"
    " WHERE (name = $1 OR path = $1 AND divisor_path IS NULL AND scale = 1) AND kind = 'gauge'"
    " ORDER BY name = $1 DESC LIMIT 1",
    ("text",),
)

CURRENT_MODEL = Query(
    "SELECT c.*, m.model_id, m.sha256, date_part('epoch', m.trained_at) AS trained_at,"
    " m.readings_used, m.figures::text AS figures FROM" + _CONTEXT + " LEFT JOIN ml_model m"
    " ON m.device_uuid = $1 AND m.kind = $2 AND m.field = $3 AND m.is_current",
    ("uuid", "text", "text"),
)

BLOB = Query("SELECT blob FROM ml_model WHERE model_id = $1", ("bigint",))

LOCK_MODEL = Query("SELECT _ml_lock_model($1, $2, $3)", ("uuid", "text", "text"))

RETIRE_MODEL = Query(
    "UPDATE ml_model SET is_current = false"
    " WHERE device_uuid = $1 AND kind = $2 AND field = $3 AND is_current",
    ("uuid", "text", "text"),
)

INSERT_MODEL = Query(
    "INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end,"
    " readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)"
    " VALUES ($1, $2, $3, true, to_timestamp($4), to_timestamp($5), $6, $7, $8, $9, $10, $11,"
    " $12, $13) RETURNING model_id",
    (
        *("uuid", "text", "text", "float8", "float8", "int", "int"),
        *("jsonb", "jsonb", "jsonb", "float8", "text", "bytea"),
    ),
)

INSERT_RUN = Query(
    "INSERT INTO ml_run (device_uuid, kind, field, seconds, outcome, model_id, figures)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7)",
    ("uuid", "text", "text", "float8", "text", "bigint", "jsonb"),
)

EPOCHS = Query(
    "SELECT date_part('epoch', $1::timestamptz) AS since,"
    " date_part('epoch', $2::timestamptz) AS until",
    ("text", "text"),
)

NOW = Query("SELECT date_part('epoch', now()) AS until")

# What a poll shows to other sessions, in pg_stat_activity; put back when the door closes.
PROGRESS = Query("SELECT set_config('application_name', $1, true)", ("text",))


def quoted(identifier: str) -> str:
    """An identifier as SQL takes it, whatever is in it."""
    return '"' + identifier.replace('"', '""') + '"'


def _source(settings: Mapping[str, str], table: tuple[str, ...]) -> tuple[str, str, str]:
    """The history as a FROM item, its time as timestamptz, and its condition on the window.

    The window's bounds are converted to the column's type, not the column to
    theirs, so that the index on it is used whatever the session's time zone.
    """
    time = "h." + quoted(settings["history_time_column"])
    where = f"h.{quoted(settings['history_device_column'])} = $1"
    if settings["history_shadow_column"]:
        where += f" AND h.{quoted(settings['history_shadow_column'])} = $2"
    else:
        where += " AND $2::text IS NOT NULL"
    return ".".join(map(quoted, table)) + " AS h", time, where


def _bound(number: int, zoned: bool) -> str:
    """A window's bound (seconds since the epoch) in the type of the time column.

    ``$3`` is the zone of a column without one.
    """
    moment = f"to_timestamp(${number})"
    return moment if zoned else f"({moment} AT TIME ZONE $3)"


def history(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool, paths: int) -> Query:
    """Times and numbers of one device's window, each column as one value.

    A row each would cost more in Python objects than everything else together, so
    the times travel as the bytes of `array_send` and each path's numbers as one
    text, which takes any number that jsonb can hold where a cast to float8 would fail.

    Parameters: device, shadow, zone, since (exclusive), until (inclusive), then a
    ``text[]`` for each of `paths` JSON paths. What is not a number is ``nan``.
    """
    source, time, where = _source(settings, table)
    moment = time if zoned else f"({time} AT TIME ZONE $3)"
    picks, columns = [], []
    for i in range(paths):
        picks.append(f"h.{quoted(settings['history_state_column'])} #> ${6 + i} AS v{i}")
        columns.append(
            f"string_agg(CASE jsonb_typeof(v{i}) WHEN 'number' THEN v{i}::text ELSE 'nan' END, ',')"
            f" AS c{i}"
        )
    return Query(
        f"SELECT array_send(array_agg(date_part('epoch', t))) AS t, {', '.join(columns)}"
        f" FROM (SELECT {moment} AS t, {', '.join(picks)} FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}"
        f" ORDER BY {time}) AS reading",
        ("uuid", "text", "text", "float8", "float8", *["text[]"] * paths),
    )


def last_reading(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """Time of a device's newest reading that holds a number at a path, up to a time.

    Parameters: device, shadow, zone, until, path.
    """
    source, time, where = _source(settings, table)
    moment = time if zoned else f"({time} AT TIME ZONE $3)"
    return Query(
        f"SELECT date_part('epoch', {moment}) AS t FROM {source}"
        f" WHERE {where} AND {time} <= {_bound(4, zoned)}"
        f" AND jsonb_typeof(h.{quoted(settings['history_state_column'])} #> $5) = 'number'"
        f" ORDER BY {time} DESC LIMIT 1",
        ("uuid", "text", "text", "float8", "text[]"),
    )


def field_types(settings: Mapping[str, str], table: tuple[str, ...], zoned: bool) -> Query:
    """How often each JSON type stands at a path in a window.

    Parameters: device, shadow, zone, since, until, path.
    """
    source, time, where = _source(settings, table)
    return Query(
        f"SELECT coalesce(jsonb_typeof(h.{quoted(settings['history_state_column'])} #> $6),"
        f" 'missing') AS type, count(*)::int AS rows FROM {source}"
        f" WHERE {where} AND {time} > {_bound(4, zoned)} AND {time} <= {_bound(5, zoned)}"
        f" GROUP BY 1 ORDER BY 2 DESC",
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
