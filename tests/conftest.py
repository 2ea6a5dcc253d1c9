"""The database that each test gets: a clone of one in which the extension is installed."""

import os
from pathlib import Path

import psycopg
import pytest
from pytest_postgresql import factories

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime is what tests compare with

HISTORY = Path(__file__).parents[1] / "demo" / "history.sql"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the long form of the tests that have a short one"
    )
    parser.addoption(
        "--regenerate", action="store_true", help="write anew what tests compare with, then review"
    )


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether a test shall take its long form."""
    return bool(request.config.getoption("--long"))


def _fill(**connection: str | int) -> None:
    """Make the template: the user's tables, then the extension, as a user would."""
    with psycopg.connect(**{**connection, "autocommit": True}) as conn:
        conn.execute(HISTORY.read_bytes())
        conn.execute("CREATE EXTENSION pyml CASCADE")


_server = factories.postgresql_noproc(
    host=os.environ.get("PYML_TEST_HOST"),
    port=os.environ.get("PYML_TEST_PORT"),
    user=os.environ.get("PYML_TEST_USER"),
    dbname=f"pyml_{os.getpid()}",  # several runs can share one server
    load=[_fill],
)
_connection = factories.postgresql("_server")


@pytest.fixture(scope="session")
def _server_is_known() -> None:
    if "PYML_TEST_HOST" not in os.environ:
        pytest.exit("the tests need the server that install.py makes: python3 install.py test", 4)


@pytest.fixture
def db(_server_is_known: None, _connection: psycopg.Connection) -> psycopg.Connection:
    """A superuser's connection, in autocommit, to a database of the test's own."""
    _connection.autocommit = True
    return _connection


@pytest.fixture
def dsn(db: psycopg.Connection) -> str:
    """How to connect to the test's database once more."""
    return db.info.dsn
