"""Models in force: rolled back, forgotten, looked at; who loads what; settings."""

import re

import psycopg
import pytest

from .conftest import TRAINED

# The keys of an anomaly in the answer of ml_detect that are no metric's.
ANOMALY = {"timestamp", "is_anomaly", "anomaly_score", "severity", "rarity", "reasons"}


def test_rollback_puts_the_earlier_model_in_force(db, one, device):
    first = one("SELECT ml_train_forest(%s)", device)["model_id"]
    second = one("SELECT ml_train_forest(%s, contamination => 0.05)", device)["model_id"]
    told = one("SELECT ml_rollback(%s)", first)
    assert (told["model_id"], told["replaced_model_id"]) == (first, second)
    assert one("SELECT ml_detect(%s)", device)["model_info"]["model_id"] == first
    assert one("SELECT count(*) FROM ml_model WHERE is_current AND kind = 'forest'") == 1
    assert one("SELECT ml_rollback(%s)", first)["replaced_model_id"] is None


def test_forget_leaves_the_history(db, one, refused, device, train):
    train(device)
    told = one("SELECT ml_forget(%s)", device)
    assert (told["models"], told["runs"]) == (len(TRAINED), 1)
    assert one("SELECT count(*) FROM device_shadow_history") == 3000
    refused("SELECT ml_detect(%s)", device, sqlstate="ML002")


def test_model_info_lists_what_is_in_force_first(db, one, device, train):
    train(device)
    last = train(device)
    models = one("SELECT ml_model_info(%s)", device)["models"]
    assert [m["is_current"] for m in models] == [True] * len(TRAINED) + [False] * len(TRAINED)
    assert [m["kind"] for m in models] == TRAINED * 2
    assert models[0]["model_id"] == last
    assert models[0]["versions"]["scikit-learn"]
    assert models[0]["parameters"]["seed"] == 0


@pytest.mark.slow
def test_a_failed_training_leaves_nothing(db, one, device):
    model = one("SELECT ml_train_forest(%s)", device)["model_id"]
    db.execute("UPDATE ml_setting SET value = '1000' WHERE name = 'n_estimators'")  # takes a while
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.execute(f"SET statement_timeout = '150ms'; SELECT ml_train_forest('{device}')")
    db.execute("SET statement_timeout = 0")
    assert one("SELECT array_agg(model_id) FROM ml_model WHERE kind = 'forest'") == [model]
    assert one("SELECT ml_detect(%s)", device)["model_info"]["model_id"] == model


def test_a_backend_that_scores_loads_no_training_library(db, dsn, device, train):
    train(device)
    db.execute(
        "CREATE FUNCTION loaded() RETURNS text[] LANGUAGE plpython3u AS"
        " $$ import sys; return sorted(sys.modules) $$"
    )
    with psycopg.connect(dsn, autocommit=True) as fresh:
        fresh.execute("SELECT ml_detect(%s)", [device])
        modules = set(fresh.execute("SELECT loaded()").fetchone()[0])
    assert {"numpy", "pyml"} <= modules
    training = {"sklearn", "scipy", "pandas", "tensorflow", "keras", "joblib"}
    assert not modules & (training | {"onnx", "onnxruntime", "google.protobuf"})


def test_a_damaged_blob_is_refused(db, refused, device, train):
    train(device)
    db.execute("UPDATE ml_model SET blob = substr(blob, 1, 5000)")
    said = refused("SELECT ml_detect(%s)", device, sqlstate="ML005")
    assert f"ml_train_forest('{device}')" in said.message_hint


