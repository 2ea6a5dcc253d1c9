"""How pg_cron is loaded beside what the server preloads already, as the doctor says it."""

import psycopg
import pytest

DOCTOR = "SELECT ok, detail, fix FROM ml_doctor() WHERE check_name = 'pg_cron'"
LIBRARIES = "SELECT current_setting('shared_preload_libraries')"


def restart(server):
    server.cluster.control("stop", "-m", "fast")
    server.start()


def test_the_fix_keeps_what_is_preloaded(server):
    dsn = server.database()
    with psycopg.connect(dsn, autocommit=True) as db:
        known = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'"
        if db.execute(known).fetchone() == (0,):
            pytest.skip("the server has no pg_cron")
        held = "'auto_explain', '$libdir/passwordcheck'"
        db.execute(f"ALTER SYSTEM SET shared_preload_libraries = {held}")
    restart(server)
    with psycopg.connect(dsn, autocommit=True) as db:
        ok, detail, fix = db.execute(DOCTOR).fetchone()
        assert (ok, detail) == (False, "not loaded: nothing is scanned or retrained by itself")
        with pytest.raises(psycopg.Error) as caught:
            db.execute("SELECT * FROM ml_schedule()")
        assert caught.value.sqlstate == "ML006"
        db.execute(fix)
    restart(server)
    with psycopg.connect(dsn, autocommit=True) as db:
        names = db.execute(LIBRARIES).fetchone()[0].replace('"', "").split(", ")
        assert names == ["auto_explain", "$libdir/passwordcheck", "pg_cron"]
        assert db.execute(DOCTOR).fetchone()[0] is True
