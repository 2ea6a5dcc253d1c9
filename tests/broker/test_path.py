"""From a device to an incident: a fault that is published is found by the scans that follow."""

import math
import random
from datetime import UTC, datetime, timedelta

from .conftest import until

DEVICE = "boiler 7"
TOPIC = f"iot/device/{DEVICE}/state"
MINUTE = timedelta(minutes=1)
HOURS = 72
# Of the last minutes.
FAULT, TRAINED = 60, 90


def states(now):
    """Three quiet days with a day's rhythm; in the last hour the temperature is too high."""
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


def test_a_published_fault_is_an_incident_within_two_scans(history, start, device):
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
    (uuid,) = history.execute("SELECT uuid FROM devices").fetchone()
    history.execute("SELECT ml_train_forest(%s, as_of => %s)", [str(uuid), now - TRAINED * MINUTE])
    for _ in range(2):
        history.execute("CALL ml_scan()")
    found = history.execute(
        "SELECT device_name, state, leading_metric, extract(epoch FROM %s - started_at) / 60"
        " FROM ml_incidents",
        [now],
    ).fetchall()
    assert [one[:3] for one in found] == [(DEVICE, "open", "temperature")]
    assert FAULT - 5 <= found[0][3] <= FAULT + 20
