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


# Every call needs the settings, the history table's name, those of its columns that it lacks or
# that are of a wrong type, and its time's type: one row.
_CONTEXT = (
    " (SELECT s.settings::text, parse_ident(s.settings ->> 'history_table') AS history, t.*"
    "  FROM (SELECT jsonb_object_agg(name, value) AS settings FROM ml_setting) AS s"
    "  CROSS JOIN LATERAL ("
    "   SELECT"
    "    array_agg(w.name ORDER BY w.name) FILTER (WHERE w.type IS NULL) AS absent,"
    "    string_agg(w.fault, ', ' ORDER BY w.name) AS fault,"
    "    min(w.type) FILTER (WHERE w.setting = 'history_time_column') AS time_type"
    "   FROM _ml_history_columns() AS w) AS t) AS c"
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

_HELD = (
    " m.model_id, m.sha256, date_part('epoch', m.trained_at) AS trained_at,"
    " m.readings_used, m.figures::text AS figures, date_part('epoch', now()) AS now"
)

CURRENT_MODEL = Query(
    "SELECT c.*," + _HELD + " FROM" + _CONTEXT + " LEFT JOIN ml_model m"
    " ON m.device_uuid = $1 AND m.kind = $2 AND m.field = $3 AND m.is_current",
    ("uuid", "text", "text"),
)

BLOB = Query(
    "SELECT blob, encode(sha256(blob), 'hex') AS sha256 FROM ml_model WHERE model_id = $1",
    ("bigint",),
)

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
    " encode(sha256($12), 'hex'), $12) RETURNING model_id",
    (
        *("uuid", "text", "text", "float8", "float8", "int", "int"),
        *("jsonb", "jsonb", "jsonb", "float8", "bytea"),
    ),
)

INSERT_RUN = Query(
    "INSERT INTO ml_run (device_uuid, kind, field, seconds, outcome, model_id, figures, sqlstate,"
    " error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    ("uuid", "text", "text", "float8", "text", "bigint", "jsonb", "text", "text"),
)

EPOCHS = Query(
    "SELECT date_part('epoch', $1::timestamptz) AS since,"
    " date_part('epoch', $2::timestamptz) AS until",
    ("text", "text"),
)

# Nothing but a moment at which a cancel or a timeout is heard.
PULSE = Query("SELECT true AS going_on")

SESSION = Query("SELECT date_part('epoch', now()) AS until, current_setting('TimeZone') AS zone")

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

READ_ONLY = Query("SELECT set_config('search_path', 'pg_catalog, pg_temp', true)")

DUE = Query(
    "SELECT d.device_uuid::text AS device, d.kind, d.field"
    " FROM _ml_due(ARRAY(SELECT _ml_devices())) AS d"
    " ORDER BY d.since NULLS FIRST, d.device_uuid, d.kind, d.field"
)

CLAIM = Query("SELECT _ml_claim($1, $2, $3) AS claimed", ("uuid", "text", "text"))

STORE_MODEL = Query(
    "SELECT (ml_store_model($1, $2, $3, $4, $5, $6) ->> 'accepted')::boolean AS accepted",
    ("uuid", "text", "text", "bytea", "jsonb", "bigint"),
)

PRUNE = Query("SELECT _ml_prune($1, $2, $3)", ("uuid", "text", "text"))

# ---- the scan ------------------------------------------------------------------

SCAN_STATE = Query(
    "SELECT c.*, date_part('epoch', coalesce($2, now())) AS until,"
    " date_part('epoch', s.watermark) AS watermark, s.late_rows, s.seen::text AS seen,"
    " ARRAY(SELECT l.field FROM ml_model l WHERE l.device_uuid = $1 AND l.kind = 'lstm'"
    "       AND l.is_current ORDER BY l.field) AS fields,"
    + _HELD
    + " FROM"
    + _CONTEXT
    + " LEFT JOIN ml_scan_state s ON s.device_uuid = $1"
    " LEFT JOIN ml_model m ON m.device_uuid = $1 AND m.kind = 'forest' AND m.is_current",
    ("uuid", "timestamptz"),
)

SCAN_UNCHANGED = Query(
    "UPDATE ml_scan_state SET scanned_at = clock_timestamp(), readings = 0, anomalies = 0,"
    " outcome = CASE outcome WHEN 'failed' THEN outcome ELSE 'unchanged' END"
    " WHERE device_uuid = $1",
    ("uuid",),
)

