"""What a role that may train, and may not read the history, cannot learn or spoil.

A scan reads the history with its caller's rights and writes what it finds where the role reads.
"""

import json

import onnx
import psycopg
import pytest

from tests.stored import newest, put_model

pytestmark = pytest.mark.slow

HIDE = """
UPDATE device_shadow_history SET reported_state = reported_state || jsonb_build_object(
    'billing', jsonb_build_object('pin', 987654321 + (id %% 2))) WHERE device_uuid = %s
"""
STORE = """
SELECT ml_store_model(%s, %s, %s, %s, jsonb_build_object('window_start', 0, 'window_end', 0,
    'readings_used', 9, 'readings_rejected', 0, 'parameters', '{}'::jsonb, 'figures', '{}'::jsonb,
    'versions', '{}'::jsonb, 'seconds', 1))
"""
STATE = "SELECT outcome, sqlstate FROM ml_scan_state WHERE device_uuid = %s"
# All that scans and trainings write, as the role reads it.
SEEN = """
SELECT concat((SELECT jsonb_agg(to_jsonb(a)) FROM ml_anomaly a),
    (SELECT jsonb_agg(to_jsonb(f)) FROM ml_finding f),
    (SELECT jsonb_agg(to_jsonb(p)) FROM ml_forecast_point p),
    (SELECT jsonb_agg(to_jsonb(s)) FROM ml_scan_state s),
    (SELECT jsonb_agg(to_jsonb(r)) FROM ml_run r))
"""


def told(kind, change):
    """A committed model's bytes, whose metadata was changed."""
    model = onnx.ModelProto.FromString(newest(kind).read_bytes())
    meta = json.loads(model.metadata_props[0].value)
    change(meta)
    model.metadata_props[0].value = json.dumps(meta)
    return model.SerializeToString()


def every_reading(meta):
    """Flags whatever comes: the log of anomalies then holds each value."""
    meta["warning"], meta["critical"] = 1e9, -1e9


def forest_of(**other):
    def change(meta):
        every_reading(meta)
        meta["metrics"][0].update(other)
        meta["names"][0] = meta["metrics"][0]["name"]

    return change


def forecast_of(**other):
    """Without the bounds of the metric that it was trained on."""
    return lambda meta: meta["metric"].update(lower=None, upper=None, **other)


@pytest.fixture
def device(db, add_device):
    """A device whose rows hold what the role may not read."""
    device = add_device(readings=600)
    db.execute(HIDE, [device])
    return device


@pytest.fixture
def stranger(db, roles, connect):
    """A session of the role that may train, without a right on the history."""
    db.execute(f"REVOKE ALL ON device_shadow_history FROM {roles['train']}")
    with connect("train") as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("SELECT count(*) FROM device_shadow_history")
        yield session


@pytest.mark.parametrize(
    "change",
    [
        {"path": "billing.pin"},
        {"divisor_path": "billing.pin"},
        {"name": "pin", "path": "billing.pin"},
        {"scale": 2},
        {"kind": "counter"},
    ],
    ids=json.dumps,
)
def test_a_forest_of_metrics_that_nobody_has_configured_is_not_scored(
    db, one, refused, device, stranger, change
):
    stranger.execute(STORE, [device, "forest", "", told("forest", forest_of(**change))])
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("failed", "ML005")
    assert "98765432" not in stranger.execute(SEEN).fetchone()[0]
    error = refused("SELECT ml_detect(%s)", device, sqlstate="ML005")
    assert error.message_hint == f"SELECT public.ml_train_forest('{device}');"
    due = "SELECT reason FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'forest'"
    assert one(due, device) in ("changed", "unreadable")


def test_the_same_forest_of_configured_metrics_is_scored(db, one, device, stranger):
    """So that what the test above finds is the metrics' doing."""
    stranger.execute(STORE, [device, "forest", "", told("forest", every_reading)])
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("scanned", None)
    assert one("SELECT count(*) FROM ml_anomaly") > 500


