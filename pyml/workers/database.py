"""Connections of workers: named, typed, and finding names as the extension's functions do."""

import functools
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import DictRow, dict_row

from pyml import __version__, queries
from pyml.errors import BrokenEnvironment
from pyml.queries import Query

if TYPE_CHECKING:  # a notifier has no use for the numerical libraries
    from pyml.telemetry.history import Execute

Connection = psycopg.Connection[DictRow]

LOST = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a connection raises that is gone, or that the server cannot serve just now."""


def connect(dsn: str, name: str) -> Connection:
    """A new connection of a worker, which goes by a name."""
    conn = psycopg.connect(
        dsn,
        autocommit=True,
        application_name=f"{name} {platform.node()} {os.getpid()}",
        row_factory=dict_row,
        cursor_factory=psycopg.RawCursor,
    )
    # A claim is looked at after its lock was taken, and has to see what others committed.
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return conn


@functools.cache
def _typed(query: Query) -> str:
    """A statement whose parameters have the types that it says."""

    def typed(found: re.Match[str]) -> str:
        return f"{found[0]}::{query.types[int(found[1]) - 1]}" if found[1] else found[0]

    # What stands in quotes is a name or a text, whatever it looks like.
    return re.sub(r"""\$(\d+)|"[^"]*"|'[^']*'""", typed, query.text)


def run(conn: Connection, query: Query, *args: Any) -> list[DictRow]:
    """Run a named statement; its rows."""
    cursor = conn.execute(_typed(query), args, binary=True)
    return cursor.fetchall() if cursor.description else []


@contextmanager
def at_home(conn: Connection) -> Iterator["Execute"]:
    """A transaction that finds names as the extension's functions do.

    Raises
    ------
    BrokenEnvironment
        The extension is not there, or of another version than this package.
    """
    execute = functools.partial(run, conn)
    with conn.transaction():
        found = execute(queries.AT_HOME)
        if not found:
            raise BrokenEnvironment(
                f"database {conn.info.dbname} has no extension pyml",
                detail="Workers write into its tables.",
                hint="CREATE EXTENSION pyml CASCADE;",
            )
        if found[0]["version"] != __version__:
            raise BrokenEnvironment(
                f"this is pyml {__version__}, database {conn.info.dbname} has"
                f" {found[0]['version']}",
                detail="A worker has to be of the version that the database has.",
                hint="Install that version of the package where the workers run.",
            )
        execute(queries.UNMOVED)
        yield execute
