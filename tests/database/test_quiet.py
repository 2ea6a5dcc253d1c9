"""Quiet windows: nothing is told in them, and no training learns from them."""

from datetime import UTC, datetime

import pytest

from .conftest import AGO
from .test_incidents import EVENTS, HOT

pytestmark = pytest.mark.usefixtures("forests_only")

# A window from so many minutes before now to so many.
WINDOW = """
INSERT INTO ml_quiet (device_uuid, metric, starts_at, ends_at)
VALUES (%s, %s, now() - make_interval(mins => %s), now() - make_interval(mins => %s))
RETURNING quiet_id
"""
SPANS = """
SELECT starts_at, ends_at FROM _ml_quiet_spans(%s, %s, %s)
"""
GONE = """
DELETE FROM device_shadow_history WHERE device_uuid = %s
AND (now() AT TIME ZONE 'UTC') - "timestamp" BETWEEN make_interval(mins => %s)
    AND make_interval(mins => %s)
"""


@pytest.fixture
def met(db, device):
    """Fifty hours of quiet minutes of a device that pyml knows."""
    db.execute("SELECT _ml_meet(ARRAY[%s::uuid])", [device])
    return device


def told(db):
    return [event for event, _ in db.execute(EVENTS)]


def test_what_begins_and_ends_in_a_window_is_recorded_and_not_told(db, one, trained, scan):
    number = one(WINDOW, trained, None, 130, 30)
    db.execute(HOT, [trained, 40, 120])
    scan(*range(150, 0, -10))
    db.execute("CALL ml_scan()")
    assert told(db) == []
    assert one("SELECT count(*) FROM ml_incident") == 0
    kept = db.execute("SELECT DISTINCT detector FROM ml_finding WHERE quiet_id = %s", [number])
    assert {detector for (detector,) in kept} >= {"level", "forest"}
    row = db.execute("SELECT says, kept_quiet_7d FROM ml_rules WHERE quiet_id = %s", [number])
    assert row.fetchall() == []  # it has ended
    db.execute("UPDATE ml_quiet SET ends_at = now() + interval '1 hour'")
    says, kept = db.execute("SELECT says, kept_quiet_7d FROM ml_rules").fetchone()
    assert says == "nothing is told and nothing is learned"
    assert kept >= 2


def test_what_goes_on_after_a_window_is_told_then(db, one, trained, scan):
    one(WINDOW, trained, None, 130, 60)
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 60, -10))
    assert told(db) == []
    scan(*range(60, 0, -10))
    assert told(db)[0] == "opened"
    assert one("SELECT started_at FROM ml_incidents") < one(AGO, 100)
    assert one("SELECT opened_at FROM ml_incidents") > one(AGO, 61)
    assert one("SELECT count(*) FROM ml_finding WHERE quiet_id IS NOT NULL AND NOT brief") == 0


def test_an_incident_that_was_open_before_goes_on_without_a_word(db, one, trained, scan):
    db.execute(HOT, [trained, 120, 240])
    scan(*range(250, 190, -10))
    before = told(db)
    assert before[0] == "opened"
    one(WINDOW, trained, None, 185, 95)
    scan(*range(180, 100, -20))
    assert told(db) == before
    assert one("SELECT state FROM ml_incidents") == "open"
    assert one("SELECT ended_at FROM ml_incidents") > one(AGO, 140)
    scan(60, 0)
    assert told(db) == [*before, "resolved"]


def test_a_window_of_one_metric_is_about_that_one(db, one, trained, scan):
    one(WINDOW, trained, "cpu_usage", 200, 0)
    db.execute(HOT, [trained, -1, 120])
    scan(*range(150, 0, -30))
    assert told(db)[0] == "opened"


def test_a_device_that_is_off_in_a_window_is_not_silent(db, one, trained, scan):
    one(WINDOW, trained, None, 180, 60)
    db.execute(GONE, [trained, 61, 179])
    scan(*range(200, 0, -20))
    assert one("SELECT count(*) FROM ml_finding WHERE kind = 'silent' AND quiet_id > 0") == 1
    assert told(db) == []


