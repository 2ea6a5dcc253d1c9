"""ml_train_forest, ml_detect and ml_score, as a user calls them."""

import json

import pytest

SPIKE = """
UPDATE device_shadow_history
SET reported_state = jsonb_set(reported_state, '{system,cpuUsage}', '99')
WHERE id IN (SELECT id FROM device_shadow_history WHERE device_uuid = %s
             ORDER BY "timestamp" DESC OFFSET 30 LIMIT 5)
"""


def test_training_tells_what_it_did(one, device):
    told = one("SELECT ml_train_forest(%s)", device)
    assert told["device_uuid"] == device
    assert told["training_samples"] == 3000
    assert told["rejected_samples"] == 0
    assert set(told["features"]) == {
        "cpu_usage",
        "memory_usage_percent",
        "disk_usage_percent",
        "temperature",
        "network_receive_rate",
        "network_transmit_rate",
    }
    assert told["contamination"] == 0.01
    assert told["held_out"]["held_out_readings"] == 3000  # each by trees that have not seen it
    assert 0 <= told["held_out"]["held_out_critical"] <= told["held_out"]["held_out_flagged"] < 0.1
    assert told["seconds"] > 0
    assert told["model_id"] == one(
        "SELECT model_id FROM ml_models WHERE is_current AND kind = 'forest'"
    )
    assert one("SELECT outcome FROM ml_run WHERE model_id = %s", told["model_id"]) == "trained"


def test_a_spike_is_found_and_explained(db, one, device, train):
    train(device)
    db.execute(SPIKE, [device])
    found = one("SELECT ml_detect(%s, hours => 1)", device)
    assert found["analyzed_points"] in (59, 60)
    assert found["anomalies_detected"] == len(found["anomalies"])
    spikes = [a for a in found["anomalies"] if a["cpu_usage"] == 99]
    assert spikes
    for anomaly in spikes:
        assert anomaly["is_anomaly"] is True
        assert anomaly["anomaly_score"] < 0
        assert anomaly["severity"] in ("warning", "critical")
        assert anomaly["timestamp"].endswith("+00:00")
    reason = spikes[-1]["reasons"][0]
    assert reason["metric"] == "cpu_usage"
    assert reason["value"] == 99
    assert reason["usual_low"] < reason["usual_high"] < 99


def test_the_newest_anomalies_come_first_and_none_is_cut_silently(db, one, device, train):
    train(device)
    db.execute(SPIKE, [device])
    every = one("SELECT ml_detect(%s)", device)
    times = [a["timestamp"] for a in every["anomalies"]]
    assert times == sorted(times, reverse=True)
    some = one("SELECT ml_detect(%s, max_anomalies => 2)", device)
    assert some["anomalies"] == every["anomalies"][:2]
    assert some["anomalies_detected"] == every["anomalies_detected"] > 2


def test_score_gives_a_row_for_each_reading_of_the_half_open_window(db, one, device, train):
    train(device)
    rows = db.execute(
        "SELECT s.* FROM (SELECT max(\"timestamp\") AT TIME ZONE 'UTC' AS last"
        " FROM device_shadow_history WHERE device_uuid = %s) AS h,"
        " ml_score(%s, last - interval '10 minutes', last) AS s",
        [device, device],
    ).fetchall()
    assert len(rows) == 10
    newest = one(
        "SELECT max(\"timestamp\") AT TIME ZONE 'UTC' FROM device_shadow_history"
        " WHERE device_uuid = %s",
        device,
    )
    assert rows[-1][0] == newest
    for _, score, is_anomaly, severity, metrics, reasons in rows:
        assert score < 0
        assert is_anomaly == (severity != "none")
        assert set(metrics) >= {"cpu_usage", "temperature"}
        assert bool(reasons) == is_anomaly


def test_a_reading_scores_the_same_in_any_window(db, device, train):
    train(device)
    windows = [
        db.execute(
            'SELECT "timestamp", anomaly_score, severity'
            " FROM ml_score(%s, now() - %s::interval, now())",
            [device, width],
        ).fetchall()
        for width in ("40 hours", "5 hours", "20 minutes")
    ]
    for narrow in windows[1:]:
        assert narrow
        assert narrow == windows[0][-len(narrow) :]


