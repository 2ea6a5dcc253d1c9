"""The views: what they say, and that they stay cheap with 10,000 devices and a long log."""

import json
from datetime import timedelta

import pytest
from views import FLEET, QUERIES, VACUUM

LOGS = {"ml_anomaly", "ml_finding", "ml_forecast_point", "ml_run", "ml_job"}


def nodes(plan):
    """A plan's node and all below it."""
    return [plan, *(node for one in plan.get("Plans", []) for node in nodes(one))]


def rows_read(plan):
    """How many rows it takes from tables, by an index or not."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if "Relation Name" in node
    )


@pytest.mark.slow
def test_no_view_reads_much_more_than_it_shows(db, one, long):
    db.execute(FLEET if long else FLEET.replace("(1, 10000)", "(1, 1000)"))
    db.execute(VACUUM)
    for query, allowed in QUERIES:
        explained = one(f"EXPLAIN (ANALYZE, TIMING off, FORMAT json) SELECT * FROM {query}")
        plan = explained[0]["Plan"]
        whole = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
        assert not whole & LOGS, (query, json.dumps(plan, indent=1))
        assert rows_read(plan) <= allowed, (query, json.dumps(plan, indent=1))


def test_breaches_tell_when(db):
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, last_reading)"
        " SELECT md5(i::text)::uuid, now(), 'scanned', now() FROM generate_series(1, 2) AS i"
    )
    db.execute(
        'INSERT INTO ml_forecast_point (device_uuid, "timestamp", field, kind, predicted, lower,'
        " upper, level, breach, model_id, made_at) SELECT md5(d::text)::uuid,"
        " now() + i * interval '1 minute', 'cpu_usage', 'lstm', 50 + i, 40, 90, 0.9,"
        " CASE WHEN d = 1 AND i NOT BETWEEN -2 AND 3 THEN 53 END, 1, now()"
        " FROM generate_series(1, 2) AS d, generate_series(-9, 12) AS i"
    )
    rows = db.execute(
        "SELECT limit_value, breach_at - made_at, worst_predicted FROM ml_breaches"
    ).fetchall()
    assert rows == [(53, timedelta(minutes=4), 62)]


def test_both_tiers_share_a_row(db, one, device):
    db.execute(
        'INSERT INTO ml_anomaly (device_uuid, "timestamp", tier, score, severity, metrics, reasons,'
        " model_id, foretold) SELECT %s, '2026-01-01', v.tier, v.score, v.severity,"
        " v.metrics::jsonb, v.reasons::jsonb, 1, v.tier = 'lstm' FROM (VALUES"
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


@pytest.mark.slow
def test_a_refused_model_is_told_of(db, one, device):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("SELECT ml_train_forest(%s)", [device])
    assert one("SELECT refused_why FROM ml_models") is None
    db.execute(
        "DELETE FROM device_shadow_history"
        " WHERE id >= (SELECT min(id) + 20 FROM device_shadow_history)"
    )
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'n_estimators'")
    db.execute("CALL ml_retrain(%s)", [device])
    assert "20 usable readings" in one("SELECT refused_why FROM ml_models")


def test_status_and_health_agree_with_what_happened(db, device, add_device, train):
    add_device(readings=50)
    train(device)
    db.execute("CALL ml_scan()")
    assert db.execute(
        "SELECT devices, ok, untrained, failing, without_model, trainings_24h, expected_7d"
        " FROM ml_fleet_health"
    ).fetchone() == (2, 1, 1, 0, 1, 1, 1)
    rows = db.execute(
        "SELECT status, scan_outcome, sqlstate, forest_model_id IS NOT NULL FROM ml_device_status"
        " ORDER BY 1"
    ).fetchall()
    assert rows == [("ok", "scanned", None, True), ("untrained", "failed", "ML002", False)]
