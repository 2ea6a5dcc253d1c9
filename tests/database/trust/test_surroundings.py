"""What surrounds the backend: paths that lead elsewhere, and what its Python reaches for."""

import os
import shutil
import subprocess
from contextlib import closing

import psycopg
import pytest

from tests.stored import newest, put_model

from ..conftest import ROWS
from .conftest import LIMIT

# Each would break whatever took it for the library of that name.
NAMES = ("numpy", "pyml", "sklearn", "scipy")
# https://docs.python.org/3/library/audit_events.html
WATCH = """
CREATE FUNCTION watch() RETURNS void LANGUAGE plpython3u AS $$
    import sys
    GD['seen'] = seen = set()
    watched = ('pickle.find_class', 'subprocess.Popen', 'os.system', 'os.exec',
               'os.posix_spawn', 'os.fork', 'socket.connect', 'socket.getaddrinfo')
    sys.addaudithook(lambda event, args: seen.add(f'{event} {args}') if event in watched else None)
$$;
CREATE FUNCTION seen() RETURNS text[] LANGUAGE plpython3u AS $$ return sorted(GD['seen']) $$;
"""
STATEMENTS = (
    "SELECT ml_detect('{}')",
    "SELECT count(*) FROM ml_score('{}', now() - interval '1 day', now())",
    "SELECT ml_forecast('{}')",
    "SELECT count(*) FROM ml_predict('{}', 'system.cpuUsage')",
)


@pytest.mark.slow
def test_scoring_unpickles_nothing_runs_nothing_and_calls_nobody(db, dsn, add_modelled):
    device = add_modelled()
    db.execute(WATCH)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SELECT ml_detect(%s)", [device])  # imports what it needs
        session.execute("SELECT watch()")
        db.execute("DELETE FROM ml_model")
        for kind in ("forest", "lstm"):  # to be loaded anew
            put_model(db, device, newest(kind))
        for statement in STATEMENTS:
            session.execute(statement.format(device))
        session.execute("SELECT ml_train_forest(%s)", [device])
        session.execute("CALL ml_scan()")
        assert session.execute("SELECT seen()").fetchone() == ([],)


def test_scoring_needs_neither_a_runtime_nor_a_parser(db, dsn, add_modelled):
    device = add_modelled()
    db.execute(
        "CREATE FUNCTION break() RETURNS void LANGUAGE plpython3u AS"
        " $$ import sys; sys.modules.update(dict.fromkeys(('onnxruntime', 'onnx', 'google'))) $$"
    )
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SELECT break()")
        for statement in STATEMENTS:
            assert session.execute(statement.format(device)).fetchone()[0]


def test_neither_pythonpath_nor_the_directory_leads_elsewhere(server):
    dsn = server.database()
    place = server.cluster.place / "elsewhere"
    place.mkdir()
    for name in NAMES:
        for where in (place, server.cluster.data):
            (where / f"{name}.py").write_text("raise SystemError('led elsewhere')\n")
    for path in (server.cluster.place, place):
        path.chmod(0o755)
    shutil.chown(place, server.cluster.owner)
    server.cluster.stop()
    account = {"user": server.cluster.owner} if os.geteuid() == 0 else {}
    subprocess.run(
        [
            *(server.cluster.postgres.bindir / "pg_ctl", "-D", server.cluster.data),
            *("-p", server.cluster.bindir / "postgres", "-l", server.cluster.log, "-w", "start"),
        ],
        check=True,
        cwd=server.cluster.data,
        env={**os.environ, "PYTHONPATH": str(place)},
        stdout=subprocess.DEVNULL,
        **account,
    )
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "CREATE FUNCTION path() RETURNS text[] LANGUAGE plpython3u AS"
            " $$ import sys; return sys.path $$"
        )
        assert str(place) in db.execute("SELECT path()").fetchone()[0]
        row = db.execute(
            "INSERT INTO devices VALUES (gen_random_uuid(), 'led') RETURNING uuid::text"
        )
        device = row.fetchone()[0]
        db.execute(ROWS, {"device": device, "readings": 400, "interval": 60})
        db.execute("SELECT ml_train_forest(%s)", [device])
        assert db.execute("SELECT ml_detect(%s) IS NOT NULL", [device]).fetchone() == (True,)