@pytest.mark.rolled_back
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


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forecast_fields", '["a..b"]'),
        ("forecast_fields", '[""]'),
        ("contamination", "Infinity"),
        ("contamination", "1e400"),
        ("contamination", "1e-400"),
        ("seed", "99999999999999999999"),
    ],
)
def test_a_value_that_python_cannot_use_is_refused(refused, name, value):
    refused("UPDATE ml_setting SET value = %s WHERE name = %s", value, name, sqlstate="ML004")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("contamination", "0x1p-6", 0.015625),
        ("contamination", " 0.02 ", 0.02),
        ("contamination", "1_0e-3", 0.01),
        ("contamination", "2E-2", 0.02),
        ("n_estimators", " 20 ", 20),
        ("n_estimators", "0x14", 20),
        ("n_estimators", "2_0", 20),
    ],
)
def test_a_number_is_kept_as_anybody_reads_it_or_refused(db, one, device, train, name, value, kept):
    """What PostgreSQL takes for a number differs between its releases, and from Python."""
    refusal = None
    try:
        db.execute("UPDATE ml_setting SET value = %s WHERE name = %s", [value, name])
    except psycopg.Error as error:
        refusal = error.sqlstate
    assert refusal in (None, "ML004")
    written = one("SELECT value FROM ml_setting WHERE name = %s", name)
    assert re.fullmatch(r"[0-9.]+", written)
    assert float(written) == kept or refusal
    assert one("SELECT readings_used FROM ml_model WHERE model_id = %s", train(device)) == 3000
    assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'forest'", device) == 0


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ml_setting",
        "DELETE FROM ml_setting WHERE name = 'seed'",
        "TRUNCATE ml_setting",
        "UPDATE ml_setting SET name = 'another' WHERE name = 'seed'",
        "UPDATE ml_setting SET maximum = 5 WHERE name = 'contamination'",
        "TRUNCATE ml_metric CASCADE",
    ],
)
def test_no_setting_goes(db, refused, one, statement):
    before = one("SELECT count(*) FROM ml_setting")
    db.execute(refused(statement, sqlstate="ML004").message_hint)
    assert one("SELECT count(*) FROM ml_setting") == before


@pytest.mark.rolled_back
def test_metrics_that_rules_may_name_do_not_go_alone(refused):
    assert refused("TRUNCATE ml_metric", sqlstate="0A000")


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("path", path) for path in ("", "a..b", ".a", "a.", ".", "a" * 1001)),
        *(("divisor_path", path) for path in ("", "a..b")),
        *(("scale", number) for number in ("0", "NaN", "Infinity")),
        *(("lower_bound", number) for number in ("NaN", "-Infinity")),
        *(("upper_bound", number) for number in ("NaN", "Infinity", "1e300", "-1")),
        ("kind", "other"),
        *(("unit", unit) for unit in ("", "a" * 21, "a\nb", "\x7f")),
        *(("limit_low", number) for number in ("NaN", "-Infinity", "-2e15", "9", "10")),
        *(("limit_high", number) for number in ("NaN", "Infinity", "2e15", "-1")),
        *(("direction", way) for way in ("", "UP", "down ", None)),
        *(("least_deviation", number) for number in ("NaN", "Infinity", "-1", "2e15")),
        *(("name", name) for name in ("", "A", "1a", "a b", "a" * 64)),
        *(("name", f"{key}") for key in sorted(ANOMALY)),
    ],
)
@pytest.mark.parametrize("how", ["insert", "update"])
def test_a_metric_that_cannot_be_read_is_refused(db, refused, column, value, how):
    row = {"name": "own", "path": "own", "lower_bound": "0"} | {column: value}
    row |= {} if column == "limit_high" else {"limit_high": "9"}
    row |= {} if column == "limit_low" else {"limit_low": "5"}
    if how == "insert":
        names, places = ", ".join(row), ", ".join(["%s"] * len(row))
        statement = f"INSERT INTO ml_metric ({names}) VALUES ({places})"
    else:
        db.execute("INSERT INTO ml_metric (name, path) VALUES ('own', 'own')")
        changes = ", ".join(f"{name} = %s" for name in row)
        statement = f"UPDATE ml_metric SET {changes} WHERE name = 'own'"
    refused(statement, *row.values(), sqlstate="ML004")