def test_a_window_that_is_declared_late_takes_an_incident_back(db, one, trained, scan):
    db.execute(HOT, [trained, 10, 120])
    scan(*range(150, 20, -10))
    assert told(db)[0] == "opened"
    one(WINDOW, None, None, 130, -60)
    scan(20)
    assert one("SELECT state || ', ' || why FROM ml_incidents") == "resolved, a rule"


# ---- when it is ------------------------------------------------------------------


def moments(*texts):
    return [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in texts]


@pytest.mark.parametrize(
    ("begin", "end", "repeat", "zone", "since", "until", "expected"),
    [
        # A night before and after the clocks of Berlin go forward, at 01:00 UTC on 29 March.
        (
            *("2026-03-28T01:30", "2026-03-28T02:30", "daily", "Europe/Berlin"),
            *("2026-03-29", "2026-03-31"),
            [("2026-03-30T00:30", "2026-03-30T01:30")],
        ),
        (
            *("2026-03-28T00:30", "2026-03-28T03:00", "daily", "Europe/Berlin"),
            *("2026-03-29", "2026-03-29T12:00"),
            [("2026-03-29T00:30", "2026-03-29T02:00")],  # an hour shorter
        ),
        # They go back at 01:00 UTC on 25 October: the hour from 2 to 3 comes twice.
        (
            *("2026-10-24T00:00", "2026-10-24T01:00", "daily", "Europe/Berlin"),
            *("2026-10-25", "2026-10-26"),
            [("2026-10-25T00:00", "2026-10-25T02:00")],
        ),
        # Over midnight, and the next day's begins before the end of what is asked for.
        (
            *("2026-01-01T22:00", "2026-01-02T02:00", "daily", "UTC"),
            *("2026-01-10T01:00", "2026-01-10T22:00"),
            [
                ("2026-01-09T22:00", "2026-01-10T02:00"),
                ("2026-01-10T22:00", "2026-01-11T02:00"),
            ],
        ),
        (
            *("2026-01-01T22:00", "2026-01-02T02:00", "weekly", "America/New_York"),
            *("2026-07-01", "2026-07-15"),
            [
                ("2026-07-02T21:00", "2026-07-03T01:00"),
                ("2026-07-09T21:00", "2026-07-10T01:00"),
            ],
        ),
        # Not before the first time, and once without a repetition.
        (
            *("2026-01-10T22:00", "2026-01-11T02:00", "daily", "UTC"),
            *("2025-12-01", "2026-01-11T03:00"),
            [("2026-01-10T22:00", "2026-01-11T02:00")],
        ),
        (
            *("2026-01-10T22:00", "2026-01-20T02:00", None, "Asia/Tokyo"),
            *("2026-01-15", "2026-03-01"),
            [("2026-01-10T22:00", "2026-01-20T02:00")],
        ),
        (*("2026-01-10T22:00", "2026-01-11T02:00", None, "UTC"), "2026-01-12", "2026-02-01", []),
        # An island whose clocks go by half an hour.
        (
            *("2026-10-01T15:00", "2026-10-01T16:00", "daily", "Australia/Lord_Howe"),
            *("2026-10-10", "2026-10-11"),
            [("2026-10-10T14:30", "2026-10-10T15:30")],
        ),
    ],
)
def test_when_a_window_is(db, one, begin, end, repeat, zone, since, until, expected):
    for session in ("UTC", "Asia/Kolkata"):
        db.execute("SELECT set_config('TimeZone', %s, false)", [session])
        db.execute("DELETE FROM ml_quiet")
        db.execute(
            "INSERT INTO ml_quiet (starts_at, ends_at, repeat, zone) VALUES (%s, %s, %s, %s)",
            [*moments(begin, end), repeat, zone],
        )
        device = "11111111-2222-3333-4444-555555555555"
        found = db.execute(SPANS, [device, *moments(since, until)]).fetchall()
        assert [tuple(row) for row in found] == [tuple(moments(*span)) for span in expected]


