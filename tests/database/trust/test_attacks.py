"""What a user may try from within SQL: other objects of the same name, settings, names, views."""

import psycopg
import pytest
from psycopg import sql

WINDOW = {"since": "now() - interval '2 hours'", "until": "now()"}
# Statements whose answer on a fixed window is the same from call to call.
SCORES = "SELECT anomaly_score, severity FROM ml_score('{device}', '{since}', '{until}')"
ANSWERS = (
    SCORES,
    "SELECT predicted_value, confidence_upper FROM ml_predict('{device}', 'system.cpuUsage',"
    " as_of => '{until}')",
    "SELECT value, z_score FROM ml_zscore('{device}', 'memory_usage_percent')",
    "SELECT ml_detect('{device}') ->> 'anomalies'",
    "SELECT ml_model_info('{device}') ->> 'models'",
)
# As a hostile schema holds them: each would leave a trace, or break what uses it.
SHADOWS = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.spy() RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'a shadow was called' USING ERRCODE = 'XX001'; END $$;
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT hostile.spy()::timestamptz $$;
CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT hostile.spy()::timestamptz $$;
CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS
    $$ SELECT hostile.spy() $$;
CREATE FUNCTION hostile._ml_answer(jsonb) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT hostile.spy()::jsonb $$;
CREATE FUNCTION hostile._ml_devices() RETURNS SETOF uuid LANGUAGE sql AS
    $$ SELECT hostile.spy()::uuid $$;
CREATE FUNCTION hostile.format(text, uuid) RETURNS text LANGUAGE sql AS $$ SELECT hostile.spy() $$;
CREATE FUNCTION hostile.same(uuid, uuid) RETURNS boolean LANGUAGE sql AS
    $$ SELECT hostile.spy()::boolean $$;
