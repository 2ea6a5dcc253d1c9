"""How the time of a call grows with what it reads, and that it does not with what it need not read.

    python bench/scale.py "$(python3 install.py demo --dsn)"

makes a database ``pyml_scale`` on that server (on this host, with pyml installed on it) and
fills it with a history of a million rows, once in one table and once in a table partitioned by
month; ``--rows`` takes more. Each table of figures ends with the slope of a straight line through
the logarithms: 1 grows in proportion, 0 not at all. Nothing is deleted afterwards.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import psycopg
from latency import FIRST, bare
from timing import FILL, HISTORY, Connection, database, prepared, rounds, say, table

BASE_DAYS = 8
# Without the GIN index of demo/history.sql: no call reads it, and it takes most of the filling.
OLDER = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT device_uuid, reported_state, "timestamp" - make_interval(days => %s * %s)
FROM device_shadow_history WHERE "timestamp" > %s::timestamp - make_interval(days => %s)
"""
MORE_DEVICES = """
WITH new AS (INSERT INTO devices SELECT gen_random_uuid(), 'bench' FROM generate_series(1, %s)
             RETURNING uuid)
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT new.uuid, h.reported_state, h."timestamp" FROM new, device_shadow_history h
WHERE h.device_uuid = %s AND h."timestamp" > (now() AT TIME ZONE 'UTC') - interval '2 days'
"""
BY_MONTH = """
CREATE TABLE history_by_month (LIKE device_shadow_history INCLUDING DEFAULTS)
    PARTITION BY RANGE ("timestamp");
CREATE INDEX ON history_by_month (device_uuid, "timestamp" DESC);
CREATE INDEX ON history_by_month (device_uuid, shadow_name, "timestamp" DESC);
"""
WIDE = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %s, jsonb_build_object('app', (SELECT jsonb_object_agg(
    'm' || k, round((50 + 20 * sin(extract(epoch FROM t) / 13751 + k) + random())::numeric, 2))
    FROM generate_series(1, 32) AS k)), t
FROM generate_series((now() AT TIME ZONE 'UTC') - interval '8 days', now() AT TIME ZONE 'UTC',
    '1 minute') AS t
"""
ROUNDS = 30


def slope(sizes: Sequence[float], spent: Sequence[float]) -> float:
    """Exponent of the power law that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])


def grow(conn: Connection, what: str, calls: dict[int, Callable[[], object]]) -> None:
    """Time each size of something in turns; print the medians and the slope."""
    for call in calls.values():
        for _ in range(6):
            call()
    spent = rounds(calls, ROUNDS, conn.info.backend_pid)
    report(what, list(calls), [{"": float(np.median(cpu))} for _, cpu in spent.values()])


# ---- what is there ------------------------------------------------------------


def base(conn: Connection, wide: int) -> tuple[list[str], list[str]]:
    """Ten devices and `wide` ones with 32 fields, eight days each, in fresh tables."""
    conn.execute("DROP TABLE IF EXISTS history_by_month, device_shadow_history, devices CASCADE")
    conn.execute("DROP EXTENSION IF EXISTS pyml CASCADE; CREATE EXTENSION pyml CASCADE")
    conn.execute(HISTORY.read_text())
    conn.execute("DROP INDEX device_shadow_history_state_idx")
    conn.execute("SET session_replication_role = replica")  # no look at devices for each row
    conn.execute(
        "INSERT INTO devices SELECT gen_random_uuid(), 'bench' FROM generate_series(1, 10)"
    )
    first, last = conn.execute(
        "SELECT now() AT TIME ZONE 'UTC' - make_interval(days => %s), now() AT TIME ZONE 'UTC'",
        [BASE_DAYS],
    ).fetchone()
    conn.execute(FILL, {"first": first, "last": last})
    devices = [row[0] for row in conn.execute("SELECT uuid::text FROM devices ORDER BY uuid")]
    others = [
        conn.execute(
            "INSERT INTO devices VALUES (gen_random_uuid(), 'wide') RETURNING uuid::text"
        ).fetchone()[0]
        for _ in range(wide)
    ]
    for device in others:
        conn.execute(WIDE, [device])
    return devices, others


def lengthen(conn: Connection, rows: int) -> int:
    """Repeat the base's days further back until the table holds about `rows`; how many it holds."""
    held, newest, oldest = conn.execute(
        "SELECT count(*), max(timestamp), min(timestamp) FROM device_shadow_history"
    ).fetchone()
    chunk = round((newest - oldest).total_seconds() / 86400 / BASE_DAYS)
    while held < rows:
        made = conn.execute(OLDER, [chunk, BASE_DAYS, newest, BASE_DAYS])
        held, chunk = held + made.rowcount, chunk + 1
    conn.execute("VACUUM ANALYZE device_shadow_history")
    return held


def partition(conn: Connection) -> int:
    """The same history in a table by month; how many months it has."""
    conn.execute("DROP TABLE IF EXISTS history_by_month")
    conn.execute(BY_MONTH)
    months = conn.execute(
        "SELECT t::date, (t + interval '1 month')::date FROM generate_series("
        "(SELECT date_trunc('month', min(timestamp)) FROM device_shadow_history),"
        " (SELECT max(timestamp) FROM device_shadow_history), '1 month') AS t"
    ).fetchall()
    for begin, end in months:
        conn.execute(
            f"CREATE TABLE history_{begin:%Y_%m} PARTITION OF history_by_month"
            f" FOR VALUES FROM ('{begin}') TO ('{end}')"
        )
    conn.execute("INSERT INTO history_by_month SELECT * FROM device_shadow_history")
    conn.execute("VACUUM ANALYZE history_by_month")
    return len(months)


