"""Databases of other encodings than UTF-8."""

import psycopg
import pytest

from installer.extension import extension_files
from tests.databases import Lent

FIELD = "\u5ba4\u6e29"  # room temperature
PUT = """
UPDATE device_shadow_history
SET reported_state = reported_state
    || jsonb_build_object(%s::text, reported_state #> '{system,temperature}')
"""


@pytest.fixture(
    scope="module", params=[pytest.param("EUC_JP", marks=pytest.mark.long), "SQL_ASCII", "LATIN1"]
)
def encoded(request, make_database):
    """Its name, and a database of another encoding."""
    options = f"ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0"
    lent = Lent(lambda: psycopg.connect(make_database(options), autocommit=True))
    yield request.param, lent
    lent.close()


@pytest.fixture
def db(encoded):
    with encoded[1].lend() as conn:
        yield conn


def test_the_script_is_of_ascii_alone(tmp_path):
    """Whatever else it had, an encoding without it would refuse."""
    for name, text in extension_files(tmp_path).items():
        strange = [line for line in text.splitlines() if not line.isascii()]
        assert strange == [], name


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoded",
    ["SQL_ASCII", *(pytest.param(one, marks=pytest.mark.long) for one in ("EUC_JP", "LATIN1"))],
    indirect=True,
)
def test_the_whole_path(db, one, encoded, device):
    field = "temp\u00e9rature" if encoded[0] == "LATIN1" else FIELD
    db.execute(PUT, [field])
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('room', %s)", [field])
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    fields = "UPDATE ml_setting SET value = jsonb_build_array(%s::text) WHERE name = %s"
    db.execute(fields, [field, "forecast_fields"])
    db.execute("CALL ml_retrain()")
    assert db.execute("SELECT error FROM ml_run WHERE outcome <> 'trained'").fetchall() == []
    assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid])", device) == 0
    db.execute("CALL ml_scan()")
    assert db.execute("SELECT outcome, error FROM ml_scan_state").fetchall() == [("scanned", None)]
    assert "room" in one("SELECT ml_detect(%s)", device)["model_info"]["features"]
    assert one("SELECT ml_forecast(%s, %s)", device, field)["field"] == field
    assert one("SELECT count(*) FROM ml_zscore(%s, %s)", device, field) == 3000
    assert field in one("SELECT ml_chart(%s, %s)", device, field)
    assert one("SELECT ml_train_lstm(%s, %s)", device, field)["field"] == field
    assert one("SELECT DISTINCT field FROM ml_forecasts") == field
    assert one("SELECT count(*) FROM ml_doctor() WHERE check_name = 'python' AND ok") == 1


CALLS = {
    "SELECT ml_train_lstm(%s, %s)": "ML003",
    "SELECT ml_zscore(%s, %s)": "ML003",
    "SELECT ml_forecast(%s, %s)": "ML002",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_mistake_is_told_in_its_letters(refused, encoded, device, call):
    field = "caf\u00e9" if encoded[0] == "LATIN1" else FIELD
    assert field in refused(call, device, field, sqlstate=CALLS[call]).message_primary


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
def test_bytes_of_an_unknown_encoding_are_told(db, refused, encoded, device):
    """Any bytes are text there, and nobody knows what they mean."""
    db.execute("INSERT INTO ml_metric (name, path) VALUES ('room', E'temp\\351rature')")
    said = refused("SELECT ml_train_forest(%s)", device, sqlstate="ML006")
    assert "SQL_ASCII" in said.message_primary
    refused("CALL ml_retrain()", sqlstate="ML006")