CREATE OPERATOR hostile.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = hostile.same);
CREATE DOMAIN hostile.uuid AS text CHECK (hostile.spy() IS NULL);
CREATE DOMAIN hostile.text AS int CHECK (hostile.spy() IS NULL);
CREATE DOMAIN hostile.timestamptz AS int CHECK (hostile.spy() IS NULL);
CREATE DOMAIN hostile.jsonb AS int CHECK (hostile.spy() IS NULL);
CREATE TABLE hostile.ml_model (model_id int);
CREATE TABLE hostile.ml_setting (name int);
CREATE TABLE hostile.numpy (pyml int);
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
"""
TEMPORARY = """
CREATE TEMP TABLE ml_model (model_id int); CREATE TEMP TABLE ml_setting (name int);
CREATE TEMP TABLE ml_metric (name int); CREATE TEMP TABLE ml_scan_state (name int);
CREATE TEMP TABLE device_shadow_history (device_uuid int); CREATE TEMP TABLE pg_class (x int);
CREATE TEMP VIEW pg_attribute AS SELECT 1 AS x;
"""
NAMES = (
    "a.b'}",
    'quo"te',
    "com,ma",
    "{bra,ces}",
    "$.path ? (@ > 1)",
    "back\\slash",
    "'; DROP TABLE ml_model; --",
    "%s %I %1$s {0}",
    "ünïcødé ☃ 🛰",
    "new\nline",
    "..",
    ".",
    "NULL",
    "x" * 1000,
    "x" * 10_000,
    "",
)
# Parameters that are text: some values of each that say something else than the default.
TEXTS = {
    "client_encoding": ["LATIN1", "EUC_JP"],
    "DateStyle": ["German, DMY", "SQL, MDY", "Postgres"],
    "TimeZone": ["Asia/Kathmandu", "America/St_Johns", "-15:59"],
    "search_path": ["", "pg_temp", "hostile, pg_temp, pg_catalog"],
    "default_table_access_method": ["heap"],
    "application_name": ["'\"; --"],
    "lc_numeric": ["C", "POSIX"],
    "timezone_abbreviations": ["Australia", "India"],
}


@pytest.fixture
def device(add_modelled):
    return add_modelled()


@pytest.fixture
def answers(one, device):
    """Asks every function about one fixed window, in a given session."""
    window = {name: one(f"SELECT ({moment})::text") for name, moment in WINDOW.items()}

    def ask(session, prefix="", statements=ANSWERS):
        texts = [text.format(device=device, **window) for text in statements]
        return [
            session.execute(text.replace(" ml_", f" {prefix}ml_"), binary=True).fetchall()
            for text in texts
        ]

    return ask


@pytest.mark.slow
def test_objects_of_the_same_names_are_not_taken_for_ours(db, connect, answers, device):
    db.execute(SHADOWS)
    with connect("train") as session:
        expected = answers(session)
        session.execute(TEMPORARY)
        for path in ("hostile, pg_catalog, public", "pg_temp, hostile, pg_catalog", "hostile"):
            session.execute(f"SET search_path = {path}")
            assert answers(session, "public.") == expected
            session.execute("CALL public.ml_scan()")
            session.execute("CALL public.ml_retrain(minutes => 0)")
        session.execute(f"SELECT public.ml_train_forest('{device}')")
    with connect("train") as session:  # compiled for the first time on that path
        session.execute(TEMPORARY)
        session.execute("SET search_path = pg_temp, hostile, pg_catalog")
        session.execute("CALL public.ml_scan()")
        session.execute("CALL public.ml_retrain(minutes => 0)")
        session.execute(f"SELECT public.ml_forget('{device}')")


@pytest.mark.long
def test_no_parameter_changes_an_answer(db, connect, answers):
    known = db.execute(
        "SELECT name, vartype, min_val, max_val, enumvals FROM pg_settings"
        " WHERE context = 'user' AND name NOT LIKE 'transaction%' AND name <> 'role'"
        " AND name <> 'session_authorization'"
    ).fetchall()
    tried = 0
    with connect("read") as session:
        expected = answers(session)
        for name, kind, low, high, words in known:
            values = {
                "bool": ["on", "off"],
                "enum": words,
                "string": TEXTS.get(name, []),
            }.get(kind, [low, high])
            for value in values:
                try:
                    session.execute("SELECT set_config(%s, %s, false)", [name, value])
                except psycopg.Error:  # not for this role, or not on this system
                    continue
                found = answers(session, "public.", ANSWERS[:3])
                assert found[:2] == expected[:2], (name, value)
                # Another plan may add numbers up in another order.
                for row, known_row in zip(found[2], expected[2], strict=True):
                    assert row == pytest.approx(known_row, rel=1e-9), (name, value)
                session.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))
                tried += 1
    assert tried > 150


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_a_field_of_any_name_is_a_field_or_a_mistake(db, one, device, name):
    told = []
    for statement in (
        "SELECT ml_forecast(%s, %s)",
        "SELECT * FROM ml_predict(%s, %s)",
        "SELECT ml_train_lstm(%s, %s)",
        "SELECT * FROM ml_zscore(%s, %s)",
    ):
        with pytest.raises(psycopg.Error) as caught:
            db.execute(statement, [device, name])
        assert caught.value.sqlstate in ("ML002", "ML003", "ML004")
        assert "Traceback" not in (caught.value.diag.context or "")
        told.append(caught.value.diag.message_hint)
    for hint in told:  # which is a statement to type, whatever is in it
        try:
            db.execute(hint)
        except psycopg.Error as error:
            assert error.sqlstate[:2] == "ML", hint  # noqa: PT017 (either is well)
    assert one("SELECT count(*) FROM ml_model WHERE trained_with IS NULL") == 2


@pytest.mark.slow
def test_a_key_of_any_name_is_read(db, one, device):
    for name in ("quo\"te'}", "com,ma {bra,ces}", "back\\slash\n%s", "☃ 🛰", "x" * 400):
        db.execute(
            "UPDATE device_shadow_history SET reported_state = reported_state ||"
            " jsonb_build_object(%s::text, jsonb_build_object(%s::text, id %% 7))",
            [name, name],
        )
        path = f"{name}.{name}"
        assert one("SELECT count(*) FROM ml_zscore(%s, %s)", device, path) == 600
        db.execute("DELETE FROM ml_metric WHERE name = 'odd'")
        db.execute("INSERT INTO ml_metric (name, path) VALUES ('odd', %s)", [path])
        assert "odd" in one("SELECT ml_train_forest(%s) -> 'features'", device)
        assert one("SELECT ml_detect(%s) -> 'analyzed_points'", device) == 600


def test_a_view_with_side_effects_acts_as_whoever_asks(db, connect, answers, roles):
    db.execute(
        "CREATE TABLE seen (by_whom name);"
        "CREATE FUNCTION look() RETURNS boolean LANGUAGE plpgsql VOLATILE AS"
        " $$ BEGIN INSERT INTO seen VALUES (current_user); RETURN true; END $$;"
        "CREATE VIEW watched AS SELECT * FROM device_shadow_history WHERE look();"
        f"GRANT SELECT ON watched TO {roles['read']}; GRANT INSERT ON seen TO {roles['read']}"
    )
    with connect("read") as session:
        expected = answers(session)
        db.execute("UPDATE ml_setting SET value = 'public.watched' WHERE name = 'history_table'")
        assert answers(session) == expected
        assert db.execute("SELECT DISTINCT by_whom FROM seen").fetchall() == [(roles["read"],)]
        db.execute(f"REVOKE INSERT ON seen FROM {roles['read']}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            answers(session, statements=ANSWERS[:1])
        db.execute(f"GRANT INSERT ON seen TO {roles['read']}")
        session.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            answers(session, statements=ANSWERS[:1])


def test_a_python_that_somebody_prepared_is_not_used(db, dsn, device):
    db.execute(
        "CREATE FUNCTION prepare_python() RETURNS void LANGUAGE plpython3u AS $$"
        " import sys, types; fake = types.ModuleType('numpy'); fake.__version__ = '0';"
        " fake.__file__ = '/nowhere/numpy.py'; sys.modules['numpy'] = fake $$"
    )
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SELECT prepare_python()")
        with pytest.raises(psycopg.Error) as caught:
            session.execute("SELECT ml_detect(%s)", [device])
    assert caught.value.sqlstate == "ML006"
    assert caught.value.diag.message_hint.startswith("Reconnect")
    assert "Traceback" not in (caught.value.diag.context or "")


def test_the_doctor_sees_who_could_put_functions_beside_ours(db):
    def schema():
        ask = "SELECT ok, fix FROM ml_doctor() WHERE check_name = 'schema'"
        return db.execute(ask).fetchone()

    assert schema() == (True, None)
    db.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    ok, fix = schema()
    assert not ok
    db.execute(fix)
    assert schema() == (True, None)
