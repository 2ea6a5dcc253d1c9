"""A small fleet with models and a scan behind it, and the API server in front of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sample_fleet
from playwright.sync_api import Browser, Page, expect, sync_playwright

from installer.dashboard import api_server, find_node
from installer.process import Failure
from tests.stored import newest, put_model

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVER = EXAMPLES / "api-server"

# Paris and Berlin have models, Athens has none; what is trained in a test is Vienna's.
PARIS, BERLIN, ATHENS, VIENNA = (
    str(next(one.uuid for one in sample_fleet.FLEET if one.name == name))
    for name in ("web-paris", "archive-berlin", "meter-athens", "sensor-vienna")
)
# Short trainings: how good a model is has tests of its own. With a limit that low a
# breach is foretold.
PREPARE = f"""
SELECT ml_setup('device_shadow_history', 'device_uuid', 'timestamp', 'reported_state',
                'shadow_name', 'device-state', device_name => 'public.devices.name');
UPDATE ml_setting SET value = '3' WHERE name = 'epochs';
UPDATE ml_setting SET value = '20' WHERE name = 'n_estimators';
UPDATE ml_metric SET limit_high = 3 WHERE name = 'cpu_usage';
SELECT ml_train_forest('{PARIS}', as_of => now() - interval '1 day');
"""


@dataclass
class Fleet:
    """A database that the tests here share."""

    dsn: str
    environment: dict[str, str]
    smoked: subprocess.CompletedProcess | None = None

    def smoke(self, *options: str) -> subprocess.CompletedProcess:
        """Run sql/smoke.sql as a person does."""
        return subprocess.run(
            ["psql", "-X", *options, "-f", EXAMPLES.parent / "sql/smoke.sql"],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "PAGER": "cat", **self.environment},
        )

    def ask(self, statement: str, *args: object) -> object:
        """The single value of a statement's single row."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return conn.execute(statement, args or None).fetchone()[0]


@pytest.fixture(scope="session")
def fleet(_server, _copy) -> Iterator[Fleet]:
    where = {"PGHOST": _server.host, "PGPORT": str(_server.port), "PGUSER": _server.user}
    name = f"examples_{os.getpid()}"
    # Not conn.info.dsn, which has options of psycopg's libpq that an older psql does not know.
    there = {"host": _server.host, "port": _server.port, "user": _server.user, "dbname": name}
    with _copy(name) as conn:
        made = Fleet(psycopg.conninfo.make_conninfo(**there), where | {"PGDATABASE": name})
        sample_fleet.load(made.dsn, days=2)
        conn.execute(PREPARE)
        with trouble(conn, BERLIN):
            made.smoked = made.smoke("-v", f"device={BERLIN}")  # trains Berlin's models
        conn.execute("CALL ml_scan()")
        yield made


# As a scan writes it, in a device that has no other.
TROUBLE = """
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, summary, evidence, updated_at)
VALUES (%s, 'stuck', 'open', 'critical', 'temperature', now() - interval '3 hours',
    now() - interval '2 hours', now(), 'temperature has stood at <i>50.7</i> °C for 3 h',
    '{"readings": 3, "worst_score": -0.7, "detectors": ["stuck"]}', now())
RETURNING incident_id
"""


@contextmanager
def trouble(conn: psycopg.Connection, device: str) -> Iterator[int]:
    """The number of an incident of a device's, which is there for a while."""
    (number,) = conn.execute(TROUBLE, [device]).fetchone()
    try:
        yield number
    finally:
        for table in ("ml_incident", "ml_event"):
            conn.execute(f"DELETE FROM {table} WHERE incident_id = %s", [number])


@contextmanager
def flood(conn: psycopg.Connection) -> Iterator[list[int]]:
    """The numbers of incidents that all devices have at once, which are there for a while."""
    with ExitStack() as several:
        yield [several.enter_context(trouble(conn, str(one.uuid))) for one in sample_fleet.FLEET]


@pytest.fixture(scope="session")
def command() -> list[str]:
    """What starts the API server, built; without Node.js its tests are skipped."""
    try:
        find_node()
    except Failure as failure:
        pytest.skip(f"{failure} ({failure.fix})")
    return api_server()


