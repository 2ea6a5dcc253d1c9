"""The user's tables are read and no more; what pyml itself locks, nobody else can take."""

import time

import psycopg
import pytest

from tests.stored import newest, put_model

from .test_privileges import READ, TRAIN

TABLES = ("devices", "device_shadow_history")
STATE = """
SELECT (SELECT md5(string_agg(t::text, '/' ORDER BY t.id)) FROM device_shadow_history t),
       (SELECT md5(string_agg(d::text || d.xmin, '/' ORDER BY d.uuid)) FROM devices d),
       (SELECT max(xmin::text::bigint) FROM device_shadow_history),
       (SELECT array_agg(to_jsonb(c) - '{relpages,reltuples,relallvisible}'::text[] ORDER BY c.oid)
        FROM pg_class c WHERE relname ~ 'device' AND relname !~ '^ml_'),
       (SELECT array_agg(to_jsonb(a) ORDER BY a.attrelid, a.attnum) FROM pg_attribute a
        WHERE attrelid IN ('devices'::regclass, 'device_shadow_history'::regclass)),
       (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'device_shadow_history'::regclass)
"""
HELD = """
SELECT DISTINCT l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.database = (SELECT oid FROM pg_database
      WHERE datname = current_database())
  AND (c.relname = ANY (%s) OR c.oid IN (SELECT indexrelid FROM pg_index
       WHERE indrelid IN ('devices'::regclass, 'device_shadow_history'::regclass)))
"""