def test_spans_of_ten_years_and_of_the_ends_of_time_are_found_in_a_moment(db, one):
    db.execute(
        "INSERT INTO ml_quiet (starts_at, ends_at, repeat)"
        " VALUES ('2020-01-01', '2020-01-01 02:00', 'daily')"
    )
    count = "SELECT count(*) FROM _ml_quiet_spans(%s, to_timestamp(%s), to_timestamp(%s))"
    device = "11111111-2222-3333-4444-555555555555"
    now = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert one(count, device, now - 3652 * 86400, now) == 3653
    assert one(count, device, -2e11, -1.9e11) == 0
    assert one(count, device, 9e12 - 86400 * 3, 9e12) == 3


# ---- what is learned -------------------------------------------------------------

CHANGED = """
UPDATE device_shadow_history SET reported_state = jsonb_set(jsonb_set(reported_state,
    '{system,cpuUsage}', to_jsonb(%s + (extract(epoch FROM "timestamp")::bigint %% 7))),
    '{system,temperature}', to_jsonb(%s::float8))
WHERE (now() AT TIME ZONE 'UTC') - "timestamp" BETWEEN make_interval(mins => %s)
    AND make_interval(mins => %s)
"""
MODELS = "SELECT kind, encode(sha256(blob), 'hex') FROM ml_model WHERE is_current ORDER BY kind"


@pytest.mark.slow
def test_a_model_does_not_know_the_values_of_a_quiet_window(db, one, met):
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    as_of = one("SELECT now()")

    def models():
        answer = one("SELECT ml_train_forest(%s, as_of => %s)", met, as_of)
        other = one("SELECT ml_train_lstm(%s, 'cpu_usage', as_of => %s)", met, as_of)
        found = dict(db.execute(MODELS).fetchall())
        db.execute("DELETE FROM ml_model")
        return found, answer, other

    plain, answer, other = models()
    assert (answer["quiet_samples"], other["quiet_samples"]) == (0, 0)
    db.execute(WINDOW, [met, None, 1000, 700])
    quiet, answer, other = models()
    assert quiet.keys() == plain.keys()
    # No junk is in the window, and nothing is missing: the finders of these learn the same.
    assert [kind for kind in quiet if quiet[kind] == plain[kind]] == ["junk", "presence"]
    assert answer["quiet_samples"] == other["quiet_samples"] == 300
    assert answer["training_samples"] == 2700
    db.execute(CHANGED, [91, 20.5, 701, 999])
    assert models()[0] == quiet


def test_a_model_does_not_know_the_values_of_a_metric_s_quiet_window(db, one, met):
    as_of = one("SELECT now()")
    db.execute(WINDOW, [None, "temperature", 1000, 700])
    db.execute(WINDOW, [met, "cpu_usage", 1000, 700])

    def models():
        one("SELECT ml_train_forest(%s, as_of => %s)", met, as_of)
        return dict(db.execute(MODELS).fetchall())

    quiet = models()
    left_out = one(
        "SELECT ml_model_info(%s) #> '{models,0,parameters,quiet}'",
        met,
    )
    assert left_out == {"rows": 0, "values": {"cpu_usage": 300, "temperature": 300}}
    db.execute(CHANGED, [91, 20.5, 701, 999])
    assert models() == quiet
    db.execute("DELETE FROM ml_quiet")
    assert models() != quiet


def test_a_worker_leaves_out_what_is_quiet_as_a_backend_does(db, one, met, train):
    one(WINDOW, met, None, 1000, 700)
    train(met)
    parameters = "SELECT parameters -> 'quiet' FROM ml_model WHERE kind = 'forest'"
    assert one(parameters) == {"rows": 300, "values": {}}


