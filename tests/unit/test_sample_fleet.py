"""The sample fleet has the faults that it names, at the times that it names, and no others."""

import json
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
import sample_fleet as fleet

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 15, 9, 30)


@pytest.fixture(scope="module")
def rows():
    """All of them, made once: it takes seconds."""
    return list(fleet.rows(now=NOW))


@pytest.fixture(scope="module")
def history(rows):
    """Device name -> [(shadow, state, timestamp)] in order of arrival."""
    names = {device.uuid: device.name for device in fleet.FLEET}
    found = defaultdict(list)
    for device, shadow, state, timestamp in rows:
        found[names[device]].append((shadow, json.loads(state), timestamp))
    return dict(found)


@pytest.fixture(scope="module")
def planted():
    return {fault.kind: fault for fault in fleet.faults(now=NOW)}


def number(value):
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 else np.nan


def series(rows, *fields):
    """Sorted, failed rows left out: times (n,), values (n, fields)."""
    table = {}
    for shadow, state, timestamp in rows:
        system = state.get("system")
        if shadow == "device-state" and system and system.get("memoryTotal") != 0:
            flat = {**system, **system.get("network", {})}
            table[timestamp] = [number(flat.get(field)) for field in fields]
    times = sorted(table)
    return np.array(times), np.array([table[timestamp] for timestamp in times])


def per_second(times, counter):
    elapsed = np.array([(b - a).total_seconds() for a, b in pairwise(times)])
    rate = np.diff(counter) / elapsed
    return np.where((rate >= 0) & (elapsed > 20), rate, np.nan)


def split(times, fault):
    """Masks: during the fault, and before it."""
    return (times >= fault.start) & (times <= fault.end), times < fault.start


@pytest.mark.long
def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    first, again = list(fleet.rows(3, 1, NOW)), list(fleet.rows(3, 1, NOW))
    assert first == again
    other = list(fleet.rows(4, 1, NOW))
    assert [row[2] for row in first] != [row[2] for row in other]
    assert {row[0] for row in first} == {row[0] for row in other}


def test_another_now_moves_timestamps_and_changes_no_value():
    shift = timedelta(days=40, hours=7)
    for a, b in zip(fleet.rows(3, 1, NOW), fleet.rows(3, 1, NOW + shift), strict=True):
        assert (*a[:3], a[3] + shift) == b


def test_eight_devices_eight_days_that_end_now(history):
    assert set(history) == {device.name for device in fleet.FLEET}
    assert len(history) == 8
    for rows in history.values():
        times = [timestamp for _, _, timestamp in rows]
        assert all(t.tzinfo is None for t in times)
        assert NOW - timedelta(days=8) <= min(times) < NOW - timedelta(days=7.99)
        assert NOW - timedelta(minutes=11) < max(times) <= NOW


def test_rows_of_all_devices_arrive_interleaved(rows):
    assert len({row[0] for row in rows[:50]}) == len(fleet.FLEET)


@pytest.mark.parametrize(
    ("name", "seconds"), [("gateway-lisbon", 30), ("archive-berlin", 60), ("api-madrid", 300)]
)
def test_intervals_differ(history, name, seconds):
    times, _ = series(history[name], "cpuUsage")
    steps = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert np.median(steps) == pytest.approx(seconds, rel=0.01)


def test_the_untroubled_device_has_no_fault_and_no_awkward_row(history, planted):
    rows = history["archive-berlin"]
    assert "archive-berlin" not in {fault.device_name for fault in planted.values()}
    times = [timestamp for _, _, timestamp in rows]
    steps = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert min(steps) > 50
    assert max(steps) < 70
    for shadow, state, _ in rows:
        assert shadow == "device-state"
        system = state["system"]
        values = [*(v for k, v in system.items() if k != "network"), *system["network"].values()]
        assert all(type(v) in (int, float) and v >= 0 for v in values)
        assert system["memoryTotal"] == 16320


@pytest.mark.parametrize(
    "name",
    [
        "web-paris",
        "api-madrid",
        "edge-oslo",
        "gateway-lisbon",
        "sensor-vienna",
        "batch-dublin",
        "meter-athens",
    ],
)
def test_every_other_device_has_each_kind_of_awkward_row(history, name):
    (device,) = (device for device in fleet.FLEET if device.name == name)
    rows, step = history[name], 60 * device.pace
    times = [timestamp for _, _, timestamp in rows]
    steps = [(b - a).total_seconds() for a, b in pairwise(sorted(times))]
    by_time = [state for _, state, _ in sorted(rows, key=lambda row: row[2])]
    system = [state["system"] for state in by_time if "system" in state]
    cpu = [entry["cpuUsage"] for entry in system]
    health = [state["health"] for state in by_time if "health" in state]
    uptime = [entry["uptime"] for entry in health if "uptime" in entry]

    assert len(times) > len(set(times)), "exact repeats"
    assert any(0 < gap < 0.5 for gap in steps), "near repeats"
    assert any(b < a for a, b in pairwise(times)), "late rows"
    assert max(steps) > 10 * step, "gaps"
    assert {shadow for shadow, _, _ in rows} == {"device-state", "device-config"}
    assert any("config" in state for state in by_time), "echoes"
    assert any(entry["status"] == "error" for entry in health), "errors"
    for wrong in fleet.WRONG_VALUES:
        assert any(type(value) is type(wrong) and value == wrong for value in cpu), wrong
    assert any(b < a - 10 * step for a, b in pairwise(uptime)), "restarts"
    if device.memory is not None:
        failed = [entry for entry in system if entry["memoryTotal"] == 0]
        assert len(failed) >= 5, "failed collections"
        for entry in failed:
            assert {entry[key] for key in ("memoryUsage", "diskUsage", "diskTotal")} == {0}


