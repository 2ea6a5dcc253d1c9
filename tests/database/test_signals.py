"""ml_signals: how well each signal is measured, and why a metric is not in the model."""

import pytest

NEW = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT device_uuid, {change}, "timestamp" + interval '30 minutes' FROM device_shadow_history
WHERE device_uuid = %s AND "timestamp" > (SELECT max("timestamp") FROM device_shadow_history
    WHERE device_uuid = %s) - interval '30 minutes'
"""
SHARES = """
SELECT metric, quality, missing_share, out_of_range_share, junk_share, reset_share, samples
FROM ml_signals WHERE device_uuid = %s AND in_model
"""


@pytest.fixture
def trained(db, add_device, train):
    """A device that ended half an hour ago, with a forest and a first scan."""
    device = add_device(readings=1500)
    db.execute(
        'UPDATE device_shadow_history SET "timestamp" = "timestamp" - interval \'30 minutes\''
        " WHERE device_uuid = %s",
        [device],
    )
    train(device)
    db.execute("CALL ml_scan(%s::uuid)", [device])
    return device


@pytest.fixture
def report(db, trained):
    """Half an hour more of readings, changed, and a scan; what ml_signals then says of each."""

    def told(change):
        db.execute(NEW.format(change=change), [trained, trained])
        db.execute("CALL ml_scan(%s::uuid)", [trained])
        rows = db.execute(SHARES, [trained]).fetchall()
        return {metric: tuple(found) for metric, *found in rows}

    return told


def put(path, value):
    return f"jsonb_set(reported_state, '{{system,{path}}}', '{value}')"


def test_what_is_well_says_so(report):
    found = report("reported_state")
    assert len(found) == 6
    assert {tuple(one[:4]) for one in found.values()} == {("ok", 0, 0, 0)}
    assert found["cpu_usage"][4] == 0
    assert {one[5] for one in found.values()} <= set(range(1380, 1441))


def test_each_quality_is_told_of_the_signal_that_has_it(report):
    change = put("temperature", "-127")
    change = change.replace("reported_state,", put("cpuUsage", "250") + ",", 1)
    found = report(f"({change}) #- '{{system,diskUsage}}'")
    assert found["cpu_usage"][0] == "out of range"
    assert found["cpu_usage"][2] == pytest.approx(30 / found["cpu_usage"][5])
    assert found["disk_usage_percent"][0] == "missing"
    assert found["disk_usage_percent"][1] == pytest.approx(28 / found["cpu_usage"][5], rel=0.05)
    # A first leap to -127 waits for a second: what stays there is what the sensor says.
    assert found["temperature"][3] == pytest.approx(1 / found["cpu_usage"][5])
    assert found["memory_usage_percent"][:5] == ("ok", 0, 0, 0, 0)


def test_a_counter_that_fell_is_told_once(report):
    found = report(put("network,rxBytes", "5"))
    assert found["network_receive_rate"][4] == pytest.approx(1 / found["cpu_usage"][5])
    assert found["network_transmit_rate"][4] in (0, pytest.approx(1 / found["cpu_usage"][5]))


def test_why_a_metric_is_not_in_the_model(db, one, add_device):
    device = add_device(readings=600)
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('pressure', 'system.pressure')")
    db.execute(
        "UPDATE device_shadow_history SET reported_state = reported_state || '{}'"
        " WHERE device_uuid = %s",
        [device],
    )
    heard = []
    db.add_notice_handler(lambda said: heard.append(said.message_primary))
    left_out = one("SELECT ml_train_forest(%s) -> 'left_out'", device)
    assert left_out == {"pressure": "nothing came in 168 h"}
    assert heard == ["not in the model: pressure (nothing came in 168 h); see the view ml_signals"]
    why = "SELECT in_model, why_not FROM ml_signals WHERE device_uuid = %s AND metric = %s"
    assert db.execute(why, [device, "pressure"]).fetchone() == (False, "nothing came in 168 h")
    assert db.execute(why, [device, "cpu_usage"]).fetchone() == (True, None)


def test_a_metric_that_is_always_out_of_range_is_left_out_and_said_so(db, one, add_device):
    device = add_device(readings=600)
    db.execute("UPDATE ml_metric SET lower_bound = 1000 WHERE name = 'temperature'")
    left_out = one("SELECT ml_train_forest(%s) -> 'left_out'", device)
    assert left_out == {"temperature": "100% of its samples in 168 h are out of range"}


def test_messages_of_an_impossible_time_are_counted(db, one, trained, report):
    report("reported_state")
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT %s, '{\"system\": {\"cpuUsage\": 30}}', t FROM unnest(ARRAY['1970-01-01',"
        " '2100-01-01', now() AT TIME ZONE 'UTC']::timestamp[]) AS t",
        [trained],
    )
    db.execute("CALL ml_scan(%s::uuid)", [trained])
    share = one("SELECT min(bad_clock_share) FROM ml_signals WHERE device_uuid = %s", trained)
    assert 0 < share < 0.01
    told = "SELECT ok, detail, fix FROM ml_doctor() WHERE check_name = 'signals'"
    ok, detail, fix = db.execute(told).fetchone()
    assert not ok
    assert "impossible time" in detail
    assert len(db.execute(fix).fetchall()) == 6


def test_the_doctor_tells_of_a_signal_that_is_gone(db, one, trained):
    told = "SELECT ok, fix FROM ml_doctor() WHERE check_name = 'signals'"
    assert db.execute(told).fetchone()[0]
    db.execute("UPDATE ml_signal_state SET missing = ARRAY[0, 0, 0, 0, 0, 300]")
    ok, fix = db.execute(told).fetchone()
    assert not ok
    assert len(db.execute(fix).fetchall()) == 1


def test_whoever_is_forgotten_or_retired_is_not_shown(db, one, trained):
    count = "SELECT count(*) FROM ml_signals"
    assert one(count) == 6
    db.execute("SELECT ml_forget(%s)", [trained])
    assert one(count) == 0
    assert one("SELECT count(*) FROM ml_signal_state") == 0


def test_what_no_scan_writes_is_refused(refused, trained):
    written = (
        "SELECT _ml_put_signals(%s::uuid, '{{a}}', '{{60}}', '{{1}}', '{{0}}', '{{{quality}}}',"
        " '{{0}}', '{{{missing}}}', '{{0}}', '{{0}}', '{{0}}', '{{1,0,0,0}}', 0, '[]')"
    )
    refused(written.format(quality="splendid", missing=0), trained, sqlstate="ML004")
    refused(written.format(quality="ok", missing=-1), trained, sqlstate="ML004")


def test_what_no_scan_has_written_is_forgotten(db, one, trained, report):
    db.execute("UPDATE ml_signal_state SET hours = '[{\"hour\": 1}]'")
    found = report("reported_state")
    assert found["cpu_usage"][0] == "ok"
    assert 0 < found["cpu_usage"][5] <= 120


def test_a_scan_points_to_the_view_where_much_was_no_measurement(db, one, add_device):
    device = add_device(readings=1500)
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute(
        "UPDATE device_shadow_history SET reported_state = reported_state #- '{system,temperature}'"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '5 hours'"
    )
    heard = []
    db.add_notice_handler(lambda said: heard.append((said.message_primary, said.message_hint)))
    db.execute("CALL ml_scan()")
    words, hint = heard[-1]
    assert words == (
        "1 signals of 1 devices were no measurement for more than a tenth of a day,"
        f" such as temperature of {device}"
    )
    found = db.execute(hint).fetchall()
    assert [row[1] for row in found] == ["temperature"]