def test_what_a_scan_cannot_read_is_trained_anew(db, one, device, stranger):
    """Though what is stored beside the model says that nothing has changed."""
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("SELECT ml_train_forest(%s)", [device])
    blob = told("forest", forest_of(path="billing.pin"))
    stranger.execute(
        "SELECT _ml_put_model(device_uuid, kind, field, 0, 0, 9, 0, parameters, figures, versions,"
        " 1, %s) FROM ml_model WHERE kind = 'forest'",
        [blob],
    )
    due = "SELECT array_agg(reason) FROM _ml_due(ARRAY[%s::uuid])"
    assert one(due, device) is None
    db.execute("CALL ml_scan()")
    assert one(due, device) == ["unreadable"]
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("scanned", None)
    assert one(due, device) is None


@pytest.mark.parametrize(
    "change",
    [
        forecast_of(path="billing.pin"),
        forecast_of(divisor_path="billing.pin"),
        forecast_of(scale=0.5),
        lambda meta: meta["totals"].append("billing.pin"),
    ],
    ids=["path", "divisor", "scale", "totals"],
)
def test_a_forecast_that_reads_what_its_field_does_not_say_is_not_made(
    db, refused, device, stranger, change
):
    put_model(db, device, newest("forest"))
    stranger.execute(STORE, [device, "lstm", "system.cpuUsage", told("lstm", change)])
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("failed", "ML005")
    assert "98765432" not in stranger.execute(SEEN).fetchone()[0]
    for statement in (
        "SELECT ml_forecast(%s)",
        "SELECT * FROM ml_predict(%s, 'system.cpuUsage')",
    ):
        error = refused(statement, device, sqlstate="ML005")
        assert error.message_hint == f"SELECT public.ml_train_lstm('{device}', 'system.cpuUsage');"
    reasons = "SELECT reason FROM _ml_due(ARRAY[%s::uuid]) WHERE kind = 'lstm'"
    assert db.execute(reasons, [device]).fetchone()[0] in ("changed", "unreadable")


@pytest.mark.long
def test_a_training_does_not_have_to_be_better_than_what_cannot_be_scored(
    db, one, device, stranger
):
    blob = told("lstm", lambda meta: meta["totals"].append("billing.pin"))
    stranger.execute(STORE, [device, "lstm", "system.cpuUsage", blob])
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    assert one("SELECT ml_train_lstm(%s) -> 'accepted'", device) is True
    assert one("SELECT ml_forecast(%s) IS NOT NULL", device)


def test_a_field_that_nobody_has_configured_is_forecast_for_who_asks_alone(
    db, one, device, stranger
):
    put_model(db, device, newest("forest"))
    blob = told("lstm", forecast_of(name="billing.pin", path="billing.pin"))
    stranger.execute(STORE, [device, "lstm", "billing.pin", blob])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stranger.execute("SELECT ml_forecast(%s, 'billing.pin')", [device])
    assert one("SELECT ml_forecast(%s, 'billing.pin') -> 'predictions' -> 0", device)
    db.execute("CALL ml_scan()")
    assert db.execute(STATE, [device]).fetchone() == ("scanned", None)
    assert "98765432" not in stranger.execute(SEEN).fetchone()[0]
    points = "SELECT count(*) FROM ml_forecast_point WHERE field = 'billing.pin'"
    for configure, undo in (
        (
            "INSERT INTO ml_device_forecast SELECT uuid, '{billing.pin}' FROM devices",
            "DELETE FROM ml_device_forecast",
        ),
        (
            "UPDATE ml_setting SET value = '[\"billing.pin\"]' WHERE name = 'forecast_fields'",
            "UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'",
        ),
        ("INSERT INTO ml_metric (name, path) VALUES ('pin', 'billing.pin')", "SELECT"),
    ):
        db.execute("DELETE FROM ml_forecast_point; DELETE FROM ml_scan_state")
        db.execute("CALL ml_scan()")
        assert one(points) == 0
        db.execute(configure)
        db.execute("DELETE FROM ml_scan_state")
        db.execute("CALL ml_scan()")
        assert one(points) > 0, configure
        db.execute(undo)


