"""pyml.workers.fleet: the same work, from outside the server."""

import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from pyml.workers import job
from pyml.workers.fleet import retrain

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def fleet(*args, start=("-m", "pyml.workers.fleet")):
    return subprocess.run(
        [sys.executable, *start, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_workers_train_each_device_once(db, dsn, one, add_device):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    for _ in range(6):
        add_device(readings=300)
    poor = add_device(readings=10)
    ran = fleet("retrain", "--jobs", "2", "--dsn", dsn)
    assert ran.stdout == "1 failed, 6 trained\n", ran.stderr
    assert ran.returncode == 1
    assert "7/7 1 failed" in ran.stderr
    assert one("SELECT count(*) FROM ml_model WHERE is_current AND kind = 'forest'") == 6
    assert one("SELECT sqlstate FROM ml_run WHERE device_uuid = %s", poor) == "ML001"
    assert one("SELECT min(devices) FROM ml_fleet_model") == 6  # what stands in for a seventh
    again = fleet("retrain", "--jobs", "2", "--dsn", dsn)
    assert (again.stdout, again.returncode) == ("nothing due\n", 0)


def test_what_it_stores_is_what_a_training_in_the_server_stores(db, dsn, add_device):
    device = add_device(readings=600)
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    for model in ((device, "forest", ""), (device, "lstm", "system.cpuUsage")):
        assert job.retrain_one(dsn, None, *model) == (model, "trained", "")
    job.connection(dsn).close()
    made = "SELECT kind, {} FROM ml_model WHERE is_current ORDER BY kind"
    said = made.format("sha256, blob, parameters, figures, versions, readings_used, window_end")
    outside = db.execute(said).fetchall()
    db.execute("DELETE FROM ml_model")
    db.execute("SELECT ml_train_forest(%s), ml_train_lstm(%s)", [device, device])
    assert db.execute(said).fetchall() == outside


def test_columns_that_look_like_parameters(db, dsn, one, add_device):
    device = add_device(readings=300)
    db.execute(
        'CREATE VIEW odd AS SELECT device_uuid AS "$1", "timestamp" AS "at$2", reported_state'
        """ AS "state$1 ""$3", shadow_name FROM device_shadow_history"""
    )
    for name, value in {
        "history_table": "public.odd",
        "history_device_column": "$1",
        "history_time_column": "at$2",
        "history_state_column": 'state$1 "$3',
    }.items():
        db.execute("UPDATE ml_setting SET value = %s WHERE name = %s", [value, name])
    model = (device, "forest", "")
    assert job.retrain_one(dsn, None, *model) == (model, "trained", "")
    job.connection(dsn).close()
    assert one("SELECT ml_detect(%s)", device)["analyzed_points"] > 0


def test_what_another_session_gives_back_is_begun_again(db, dsn, one, add_device):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    device = add_device(readings=300)
    ran = []
    driver = threading.Thread(
        target=lambda: ran.append(fleet("retrain", "--jobs", "2", "--dsn", dsn))
    )
    with psycopg.connect(dsn) as other:
        assert other.execute("SELECT _ml_claim(%s, 'forest', '')", [device]).fetchone() == (True,)
        assert not one("SELECT _ml_claim(%s, 'forest', '')", device)
        driver.start()
        asked = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pyml.fleet%%'"
            " AND datname = current_database()"
        )
        while one(asked) < 2:  # the driver, and a worker that is passing over
            driver.join(0.05)
    driver.join(60)
    assert (ran[0].stdout, ran[0].returncode) == ("1 trained\n", 0), ran[0].stderr
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 1


def test_what_was_trained_by_hand_meanwhile_stays(db, dsn, one, add_device):
    device = add_device(readings=300)
    ran = []
    model = (device, "forest", "")
    worker = threading.Thread(target=lambda: ran.append(job.retrain_one(dsn, None, *model)))
    with psycopg.connect(dsn) as hand:
        hand.execute("SELECT ml_train_forest(%s)", [device])
        worker.start()
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        while not one(waits):  # it has trained, and comes to store
            worker.join(0.05)
    worker.join(60)
    job.connection(dsn).close()
    assert ran == [(model, "passed over", "")]
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 1


def test_what_was_stored_without_a_word_is_done(db, dsn, one, add_device, capsys):
    """As by a worker that is lost before it tells."""
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    add_device(readings=300)

    def silent(tasks):
        for call, args, options in tasks:
            call(*args, **options)
        return []

    assert retrain(dsn, None, lambda: nullcontext(silent)) == {"passed over": 1}
    job.connection(dsn).close()
    assert "1/1 0 failed" in capsys.readouterr().err
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 1


def test_want_of_memory_is_recorded_as_the_server_would(dsn, one, add_device, monkeypatch):
    def starve(*args, **kwargs):
        raise MemoryError("Unable to allocate 2.00 GiB")

    monkeypatch.setattr(job.training, "train_detector", starve)
    model = (add_device(readings=300), "forest", "")
    assert job.retrain_one(dsn, None, *model) == (model, "failed", "")
    job.connection(dsn).close()
    assert one("SELECT sqlstate FROM ml_run") == "53200"


def test_a_backend_that_is_not_there_says_what_to_install(db, dsn, add_device):
    add_device(readings=300)
    code = (
        "import sys; sys.modules['distributed'] = None; from pyml.workers.fleet import main; main()"
    )
    there = ("--backend", "dask", "--scheduler", "tcp://127.0.0.1:1", "--dsn", dsn)
    ran = fleet("retrain", *there, start=("-c", code))
    assert ran.returncode == 1
    assert "-m pip install distributed" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_without_the_extension_it_says_what_to_type(dsn):
    ran = fleet("retrain", "--dsn", f"{dsn} dbname=template1")
    assert ran.returncode == 1
    assert "CREATE EXTENSION pyml" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_column_that_is_not_there_ends_the_run(db, dsn, one, add_device):
    """Nor is it recorded of each device."""
    add_device(readings=300)
    db.execute("UPDATE ml_setting SET value = 'no' WHERE name = 'history_state_column'")
    ran = fleet("retrain", "--jobs", "1", "--dsn", dsn)
    assert ran.returncode == 1
    assert "SELECT * FROM public.ml_doctor();" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert one("SELECT count(*) FROM ml_run") == 0
