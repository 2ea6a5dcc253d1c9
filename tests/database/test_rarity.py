"""How seldom an anomaly's like comes, as people and dashboards see it."""

import json
from datetime import datetime

import pytest

from .test_forest import SPIKE

FIGURES = "UPDATE ml_model SET figures = figures || %s::jsonb WHERE device_uuid = %s"
HOURS = """
SELECT sum((figures -> 'ordinary_hours')::float8) FROM ml_model
WHERE kind = 'forest' AND is_current
"""


@pytest.fixture
def spiked(db, device, train):
    """A device with a forest, and a spike after it; the training holds two days."""
    train(device)
    db.execute(SPIKE, [device])
    return device


def test_an_anomaly_says_how_seldom_its_like_comes(db, one, spiked):
    found = one("SELECT ml_detect(%s, 1)", spiked)
    assert all(anomaly["rarity"] > 0 for anomaly in found["anomalies"])
    worst = min(found["anomalies"], key=lambda anomaly: anomaly["anomaly_score"])
    assert worst["rarity"] == max(anomaly["rarity"] for anomaly in found["anomalies"])
    said = found["model_info"]["rarity_from"]
    assert (said["devices"], said["provisional"]) == (1, True)
    assert said["hours"] == pytest.approx(one(HOURS), rel=0.01)
    assert 45 < said["hours"] <= 50  # some hours of a day may be called no ordinary ones
    db.execute("CALL ml_scan(%s)", [spiked])
    logged = db.execute(
        'SELECT "timestamp", rarity FROM ml_anomalies WHERE device_uuid = %s', [spiked]
    ).fetchall()
    told = {
        (datetime.fromisoformat(anomaly["timestamp"]), anomaly["rarity"])
        for anomaly in found["anomalies"]
    }
    assert told <= set(logged)


@pytest.mark.slow
def test_a_retraining_pools_what_all_devices_do(db, one, spiked, add_device):
    add_device(readings=600)
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("CALL ml_retrain()")
    pooled = one("SELECT to_jsonb(r) FROM ml_rarity r WHERE detector = 'forest'")
    assert pooled["devices"] == 2
    assert pooled["hours"] == pytest.approx(one(HOURS))
    assert 54 < pooled["hours"] <= 60
    assert pooled["heights"] == sorted(pooled["heights"], reverse=True)
    assert pooled["counts"][:3] == [1, 2, 3]
    told = one("SELECT ml_detect(%s, 1) #> '{model_info,rarity_from}'", spiked)
    assert (told["devices"], told["hours"]) == (2, pytest.approx(pooled["hours"], rel=0.01))


def test_what_a_fleet_seldom_does_is_not_rare_at_a_device_that_does_it_daily(db, one, spiked):
    rare = one("SELECT ml_detect(%s, 1) #> '{anomalies,0,rarity}'", spiked)
    db.execute(
        "INSERT INTO ml_rarity VALUES ('forest', 100, 16800, '{6,5.9,5.8}', '{1,2,3}')",
    )
    assert one("SELECT ml_detect(%s, 1) #> '{anomalies,0,rarity}'", spiked) == rare
    db.execute("UPDATE ml_rarity SET heights = '{60,50,40}'")
    fleet = one("SELECT ml_detect(%s, 1) #> '{anomalies,0,rarity}'", spiked)
    assert fleet <= rare


WRONG = (
    {"peaks": "no"},
    {"peaks": [{}]},
    {"peaks": [10**400]},
    {"peaks": [5] * 101},
    {"ordinary_hours": 10**400},
    {"ordinary_hours": -1},
    {"ordinary_hours": None},
    {"ordinary_hours": [1]},
)


def test_figures_that_no_training_writes_are_left_out(db, one, spiked):
    before = one("SELECT figures FROM ml_model WHERE kind = 'forest'")
    for figures in WRONG:
        db.execute(FIGURES, [json.dumps(before | figures), spiked])
        db.execute("SELECT _ml_pool_peaks()")
        found = one("SELECT ml_detect(%s, 1)", spiked)
        assert found["anomalies"], figures
        assert all(a["rarity"] is None or a["rarity"] >= 0 for a in found["anomalies"]), figures
        assert one("SELECT coalesce(max(hours), 0) FROM ml_rarity") < 100, figures
