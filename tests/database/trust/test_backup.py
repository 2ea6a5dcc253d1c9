"""Dumps, copies and standbys: models, settings and log come back, and answer the same."""

import os
import re
import subprocess
import time

import psycopg
import pytest

from pyml.workers import job
from tests.stored import newest, put_model

from ..conftest import ROWS
from .test_privileges import READ

pytestmark = pytest.mark.server

ROLE = f"pyml_{os.getpid()}_backup"
TABLES = (
    *("ml_setting", "ml_metric", "ml_model", "ml_run", "ml_anomaly", "ml_forecast_point"),
    *("ml_scan_state", "ml_job", "ml_device_forecast", "ml_arrival", "ml_finding"),
    *("ml_incident", "ml_event", "ml_target", "ml_delivery", "ml_rule", "ml_quiet"),
    *("ml_capacity_state", "ml_fleet_model"),
)


def run(server, program, *arguments, **options):
    """Run a program of PostgreSQL's as the server's owner."""
    command = [server.cluster.postgres.bindir / program, *arguments]
    account = {"user": server.cluster.owner} if os.geteuid() == 0 else {}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", **account, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def primary(server):
    """A database with a device that was trained and scanned, and settings of its own."""
    dsn = server.database()
    with psycopg.connect(dsn, autocommit=True) as db:
        device = db.execute(
            "INSERT INTO devices VALUES (gen_random_uuid(), 'kept') RETURNING uuid::text"
        ).fetchone()[0]
        db.execute(ROWS, {"device": device, "readings": 600, "interval": 60})
        put_model(db, device, newest("lstm"))
        db.execute("SELECT ml_train_forest(%s)", [device])
        db.execute("UPDATE ml_setting SET value = '0.02' WHERE name = 'contamination'")
        db.execute("UPDATE ml_metric SET enabled = false WHERE name = 'temperature'")
        db.execute(
            "UPDATE ml_metric SET unit = 'K', limit_low = 1, limit_high = 2, direction = 'up',"
            " least_deviation = 0.5 WHERE name = 'temperature'"
        )
        db.execute("INSERT INTO ml_metric (name, path, unit) VALUES ('own', 'system.own', 'bar')")
        db.execute("INSERT INTO ml_device_forecast VALUES (%s, '{cpu_usage}')", [device])
        db.execute(
            "INSERT INTO ml_rule (device_uuid, metric, least_deviation, until)"
            " VALUES (%s, 'own', 2.5, now() + interval '1 day')",
            [device],
        )
        db.execute(
            "INSERT INTO ml_quiet (device_uuid, metric, starts_at, ends_at, repeat, zone,"
            " created_by) VALUES (%s, 'cpu_usage', now(), now() + interval '1 h', 'daily',"
            " 'Europe/Berlin', 'somebody')",
            [device],
        )
        db.execute("CALL ml_scan()")
        db.execute("INSERT INTO ml_fleet_model VALUES ('stuck', '', now(), 3, 'x', 'x')")
        db.execute("INSERT INTO ml_target (target, severity) VALUES ('ops', 'warning')")
        db.execute("SELECT _ml_put_event(NULL, NULL, 'stalled', now(), false)")
        db.execute(f"CREATE ROLE {ROLE} LOGIN")
        db.execute("SELECT ml_grant(%s, 'train')", [ROLE])
    return dsn, device


