"""Devices for the tests of the SQL functions, written with SQL as an agent's rows arrive."""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from pyml.following import finders
from pyml.workers import job

Device = str
# The kinds of models that a training of a forest makes, in order.
TRAINED = ["forest", *(finder.kind for finder in finders())]
HISTORY = Path(__file__).parents[2] / "demo" / "history.sql"
_numbers = itertools.count()
AGO = "SELECT now() - make_interval(mins => %s)"

# A day's rhythm with noise that depends on the row's number alone, so that a test is repeatable.
ROWS = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, jsonb_build_object(
        'health', jsonb_build_object('status', 'healthy', 'uptime', i * 60),
        'system', jsonb_build_object(
            'cpuUsage', round((30 + 12 * sin(i / 229.0) + 4 * noise)::numeric, 2),
            'memoryUsage', round((7000 + 900 * sin(i / 229.0) + 60 * other)::numeric, 1),
            'memoryTotal', 16320,
            'diskUsage', 200 + i / 5000.0, 'diskTotal', 476,
            'temperature', round((45 + 4 * sin(i / 229.0) + other)::numeric, 1),
            'network', jsonb_build_object('rxBytes', i * 60000 + (4000 * noise)::int,
                                          'txBytes', i * 20000 + (2000 * other)::int))),
    date_trunc('second', now() AT TIME ZONE 'UTC')
        - (%(readings)s - i) * make_interval(secs => %(interval)s)
FROM (
    SELECT i, sin(i * 12.9898) * 43758.5453 - floor(sin(i * 12.9898) * 43758.5453) - 0.5 AS noise,
           sin(i * 78.233) * 12543.123 - floor(sin(i * 78.233) * 12543.123) - 0.5 AS other
    FROM generate_series(1, %(readings)s) AS i) AS step
"""


@pytest.fixture(autouse=True)
def _disconnected() -> Iterator[None]:
    """Close what a worker in this process has opened: it keeps its connections."""
    yield
    job.disconnect()


@pytest.fixture
def add_device(db: psycopg.Connection) -> Callable[..., Device]:
    """Make a device with a quiet history that ends now; gives its uuid."""

    def add(readings: int = 3000, interval: float = 60) -> Device:
        device = db.execute(
            "INSERT INTO devices (uuid, name) VALUES (gen_random_uuid(), 'test')"
            " RETURNING uuid::text"
        ).fetchone()[0]
        db.execute(ROWS, {"device": device, "readings": readings, "interval": interval})
        return device

    return add


@pytest.fixture
def device(add_device: Callable[..., Device]) -> Device:
    """Fifty hours of quiet minutes."""
    return add_device()


@pytest.fixture
def train(db: psycopg.Connection, dsn: str) -> Iterator[Callable[..., int | None]]:
    """Train a model as a worker of a fleet does. Without a field it is a forest.

    Gives the id of the one then in force; None where that is the fleet's.

    For tests that need a model and do not look at how it came about: a worker has the libraries
    loaded after its first training, where the backend of each test would take seconds to load them.
    """

    def train(device: Device, field: str = "") -> int | None:
        model = (device, "lstm" if field else "forest", field)
        with job.at_home(job.connection(dsn)) as execute:
            job._train(execute, execute, model, time.monotonic(), lambda: None)
        found = db.execute(
            "SELECT model_id FROM ml_model WHERE is_current"
            " AND device_uuid::text = %s AND kind = %s AND field = %s",
            model,
        ).fetchone()
        return found[0] if found else None

    yield train
    job.disconnect()


@pytest.fixture
def one(db: psycopg.Connection) -> Callable[..., object]:
    """The single value of a statement's single row."""

    def value(statement: str, *args: object) -> object:
        return db.execute(statement, args).fetchone()[0]

    return value


@pytest.fixture
def forests_only(db: psycopg.Connection) -> None:
    """Small forests, and no forecasts."""
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")


@pytest.fixture
def trained(
    db: psycopg.Connection, one: Callable[..., object], add_device: Callable[..., Device]
) -> Device:
    """A device of eighty hours, trained as of five hours ago."""
    device = add_device(readings=4800)
    db.execute("SELECT ml_train_forest(%s, as_of => %s)", [device, one(AGO, 300)])
    return device


@pytest.fixture
def scan(db: psycopg.Connection, one: Callable[..., object]) -> Callable[..., None]:
    """Scans of the past, at so many minutes before now."""

    def scans(*minutes: int) -> None:
        for ago in minutes:
            db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
            failed = db.execute("SELECT error FROM ml_scan_state WHERE outcome = 'failed'")
            assert failed.fetchall() == []

    return scans


@pytest.fixture
def refused(db: psycopg.Connection) -> Callable[..., psycopg.errors.Diagnostic]:
    """What a statement that has to fail says, checked for the form that every refusal has."""

    def diagnosis(statement: str, *args: object, sqlstate: str) -> psycopg.errors.Diagnostic:
        alone = db.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with pytest.raises(psycopg.Error) as caught, nullcontext() if alone else db.transaction():
            db.execute(statement, args)
        said = caught.value.diag
        assert said.sqlstate == sqlstate, said.message_primary
        assert said.message_detail
        assert said.message_hint
        # Whoever types it may not have the extension's schema on the search_path.
        assert not re.search(r"(SELECT|FROM|CALL|UPDATE|INTO) ml_", said.message_hint)
        assert "Traceback" not in (said.context or "")
        assert "plpy" not in said.message_primary
        return said

    return diagnosis


@pytest.fixture(scope="module")
def make_database(_server_is_known: None) -> Iterator[Callable[[str], str]]:
    """Make a database with options of its own, the user's tables and the extension; its dsn."""
    server = psycopg.conninfo.make_conninfo(
        host=os.environ["PYML_TEST_HOST"],
        port=os.environ["PYML_TEST_PORT"],
        user=os.environ["PYML_TEST_USER"],
        dbname="postgres",
        client_encoding="UTF8",
    )
    made: list[str] = []

    def make(options: str) -> str:
        name = f"pyml_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} {options}".encode())
        made.append(name)
        dsn = psycopg.conninfo.make_conninfo(server, dbname=name)
        if "TEMPLATE template0" in options:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(HISTORY.read_bytes())
                conn.execute("CREATE EXTENSION pyml CASCADE")
        return dsn

    yield make
    with psycopg.connect(server, autocommit=True) as admin:
        for name in made:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
