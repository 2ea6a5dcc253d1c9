"""Models that need no training, and roles of each level."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

LEVELS = ("nobody", "read", "train")
FORMATS = Path(__file__).with_name("formats")
PUT = """
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end, readings_used,
    readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT %s, r.kind, r.field, true, r.window_start, r.window_end, r.readings_used,
    r.readings_rejected, r.parameters, r.figures, r.versions, r.seconds, %s, %s
FROM jsonb_populate_record(NULL::ml_model, %s) AS r
RETURNING model_id
"""


def put_model(db: psycopg.Connection, device: str, path: Path, blob: bytes | None = None) -> int:
    """Put a committed model in force for a device, or other bytes in its place; its id."""
    data = path.read_bytes() if blob is None else blob
    row = json.dumps(json.loads(path.with_suffix(".json").read_text())["row"])
    digest = hashlib.sha256(data).hexdigest()
    return db.execute(PUT, [device, digest, data, row]).fetchone()[0]


def newest(kind: str) -> Path:
    """The committed model of a kind, of the newest format."""
    return max(FORMATS.glob(f"{kind}-*.onnx"), key=lambda path: int(path.stem.rpartition("-")[2]))


@pytest.fixture
def add_modelled(db: psycopg.Connection, add_device: Callable[..., str]) -> Callable[..., str]:
    """Make a device that has both models, untrained; gives its uuid."""

    def add(readings: int = 600) -> str:
        device = add_device(readings=readings)
        for kind in ("forest", "lstm"):
            put_model(db, device, newest(kind))
        return device

    return add


@pytest.fixture
def roles(db: psycopg.Connection) -> Iterator[dict[str, str]]:
    """A role for each level, by level; they may read the history as well."""
    names = {level: f"pyml_{os.getpid()}_{level}" for level in LEVELS}
    for level, role in names.items():
        db.execute(f"CREATE ROLE {role} LOGIN")
        if level != "nobody":
            db.execute("SELECT ml_grant(%s, %s)", [role, level])
            db.execute(f"GRANT SELECT ON device_shadow_history TO {role}")
    yield names
    for role in names.values():
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


@pytest.fixture
def connect(
    dsn: str, roles: dict[str, str]
) -> Callable[[str], AbstractContextManager[psycopg.Connection]]:
    """A session of the role of a level."""
    return lambda level: psycopg.connect(dsn, user=roles[level], autocommit=True)