@pytest.mark.slow
def test_no_function_takes_more_than_access_share_or_leaves_a_mark(db, dsn, one, add_modelled):
    device = add_modelled()
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    # No query of the test's own, such as one for a statistic, may stand in the way.
    db.execute("ALTER TABLE device_shadow_history SET (autovacuum_enabled = false)")
    before = db.execute(STATE).fetchone()
    with psycopg.connect(dsn, autocommit=True) as session, psycopg.connect(dsn) as holder:
        session.execute("SET lock_timeout = '2s'")
        # Whoever asks for more than ACCESS SHARE has to wait for this, and gives up.
        holder.execute(f"LOCK TABLE {', '.join(TABLES)} IN EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.execute("SELECT 1 FROM device_shadow_history FOR KEY SHARE")
        for statement in READ + TRAIN:
            text = statement.format(device=device, model=one("SELECT min(model_id) FROM ml_model"))
            session.execute(text)
            if statement.startswith("SELECT") and "lstm" not in statement:
                with session.transaction(force_rollback=True):
                    if "forget" not in statement and "rollback" not in statement:
                        session.execute(text)
                    modes = {mode for (mode,) in session.execute(HELD, [list(TABLES)])}
                assert modes <= {"AccessShareLock"}, text
        holder.rollback()
    assert db.execute(STATE).fetchone() == before


# ---- what scans and trainings take ---------------------------------------------

TAKE = "SELECT _ml_try_lock('scan', %s)"
X, Y = f"{1:032x}", f"{2:032x}"
# The keys of advisory locks that earlier scans and trainings took, and every other that a
# session can guess of a device; anybody may take them.
GUESSES = """
SELECT pg_advisory_lock(hashtext('pyml ' || task), hashtext(what)), pg_advisory_lock(hashtext(what))
FROM (VALUES ('scan', %(device)s::text), ('retrain', concat(%(device)s, '/forest/')),
    ('ml_model', concat(%(device)s, '/forest/')), ('scan slot', '1'), ('retrain slot', '1'),
    ('retain', '')) AS t (task, what)
"""
TABLES_OF_PYML = ("ml_lock", "ml_scan_state", "ml_model", "ml_job", "ml_run", "ml_setting")


@pytest.mark.slow
def test_nobody_without_the_right_to_train_can_hold_up_a_scan_or_a_training(
    db, one, connect, add_device
):
    device = add_device(readings=300)
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    for level in ("nobody", "read"):
        with connect(level) as session:
            session.execute("BEGIN")
            session.execute(GUESSES, {"device": device})
            for table in TABLES_OF_PYML:
                for statement in (
                    f"SELECT FROM {table} FOR KEY SHARE",
                    f"LOCK TABLE {table} IN ROW SHARE MODE",
                    f"DELETE FROM {table}",
                ):
                    with pytest.raises(psycopg.Error) as caught, session.transaction():
                        session.execute(statement)
                    assert caught.value.sqlstate == "42501", statement
            db.execute("SET lock_timeout = '5s'")
            db.execute("UPDATE ml_model SET trained_at = trained_at - interval '2 days'")
            db.execute("UPDATE ml_run SET started_at = started_at - interval '2 days'")
            db.execute("CALL ml_retrain(slot => 1)")
            db.execute("CALL ml_scan(slot => 1)")
            db.execute("SELECT ml_train_forest(%s)", [device])
            done = "SELECT array_agg((kind, done, passed_over)::text ORDER BY kind) FROM ml_job"
            assert one(done) == ["(retrain,1,0)", "(scan,1,0)"]
            db.execute("DELETE FROM ml_job")
            session.execute("ROLLBACK")


@pytest.mark.parametrize("known", [False, True], ids=["the first time", "known"])
def test_a_task_is_one_sessions_until_its_transaction_ends(db, dsn, one, known):
    if known:
        assert one(TAKE, X)
    with psycopg.connect(dsn) as holder:
        for _ in range(2):  # again by the same session, too
            assert holder.execute(TAKE, [X]).fetchone() == (True,)
        began = time.monotonic()
        assert not one(TAKE, X)
        assert time.monotonic() - began < 1
        assert one(TAKE, Y)
        holder.rollback()
        assert one(TAKE, X)
        # A savepoint gives back what was taken since.
        holder.execute("SAVEPOINT s")
        assert holder.execute(TAKE, [X]).fetchone() == (True,)
        holder.execute("ROLLBACK TO s")
        assert one(TAKE, X)


def test_who_holds_what_is_told(db, dsn, one):
    assert one(TAKE, X)
    with psycopg.connect(dsn) as holder:
        holder.execute(TAKE, [X])
        held = db.execute("SELECT task, what, pid, role, since < now() FROM ml_locks").fetchall()
        assert held == [("scan", X, holder.info.backend_pid, "postgres", True)]
    assert one("SELECT count(*) FROM ml_locks") == 0


def test_a_scan_passes_over_what_another_session_has(db, dsn, one, add_modelled):
    devices = [add_modelled(readings=100) for _ in range(2)]
    db.execute("CALL ml_scan()")
    with psycopg.connect(dsn) as holder:
        holder.execute(TAKE, [devices[0]])
        db.execute("CALL ml_scan()")
        job = "SELECT (done, passed_over)::text FROM ml_job ORDER BY job_id DESC LIMIT 1"
        assert one(job) == "(1,1)"
        holder.execute("SELECT _ml_try_lock('scan slot', '3')")
        db.execute("CALL ml_scan(slot => 3)")
        assert one("SELECT count(*) FROM ml_job") == 2
        holder.rollback()
    db.execute("CALL ml_scan(slot => 3)")
    assert one(job) == "(2,0)"


@pytest.mark.slow
def test_any_number_of_devices_is_forgotten_in_one_statement(db, dsn, long):
    """The server's table of locks has room for some 7,000; these would be 9,000 of them."""
    count = 20_000 if long else 3_000
    new = "INSERT INTO devices SELECT gen_random_uuid(), 'x' FROM generate_series(1, %s)"
    db.execute(new, [count])
    db.execute(
        "INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end,"
        " readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)"
        " SELECT uuid, 'lstm', f, true, now(), now(), 9, 0, '{}', '{}', '{}', 1, '', ''"
        " FROM devices, unnest('{a,b}'::text[]) AS f"
    )
    held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
    with psycopg.connect(dsn) as session:
        session.execute("SELECT ml_forget(uuid) FROM devices LIMIT 10")
        before = session.execute(held).fetchone()[0]
        gone = session.execute("SELECT sum((ml_forget(uuid) -> 'models')::int) FROM devices")
        assert gone.fetchone()[0] == 2 * count - 20
        assert session.execute(held).fetchone()[0] <= before + 5
    assert db.execute("SELECT count(*) FROM ml_model").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM ml_lock").fetchone() == (0,)


def test_forgetting_a_device_waits_for_no_training(db, dsn, one, add_device):
    device = add_device(readings=300)
    model = (device, "lstm", "system.cpuUsage")
    claim = "SELECT _ml_claim(%s, %s, %s)"
    assert one(claim, *model)
    put_model(db, device, newest("lstm"))
    with psycopg.connect(dsn) as trainer:
        db.execute("DELETE FROM ml_model")
        assert trainer.execute(claim, model).fetchone() == (True,)
        db.execute("SET lock_timeout = '5s'")
        db.execute("SELECT ml_forget(%s)", [device])
        assert not one(claim, *model)
    assert one(claim, *model)
