"""pyml.workers.fleet over Dask: whatever gets lost, each device has one new model."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from .test_fleet import ROOT, fleet

pytestmark = pytest.mark.server

DEVICES = 5
CLAIMS = """
SELECT a.pid, split_part(a.application_name, ' ', 3)::int AS worker
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.state = 'idle in transaction'
  AND a.application_name LIKE 'pyml.fleet %'
  AND a.backend_xid IS NOT NULL AND a.backend_xmin IS NULL
"""


class Cluster:
    """A scheduler of Dask and its workers, processes of their own on loopback."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self.start()
        self.workers = self.add(2)

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.place / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments, "--host", "127.0.0.1", "--no-dashboard"],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(self.place)},
            )

    def start(self) -> subprocess.Popen[bytes]:
        return self.run("distributed.cli.dask_scheduler", "--port", str(self.port))

    def add(self, count: int) -> list[subprocess.Popen[bytes]]:
        command = ("distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny")
        return [self.run(*command) for _ in range(count)]

    def restart(self) -> None:
        """Kill the scheduler; its workers end as they notice, and new ones join the next one."""
        self.scheduler.kill()
        self.scheduler.wait()
        for worker in self.workers:
            worker.wait(30)
        self.scheduler, self.workers = self.start(), self.add(2)

    def stop(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


def claim(db: psycopg.Connection, models: int, driver: threading.Thread) -> tuple[int, int]:
    """A backend and its worker that are at a training, once so many models are stored."""
    while driver.is_alive():
        if db.execute("SELECT count(*) FROM ml_model WHERE trained_with IS NULL").fetchone()[
            0
        ] >= models and (found := db.execute(CLAIMS).fetchone()):
            return found
        driver.join(0.02)
    raise TimeoutError("no worker was seen at it")


@pytest.mark.long
@pytest.mark.parametrize("lost", ["worker and connection", "scheduler"])
def test_each_device_gets_one_model_whatever_is_lost(db, dsn, one, add_device, cluster, lost):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    db.execute("UPDATE ml_setting SET value = '1000' WHERE name = 'n_estimators'")
    for _ in range(DEVICES):
        add_device(readings=4000)
    ran = []
    command = ("--backend", "dask", "--scheduler", cluster.address, "--jobs", "2", "--dsn", dsn)
    driver = threading.Thread(target=lambda: ran.append(fleet("retrain", *command)))
    driver.start()
    if lost == "scheduler":
        claim(db, 3, driver)
        cluster.restart()
    else:
        _, worker = claim(db, 1, driver)
        os.kill(worker, signal.SIGKILL)
        backend, _ = claim(db, 3, driver)
        assert one("SELECT pg_terminate_backend(%s)", backend)
    driver.join(200)
    assert ran, (cluster.place / "log").read_text()
    assert ran[0].returncode == 0, ran[0].stderr
    assert one("SELECT count(*) FROM ml_model WHERE trained_with IS NULL") == DEVICES, ran[0].stderr
    assert one("SELECT count(DISTINCT device_uuid) FROM ml_model WHERE is_current") == DEVICES
    assert one("SELECT count(*) FROM ml_run WHERE outcome = 'trained'") == DEVICES
    assert one("SELECT count(*) FROM ml_run") == DEVICES
    assert f"{DEVICES}/{DEVICES}" in ran[0].stderr or lost == "scheduler"
