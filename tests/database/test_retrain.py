"""ml_retrain: what is due, the oldest first, shared by whoever calls."""

import threading

import psycopg
import pytest

from pyml.workers import job

RUNS = "SELECT outcome FROM ml_run WHERE device_uuid = %s ORDER BY run_id"
DUE = "SELECT reason FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'forest'"
BECAME_USUAL = """
INSERT INTO ml_incident (device_uuid, kind, state, severity, leading_metric, started_at, opened_at,
    ended_at, resolved_at, why, summary, evidence, updated_at)
SELECT %s, 'level', 'resolved', 'warning', 'temperature', t - interval '3 days', t, t, t, %s,
    'temperature has been at 70 °C', '{}', t
FROM clock_timestamp() AS t
"""
HOURS_PASS = "UPDATE ml_model SET trained_at = trained_at - make_interval(hours => %s)"


@pytest.fixture(autouse=True)
def _forests_only(db):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")


def runs(db, device):
    return [outcome for (outcome,) in db.execute(RUNS, [device])]


def pass_hours(db, hours):
    db.execute(HOURS_PASS, [hours])
    db.execute("UPDATE ml_run SET started_at = started_at - make_interval(hours => %s)", [hours])


def test_it_trains_each_device_once(db, one, add_device):
    devices = [add_device(readings=300) for _ in range(3)]
    db.execute("CALL ml_retrain()")
    assert one("SELECT count(*) FROM ml_model WHERE is_current AND kind = 'forest'") == 3
    db.execute("CALL ml_retrain()")
    assert [runs(db, device) for device in devices] == [["trained"]] * 3


def test_why_a_device_is_due(db, one, device):
    assert one(DUE, device) == "never trained"
    db.execute("CALL ml_retrain()")
    assert db.execute(DUE, [device]).fetchone() is None
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'n_estimators'")
    assert one(DUE, device) == "changed"
    db.execute("UPDATE ml_setting SET value = default_value WHERE name = 'n_estimators'")
    db.execute("UPDATE ml_metric SET enabled = false WHERE name = 'temperature'")
    assert one(DUE, device) == "changed"
    db.execute("UPDATE ml_metric SET enabled = true")
    assert db.execute(DUE, [device]).fetchone() is None
    db.execute(BECAME_USUAL, [device, "over"])
    assert db.execute(DUE, [device]).fetchone() is None
    db.execute(BECAME_USUAL, [device, "became usual"])
    assert one(DUE, device) == "became usual"
    db.execute("CALL ml_retrain()")
    assert db.execute(DUE, [device]).fetchone() is None
    pass_hours(db, 25)
    assert one(DUE, device) == "aged"


@pytest.mark.slow
def test_the_oldest_comes_first_and_time_can_run_out(db, one, add_device):
    old, new = (add_device(readings=300) for _ in range(2))
    db.execute("CALL ml_retrain(%s)", [old])
    pass_hours(db, 5)
    db.execute("CALL ml_retrain(%s)", [new])
    pass_hours(db, 25)
    db.execute("CALL ml_retrain(minutes => 0)")
    assert one("SELECT count(*) FROM ml_run") == 2
    db.execute("CALL ml_retrain()")
    last = db.execute("SELECT device_uuid::text FROM ml_run ORDER BY run_id DESC LIMIT 2")
    assert [device for (device,) in last] == [new, old]


@pytest.mark.slow
def test_a_failure_is_recorded_stops_nobody_and_waits_longer_each_time(db, one, add_device):
    poor, rich = add_device(readings=20), add_device(readings=300)
    db.execute("CALL ml_retrain()")
    assert runs(db, rich) == ["trained"]
    assert one("SELECT sqlstate FROM ml_run WHERE device_uuid = %s", poor) == "ML001"
    assert "20 usable readings" in one("SELECT error FROM ml_run WHERE device_uuid = %s", poor)
    waits = []
    for _ in range(3):
        waited = 0
        while db.execute(DUE, [poor]).fetchone() is None:
            db.execute("UPDATE ml_run SET started_at = started_at - interval '5 minutes'")
            waited += 5
        waits.append(waited)
        db.execute("CALL ml_retrain(%s)", [poor])
    assert waits == [15, 30, 60]