def test_a_training_with_too_little_outside_of_windows_says_so(db, met, refused):
    db.execute(WINDOW, [met, None, 10_000, 50])
    said = refused("SELECT ml_train_forest(%s)", met, sqlstate="ML001")
    assert said.message_detail.endswith("and 2950 were in quiet windows.")


def test_a_forecast_reaches_no_limit_in_a_quiet_window_or_where_it_is_muted(db, one, met):
    put = (
        "SELECT _ml_put_forecast(%s, 'lstm', 'system.cpuUsage', 0.9, 1,"
        " date_part('epoch', now()), ARRAY[1, 2, 3, 4] * 3600 + date_part('epoch', now()),"
        " '{70,85,85,95}', '{70,85,85,95}', '{70,85,85,95}')"
    )
    put = put.replace("ARRAY[1, 2, 3, 4] * 3600 + date_part('epoch', now())", "%s::float8[]")
    now = one("SELECT date_part('epoch', now())")
    times = [now + hour * 3600 for hour in (1, 2, 3, 4)]

    def breaches():
        db.execute(put, [met, times])
        found = db.execute("SELECT breach FROM ml_forecast_point ORDER BY timestamp")
        return [breach for (breach,) in found]

    assert breaches() == [None, 80, 80, 80]
    one(WINDOW, met, "cpu_usage", -90, -150)
    assert breaches() == [None, None, 80, 80]
    limit = "INSERT INTO ml_rule (device_uuid, metric, limit_high) VALUES (%s, 'cpu_usage', %s)"
    db.execute(limit, [None, 60])
    assert breaches() == [60, None, 60, 60]
    db.execute(limit, [met, 90])
    assert breaches() == [None, None, None, 90]
    db.execute("INSERT INTO ml_rule (mute, until) VALUES (true, now() + interval '1 day')")
    assert breaches() == [None, None, None, None]


# ---- what is refused -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"zone": "Europe/Atlantis"}, "there is none called 'Europe/Atlantis'"),
        ({"zone": ""}, "the name of a time zone"),
        ({"zone": None}, "the name of a time zone"),
        ({"zone": "+02"}, "the name of a time zone"),
        ({"repeat": "hourly"}, "repeat is daily, weekly or NULL"),
        ({"ends_at": "2026-01-01 01:00+00"}, "an end that comes after the begin"),
        ({"ends_at": "infinity"}, "a begin and an end"),
        ({"starts_at": None}, "a begin and an end"),
        ({"ends_at": "2026-01-02 02:00+00", "repeat": "daily"}, "before it comes again, daily"),
        ({"ends_at": "2026-01-09 02:00+00", "repeat": "weekly"}, "before it comes again, weekly"),
        ({"metric": "noise"}, "there is none called 'noise'"),
        ({"reason": "x" * 4001}, "a reason of at most 4000 characters"),
    ],
)
def test_a_window_that_is_none_is_refused(db, refused, changes, wanted):
    given = {
        "metric": None,
        "starts_at": "2026-01-01 02:00+00",
        "ends_at": "2026-01-01 04:00+00",
        "repeat": None,
        "zone": "UTC",
        "reason": None,
    } | changes
    insert = (
        "INSERT INTO ml_quiet (metric, starts_at, ends_at, repeat, zone, reason)"
        " VALUES (%s, %s, %s, %s, %s, %s)"
    )
    said = refused(insert, *given.values(), sqlstate="ML004")
    assert said.message_primary == "a quiet window cannot be as it is given"
    assert wanted in said.message_detail
    db.execute(said.message_hint)


def test_a_zone_is_kept_by_its_name(db, one):
    db.execute(
        "INSERT INTO ml_quiet (starts_at, ends_at, zone, metric)"
        " VALUES (now(), now() + interval '1 h', 'europe/berlin', '')"
    )
    assert db.execute("SELECT zone, metric FROM ml_quiet").fetchall() == [("Europe/Berlin", None)]
