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


def test_without_the_extension_it_says_what_to_type(dsn):
    ran = fleet("retrain", "--dsn", f"{dsn} dbname=template1")
    assert ran.returncode == 1
    assert "CREATE EXTENSION pyml" in ran.stderr
    assert "Traceback" not in ran.stderr
