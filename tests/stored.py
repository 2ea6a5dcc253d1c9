"""Models that need no training: committed ones, of each format that was."""

import hashlib
import json
from pathlib import Path

import psycopg

FORMATS = Path(__file__).parent / "database/trust/formats"
PUT = """
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end, readings_used,
    readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT %s, r.kind, r.field, true, r.window_start, r.window_end, r.readings_used,
    r.readings_rejected, r.parameters, r.figures, r.versions, r.seconds, %s, %s
FROM jsonb_populate_record(NULL::ml_model, %s) AS r
RETURNING model_id
"""


def put_model(
    db: psycopg.Connection, device: str, path: Path, blob: bytes | None = None, **changes: object
) -> int:
    """Put a committed model in force for a device, or other bytes or columns of it; its id."""
    data = path.read_bytes() if blob is None else blob
    row = json.dumps(json.loads(path.with_suffix(".json").read_text())["row"] | changes)
    digest = hashlib.sha256(data).hexdigest()
    return db.execute(PUT, [device, digest, data, row]).fetchone()[0]


def newest(kind: str) -> Path:
    """The committed model of a kind, of the newest format."""
    return max(FORMATS.glob(f"{kind}-*.onnx"), key=lambda path: int(path.stem.rpartition("-")[2]))
