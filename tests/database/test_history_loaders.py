"""What the sample fleet and a recording look like once they are in the table."""

import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sample_fleet
from load_history import load
from recordings import BadRecording

BENCH = Path(__file__).parents[2] / "bench"
NOW = datetime(2026, 1, 15, 9, 30)
OTHER = uuid.UUID("00000000-0000-4000-8000-000000000001")


@pytest.fixture
def other(db):
    """A device of somebody else, with one row."""
    db.execute("INSERT INTO devices VALUES (%s, 'other')", (OTHER,))
    db.execute(
        "INSERT INTO device_shadow_history (device_uuid, reported_state, timestamp)"
        " VALUES (%s, '{}', '2026-01-01')",
        (OTHER,),
    )
    return OTHER


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "mine.csv"
    start = datetime(2020, 5, 1, tzinfo=UTC)
    lines = [f"{(start + timedelta(minutes=i)).isoformat()},{i / 10},{i * 6000}" for i in range(99)]
    path.write_text("\n".join(["timestamp,cpu,rx_bytes", *lines, ""]))
    return path


def counts(db):
    found = db.execute("SELECT device_uuid, count(*) FROM device_shadow_history GROUP BY 1")
    return dict(found.fetchall())


@pytest.mark.slow
def test_the_fleet_is_loaded_whole_and_a_second_load_replaces_it(db, dsn, other):
    expected = len(list(sample_fleet.rows(days=1, now=NOW)))
    for seed in (1, sample_fleet.SEED):
        assert sample_fleet.load(dsn, seed, 1, NOW) == pytest.approx(expected, abs=50)
    found = counts(db)
    assert found.pop(other) == 1
    assert sum(found.values()) == expected
    assert set(found) == {device.uuid for device in sample_fleet.FLEET}
    names = {name for (name,) in db.execute("SELECT name FROM devices").fetchall()}
    assert names == {"other", *(device.name for device in sample_fleet.FLEET)}


def test_timestamps_are_utc_in_whatever_zone_the_session_is(db, dsn):
    sample_fleet.load(f"{dsn} options='-c timezone=Asia/Tokyo'", 1, 0.5, NOW)
    (newest,) = db.execute("SELECT max(timestamp) FROM device_shadow_history").fetchone()
    assert NOW - timedelta(minutes=1) < newest <= NOW


def test_missing_tables_are_created_with_their_indexes(db, dsn):
    db.execute("DROP TABLE device_shadow_history, devices CASCADE")
    sample_fleet.load(dsn, 1, 0.1, NOW)
    indexes = db.execute(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'device_shadow_history'"
    ).fetchall()
    shapes = {definition.partition(" USING ")[2] for (definition,) in indexes}
    assert shapes == {
        "btree (id)",
        "btree (device_uuid)",
        'btree ("timestamp" DESC)',
        'btree (device_uuid, "timestamp" DESC)',
        'btree (device_uuid, shadow_name, "timestamp" DESC)',
        "gin (reported_state)",
    }


def test_an_existing_table_keeps_the_indexes_that_its_owner_gave_it(db, dsn, recording):
    db.execute("DROP INDEX device_shadow_history_timestamp_idx")
    sample_fleet.load(dsn, 1, 0.1, NOW)
    load(db, recording)
    absent = db.execute("SELECT to_regclass('device_shadow_history_timestamp_idx') IS NULL")
    assert absent.fetchone() == (True,)


def test_a_recording_ends_when_it_is_told_to(db, recording):
    end = datetime(2026, 1, 1, 14, tzinfo=UTC)
    loaded = load(db, recording, end=end)
    assert (loaded.rows, loaded.last) == (99, datetime(2026, 1, 1, 14))
    first, last, rising = db.execute(
        "SELECT min(timestamp), max(timestamp),"
        " bool_and((reported_state #>> '{system,cpuUsage}')::float8 ="
        "          extract(epoch FROM timestamp - %s) / 600)"
        " FROM device_shadow_history WHERE device_uuid = %s",
        (loaded.first, loaded.device),
    ).fetchone()
    assert (first, last, rising) == (loaded.first, loaded.last, True)


def test_a_recording_ends_now_and_may_be_cut(db, recording):
    loaded = load(db, recording, days=10 / 1440)
    assert loaded.rows == 10
    assert loaded.first == loaded.last - timedelta(minutes=9)
    assert abs(loaded.last - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=1)


def test_loading_a_file_again_replaces_it_and_nothing_else(db, recording, other):
    device = load(db, recording).device
    assert load(db, recording, days=10 / 1440).device == device
    assert counts(db) == {device: 10, other: 1}


def test_a_recording_never_mixes_with_the_history_of_a_chosen_device(db, recording, other):
    with pytest.raises(BadRecording, match="has a history already"):
        load(db, recording, device=other)
    assert counts(db) == {other: 1}
    own = uuid.uuid4()
    assert load(db, recording, device=own).device == own
    assert counts(db) == {own: 99, other: 1}


def test_the_program_says_what_it_did_and_what_to_type_next(db, dsn, recording):
    command = [sys.executable, str(BENCH / "load_history.py"), dsn, str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (device,) = counts(db)
    assert f"device   {device}\nrows     99\n" in done.stdout
    assert f"SELECT ml_train_forest('{device}', as_of => '" in done.stdout

    refused = subprocess.run([*command[:3], "absent.csv"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == "load_history: absent.csv: no such file\n"


def test_a_refused_file_leaves_nothing_behind(dsn, db, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("ts,cpu\n0,1\n60,high\n")
    with psycopg.connect(dsn) as conn, pytest.raises(BadRecording):
        load(conn, path)
    assert db.execute("SELECT count(*) FROM devices").fetchone() == (0,)
