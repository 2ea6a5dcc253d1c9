"""ml_doctor: what it notices, and that each fix can be typed and helps."""

import json

import psycopg
import pytest

from tests.receivers import until

HOME = ("metrics", "clock", "schedule", "scans", "devices", "trainings")


@pytest.fixture
def ask(db):
    """The doctor's row of a name: ok, detail, fix."""

    def row(name):
        found = {one[0]: one[1:] for one in db.execute("SELECT * FROM ml_doctor()")}
        return found[name]

    return row


@pytest.fixture(autouse=True)
def _forests_only(db):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")


@pytest.fixture
def mend(db, ask):
    """Run the fix of a row that is not ok; the row is ok then."""

    def mended(name):
        ok, detail, fix = ask(name)
        assert ok is False, detail
        db.execute("SET search_path = pg_catalog")  # a fix names its schema
        db.execute(fix)
        db.execute("RESET search_path")
        assert ask(name)[0] is True, ask(name)
        return detail

    return mended


@pytest.mark.slow
def test_a_fleet_that_works_is_well(db, ask, add_device):
    add_device(readings=300)
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    for name in HOME:
        ok, detail, fix = ask(name)
        assert (ok, fix) == (True, None), (name, detail)
        assert detail


def test_an_empty_history_lacks_only_its_schedule(db):
    wrong = "SELECT array_agg(check_name) FROM ml_doctor() WHERE NOT ok AND check_name <> 'pg_cron'"
    assert db.execute(wrong).fetchone()[0] == ["schedule"]


def test_every_metric_disabled(db, mend, device):
    db.execute("UPDATE ml_metric SET enabled = false")
    assert "every metric is disabled" in mend("metrics")


def test_a_path_that_matches_nothing(db, mend, add_device):
    add_device(readings=30)
    db.execute(
        "INSERT INTO ml_metric (name, path) VALUES ('humidity', 'sensors.humidity'),"
        " ('status', 'health.status')"  # which is there, and is a text
    )
    detail = mend("metrics")
    assert "humidity (sensors.humidity), status (health.status)" in detail
    enabled = "SELECT count(*) FROM ml_metric WHERE enabled"
    assert db.execute(enabled).fetchone()[0] == 6


def test_where_no_metric_is_found_it_shows_what_there_is(db, ask, add_device):
    """The fix is not to disable them all."""
    add_device(readings=30)
    db.execute("UPDATE ml_metric SET path = 'other.' || path, divisor_path = NULL")
    _, _, fix = ask("metrics")
    db.execute("SET search_path = pg_catalog")
    found = {path: statement for path, _, _, statement in db.execute(fix)}
    assert "INSERT INTO public.ml_metric (name, path" in found["system.cpuUsage"]


def test_a_metric_that_a_model_of_some_other_device_has(db, ask, add_device):
    """The sample may have missed the devices that report it."""
    add_device(readings=30)
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('rare', 'sensors.rare')")
    assert ask("metrics")[0] is False
    db.execute(
        "INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome)"
        " VALUES (gen_random_uuid(), now(), 'scanned')"
    )
    db.execute(
        "INSERT INTO ml_signal_state SELECT device_uuid, '{rare}', '{60}', '{1}', ARRAY[now()],"
        " '{ok}', ARRAY[now()], '{0}', '{0}', '{0}', '{0}', '{1,0,0,0}', 0, '[]' FROM ml_scan_state"
    )
    assert ask("metrics")[0] is True


def test_a_metric_that_one_class_of_many_devices_has(db, ask, add_device):
    """Or one message an hour: neither is among the newest rows of the first devices."""
    add_device(readings=120)
    db.execute(
        "INSERT INTO devices (uuid, name) SELECT"
        " ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, 'small'"
        " FROM generate_series(1, 150) AS i"
    )
    db.execute(
        'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
        " SELECT uuid, '{\"a\": 1}', now() AT TIME ZONE 'UTC' FROM devices WHERE name = 'small'"
    )
    db.execute(
        "UPDATE device_shadow_history SET reported_state = reported_state || '{\"total\": 5}'"
        " WHERE \"timestamp\" < now() AT TIME ZONE 'UTC' - interval '1 hour'"
    )
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('total', 'total'), ('first', 'a')")
    assert ask("metrics")[0] is True
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('typo', 'system.cpuusage')")
    ok, detail, fix = ask("metrics")
    assert not ok
    assert detail.endswith(" readings of 151 devices: typo (system.cpuusage)")
    db.execute(fix)
    assert ask("metrics")[0] is True


def test_a_metric_that_is_reported_no_longer(db, ask, add_device, train):
    """The device's model still uses it, because its training window has values of it."""
    device = add_device(readings=2000)
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('room', 'system.temperature')")
    train(device)
    db.execute("CALL ml_scan()")
    gone = (
        "UPDATE device_shadow_history SET reported_state = reported_state #- '{system,temperature}'"
        " WHERE \"timestamp\" > now() AT TIME ZONE 'UTC' - make_interval(hours => %s)"
    )
    db.execute(gone, [2])
    assert ask("metrics")[0] is True
    db.execute(gone, [25])
    assert ask("metrics")[1].endswith(
        ": room (system.temperature), temperature (system.temperature)"
    )


