"""The extension as an object: created in any schema, dropped without a trace."""

import psycopg
import pytest
from psycopg.sql import SQL, Identifier


@pytest.mark.parametrize("schema", ["public", "telemetry", "Mixed Case"])
def test_any_schema_will_do(db: psycopg.Connection, schema: str) -> None:
    name = Identifier(schema)
    db.execute("DROP EXTENSION pyml")
    db.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
    db.execute(SQL("CREATE EXTENSION pyml SCHEMA {}").format(name))
    doctor = SQL("SELECT check_name, detail FROM {}.ml_doctor() WHERE NOT ok").format(name)
    later = ("pg_cron", "schedule")  # which need not be there yet
    wrong = [row for row in db.execute(doctor) if row[0] not in later]
    assert wrong == []
    with db.transaction(force_rollback=True):  # a role belongs to the whole server
        db.execute("CREATE ROLE pyml_reader")
        db.execute(SQL("SELECT {}.ml_grant('pyml_reader', 'read')").format(name))
        allowed = SQL("SELECT has_schema_privilege('pyml_reader', {}, 'USAGE')").format(schema)
        assert db.execute(allowed).fetchone() == (True,)
    # A hint can be typed as it is, though the schema is not on the search_path.
    with pytest.raises(psycopg.Error, match="has no forest") as first:
        db.execute(SQL("SELECT {}.ml_detect(gen_random_uuid())").format(name))
    with pytest.raises(psycopg.Error, match="there is no device") as second:
        db.execute(first.value.diag.message_hint)
    assert db.execute(second.value.diag.message_hint).fetchall() == []


def test_a_drop_leaves_the_users_tables(db: psycopg.Connection) -> None:
    db.execute("INSERT INTO devices VALUES (gen_random_uuid(), 'kept')")
    db.execute("""INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
                  SELECT uuid, '{}', now() FROM devices""")
    db.execute("DROP EXTENSION pyml")
    left = db.execute("SELECT relname FROM pg_class WHERE relname LIKE 'ml\\_%'").fetchall()
    rows = db.execute("SELECT count(*) FROM device_shadow_history").fetchone()
    assert (left, rows) == ([], (1,))
