"""The sample fleet through SQL: clear faults are found and named, quiet days are quiet."""

from datetime import UTC, datetime

import pytest
import sample_fleet

# What leads the reasons while a fault lasts.
CLEAR = {
    "cpu spike": {"cpu_usage"},
    "memory leak": {"memory_usage_percent"},
    "runaway temperature": {"temperature"},
    "network flood": {"network_receive_rate", "network_transmit_rate"},
}


@pytest.fixture
def fleet(db, dsn):
    """The fleet, each device with a forest of the days before its faults."""
    now = datetime.now(UTC).replace(tzinfo=None)
    sample_fleet.load(dsn, now=now)
    for device in sample_fleet.FLEET:
        db.execute("SELECT ml_train_forest(%s, as_of => now() - interval '1 day')", [device.uuid])
    return {fault.device_uuid: fault for fault in sample_fleet.faults(now=now)}


def test_what_was_injected_is_found(one, fleet):
    for device in sample_fleet.FLEET:
        found = one("SELECT ml_detect(%s, hours => 24)", device.uuid)
        fault = fleet.get(device.uuid)
        if fault is None or fault.kind not in CLEAR:
            continue
        start, end = (moment.replace(tzinfo=UTC) for moment in (fault.start, fault.end))
        inside = [
            anomaly["reasons"][0]["metric"]
            for anomaly in found["anomalies"]
            if start <= datetime.fromisoformat(anomaly["timestamp"]) <= end
        ]
        assert len(inside) >= 3, fault
        leading = max(set(inside), key=inside.count)
        assert leading in CLEAR[fault.kind], fault


def test_a_quiet_day_is_quiet(one, fleet):
    [quiet] = [d for d in sample_fleet.FLEET if d.name == "archive-berlin"]
    assert quiet.uuid not in fleet
    found = one("SELECT ml_detect(%s)", quiet.uuid)
    assert found["anomalies_detected"] <= 0.02 * found["analyzed_points"]