@pytest.mark.slow
def test_the_session_time_zone_moves_nothing(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    answers, scores = set(), set()
    for zone in ("UTC", "Asia/Tokyo", "America/St_Johns"):
        db.execute(f"SET TimeZone = '{zone}'")
        db.execute("SET DateStyle = 'German'")
        answer = one("SELECT ml_detect(%s)", device)
        answers.add((answer["analyzed_points"], answer["anomalies_detected"]))
        moments = db.execute(
            "SELECT date_part('epoch', \"timestamp\"), anomaly_score"
            " FROM ml_score(%s, now() - interval '1 hour', now())",
            [device],
        ).fetchall()
        scores.add(len(moments))
        as_of = one("SELECT ml_train_forest(%s, as_of => now() - interval '10 hours')", device)
        assert as_of["training_samples"] in (2399, 2400)
    assert len(answers) <= 2  # a reading may pass the window's edge between two calls
    assert max(scores) - min(scores) <= 1


@pytest.mark.slow
def test_as_of_sees_nothing_later(db, one, device):
    told = one("SELECT ml_train_forest(%s, as_of => now() - interval '10 hours')", device)
    assert told["training_samples"] in (2399, 2400)
    later = one("SELECT count(*) FROM ml_model WHERE window_end > now() - interval '10 hours'")
    assert later == 0


@pytest.mark.slow
def test_a_host_that_reports_its_cpu_alone_is_served(db, one, device):
    db.execute(
        "UPDATE device_shadow_history SET reported_state = jsonb_build_object('system',"
        " jsonb_build_object('cpuUsage', reported_state #> '{system,cpuUsage}'))"
    )
    assert one("SELECT ml_train_forest(%s)", device)["features"] == ["cpu_usage"]
    db.execute(SPIKE, [device])
    found = one("SELECT ml_detect(%s, hours => 1)", device)
    assert any(a["cpu_usage"] == 99 for a in found["anomalies"])


@pytest.mark.slow
def test_a_metric_of_ones_own_joins_the_model(db, one, device):
    db.execute(
        "UPDATE device_shadow_history SET reported_state ="
        " reported_state || jsonb_build_object('queue', jsonb_build_object('length', id % 7))"
    )
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('queue_length', 'queue.length')")
    assert "queue_length" in one("SELECT ml_train_forest(%s)", device)["features"]
    assert "queue_length" in json.dumps(
        one(
            "SELECT to_jsonb(s) FROM ml_score(%s, now() - interval '5 minutes', now()) s LIMIT 1",
            device,
        )
    )


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("SELECT ml_detect(gen_random_uuid())", "ML002"),
        ("SELECT ml_train_forest(gen_random_uuid())", "ML002"),
        ("SELECT * FROM ml_score(gen_random_uuid(), now() - interval '1 day', now())", "ML002"),
        ("SELECT ml_train_forest(NULL)", "ML004"),
        ("SELECT ml_train_forest(gen_random_uuid(), hours => 0)", "ML004"),
        ("SELECT ml_train_forest(gen_random_uuid(), contamination => 0.6)", "ML004"),
        ("SELECT ml_train_forest(gen_random_uuid(), contamination => 'NaN')", "ML004"),
        ("SELECT ml_train_forest(gen_random_uuid(), as_of => 'infinity')", "ML004"),
        ("SELECT ml_detect(gen_random_uuid(), hours => -3)", "ML004"),
        ("SELECT ml_detect(gen_random_uuid(), max_anomalies => -1)", "ML004"),
        ("SELECT * FROM ml_score(gen_random_uuid(), NULL, now())", "ML004"),
        ("SELECT ml_score(gen_random_uuid(), now(), now() - interval '1 day')", "ML004"),
        ("SELECT ml_model_info(gen_random_uuid())", "ML002"),
        ("SELECT ml_model_info(NULL::uuid)", "ML004"),
        ("SELECT ml_rollback(123456)", "ML002"),
        ("SELECT ml_rollback(NULL)", "ML002"),
    ],
)
def test_a_mistake_is_told_with_its_code_and_the_next_statement(refused, statement, sqlstate):
    refused(statement, sqlstate=sqlstate)


def test_too_few_readings_are_counted(add_device, device, refused, one):
    said = refused("SELECT ml_train_forest(%s, hours => 1)", device, sqlstate="ML001")
    assert one(said.message_hint)["training_samples"] >= 100
    one("DELETE FROM ml_model RETURNING 1")
    young = add_device(readings=60)
    said = refused("SELECT ml_train_forest(%s)", young, sqlstate="ML001")
    assert "60 usable readings" in said.message_primary
    assert "168 hours" in said.message_detail
    later = f"SELECT public.ml_train_forest('{young}'); -- when more has come"
    assert said.message_hint.startswith(later)
    assert one("SELECT count(*) FROM ml_model") == 0


def test_a_window_without_readings_is_no_error(db, one, device, train):
    train(device)
    db.execute(
        "DELETE FROM device_shadow_history"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - interval '3 hours'"
    )
    found = one("SELECT ml_detect(%s, hours => 2)", device)
    assert (found["analyzed_points"], found["anomalies"]) == (0, [])


def test_a_history_that_is_not_there_says_so(db, refused, device):
    db.execute("UPDATE ml_setting SET value = 'public.nowhere' WHERE name = 'history_table'")
    refused("SELECT ml_train_forest(%s)", device, sqlstate="ML006")


@pytest.mark.parametrize("role", ["device", "time", "state", "shadow"])
def test_a_column_that_is_not_there_leads_to_the_doctor(db, refused, device, role):
    """The settings name it, and the doctor says which setting it is."""
    db.execute("UPDATE ml_setting SET value = 'no' WHERE name = %s", [f"history_{role}_column"])
    for call in ("ml_train_forest(%s)", "ml_zscore(%s, 'cpu_usage')"):
        said = refused(f"SELECT * FROM {call}", device, sqlstate="ML006")
        assert said.message_detail.endswith("has no column no.")
        assert said.message_hint == "SELECT * FROM public.ml_doctor();"


@pytest.mark.slow
def test_another_table_shape_needs_settings_only(db, one, device):
    expected = one("SELECT ml_train_forest(%s)", device)["training_samples"]
    db.execute(
        'CREATE TABLE "Odd ""Table" AS SELECT device_uuid AS "the device",'
        ' "timestamp" AT TIME ZONE \'UTC\' AS "at", reported_state AS s FROM device_shadow_history'
    )
    for name, value in {
        "history_table": 'public."Odd ""Table"',
        "history_device_column": "the device",
        "history_time_column": "at",
        "history_state_column": "s",
        "history_shadow_column": "",
    }.items():
        db.execute("UPDATE ml_setting SET value = %s WHERE name = %s", [value, name])
    assert one("SELECT ml_train_forest(%s)", device)["training_samples"] == expected
    assert one("SELECT ml_detect(%s, hours => 1)", device)["analyzed_points"] in (59, 60)
