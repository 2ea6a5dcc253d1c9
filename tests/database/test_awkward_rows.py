"""What real tables hold: no bad row fails a call or becomes a reading."""

import itertools
import json

import pytest

from tests.stored import newest, put_model

INSERT = (
    'INSERT INTO device_shadow_history (device_uuid, shadow_name, reported_state, "timestamp")'
    " SELECT %s, %s, %s::jsonb, now() AT TIME ZONE 'UTC' - %s::interval"
)


NO_NUMBER = (
    {},
    [],
    "text",
    {"config": {"echo": 1}},
    {"system": None},
    {"system": "down"},
    {"system": [1, 2]},
    {"system": {"cpuUsage": None}},
    {"system": {"cpuUsage": "27.4"}},
    {"system": {"cpuUsage": True}},
    {"system": {"cpuUsage": [1]}},
    {"system": {"cpuUsage": {"value": 3}}},
    {"system": {"cpuUsage": 1e308}},
    {
        "system": {
            "cpuUsage": 0,
            "memoryUsage": 0,
            "memoryTotal": 0,
            "diskUsage": 0,
            "diskTotal": 0,
        }
    },
)


@pytest.mark.slow
def test_rows_without_a_usable_number_are_counted_and_passed_over(db, one, device, train):
    counted = "SELECT readings_used, readings_rejected FROM ml_model WHERE model_id = %s"
    used, rejected = db.execute(counted, [train(device)]).fetchone()
    for minutes, state in enumerate(NO_NUMBER, 30):
        row = [device, "device-state", json.dumps(state), f"{minutes}.5 minutes"]
        db.execute(INSERT, row)
        told = one("SELECT ml_detect(%s)", device)["model_info"]["rejected_samples"]
        assert told == minutes - 29, state
    more = rejected + len(NO_NUMBER)
    assert db.execute(counted, [train(device)]).fetchone() == (used, more)


@pytest.mark.slow
def test_a_number_beyond_float8_fails_nothing(db, one, device, train):
    numbers = ("1e400", "-1e400", "1e-400", "-1e-400", "1" + "0" * 500)
    for minutes, number in enumerate(numbers, 30):
        state = f'{{"system": {{"cpuUsage": {number}}}}}'
        db.execute(INSERT, [device, "device-state", state, f"{minutes}.5 minutes"])
    used = one("SELECT readings_used FROM ml_model WHERE model_id = %s", train(device))
    assert used in range(3000, 3006)


@pytest.mark.parametrize("total", ["5e-300", "1e-170", "-16320"])
def test_a_share_of_next_to_nothing_is_none(db, one, device, total, train):
    """The one before it holds."""
    train(device)
    state = f'{{"system": {{"memoryUsage": 596156, "memoryTotal": {total}, "temperature": 45}}}}'
    db.execute(INSERT, [device, "device-state", state, "0.5 minutes"])
    seen = (
        "SELECT metrics -> 'memory_usage_percent' FROM ml_score(%s, now() - interval '2 minutes',"
        ' now()) ORDER BY "timestamp" DESC LIMIT 3'
    )
    _, tiny, before = db.execute(seen, [device]).fetchall()
    assert tiny == before
    assert one("SELECT count(*) FROM ml_zscore(%s, 'memory_usage_percent')", device) == 3000


def test_other_shadows_are_not_readings(db, one, device, train):
    db.execute(INSERT, [device, "config", '{"system": {"cpuUsage": 99}}', "30.5 minutes"])
    assert one("SELECT readings_used FROM ml_model WHERE model_id = %s", train(device)) == 3000


@pytest.mark.slow
def test_repeats_count_once_and_order_does_not_matter(db, one, device):
    plain = one("SELECT ml_train_forest(%s)", device)
    scores = (
        "SELECT \"timestamp\", anomaly_score FROM ml_score(%s, now() - interval '9 hours', now())"
    )
    expected = db.execute(scores, [device]).fetchall()
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT device_uuid, reported_state, \"timestamp\" + (i * 0.4) * interval '1 second'"
        " FROM device_shadow_history, generate_series(0, 1) AS i WHERE id % 10 = 0"
        " ORDER BY random()"
    )
    told = one("SELECT ml_train_forest(%s)", device)
    assert told["training_samples"] == plain["training_samples"]
    assert told["repeated_samples"] == 600
    assert db.execute(scores, [device]).fetchall() == expected
    assert one("SELECT count(DISTINCT sha256) FROM ml_model WHERE kind = 'forest'") == 1


