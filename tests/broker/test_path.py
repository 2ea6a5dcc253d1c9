"""From a device to an alert: a published fault comes back on the broker within two scans."""

import math
import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from .conftest import until

DEVICE = "boiler 7"
TOPIC = f"iot/device/{DEVICE}/state"
MINUTE = timedelta(minutes=1)
HOURS = 26
# Of the last minutes.
FAULT, TRAINED = 60, 90


def states(now):
    """A quiet day and its rhythm; in the last hour the temperature is too high."""
    chance = random.Random(7)
    for minute in range(60 * HOURS, 0, -1):
        when = now - minute * MINUTE
        day = math.sin(when.timestamp() / 86400 * 2 * math.pi)
        state = {
            "cpuUsage": round(30 + 12 * day + chance.gauss(0, 1), 2),
            "temperature": round(45 + 4 * day + chance.gauss(0, 0.4), 1),
        }
        if minute <= FAULT:
            state["temperature"] += 25
        yield when, {"system": state}


@pytest.fixture
def notifier(history, dsn, broker):
    """The notifier, at work, which tells of alerts on the broker; gives how to start it."""
    target = f'[alerts]\nurl = "{broker.url}/alerts/anomaly/{{device_uuid}}?qos=1"\n'
    started = []

    def start():
        command = [sys.executable, "-m", "pyml.workers.notify", "--dsn", dsn]
        started.append(subprocess.Popen(command, env={**os.environ, "PYML_TARGETS": target}))
        until(lambda: history.execute("SELECT FROM ml_target").fetchall())  # who is to be told

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_published_fault_comes_back_as_an_alert_within_two_scans(
    history, notifier, start, device
):
    start(messages={"batch": 1000, "seconds": 0.2})
    now = datetime.now(UTC).replace(microsecond=0)
    for when, state in states(now):
        said = {"state": {"reported": state}, "timestamp": when.isoformat()}
        waited = device.say if when >= now - MINUTE else device.tell
        waited(TOPIC, said)
    count = "SELECT count(*) FROM device_shadow_history"
    until(lambda: history.execute(count).fetchone() == (60 * HOURS,))
    history.execute(
        "SELECT ml_setup('device_shadow_history', 'device_uuid', 'timestamp', 'reported_state',"
        " 'shadow_name', 'device-state', device_name => 'public.devices.name')"
    )
    history.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    (uuid,) = history.execute("SELECT uuid::text FROM devices").fetchone()
    history.execute("SELECT ml_train_forest(%s, as_of => %s)", [uuid, now - TRAINED * MINUTE])
    notifier()
    got = []
    device.client.on_message = lambda _client, _data, message: got.append(
        (message.topic, message.payload.decode())
    )
    device.client.subscribe("alerts/#", qos=1)
    for _ in range(2):
        history.execute("CALL ml_scan()")
    found = history.execute(
        "SELECT device_name, state, leading_metric, extract(epoch FROM %s - started_at) / 60,"
        " summary FROM ml_incidents",
        [now],
    ).fetchall()
    assert [one[:3] for one in found] == [(DEVICE, "open", "temperature")]
    assert FAULT - 5 <= found[0][3] <= FAULT + 20
    until(lambda: got)
    [(topic, said)] = got
    assert topic == f"alerts/anomaly/{uuid}"
    assert said.startswith(f"{DEVICE}: temperature")
    assert found[0][4] in said