def test_a_model_follows_a_metric_that_was_changed(db, one, refused, device, train):
    db.execute("UPDATE ml_setting SET value = '[\"temperature\"]' WHERE name = 'forecast_fields'")
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    train(device)
    train(device, "temperature")
    detect = "SELECT ml_detect(%s) -> 'analyzed_points'"
    ahead = "SELECT ml_forecast(%s, 'temperature') IS NOT NULL"
    assert one(detect, device) == 600
    db.execute("UPDATE ml_metric SET enabled = false WHERE name = 'temperature'")
    assert one(detect, device) == 600  # a metric that is out of use is still the administrator's
    assert one(ahead, device)
    db.execute(
        "UPDATE ml_metric SET enabled = true, path = 'billing.pin' WHERE name = 'temperature'"
    )
    refused(detect, device, sqlstate="ML005")
    refused(ahead, device, sqlstate="ML005")
    reasons = "SELECT array_agg(DISTINCT reason) FROM _ml_due(ARRAY[%s::uuid])"
    assert one(reasons, device) == ["changed"]
    train(device)
    train(device, "temperature")
    assert one(detect, device) == 600
    assert one(ahead, device)


MODEL = "_ml_put_model(%(d)s, '{}', '{}', {}, 0, 9, 0, '{{}}', {}, '{{}}', {}, {})"
WRONG = {
    "a model's kind": MODEL.format("Other kind", "", 0, "'{}'", 1, "'x'"),
    "a model's field": MODEL.format("forest", "x" * 1001, 0, "'{}'", 1, "'x'"),
    "a model's time": MODEL.format("forest", "", "'infinity'", "'{}'", 1, "'x'"),
    "a model's figures": MODEL.format("forest", "", 0, "'[]'", 1, "'x'"),
    "much beside a model": MODEL.format(
        "forest", "", 0, "jsonb_build_object('a', repeat('a', 3000000))", 1, "'x'"
    ),
    "a model's seconds": MODEL.format("forest", "", 0, "'{}'", "'NaN'", "'x'"),
    "an empty model": MODEL.format("forest", "", 0, "'{}'", 1, "''"),
    "a large model": MODEL.format(
        "forest", "", 0, "'{}'", 1, "convert_to(repeat('a', 9<<20), 'UTF8')"
    ),
    "a run that trained": "_ml_put_run(%(d)s, 'forest', '', 1, 'trained', 1, '{}', NULL, NULL)",
    "a run's seconds": "_ml_put_run(%(d)s, 'forest', '', -1, 'kept', 1, '{}', NULL, NULL)",
    "a run's code": "_ml_put_run(%(d)s, 'forest', '', 1, 'failed', NULL, NULL, 'no', 'x')",
    "no anomaly": "_ml_put_anomalies(%(d)s, 'forest', false, '{}', '{}', '{}', '{}', '{}', '{}',"
    " '{}')",
    "an anomaly's score": "_ml_put_anomalies(%(d)s, 'forest', false, '{1}', '{NaN}', '{critical}',"
    " '{\"{}\"}', '{[]}', '{1}', '{1}')",
    "an anomaly's reasons": "_ml_put_anomalies(%(d)s, 'forest', false, '{1}', '{1}', '{critical}',"
    " '{\"{}\"}', '{1}', '{1}', '{1}')",
    "an anomaly's rarity": "_ml_put_anomalies(%(d)s, 'forest', false, '{1}', '{1}', '{critical}',"
    " '{\"{}\"}', '{[]}', '{1}', '{NaN}')",
    "an anomaly too few": "_ml_put_anomalies(%(d)s, 'forest', false, '{1,2}', '{1}', '{critical}',"
    " '{\"{}\"}', '{[]}', '{1}', '{1}')",
    "a forecast that is none": "_ml_put_forecast(%(d)s, 'lstm', 'a', 0.9, 1, 0, '{1}', '{NaN}',"
    " '{1}', '{1}')",
    "a forecast of the past": "_ml_put_forecast(%(d)s, 'lstm', 'a', 0.9, 1, 5, '{1}', '{1}',"
    " '{1}', '{1}')",
    "no watermark": "_ml_put_scan(%(d)s, NULL, NULL, 'NaN', 0, 0, 0, '{}', 0, NULL, NULL, NULL,"
    " NULL, NULL, NULL)",
    "hours of a scan": "_ml_put_scan(%(d)s, NULL, NULL, 0, 0, 0, 0, '{}', 0, NULL, '{1}', 0, 0,"
    " NULL, NULL)",
    "no time of silence": "_ml_put_scan(%(d)s, NULL, NULL, 0, 0, 0, 0, '{}', 0, NULL, NULL, NULL,"
    " NULL, 'NaN', NULL)",
    "a finding that ends before it begins": "_ml_put_findings(%(d)s, 'stuck', false, 1, 0,"
    " '{stuck}', '{a}', '{2}', '{1}', '{warning}', '{1}', '{1}', '{\"{}\"}', '{it is}', 1)",
    "a finding without evidence": "_ml_put_findings(%(d)s, 'stuck', false, 1, 0, '{stuck}', '{a}',"
    " '{1}', '{2}', '{warning}', '{1}', '{1}', '{[]}', '{it is}', 1)",
    "an incident without words": '_ml_put_incidents(%(d)s, 1, false, \'[{"kind": "value"}]\')',
    "incidents that are no list": "_ml_put_incidents(%(d)s, 1, false, '{}')",
    "limits that are no list": "_ml_put_capacity(%(d)s, '{}')",
    "a limit without a time": '_ml_put_capacity(%(d)s, \'[{"metric": "a", "side": "high"}]\')',
    "finders of no forest": "_ml_put_finders(-1, '{}', '{}', '{}', '{}', '{}')",
    "hours of a count": "_ml_put_counts(%(d)s, '{1}', 0, NULL, NULL)",
    "a count that is none": "_ml_put_counts(%(d)s, array_fill(NULL::int, '{48}'), 0, NULL, NULL)",
    "a span that ends before it begins": "_ml_put_counts(%(d)s, array_fill(1, '{48}'), 0, 2, 1)",
    "an arrival's span": "_ml_put_arrivals('t', 1, '{}', ARRAY[%(d)s::uuid], '{NaN}', '{NaN}')",
    "an arrival too few": "_ml_put_arrivals('t', 1, '{}', ARRAY[%(d)s::uuid], '{}', '{}')",
    "an arrival of no device": "_ml_put_arrivals('t', 1, '{}', '{NULL}', '{1}', '{2}')",
    "no id": "_ml_put_arrivals('t', NULL, '{}', '{}', '{}', '{}')",
    "a scan's outcome": "_ml_note_scan(%(d)s, 'fine', '00000', 'x')",
    "a scan of no device": "_ml_note_scan(NULL, 'failed', '00000', 'x')",
}