def test_a_counter_that_resets_is_no_spike(db, one, device, train):
    train(device)
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_set(jsonb_set(reported_state,"
        " '{system,network,rxBytes}',"
        " to_jsonb((reported_state #>> '{system,network,rxBytes}')::float8 - 176400000)),"
        " '{system,network,txBytes}',"
        " to_jsonb((reported_state #>> '{system,network,txBytes}')::float8 - 58800000))"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '60 minutes'"
    )
    rows = db.execute(
        "SELECT (metrics ->> 'network_receive_rate')::float8"
        " FROM ml_score(%s, now() - interval '2 hours', now())",
        [device],
    ).fetchall()
    rates = [rate for (rate,) in rows if rate is not None]
    assert len(rates) == len(rows) - 1
    assert max(rates) < 2000


@pytest.mark.slow
def test_a_forecast_tells_a_metric_at_rest_from_a_failed_collection(db, one, device):
    """A failed one leaves 0 in the totals too."""
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    before = one("SELECT ml_train_lstm(%s)", device)
    failed = {"cpuUsage": 0, "memoryTotal": 0, "diskTotal": 0}

    def insert(system, minutes):  # before the newest reading, however long a training has taken
        ago = one(
            "SELECT now() AT TIME ZONE 'UTC' - max(\"timestamp\") + make_interval(secs => %s)"
            " FROM device_shadow_history",
            60 * minutes,
        )
        db.execute(INSERT, [device, "device-state", json.dumps({"system": system}), ago])

    insert(failed, 30.5)
    insert(failed | {"memoryTotal": 9}, 40.5)
    after = one("SELECT ml_train_lstm(%s)", device)
    assert after["training_samples"] == before["training_samples"]
    system = failed | {"memoryTotal": 16320, "diskTotal": 476}
    insert(system, 50.5)
    again = one("SELECT ml_train_lstm(%s)", device)
    assert again["training_samples"] == before["training_samples"] + 1


def test_a_device_that_now_sends_densely_is_still_seen(db, one, device, train):
    """A model of minutes, then a reading in 5 s: an hour at 97 % is found, as it was before."""
    train(device)
    db.execute("CALL ml_scan(%s)", [device])
    dense = (
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT %(device)s, jsonb_set(h.reported_state, '{system,cpuUsage}', %(value)s::jsonb),"
        " h.timestamp + i * interval '5 seconds' FROM device_shadow_history h,"
        " generate_series(1, 11) AS i WHERE h.timestamp > now() AT TIME ZONE 'UTC' - interval '2 h'"
    )
    db.execute(dense, {"device": device, "value": "97"})
    db.execute(
        "UPDATE device_shadow_history SET reported_state ="
        " jsonb_set(reported_state, '{system,cpuUsage}', '97')"
        " WHERE timestamp > now() AT TIME ZONE 'UTC' - interval '2 hours'"
    )
    score = "SELECT timestamp, anomaly_score, severity FROM ml_score(%s, {} , now())"
    found = db.execute(score.format("now() - interval '90 minutes'"), [device]).fetchall()
    assert len(found) >= 89
    assert sum(severity == "critical" for *_, severity in found) > 40
    later = db.execute(score.format("now() - interval '40.3 minutes'"), [device]).fetchall()
    assert later == found[-len(later) :]
    document = one("SELECT ml_detect(%s, hours => 1)", device)
    told = document["model_info"]
    assert document["analyzed_points"] + told["repeated_samples"] in (719, 720, 721)
    db.execute("UPDATE ml_scan_state SET watermark = watermark - interval '2 hours', late_rows = 0")
    db.execute("CALL ml_scan(%s)", [device])
    assert one("SELECT count(*) FROM ml_anomaly WHERE severity = 'critical'") > 40


@pytest.mark.long
def test_documents_show_no_digits_of_the_reckoning(db, one, device):
    """55.8745, not 55.874500000000076; what was reported stays as it was."""
    db.execute("SELECT ml_train_forest(%s, contamination => 0.05)", [device])
    db.execute("SELECT ml_train_lstm(%s)", [device])
    db.execute("CALL ml_scan(%s)", [device])
    told = [
        one("SELECT ml_detect(%s)::text", device),
        one("SELECT ml_forecast(%s)::text", device),
        one(
            "SELECT json_agg(s)::text FROM ml_score(%s, now() - interval '9 hours', now()) s",
            device,
        ),
        one("SELECT json_agg(p)::text FROM ml_predict(%s, 'system.cpuUsage') p", device),
        one("SELECT json_agg(a)::text FROM ml_anomalies a"),
    ]
    for text in told:
        written: list[str] = []
        json.loads(text, parse_float=written.append)
        assert len(written) > 10
        digits = [one.lstrip("-").replace(".", "").lstrip("0") for one in written]
        assert max(map(len, digits)) <= 10, max(digits, key=len)
    detected = {a["timestamp"]: a["anomaly_score"] for a in json.loads(told[0])["anomalies"]}
    scored = {a["timestamp"]: a["anomaly_score"] for a in json.loads(told[2]) if a["is_anomaly"]}
    assert scored
    assert set(scored.values()) <= set(detected.values())


def test_whole_numbers_are_shown_in_full(db, one, device):
    db.execute(
        "UPDATE device_shadow_history SET reported_state ="
        " jsonb_set(reported_state, '{system,temperature}', to_jsonb(1764335227123 + id))"
    )
    put_model(db, device, newest("forest"))
    same = one(
        "SELECT bool_and((s.metrics ->> 'temperature')::numeric"
        "    = (h.reported_state #>> '{system,temperature}')::numeric)"
        " FROM ml_score(%s, now() - interval '1 hour', now()) AS s"
        " JOIN device_shadow_history h ON h.timestamp = s.timestamp AT TIME ZONE 'UTC'",
        device,
    )
    assert same is True


@pytest.mark.slow
def test_a_long_window_is_judged_as_its_parts_are(db, add_device):
    """It is read a week of minutes at a time: here to 6 hours before now."""
    device = add_device(readings=10_440)
    put_model(db, device, newest("forest"))
    score = "SELECT * FROM ml_score(%s, {0} - interval '{1} hours', {0} - interval '{2} hours')"
    with db.transaction():  # of one moment
        whole = db.execute(score.format("now()", 174, 0), [device]).fetchall()
        ends = [9, 7.3, 4.05, 0]
        parts = [
            row
            for first, last in itertools.pairwise(ends)
            for row in db.execute(score.format("now()", first, last), [device])
        ]
    assert len(whole) == 10_440
    assert whole[-540:] == parts