def test_network_counters_fall_back_to_zero_at_a_restart_only(history):
    rows = sorted(history["web-paris"], key=lambda row: row[2])
    good = [
        (state["health"]["uptime"], state["system"]["network"]["rxBytes"])
        for _, state, _ in rows
        if state.get("system", {}).get("memoryTotal")
    ]
    restarts = 0
    for (up, sent), (up_next, sent_next) in pairwise(good):
        if up_next < up:
            restarts += 1
            assert sent_next < sent
        else:
            assert sent_next >= sent
    assert restarts == 3


def test_one_host_reports_its_cpu_only(history):
    systems = [state["system"] for _, state, _ in history["meter-athens"] if "system" in state]
    assert {tuple(entry) for entry in systems} == {("cpuUsage",)}


def test_the_disk_drifts_slowly(history):
    times, disk = series(history["edge-oslo"], "diskUsage")
    days = (times[-1] - times[0]).total_seconds() / 86400
    growth = (disk[-1] - disk[0]) / 58 / days
    assert 0.001 < growth < 0.01
    assert (np.diff(disk[:, 0]) >= 0).all()


def test_some_models_have_no_temperature(history):
    state = history["web-paris"][0][1]
    assert state["system"]["temperature"] is None


def test_six_kinds_of_fault_one_device_each_within_the_last_day(planted):
    assert set(planted) == {
        "cpu spike",
        "memory leak",
        "runaway temperature",
        "network flood",
        "stuck sensor",
        "odd combination",
    }
    assert len({fault.device_uuid for fault in planted.values()}) == 6
    for fault in planted.values():
        assert NOW - timedelta(days=1) < fault.start < fault.end < NOW
        assert fault.sentence.endswith(".")


def test_faults_older_than_the_history_are_left_out():
    kept = {fault.kind for fault in fleet.faults(days=0.25, now=NOW)}
    assert kept == {"cpu spike", "runaway temperature"}


def test_every_fault_covers_readings(history, planted):
    for fault in planted.values():
        times, _ = series(history[fault.device_name], "cpuUsage")
        during, before = split(times, fault)
        assert during.sum() >= 15
        assert before.sum() > 1000


def test_the_cpu_spike_stands_out(history, planted):
    times, cpu = series(history["web-paris"], "cpuUsage")
    during, _ = split(times, planted["cpu spike"])
    assert np.nanmin(cpu[during]) > 90
    assert np.nanmax(cpu[~during]) < 80


def test_the_memory_leak_climbs_and_is_freed(history, planted):
    times, memory = series(history["api-madrid"], "memoryUsage")
    fault = planted["memory leak"]
    share = 100 * memory[:, 0] / 32640
    during, before = split(times, fault)
    assert np.max(share[before]) < 52
    assert share[during][-1] - share[during][0] > 35
    assert np.max(share[times > fault.end]) < 52


def test_the_temperature_runs_away_at_an_ordinary_load(history, planted):
    times, values = series(history["edge-oslo"], "temperature", "cpuUsage")
    during, before = split(times, planted["runaway temperature"])
    assert np.nanmax(values[during, 0]) > np.nanmax(values[before, 0]) + 25
    assert np.nanmax(values[during, 1]) <= np.nanmax(values[before, 1])


def test_the_network_is_flooded(history, planted):
    times, received = series(history["gateway-lisbon"], "rxBytes")
    rate, times = per_second(times, received[:, 0]), times[1:]
    during, before = split(times, planted["network flood"])
    assert np.nanmedian(rate[during]) > 5 * np.nanquantile(rate[before], 0.99)


def test_the_stuck_sensor_repeats_one_ordinary_value(history, planted):
    times, values = series(history["sensor-vienna"], "temperature", "cpuUsage")
    during, before = split(times, planted["stuck sensor"])
    assert len(set(values[during, 0])) == 1
    low, high = np.nanquantile(values[before, 0], [0.01, 0.99])
    assert low < values[during, 0][0] < high
    assert np.nanstd(values[during, 1]) > 3


def test_the_odd_combination_is_seen_only_when_metrics_are_read_together(history, planted):
    fields = ("cpuUsage", "memoryUsage", "temperature", "rxBytes", "txBytes")
    times, values = series(history["batch-dublin"], *fields)
    for counter in (3, 4):
        values[1:, counter] = per_second(times, values[:, counter])
    times, values = times[1:], values[1:]
    complete = ~np.isnan(values).any(axis=1)
    times, values = times[complete], values[complete]
    fault = planted["odd combination"]
    during, before = split(times, fault)
    usual, odd = values[before], values[during]

    assert (odd > usual.min(axis=0)).all()
    assert (odd < usual.max(axis=0)).all()
    # Metric by metric, not even the share of rare values is larger than usual ...
    low, high = np.quantile(usual, [0.01, 0.99], axis=0)
    assert (((odd < low) | (odd > high)).mean(axis=0) < 0.05).all()
    # ... while the distance that knows their covariance is rare in the middle of the fault.
    precision = np.linalg.inv(np.cov(usual.T))

    def distance(rows):
        centred = rows - usual.mean(axis=0)
        return np.einsum("ij,jk,ik->i", centred, precision, centred)

    settled = (times > fault.start + timedelta(minutes=30)) & (
        times < fault.end - timedelta(minutes=30)
    )
    assert np.median(distance(values[settled])) > np.quantile(distance(usual), 0.995)
