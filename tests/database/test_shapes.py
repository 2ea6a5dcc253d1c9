"""Other ids, other times, other documents: the history as its users have it."""

import uuid

import psycopg
import pytest

STATE = "jsonb_build_object('system', h.reported_state -> 'system')"
SHAPES = {
    "text ids": ("'aa:bb:' || right(h.device_uuid::text, 2)", 'h."timestamp"', "h.reported_state"),
    "numbers for ids": ("42::bigint", 'h."timestamp"', "h.reported_state"),
    "fixed-length text": ("'sensor 7'::char(20)", 'h."timestamp"', "h.reported_state"),
    "json": ("h.device_uuid", 'h."timestamp"', "h.reported_state::json"),
    "json of many lines": (
        "h.device_uuid",
        'h."timestamp"',
        "replace(h.reported_state::text, ',', E',\\n')::json",
    ),
    "text that is JSON": ("h.device_uuid", 'h."timestamp"', "h.reported_state::text"),
    "with time zone": ("h.device_uuid", "h.\"timestamp\" AT TIME ZONE 'UTC'", "h.reported_state"),
    "milliseconds": (
        "h.device_uuid",
        '(extract(epoch FROM h."timestamp") * 1000)::bigint',
        "h.reported_state",
    ),
    "seconds": ("h.device_uuid", 'extract(epoch FROM h."timestamp")::int', "h.reported_state"),
    "seconds with a fraction": (
        "h.device_uuid",
        'extract(epoch FROM h."timestamp")::float8',
        "h.reported_state",
    ),
    "a view": ("h.device_uuid::text || '!'", 'h."timestamp"', "h.reported_state"),
    "numeric milliseconds": (
        "h.device_uuid",
        'extract(epoch FROM h."timestamp") * 1000',
        "h.reported_state",
    ),
}


# What another of them covers, but for the type's name.
ALIKE = ("json", "seconds", "with time zone", "numeric milliseconds")
EACH_SHAPE = pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=[pytest.mark.long] * (shape in ALIKE)) for shape in SHAPES],
)


@pytest.fixture(autouse=True)
def _taken_away(db):
    """Drop what a test has made, so that the next one has the same session."""
    yield
    db.execute("DROP SCHEMA IF EXISTS other CASCADE")


def reshaped(db: psycopg.Connection, shape: str) -> str:
    """The sample device's history in a table of another shape; the device's id there."""
    device, moment, state = SHAPES[shape]
    table = "rows_below" if shape == "a view" else "telemetry"
    db.execute(
        "DROP SCHEMA IF EXISTS other CASCADE; CREATE SCHEMA other;"
        f'CREATE TABLE other.{table} AS SELECT {device} AS thing, {moment} AS "At", {state} AS doc'
        " FROM device_shadow_history AS h;"
        f'CREATE INDEX ON other.{table} (thing, "At" DESC); ANALYZE other.{table};'
        "UPDATE ml_setting SET value = CASE name WHEN 'history_table' THEN 'other.telemetry'"
        " WHEN 'history_device_column' THEN 'thing' WHEN 'history_time_column' THEN 'At'"
        " WHEN 'history_state_column' THEN 'doc' ELSE '' END"
        " WHERE name ~ '^history_(table|.*_column)$'"
    )
    if table != "telemetry":
        db.execute(f"CREATE VIEW other.telemetry AS TABLE other.{table}")
    return str(db.execute("SELECT thing::text FROM other.telemetry LIMIT 1").fetchone()[0])


