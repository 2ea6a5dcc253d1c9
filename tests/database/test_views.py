"""The views: what they say, and that they stay cheap over a big log."""

import json

import pytest

FLEET = """
INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading, watermark)
SELECT md5(i::text)::uuid, now(), 'scanned', now(), now() FROM generate_series(1, 3000) AS i;
INSERT INTO ml_model (device_uuid, kind, is_current, window_start, window_end, readings_used,
    readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT s.device_uuid, 'forest', true, now(), now(), 1, 0, '{}', '{}', '{}', 1, '', ''
FROM ml_scan_state s;
INSERT INTO ml_anomaly (device_uuid, "timestamp", tier, score, severity, metrics, reasons,
    model_id, incident_at)
SELECT s.device_uuid, t, 'forest', -0.7, 'warning', '{"cpu_usage": 99}',
    '[{"metric": "cpu_usage"}]', 1, t
FROM ml_scan_state s, generate_series(1, 100) AS i,
     LATERAL (SELECT now() - i * interval '13 hours') AS x (t);
INSERT INTO ml_forecast_point (device_uuid, "timestamp", field, predicted, lower, upper, level,
    breach, model_id, made_at)
SELECT s.device_uuid, now() + i * interval '1 minute', 'cpu_usage', 50 + i, 40, 90, 0.9,
    CASE WHEN i > 3 AND s.device_uuid < '01000000-0000-0000-0000-000000000000' THEN 53 END, 1, now()
FROM ml_scan_state s, generate_series(-80, 12) AS i WHERE i <> 0;
INSERT INTO ml_run (device_uuid, kind, started_at, seconds, outcome)
SELECT s.device_uuid, 'forest', now() - i * interval '1 day', 1, 'trained'
FROM ml_scan_state s, generate_series(0, 30) AS i;
ANALYZE ml_scan_state, ml_model, ml_anomaly, ml_forecast_point, ml_run;
"""
BIG = {"ml_anomaly", "ml_forecast_point", "ml_run", "ml_model", "ml_scan_state"}
DEVICE = "device_uuid = md5('7')::uuid"


@pytest.fixture
def fleet(db):
    db.execute(FLEET)


def scanned(plan):
    """The tables that a plan reads from end to end."""
    found = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*(scanned(one) for one in plan.get("Plans", [])), set())


@pytest.mark.parametrize(
    ("query", "whole"),
    [
        (f"ml_models WHERE {DEVICE}", set()),
        (f"ml_anomalies WHERE {DEVICE}", set()),
        ("ml_anomalies WHERE \"timestamp\" > now() - interval '20 hours'", set()),
        ('ml_anomalies ORDER BY "timestamp" DESC LIMIT 20', set()),
        (f"ml_incidents WHERE {DEVICE}", set()),
        ("ml_incidents WHERE started_at > now() - interval '20 hours'", set()),
        (f"ml_forecasts WHERE {DEVICE}", set()),
        (f"ml_breaches WHERE {DEVICE}", set()),
        ("ml_breaches", {"ml_scan_state"}),
        (f"ml_device_status WHERE {DEVICE}", set()),
        ("ml_fleet_health", {"ml_scan_state"}),
        (f"ml_runs WHERE {DEVICE}", set()),
        ("ml_runs LIMIT 20", set()),
    ],
)
def test_no_view_reads_a_big_table_from_end_to_end(one, fleet, query, whole):
    plan = one(f"EXPLAIN (FORMAT json) SELECT * FROM {query}")[0]["Plan"]
    assert scanned(plan) & BIG <= whole, json.dumps(plan, indent=1)


def test_breaches_tell_when(db, one, fleet):
    rows = db.execute("SELECT limit_value, breach_at > now(), worst_predicted FROM ml_breaches")
    found = rows.fetchall()
    assert 1 <= len(found) < 100
    assert set(found) == {(53, True, 62)}


def test_both_tiers_share_a_row(db, one, device):
    db.execute(
        'INSERT INTO ml_anomaly (device_uuid, "timestamp", tier, score, severity, metrics, reasons,'
        " model_id, incident_at) SELECT %s, '2026-01-01', v.tier, v.score, v.severity,"
        " v.metrics::jsonb, v.reasons::jsonb, 1, '2026-01-01' FROM (VALUES"
        " ('forest', -0.6, 'warning', '{\"a\": 1}', '[{\"metric\": \"a\"}]'),"
        " ('lstm', -3.0, 'critical', '{\"b\": 2}', '[{\"metric\": \"b\"}]'))"
        " AS v (tier, score, severity, metrics, reasons)",
        [device],
    )
    row = db.execute(
        "SELECT tiers, severity, anomaly_score, forecast_score, metrics, reasons FROM ml_anomalies"
    ).fetchone()
    assert row == (
        ["forest", "lstm"],
        "critical",
        -0.6,
        -3.0,
        {"a": 1, "b": 2},
        [{"metric": "a"}, {"metric": "b"}],
    )
    incident = db.execute(
        "SELECT severity, worst_score, leading_metric, readings FROM ml_incidents"
    ).fetchone()
    assert incident == ("critical", -0.6, "b", 1)


def test_a_refused_model_is_told_of(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    assert one("SELECT refused_why FROM ml_models") is None
    db.execute("DELETE FROM device_shadow_history WHERE id > 20")
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'n_estimators'")
    db.execute("CALL ml_retrain(%s)", [device])
    assert "20 usable readings" in one("SELECT refused_why FROM ml_models")


def test_status_and_health_agree_with_what_happened(db, device, add_device):
    add_device(readings=50)
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute("CALL ml_scan()")
    assert db.execute(
        "SELECT devices, failing, without_model, trainings_24h FROM ml_fleet_health"
    ).fetchone() == (2, 1, 1, 1)
    rows = db.execute(
        "SELECT scan_outcome, sqlstate, forest_model_id IS NOT NULL FROM ml_device_status"
        " ORDER BY 1"
    ).fetchall()
    assert rows == [("failed", "ML002", False), ("scanned", None, True)]
