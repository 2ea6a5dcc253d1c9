"""Each function as the first call of a session, which has loaded nothing yet."""

import psycopg
import pytest

from pyml import __version__
from tests.stored import newest, put_model

FIRST = (
    "SELECT ml_detect('{}')",
    "SELECT * FROM ml_score('{}', now() - interval '1 hour', now())",
    "SELECT ml_forecast('{}')",
    "SELECT * FROM ml_predict('{}', 'system.cpuUsage')",
    "SELECT * FROM ml_zscore('{}', 'cpu_usage')",
    "SELECT ml_chart('{}', 'cpu_usage')",
    "SELECT ml_model_info('{}')",
    "SELECT * FROM ml_discover()",
    "SELECT * FROM ml_doctor()",
    "SELECT * FROM ml_fleet_health",
    "UPDATE ml_setting SET value = '[\"cpu_usage\"]' WHERE name = 'forecast_fields'",
    "INSERT INTO ml_metric (name, path) VALUES ('own', 'system.own[0].value')",
    "CALL ml_scan('{}')",
    "SELECT ml_train_forest('{}')",
    pytest.param("CALL ml_retrain('{}')", marks=pytest.mark.slow),
    # As the tests of cancels in test_forecast.py have it.
    pytest.param("SELECT ml_train_lstm('{}')", marks=pytest.mark.long),
)


@pytest.mark.parametrize("statement", FIRST)
def test_it_may_come_first(db, dsn, add_device, statement):
    device = add_device(readings=300)
    db.execute("UPDATE ml_setting SET value = '1' WHERE name = 'epochs'")
    if "retrain" in statement:  # what loads TensorFlow is there by itself
        db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    for kind in ("forest", "lstm"):
        put_model(db, device, newest(kind))
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(statement.format(device))


# What a session holds that loaded pyml before the extension was upgraded.
ANOTHER = f"""
DO LANGUAGE plpython3u $$
    plpy.execute("SELECT * FROM _ml_kinds()")
    from pyml.server.dispatch import enter
    GD['pyml {__version__}'] = enter('0.9', '')
$$
"""
REFUSED = (
    "SELECT ml_train_forest('{}')",
    "SELECT ml_train_lstm('{}')",
    "CALL ml_scan('{}')",
    "CALL ml_retrain('{}')",
    "SELECT ml_detect('{}')",
    "SELECT ml_forecast('{}')",
    "SELECT ml_chart('{}')",
    "SELECT ml_score('{}', now() - interval '1 hour', now())",
    "SELECT ml_predict('{}', 'cpu_usage')",
    "SELECT ml_outlook('{}', 'cpu_usage')",
    "SELECT ml_history('{}', 'cpu_usage')",
    "SELECT ml_histories('{}')",
    "SELECT ml_usual('{}', 'cpu_usage')",
    "SELECT ml_zscore('{}', 'cpu_usage')",
)


@pytest.mark.fresh
def test_a_session_that_holds_another_version_has_to_reconnect(db, refused, add_device):
    device = add_device(readings=2)
    db.execute(ANOTHER)
    for statement in REFUSED:
        said = refused(statement.format(device), sqlstate="ML006")
        assert "this session holds pyml" in said.message_primary, statement
        assert "Reconnect" in said.message_hint
