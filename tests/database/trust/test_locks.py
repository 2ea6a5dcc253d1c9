"""The user's tables are read and no more: not written, not altered, hardly locked."""

import psycopg
import pytest

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
def test_no_door_takes_more_than_access_share_or_leaves_a_mark(db, dsn, one, add_modelled):
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