def run(*command: str) -> None:
    """Run a command of the API server's; what it says is shown where it fails."""
    done = subprocess.run(command, cwd=SERVER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# A device as people may call it: everything that a URL, a page or SQL would take for its own.
ODD = "hall 3/o'clock <50%2F?>"
OF_ITS_OWN = """
CREATE TABLE telemetry (thing text, at bigint, doc jsonb);
INSERT INTO telemetry
SELECT %(odd)s, 1000 * extract(epoch FROM now() - i * interval '1 minute')::bigint,
       jsonb_build_object('system', jsonb_build_object('cpuUsage',
           CASE WHEN i < 50 THEN 99 ELSE 20 + 10 * sin(i / 30.0) + i * 7919 %% 5 END))
FROM generate_series(0, 1200) AS i;
CREATE INDEX ON telemetry (thing, at DESC);
CREATE TABLE thing (id text PRIMARY KEY, label text);
INSERT INTO thing VALUES (%(odd)s, 'Hall clock');
SELECT ml_setup('telemetry', 'thing', 'at', 'doc', device_name => 'public.thing.label');
UPDATE ml_setting SET value = '1' WHERE name = 'epochs';
UPDATE ml_setting SET value = '20' WHERE name = 'n_estimators';
UPDATE ml_metric SET limit_high = 3 WHERE name = 'cpu_usage';
SELECT ml_train_forest(%(odd)s, as_of => now() - interval '1 hour');
"""


def fill_with_odd(conn: psycopg.Connection) -> None:
    """Give a database a history whose ids are texts, and in it one device, which has a name."""
    with psycopg.ClientCursor(conn) as cursor:
        for statement in OF_ITS_OWN.split(";\n"):
            cursor.execute(statement, {"odd": ODD})


@pytest.fixture
def odd(db: psycopg.Connection) -> psycopg.Connection:
    """A database with that device alone, scanned."""
    fill_with_odd(db)
    db.execute("CALL ml_scan()")
    return db


@pytest.fixture(scope="session")
def _odd_forecast(_server, _copy) -> Iterator[psycopg.Connection]:
    with _copy(f"{_server.dbname}_odd") as conn:
        fill_with_odd(conn)
        (device,) = conn.execute("SELECT ml_uuid(%s)::text", [ODD]).fetchone()
        put_model(conn, device, newest("lstm"))
        yield conn


@pytest.fixture
def odd_forecast(_odd_forecast: psycopg.Connection) -> psycopg.Connection:
    """The same with a forecast, for tests that do no more than train and scan."""
    _odd_forecast.execute("CALL ml_scan()")
    return _odd_forecast


@contextmanager
def serving(command: list[str], **settings: str) -> Iterator[str]:
    """Run the API server, and give its address."""
    process = subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "PORT": "0", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = process.stdout.readline()
        found = re.fullmatch(r"listening on (http://\S+)\n", told)
        assert found, told + process.stderr.read()
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def serve(command: list[str]) -> Callable[..., object]:
    """Start the API server on a database of one's own: a context manager."""
    return lambda **settings: serving(command, **settings)


@pytest.fixture(scope="session")
def api(fleet: Fleet, serve: Callable[..., object]) -> Iterator[str]:
    """The address of an API server that has the fleet behind it."""
    with serve(**fleet.environment) as address:
        yield address


@pytest.fixture(scope="session")
def schemas(api: str) -> dict[str, dict]:
    """The schema of each route's 200 answer, by method and path as OpenAPI has it."""
    with urllib.request.urlopen(f"{api}/docs/json") as answer:
        openapi = json.load(answer)
    return {
        f"{method.upper()} {path}": next(iter(of["responses"]["200"]["content"].values()))["schema"]
        for path, methods in openapi["paths"].items()
        for method, of in methods.items()
    }


# ---- a browser ---------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A first statement of a new connection takes its time on a busy machine.
expect.set_options(timeout=15_000)
PHONE, TABLET = {"width": 390, "height": 844}, {"width": 880, "height": 1180}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; without it its tests are skipped."""
    if not CHROMIUM:
        pytest.skip("there is no chromium here: sudo apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page of the dashboard; a script's error or a foreign address fails the test."""
    contexts, wrong = [], []

    def visit(address: str, **options) -> Page:
        contexts.append(browser.new_context(timezone_id="Asia/Tokyo", **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda one: (
                one.url.startswith((address.split("/#")[0], "data:")) or wrong.append(one.url)
            ),
        )
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def ready(page: Page) -> Page:
    """The page, when it shows what it was opened for."""
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    return page


def refresh(page: Page) -> None:
    """Have the page ask again, as it does when the network is back."""
    page.evaluate("window.dispatchEvent(new Event('online'))")