# Compiled by LLVM, of which TensorFlow has another.
JIT = """
SET LOCAL jit_above_cost = 0; SET LOCAL jit_inline_above_cost = 0;
SET LOCAL jit_optimize_above_cost = 0;
"""
COMPILED = """
EXPLAIN (ANALYZE, FORMAT JSON) SELECT sum(n * 2.5), count(DISTINCT n % 7)
FROM generate_series(1, 1000) n WHERE n % 3 = 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiled_first",
    [
        pytest.param(True, id="after"),
        pytest.param(False, id="before", marks=pytest.mark.long),
    ],
)
def test_a_session_may_train_and_have_its_queries_compiled(db, dsn, add_device, compiled_first):
    if not db.execute("SELECT pg_jit_available()").fetchone()[0]:
        pytest.skip("this server compiles no queries")
    device = add_device(readings=600)
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    with psycopg.connect(dsn, autocommit=True) as session:
        for compiled in (compiled_first, not compiled_first, compiled_first):
            if compiled:
                with session.transaction():
                    session.execute(JIT)
                    (plan,) = session.execute(COMPILED).fetchone()[0]
                assert plan["JIT"]["Functions"] > 0
            else:
                session.execute("SELECT ml_train_lstm(%s)", [device])


@pytest.mark.slow
@pytest.mark.parametrize("function", ["ml_train_lstm", "ml_train_forest", "ml_detect"])
def test_a_want_of_memory_is_told_as_such(db, dsn, add_modelled, function):
    """Not as a traceback, nor as a model that cannot be read."""
    device = add_modelled()
    db.execute(LIMIT)
    # Closed without a COMMIT: where PL/Python has not even the room to copy the error, it leaves
    # its subtransaction open, and PostgreSQL ends the session with whatever is asked next.
    with closing(psycopg.connect(dsn, autocommit=True)) as session:
        session.execute("SELECT count(*) FROM ml_doctor()")
        session.execute("SELECT limit_memory(0)")
        # So often that what was set aside before is used up.
        calls = f"SELECT count({function}(%s)) FROM generate_series(1, 1000)"
        with pytest.raises(psycopg.errors.OutOfMemory) as caught:
            session.execute(calls, [device])
        assert "Traceback" not in (caught.value.diag.context or "")


def _called(session, statement, device):
    """The SQLSTATE of a call, or None."""
    try:
        session.execute(statement, [device])
    except psycopg.Error as error:
        return error.sqlstate or str(error)


@pytest.mark.slow
def test_memory_may_be_missing_when_pyml_is_loaded(db, dsn, add_modelled, long):
    """The session says so; the server stays up."""
    device = add_modelled()
    db.execute(LIMIT)
    answers = []
    for room in range(0, 241, 8 if long else 40):
        with closing(psycopg.connect(dsn, autocommit=True)) as session:
            session.execute("DO $$ BEGIN END $$")  # loads PL/pgSQL
            session.execute("SELECT limit_memory(%s)", [room << 20])
            answers.append(_called(session, "SELECT ml_detect(%s)", device))
    assert set(answers) == {"53200", None}
    assert answers[-1] is None
    assert db.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_memory_may_end_within_a_call(db, dsn, add_modelled, long):
    device = add_modelled(readings=15_000)
    db.execute(LIMIT)
    answers = []
    for room in range(0, 300, 6 if long else 70):
        with closing(psycopg.connect(dsn, autocommit=True)) as session:
            session.execute("SELECT count(*) FROM ml_doctor()")
            session.execute("SELECT limit_memory(%s)", [room << 20])
            answers.append(_called(session, "SELECT ml_detect(%s, 500)", device))
    assert set(answers) == {"53200", None}
    assert answers[-1] is None
    assert db.execute("SELECT 1").fetchone() == (1,)
