"""What the API server tells as it happens, and what it tells Prometheus."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import jsonschema
import psycopg
import pytest

from .conftest import ATHENS, VIENNA, trouble
from .test_api_server import ask, environment

pytestmark = pytest.mark.slow

TOLD = """
WITH told AS (
    INSERT INTO ml_event (incident_id, device_uuid, event, happened_at, replayed, written_at)
    VALUES (%s, %s, %s, now(), %s, now() - %s * interval '1 second') RETURNING event_id)
SELECT event_id, CASE WHEN %s THEN pg_notify('pyml', '{}') END FROM told
"""


class Stream:
    """Server-sent events, read one after the other."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def next(self) -> dict[str, str]:
        """The fields of the next event; what is no event is passed over."""
        found: dict[str, str] = {}
        deadline = time.monotonic() + 60
        while True:
            line = self.answer.readline().decode()
            assert line, "the stream has ended"
            assert time.monotonic() < deadline, "waited in vain"
            name, _, value = line.rstrip("\n").partition(": ")
            if name in ("id", "event", "data"):
                found[name] = value
            elif line == "\n" and found:
                return found

    def numbers(self, count: int) -> list[int]:
        """The numbers of the next events."""
        return [int(self.next()["id"]) for _ in range(count)]


@contextmanager
def listening(address: str, last: int | None = None) -> Iterator[Stream]:
    """Events as they come; with the number of the last one seen, first what was missed."""
    headers = {"Accept-Encoding": "gzip"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    request = urllib.request.Request(f"{address}/events", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Content-Encoding"] is None
        assert answer.readline() == b"retry: 3000\n"
        yield Stream(answer)


@pytest.fixture(scope="module")
def conn(_server, _copy) -> Iterator[psycopg.Connection]:
    """A database from which no event is deleted."""
    with _copy(f"{_server.dbname}_events") as conn:
        yield conn


@pytest.fixture(scope="module")
def address(conn: psycopg.Connection, serve) -> Iterator[str]:
    with serve(**environment(conn)) as address:
        yield address


@pytest.fixture(scope="module")
def stuck(conn: psycopg.Connection) -> Iterator[int]:
    """The number of an incident of Vienna's."""
    with trouble(conn, VIENNA) as number:
        yield number


@pytest.fixture
def tell(conn: psycopg.Connection, stuck: int):
    """Have something happen to the incident, and get the event's number."""

    def tell(replayed: bool = False, ago: int = 0, conn=conn, notify: bool = True) -> int:
        happened = [stuck, VIENNA, "escalated", replayed, ago, notify]
        return conn.execute(TOLD, happened).fetchone()[0]

    return tell


def test_what_happens_is_told_as_it_happens(address, stuck, schemas):
    with listening(address) as first, listening(address) as second:
        assert ask(address, f"/incidents/{stuck}/acknowledge", "POST", "{}")[0] == 200
        for stream in (first, second):
            told = stream.next()
            document = json.loads(told["data"])
            jsonschema.validate(document, schemas["GET /events"], jsonschema.Draft202012Validator)
            assert told["event"] == document["event"] == document["state"] == "acknowledged"
            assert document["incident_id"] == stuck
            assert document["device_id"] == VIENNA
            assert int(told["id"]) == document["event_id"]


def test_a_notification_is_not_waited_for_and_saves_waiting(address, tell):
    with listening(address) as stream:
        silent = tell(notify=False)
        assert stream.numbers(1) == [silent]  # asked for every few seconds
        told = tell()
        assert stream.numbers(1) == [told]


def test_what_was_missed_is_told_first_and_once(address, tell):
    old = [tell(ago=3600) for _ in range(3)]
    with listening(address, old[0]) as stream:
        assert stream.numbers(2) == old[1:]
        new = [tell(), tell()]
        assert stream.numbers(2) == new
    with listening(address, new[0]) as stream:
        assert stream.numbers(1) == [new[1]]
        last = tell()
        assert stream.numbers(1) == [last]


def test_an_event_that_is_committed_late_is_told(address, conn, tell):
    """Numbers are given before the commit: a later one may be there first."""
    with listening(address) as stream, psycopg.connect(conn.info.dsn) as slow:
        late = tell(conn=slow)
        early = tell()
        assert stream.numbers(1) == [early]
        slow.commit()
        assert stream.numbers(1) == [late]
    with listening(address, early) as stream:
        assert stream.numbers(1) == [late]


def test_a_replay_is_not_told(address, tell):
    with listening(address) as stream:
        tell(replayed=True)
        after = tell()
        assert stream.numbers(1) == [after]


def test_a_lost_connection_loses_no_event(address, conn, tell):
    with listening(address) as stream:
        tell()
        stream.next()
        found = conn.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND (query LIKE '%ml_event%' OR query = 'LISTEN pyml')"
        )
        assert found.fetchone()[0] > 0
        missed = [tell(), tell()]
        assert stream.numbers(2) == missed


def test_who_leaves_is_not_told_any_more_and_others_are(address, tell):
    with listening(address) as stays:
        with listening(address):
            pass
        told = tell()
        assert stays.numbers(1) == [told]


@pytest.mark.parametrize("last", ["yesterday", "-1"])
def test_a_number_that_is_none_is_refused(address, last):
    assert ask(address, "/events", Last_Event_ID=last)[0] == 400


def test_more_than_a_page_of_events_is_caught_up_with(address, conn, stuck, tell):
    """The last that asks this server, which goes on to tell them."""
    seen = tell(ago=3600)
    conn.execute(
        "INSERT INTO ml_event (incident_id, device_uuid, event, happened_at, replayed, written_at)"
        " SELECT %s, %s, 'escalated', now(), false, now() - interval '1 hour'"
        " FROM generate_series(1, 2500)",
        [stuck, VIENNA],
    )
    with listening(address, seen) as stream:
        numbers = stream.numbers(2500)
    assert numbers == sorted(set(numbers))


def test_where_nothing_ever_happened_it_listens_and_tells_no_age_of_a_scan(db, serve):
    with serve(**environment(db)) as address:
        _, text = ask(address, "/metrics")
        with listening(address) as stream, trouble(db, VIENNA) as n:
            ask(address, f"/incidents/{n}/resolve", "POST", "{}")
            assert stream.next()["event"] == "resolved"
    told = samples(text)
    assert told['pyml_devices{status="ok"}'] == 0
    assert not any(name.startswith("pyml_last_scan") for name in told)


# ---- Prometheus --------------------------------------------------------------------


def samples(text: str) -> dict[str, float]:
    """The values of a text as Prometheus reads it, by name and labels."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_prometheus_is_told_what_the_views_say(api, fleet):
    with psycopg.connect(fleet.dsn, autocommit=True) as conn, trouble(conn, ATHENS):
        status, text = ask(api, "/metrics")
        told = samples(text)
        health = fleet.ask("SELECT to_jsonb(h) FROM ml_fleet_health h")
        counts = fleet.ask(
            'SELECT jsonb_object_agg(format(\'{kind="%s",severity="%s",state="%s"}\','
            " kind, severity, state), n) FROM (SELECT kind, severity, state, count(*) AS n"
            " FROM ml_incidents WHERE state <> 'resolved' GROUP BY 1, 2, 3) AS i"
        )
    assert status == 200
    for word in ("critical", "failing", "warning", "silent", "learning", "untrained", "ok"):
        assert told[f'pyml_devices{{status="{word}"}}'] == health[word]
    unresolved = {k: v for k, v in told.items() if k.startswith("pyml_unresolved_incidents")}
    assert unresolved == {f"pyml_unresolved_incidents{key}": n for key, n in counts.items()}
    assert any('kind="stuck",severity="critical",state="open"' in key for key in unresolved)
    assert 0 <= told["pyml_last_scan_seconds"] <= told["pyml_oldest_scan_seconds"] < 3600
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            assert line.endswith(" gauge")
