"""Devices with models that need no training, roles of each level, and servers to hurt."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psycopg
import pytest

from installer.cluster import Cluster, home
from installer.postgres import find_postgres
from installer.process import HERE
from tests.stored import newest, put_model

LEVELS = ("nobody", "read", "act", "train", "notify")
# Lets a backend have so many bytes more, and no others.
LIMIT = """
CREATE FUNCTION limit_memory(more bigint) RETURNS void LANGUAGE plpython3u AS $$
    import resource
    pages = int(open('/proc/self/statm').read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, -1))
$$
"""


@pytest.fixture
def add_modelled(db: psycopg.Connection, add_device: Callable[..., str]) -> Callable[..., str]:
    """Make a device that has both models, untrained; gives its uuid."""

    def add(readings: int = 600) -> str:
        device = add_device(readings=readings)
        for kind in ("forest", "lstm"):
            put_model(db, device, newest(kind))
        return device

    return add


@pytest.fixture
def roles(db: psycopg.Connection) -> Iterator[dict[str, str]]:
    """A role for each level, by level; they may read the history as well."""
    names = {level: f"pyml_{os.getpid()}_{level}" for level in LEVELS}
    for level, role in names.items():
        db.execute(f"CREATE ROLE {role} LOGIN")
        if level != "nobody":
            db.execute("SELECT ml_grant(%s, %s)", [role, level])
            db.execute(f"GRANT SELECT ON device_shadow_history TO {role}")
    yield names
    for role in names.values():
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


@pytest.fixture
def connect(
    dsn: str, roles: dict[str, str]
) -> Callable[[str], AbstractContextManager[psycopg.Connection]]:
    """A session of the role of a level."""
    return lambda level: psycopg.connect(dsn, user=roles[level], autocommit=True)


class Server:
    """A server of our own, to be hurt: shares its programs with the tests' server, no data."""

    def __init__(self, name: str) -> None:
        self.cluster = Cluster(home(), f"{name}-{os.getpid()}", find_postgres())
        self.cluster.start()
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            for setting in ("fsync", "synchronous_commit"):  # nobody cuts the power
                conn.execute(f"ALTER SYSTEM SET {setting} = off")
            conn.execute("SELECT pg_reload_conf()")

    def dsn(self, database: str = "postgres") -> str:
        """How to connect to it."""
        return self.cluster.dsn(database)

    def database(self, name: str = "fleet") -> str:
        """Make a database with the user's tables and the extension; how to connect to it."""
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(self.dsn(name), autocommit=True) as conn:
            conn.execute((HERE / "demo/history.sql").read_bytes())
            conn.execute("CREATE EXTENSION pyml CASCADE")
        return self.dsn(name)

    def log(self) -> str:
        """What it has written to its log."""
        return self.cluster.log.read_text()

    def start(self) -> None:
        """Start it anew after it was stopped."""
        self.cluster.control(
            "-p", self.cluster.bindir / "postgres", "-w", "start", "-l", self.cluster.log
        )

    def connect(self, database: str = "fleet") -> psycopg.Connection:
        """A session, as soon as it takes one again."""
        for _ in range(300):
            try:
                return psycopg.connect(self.dsn(database), autocommit=True)
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise TimeoutError("the server takes no session")

    def remove(self) -> None:
        """Stop it and take away what it has left."""
        self.cluster.stop()
        shutil.rmtree(self.cluster.place)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for the tests of one file."""
    server = Server(request.path.stem.removeprefix("test_"))
    yield server
    server.remove()
