"""Findings: from a training to the rows of ml_finding, by real scans."""

import json

import pytest

from .conftest import TRAINED

FREEZE = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, %s, %s)
WHERE device_uuid = %s AND "timestamp" > (now() AT TIME ZONE 'UTC') - make_interval(mins => %s)
"""
TEMPERATURE = "{system,temperature}"
AGO = "SELECT now() - make_interval(mins => %s)"
FOUND = """
SELECT detector, kind, metric, severity, extract(epoch FROM now() - started_at)::float8 / 60,
    extract(epoch FROM now() - last_at)::float8 / 60, sentence
FROM ml_finding WHERE NOT brief ORDER BY kind, started_at
"""
ROWS = "SELECT * FROM ml_finding WHERE NOT brief ORDER BY finding_id"
KINDS = "SELECT kind FROM ml_model WHERE is_current ORDER BY 1"


@pytest.fixture(autouse=True)
def _forests_only(db):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")


@pytest.fixture
def trained(db, one, device):
    """A device of fifty hours, trained as of five hours ago."""
    db.execute("SELECT ml_train_forest(%s, as_of => %s)", [device, one(AGO, 300)])
    return device


def freeze(db, device, minutes, value="45.3", path=TEMPERATURE):
    db.execute(FREEZE, [path, value, device, minutes])


def test_a_sensor_that_hangs_is_told_once_and_goes_on(db, one, trained):
    freeze(db, trained, 240)
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 233)])
    assert db.execute(FOUND).fetchall() == []  # a few minutes say nothing yet
    for ago in range(170, -1, -10):
        db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
        assert one("SELECT outcome FROM ml_scan_state") == "scanned"
    (row,) = db.execute(FOUND).fetchall()
    assert row[:4] == ("stuck", "stuck", "temperature", "warning")
    assert 239 <= row[4] <= 241
    assert row[5] < 2
    assert row[6].startswith("temperature has stood at 45.3 °C for 3 h 5")
    assert "it never stands still for more than" in row[6]
    evidence = one("SELECT evidence FROM ml_finding WHERE NOT brief")
    assert evidence["value"] == 45.3
    assert evidence["longest"] < 20 * 60
    assert "cpu_usage" in evidence["witnesses"]
    assert one("SELECT model_id FROM ml_finding WHERE NOT brief") == one(
        "SELECT model_id FROM ml_model WHERE kind = 'stuck'"
    )


@pytest.mark.parametrize("value", [None, "null", '"unavailable"'])
def test_a_metric_that_is_gone_is_missing(db, one, trained, value):
    if value is None:
        db.execute(
            "UPDATE device_shadow_history SET reported_state = reported_state #- %s WHERE"
            " device_uuid = %s AND \"timestamp\" > (now() AT TIME ZONE 'UTC') - interval '2 hours'",
            [TEMPERATURE, trained],
        )
    else:
        freeze(db, trained, 120, value)
    for ago in (150, 100, 50, 0):
        db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
    (row,) = db.execute(FOUND).fetchall()
    assert row[:4] == ("presence", "missing", "temperature", "warning")
    assert 119 <= row[4] <= 121.5
    assert row[5] < 2
    assert "while the device reports; it comes every 1 min" in row[6]


def test_a_sensor_that_answers_only_what_it_cannot_measure_is_told_so(db, one, trained):
    freeze(db, trained, 60, "-127", "{system,cpuUsage}")
    db.execute("CALL ml_scan(as_of => %s)", [one(AGO, 58)])
    assert db.execute(FOUND).fetchall() == []  # two may be glitches
    for ago in (50, 10, 0):
        db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
    row = db.execute(FOUND.replace("NOT brief", "kind = 'junk'")).fetchone()
    assert row[:4] == ("junk", "junk", "cpu_usage", "warning")
    assert 59 <= row[4] <= 61
    assert row[5] < 2
    assert row[6] == "cpu_usage has sent only impossible values for 58 min, lastly -127 %" or (
        row[6] == "cpu_usage has sent only impossible values for 59 min, lastly -127 %"
    )
    incident = "SELECT kind, leading_metric, state, summary FROM ml_incidents"
    (told,) = db.execute(incident).fetchall()
    assert told[:3] == ("junk", "cpu_usage", "open")
    assert told[3].startswith(row[6])


def test_a_device_that_stops_is_silent_until_it_reports_again(db, one, trained):
    db.execute(
        'CREATE TABLE later AS SELECT * FROM device_shadow_history WHERE "timestamp"'
        " > (now() AT TIME ZONE 'UTC') - interval '4 hours'"
    )
    db.execute("DELETE FROM device_shadow_history h USING later l WHERE h.id = l.id")
    told = []
    for ago in range(250, 50, -20):
        db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
        told.append(
            (ago, one("SELECT outcome FROM ml_scan_state"), len(db.execute(FOUND).fetchall()))
        )
    assert [ago for ago, _, rows in told if rows] == list(range(210, 50, -20))
    assert {outcome for ago, outcome, _ in told if ago < 230} == {"unchanged"}
    (row,) = db.execute(FOUND).fetchall()
    assert row[:4] == ("presence", "silent", "", "critical")
    assert 239.9 <= row[4] <= 241.1
    assert 69.9 <= row[5] <= 70.5
    assert row[6].startswith("the device has sent no reading for 2 h 5")
    db.execute(
        'INSERT INTO device_shadow_history SELECT * FROM later WHERE "timestamp"'
        " > (now() AT TIME ZONE 'UTC') - interval '1 hour'"
    )
    db.execute("CALL ml_scan()")
    db.execute("CALL ml_scan()")
    (row,) = db.execute(FOUND).fetchall()
    assert 59 <= row[5] <= 60.5
    assert one("SELECT silent_from > last_reading + interval '29 minutes' FROM ml_scan_state")


def test_a_rescan_of_the_same_time_changes_nothing(db, one, trained):
    freeze(db, trained, 240)
    until = one(AGO, 20)
    db.execute("CALL ml_scan(as_of => %s)", [until])
    before = db.execute(ROWS).fetchall()
    assert len(before) == 1
    for _ in range(2):
        db.execute(
            "UPDATE ml_scan_state SET outcome = 'failed', watermark = watermark - '2 h'::interval"
        )
        db.execute("CALL ml_scan(as_of => %s)", [until])
        assert db.execute(ROWS).fetchall() == before


def test_finders_are_trained_with_the_forest_and_by_it_alone(db, one, device):
    answer = one("SELECT ml_train_forest(%s)", device)
    assert "stuck" in answer["finders"]
    kinds = [kind for (kind,) in db.execute(KINDS)]
    assert kinds == sorted(["forest", *answer["finders"]])
    with_ = one("SELECT array_agg(DISTINCT trained_with) FROM ml_model WHERE kind <> 'forest'")
    assert with_ == [answer["model_id"]]
    assert db.execute("SELECT kind FROM ml_run").fetchall() == [("forest",)]
    assert db.execute("SELECT kind FROM _ml_due(ARRAY[%s::uuid])", [device]).fetchall() == []
    assert json.dumps(one("SELECT ml_model_info(%s)", device)).count('"trained_with": null') == 1


@pytest.fixture
def hung(db, one, trained):
    """A device whose temperature has hung for four hours, which a scan has found."""
    freeze(db, trained, 240)
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_finding WHERE NOT brief") == 1
    return trained


def test_findings_are_kept_for_anomaly_days_and_forgotten_with_their_device(db, one, hung):
    db.execute(
        "INSERT INTO ml_finding (device_uuid, detector, brief, kind, metric, started_at,"
        " last_at, severity, score, evidence, sentence, model_id, found_at, updated_at)"
        " SELECT device_uuid, detector, brief, kind, metric, started_at - interval '91 days',"
        " last_at - interval '91 days', severity, score, evidence, sentence, model_id, found_at,"
        " updated_at FROM ml_finding"
    )
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_finding WHERE NOT brief") == 1
    kept = one("SELECT count(*) FROM ml_finding")
    assert one("SELECT ml_forget(%s)", hung)["findings"] == kept
    assert one("SELECT count(*) FROM ml_finding WHERE NOT brief") == 0
    assert one("SELECT count(*) FROM ml_model") == 0


def test_rows_that_come_late_are_looked_at_too(db, one, trained):
    freeze(db, trained, 240)
    db.execute("CREATE TABLE held AS TABLE device_shadow_history WITH NO DATA")
    db.execute(
        'WITH gone AS (DELETE FROM device_shadow_history WHERE "timestamp" > now() AT TIME ZONE'
        " 'UTC' - interval '250 minutes' AND \"timestamp\" < now() AT TIME ZONE 'UTC'"
        " - interval '5 minutes' RETURNING *) INSERT INTO held SELECT * FROM gone"
    )
    db.execute("CALL ml_scan()")
    assert one("SELECT count(*) FROM ml_finding WHERE kind = 'stuck'") == 0
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        ' SELECT device_uuid, reported_state, "timestamp" FROM held'
    )
    db.execute("CALL ml_scan()")
    (row,) = [row for row in db.execute(FOUND).fetchall() if row[1] == "stuck"]
    assert 238 <= row[4] <= 241


def test_a_forest_that_is_rolled_back_to_brings_its_finders(db, one, device):
    first, second = (one("SELECT ml_train_forest(%s)", device)["model_id"] for _ in range(2))
    in_force = (
        "SELECT array_agg(DISTINCT coalesce(trained_with, model_id)) FROM ml_model WHERE is_current"
    )
    assert one(in_force) == [second]
    assert one("SELECT ml_rollback(%s)", first)["replaced_model_id"] == second
    assert one(in_force) == [first]
    assert [kind for (kind,) in db.execute(KINDS)] == TRAINED
    # An earlier forest that had none puts none in force.
    db.execute("DELETE FROM ml_model WHERE trained_with = %s", [second])
    db.execute("SELECT ml_rollback(%s)", [second])
    assert [kind for (kind,) in db.execute(KINDS)] == ["forest"]
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "scanned"


def test_a_finder_that_cannot_be_read_makes_the_forest_due(db, one, device):
    db.execute("SELECT ml_train_forest(%s)", [device])
    db.execute("UPDATE ml_model SET sha256 = 'x' WHERE kind = 'stuck'")
    db.execute("CALL ml_scan()")
    assert one("SELECT sqlstate FROM ml_scan_state") == "ML005"
    due = "SELECT kind, reason FROM _ml_due(ARRAY[%s::uuid])"
    assert db.execute(due, [device]).fetchall() == [("forest", "unreadable")]
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "scanned"


def test_a_worker_stores_the_finders_too(db, one, device, train):
    train(device)
    outside = db.execute("SELECT kind, sha256 FROM ml_model ORDER BY 1").fetchall()
    assert [kind for kind, _ in outside] == TRAINED
    assert one("SELECT count(*) FROM ml_run") == 1


def test_a_finding_says_how_seldom_its_like_comes(db, one, hung):
    figures = one("SELECT figures FROM ml_model WHERE kind = 'stuck'")
    assert figures["ordinary_hours"] == pytest.approx(45, abs=1)
    assert max(figures["peaks"]) < 1  # none of them is a finding
    hours = one("SELECT rarity FROM ml_finding WHERE NOT brief")
    assert hours > 168
    # What all devices do counts where it is oftener.
    db.execute("SELECT _ml_pool_peaks()")
    pooled = one("SELECT array_agg(detector ORDER BY detector) FROM ml_rarity")
    assert pooled == ["forest", "junk", "presence", "stuck"]  # two days are too short for levels
    db.execute(
        "UPDATE ml_rarity SET devices = 9, hours = 1512, heights = '{90,80,70}', counts = '{1,2,3}'"
        " WHERE detector = 'stuck'"
    )
    before = one("SELECT score FROM ml_finding WHERE NOT brief")
    db.execute("CALL ml_scan(as_of => %s)", [one("SELECT now() + interval '1 second'")])
    # It is over: nothing is found anew.
    assert one("SELECT rarity FROM ml_finding WHERE NOT brief") == hours
    db.execute("UPDATE ml_scan_state SET outcome = 'failed'")
    db.execute("CALL ml_scan()")
    assert one("SELECT rarity FROM ml_finding WHERE NOT brief") < hours
    assert one("SELECT score FROM ml_finding WHERE NOT brief") >= before


def test_where_no_peaks_are_known_rarity_is_not_known(db, one, trained):
    db.execute("UPDATE ml_model SET figures = '{}' WHERE kind = 'stuck'")
    freeze(db, trained, 240)
    db.execute("CALL ml_scan()")
    assert one("SELECT array_agg(rarity) FROM ml_finding WHERE NOT brief") == [None]


def test_a_finding_that_goes_on_gets_rarer(db, one, trained):
    freeze(db, trained, 240)
    said = []
    for ago in (150, 90, 30):
        db.execute("CALL ml_scan(as_of => %s)", [one(AGO, ago)])
        said.append(db.execute("SELECT score, rarity FROM ml_finding WHERE NOT brief").fetchone())
    assert said == sorted(said)
    assert said[-1][0] == pytest.approx(210 / 9, rel=0.05)


def test_what_no_scan_writes_is_refused(db, refused, hung):
    put = (
        "SELECT _ml_put_findings(%s, 'stuck', false, 1, 600, '{stuck}', '{a}', %s, %s, %s, %s, %s,"
        " %s, '{it is}', 1)"
    )
    good = (hung, [1.0], [2.0], ["warning"], [1.0], [24.0], ["{}"])
    db.execute(put, good)
    for place, bad in (
        (0, None),
        (1, [3.0]),
        (2, [float("nan")]),
        (3, ["none"]),
        (4, [-1.0]),
        (5, [-1.0]),
        (6, ["[]"]),
    ):
        refused(put, *good[:place], bad, *good[place + 1 :], sqlstate="ML004")
