"""ml_store_model: a model that was trained elsewhere, checked as it is when it is loaded."""

import json

import pytest
from psycopg.types.json import Jsonb

ABOUT = (
    "SELECT jsonb_build_object('window_start', date_part('epoch', window_start), 'window_end',"
    " date_part('epoch', window_end), 'readings_used', readings_used, 'readings_rejected',"
    " readings_rejected, 'parameters', parameters, 'figures', figures, 'versions', versions,"
    " 'seconds', seconds) FROM ml_model WHERE kind = 'forest'"
)
STORE = "SELECT ml_store_model(%s, %s, %s, %s, %s, %s)"


@pytest.fixture
def trained(db, one, device):
    """The device, the bytes and the description of a current forest."""
    db.execute("SELECT ml_train_forest(%s, hours => 12)", [device])
    return device, one("SELECT blob FROM ml_model WHERE kind = 'forest'"), one(ABOUT)


def test_it_takes_the_place_of_the_one_that_it_says(db, one, trained):
    device, blob, about = trained
    before = one("SELECT model_id FROM ml_model WHERE kind = 'forest'")
    answer = one(STORE, device, "forest", "", blob, Jsonb(about), before)
    new = answer["model_id"]
    assert answer == {"model_id": new, "accepted": True}
    assert new > before
    assert one("SELECT count(*) FROM ml_model WHERE is_current AND model_id = %s", new) == 1
    same = "SELECT count(DISTINCT (window_start, window_end, parameters, sha256)) FROM ml_model"
    same += " WHERE kind = 'forest'"
    assert one(same) == 1
    assert one("SELECT ml_detect(%s) -> 'model_info' -> 'model_id'", device) == new
    # One that was made from an older one, or from none, comes too late.
    for replaces in (before, None):
        answer = one(STORE, device, "forest", "", blob, Jsonb(about), replaces)
        assert answer == {"model_id": new, "accepted": False}
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 2
    assert one("SELECT count(*) FROM ml_run") == 2


def test_what_no_training_writes_is_refused(db, one, refused, trained):
    device, blob, about = trained

    def refuse(sqlstate, **changed):
        given = {"kind": "forest", "field": "", "blob": blob, "about": about} | changed
        refused(
            STORE,
            *(device, given["kind"], given["field"], given["blob"], Jsonb(given["about"]), None),
            sqlstate=sqlstate,
        )

    for bad in (b"", b"no model", blob[:-100], blob.replace(b"TreeEnsemble", b"TreeEnsembles")):
        refuse("ML005", blob=bad)
    refuse("ML005", kind="lstm", field="cpu_usage")
    refuse("ML004", kind="tree")
    refuse("ML004", field="cpu_usage")
    refuse("ML004", field=None)
    refuse("ML004", blob=None)
    refuse("ML004", about=None)
    for name, value in (
        ("window_end", "today"),
        ("readings_used", -1),
        ("parameters", []),
        ("seconds", None),
        ("more", 1),
    ):
        refuse("ML004", about=json.loads(json.dumps(about)) | {name: value})
    assert one("SELECT count(*) FROM ml_model WHERE kind = 'forest'") == 1
