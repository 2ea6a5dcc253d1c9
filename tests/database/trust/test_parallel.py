"""No parallel plan reaches Python, where a statement's error would crash the backend."""

import re

import psycopg
import pytest

# Every function that answers a SELECT, and what a role that may train could call by itself.
STATEMENTS = (
    "SELECT ml_detect('{device}') IS NULL",
    "SELECT count(*) FROM ml_score('{device}', now() - interval '1 hour', now())",
    "SELECT ml_forecast('{device}') IS NULL",
    "SELECT count(*) FROM ml_predict('{device}', 'system.cpuUsage')",
    "SELECT count(*) FROM ml_zscore('{device}', 'system.cpuUsage')",
    "SELECT ml_chart('{device}') IS NULL",
    "SELECT ml_model_info('{device}') IS NULL",
    "SELECT count(*) FROM ml_doctor()",
    "SELECT ml_train_forest('{device}') IS NULL",
    "SELECT count(*) FROM _ml_devices()",
    "SELECT count(*) FROM _ml_history()",
    "SELECT count(*) FROM _ml_due(ARRAY['{device}'::uuid])",
    "SELECT _ml_detect('{device}', 24, 10) IS NULL",
    "SELECT count(*) FROM _ml_score('{device}', now(), now())",
    "SELECT _ml_forecast('{device}', 'system.cpuUsage', 1) IS NULL",
    "SELECT count(*) FROM _ml_predict('{device}', 'system.cpuUsage', 1, 0.9, now())",
    "SELECT _ml_chart('{device}', 'system.cpuUsage', 1) IS NULL",
    "SELECT _ml_environment() IS NULL",
    "SELECT ml_rollback(max(model_id)) IS NULL FROM ml_model",
    "CALL ml_scan()",
    "SELECT ml_forget('{device}') IS NULL",
)
# What makes PostgreSQL use workers wherever it may.
PARALLEL = (
    "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
    " SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;"
    " SET max_parallel_workers_per_gather = 2"
)
# The whole fleet in one statement, as a dashboard asks.
FLEET = """
SELECT d.device_uuid, {0} FROM (SELECT device_uuid, max("timestamp") FROM device_shadow_history
    GROUP BY 1) AS d, LATERAL {1} AS x
"""
FLEETS = (
    FLEET.format("x ->> 'anomalies_detected'", "ml_detect(d.device_uuid)"),
    FLEET.format("x ->> 'field'", "ml_forecast(d.device_uuid)"),
    FLEET.format("x.z_score", "ml_zscore(d.device_uuid, 'system.cpuUsage')"),
    FLEET.format("x.severity", "ml_score(d.device_uuid, now() - interval '1 hour', now())"),
    "SELECT count(ml_detect(device_uuid)) FROM device_shadow_history WHERE id % 300 = 0",
)
ROUTINES = """
SELECT p.proname, p.prosrc, p.proparallel::text, l.lanname
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_language l ON l.oid = p.prolang
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')
"""
CALL = re.compile(r"\b_?ml_\w+(?=\()")
WORDS = re.compile(r"--[^\n]*|'(?:[^']|'')*'")  # comments and strings, which call nothing


def forced(db: psycopg.Connection) -> str:
    """The statement that puts a worker under each plan that may have one."""
    name = "force_parallel_mode" if db.info.server_version < 160000 else "debug_parallel_query"
    return f"SET {name} = on"


def test_what_reaches_python_or_the_history_is_parallel_unsafe(db):
    routines = db.execute(ROUTINES).fetchall()
    # The history may be temporary, or a view that writes: a worker can read neither.
    reaches = {name for name, _, _, language in routines if language == "plpython3u"}
    assert len(reaches) > 8
    reaches.add("_ml_history")
    while True:
        callers = {
            name
            for name, body, *_ in routines
            if name not in reaches and reaches & set(CALL.findall(WORDS.sub("", body)))
        }
        if not callers:
            break
        reaches |= callers
    assert {"ml_detect", "ml_doctor", "ml_zscore", "_ml_devices", "ml_retrain"} <= reaches
    assert [name for name, _, mark, _ in routines if name in reaches and mark != "u"] == []


@pytest.mark.slow
def test_each_function_answers_twice_under_forced_parallel_mode(db, dsn, add_modelled):
    device = add_modelled()
    for statement in STATEMENTS:
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute(f"{forced(db)}; {PARALLEL}")
            (pid,) = session.execute("SELECT pg_backend_pid()").fetchone()
            for _ in range(2):
                try:
                    session.execute(statement.format(device=device))
                except psycopg.errors.RaiseException as error:
                    assert error.sqlstate[:2] == "ML", statement  # noqa: PT017
            assert session.execute("SELECT pg_backend_pid()").fetchone() == (pid,)


@pytest.mark.slow
def test_a_plan_over_a_large_history_is_parallel_but_for_the_functions(db, dsn, add_modelled):
    for _ in range(3):
        add_modelled()
    db.execute("ANALYZE device_shadow_history")
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(PARALLEL)
        bare = 'SELECT device_uuid, max("timestamp") FROM device_shadow_history GROUP BY 1'
        assert "Gather" in str(session.execute(f"EXPLAIN {bare}").fetchall())
        for statement in FLEETS:
            assert "Gather" not in str(session.execute(f"EXPLAIN {statement}").fetchall())
            found = [session.execute(statement).fetchall() for _ in range(2)]
            assert found[0]
            assert len(found[0]) == len(found[1])


# What a function may hold that its owner has marked wrongly, and the SQLSTATE that comes of it.
WRAPPERS = {
    "ml_detect($1) IS NULL": "ML006",
    "_ml_answer(_ml_detect($1, 24, 10)) IS NULL": "ML006",
    "EXISTS (SELECT FROM ml_score($1, now() - interval '1 hour', now()))": "ML006",
    "(SELECT bool_or(_ml_raise(s.error)) FROM _ml_score($1, now(), now()) AS s)": "ML006",
    "_ml_answer(_ml_environment()) IS NULL": "ML006",
    "EXISTS (SELECT FROM ml_doctor())": "25000",
}


@pytest.mark.parametrize("mark", ["SAFE", "RESTRICTED"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_function_that_is_marked_wrongly_is_refused(db, connect, add_modelled, mark, warm):
    """Otherwise a role that may create a temporary function could crash the server."""
    device = add_modelled()
    with connect("read") as session:
        if warm:
            session.execute("SELECT ml_detect(%s)", [device])
        session.execute(PARALLEL)
        if mark == "SAFE":  # a restricted one is called by the leader of a parallel plan
            session.execute(forced(db))
        for number, (body, sqlstate) in enumerate(WRAPPERS.items()):
            session.execute(
                f"CREATE FUNCTION pg_temp.wrong_{number}(uuid) RETURNS boolean LANGUAGE plpgsql"
                f" VOLATILE PARALLEL {mark} AS $$ BEGIN RETURN ({body}); END $$"
            )
            for _ in range(2):
                with pytest.raises(psycopg.Error) as caught:
                    session.execute(
                        f"SELECT count(*), bool_or(pg_temp.wrong_{number}(d.device_uuid)) FROM"
                        " (SELECT device_uuid, max(timestamp) FROM device_shadow_history"
                        "  GROUP BY 1) AS d"
                    )
                assert caught.value.sqlstate == sqlstate, (body, caught.value)
                assert "Traceback" not in (caught.value.diag.context or "")
        session.execute("RESET ALL")
        for _ in range(2):
            assert session.execute("SELECT ml_detect(%s) IS NULL", [device]).fetchone() == (False,)