def test_a_shadow_that_no_row_has(db, ask, add_device):
    add_device(readings=30)
    db.execute("UPDATE ml_setting SET value = 'state' WHERE name = 'history_shadow'")
    ok, detail, fix = ask("metrics")
    assert ok is False
    assert "'state'" in detail
    assert db.execute(fix).fetchall() == [("device-state", 30)]


def move(db, hours, devices):
    db.execute(
        'UPDATE device_shadow_history SET "timestamp" = "timestamp" + make_interval(hours => %s)'
        " WHERE device_uuid::text = ANY (%s)",
        [hours, devices],
    )


def test_local_time_in_a_column_of_utc(db, mend, add_device):
    devices = [add_device(readings=30) for _ in range(3)]
    move(db, 2, devices)
    detail = mend("clock")
    assert detail.startswith("3 of 3 devices have readings in the future, up to 0")
    zone = "SELECT value FROM ml_setting WHERE name = 'history_time_zone'"
    assert db.execute(zone).fetchone()[0] == "Etc/GMT-2"


def test_one_device_whose_clock_is_ahead(db, ask, add_device):
    ahead, *_ = devices = [add_device(readings=30) for _ in range(3)]
    move(db, 2, devices[:1])
    ok, detail, fix = ask("clock")
    assert ok is False
    assert detail.startswith("1 of 3")
    assert [str(row[0]) for row in db.execute(fix)] == [ahead]


@pytest.mark.slow
def test_no_schedule(db, ask, add_device):
    add_device(readings=300)
    ok, detail, fix = ask("schedule")
    assert (ok, fix) == (False, "SELECT * FROM public.ml_schedule();")
    assert detail == "within a day nobody has called ml_scan or ml_retrain"
    db.execute("CALL ml_scan()")
    assert ask("schedule")[1] == "within a day nobody has called ml_retrain"
    db.execute("CALL ml_retrain()")
    assert ask("schedule")[0] is True
    db.execute("UPDATE ml_job SET started_at = now() - interval '25 hours'")
    assert ask("schedule")[0] is False


@pytest.mark.slow
def test_never_scanned_and_an_old_scan(db, ask, mend, add_device):
    add_device(readings=300)
    db.execute("CALL ml_retrain()")
    assert mend("scans") == "no device was ever scanned"
    db.execute("UPDATE ml_scan_state SET scanned_at = now() - interval '2 hours'")
    assert "the latest 02:00:0" in mend("scans")


@pytest.mark.slow
def test_failing_devices(db, ask, mend, add_device):
    device = add_device(readings=300)
    db.execute("CALL ml_scan()")
    ok, detail, fix = ask("devices")
    assert ok is False
    assert detail.startswith(f"1 of 1 fail; the last: {device}: ")
    db.execute(fix)
    db.execute("CALL ml_scan()")
    assert ask("devices")[0] is True
    db.execute("UPDATE ml_scan_state SET outcome = 'failed', sqlstate = 'ML005', error = 'broken'")
    rows = db.execute(ask("devices")[2]).fetchall()
    assert [row[1] for row in rows] == ["ML005"]


def test_a_retired_device_is_no_failing_one(db, ask, add_device):
    device = add_device(readings=300)
    db.execute("CALL ml_scan()")
    db.execute("SELECT ml_forget(%s)", [device])
    assert ask("devices")[0] is True
    assert ask("scans") == (True, "every device is retired", None)


def test_failing_trainings(db, ask, add_device):
    device = add_device(readings=30)
    db.execute("CALL ml_retrain()")
    ok, detail, fix = ask("trainings")
    assert ok is False
    assert device in detail
    assert [str(row[0]) for row in db.execute(fix)] == [device]
    db.execute("UPDATE ml_setting SET value = '50' WHERE name = 'min_training_samples'")
    db.execute("DELETE FROM device_shadow_history")
    db.execute("UPDATE ml_run SET started_at = started_at - interval '25 hours'")
    assert ask("trainings")[0] is True


# ---- the index ---------------------------------------------------------------------


def set_history(db, table):
    db.execute("UPDATE ml_setting SET value = %s WHERE name = 'history_table'", [table])


def test_no_index(db, mend):
    db.execute("CREATE TABLE plain (LIKE device_shadow_history)")
    set_history(db, "public.plain")
    assert "public.plain" in mend("index")


def test_the_fix_blocks_no_writes_where_it_need_not(db, ask):
    db.execute("CREATE TABLE plain (LIKE device_shadow_history)")
    set_history(db, "public.plain")
    assert ask("index")[2].startswith("CREATE INDEX CONCURRENTLY ON public.plain (")


