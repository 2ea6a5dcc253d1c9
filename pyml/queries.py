"""The SQL that the module sends, named.

Tables of the extension need no schema here: each function pins `search_path` to it.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Of a JSON value's text, what may be a number that was measured: 15 digits before the point, and
# more after it than a float64 tells apart.
MOST_DIGITS = 40
# What no sensor measures is greater (objects, arrays, booleans and large numbers are) or less.
LEAST, GREATEST = "'-1e15'", "'1e15'"
# A part of a path that may count the elements of an array.
INDEX = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Query:
    """A statement and the types of its parameters."""

    text: str
    types: tuple[str, ...] = ()


# Every call needs the settings, the metrics that a model may read, the history table's name, those
# of its columns that it lacks or that are of a wrong type, and its time's type: one row.
_CONTEXT = (
    " (SELECT s.settings::text, (SELECT json_agg(json_build_array("
    "    name, path, divisor_path, scale, kind))::text FROM ml_metric) AS metrics,"
    "  parse_ident(s.settings ->> 'history_table') AS history, t.*"
    "  FROM (SELECT jsonb_object_agg(name, value) AS settings FROM ml_setting) AS s"
    "  CROSS JOIN LATERAL ("
    "   SELECT"
    '    array_agg(w.name ORDER BY w.name COLLATE "C") FILTER (WHERE w.type IS NULL) AS absent,'
    "    string_agg(w.fault, ', ' ORDER BY w.name COLLATE \"C\") AS fault,"
    "    min(w.type) FILTER (WHERE w.setting = 'history_time_column') AS time_type"
    "   FROM _ml_history_columns() AS w) AS t) AS c"
)

CONTEXT = Query("SELECT c.* FROM" + _CONTEXT)

# In the order of "C", whatever the database's collation: models are compared by it.
METRICS = Query(
    'SELECT name, path, divisor_path, scale, kind, enabled FROM ml_metric ORDER BY name COLLATE "C"'
)

BOUNDS = Query(
    "SELECT lower_bound, upper_bound FROM ml_metric"
    " WHERE name = $1 OR path = $1 AND divisor_path IS NULL AND scale = 1 AND kind = 'gauge'"
    ' ORDER BY name = $1 DESC, name COLLATE "C" LIMIT 1',
    ("text",),
)

# Of the figures what a forecast's document has.
_FIGURES = (
    "jsonb_build_object('mae', m.figures -> 'mae', 'mase', m.figures -> 'mase',"
    " 'beats_naive', m.figures -> 'beats_naive', 'coverage', m.figures -> 'coverage')::text"
)

CURRENT_MODEL = Query(
    "SELECT c.*, m.model_id, m.sha256, date_part('epoch', m.trained_at) AS trained_at,"
    " m.readings_used, " + _FIGURES + " AS figures, date_part('epoch', now()) AS now"
    " FROM" + _CONTEXT + " LEFT JOIN ml_model m"
    " ON m.device_uuid = $1 AND m.kind = $2 AND m.field = $3 AND m.is_current",
    ("uuid", "text", "text"),
)

BLOB = Query(
    "SELECT blob, encode(sha256(blob), 'hex') AS sha256 FROM ml_model WHERE model_id = $1",
    ("bigint",),
)

LOCK_MODEL = Query("SELECT _ml_lock_model($1, $2, $3)", ("uuid", "text", "text"))

PUT_MODEL = Query(
    "SELECT _ml_put_model($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS model_id",
    (
        *("uuid", "text", "text", "float8", "float8", "int", "int"),
        *("jsonb", "jsonb", "jsonb", "float8", "bytea"),
    ),
)

PUT_RUN = Query(
    "SELECT _ml_put_run($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    ("uuid", "text", "text", "float8", "text", "bigint", "jsonb", "text", "text"),
)

EPOCHS = Query(
    "SELECT date_part('epoch', $1::timestamptz) AS since,"
    " date_part('epoch', $2::timestamptz) AS until",
    ("text", "text"),
)

# Nothing but a moment at which a cancel or a timeout is heard.
PULSE = Query("SELECT true AS going_on")

ENCODING = Query("SELECT getdatabaseencoding() AS encoding")

SESSION = Query("SELECT date_part('epoch', now()) AS until, current_setting('TimeZone') AS zone")

NOTICE = Query("SELECT _ml_notice($1)", ("text",))

# ---- trainings outside the server ------------------------------------------------

# The claim goes with the connection: where a machine vanishes without a word, the server finds
# out within a minute. Names are found as the extension's functions find them.
AT_HOME = Query(
    "SELECT e.extversion AS version,"
    " set_config('search_path', format('pg_catalog, %I, pg_temp', n.nspname), true),"
    " set_config('tcp_keepalives_idle', '30', true),"
    " set_config('tcp_keepalives_interval', '10', true),"
    " set_config('tcp_keepalives_count', '3', true),"
    " set_config('idle_in_transaction_session_timeout', '1h', true)"
    " FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
    " WHERE e.extname = 'pyml'"
)

# The inner functions that a worker calls look things up where the extension was created.
UNMOVED = Query("SELECT _ml_at_home()")

READ_ONLY = Query("SELECT set_config('search_path', 'pg_catalog, pg_temp', true)")

DUE = Query(
    "SELECT d.device_uuid::text AS device, d.kind, d.field"
    " FROM _ml_due(ARRAY(SELECT _ml_fleet())) AS d"
    ' ORDER BY d.since NULLS FIRST, d.device_uuid, d.kind COLLATE "C", d.field COLLATE "C"'
)

GIVEN = Query(
    "SELECT _ml_given((SELECT m.parameters FROM ml_model m WHERE m.device_uuid = $1"
    "   AND m.kind = $2 AND m.field = $3 AND m.is_current))::text AS given",
    ("uuid", "text", "text"),
)

CLAIM = Query("SELECT _ml_claim($1, $2, $3) AS claimed", ("uuid", "text", "text"))

STORE_MODEL = Query(
    "SELECT (ml_store_model($1, $2, $3, $4, $5, $6) ->> 'accepted')::boolean AS accepted",
    ("uuid", "text", "text", "bytea", "jsonb", "bigint"),
)

PRUNE = Query("SELECT _ml_prune($1, $2, $3)", ("uuid", "text", "text"))

# ---- the scan ------------------------------------------------------------------

# The current models: detectors first. A field that nobody has configured is read by no one but who
# asks for it by name.
SCAN_STATE = Query(
    "SELECT c.*, date_part('epoch', coalesce($2, now())) AS until, s.outcome,"
    " date_part('epoch', now()) AS now,"
    " date_part('epoch', s.watermark) AS watermark, s.late_rows, s.seen::text AS seen,"
    " (SELECT coalesce(json_agg(json_build_object('kind', m.kind, 'field', m.field,"
    "         'model_id', m.model_id, 'sha256', m.sha256,"
    "         'trained_at', date_part('epoch', m.trained_at), 'readings_used', m.readings_used,"
    "         'figures', " + _FIGURES + ")"
    '         ORDER BY m.field COLLATE "C", m.kind COLLATE "C"), \'[]\')::text'
    "  FROM ml_model m WHERE m.device_uuid = $1 AND m.is_current AND (m.field = ''"
    "    OR m.field IN (SELECT jsonb_array_elements_text(f.value::jsonb)"
    "         FROM ml_setting f WHERE f.name = 'forecast_fields')"
    "    OR m.field IN (SELECT unnest(o.fields) FROM ml_device_forecast o"
    "         WHERE o.device_uuid = $1)"
    "    OR EXISTS (SELECT FROM ml_metric k"
    "         WHERE m.field IN (k.name, k.path, k.divisor_path)))) AS models"
    " FROM" + _CONTEXT + " LEFT JOIN ml_scan_state s ON s.device_uuid = $1",
    ("uuid", "timestamptz"),
)

SCAN_UNCHANGED = Query("SELECT _ml_note_scan($1, 'unchanged', NULL, NULL)", ("uuid",))

SCAN_DONE = Query(
    "SELECT _ml_put_scan($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    (
        *("uuid", "text", "text", "float8", "int", "int", "int"),
        *("jsonb", "jsonb", "jsonb", "bigint[]", "bigint[]", "float8"),
    ),
)

PUT_ANOMALIES = Query(
    "SELECT t FROM _ml_put_anomalies($1, $2, $3, $4, $5, $6, $7, $8, $9) AS t",
    (
        *("uuid", "text", "boolean", "float8[]", "float8[]", "text[]", "text[]", "text[]"),
        "bigint[]",
    ),
)

JOIN_INCIDENTS = Query("SELECT _ml_join_incidents($1, $2, $3)", ("uuid", "float8", "float8"))

POINTS = Query(
    "SELECT date_part('epoch', p.timestamp) AS t, p.predicted, p.lower, p.upper, p.model_id"
    " FROM ml_forecast_point p WHERE p.device_uuid = $1 AND p.kind = $2 AND p.field = $3"
    " AND p.timestamp > to_timestamp($4) AND p.timestamp <= to_timestamp($5) ORDER BY p.timestamp",
    ("uuid", "text", "text", "float8", "float8"),
)

PUT_FORECAST = Query(
    "SELECT _ml_put_forecast($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    (
        *("uuid", "text", "text", "float8", "float8", "bigint", "float8"),
        *("float8[]", "float8[]", "float8[]", "float8[]"),
    ),
)

# What a poll shows to other sessions, in pg_stat_activity; put back when the door closes.
PROGRESS = Query("SELECT set_config('application_name', $1, true)", ("text",))


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
    settings: Mapping[str, str], table: tuple[str, ...], zoned: bool, paths: Sequence[Sequence[str]]
) -> Query:
    """Times and numbers of one device's window, each column as one value.

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
    columns = [
        f"string_agg(coalesce((p{places.index(tuple(path[:-1]))} {step(path[-1])})"
        f"::varchar({MOST_DIGITS}), 'null'), E'\\n') AS c{i}"
        for i, path in enumerate(paths)
    ]
    return Query(
        f"SELECT array_send(array_agg(t)) AS t, {', '.join(columns)}"
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
    """Time of a device's newest reading that holds a usable number at a path, up to a time.

    Parameters: device, shadow, zone, until, path.
    """
    source, time, moment, where = _source(settings, table, zoned)
    return Query(
        f"SELECT date_part('epoch', {moment}) AS t FROM {source}"
        f" WHERE {where} AND {time} <= {_bound(4, zoned)}"
        f" AND h.{quoted(settings['history_state_column'])} #> $5 BETWEEN {LEAST} AND {GREATEST}"
        f" ORDER BY {time} DESC LIMIT 1",
        ("uuid", "text", "text", "float8", "text[]"),
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