@pytest.mark.slow
@EACH_SHAPE
def test_each_shape_gives_what_the_usual_one_gives(db, one, add_device, shape):
    device = add_device(readings=400)
    db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")
    scores = (
        "SELECT array_agg(round(anomaly_score::numeric, 9) ORDER BY timestamp)"
        " FROM ml_score(%s, now() - interval '3 hours', now())"
    )
    db.execute("SELECT ml_train_forest(%s::uuid)", [device])
    usual = one(scores.replace("%s,", "%s::uuid,"), device)
    zscores = one("SELECT count(*) FROM ml_zscore(%s::uuid, 'cpu_usage')", device)
    known_as = reshaped(db, shape)
    trained = one("SELECT ml_train_forest(%s)", known_as)
    assert trained["device_id"] == known_as
    found = one(scores, known_as)
    assert len(found) == len(usual)
    if device == known_as:  # the seed is of the device
        assert found == usual
    assert one("SELECT count(*) FROM ml_zscore(%s, 'cpu_usage')", known_as) == zscores
    assert one("SELECT ml_detect(%s)", known_as)["device_id"] == known_as
    db.execute("CALL ml_scan(%s)", [known_as])
    status = "SELECT scan_outcome FROM ml_device_status WHERE device_id = %s"
    assert one(status, known_as) == "scanned"
    assert "<svg" in one("SELECT ml_chart(%s, 'cpu_usage')", known_as)
    wrong = "SELECT array_agg(check_name || ': ' || detail) FROM ml_doctor()" + (
        " WHERE NOT ok AND check_name IN ('history table', 'index', 'metrics', 'clock', 'scans')"
    )
    assert one(wrong) is None


@EACH_SHAPE
def test_a_window_is_read_by_the_index(db, add_device, shape):
    add_device(readings=2000)
    known_as = reshaped(db, shape)
    db.execute("LOAD 'auto_explain'")
    db.execute("SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on")
    db.execute("SET client_min_messages = log")
    plans: list[str] = []
    db.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    db.execute("SELECT count(*) FROM ml_zscore(%s, 'cpu_usage', hours => 1)", [known_as])
    with pytest.raises(psycopg.Error):
        db.execute("SELECT ml_train_forest(%s, hours => 1)", [known_as])
    windows = [
        plan
        for plan in plans
        if "thing = " in plan and "Index Cond: ((" in plan and '"At" > ' in plan
    ]
    assert len(windows) >= 2, plans
    assert not any(
        "Seq Scan on telemetry" in plan or "Seq Scan on rows" in plan for plan in windows
    )


def test_an_id_that_the_history_does_not_hold(db, add_device):
    add_device(readings=5)
    for shape, wrong in (("text ids", "nobody"), ("numbers for ids", "x")):
        reshaped(db, shape)
        for call in (
            "SELECT ml_detect('{}')",
            "CALL ml_scan('{}')",
            "SELECT * FROM ml_zscore('{}', 'a')",
        ):
            with pytest.raises(psycopg.Error, match=f"there is no device {wrong}") as caught:
                db.execute(call.format(wrong))
            assert caught.value.sqlstate == "ML002"
            db.execute(caught.value.diag.message_hint)
    unknown = str(uuid.uuid4())
    with pytest.raises(psycopg.Error, match="there is no device") as caught:
        db.execute("SELECT * FROM ml_zscore(%s::uuid, 'a')", [unknown])
    assert caught.value.sqlstate == "ML002"


@pytest.mark.slow
def test_a_document_that_is_none_counts_for_nothing(db, one, add_device):
    add_device(readings=300)
    known_as = reshaped(db, "text that is JSON")
    some = "WHERE ctid IN (SELECT ctid FROM other.telemetry LIMIT %s)"
    for document, rows in (('{"half', 9), (r'{"a": "\u0000"}', 3)):
        db.execute(f"UPDATE other.telemetry SET doc = %s {some}", [document, rows])
    assert one("SELECT count(*) FROM ml_zscore(%s, 'cpu_usage')", known_as) < 300
    assert one("SELECT ml_train_forest(%s)", known_as)["training_samples"] > 200


def test_what_is_neither_seconds_nor_milliseconds_is_refused(db, add_device):
    add_device(readings=5)
    known_as = reshaped(db, "milliseconds")
    db.execute('UPDATE other.telemetry SET "At" = "At" * 1000')
    with pytest.raises(psycopg.Error, match="cannot be read") as caught:
        db.execute("SELECT ml_detect(%s)", [known_as])
    assert caught.value.sqlstate == "ML006"
    assert "neither seconds nor milliseconds" in caught.value.diag.message_detail
