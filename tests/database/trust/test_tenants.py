"""Row-level security on pyml's tables holds for each view and function, and after a dump too."""

import subprocess

import psycopg
import pytest

from installer.postgres import find_postgres

pytestmark = pytest.mark.slow

LEVELS = ("read", "train")
VIEWS = (
    *("ml_models", "ml_anomalies", "ml_incidents", "ml_forecasts", "ml_breaches"),
    *("ml_device_status", "ml_runs", "ml_signals", "ml_deliveries", "ml_rules", "ml_capacity"),
)
TABLES = (
    *("ml_model", "ml_anomaly", "ml_forecast_point", "ml_scan_state", "ml_run"),
    *("ml_device_forecast", "ml_device", "ml_late", "ml_signal_state", "ml_finding"),
    *("ml_incident", "ml_event", "ml_delivery", "ml_rule", "ml_quiet", "ml_capacity_state"),
)
# A row of each table for every device that has a model.
LOGS = """
INSERT INTO ml_run (device_uuid, kind, seconds, outcome) SELECT DISTINCT device_uuid, 'forest', 1,
    'failed' FROM ml_model;
INSERT INTO ml_anomaly (device_uuid, timestamp, tier, score, severity, metrics, reasons, model_id)
    SELECT device_uuid, now(), 'forest', -1, 'critical', '{}', '[]', 1
    FROM ml_model ON CONFLICT DO NOTHING;
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, summary, evidence, updated_at) SELECT DISTINCT device_uuid, 'silent', 'open',
    'warning', '', now(), now(), now(), 'it is', '{}'::jsonb, now() FROM ml_model;
INSERT INTO ml_event (incident_id, device_uuid, event, happened_at, replayed)
    SELECT incident_id, device_uuid, 'opened', now(), false FROM ml_incident;
INSERT INTO ml_target (target, severity) VALUES ('ops', 'warning') ON CONFLICT DO NOTHING;
INSERT INTO ml_delivery (event_id, target, device_uuid) SELECT event_id, 'ops', device_uuid
    FROM ml_event ON CONFLICT DO NOTHING;
INSERT INTO ml_finding (device_uuid, detector, brief, kind, metric, started_at, last_at, severity,
    score, evidence, sentence, model_id, found_at, updated_at) SELECT DISTINCT device_uuid,
    'presence', false, 'silent', '', now(), now(), 'critical', 1, '{}'::jsonb, 'it is', 1, now(),
    now() FROM ml_model;
INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading) SELECT DISTINCT
    device_uuid, now(), 'scanned', now() - interval '1 hour' FROM ml_model;
INSERT INTO ml_forecast_point (device_uuid, timestamp, field, kind, predicted, lower, upper, level,
    breach, model_id, made_at) SELECT device_uuid, now(), 'x', 'lstm', 1, 0, 2, 0.9, 1, 1, now()
    FROM ml_model ON CONFLICT DO NOTHING;
INSERT INTO ml_lock (task, what) SELECT DISTINCT 'scan', device_uuid::text FROM ml_model;
INSERT INTO ml_device SELECT DISTINCT device_uuid, device_uuid::text FROM ml_model
    ON CONFLICT DO NOTHING;
INSERT INTO ml_rule (device_uuid, mute) SELECT DISTINCT device_uuid, true FROM ml_model;
INSERT INTO ml_quiet (device_uuid, starts_at, ends_at) SELECT DISTINCT device_uuid, now(),
    now() + interval '1 hour' FROM ml_model;
INSERT INTO ml_device_forecast SELECT DISTINCT device_uuid, '{x}'::text[] FROM ml_model;
INSERT INTO ml_late (device_uuid, first_at, last_at) SELECT DISTINCT device_uuid, now(), now()
    FROM ml_model;
INSERT INTO ml_signal_state SELECT DISTINCT device_uuid, '{x}'::text[], '{60}'::float8[],
    '{1}'::float8[], ARRAY[now()], '{ok}'::text[], ARRAY[now()], '{0}'::int[], '{0}'::int[],
    '{0}'::int[], '{0}'::int[], '{1,0,0,0}'::int[], 0, '[]'::jsonb FROM ml_model
    ON CONFLICT DO NOTHING;
INSERT INTO ml_capacity_state (device_uuid, metric, side, limit_value, value, slope, days,
    looked_at) SELECT DISTINCT device_uuid, 'cpu_usage', 'high', 80, 1, 0, 14, now() FROM ml_model;
CREATE TABLE tenant_device (tenant name, device_uuid uuid, PRIMARY KEY (tenant, device_uuid));
GRANT SELECT ON tenant_device TO PUBLIC;
"""
CONDITION = (
    "device_uuid IN (SELECT t.device_uuid FROM public.tenant_device t"
    " WHERE t.tenant = current_user) -- a tenant's own"
)
DOCTOR = "SELECT ok, fix FROM ml_doctor() WHERE check_name = 'row security'"