def test_what_writes_for_the_role_refuses_what_no_scan_writes(stranger, one):
    device = {"d": "00000000-0000-0000-0000-000000000001"}
    for name, call in WRONG.items():
        with pytest.raises(psycopg.Error) as caught:
            stranger.execute(f"SELECT {call}", device)
        assert caught.value.sqlstate == "ML004", (name, caught.value)
        assert caught.value.diag.message_hint, name
    assert one(SEEN) == ""


def test_the_role_cannot_spoil_the_numbers_or_the_jobs_of_others(db, one, device, stranger):
    for statement in (
        "SELECT setval('ml_model_model_id_seq', 1)",
        "INSERT INTO ml_model OVERRIDING SYSTEM VALUE SELECT * FROM ml_model",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(statement)
    number = "INSERT INTO ml_job (job_id, kind, total) VALUES (9, 'scan', 1)"
    with pytest.raises(psycopg.errors.GeneratedAlways):
        db.execute(number)
    job = db.execute("SELECT (j).job_id FROM _ml_begin_job('scan', NULL, 7) AS j").fetchone()[0]
    stranger.execute(
        "SELECT _ml_note_job(jsonb_populate_record(j, '{\"done\": 5}'), true) FROM ml_job j"
    )
    assert one("SELECT (done, finished_at IS NULL) = (0, true) FROM ml_job WHERE job_id = %s", job)


def test_a_model_that_was_not_checked_when_it_was_stored_is_checked_when_it_is_loaded(
    refused, device, stranger
):
    stranger.execute(
        "SELECT _ml_put_model(%s, 'forest', '', 0, 0, 9, 0, '{}', '{}', '{}', 1, 'no model')",
        [device],
    )
    refused("SELECT ml_detect(%s)", device, sqlstate="ML005")
