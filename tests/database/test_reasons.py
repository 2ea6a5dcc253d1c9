"""Why a reading is an anomaly, as ml_detect says it: a week of one device, and a day of troubles.

Each trouble has its own hour of the day; no other one's windows reach into it.
"""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

DAY, TRAINED = 1440, 7 * 1440
NOW = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)
DEVICE = "3f1f54a2-5f3b-4c55-9d1b-0c6a4e7a1b11"
# Minutes of the last day at which troubles begin.
SPIKE, FALL, SHAKE, PART = 120, 400, 640, 1150
METRICS = {
    "cpu_usage": ("cpuUsage", "%"),
    "temperature": ("temperature", "°C"),
    "pressure": ("pressure", "hPa"),
    "flow": ("flow", None),
}


def wander(rng, n, memory, size):
    steps = rng.normal(size=n) * size * np.sqrt(1 - memory**2)
    for row in range(1, n):
        steps[row] += memory * steps[row - 1]
    return steps


def telemetry():
    """Values (n, 4) by `METRICS`, and the minute of the last day that is coolest."""
    rng = np.random.default_rng(11)
    n = TRAINED + DAY
    phase = 2 * np.pi * np.arange(n) / DAY
    pump = wander(rng, n, 0.98, 1)
    other = wander(rng, n, 0.98, 1)
    cpu = 30 + 4 * np.sin(phase) + 0.5 * rng.normal(size=n)
    warm = 45 + 6 * np.sin(phase) + 0.4 * rng.normal(size=n)
    pressure = 1010 + 10 * wander(rng, n, 0.998, 1) + 0.3 * rng.normal(size=n)
    flow = 200 + 20 * pump + rng.normal(size=n)
    cpu += 4 * pump
    day = slice(TRAINED, None)
    coolest = int(np.argmin(np.sin(phase[day])))
    cpu[day][SPIKE : SPIKE + 3] = 99
    pressure[day][FALL : FALL + 20] += 14 if pressure[day][FALL - 1] < 1010 else -14
    pressure[day][SHAKE : SHAKE + 15] += 6 * np.tile([1, -1], 8)[:15]
    warm[day][coolest : coolest + 5] = 50
    flow[day][PART : PART + 90] += 20 * (other - pump)[day][PART : PART + 90]
    return np.stack([cpu, warm, pressure, flow], axis=1).round(2), coolest


@pytest.fixture(scope="module")
def told(make_database, _server):
    """The anomalies of the last day, by their minute."""
    values, coolest = telemetry()
    dsn = make_database(f"TEMPLATE {_server.template_dbname}")
    first = NOW - timedelta(minutes=len(values) - 1)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO devices VALUES (%s, 'pump')", [DEVICE])
        with conn.cursor().copy(
            'COPY device_shadow_history (device_uuid, "timestamp", reported_state) FROM STDIN'
        ) as copy:
            for minute, row in enumerate(values.tolist()):
                system = dict(zip((path for path, _ in METRICS.values()), row, strict=True))
                state = json.dumps({"system": system})
                copy.write_row([DEVICE, first + timedelta(minutes=minute), state])
        for name in ("pressure", "flow"):
            path, unit = METRICS[name]
            conn.execute(
                "INSERT INTO ml_metric (name, path, unit) VALUES (%s, %s, %s)",
                [name, f"system.{path}", unit],
            )
        since = NOW.replace(tzinfo=UTC) - timedelta(minutes=DAY)
        conn.execute("SELECT ml_train_forest(%s, as_of => %s)", [DEVICE, since])
        found = conn.execute("SELECT ml_detect(%s, hours => 24)", [DEVICE]).fetchone()[0]
    start = first + timedelta(minutes=TRAINED)
    return coolest, {
        round((datetime.fromisoformat(a["timestamp"]).replace(tzinfo=None) - start).seconds / 60): a
        for a in found["anomalies"]
    }


def reasons(told, begin, end, metric, kind):
    """Of a metric and a kind, from minute to minute."""
    found = [
        reason
        for minute, anomaly in told[1].items()
        if begin <= minute < end
        for reason in anomaly["reasons"]
    ]
    some = [reason for reason in found if (reason["metric"], reason["kind"]) == (metric, kind)]
    assert some, [reason["sentence"] for reason in found]
    return some


@pytest.mark.slow
def test_a_spike_is_high(told):
    reason = reasons(told, SPIKE, SPIKE + 3, "cpu_usage", "high")[0]
    assert reason["sentence"].startswith("cpu_usage is 99 %, usually ")
    assert reason["value"] > reason["usual_high"]


@pytest.mark.slow
def test_a_jump_within_the_usual_range_is_told_from_what_to_what(told):
    (values, _) = telemetry()
    before, after = values[TRAINED + FALL - 1 : TRAINED + FALL + 1, 2]
    kind = "rose" if after > before else "fell"
    reason = reasons(told, FALL, FALL + 14, "pressure", kind)[0]
    assert reason["usual_low"] < reason["value"] < reason["usual_high"]
    assert reason["sentence"].startswith(f"pressure {kind} from ")
    assert " hPa" in reason["sentence"]
    assert "usually" in reason["sentence"]


@pytest.mark.slow
def test_what_is_usual_by_day_is_high_for_the_night(told):
    coolest = told[0]
    for reason in reasons(told, coolest, coolest + 5, "temperature", "high for this hour"):
        assert reason["usual_low"] < reason["value"] < reason["usual_high"]
        assert reason["sentence"].startswith("temperature is 50 °C, usually ")
        assert " at all hours; at this hour " in reason["sentence"]


@pytest.mark.slow
def test_what_shakes_is_restless(told):
    reason = reasons(told, SHAKE, SHAKE + 16, "pressure", "restless")[0]
    assert reason["sentence"].startswith("pressure varied by ")
    assert " hPa over the last 15 min; usually by " in reason["sentence"]


@pytest.mark.slow
def test_metrics_that_part_are_told_together(told):
    """Each is in its range; a unit that is not known is not said."""
    for reason in reasons(told, PART, PART + 90, "flow", "together"):
        assert reason["usual_low"] <= reason["value"] <= reason["usual_high"]
        assert " cpu_usage at " in reason["sentence"]
        assert "None" not in reason["sentence"]


@pytest.mark.slow
def test_every_reason_has_a_case(told):
    assert told[1]
    for anomaly in told[1].values():
        for reason in anomaly["reasons"]:
            assert reason["sentence"].startswith(f"{reason['metric']} ")
            if reason["usual_low"] <= reason["value"] <= reason["usual_high"]:
                assert reason["kind"] not in ("high", "low")