@pytest.mark.slow
def test_a_change_of_what_is_trained_ends_the_wait(db, one, add_device):
    poor = add_device(readings=60)
    db.execute("CALL ml_retrain()")
    assert runs(db, poor) == ["failed"]
    assert db.execute(DUE, [poor]).fetchone() is None
    for change in (
        "UPDATE ml_setting SET value = '61' WHERE name = 'min_training_samples'",
        "INSERT INTO ml_metric (name, path) VALUES ('own', 'system.own')",
        "UPDATE ml_metric SET path = 'system.other' WHERE name = 'own'",
    ):
        db.execute(change)
        assert one(DUE, poor) == "never trained", change
        db.execute("CALL ml_retrain()")
        assert db.execute(DUE, [poor]).fetchone() is None
    db.execute("DELETE FROM ml_metric WHERE name = 'own'")  # so it was tried before
    assert db.execute(DUE, [poor]).fetchone() is None
    db.execute("UPDATE ml_setting SET value = '7' WHERE name = 'anomaly_days'")  # no matter here
    db.execute("CALL ml_retrain()")
    assert db.execute(DUE, [poor]).fetchone() is None
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'min_training_samples'")
    db.execute("CALL ml_retrain()")
    assert runs(db, poor)[-1] == "trained"


def test_a_worker_hears_of_the_change_too(db, dsn, one, add_device):
    poor = add_device(readings=60)
    assert job.retrain_one(dsn, None, poor, "forest", "")[1] == "failed"
    assert job.retrain_one(dsn, None, poor, "forest", "")[1] == "passed over"
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'min_training_samples'")
    assert job.retrain_one(dsn, None, poor, "forest", "")[1] == "trained"
    job.connection(dsn).close()


GIVEN = "SELECT parameters -> 'given' FROM ml_model WHERE is_current AND kind = %s"
USED = "SELECT parameters ->> %s FROM ml_model WHERE is_current AND kind = %s"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["backend", "worker"])
def test_arguments_that_a_person_gave_stay(db, dsn, one, device, where):
    def retrain():
        if where == "backend":
            db.execute("CALL ml_retrain()")
        else:
            job.retrain_one(dsn, None, device, "forest", "")
            job.connection(dsn).close()

    db.execute("SELECT ml_train_forest(%s, hours => 20, contamination => 0.002)", [device])
    given = {"hours": 20, "contamination": 0.002}
    assert one(GIVEN, "forest") == given
    assert one("SELECT ml_model_info(%s)", device)["models"][0]["parameters"]["given"] == given
    assert db.execute(DUE, [device]).fetchone() is None
    db.execute("UPDATE ml_setting SET value = '0.05' WHERE name = 'contamination'")
    assert db.execute(DUE, [device]).fetchone() is None
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'n_estimators'")
    assert one(DUE, device) == "changed"
    retrain()
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 2
    assert one(GIVEN, "forest") == given
    assert (one(USED, "hours", "forest"), one(USED, "contamination", "forest")) == ("20", "0.002")
    assert (one(USED, "n_estimators", "forest")) == "50"
    assert db.execute(DUE, [device]).fetchone() is None
    # A call without them follows the settings again.
    db.execute("SELECT ml_train_forest(%s)", [device])
    assert one(GIVEN, "forest") == {}
    assert (one(USED, "hours", "forest"), one(USED, "contamination", "forest")) == ("168", "0.05")
    db.execute("UPDATE ml_setting SET value = '0.04' WHERE name = 'contamination'")
    assert one(DUE, device) == "changed"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["backend", "worker"])
def test_what_ml_device_says_of_a_device_is_taken_for_it_alone(db, dsn, one, add_device, where):
    own, other = add_device(), add_device()
    db.execute("CALL ml_retrain()")
    db.execute(
        "UPDATE ml_device SET contamination = 0.003, training_hours = 20 WHERE device_uuid = %s",
        [own],
    )
    assert one(DUE, own) == "changed"
    assert db.execute(DUE, [other]).fetchone() is None
    if where == "backend":
        db.execute("CALL ml_retrain()")
    else:
        assert job.retrain_one(dsn, None, own, "forest", "")[1] == "trained"
        job.connection(dsn).close()
    assert db.execute(DUE, [own]).fetchone() is None
    used = "SELECT parameters ->> 'hours', parameters ->> 'contamination' FROM ml_model"
    used += " WHERE is_current AND kind = 'forest' AND device_uuid = %s"
    assert db.execute(used, [own]).fetchone() == ("20", "0.003")
    assert db.execute(used, [other]).fetchone() == ("168", "0.01")
    # What a person gives to a training comes first.
    db.execute("SELECT ml_train_forest(%s, contamination => 0.02)", [own])
    assert db.execute(used, [own]).fetchone() == ("20", "0.02")
    assert db.execute(DUE, [own]).fetchone() is None