def test_no_metric_hides_a_key_of_an_anomaly(db, one, device, train):
    """Also where a row of an earlier release has such a name."""
    db.execute("ALTER TABLE ml_metric DISABLE TRIGGER ml_metric_keep")
    for key in ANOMALY:
        db.execute("INSERT INTO ml_metric (name, path) VALUES (%s, 'system.cpuUsage')", [key])
    train(device)
    db.execute(
        "UPDATE device_shadow_history SET reported_state ="
        " jsonb_set(reported_state, '{system,cpuUsage}', '99')"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '10 minutes'"
    )
    anomalies = one("SELECT ml_detect(%s, hours => 1)", device)["anomalies"]
    assert anomalies
    for anomaly in anomalies:
        assert anomaly["is_anomaly"] is True
        assert anomaly["severity"] in ("warning", "critical")
        assert anomaly["timestamp"].endswith("+00:00")
        assert anomaly["anomaly_score"] < 0
        assert isinstance(anomaly["reasons"], list)


@pytest.mark.long
def test_standard_conforming_strings_change_nothing(db, dsn, one, device):
    """Literals in functions and statements are read as the session has it."""
    warned = []
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    options = "-c standard_conforming_strings=off -c escape_string_warning=on"
    with psycopg.connect(dsn, autocommit=True, options=options) as session:
        session.add_notice_handler(lambda notice: warned.append(notice.message_primary))
        with pytest.raises(psycopg.Error) as caught:
            session.execute("SELECT * FROM ml_schedule()")
        assert caught.value.sqlstate == "ML006"  # of pg_cron, not of the schedule
        session.execute("CALL ml_retrain()")
        session.execute("CALL ml_scan()")
        for call in (
            "ml_detect('{}')",
            "ml_forecast('{}')",
            "ml_predict('{}', 'cpu_usage')",
            "ml_zscore('{}', 'cpu_usage')",
            "ml_chart('{}')",
            "ml_model_info('{}')",
            "ml_doctor()",
            "ml_discover()",
            "ml_forget('{}')",
        ):
            if "predict" in call:
                session.execute("SELECT ml_train_lstm(%s, 'cpu_usage')", [device])
            session.execute(f"SELECT * FROM {call.format(device)}")
    assert [text for text in warned if "escape" in text or "nonstandard" in text] == []


@pytest.mark.slow
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
    assert ".ml_setup(" in checks["history table"][1]


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


@pytest.mark.rolled_back
def test_grant_knows_its_levels_and_roles(refused):
    refused("SELECT ml_grant(current_user, 'all')", sqlstate="ML004")
    refused("SELECT ml_grant('nobody_here', 'read')", sqlstate="ML004")
    refused("SELECT ml_grant(NULL, 'read')", sqlstate="ML004")
    refused("SELECT ml_grant(NULL, NULL)", sqlstate="ML004")
    refused("SELECT ml_grant(current_user, NULL)", sqlstate="ML004")


@pytest.mark.slow
def test_the_extension_lives_in_any_schema(db, one, device):
    db.execute("DROP EXTENSION pyml")
    assert one("SELECT count(*) FROM device_shadow_history") == 3000
    db.execute('CREATE SCHEMA "odd schema"; CREATE EXTENSION pyml SCHEMA "odd schema"')
    assert one('SELECT "odd schema".ml_train_forest(%s)', device)["training_samples"] == 3000
    assert one('SELECT "odd schema".ml_detect(%s)', device)["analyzed_points"] > 0


@pytest.mark.slow
def test_scoring_works_where_nothing_can_be_written(db, one, device, train):
    train(device)
    db.execute("SET default_transaction_read_only = on")
    assert one("SELECT ml_detect(%s)", device)["analyzed_points"] > 0
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.execute("SELECT ml_train_forest(%s)", [device])