def test_no_index_of_a_partitioned_table(db, mend):
    db.execute(
        "CREATE TABLE parted (LIKE device_shadow_history) PARTITION BY RANGE (timestamp);"
        "CREATE TABLE part PARTITION OF parted DEFAULT"
    )
    set_history(db, "public.parted")
    assert "public.parted" in mend("index")


def test_a_table_that_does_not_exist_gets_no_index(db, ask):
    set_history(db, "public.nowhere")
    ok, _, fix = ask("index")
    assert ok is False
    assert "CREATE INDEX" not in fix
    assert ("history_table", "public.nowhere") in db.execute(fix).fetchall()
    db.execute("CREATE TABLE mine (name text, at timestamptz, doc jsonb)")
    call = ask("history table")[2]
    columns = {"schema.table": "public.mine", "device": "name", "time": "at", "state": "doc"}
    for said, mine in columns.items():
        call = call.replace(f"'{said}'", f"'{mine}'")
    db.execute("SET search_path = pg_catalog")
    db.execute(call)
    db.execute("RESET search_path")
    assert ask("history table") == (True, "mine, readable", None)


def test_a_view_has_the_index_of_its_table(db, ask, mend):
    db.execute("CREATE VIEW seen AS SELECT * FROM device_shadow_history")
    set_history(db, "public.seen")
    ok, detail, _ = ask("index")
    assert (ok, detail.startswith("an index of public.device_shadow_history")) == (True, True)
    db.execute(
        "CREATE TABLE plain (LIKE device_shadow_history); CREATE VIEW over AS SELECT * FROM plain"
    )
    set_history(db, "public.over")
    assert "public.plain" in mend("index")


def test_of_other_views_it_says_that_it_cannot_tell(db, ask):
    db.execute(
        "CREATE VIEW joined AS SELECT * FROM device_shadow_history UNION ALL"
        " SELECT h.* FROM device_shadow_history h JOIN devices d ON d.uuid = h.device_uuid"
    )
    set_history(db, "public.joined")
    ok, detail, fix = ask("index")
    assert (ok, fix) == (True, None)
    assert "EXPLAIN" in detail


@pytest.mark.slow
@pytest.mark.parametrize("order", ["DESC", pytest.param("ASC", marks=pytest.mark.long)])
def test_it_reads_little_of_a_long_history(db, add_device, order):
    """Also with a device that fell silent long ago, and an index on the time alone."""
    db.execute(
        "DROP INDEX device_shadow_history_device_timestamp_idx;"
        f'CREATE INDEX ON device_shadow_history (device_uuid, "timestamp" {order})'
    )
    for age in (0, 0, 20):
        device = add_device(readings=4000)
        db.execute(
            'UPDATE device_shadow_history SET "timestamp" = "timestamp" - make_interval(days => %s)'
            " WHERE device_uuid = %s",
            [age, device],
        )
    db.execute("VACUUM ANALYZE device_shadow_history")
    db.execute("ANALYZE device_shadow_history")
    read = (
        "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_user_tables"
        " WHERE relname = 'device_shadow_history'"
    )

    def counted():
        db.execute("SELECT pg_stat_force_next_flush()")
        return db.execute(read).fetchone()[0]

    until(lambda: counted() >= 12_000)  # by the updates above
    before = counted()
    db.execute("SELECT * FROM ml_doctor()")
    assert counted() - before < 200


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_a_row_at_either_end_of_time_hides_nothing(db, ask, add_device, zone):
    device = add_device(readings=5)
    db.execute("UPDATE ml_setting SET value = %s WHERE name = 'history_time_zone'", [zone])
    for end in ("294276-12-31 23:59:59.999999", "infinity", "4714-11-24 BC", "-infinity"):
        db.execute(
            'INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")'
            " SELECT device_uuid, reported_state, %s FROM device_shadow_history"
            " WHERE device_uuid = %s LIMIT 1",
            [end, device],
        )
    assert ask("metrics")[0] is True
    assert ask("clock")[1].startswith("1 of 1 devices have readings in the future")


@pytest.mark.slow
def test_a_reader_is_told_the_same(db, dsn, add_device):
    add_device(readings=300)
    db.execute("CALL ml_retrain()")
    db.execute("CALL ml_scan()")
    role = "pyml_doctor_reader"
    db.execute(f"DROP ROLE IF EXISTS {role}")
    db.execute(f"CREATE ROLE {role} LOGIN; SELECT ml_grant('{role}', 'read')")
    try:
        db.execute(f"GRANT SELECT ON device_shadow_history TO {role}")
        with psycopg.connect(dsn, user=role, autocommit=True) as reader:
            rows = dict(reader.execute("SELECT check_name, ok FROM ml_doctor()").fetchall())
        assert {name: ok for name, ok in rows.items() if name != "pg_cron"} == dict.fromkeys(
            rows.keys() - {"pg_cron"}, True
        ), json.dumps(rows)
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
