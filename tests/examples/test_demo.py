"""The demo in a browser: its fleet reports, is scanned and shown, until Ctrl-C ends all of it."""

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import live
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from installer.broker import find_mosquitto
from installer.orphans import descendants

from .conftest import EXAMPLES, VIENNA
from .test_api_server import until

SHOW = """
import sys
from pathlib import Path
from installer.dashboard import Server, show_dashboard
dsn, mosquitto, place, *command = sys.argv[1:]
show_dashboard(command, Server(dsn), Path(sys.executable), mosquitto or None, Path(place))
"""
# A reading an hour ago, one that is due while the demo runs, and one that is not.
READINGS = """
INSERT INTO devices VALUES (%(device)s, 'vienna');
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, jsonb_build_object('system', jsonb_build_object('cpuUsage', 27.5)),
    now() AT TIME ZONE 'UTC' + after::interval
FROM unnest(ARRAY['-1 hour', '1 second', '1 hour']) AS after;
"""
STORED = "SELECT count(*) FROM device_shadow_history"


@pytest.mark.server
@pytest.mark.parametrize("way", ["broker", "SQL"])
def test_its_fleet_reports_and_is_scanned_and_shown_until_ctrl_c(db, command, tmp_path, way):
    mosquitto = find_mosquitto() if way == "broker" else ""
    if mosquitto is None:
        pytest.skip("there is no mosquitto")
    db.execute((EXAMPLES / "mqtt/tables.sql").read_bytes())
    with psycopg.ClientCursor(db) as cursor:
        cursor.execute(READINGS, {"device": VIENNA})
    live.keep(db)
    assert db.execute(STORED).fetchone() == (1,)
    where = {"host": db.info.host, "port": db.info.port, "user": db.info.user}
    dsn = make_conninfo(**where, dbname=db.info.dbname)
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, dsn, mosquitto, tmp_path / "broker", *command],
        cwd=EXAMPLES.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shown:
        first = shown.stdout.readline()
        told = shown.stdout.readline() if mosquitto else first
        address = re.fullmatch(r"The dashboard: (http\S+) .*\n", told)[1]
        assert first.startswith("The broker: mqtt://127.0.0.1:") == bool(mosquitto)
        with urllib.request.urlopen(address) as page:
            assert b"pyml" in page.read()
        until(lambda: db.execute(STORED).fetchone() == (2,))
        until(lambda: db.execute("SELECT count(*) FROM ml_job").fetchone()[0])
        running = descendants(shown.pid)
        assert len(running) >= (4 if mosquitto else 2)
        shown.send_signal(signal.SIGINT)
        _, said = shown.communicate(timeout=20)
    assert shown.returncode == 0, said
    assert "stopped the dashboard" in said
    assert ("sudo apt-get install mosquitto" in said) != bool(mosquitto)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running))
    assert db.execute("SELECT count(*) FROM demo_to_come").fetchone() == (1,)