@pytest.fixture
def tenants(db, roles, add_modelled):
    """The device of each level's role, by level; each has rows in all tables."""
    devices = {level: add_modelled(200) for level in LEVELS}
    db.execute(LOGS)
    for level, device in devices.items():
        db.execute("INSERT INTO tenant_device VALUES (%s, %s)", [roles[level], device])
    return devices


def seen(session, relation):
    """The devices that a session sees in a table or view."""
    return {row[0] for row in session.execute(f"SELECT device_uuid::text FROM {relation}")}


def test_every_view_reads_as_whoever_asks(db):
    loose = db.execute(
        "SELECT c.relname FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'v'"
        " WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e'"
        " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')"
        " AND NOT coalesce(c.reloptions, '{}') && '{security_invoker=true,security_invoker=on}'"
    )
    assert loose.fetchall() == []


def test_each_tenant_sees_its_own_devices_alone(db, one, connect, tenants):
    told = {row[0] for row in db.execute("SELECT ml_row_security(%s)", [CONDITION])}
    assert told == {*TABLES, "ml_lock"}
    assert db.execute(DOCTOR).fetchone() == (True, None)
    for level, other in (("read", "train"), ("train", "read")):
        device, hidden = tenants[level], tenants[other]
        theirs = one("SELECT min(model_id) FROM ml_model WHERE device_uuid = %s", hidden)
        with connect(level) as session:
            for relation in (*VIEWS, *TABLES, "ml_lock"):
                assert seen(session, relation) == {device}, (level, relation)
            counts = session.execute("SELECT devices, anomalies_24h FROM ml_fleet_health")
            assert counts.fetchone() == (1, 1)
            assert session.execute("SELECT ml_detect(%s) IS NULL", [device]).fetchone() == (False,)
            calls = ["SELECT ml_detect(%s)", "SELECT ml_model_info(%s)", "SELECT ml_forecast(%s)"]
            calls += ["SELECT ml_score(%s, now() - interval '1 hour', now())"]
            calls += ["SELECT * FROM ml_predict(%s, 'system.cpuUsage')"]
            for call in calls:
                with pytest.raises(psycopg.Error) as caught:
                    session.execute(call, [hidden])
                assert caught.value.sqlstate == "ML002", call
            if level == "train":
                session.execute("SELECT ml_train_forest(%s)", [device])
                session.execute("SELECT ml_forget(%s)", [hidden])
                with pytest.raises(psycopg.Error) as caught:
                    session.execute("SELECT ml_rollback(%s)", [theirs])
                assert caught.value.sqlstate == "ML002"
        for relation in TABLES:  # nothing was taken from the other one
            assert hidden in seen(db, relation), relation
    # The administrator sees all of them, and a scan reaches all.
    assert seen(db, "ml_anomalies") == set(tenants.values())


