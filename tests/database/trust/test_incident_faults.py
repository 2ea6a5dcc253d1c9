"""Scans that are cancelled and killed at random moments: no incident twice, none by half."""

import contextlib
import os
import random
import signal
import threading
import time

import psycopg
import pytest

from ..conftest import ROWS
from .conftest import Server

pytestmark = pytest.mark.server

# Two troubles of half an hour and more, each over for an hour before the next.
HOT = """
UPDATE device_shadow_history SET reported_state = jsonb_set(reported_state, '{system,temperature}',
    to_jsonb((reported_state #>> '{system,temperature}')::float8 + 25))
WHERE (now() AT TIME ZONE 'UTC') - "timestamp" BETWEEN interval '170 minutes' AND interval '4 hours'
   OR (now() AT TIME ZONE 'UTC') - "timestamp" < interval '40 minutes'
"""
TOLD = """
SELECT i.kind, i.state, i.why, i.severity, i.leading_metric, i.started_at, i.ended_at,
    i.resolved_at, i.rarity, i.summary,
    (SELECT array_agg(e.event ORDER BY e.event_id) FROM ml_event e
     WHERE e.incident_id = i.incident_id),
    (SELECT array_agg(f.kind ORDER BY f.started_at, f.kind) FROM ml_finding f
     WHERE f.incident_id = i.incident_id)
FROM ml_incident i WHERE i.device_uuid = %s ORDER BY i.started_at
"""
HALVES = {
    "incidents without a finding": """
        SELECT i.incident_id FROM ml_incident i WHERE i.why IS DISTINCT FROM 'joined' AND NOT EXISTS
            (SELECT FROM ml_finding f WHERE f.incident_id = i.incident_id)""",
    "incidents that nobody was told of, or twice": """
        SELECT i.incident_id FROM ml_incident i WHERE 1 <>
            (SELECT count(*) FROM ml_event e WHERE e.incident_id = i.incident_id
             AND e.event = 'opened')""",
    "events without an incident": """
        SELECT e.event_id FROM ml_event e WHERE NOT EXISTS
            (SELECT FROM ml_incident i WHERE i.incident_id = e.incident_id)""",
    "findings of incidents that are not there": """
        SELECT f.finding_id FROM ml_finding f WHERE f.incident_id IS NOT NULL AND NOT EXISTS
            (SELECT FROM ml_incident i WHERE i.incident_id = f.incident_id)""",
}


def disturbed(server: Server, statement: str, moment: float, fault: str) -> str:
    """How a statement ends that is cancelled, or whose backend is killed, at a moment."""
    session, ended = server.connect(), []

    def body() -> None:
        try:
            session.execute(statement)
            ended.append("done")
        except psycopg.Error as error:
            ended.append(error.sqlstate or "closed")

    thread = threading.Thread(target=body)
    thread.start()
    time.sleep(moment)
    if fault == "cancel":
        session.cancel()
    else:
        os.kill(session.info.backend_pid, signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive()
    session.close()
    if fault != "cancel":  # until the server has noticed, and recovered
        with contextlib.suppress(psycopg.OperationalError), server.connect() as other:
            for _ in range(20):
                time.sleep(0.05)
                other.execute("SELECT 1")
    return ended[0]


def test_what_disturbed_scans_tell_is_what_others_tell(server: Server, long: bool) -> None:
    chance = random.Random(5)
    server.database()
    with server.connect() as session:
        # Else what an undisturbed scan has told is lost, too, where another's backend is killed.
        session.execute("ALTER DATABASE fleet SET synchronous_commit = on")
    with server.connect() as session:
        devices = []
        for _ in range(2):
            row = session.execute(
                "INSERT INTO devices VALUES (gen_random_uuid(), 'twin') RETURNING uuid::text"
            )
            devices.append(row.fetchone()[0])
            session.execute(ROWS, {"device": devices[-1], "readings": 3000, "interval": 60})
        session.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
        session.execute("UPDATE ml_setting SET value = '30' WHERE name = 'n_estimators'")
        # Both have the same readings, whatever the second in which they were made.
        session.execute(
            'UPDATE device_shadow_history h SET "timestamp" = o."timestamp" FROM ('
            ' SELECT id, lead("timestamp", 3000) OVER (ORDER BY id) AS "timestamp"'
            " FROM device_shadow_history) AS o WHERE o.id = h.id AND o.timestamp IS NOT NULL"
        )
        session.execute(HOT)
        ends = session.execute("SELECT now()").fetchone()[0]
        at = f"'{ends.isoformat()}'::timestamptz - interval '{{}} minutes'"
        for device in devices:
            session.execute(f"SELECT ml_train_forest('{device}', as_of => {at.format(300)})")
    outcomes: list[tuple[str, str]] = []
    for minutes in range(260, -1, -5 if long else -52):
        scan = f"CALL ml_scan('{{}}', {at.format(minutes)})"
        with server.connect() as session:
            session.execute(scan.format(devices[0]))
        for _ in range(2 if long else 1):
            fault = "kill -9" if chance.random() < 0.4 else "cancel"
            ended = disturbed(server, scan.format(devices[1]), chance.uniform(0, 0.5), fault)
            outcomes.append((fault, ended))
            assert ended in ("done", "57014", "closed"), outcomes
            with server.connect() as session:
                for what, query in HALVES.items():
                    assert session.execute(query).fetchall() == [], (what, outcomes)
        with server.connect() as session:
            session.execute(scan.format(devices[1]))
    with server.connect() as session:
        undisturbed, hurt = (session.execute(TOLD, [device]).fetchall() for device in devices)
    assert hurt == undisturbed
    assert [row[1] for row in hurt] == ["resolved", "open"]
    assert {ended for _, ended in outcomes} >= {"57014", "closed"} or not long
    print(outcomes)