def test_hours_of_a_device_end_the_wait_for_more_readings(db, one, add_device):
    poor = add_device()
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'training_hours'")
    db.execute("CALL ml_retrain()")
    assert runs(db, poor) == ["failed"]
    assert db.execute(DUE, [poor]).fetchone() is None
    db.execute("UPDATE ml_device SET training_hours = 20")
    assert one(DUE, poor) == "never trained"
    db.execute("CALL ml_retrain()")
    assert runs(db, poor)[-1] == "trained"


@pytest.mark.parametrize(
    "assignment",
    ["contamination = 0.5", "training_hours = 0", "false_alarms_per_week = 'NaN'"],
)
def test_what_no_setting_could_be_is_refused_of_a_device(db, device, refused, assignment):
    db.execute("SELECT ml_train_forest(%s)", [device])
    refusal = refused(f"UPDATE ml_device SET {assignment}", sqlstate="ML004")
    assert refusal.message_primary.startswith(assignment.split()[0])
    assert db.execute(refusal.message_hint).rowcount == 1


@pytest.mark.long
def test_hours_given_to_a_forecast_stay(db, one, device):
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    db.execute("INSERT INTO ml_device_forecast VALUES (%s, '{cpu_usage}')", [device])
    db.execute("SELECT ml_train_lstm(%s, 'cpu_usage', hours => 20)", [device])
    due = "SELECT count(*) FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'lstm'"
    assert one(due, device) == 0
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    assert one(due, device) == 1
    db.execute("CALL ml_retrain()")
    assert one(GIVEN, "lstm") == {"hours": 20}
    assert one(USED, "hours", "lstm") == "20"


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        "5",
        "[]",
        '{"hours": "x"}',
        '{"hours": 1e30, "other": {}}',
        '{"n_estimators": 5, "epochs": 9}',
    ],
)
def test_what_no_training_would_take_is_not_given(db, one, device, given):
    """As in a model that was trained elsewhere."""
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute(
        "UPDATE ml_model SET parameters = parameters || jsonb_build_object('given', %s::jsonb)",
        [given],
    )
    assert db.execute(DUE, [device]).fetchone() is None
    pass_hours(db, 25)
    db.execute("CALL ml_retrain()")
    assert runs(db, device) == ["trained", "trained"]
    assert one(GIVEN, "forest") == {}


def test_minutes_below_0_are_refused(refused, one):
    refused("CALL ml_retrain(minutes => -1)", sqlstate="ML004")
    assert one("SELECT count(*) FROM ml_job") == 0


@pytest.mark.slow
def test_a_metric_that_is_not_enabled_is_forecast_by_its_name(db, one, device):
    """It is left out of detection only."""
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    db.execute("INSERT INTO ml_device_forecast VALUES (%s, '{memory_usage_percent}')", [device])
    db.execute("UPDATE ml_metric SET enabled = false")
    due = "SELECT kind, reason FROM _ml_due(ARRAY[%s::uuid])"
    assert db.execute(due, [device]).fetchall() == [("lstm", "never trained")]
    db.execute("CALL ml_retrain()")
    assert runs(db, device) == ["trained"]
    db.execute("CALL ml_scan()")
    low, high = db.execute(
        "SELECT min(predicted_value), max(predicted_value) FROM ml_forecasts"
    ).fetchone()
    assert 30 < low <= high < 60
    assert "memory_usage_percent" in one("SELECT ml_chart(%s, 'memory_usage_percent')", device)
    db.execute("UPDATE ml_metric SET scale = 50 WHERE name = 'memory_usage_percent'")
    assert db.execute(due, [device]).fetchall() == [("lstm", "changed")]


