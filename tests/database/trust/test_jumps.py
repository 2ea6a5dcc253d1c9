"""Errors at awkward moments and places: the session goes on, and the next call answers.

PL/Python turns an error of a statement into an exception. One that it does not catch jumps over
Python's frames, and a later call crashes.
"""

import random
from contextlib import suppress

import psycopg
import pytest

pytestmark = pytest.mark.slow

# The functions that answer from stored models, but for trainings.
STATEMENTS = (
    "SELECT ml_detect('{device}')",
    "SELECT * FROM ml_score('{device}', now() - interval '1 hour', now())",
    "SELECT ml_forecast('{device}')",
    "SELECT * FROM ml_predict('{device}', 'system.cpuUsage')",
    "SELECT ml_chart('{device}')",
    "CALL ml_scan('{device}')",
    "SELECT * FROM ml_doctor()",
)
# Functions of a user that call one of them, for wherever PostgreSQL lets one stand.
PLACES = """
CREATE TABLE place (device uuid, seen int);
CREATE FUNCTION look(device uuid) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN RETURN jsonb_array_length(ml_detect(device, 1) -> 'anomalies'); END $$;
CREATE FUNCTION look_at_row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM ml_detect(NEW.device, 1); RETURN NEW; END $$;
"""


class Survivor:
    """A session that has to be the same one to the end."""

    def __init__(self, dsn, device):
        self.device = device
        self.session = psycopg.connect(dsn, autocommit=True)
        self.pid = self.session.info.backend_pid

    def ask(self, statement, *args):
        return self.session.execute(statement, args or None)

    def fails(self, statement, *sqlstates):
        """Run what has to fail, as it has to; then ml_detect, twice."""
        with pytest.raises(psycopg.Error) as caught:
            self.ask(statement)
        assert caught.value.sqlstate in sqlstates, (statement, caught.value)
        assert "Traceback" not in (caught.value.diag.context or ""), caught.value.diag.context
        self.answers()

    def take_time(self):
        """End the timeout, which may come before this statement of its has ended, too."""
        while True:
            with suppress(psycopg.errors.QueryCanceled):
                return self.ask("RESET statement_timeout")

    def answers(self):
        for _ in range(2):
            found = self.ask("SELECT ml_detect(%s) ->> 'analyzed_points'", self.device).fetchone()
            assert int(found[0]) > 0
        assert self.ask("SELECT pg_backend_pid()").fetchone() == (self.pid,)


@pytest.fixture
def survivor(dsn, add_modelled):
    found = Survivor(dsn, add_modelled(400))
    with found.session:
        yield found


def test_a_timeout_at_any_moment(survivor, long):
    moments = random.Random(7)
    late = 0
    for statement in STATEMENTS:
        text = statement.format(device=survivor.device)
        survivor.ask(text)
        for _ in range(40 if long else 6):
            survivor.ask(f"SET statement_timeout = {moments.randint(1, 25)}")
            try:
                survivor.ask(text)
            except psycopg.errors.QueryCanceled as error:
                assert "Traceback" not in (error.diag.context or "")  # noqa: PT017
                late += 1
            survivor.take_time()
    assert late > 0
    survivor.answers()


def test_functions_in_awkward_places(survivor):
    ask, device = survivor.ask, survivor.device
    ask(PLACES)
    nobody = "00000000-0000-0000-0000-000000000000"
    for make, drop in (
        ("CREATE INDEX place_index ON place (look(device))", "DROP INDEX place_index"),
        (
            "ALTER TABLE place ADD CONSTRAINT checked CHECK (look(device) >= 0)",
            "ALTER TABLE place DROP CONSTRAINT checked",
        ),
        (
            "CREATE TRIGGER looks BEFORE INSERT ON place FOR EACH ROW"
            " EXECUTE FUNCTION look_at_row()",
            "DROP TRIGGER looks ON place",
        ),
        (
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON place DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION look_at_row()",
            "DROP TRIGGER late ON place",
        ),
    ):
        ask(make)
        ask("INSERT INTO place VALUES (%s)", device)
        survivor.fails(f"INSERT INTO place VALUES ('{nobody}')", "ML002")
        ask(drop)
    assert ask("SELECT count(*) FROM place").fetchone() == (4,)


