"""Who may do what: the whole matrix, and every function tried by each role."""

from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from installer.server import GRANT_AGAIN
from pyml.workers import job

from .conftest import LEVELS

MATRIX = Path(__file__).with_name("privileges.txt")
MEMBERS = """
SELECT d.classid::regclass::text AS class, d.objid,
       coalesce(c.oid::regclass::text, p.oid::regprocedure::text) AS name, c.relkind::text
FROM pg_depend d LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml') AND d.deptype = 'e'
  AND coalesce(c.relkind, 'f') IN ('r', 'v', 'f') AND (c.oid IS NOT NULL OR p.oid IS NOT NULL)
"""
TABLE = """
SELECT string_agg(held, ' ' ORDER BY place) FROM (
    SELECT place, CASE WHEN has_table_privilege(%(role)s, %(oid)s, word) THEN word
        ELSE (SELECT word || '(' || string_agg(attname, ',' ORDER BY attnum) || ')'
              FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND word <> 'DELETE'
                AND word <> 'TRUNCATE' AND word <> 'TRIGGER'
                AND has_column_privilege(%(role)s, %(oid)s, attname, word)) END AS held
    FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES'])
         WITH ORDINALITY AS t (word, place)) AS each
"""
ROUTINE = "SELECT CASE WHEN has_function_privilege(%(role)s, %(oid)s, 'EXECUTE') THEN 'EXECUTE' END"
# One call of each public function; the others are internal or the administrator's.
READ = (
    "SELECT ml_detect('{device}')",
    "SELECT * FROM ml_score('{device}', now() - interval '1 hour', now())",
    "SELECT ml_forecast('{device}')",
    "SELECT * FROM ml_predict('{device}', 'system.cpuUsage')",
    "SELECT * FROM ml_zscore('{device}', 'system.cpuUsage')",
    "SELECT ml_model_info('{device}')",
    "SELECT * FROM ml_doctor()",
    "SELECT * FROM ml_models",
    "SELECT * FROM ml_anomalies",
    "SELECT * FROM ml_incidents",
    "SELECT * FROM ml_forecasts",
    "SELECT * FROM ml_breaches",
    "SELECT * FROM ml_device_status",
    "SELECT * FROM ml_fleet_health",
    "SELECT * FROM ml_runs",
    "SELECT * FROM ml_jobs",
    "SELECT * FROM ml_locks",
    "SELECT * FROM ml_deliveries",
    "SELECT * FROM ml_rules",
)
NOTIFY = (
    """SELECT _ml_put_targets('[{{"target": "ops", "severity": "warning"}}]')""",
    "SELECT _ml_claim_delivery('ops')",
    "SELECT _ml_confirm('{{1}}', 'ops', NULL)",
    "SELECT _ml_postpone('{{1}}', 'ops', 'it is down')",
    "SELECT _ml_watch_scans()",
    "SELECT ml_resend()",
)
ACT = (
    "INSERT INTO ml_rule (device_uuid, metric, mute) VALUES ('{device}', 'cpu_usage', true)",
    "INSERT INTO ml_quiet (starts_at, ends_at) VALUES (now(), now() + interval '1 hour')",
    "UPDATE ml_rule SET until = now()",
    "UPDATE ml_quiet SET ends_at = now() + interval '2 hours'",
    "DELETE FROM ml_rule",
    "DELETE FROM ml_quiet",
)
TRAIN = (
    "SELECT ml_train_forest('{device}')",
    "SELECT ml_train_lstm('{device}')",
    "CALL ml_scan()",
    "CALL ml_retrain()",
    "SELECT ml_store_model(device_uuid, kind, field, blob, jsonb_build_object('window_start', 0,"
    " 'window_end', 0, 'readings_used', 9, 'readings_rejected', 0, 'parameters', parameters,"
    " 'figures', figures, 'versions', versions, 'seconds', 1)) FROM ml_model",
    "SELECT ml_rollback({model})",
    "SELECT ml_forget('{device}')",
    *NOTIFY,
)
ADMINISTER = (
    "SELECT ml_grant(current_user, 'train')",
    "SELECT ml_row_security('true')",
    "SELECT * FROM ml_schedule()",
    "SELECT * FROM ml_unschedule()",
    "UPDATE ml_setting SET value = '0.2' WHERE name = 'contamination'",
    "INSERT INTO ml_metric (name, path) VALUES ('mine', 'system.mine')",
    "UPDATE ml_metric SET path = 'system.mine'",
    "UPDATE ml_model SET blob = ''",
    "UPDATE ml_model SET parameters = '{{}}'",
    "UPDATE ml_run SET outcome = 'trained'",
    "INSERT INTO ml_model OVERRIDING SYSTEM VALUE SELECT * FROM ml_model",
    "DELETE FROM ml_model",
    "SELECT nextval('ml_model_model_id_seq')",
    "DELETE FROM ml_anomaly",
    "DELETE FROM ml_finding",
    "UPDATE ml_scan_state SET watermark = NULL",
    "DELETE FROM ml_event",
    "UPDATE ml_delivery SET confirmed_at = now()",
    "DELETE FROM ml_target",
    "DELETE FROM ml_job",
    "INSERT INTO ml_device_forecast VALUES ('{device}', '{{billing.pin}}')",
    "SELECT * FROM ml_lock FOR UPDATE",
    "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
    " VALUES ('{device}', '{{}}', now())",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE plpython3u AS 'return 1'",
    "INSERT INTO ml_rule (mute, created_by) VALUES (true, 'somebody else')",
    "UPDATE ml_quiet SET created_at = now()",
    "ALTER EXTENSION pyml UPDATE",
    "DROP EXTENSION pyml",
)


