"""The databases of tests: copies of a template, which many tests in turn may have.

A copy takes 0.1 s, and a new session in it loads numpy (0.3 s of the processor), scikit-learn
(2 s) or TensorFlow (6 s). Where a test has changed rows, they are put back; what it has added is
dropped. Where it has changed no more than that, the next test has the same database and the same
session.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import psycopg
from psycopg.pq import TransactionStatus

# Differs after every change to more than rows.
CATALOGUES = (
    *("attrdef", "attribute", "class", "constraint", "default_acl", "depend", "description"),
    *("event_trigger", "extension", "policy", "proc", "publication", "rewrite"),
    *("statistic_ext", "subscription", "trigger", "type"),
)
STATE = " UNION ALL ".join(
    [
        *(f"SELECT count(*), max(xmin::text::bigint) FROM pg_{name}" for name in CATALOGUES),
        # A session's schema of temporary objects stays when they are gone.
        "SELECT count(*), max(xmin::text::bigint) FROM pg_namespace"
        " WHERE nspname !~ '^pg_(toast_)?temp_'",
        "SELECT count(*), max(s.xmin::text::bigint) FROM pg_db_role_setting s"
        " JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()",
        "SELECT 1, xmin::text::bigint FROM pg_database WHERE datname = current_database()",
    ]
)
TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relkind = 'r' AND relnamespace NOT IN ('pg_catalog'::regnamespace,
    'information_schema'::regnamespace)
"""
OTHERS = """
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
END = f"SELECT pg_terminate_backend(pid, 5000) {OTHERS}"
COUNT = f"SELECT count(*) {OTHERS}"
NEWEST = """
SELECT max(oid::bigint) FROM (SELECT oid FROM pg_class UNION ALL SELECT oid FROM pg_proc
    UNION ALL SELECT oid FROM pg_type UNION ALL SELECT oid FROM pg_namespace) AS o
"""
# A function in Python can change what the session holds.
PYTHON = """
SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.oid > %s AND l.lanname LIKE 'plpython%%'
"""
ADDED = """
SELECT format('DROP %%s IF EXISTS %%s CASCADE', what, name) FROM (
    SELECT 1, 'ROUTINE', oid::regprocedure::text FROM pg_proc WHERE oid > %(newest)s
    UNION ALL
    SELECT 2, CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END, oid::regclass::text
    FROM pg_class WHERE oid > %(newest)s AND relkind IN ('i', 'm', 'p', 'r', 'v')
        AND relnamespace <> 'pg_toast'::regnamespace
    UNION ALL
    SELECT 3, 'TYPE', oid::regtype::text FROM pg_type
    WHERE oid > %(newest)s AND typtype IN ('d', 'e')
    UNION ALL
    SELECT 4, 'SCHEMA', oid::regnamespace::text FROM pg_namespace
    WHERE oid > %(newest)s AND nspname !~ '^pg_'
) AS added (place, what, name) ORDER BY place
"""


# Settings and metrics; their triggers let rows be changed and added, but not all taken away.
PUT_BACK = """
WITH kept AS (SELECT * FROM jsonb_populate_recordset(NULL::{table}, %s)),
    added AS (DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM kept k WHERE k.name = t.name))
UPDATE {table} t SET ({columns}) = ROW(k.*) FROM kept k
WHERE k.name = t.name AND k IS DISTINCT FROM t
"""


class Database:
    """A copy of the template, with a session in it."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        conn.prepare_threshold = None  # DISCARD ALL takes away what psycopg has prepared
        tables = [table for (table,) in conn.execute(TABLES.encode())]
        rows = {table: self._rows(table) for table in tables}
        self.filled = {table: text for table, text in rows.items() if text}
        self.empty = [table for table in tables if table not in self.filled]
        self.state = self._state()
        (self.newest,) = conn.execute(NEWEST.encode()).fetchone()

    def put_back(self) -> bool:
        """Make it as it was when it was new; whether that could be done."""
        self.conn.autocommit = True
        self.conn.execute(END.encode())
        if self.conn.execute(COUNT.encode()).fetchone() != (0,):
            return False
        if self.conn.execute(PYTHON.encode(), [self.newest]).fetchone() != (0,):
            return False
        self.conn.execute(b"DISCARD ALL")
        if self._state() != self.state:
            for (drop,) in self.conn.execute(ADDED.encode(), {"newest": self.newest}).fetchall():
                self.conn.execute(drop.encode())
            if self._state() != self.state:
                return False
        for table, rows in self.filled.items():
            if self._rows(table) != rows:
                columns = ", ".join(json.loads(rows)[0])
                change = PUT_BACK.format(table=table, columns=columns)
                self.conn.execute(change.encode(), [rows])
                if self._rows(table) != rows:
                    return False
        some = " UNION ALL ".join(
            f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in self.empty
        )
        if changed := [table for (table,) in self.conn.execute(some.encode())]:
            self.conn.execute(f"TRUNCATE {', '.join(changed)} CASCADE".encode())
            self.state = self._state()
        return True

    def _rows(self, table: str) -> str | None:
        rows = f"SELECT json_agg(t ORDER BY t::text)::text FROM (TABLE {table} LIMIT 1000) AS t"
        return self.conn.execute(rows.encode()).fetchone()[0]

    def _state(self) -> list[tuple[int, int]]:
        return self.conn.execute(STATE.encode()).fetchall()


class Lent:
    """A database that is lent to one test after the other, made anew where need be."""

    def __init__(self, make: Callable[[], AbstractContextManager[psycopg.Connection]]) -> None:
        self.make, self.made = make, ExitStack()
        self.database: Database | None = None

    @contextmanager
    def lend(self, changes: bool = True) -> Iterator[psycopg.Connection]:
        """A session in it, for one test, which may leave changes or leaves none."""
        if self.database is None:
            self.database = Database(self.made.enter_context(self.make()))
        conn = self.database.conn
        yield conn
        idle = conn.info.transaction_status == TransactionStatus.IDLE
        try:
            kept = idle and (not changes or self.database.put_back())
        except psycopg.Error:  # the session is gone
            kept = False
        if not kept:
            self.close()

    def close(self) -> None:
        """Drop it."""
        self.database = None
        self.made.close()
