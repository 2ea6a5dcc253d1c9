"""After ALTER SCHEMA … RENAME nothing is looked up in what now bears the old name."""

import re

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyml.workers import job
from tests.stored import newest, put_model

from .test_privileges import ACT, READ, TRAIN

HOME = '"odd schema"'
# Everything that has a name in the extension, as somebody else makes it: each notes its call.
SPY = f"""
CREATE TABLE seen (what text); CREATE FUNCTION {HOME}.spy() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.seen VALUES (current_query()); RETURN true; END $$;
"""
ROUTINES = """
SELECT p.proname, p.prokind::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
       CASE WHEN p.prokind = 'f' AND p.proargmodes IS NULL
            AND NOT p.proretset AND p.prorettype <> 'void'::regtype
            THEN 'RETURN NULL;' ELSE '' END
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid WHERE d.classid = 'pg_proc'::regclass
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml') AND d.deptype = 'e'
"""
RELATIONS = """
SELECT c.relname,
       string_agg(format('NULL::%s AS %I', format_type(a.atttypid, NULL), a.attname), ', '
                  ORDER BY a.attnum)
FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'v')
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE d.classid = 'pg_class'::regclass
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml') AND d.deptype = 'e'
GROUP BY c.relname
"""
# What a built-in function is called with, where pg_catalog has no exact match.
MORE = """
CREATE FUNCTION {0}.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT {0}.spy()::text $$;
CREATE FUNCTION {0}.concat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT {0}.spy()::text $$;
CREATE FUNCTION {0}.same(regnamespace, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT {0}.spy() $$;
CREATE OPERATOR {0}.= (LEFTARG = regnamespace, RIGHTARG = oid, FUNCTION = {0}.same);
"""
ADMINISTER = (
    "SELECT ml_grant(current_user, 'train')",
    "SELECT * FROM ml_schedule()",
    "SELECT * FROM ml_unschedule()",
    "SELECT * FROM ml_doctor()",
    "SELECT ml_chart('{device}')",
    "SELECT ml_not_a_fault(1)",
    "CALL ml_scan('{device}')",
    "CALL ml_retrain(minutes => 0)",
    "UPDATE ml_setting SET value = '0.02' WHERE name = 'contamination'",
    "INSERT INTO ml_setting SELECT * FROM ml_setting",
    "INSERT INTO ml_metric (name, path) VALUES ('mine', 'system.mine')",
    "DELETE FROM ml_metric WHERE name = 'temperature'",
)
# A procedure pins its path at the beginning of each transaction.
LOOKS = re.compile(
    r"\bBEGIN\s+(COMMIT;[^\n]*\n(\s*--[^\n]*\n)*\s*PERFORM pg_catalog\.set_config\([^\n]*\n\s*)?"
    r"IF NOT EXISTS \(SELECT FROM pg_catalog\.pg_extension e "
)
VIEW = re.compile(r"SELECT \* FROM ml_\w+$")


@pytest.fixture
def home(db, add_device):
    """A device with a model, and the extension in a schema of its own."""
    db.execute(f"DROP EXTENSION pyml; CREATE SCHEMA {HOME}; CREATE EXTENSION pyml SCHEMA {HOME}")
    device = add_device(readings=200)
    with db.transaction():
        db.execute(f"SET LOCAL search_path = {HOME}")
        put_model(db, device, newest("forest"))
        db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    return device


@pytest.fixture
def impostor(db, home):
    """The schema was renamed, and another one of the old name holds its likeness."""
    db.execute(f"ALTER SCHEMA {HOME} RENAME TO moved; CREATE SCHEMA {HOME}; {SPY}")
    for name, kind, arguments, result, last in db.execute(ROUTINES).fetchall():
        what = "PROCEDURE" if kind == "p" else "FUNCTION"
        returns = f"RETURNS {result}" if kind == "f" else ""
        db.execute(
            f"CREATE {what} {HOME}.{name}({arguments}) {returns} LANGUAGE plpgsql"
            f" AS $$ BEGIN PERFORM {HOME}.spy(); {last} END $$"
        )
    for name, columns in db.execute(RELATIONS).fetchall():
        db.execute(f"CREATE VIEW {HOME}.{name} AS SELECT {columns} WHERE {HOME}.spy()")
    db.execute(MORE.format(HOME))
    return home


def refusal(session, statement):
    """What a statement that has to fail says."""
    with pytest.raises(psycopg.Error) as caught:
        session.execute(statement)
    assert caught.value.sqlstate == "ML006", (statement, caught.value)
    assert "Traceback" not in (caught.value.diag.context or "")
    return caught.value.diag