def test_an_empty_condition_takes_the_policies_away(db, connect, tenants):
    db.execute("SELECT ml_row_security(%s)", [CONDITION])
    db.execute("CREATE POLICY own ON ml_run USING (true)")
    assert db.execute("SELECT ml_row_security('')").fetchall() == []
    assert db.execute(DOCTOR).fetchone() == (True, None)
    with connect("read") as session:
        for relation in (*VIEWS, *TABLES):
            assert seen(session, relation) == set(tenants.values())
    secured = db.execute("SELECT relname FROM pg_class WHERE relrowsecurity").fetchall()
    assert secured == [("ml_run",)]  # somebody else's policy stays in force


def test_a_condition_that_is_none_is_refused_and_changes_nothing(db, refused, tenants):
    db.execute("SELECT ml_row_security(%s)", [CONDITION])
    for wrong in (
        "device = 1",
        "device_uuid =",
        "device_uuid = 'x'",
        "device_uuid",
        "device_uuid = public.ml_uuid('a')",  # which reads ml_device, where the condition is
        "device_uuid IN (SELECT d.device_uuid FROM public.ml_device d)",
        "tenant = 'a'",
    ):
        said = refused("SELECT ml_row_security(%s)", wrong, sqlstate="ML004")
    assert db.execute(DOCTOR).fetchone() == (True, None)
    db.execute(said.message_hint)  # which is a statement that works
    db.execute("UPDATE ml_setting SET value = 'true' WHERE name = 'row_security'")
    ok, fix = db.execute(DOCTOR).fetchone()
    assert not ok
    db.execute(fix)
    assert db.execute(DOCTOR).fetchone() == (True, None)


def test_only_the_owner_of_the_tables_may_call_it(connect, tenants):
    with connect("train") as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT ml_row_security('true')")


def test_after_a_restore_the_doctor_says_to_apply_it_again(db, dsn, connect, roles, tenants):
    db.execute("SELECT ml_row_security(%s)", [CONDITION])
    programs, copy = find_postgres().bindir, f"{db.info.dbname}_copy"
    where = ("-h", db.info.host, "-p", str(db.info.port), "-U", db.info.user)
    dump = subprocess.run(
        [programs / "pg_dump", "-Fc", *where, db.info.dbname],
        check=True,
        capture_output=True,
        timeout=120,
    )
    db.execute(f"CREATE DATABASE {copy}")
    try:
        there = psycopg.conninfo.make_conninfo(dsn, dbname=copy)
        subprocess.run(
            [programs / "pg_restore", "--exit-on-error", *where, "-d", copy],
            check=True, input=dump.stdout, timeout=120,
        )  # fmt: skip
        with psycopg.connect(there, autocommit=True) as restored:
            ok, fix = restored.execute(DOCTOR).fetchone()
            assert (ok, fix) == (False, "SELECT public.ml_row_security();")
            restored.execute(fix)
            assert restored.execute(DOCTOR).fetchone() == (True, None)
        with psycopg.connect(there, user=roles["read"], autocommit=True) as session:
            for relation in (*VIEWS, *TABLES):
                assert seen(session, relation) == {tenants["read"]}
    finally:
        db.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def test_a_tenant_says_what_it_knows_of_its_own_devices_alone(db, connect, roles, tenants):
    db.execute("SELECT ml_row_security(%s)", [CONDITION])
    db.execute("SELECT ml_grant(%s, 'act')", [roles["read"]])
    say = "INSERT INTO ml_rule (device_uuid, metric, mute) VALUES (%s, 'cpu_usage', true)"
    with connect("read") as session:
        session.execute(say, [tenants["read"]])
        for other in (tenants["train"], None):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(say, [other])
            assert caught.value.sqlstate in ("ML002", "42501")
        session.execute("DELETE FROM ml_rule")
        session.execute("UPDATE ml_quiet SET reason = 'mine'")
    assert seen(db, "ml_rule") == {tenants["train"]}
    reasons = "SELECT device_uuid::text FROM ml_quiet WHERE reason = 'mine'"
    assert db.execute(reasons).fetchall() == [(tenants["read"],)]
