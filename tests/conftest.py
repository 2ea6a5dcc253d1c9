"""The database that each test gets: a clone of one in which the extension is installed."""

import gc
import os
import shlex
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor

# Before any test loads numpy: it keeps BLAS on one thread, where two would wait for each other.
import pyml  # noqa: F401
from tests.databases import Lent

# onnxruntime, which tests compare with, else reports its use to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

HISTORY = Path(__file__).parents[1] / "demo" / "history.sql"
EXAMPLES = "tests/examples/"
SLOW = ("slow", "server", "browser")  # marks of what --quick leaves out
# Fixtures whose tests have a mark by that: what starts a service waits for it.
MARKED = {"server": "server", "browser": "browser", "broker": "slow", "start": "slow"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the long form of the tests that have a short one"
    )
    parser.addoption(
        "--regenerate", action="store_true", help="write anew what tests compare with, then review"
    )
    parser.addoption(
        "--quick", action="store_true", help=f"leave out what is marked {', '.join(SLOW)}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not asked for; begin with the files that take longest, as they look."""
    for item in items:
        for fixture in MARKED.keys() & set(item.fixturenames):
            item.add_marker(MARKED[fixture])
    slow = {item for item in items if any(map(item.get_closest_marker, SLOW))}
    left_out = slow if config.getoption("quick") else set()
    if not config.getoption("long"):
        left_out |= {item for item in items if item.get_closest_marker("long")}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
    seconds: Counter[str] = Counter()
    for item in items:
        takes = 20 if item.get_closest_marker("server") else 6 if item in slow else 1
        seconds[_together(item.nodeid)] += takes
    items.sort(key=lambda item: -seconds[_together(item.nodeid)])


def _together(nodeid: str) -> str:
    """What runs in one process: a file, and all examples, which share a fleet."""
    file = nodeid.partition("::")[0]
    return EXAMPLES if file.startswith(EXAMPLES) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from xdist.scheduler import LoadFileScheduling

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = _together
    return scheduler


# To see a failure by hand --------------------------------------------------------------

# What was sent to a server in this test, by whichever connection.
_sent: deque[tuple[str, object]] = deque(maxlen=12)
LONGEST = 1500
_execute = psycopg.Cursor.execute


def _noted(self: psycopg.Cursor, query: object, params: object = None, **options: object) -> object:
    if isinstance(query, str):
        _sent.append((query, params))
    return _execute(self, query, params, **options)


psycopg.Cursor.execute = _noted


def _as_sql(text: str, params: object) -> str:
    """A statement with its parameters in place, as psql takes it."""
    try:
        if isinstance(params, Mapping):
            text %= {name: psycopg.sql.Literal(one).as_string() for name, one in params.items()}
        elif params:
            text %= tuple(psycopg.sql.Literal(one).as_string() for one in params)
    except Exception:  # placeholders of another kind: shown beside it
        text += f"  -- {params!r}"
    text = " ".join(text.split()).rstrip(";")
    return (text if len(text) <= LONGEST else f"{text[:LONGEST]} …") + ";"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _sent.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and report.when != "teardown":
        again = f"python3 install.py test {shlex.quote(item.nodeid)}"
        statements = [_as_sql(*one) for one in _sent]
        shown = [again, *(["-- and in psql, on a database of your own:"] if statements else [])]
        report.sections.append(("to see it by hand", "\n".join([*shown, *statements])))
    return report


# What is left open ----------------------------------------------------------------------


_left_in_workers: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take what a process of a parallel run has to say at its end."""
    _left_in_workers.extend(getattr(node, "workeroutput", {}).get("left open", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where the run leaves something open that nobody will close.

    What is thrown away while tests run fails the test at hand; what is left to the end of the
    process would be told on its standard error, and the run would have passed.
    """
    left: list[str] = []
    sys.unraisablehook = lambda told: left.append(f"{told.exc_value!r} in {told.object!r}")
    gc.collect()
    sys.unraisablehook = sys.__unraisablehook__
    held = [one for one in gc.get_objects() if issubclass(type(one), psycopg.Connection)]
    left += [f"{one!r}" for one in held if not one.closed]
    if hasattr(session.config, "workeroutput"):  # one process of several: the first one tells
        session.config.workeroutput["left open"] = left
        return
    left += _left_in_workers
    if left:
        print("\nleft open:", *left, sep="\n  ", file=sys.stderr)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether a test shall take its long form."""
    return bool(request.config.getoption("--long"))


def _fill(**connection: str | int) -> None:
    """Make the template: the user's tables, then the extension, as a user would.

    Without the index of the states, in which nothing of pyml looks: it takes two fifths of what a
    row costs. The servers and the databases that tests make by themselves have it.
    """
    with psycopg.connect(**{**connection, "autocommit": True}) as conn:
        conn.execute(HISTORY.read_bytes())
        conn.execute("DROP INDEX device_shadow_history_state_idx")
        conn.execute("CREATE EXTENSION pyml CASCADE")


_server = factories.postgresql_noproc(
    host=os.environ.get("PYML_TEST_HOST"),
    port=os.environ.get("PYML_TEST_PORT"),
    user=os.environ.get("PYML_TEST_USER"),
    dbname=f"pyml_{os.getpid()}",  # several runs can share one server
    load=[_fill],
)


@pytest.fixture(scope="session")
def _server_is_known() -> None:
    if "PYML_TEST_HOST" not in os.environ:
        pytest.exit("the tests need the server that install.py makes: python3 install.py test", 4)


Copy = Callable[[str], AbstractContextManager[psycopg.Connection]]


@pytest.fixture(scope="session")
def _copy(_server_is_known: None, _server: NoopExecutor) -> Iterator[Copy]:
    """Make a database of a name from the template, connect to it, and drop it in the end."""
    where = {"host": _server.host, "port": _server.port, "user": _server.user, "autocommit": True}

    @contextmanager
    def copy(name: str) -> Iterator[psycopg.Connection]:
        # File by file, which takes half of what block by block takes. As bytes: not a test's own.
        template = f"{_server.template_dbname} STRATEGY file_copy"
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        try:
            with closing(psycopg.connect(**where, dbname=name)) as conn:
                yield conn
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    with psycopg.connect(**where, dbname="postgres") as server:
        yield copy


@pytest.fixture(scope="session")
def _lent(_server: NoopExecutor, _copy: Copy) -> Iterator[Lent]:
    """The database that tests have in turn."""
    lent = Lent(lambda: _copy(_server.dbname))
    yield lent
    lent.close()


@pytest.fixture
def _fresh(_server: NoopExecutor, _copy: Copy) -> Iterator[psycopg.Connection]:
    """A connection to a database that nobody has had."""
    with _copy(f"{_server.dbname}_fresh") as conn:
        yield conn


@pytest.fixture
def db(request: pytest.FixtureRequest, long: bool) -> Iterator[psycopg.Connection]:
    """A superuser's connection, in autocommit, to a database of the test's own.

    The test before may have had both, and what it changed is put back; not with `--long`, and not
    for a test that is marked `fresh`. For one that is marked `rolled_back`: in a transaction that
    leaves nothing behind.
    """
    rolled_back = request.node.get_closest_marker("rolled_back")
    if not rolled_back and (long or request.node.get_closest_marker("fresh")):
        yield request.getfixturevalue("_fresh")
        return
    with request.getfixturevalue("_lent").lend(changes=not rolled_back) as conn:
        if rolled_back:
            with conn.transaction(force_rollback=True):
                yield conn
        else:
            yield conn


@pytest.fixture
def dsn(db: psycopg.Connection) -> str:
    """How to connect to the test's database once more."""
    return db.info.dsn
