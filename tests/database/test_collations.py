"""A database whose collation sorts as people do, where cpu_usage comes before cpu1."""

import json

import psycopg
import pytest

from pyml.workers import job
from tests.databases import Lent

# What compares or sorts texts, once more in such a database: `db` is another one here.
from .test_forest import test_a_spike_is_found_and_explained
from .test_retrain import (
    test_forecast_fields_are_those_of_the_setting_or_of_the_device,
    test_why_a_device_is_due,
)
from .test_zscore import test_metrics_go_by_name

pytestmark = pytest.mark.slow

__all__ = [
    "test_a_spike_is_found_and_explained",
    "test_forecast_fields_are_those_of_the_setting_or_of_the_device",
    "test_metrics_go_by_name",
    "test_why_a_device_is_due",
]

OPTIONS = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TEMPLATE template0"
PATHS = {"cpu1": "system.temperature", "cpu_a": "system.memoryUsage", "cpu": "health.uptime"}


@pytest.fixture(scope="module")
def lent(make_database):
    lent = Lent(lambda: psycopg.connect(make_database(OPTIONS), autocommit=True))
    yield lent
    lent.close()


@pytest.fixture
def db(lent):
    with lent.lend() as conn:
        yield conn


@pytest.fixture(autouse=True)
def _forests_only(db):
    db.execute("UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields'")
    # Names that this collation and C put in another order each.
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ml_metric (name, path) VALUES (%s, %s)", list(PATHS.items())
        )


def test_the_collation_is_another(one):
    names = 'SELECT array_agg(n ORDER BY n) <> array_agg(n ORDER BY n COLLATE "C")'
    assert one(f"{names} FROM unnest('{{cpu1,cpu_usage}}'::text[]) AS n")


@pytest.mark.parametrize("where", ["backend", "worker"])
def test_what_was_trained_is_not_due_again(db, dsn, one, device, where):
    if where == "backend":
        db.execute("CALL ml_retrain(%s)", [device])
    else:
        assert job.retrain_one(dsn, None, device, "forest", "")[1] == "trained"
        job.connection(dsn).close()
    assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid])", device) == 0
    names = [
        metric["name"]
        for metric in one("SELECT parameters -> 'metrics' FROM ml_model WHERE kind = 'forest'")
    ]
    assert names == sorted(names)
    assert {"cpu", "cpu1", "cpu_a", "cpu_usage"} <= set(names)


def test_the_whole_path(db, dsn, one, device):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    fields = json.dumps(["cpu_usage", "cpu1", "system.cpuUsage"])
    db.execute("UPDATE ml_setting SET value = %s WHERE name = 'forecast_fields'", [fields])
    for kind, field in (("forest", ""), *(("lstm", each) for each in json.loads(fields))):
        assert job.retrain_one(dsn, None, device, kind, field)[1] == "trained"
    assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid])", device) == 0
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "scanned"
    assert one("SELECT count(DISTINCT field) FROM ml_forecasts") == 3
    models = one("SELECT ml_model_info(%s)", device)["models"]
    fields = [model["field"] for model in models if model["trained_with"] is None]
    assert fields == [None, "cpu1", "cpu_usage", "system.cpuUsage"]
