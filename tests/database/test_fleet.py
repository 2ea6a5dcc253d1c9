"""pyml.fleet: the same work, from outside the server."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def fleet(*args):
    return subprocess.run(
        [sys.executable, "-m", "pyml.fleet", *args],
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
    assert one("SELECT count(*) FROM ml_model WHERE is_current") == 6
    assert one("SELECT sqlstate FROM ml_run WHERE device_uuid = %s", poor) == "ML001"
    again = fleet("retrain", "--jobs", "2", "--dsn", dsn)
    assert (again.stdout, again.returncode) == ("nothing due\n", 0)


def test_what_it_stores_is_what_a_door_would_have_stored(db, dsn, device):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    ran = fleet("retrain", "--jobs", "1", "--dsn", dsn)
    assert ran.stdout == "2 trained\n", ran.stderr
    made = "SELECT kind, {} FROM ml_model WHERE is_current ORDER BY kind"
    said = made.format("sha256, blob, parameters, figures, versions, readings_used, window_end")
    outside = db.execute(said).fetchall()
    db.execute("DELETE FROM ml_model")
    db.execute("SELECT ml_train_forest(%s), ml_train_lstm(%s)", [device, device])
    assert db.execute(said).fetchall() == outside


def test_without_the_extension_it_says_what_to_type(dsn):
    ran = fleet("retrain", "--dsn", f"{dsn} dbname=template1")
    assert ran.returncode == 1
    assert "CREATE EXTENSION pyml" in ran.stderr
    assert "Traceback" not in ran.stderr
