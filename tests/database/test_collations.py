"""A database whose collation sorts as people do, where cpu_usage comes before cpu1."""

import json

import psycopg
import pytest

from pyml.workers import job
from tests.databases import Lent

# What compares or sorts texts, once more in such a database: `db` is another one here.
from .test_forecast import test_a_metrics_name_is_a_field
from .test_forest import (
    test_a_column_that_is_not_there_leads_to_the_doctor,
    test_a_metric_of_ones_own_joins_the_model,
    test_a_spike_is_found_and_explained,
)
from .test_models import (
    test_model_info_lists_what_is_in_force_first,
    test_rollback_puts_the_earlier_model_in_force,
)
from .test_retrain import (
    test_forecast_fields_are_those_of_the_setting_or_of_the_device,
    test_it_trains_each_device_once,
    test_why_a_device_is_due,
)
from .test_scan import test_many_small_scans_find_what_one_scan_finds, trained
from .test_zscore import test_metrics_go_by_name

pytestmark = pytest.mark.slow

__all__ = [
    "test_a_column_that_is_not_there_leads_to_the_doctor",
    "test_a_metric_of_ones_own_joins_the_model",
    "test_a_metrics_name_is_a_field",
    "test_a_spike_is_found_and_explained",
    "test_forecast_fields_are_those_of_the_setting_or_of_the_device",
    "test_it_trains_each_device_once",
    "test_many_small_scans_find_what_one_scan_finds",
    "test_metrics_go_by_name",
    "test_model_info_lists_what_is_in_force_first",
    "test_rollback_puts_the_earlier_model_in_force",
    "test_why_a_device_is_due",
    "trained",
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


def test_the_whole_path(db, one, device):
    db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    fields = json.dumps(["cpu_usage", "cpu1", "system.cpuUsage"])
    db.execute("UPDATE ml_setting SET value = %s WHERE name = 'forecast_fields'", [fields])
    db.execute("CALL ml_retrain()")
    assert one("SELECT count(*) FROM ml_run WHERE outcome <> 'trained'") == 0
    assert one("SELECT count(*) FROM _ml_due(ARRAY[%s::uuid])", device) == 0
    db.execute("CALL ml_scan()")
    assert one("SELECT outcome FROM ml_scan_state") == "scanned"
    assert one("SELECT count(DISTINCT field) FROM ml_forecasts") == 3
    models = one("SELECT ml_model_info(%s)", device)["models"]
    fields = [model["field"] for model in models if model["trained_with"] is None]
    assert fields == [None, "cpu1", "cpu_usage", "system.cpuUsage"]
