"""Each function as the first call of a session, which has loaded nothing yet."""

import psycopg
import pytest

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
