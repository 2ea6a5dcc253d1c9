"""The sample fleet through SQL: clear faults are found and named, quiet days are quiet."""

from datetime import UTC, datetime

import psycopg
import pytest
import sample_fleet

# What leads the reasons while a fault lasts.
CLEAR = {
    "cpu spike": {"cpu_usage"},
    "memory leak": {"memory_usage_percent"},
    "runaway temperature": {"temperature"},
    "network flood": {"network_receive_rate", "network_transmit_rate"},
}


NOW = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture(scope="module")
def trained(make_database, _server):
    """The fleet, each device with a forest of the days before its faults; nothing here writes."""
    dsn = make_database(f"TEMPLATE {_server.template_dbname}")
    sample_fleet.load(dsn, now=NOW)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for device in sample_fleet.FLEET:
            conn.execute(
                "SELECT ml_train_forest(%s, as_of => now() - interval '1 day')", [device.uuid]
            )
    return dsn


@pytest.fixture
def db(trained):
    with psycopg.connect(trained, autocommit=True) as conn:
        yield conn


@pytest.fixture
def fleet():
    """Its faults, by device."""
    return {fault.device_uuid: fault for fault in sample_fleet.faults(now=NOW)}


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_quiet_day_is_quiet(one, fleet):
    [quiet] = [d for d in sample_fleet.FLEET if d.name == "archive-berlin"]
    assert quiet.uuid not in fleet
    found = one("SELECT ml_detect(%s)", quiet.uuid)
    assert found["anomalies_detected"] <= 0.02 * found["analyzed_points"]
