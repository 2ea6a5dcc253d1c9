"""A model of each format that was ever stored, committed beside this file, loads for ever.

    python3 install.py test tests/database/trust/test_formats.py --regenerate

writes those of the present format anew: for a change of what a training stores
before any release has stored it. After a release a new format gets a new number
(`pyml.models.blob.FORMAT`) and files of its own; the old ones stay as they are.
"""

import json

import pytest

from pyml.models.blob import FORMAT
from tests.stored import FORMATS, put_model

DEVICE = "10000000-0000-4000-8000-000000000001"
END = "2026-01-11 00:00:00+00"
HISTORY = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %(device)s, jsonb_build_object('system', jsonb_build_object(
        'cpuUsage', round((30 + 12 * sin(i / 229.0) + i * 7919 %% 101 / 25.0)::numeric, 2),
        'memoryUsage', 7000 + i * 104729 %% 997, 'memoryTotal', 16320,
        'temperature', CASE WHEN i %% 9 > 0 THEN 40 + i * 31 %% 17 / 4.0 END,
        'network', jsonb_build_object('rxBytes', i * 60000 + i * 7919 %% 4001))),
    %(end)s::timestamptz AT TIME ZONE 'UTC' - (1500 - i) * interval '1 minute'
FROM generate_series(1, 1500) AS i
"""
ASK = {
    "forest": "SELECT anomaly_score, severity, metrics FROM ml_score('{device}',"
    " timestamptz '{end}' - interval '30 minutes', '{end}')",
    "lstm": "SELECT predicted_value, confidence_lower, confidence_upper"
    " FROM ml_predict('{device}', 'system.cpuUsage', as_of => '{end}')",
}
TRAIN = {
    "forest": "SELECT ml_train_forest('{device}', as_of => '{end}')",
    "lstm": "SELECT ml_train_lstm('{device}', as_of => '{end}')",
}


@pytest.fixture
def ask(db):
    """What the functions answer on the history that the committed models are compared on."""
    db.execute("INSERT INTO devices VALUES (%s, 'committed')", [DEVICE])
    db.execute(HISTORY, {"device": DEVICE, "end": END})

    def answer(statement):
        return [list(row) for row in db.execute(statement.format(device=DEVICE, end=END))]

    return answer


@pytest.mark.slow
def test_models_of_the_present_format_are_there(db, one, ask, request):
    if request.config.getoption("--regenerate"):
        db.execute("UPDATE ml_setting SET value = '20' WHERE name = 'n_estimators'")
        db.execute("UPDATE ml_setting SET value = '4' WHERE name = 'epochs'")
        for kind, train in TRAIN.items():
            ask(train)
            row = one(
                "SELECT to_jsonb(m) - '{model_id,device_uuid,is_current,blob}'::text[]"
                " FROM ml_model m WHERE kind = %s",
                kind,
            )
            stored = one("SELECT blob FROM ml_model WHERE kind = %s", kind)
            place = FORMATS / f"{kind}-{FORMAT}.onnx"
            place.write_bytes(stored)
            told = json.dumps({"row": row, "answer": ask(ASK[kind])}, indent=1)
            place.with_suffix(".json").write_text(told + "\n")
    for kind in ASK:
        assert (FORMATS / f"{kind}-{FORMAT}.onnx").exists()


@pytest.mark.parametrize("path", sorted(FORMATS.glob("*.onnx")), ids=lambda path: path.stem)
def test_a_stored_model_of_every_format_answers_as_it_did(db, ask, path):
    put_model(db, DEVICE, path)
    expected = json.loads(path.with_suffix(".json").read_text())["answer"]
    found = ask(ASK[path.stem.partition("-")[0]])
    assert len(found) == len(expected)
    for row, known in zip(found, expected, strict=True):
        # Another processor may round a float32 otherwise.
        assert row == [
            pytest.approx(cell, rel=1e-4) if isinstance(cell, float) else cell for cell in known
        ]