def test_functions_in_awkward_transactions(survivor):
    ask, device = survivor.ask, survivor.device
    ask("BEGIN")
    with pytest.raises(psycopg.errors.DivisionByZero):
        ask("SELECT 1 / 0")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        ask("SELECT ml_detect(%s)", device)
    ask("ROLLBACK")
    survivor.answers()
    ask("BEGIN; SAVEPOINT here")
    with pytest.raises(psycopg.Error):
        ask("SELECT ml_detect('00000000-0000-0000-0000-000000000000')")
    ask("ROLLBACK TO here")
    survivor.answers()
    ask("DECLARE c CURSOR FOR SELECT (_ml_score(%s, '2000-01-01', 'infinity')).*", device)
    ask("FETCH 2 FROM c")
    with pytest.raises(psycopg.errors.DivisionByZero):
        ask("SAVEPOINT inner_one; SELECT 1 / 0")
    ask("ROLLBACK TO here")
    survivor.answers()
    ask("COMMIT")
    ask("SELECT _ml_score(%s, '2000-01-01', 'infinity') LIMIT 1", device)
    survivor.answers()
    ask("DISCARD ALL")
    survivor.answers()
    ask("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
    survivor.answers()
    ask("COMMIT")


def test_a_history_that_calls_ml_detect(survivor):
    """ml_detect within a statement of ml_detect, without end: the stack's limit comes first."""
    ask = survivor.ask
    ask(PLACES)
    ask(
        "CREATE VIEW looped AS SELECT h.* FROM device_shadow_history h"
        " WHERE look(h.device_uuid) >= 0"
    )
    ask("UPDATE ml_setting SET value = 'public.looped' WHERE name = 'history_table'")
    for depth in ("100kB", "1MB", "2MB"):
        ask(f"SET max_stack_depth = '{depth}'")
        with pytest.raises(psycopg.Error) as caught:
            ask("SELECT ml_detect(%s)", survivor.device)
        assert caught.value.sqlstate == "54001", caught.value
        assert survivor.session.info.backend_pid == survivor.pid
    ask("UPDATE ml_setting SET value = 'public.device_shadow_history' WHERE name = 'history_table'")
    survivor.answers()


def test_a_function_called_from_deep_down(survivor):
    ask = survivor.ask
    ask(
        "CREATE FUNCTION down(n int, device uuid) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN"
        " IF n = 0 THEN RETURN ml_detect(device, 1); END IF; RETURN down(n - 1, device); END $$"
    )
    low, high = 0, 20_000
    while high - low > 1:  # to where it just fails, from both sides
        depth = (low + high) // 2
        try:
            ask("SELECT down(%s, %s)", depth, survivor.device)
            low = depth
        except psycopg.errors.StatementTooComplex:
            high = depth
    assert low > 10
    survivor.answers()


def test_a_history_whose_columns_change_under_the_session(survivor):
    ask = survivor.ask
    ask(
        "ALTER TABLE device_shadow_history ALTER COLUMN reported_state TYPE bytea"
        " USING convert_to(reported_state::text, 'UTF8')"
    )
    with pytest.raises(psycopg.Error) as caught:
        ask("SELECT ml_detect(%s)", survivor.device)
    assert caught.value.sqlstate == "ML006"
    for change in (
        "ALTER COLUMN reported_state TYPE json USING convert_from(reported_state, 'UTF8')::json",
        "ALTER COLUMN reported_state TYPE jsonb",
        "ALTER COLUMN timestamp TYPE timestamptz USING timestamp AT TIME ZONE 'UTC'",
        "ALTER COLUMN timestamp TYPE timestamp USING timestamp AT TIME ZONE 'UTC'",
        "ADD COLUMN more int",
    ):
        ask(f"ALTER TABLE device_shadow_history {change}")
        survivor.answers()
    ask("ALTER TABLE device_shadow_history RENAME reported_state TO other")
    with pytest.raises(psycopg.Error) as caught:
        ask("SELECT ml_detect(%s)", survivor.device)
    assert caught.value.sqlstate == "ML006"
    ask("ALTER TABLE device_shadow_history RENAME other TO reported_state")
    survivor.answers()


SAY = """
CREATE FUNCTION say(words text) RETURNS text LANGUAGE plpython3u AS $$
    from pyml.server import backend
    try: backend.notice(chr(CODE) if words == 'odd' else words)
    except plpy.SPIError: return 'refused'
    return 'told'
$$
"""


def test_a_notice_that_cannot_be_encoded(survivor):
    """A notice that the client cannot read, or that is no text, does not end the session."""
    survivor.ask(SAY.replace("CODE", "0xdcc3"))  # half of a pair, which no encoding has
    survivor.answers()
    told = []
    survivor.session.add_notice_handler(lambda diagnosis: told.append(diagnosis.message_primary))
    survivor.ask("SET client_encoding = 'LATIN1'")
    for words, outcome in (("é", "told"), (None, "told"), ("odd", "refused")):
        given = "convert_from('\\xe29883', 'UTF8')" if words is None else f"'{words}'"
        for _ in range(2):
            assert survivor.ask(f"SELECT say({given})").fetchone()[0] == outcome
            survivor.answers()
    assert told == ["é", "é"]


def test_a_database_whose_encoding_lacks_a_character(db, dsn, add_modelled):
    name = f"{db.info.dbname}_latin1"
    db.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with psycopg.connect(dsn, dbname=name, autocommit=True) as session:
            session.execute("CREATE EXTENSION pyml CASCADE")
            session.execute(SAY.replace("CODE", "0x2603"))
            session.execute("SELECT count(*) FROM ml_doctor()")
            for _ in range(3):
                assert session.execute("SELECT say('odd')").fetchone() == ("told",)
                assert session.execute("SELECT say('é')").fetchone() == ("told",)
    finally:
        db.execute(f"DROP DATABASE {name}")
