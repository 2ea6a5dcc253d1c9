"""The servers that demo and test keep for themselves."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.cluster import Cluster
from installer.postgres import find_postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for servers, which the servers' user can enter."""
    made = Path(tempfile.mkdtemp(prefix="pyml-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.server
@pytest.mark.parametrize("option", ["--stop", "--remove"])
def test_a_server_of_another_postgresql_is_stopped_before_it_goes(place, option):
    cluster = Cluster(place, "demo", find_postgres())
    cluster.start()
    elsewhere = cluster.base.rename(place / "postgresql-9")
    try:
        done = subprocess.run(
            [sys._base_executable, ROOT / "install.py", "demo", option],
            env=os.environ | {"PYML_HOME": str(place)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "stopped the demo server" in done.stderr
        left = {path.name for path in place.iterdir()}
        assert left == (set() if option == "--remove" else {"postgresql-9"})
    finally:
        if elsewhere.exists():
            elsewhere.rename(cluster.base)
            cluster.stop()