@pytest.mark.slow
def test_old_models_are_pruned_but_never_the_one_in_force(db, one, device):
    for _ in range(5):
        db.execute("CALL ml_retrain()")
        pass_hours(db, 25)
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 3
    oldest = one("SELECT min(model_id) FROM ml_model")
    db.execute("SELECT ml_rollback(%s)", [oldest])
    kept = "SELECT array_agg(model_id ORDER BY model_id) FROM ml_model WHERE kind = 'forest'"
    before = one(kept)
    for _ in range(4):
        pass_hours(db, 25)
        db.execute("CALL ml_retrain()")
    assert len(one(kept)) == 3
    assert set(one(kept)).isdisjoint(before)
    assert one("SELECT count(*) FROM ml_model WHERE is_current AND kind = 'forest'") == 1


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forecast_fields", "5"),
        ("forecast_fields", '["a", 1]'),
        ("forecast_fields", "[[]]"),
    ],
)
def test_settings_of_another_shape_are_refused(refused, name, value):
    refused("UPDATE ml_setting SET value = %s WHERE name = %s", value, name, sqlstate="ML004")


def test_forecast_fields_are_those_of_the_setting_or_of_the_device(db, one, add_device):
    devices = [add_device(readings=400) for _ in range(3)]
    db.execute("UPDATE ml_setting SET value = '[\"cpu_usage\"]' WHERE name = 'forecast_fields'")
    db.execute(
        "INSERT INTO ml_device_forecast VALUES (%s, '{}'), (%s, '{temperature,cpu_usage}')",
        devices[:2],
    )
    due = "SELECT array_agg(field ORDER BY field) FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'lstm'"
    assert [one(due, device) for device in devices] == [
        None,
        ["cpu_usage", "temperature"],
        ["cpu_usage"],
    ]


@pytest.mark.slow
def test_a_forecast_model_is_trained_and_kept_ones_are_not_due_again(db, one, add_device):
    device = add_device(readings=600)
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    db.execute("INSERT INTO ml_device_forecast VALUES (%s, '{cpu_usage}')", [device])
    for _ in range(2):
        db.execute("CALL ml_retrain()")
        assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid])", device) == 0
        pass_hours(db, 25)
    outcomes = db.execute("SELECT DISTINCT outcome FROM ml_run WHERE kind = 'lstm'").fetchall()
    assert set(outcomes) <= {("trained",), ("kept",)}
    # What was made and found worse counts as an attempt of today.
    db.execute("UPDATE ml_run SET outcome = 'kept', started_at = now() WHERE kind = 'lstm'")
    assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'lstm'", device) == 0


@pytest.mark.slow
def test_a_move_that_became_usual_is_learned_once_and_then_no_trouble(db, one, add_device):
    device = add_device(readings=14_400)
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state,"
        " '{system,temperature}',"
        " to_jsonb(25 + (reported_state #>> '{system,temperature}')::float8))"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '73 hours'"
    )
    ago = "SELECT now() - make_interval(hours => %s)"
    db.execute("SELECT ml_train_forest(%s, as_of => %s)", [device, one(ago, 74)])
    for hours in (60, 36, 12):
        db.execute("CALL ml_scan(as_of => %s)", [one(ago, hours)])
        assert db.execute(DUE, [device]).fetchone() is None
    db.execute("CALL ml_scan()")
    assert one("SELECT why FROM ml_incidents WHERE leading_metric = 'temperature'") == (
        "became usual"
    )
    assert one(DUE, device) == "became usual"
    db.execute("CALL ml_retrain()")
    assert runs(db, device) == ["trained", "trained"]
    assert db.execute(DUE, [device]).fetchone() is None
    learned = "SELECT figures -> 'became_usual' FROM ml_model WHERE is_current AND kind = 'level'"
    assert one(learned) == ["temperature"]
    db.execute("UPDATE ml_scan_state SET watermark = watermark - interval '2 hours'")
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_incidents WHERE state <> 'resolved'") == 0
    assert db.execute(DUE, [device]).fetchone() is None


@pytest.mark.slow
def test_a_forecast_model_is_due_once_after_an_incident_of_its_device_became_usual(
    db, one, device, train
):
    """Whatever the incident's metric; also where the training then brings nothing better."""
    due = "SELECT reason FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'lstm'"
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    db.execute("INSERT INTO ml_device_forecast VALUES (%s, '{cpu_usage}')", [device])
    train(device, "cpu_usage")
    assert db.execute(due, [device]).fetchone() is None
    db.execute(BECAME_USUAL, [device, "became usual"])
    assert one(due, device) == "became usual"
    db.execute(
        "INSERT INTO ml_run (device_uuid, kind, field, seconds, outcome)"
        " VALUES (%s, 'lstm', 'cpu_usage', 1, 'kept')",
        [device],
    )
    assert db.execute(due, [device]).fetchone() is None


