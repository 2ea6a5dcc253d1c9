"""ml_schedule and ml_unschedule on the pg_cron of the test's server."""

import time

import psycopg
import pytest


@pytest.fixture
def home(db, dsn):
    """pg_cron's own database, with the extension and none of this test's jobs left after."""
    name = db.execute("SELECT current_setting('cron.database_name', true)").fetchone()[0]
    if name is None:
        pytest.skip("the server does not load pg_cron")
    with psycopg.connect(dsn, dbname=name, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS pg_cron")
        yield conn
        conn.execute(
            "SELECT cron.unschedule(jobid) FROM cron.job WHERE database = %s", [db.info.dbname]
        )


def jobs(home, db):
    found = home.execute(
        "SELECT jobname, schedule, command FROM cron.job WHERE database = %s ORDER BY jobid",
        [db.info.dbname],
    )
    return found.fetchall()


def test_from_another_database_it_says_what_to_run_there(db, home, refused):
    said = refused("SELECT * FROM ml_schedule(workers => 2)", sqlstate="ML006")
    home.execute(said.message_hint)
    first = jobs(home, db)
    assert [command.partition("END IF; ")[2] for *_, command in first] == [
        "CALL public.ml_scan(slot => 1); END $$",
        "CALL public.ml_scan(slot => 2); END $$",
        "CALL public.ml_retrain(slot => 1); END $$",
        "CALL public.ml_retrain(slot => 2); END $$",
    ]
    home.execute(said.message_hint)
    assert jobs(home, db) == first
    home.execute(refused("SELECT ml_unschedule()", sqlstate="ML006").message_hint)
    assert jobs(home, db) == []


@pytest.mark.slow
def test_what_is_scheduled_runs(db, dsn, home, one, add_device, refused, long):
    """In a schema whose name has to be quoted in each command; `--long` waits for pg_cron."""
    db.execute('DROP EXTENSION pyml; CREATE SCHEMA "odd Schema"')
    db.execute('CREATE EXTENSION pyml SCHEMA "odd Schema"')
    db.execute('SET search_path = "odd Schema", public')
    device = add_device(readings=300)
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    said = refused("SELECT * FROM ml_schedule('* * * * *', '* * * * *')", sqlstate="ML006")
    home.execute(said.message_hint)
    scheduled = jobs(home, db)
    assert [schedule for _, schedule, _ in scheduled] == ["* * * * *"] * 2
    if not long:  # at once, in a session as pg_cron has it
        home.execute("UPDATE cron.job SET active = false WHERE database = %s", [db.info.dbname])
        with psycopg.connect(dsn, autocommit=True) as conn:
            for *_, command in scheduled:
                conn.execute(command.encode())
    until = time.monotonic() + 75
    while one("SELECT count(*) FROM ml_job WHERE finished_at IS NOT NULL") < 2:
        assert time.monotonic() < until, home.execute(
            "SELECT status, return_message FROM cron.job_run_details ORDER BY runid DESC LIMIT 2"
        ).fetchall()
        time.sleep(0.5)
    assert (
        one("SELECT count(*) FROM ml_models WHERE device_uuid = %s AND kind = 'forest'", device)
        == 1
    )
    assert one("SELECT count(*) FROM ml_scan_state") == 1
    assert {row[0] for row in db.execute("SELECT slot FROM ml_job")} == {1}


def test_in_pg_crons_own_database(db, home):
    home.execute("DROP SCHEMA IF EXISTS pyml_here CASCADE")
    home.execute("CREATE SCHEMA pyml_here")
    home.execute("CREATE EXTENSION IF NOT EXISTS plpython3u")
    home.execute("CREATE EXTENSION pyml SCHEMA pyml_here")
    try:
        mine = (
            "SELECT command FROM cron.job WHERE jobname LIKE 'pyml %'"
            " AND database = current_database() ORDER BY jobid"
        )
        for workers in (3, 1):
            rows = home.execute(
                "SELECT * FROM pyml_here.ml_schedule(workers => %s)", [workers]
            ).fetchall()
            assert len(rows) == 2 * workers
            assert [command for (command,) in home.execute(mine)] == [row[2] for row in rows]
        assert rows[0][2].endswith("CALL pyml_here.ml_scan(slot => 1); END $$")
        with pytest.raises(psycopg.Error) as caught:
            home.execute("SELECT pyml_here.ml_schedule('61 * * * *')")
        assert caught.value.sqlstate == "ML004"
        assert len(home.execute("SELECT pyml_here.ml_unschedule()").fetchall()) == 2
        assert home.execute("SELECT count(*) FROM pyml_here.ml_unschedule()").fetchone() == (0,)
        assert home.execute(mine).fetchall() == []
    finally:
        home.execute("DROP SCHEMA pyml_here CASCADE")


def test_bad_schedules_are_refused(refused):
    refused("SELECT ml_schedule('every day')", sqlstate="ML004")
    refused("SELECT ml_schedule(workers => 0)", sqlstate="ML004")


def test_a_run_is_passed_over_while_the_last_one_is_going(db, dsn, one, add_device):
    add_device(readings=200)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT _ml_slot_is_free('scan', 1)")
        db.execute("CALL ml_scan(slot => 1)")
        assert one("SELECT count(*) FROM ml_job") == 0
        db.execute("CALL ml_scan(slot => 2)")
        assert one("SELECT count(*) FROM ml_job") == 1
    db.execute("CALL ml_scan(slot => 1)")
    assert one("SELECT count(*) FROM ml_job WHERE slot = 1") == 1


def test_a_run_queued_behind_the_last_one_is_passed_over(db, one, add_device):
    add_device(readings=200)
    db.execute(
        "INSERT INTO ml_job (kind, slot, total, started_at, finished_at)"
        " VALUES ('scan', 1, 1, clock_timestamp() - interval '3 minutes', clock_timestamp())"
    )
    free = one("SELECT _ml_slot_is_free('scan', 1)")
    assert free is False
    db.execute("UPDATE ml_job SET finished_at = finished_at - interval '1 minute'")
    assert one("SELECT _ml_slot_is_free('scan', 1)") is True


def test_the_doctor_sees_the_schedule_and_a_job_that_fails(home, db):
    home.execute("DROP SCHEMA IF EXISTS pyml_seen CASCADE")
    home.execute("CREATE SCHEMA pyml_seen")
    home.execute("CREATE EXTENSION IF NOT EXISTS plpython3u")
    home.execute("CREATE EXTENSION pyml SCHEMA pyml_seen")
    ask = "SELECT ok, detail, fix FROM pyml_seen.ml_doctor() WHERE check_name = 'schedule'"
    ended = (
        "INSERT INTO cron.job_run_details (jobid, runid, database, username, command, status,"
        " return_message) SELECT jobid, nextval('cron.runid_seq'), database, username, command,"
        " %s, %s FROM cron.job WHERE jobname LIKE 'pyml scan%%' AND database = current_database()"
    )
    try:
        ok, detail, fix = home.execute(ask).fetchone()
        assert (ok, detail) == (False, "within a day nobody has called ml_scan or ml_retrain")
        home.execute(fix)
        ok, detail, fix = home.execute(ask).fetchone()
        assert (ok, fix) == (True, None)
        assert f"pyml scan 1 ({home.info.dbname}), */5 * * * *" in detail
        home.execute(ended, ["failed", "ERROR: no such schema"])
        ok, detail, fix = home.execute(ask).fetchone()
        assert (ok, detail) == (False, "the last run of a job failed: ERROR: no such schema")
        assert "ERROR: no such schema" in [row[2] for row in home.execute(fix)]
        home.execute(ended, ["succeeded", "CALL"])
        assert home.execute(ask).fetchone()[0] is True
    finally:
        home.execute("SELECT pyml_seen.ml_unschedule()")
        home.execute("DROP SCHEMA pyml_seen CASCADE")