SCAN_DONE = Query(
    "INSERT INTO ml_scan_state AS s (device_uuid, scanned_at, outcome, sqlstate, error, watermark,"
    " late_rows, readings, anomalies, seen, drift, forecast_drift, drifted, last_reading)"
    " VALUES ($1, clock_timestamp(), CASE WHEN $2 IS NULL THEN 'scanned' ELSE 'failed' END,"
    " $2, $3, to_timestamp($4), $5, $6, $7, $8, $9, $10, $11, to_timestamp($12))"
    " ON CONFLICT (device_uuid) DO UPDATE SET scanned_at = EXCLUDED.scanned_at,"
    " outcome = EXCLUDED.outcome, sqlstate = EXCLUDED.sqlstate, error = EXCLUDED.error,"
    " watermark = EXCLUDED.watermark, late_rows = EXCLUDED.late_rows,"
    " readings = EXCLUDED.readings, anomalies = EXCLUDED.anomalies,"
    " seen = EXCLUDED.seen, drift = EXCLUDED.drift, forecast_drift = EXCLUDED.forecast_drift,"
    " drifted = EXCLUDED.drifted, last_reading = EXCLUDED.last_reading",
    (
        *("uuid", "text", "text", "float8", "int", "int", "int"),
        *("jsonb", "jsonb", "jsonb", "bigint[]", "float8"),
    ),
)

# What was found before stands: a reading in the look-back is judged once.
INSERT_ANOMALIES = Query(
    "INSERT INTO ml_anomaly (device_uuid, timestamp, tier, score, severity, metrics, reasons,"
    " model_id, incident_at)"
    " SELECT $1, to_timestamp(f.epoch), $2, f.score, f.severity, f.metrics::jsonb,"
    " f.reasons::jsonb, f.model_id, to_timestamp(f.epoch)"
    " FROM unnest($3, $4, $5, $6, $7, $8) AS f (epoch, score, severity, metrics, reasons, model_id)"
    " ON CONFLICT DO NOTHING RETURNING date_part('epoch', timestamp) AS t",
    (
        *("uuid", "text", "float8[]", "float8[]", "text[]", "text[]", "text[]"),
        "bigint[]",
    ),
)

# The incidents of the earliest new anomaly and of those after it: the first goes on with the
# incident before it, where that is near enough. Joined by the place of a row, since by its key
# the planner, where it expects few, would go through all of one side for each of the other.
JOIN_INCIDENTS = Query(
    "UPDATE ml_anomaly a SET incident_at = w.began FROM ("
    "  SELECT e.place, max(e.opens) OVER (ORDER BY e.timestamp) AS began FROM ("
    "    SELECT b.ctid AS place, b.timestamp, CASE"
    "      WHEN lag(b.timestamp) OVER later IS NULL THEN coalesce("
    "        (SELECT p.incident_at FROM ml_anomaly p WHERE p.device_uuid = $1"
    "           AND p.timestamp < to_timestamp($2) AND p.timestamp >= to_timestamp($2 - $3)"
    "         ORDER BY p.timestamp DESC LIMIT 1), b.timestamp)"
    "      WHEN b.timestamp - lag(b.timestamp) OVER later > make_interval(secs => $3)"
    "        THEN b.timestamp END AS opens"
    "    FROM ml_anomaly b WHERE b.device_uuid = $1 AND b.timestamp >= to_timestamp($2)"
    "    WINDOW later AS (ORDER BY b.timestamp)) AS e) AS w"
    " WHERE a.ctid = w.place AND a.incident_at <> w.began",
    ("uuid", "float8", "float8"),
)

POINTS = Query(
    "SELECT date_part('epoch', p.timestamp) AS t, p.predicted, p.lower, p.upper, p.model_id"
    " FROM ml_forecast_point p WHERE p.device_uuid = $1 AND p.field = $2"
    " AND p.timestamp > to_timestamp($3) AND p.timestamp <= to_timestamp($4) ORDER BY p.timestamp",
    ("uuid", "text", "float8", "float8"),
)

# Beyond the last reading only the newest forecast counts; what lies before it stands.
CLEAR_POINTS = Query(
    "DELETE FROM ml_forecast_point p WHERE p.device_uuid = $1 AND p.field = $2"
    " AND (p.timestamp < now() - make_interval(days => $4) OR p.timestamp > to_timestamp($3))",
    ("uuid", "text", "float8", "int"),
)

INSERT_POINTS = Query(
    "INSERT INTO ml_forecast_point (device_uuid, field, timestamp, predicted, lower, upper, level,"
    " breach, model_id, made_at)"
    " SELECT $1, $2, to_timestamp(f.epoch), f.predicted, f.lower, f.upper, $3,"
    " CASE WHEN f.predicted >= $4 THEN $4 END, $5, now()"
    " FROM unnest($6, $7, $8, $9) AS f (epoch, predicted, lower, upper)",
    (
        *("uuid", "text", "float8", "float8", "bigint"),
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
    return "'" + text.replace("'", "''") + "'"


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
