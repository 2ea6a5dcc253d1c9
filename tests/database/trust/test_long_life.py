"""A backend that detects or trains all day keeps the memory that it has after an hour.

20,000 detections over 2,000 devices, and 200 trainings.
"""

import psycopg
import pytest

from .test_blobs import memory

pytestmark = pytest.mark.long

COPIES = """
INSERT INTO devices SELECT gen_random_uuid(), 'copy' FROM generate_series(1, %(count)s);
"""
MODELS = """
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end, readings_used,
    readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT d.uuid, m.kind, m.field, true, m.window_start, m.window_end, m.readings_used,
    m.readings_rejected, m.parameters, m.figures, m.versions, m.seconds, m.sha256, m.blob
FROM devices d, ml_model m WHERE d.name = 'copy'
"""
HISTORY = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT d.uuid, h.reported_state, h."timestamp" FROM devices d, device_shadow_history h
WHERE d.name = 'copy' AND h.device_uuid = %s AND h."timestamp" > now() AT TIME ZONE 'UTC'
    - interval '80 minutes'
"""
MEGABYTE = 1 << 20


def test_detections_keep_flat_memory(db, dsn, add_modelled):
    devices, calls = 2000, 20_000
    original = add_modelled()
    db.execute(COPIES, {"count": devices})
    db.execute(MODELS)
    db.execute(HISTORY, [original])
    names = [name for (name,) in db.execute("SELECT uuid::text FROM devices WHERE name = 'copy'")]
    held = []
    with psycopg.connect(dsn, autocommit=True) as session:
        for i in range(calls):
            device = names[i % devices]
            session.execute("SELECT ml_detect(%s), ml_forecast(%s)", [device, device])
            if i % (calls // 30) == 0:
                held.append(memory(session.info.backend_pid, "VmRSS"))
    # The first round fills the cache.
    settled = held[len(held) // 3]
    print(f"MB over {calls} detections: {[one // MEGABYTE for one in held]}")
    assert max(held) < settled + 24 * MEGABYTE


def test_trainings_keep_flat_memory(db, dsn, add_modelled):
    device = add_modelled()
    db.execute("UPDATE ml_setting SET value = '3' WHERE name = 'epochs'")
    held: dict[str, list[int]] = {}
    with psycopg.connect(dsn, autocommit=True) as session:
        for train in ("ml_train_forest", "ml_train_lstm"):
            for _ in range(100):
                session.execute(f"SELECT {train}('{device}')")
                db.execute("DELETE FROM ml_model WHERE NOT is_current")
                held.setdefault(train, []).append(memory(session.info.backend_pid, "VmRSS"))
    for train, line in held.items():
        settled = line[len(line) // 3]
        print(f"MB over {len(line)} {train}: {[one // MEGABYTE for one in line]}")
        assert line[-1] < settled + 48 * MEGABYTE, train
