"""Models in force: rolled back, forgotten, looked at; who loads what; settings."""

import psycopg
import pytest


def test_rollback_puts_the_earlier_model_in_force(db, one, device):
    first = one("SELECT ml_train_forest(%s)", device)["model_id"]
    second = one("SELECT ml_train_forest(%s, contamination => 0.05)", device)["model_id"]
    told = one("SELECT ml_rollback(%s)", first)
    assert (told["model_id"], told["replaced_model_id"]) == (first, second)
    assert one("SELECT ml_detect(%s)", device)["model_info"]["model_id"] == first
    assert one("SELECT count(*) FROM ml_model WHERE is_current") == 1
    assert one("SELECT ml_rollback(%s)", first)["replaced_model_id"] is None


def test_forget_leaves_the_history(db, one, refused, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    told = one("SELECT ml_forget(%s)", device)
    assert (told["models"], told["runs"]) == (1, 1)
    assert one("SELECT count(*) FROM device_shadow_history") == 3000
    refused("SELECT ml_detect(%s)", device, sqlstate="ML002")


def test_model_info_lists_what_is_in_force_first(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    last = one("SELECT ml_train_forest(%s)", device)["model_id"]
    models = one("SELECT ml_model_info(%s)", device)["models"]
    assert [m["is_current"] for m in models] == [True, False]
    assert models[0]["model_id"] == last
    assert models[0]["versions"]["scikit-learn"]
    assert models[0]["parameters"]["seed"] == 0


def test_a_failed_training_leaves_nothing(db, one, device):
    model = one("SELECT ml_train_forest(%s)", device)["model_id"]
    db.execute("UPDATE ml_setting SET value = '1000' WHERE name = 'n_estimators'")  # takes a while
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.execute(f"SET statement_timeout = '150ms'; SELECT ml_train_forest('{device}')")
    db.execute("SET statement_timeout = 0")
    assert one("SELECT array_agg(model_id) FROM ml_model") == [model]
    assert one("SELECT ml_detect(%s)", device)["model_info"]["model_id"] == model


def test_a_backend_that_scores_loads_no_training_library(db, dsn, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute(
        "CREATE FUNCTION loaded() RETURNS text[] LANGUAGE plpython3u AS"
        " $$ import sys; return sorted(sys.modules) $$"
    )
    with psycopg.connect(dsn, autocommit=True) as fresh:
        fresh.execute("SELECT ml_detect(%s)", [device])
        modules = set(fresh.execute("SELECT loaded()").fetchone()[0])
    assert {"numpy", "pyml"} <= modules
    training = {"sklearn", "scipy", "pandas", "tensorflow", "keras", "joblib", "onnx.helper"}
    assert not modules & (training | {"onnxruntime"})


def test_a_damaged_blob_is_refused(db, refused, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute("UPDATE ml_model SET blob = substr(blob, 1, 5000)")
    said = refused("SELECT ml_detect(%s)", device, sqlstate="ML005")
    assert f"ml_train_forest('{device}')" in said.message_hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contamination", "0.9"),
        ("contamination", "much"),
        ("contamination", "NaN"),
        ("n_estimators", "10.5"),
        ("n_estimators", "-1"),
        ("history_table", "device_shadow_history"),
        ("history_table", "a.b.c"),
        ("history_time_zone", "Nowhere/At_All"),
        ("history_time_column", ""),
    ],
)
def test_a_setting_out_of_range_is_refused(refused, one, name, value):
    before = one("SELECT value FROM ml_setting WHERE name = %s", name)
    said = refused(
        "UPDATE ml_setting SET value = %s WHERE name = %s", value, name, sqlstate="ML004"
    )
    assert before in said.message_hint
    assert one("SELECT value FROM ml_setting WHERE name = %s", name) == before


def test_a_metric_that_came_with_the_extension_is_disabled_not_deleted(db, refused, one, device):
    refused("DELETE FROM ml_metric WHERE name = 'temperature'", sqlstate="ML004")
    db.execute("UPDATE ml_metric SET enabled = false WHERE name = 'temperature'")
    assert "temperature" not in one("SELECT ml_train_forest(%s)", device)["features"]


def test_the_doctor_finds_a_healthy_server(db):
    checks = {name: (ok, fix) for name, ok, _, fix in db.execute("SELECT * FROM ml_doctor()")}
    for name in ("python", "libraries", "history table", "index", "privileges"):
        assert checks[name] == (True, None), name


def test_the_doctor_says_what_to_do(db):
    db.execute("DROP TABLE device_shadow_history")
    checks = {name: (ok, fix) for name, ok, _, fix in db.execute("SELECT * FROM ml_doctor()")}
    assert checks["history table"][0] is False
    assert "ml_setting" in checks["history table"][1]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["read", "train"])
def test_grant_gives_what_the_level_needs_and_no_more(db, dsn, device, level):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute("DROP ROLE IF EXISTS pyml_test_role")
    db.execute("CREATE ROLE pyml_test_role LOGIN")
    try:
        with psycopg.connect(dsn, user="pyml_test_role", autocommit=True) as user:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                user.execute("SELECT ml_detect(%s)", [device])
            db.execute("SELECT ml_grant('pyml_test_role', %s)", [level])
            db.execute("GRANT SELECT ON device_shadow_history TO pyml_test_role")
            assert user.execute("SELECT ml_detect(%s)", [device]).fetchone()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                user.execute("UPDATE ml_setting SET value = '0.02' WHERE name = 'contamination'")
            if level == "train":
                assert user.execute("SELECT ml_train_forest(%s)", [device]).fetchone()
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    user.execute("SELECT ml_train_forest(%s)", [device])
    finally:
        db.execute("DROP OWNED BY pyml_test_role")
        db.execute("DROP ROLE pyml_test_role")


def test_grant_knows_its_levels_and_roles(refused):
    refused("SELECT ml_grant(current_user, 'all')", sqlstate="ML004")
    refused("SELECT ml_grant('nobody_here', 'read')", sqlstate="ML004")


def test_the_extension_lives_in_any_schema(db, one, device):
    db.execute("DROP EXTENSION pyml")
    assert one("SELECT count(*) FROM device_shadow_history") == 3000
    db.execute('CREATE SCHEMA "odd schema"; CREATE EXTENSION pyml SCHEMA "odd schema"')
    assert one('SELECT "odd schema".ml_train_forest(%s)', device)["training_samples"] == 3000
    assert one('SELECT "odd schema".ml_detect(%s)', device)["analyzed_points"] > 0


def test_scoring_works_where_nothing_can_be_written(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute("SET default_transaction_read_only = on")
    assert one("SELECT ml_detect(%s)", device)["analyzed_points"] > 0
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.execute("SELECT ml_train_forest(%s)", [device])