def matrix(db: psycopg.Connection, roles: dict[str, str]) -> str:
    """Each object of the extension and what each role holds on it."""
    lines = []
    for class_, oid, name, _ in sorted(
        db.execute(MEMBERS).fetchall(), key=lambda row: (row[0], row[2])
    ):
        ask = TABLE if class_ == "pg_class" else ROUTINE
        held = [
            db.execute(ask, {"role": roles[level], "oid": oid}).fetchone()[0] or "-"
            for level in LEVELS
        ]
        lines.append(f"{name}\n" + "".join(map("    {:<7} {}\n".format, LEVELS, held)))
    return "".join(lines)


def test_each_level_holds_what_the_golden_file_says_and_no_more(
    db: psycopg.Connection, roles: dict[str, str], request: pytest.FixtureRequest
) -> None:
    found = matrix(db, roles)
    if request.config.getoption("--regenerate"):
        MATRIX.write_text(found)
    assert found == MATRIX.read_text()


def test_a_level_replaces_the_one_before(db: psycopg.Connection, roles: dict[str, str]) -> None:
    before = matrix(db, roles)
    for level, other in (("read", "train"), ("train", "read")):
        db.execute("SELECT ml_grant(%s, %s)", [roles[level], other])
    assert matrix(db, {**roles, "read": roles["train"], "train": roles["read"]}) == before


def test_an_upgrade_leaves_each_role_its_level(db: psycopg.Connection, roles: dict[str, str]):
    db.execute(GRANT_AGAIN)
    assert matrix(db, roles) == MATRIX.read_text()


@pytest.mark.slow
def test_each_level_can_do_its_work_and_nothing_else(one, db, connect, add_modelled):
    device = add_modelled()
    db.execute("SELECT _ml_meet(ARRAY[%s::uuid])", [device])
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    levels = {
        "nobody": (),
        "notify": NOTIFY,
        "read": READ,
        "act": READ + ACT,
        "train": READ + ACT + TRAIN,
    }
    for level, allowed in levels.items():
        with connect(level) as session:
            for statement in READ + ACT + TRAIN + ADMINISTER:
                model = one("SELECT min(model_id) FROM ml_model")
                text = statement.format(device=device, model=model)
                if statement in allowed:
                    session.execute(text)
                    continue
                with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                    session.execute(text)
                assert "Traceback" not in (caught.value.diag.context or "")


def test_a_worker_of_the_fleet_needs_the_level_train(dsn, one, roles, add_device):
    model = (add_device(readings=300), "forest", "")
    for level in ("nobody", "read"):
        there = make_conninfo(dsn, user=roles[level])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            job.retrain_one(there, None, *model)
        job.connection(there).close()
    there = make_conninfo(dsn, user=roles["train"])
    assert job.retrain_one(there, None, *model) == (model, "trained", "")
    job.connection(there).close()
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 1


def test_who_has_no_privilege_can_call_nothing_at_all(db, connect):
    routines = db.execute(
        "SELECT p.oid::regprocedure::text, p.proname, p.prokind::text,"
        " array(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t)"
        " FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid WHERE d.deptype = 'e'"
        " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')"
        " AND p.prorettype <> 'trigger'::regtype"
    ).fetchall()
    assert len(routines) > 30
    with connect("nobody") as session:
        for _, name, kind, types in routines:
            arguments = sql.SQL(", ").join(sql.SQL(f"NULL::{one}") for one in types)
            call = sql.SQL("CALL {}({})" if kind == "p" else "SELECT {}({})")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(call.format(sql.Identifier(name), arguments))


@pytest.mark.slow
def test_row_level_security_on_the_history_holds_for_every_function(
    db, one, roles, connect, add_modelled
):
    seen, hidden = add_modelled(), add_modelled()
    db.execute(
        "ALTER TABLE device_shadow_history ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY mine ON device_shadow_history USING (device_uuid = '{seen}')"
    )
    with connect("train") as session:

        def ask(statement: str, device: str) -> object:
            row = session.execute(statement, [device]).fetchone()
            return row and row[0]

        def refuse(statement: str) -> None:
            with pytest.raises(psycopg.Error) as caught:
                session.execute(statement, [hidden])
            assert caught.value.sqlstate == "ML002", caught.value

        zscores = "SELECT count(*) FROM ml_zscore(%s, 'system.cpuUsage')"
        for device, points in ((seen, 600), (hidden, 0)):
            assert ask("SELECT ml_detect(%s)->'analyzed_points'", device) == points
            scores = "SELECT count(*) FROM ml_score(%s, now() - interval '1 day', now())"
            assert ask(scores, device) == points
        assert ask(zscores, seen) == 600
        refuse(zscores)
        assert ask("SELECT ml_forecast(%s)->>'field'", seen) == "system.cpuUsage"
        refuse("SELECT ml_forecast(%s)")
        refuse("SELECT * FROM ml_predict(%s, 'system.cpuUsage')")
        refuse("SELECT ml_train_forest(%s)")
        refuse("SELECT ml_train_lstm(%s)")
        session.execute("CALL ml_scan()")
    assert db.execute("SELECT device_uuid::text FROM ml_scan_state").fetchall() == [(seen,)]
    # Nor does a session that has read everything as somebody else.
    with psycopg.connect(db.info.dsn, autocommit=True) as session:
        points = "SELECT ml_detect(%s)->'analyzed_points'"
        assert session.execute(points, [hidden]).fetchone() == (600,)
        session.execute(f"SET ROLE {roles['train']}")
        assert session.execute(points, [hidden]).fetchone() == (0,)
        session.execute(f"SET ROLE {roles['nobody']}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(points, [seen])