def answers(dsn, device, schema="public"):
    """What the functions answer and the tables contain."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"SET search_path = {schema}, public")
        found = {
            "detect": db.execute(
                "SELECT ml_detect(%s) #- '{model_info,analyzed}'", [device]
            ).fetchall(),
            "score": db.execute(
                "SELECT * FROM ml_score(%s, '2020-01-01', 'infinity')", [device]
            ).fetchall(),
            "forecast": db.execute("SELECT ml_forecast(%s) -> 'predictions'", [device]).fetchall(),
        }
        for table in TABLES:
            found[table] = db.execute(
                f"SELECT count(*), md5(string_agg(t::text, '/' ORDER BY t::text)) FROM {table} t"
            ).fetchone()
        assert found["score"]
        assert found["ml_model"][0] == 6  # a forest, its finders and a forecast
        assert found["ml_forecast_point"][0] > 0
    return found


def test_a_dump_comes_back(server, primary):
    dsn, device = primary
    dump = server.cluster.place / "fleet.dump"
    run(server, "pg_dump", "-Fc", "-f", dump, dsn)
    with server.connect("postgres") as db:
        db.execute("CREATE DATABASE copy")
    run(server, "pg_restore", "--exit-on-error", "-d", server.dsn("copy"), dump)
    assert answers(server.dsn("copy"), device) == answers(dsn, device)
    with psycopg.connect(server.dsn("copy"), user=ROLE, autocommit=True) as db:
        held = "SELECT ml_detect(%s)"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # the history is its owner's
            db.execute(held, [device])
        assert db.execute("SELECT _ml_try_lock('scan', %s)", [device]).fetchone() == (True,)
        assert db.execute("SELECT count(*) FROM ml_models").fetchone() == (6,)
    with psycopg.connect(server.dsn("copy"), autocommit=True) as db:  # the numbers go on
        last = "SELECT max(model_id) FROM ml_model"
        before = db.execute(last).fetchone()[0]
        db.execute("SELECT ml_train_forest(%s)", [device])
        assert db.execute(last).fetchone()[0] > before


def test_a_dump_comes_back_in_another_schema(server, primary):
    dsn, device = primary
    text = run(server, "pg_dump", dsn)
    moved = re.sub(r"\bpublic\.(_?ml_\w+)", r"telemetry.\1", text)
    moved = moved.replace("EXISTS pyml WITH SCHEMA public", "EXISTS pyml WITH SCHEMA telemetry")
    with server.connect("postgres") as db:
        db.execute("CREATE DATABASE moved")
    with server.connect("moved") as db:
        db.execute("CREATE SCHEMA telemetry")
    run(server, "psql", "-XqvON_ERROR_STOP=1", "-d", server.dsn("moved"), input=moved)
    assert answers(server.dsn("moved"), device, "telemetry") == answers(dsn, device)


def held(dsn):
    """All settings and metrics."""
    with psycopg.connect(dsn, autocommit=True) as db:
        settings = db.execute("SELECT name, value FROM ml_setting ORDER BY name").fetchall()
        metrics = db.execute("SELECT * FROM ml_metric ORDER BY name").fetchall()
    return settings, metrics


def test_a_dump_of_the_data_alone_comes_back(server, primary):
    """Into a database that has the extension already, with rows of the same names."""
    dsn, device = primary
    dump = server.cluster.place / "data.dump"
    run(server, "pg_dump", "-Fc", "-a", "-f", dump, dsn)
    there = server.database("data_alone")
    run(server, "pg_restore", "--exit-on-error", "-a", "-d", there, dump)
    assert held(there) == held(dsn)
    assert answers(there, device) == answers(dsn, device)


def test_a_standby_answers_and_a_copy_of_the_files_goes_on(server, primary):
    dsn, device = primary
    place = server.cluster.place / "standby"
    run(server, "pg_basebackup", "-D", place, "-R", "-c", "fast", "-d", server.dsn())
    control = ("pg_ctl", "-D", place, "-w", "-p", server.cluster.bindir / "postgres")
    log = server.cluster.place / "standby.log"
    run(server, *control, "-l", log, "-o", "-c port=5433", "start")
    try:
        there = dsn.replace("port=5432", "port=5433")
        with psycopg.connect(there, autocommit=True) as db:
            assert db.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            for statement in READ:
                db.execute(statement.format(device=device))
            for statement in ("SELECT ml_train_forest(%s)", "SELECT ml_forget(%s)"):
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
                    db.execute(statement, [device])
                assert "Traceback" not in (caught.value.diag.context or "")
        assert answers(there, device) == answers(dsn, device)
        check_that_a_worker_reads_there(dsn, there)
        run(server, *control, "promote")
        with psycopg.connect(there, autocommit=True) as db:
            db.execute("SELECT ml_train_forest(%s)", [device])
            db.execute("CALL ml_scan()")
    finally:
        run(server, *control, "-m", "fast", "stop")


def check_that_a_worker_reads_there(dsn, there):
    """A training reads the replica's rows alone; the model is stored on the primary."""
    with psycopg.connect(dsn, autocommit=True) as db, psycopg.connect(there) as copy:
        copy.autocommit = True
        new = "INSERT INTO devices VALUES (gen_random_uuid(), 'read') RETURNING uuid::text"
        (device,) = db.execute(new).fetchone()
        db.execute(ROWS, {"device": device, "readings": 300, "interval": 60})
        # Commits do not wait for the disk here: what was inserted may be written later.
        written = db.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        while copy.execute("SELECT pg_last_wal_replay_lsn() < %s::pg_lsn", written).fetchone()[0]:
            time.sleep(0.05)
        copy.execute("SELECT pg_wal_replay_pause()")
        db.execute(ROWS, {"device": device, "readings": 50, "interval": 7})
        outcome = job.retrain_one(dsn, there, device, "forest", "")
        assert outcome == ((device, "forest", ""), "trained", "")
        used = "SELECT readings_used FROM ml_model WHERE device_uuid = %s AND kind = 'forest'"
        assert db.execute(used, [device]).fetchone() == (300,)


def test_settings_and_metrics_are_replicated(server, primary):
    dsn, _ = primary
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("ALTER SYSTEM SET wal_level = logical")
    server.cluster.stop()
    server.start()
    there = server.database("follower")
    assert held(there) != held(dsn)
    with server.connect("fleet") as db, server.connect("follower") as copy:
        db.execute("CREATE PUBLICATION settings FOR TABLE ml_setting, ml_metric")
        # A slot that is made by the subscription would wait for this very transaction.
        db.execute("SELECT pg_create_logical_replication_slot('settings', 'pgoutput')")
        copy.execute(
            f"CREATE SUBSCRIPTION settings CONNECTION '{dsn}' PUBLICATION settings"
            " WITH (create_slot = false)"
        )
        try:
            wait_for(lambda: held(there) == held(dsn), server)  # what there was
            db.execute("UPDATE ml_setting SET value = '33' WHERE name = 'n_estimators'")
            db.execute("INSERT INTO ml_metric (name, path) VALUES ('later', 'system.later')")
            db.execute("DELETE FROM ml_metric WHERE name = 'own'")
            wait_for(lambda: held(there) == held(dsn), server)  # what has come
        finally:
            copy.execute("ALTER SUBSCRIPTION settings DISABLE")
            copy.execute("ALTER SUBSCRIPTION settings SET (slot_name = NONE)")
            copy.execute("DROP SUBSCRIPTION settings")


def wait_for(come, server):
    """Wait until a query gives what it has to."""
    until = time.monotonic() + 60
    while not come():
        assert time.monotonic() < until, server.log()[-2000:]
        time.sleep(0.2)