def plan(dsn: str, device: str) -> list[str]:
    """How a session that has asked often reads the history: the scans of the plan in use."""
    told: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        call = prepared(conn, "SELECT ml_detect($1::uuid)", device)
        for _ in range(8):
            call()
        conn.execute("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0")
        conn.execute("SET auto_explain.log_nested_statements = on; SET client_min_messages = log")
        call()
    (read,) = [text for text in told if "string_agg" in text]
    return [line.strip() for line in read.splitlines() if "Scan" in line or "Removed" in line]


# ---- what is measured ----------------------------------------------------------


def calls(conn: Connection, device: str) -> dict[str, Callable[[], object]]:
    """What must not grow with the history."""
    asked = {
        "bare SELECT, 24 h": bare().replace("$2::int", "1440"),
        "ml_detect, 24 h": "SELECT ml_detect($1::uuid)",
        "ml_score, one reading": FIRST["ml_score, one reading"],
        "ml_forecast": "SELECT ml_forecast($1::uuid)",
        "ml_zscore, 24 h": "SELECT * FROM ml_zscore($1::uuid, 'system.cpuUsage', 24)",
    }
    return {name: prepared(conn, sql, device) for name, sql in asked.items()}


def measured(dsn: str, device: str, source: str) -> dict[str, float]:
    """CPU ms of each call in a fresh session, over one of the tables."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE ml_setting SET value = %s WHERE name = 'history_table'", [source])
        each = calls(conn, device)
        for call in each.values():
            for _ in range(6):
                call()
        spent = rounds(each, ROUNDS, conn.info.backend_pid)
    return {name: float(np.median(cpu)) for name, (_, cpu) in spent.items()}


def report(what: str, sizes: Sequence[int], found: Sequence[dict[str, float]]) -> None:
    """A line a call, a column a size, and the slope."""
    lines = []
    for name in found[0]:
        spent = [each[name] for each in found]
        lines.append((name, *spent, slope(sizes, spent)))
    table([f"{what}, CPU ms", *(f"{size:,}" for size in sizes), "slope"], lines)


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a superuser's database")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the longest history")
    parser.add_argument("--devices", type=int, default=300, help="most devices")
    given = parser.parse_args()
    dsn = database(given.dsn, "pyml_scale")
    conn = psycopg.connect(dsn, autocommit=True)
    metrics, trees, hours = (1, 4, 16, 32), (25, 50, 100, 200, 400), (1, 6, 24, 72, 168)
    say("writing ten devices, and four with many fields")
    devices, wide = base(conn, len(metrics))

    say("training")
    for device, count in zip(devices, trees, strict=False):
        conn.execute("UPDATE ml_setting SET value = %s WHERE name = 'n_estimators'", [str(count)])
        conn.execute("SELECT ml_train_forest(%s)", [device])
    conn.execute("UPDATE ml_setting SET value = default_value WHERE name = 'n_estimators'")
    device = devices[len(trees)]
    conn.execute("SELECT ml_train_forest(%s), ml_train_lstm(%s)", [device, device])
    conn.execute("UPDATE ml_metric SET enabled = false")
    have = 0
    for one, count in zip(wide, metrics, strict=True):
        conn.execute(
            "INSERT INTO ml_metric (name, path) SELECT 'm' || k, 'app.m' || k"
            " FROM generate_series(%s::int, %s::int) AS k",
            [have + 1, count],
        )
        have = count
        conn.execute("SELECT ml_train_forest(%s)", [one])
    conn.execute("VACUUM ANALYZE")

    detect = "SELECT ml_detect($1::uuid, hours => $2::int)"
    zscore = "SELECT * FROM ml_zscore($1::uuid, 'system.cpuUsage', hours => $2::int)"
    for name, sql in (("ml_detect", detect), ("ml_zscore", zscore)):
        grow(
            conn,
            f"hours in the window of {name}",
            {h: prepared(conn, sql, device, h) for h in hours},
        )
    for what, sizes, some in (("metrics", metrics, wide), ("trees", trees, devices)):
        pairs = zip(sizes, some, strict=False)
        grow(conn, f"{what}, ml_detect, 24 h", {n: prepared(conn, detect, d, 24) for n, d in pairs})

    plain, monthly = "public.device_shadow_history", "public.history_by_month"
    sizes, found, parted = [], [], []
    rows = 0
    for wanted in [given.rows // 9, given.rows // 3, given.rows]:
        say(f"a history of {wanted:,} rows")
        rows = lengthen(conn, wanted)
        months = partition(conn)
        sizes.append(rows)
        found.append(measured(dsn, device, plain))
        parted.append(measured(dsn, device, monthly))
    report("rows in one table", sizes, found)
    report(f"rows in a table by month ({months} of them)", sizes, parted)
    for source in (monthly, plain):
        conn.execute("UPDATE ml_setting SET value = %s WHERE name = 'history_table'", [source])
        print(f"reads {source} by", "\n  ".join(["", *plan(dsn, device)]), "\n")

    counts, found = [], []
    held = conn.execute("SELECT count(*) FROM devices").fetchone()[0]
    for wanted in (held, given.devices // 3, given.devices):
        say(f"{wanted} devices")
        conn.execute(MORE_DEVICES, [max(0, wanted - held), device])
        held = max(held, wanted)
        conn.execute("VACUUM ANALYZE")
        counts.append(held)
        found.append(measured(dsn, device, plain))
    report("devices in one table", counts, found)


if __name__ == "__main__":
    main()