def every(device):
    """A call of each function, and each statement that a trigger looks at."""
    said = [text for text in ACT if text.startswith("INSERT")]
    calls = [text for text in (*READ, *said, *TRAIN, *ADMINISTER) if not VIEW.match(text)]
    return [text.format(device=device, model=1) for text in calls]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_nothing_of_an_impostor_is_called(db, dsn, impostor, warm):
    with psycopg.connect(dsn, autocommit=True) as session:
        if warm:  # plans, caches and the package are those of before
            session.execute(
                f"ALTER SCHEMA {HOME} RENAME TO aside; ALTER SCHEMA moved RENAME TO {HOME}"
            )
            session.execute(f"SELECT {HOME}.ml_detect(%s)", [impostor])
            session.execute(f"CALL {HOME}.ml_scan()")
            session.execute(
                f"ALTER SCHEMA {HOME} RENAME TO moved; ALTER SCHEMA aside RENAME TO {HOME}"
            )
        for path in ("moved", f"moved, {HOME}, pg_catalog"):
            session.execute(f"SET search_path = {path}")
            for statement in every(impostor):
                said = refusal(session, statement)
        assert session.execute("TABLE public.seen").fetchall() == []
        # It would have been called: the trap is set.
        session.execute(f"SELECT * FROM {HOME}._ml_history()")
        assert len(session.execute("TABLE public.seen").fetchall()) == 1
        session.execute(said.message_hint)
        session.execute(f"SET search_path = {HOME}, public")
        session.execute("UPDATE ml_setting SET value = '0.02' WHERE name = 'contamination'")
        session.execute("CALL ml_scan()")
        scanned = "SELECT scanned_at > now() - interval '1 minute' FROM ml_device_status"
        assert session.execute(scanned).fetchone() == (True,)
        finished = "SELECT finished_at IS NOT NULL FROM ml_job ORDER BY job_id DESC"
        assert session.execute(finished).fetchone() == (True,)
        python = "SELECT ok FROM ml_doctor() WHERE check_name = 'python'"
        assert session.execute(python).fetchone() == (True,)


def test_a_rename_is_told_of_and_undone_by_the_hint(db, home):
    db.execute(f"ALTER SCHEMA {HOME} RENAME TO moved; SET search_path = moved, public")
    for statement in every(home):
        said = refusal(db, statement)
        assert said.message_hint == f"ALTER SCHEMA moved RENAME TO {HOME};"
    # Views hold no names to look up.
    assert len(db.execute("SELECT * FROM ml_models WHERE kind = 'forest'").fetchall()) == 1
    db.execute(said.message_hint)
    db.execute(f"SET search_path = {HOME}, public")
    assert db.execute("SELECT ml_detect(%s) IS NULL", [home]).fetchone() == (False,)


def test_a_worker_outside_the_server_is_refused_too(db, dsn, impostor):
    there = make_conninfo(dsn)
    with pytest.raises(psycopg.Error) as caught:
        job.retrain_one(there, None, impostor, "forest", "")
    job.connection(there).close()
    assert caught.value.sqlstate == "ML006"
    assert db.execute("TABLE seen").fetchall() == []


@pytest.mark.slow
def test_a_scheduled_job_calls_no_impostor(db, dsn, home):
    commands = db.execute(f"SELECT command FROM {HOME}._ml_jobs('* * * * *', '* * * * *', 1)")
    jobs = [command for (command,) in commands.fetchall()]
    assert len(jobs) == 2
    for command in jobs:
        db.execute(command)
    assert db.execute(f"SELECT count(*) FROM {HOME}.ml_job").fetchone() == (2,)
    db.execute(
        f"ALTER SCHEMA {HOME} RENAME TO moved; CREATE SCHEMA {HOME}; CREATE TABLE seen (a int)"
    )
    for task in ("scan", "retrain"):
        db.execute(
            f"CREATE PROCEDURE {HOME}.ml_{task}(slot int) LANGUAGE sql"
            " AS 'INSERT INTO public.seen VALUES (1)'"
        )
    for command in jobs:
        refusal(db, command)
    assert db.execute("TABLE seen").fetchall() == []


def test_every_function_and_trigger_looks_where_it_is_first(db):
    routines = db.execute(
        "SELECT p.proname, p.prosrc FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid"
        " WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e'"
        " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')"
        " AND (p.proname LIKE 'ml\\_%' OR p.prosecdef OR p.prorettype = 'trigger'::regtype)"
    ).fetchall()
    assert len(routines) >= 20
    assert [name for name, body in routines if not LOOKS.search(body)] == []