@pytest.mark.slow
def test_several_callers_share_the_work(db, dsn, one, add_device):
    for _ in range(12):
        add_device(readings=300)

    def retrain():
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CALL ml_retrain()")

    sessions = [threading.Thread(target=retrain) for _ in range(2)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert one("SELECT count(*) FROM ml_run") == 12
    assert one("SELECT sum(done) FROM ml_job") == 12
    assert one("SELECT max(done) FROM ml_job") < 12


@pytest.mark.slow
def test_a_cancel_loses_one_device_at_most(db, dsn, one, add_device):
    for _ in range(15):
        add_device(readings=300)
    db.execute("UPDATE ml_setting SET value = '1000' WHERE name = 'n_estimators'")
    db.execute("SET statement_timeout = '1500ms'")  # a few devices' trainings

    def train_on_and_on():
        while True:
            db.execute("CALL ml_retrain()")
            pass_hours(db, 25)

    with pytest.raises(psycopg.errors.QueryCanceled):
        train_on_and_on()
    db.execute("RESET statement_timeout")
    assert one("SELECT count(*) FROM ml_run WHERE outcome = 'failed'") == 0
    db.execute("UPDATE ml_setting SET value = '10' WHERE name = 'n_estimators'")
    pass_hours(db, 25)
    db.execute("CALL ml_retrain()")
    assert one("SELECT count(*) FROM ml_model WHERE is_current AND kind = 'forest'") == 15


@pytest.mark.slow
def test_progress_moves_for_other_sessions(db, dsn, add_device):
    """Progress is noted once a second: the trigger makes each training last for longer."""
    for _ in range(4):
        add_device(readings=300)
    db.execute("""
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
        CREATE TRIGGER dawdle BEFORE INSERT ON ml_model FOR EACH ROW
            WHEN (NEW.kind = 'forest') EXECUTE FUNCTION dawdle()""")
    seen = set()
    with psycopg.connect(dsn) as watcher:
        work = threading.Thread(target=db.execute, args=["CALL ml_retrain()"])
        work.start()
        while work.is_alive():
            row = watcher.execute("SELECT done FROM ml_jobs WHERE finished_at IS NULL").fetchone()
            watcher.rollback()
            if row:
                seen.add(row[0])
            work.join(0.1)
    assert len(seen) > 2


def test_devices_are_found_by_the_index(db, one, add_device):
    for _ in range(3):
        add_device(readings=2000)
    db.execute("ANALYZE device_shadow_history")
    db.execute("SELECT pg_stat_force_next_flush()")  # what this session did before counts before
    db.execute("SELECT pg_stat_reset()")
    assert one("SELECT count(*) FROM _ml_devices()") == 3
    db.execute("SELECT pg_stat_force_next_flush()")
    assert (
        one("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'device_shadow_history'") == 0
    )


@pytest.mark.slow
def test_no_function_of_the_callers_runs_inside(db, one, add_device):
    """Between two transactions the caller's search_path holds, here with pg_catalog last."""
    add_device(readings=300)
    db.execute("CREATE SCHEMA trap; CREATE TABLE trap.sprung (name text)")
    for name, arguments, result in (
        ("cardinality", "uuid[]", "int"),
        ("clock_timestamp", "", "timestamptz"),
        ("set_config", "text, text, boolean", "text"),
        ("_ml_devices", "", "SETOF uuid"),
        ("_ml_retain", "timestamptz", "void"),
    ):
        nothing = "" if result in ("void", "SETOF uuid") else "NULL"
        db.execute(
            f"CREATE FUNCTION trap.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS"
            f" $$ BEGIN INSERT INTO trap.sprung VALUES ('{name}'); RETURN {nothing}; END $$"
        )
    db.execute("SET search_path = trap, public, pg_catalog")
    db.execute("CALL public.ml_retrain()")
    db.execute("CALL public.ml_scan()")
    db.execute("RESET search_path")
    assert one("SELECT array_agg(name) FROM trap.sprung") is None
    assert one("SELECT count(*) FROM ml_scan_state WHERE outcome = 'scanned'") == 1
