"""What holds for every object of the extension, read from the catalogue."""

import re
from typing import Any

import psycopg
import pytest

from installer.extension import functions

FUNCTIONS = functions()
# A procedure that commits cannot carry a SET clause.
COMMITTING = {"ml_scan", "ml_retrain", "_ml_commit"}
# What writes for a role that may train: none reads the history or runs anything of its caller's.
WRITING = {
    *("_ml_rollback", "_ml_forget", "_ml_put_model", "_ml_put_run", "_ml_prune", "_ml_retain"),
    *("_ml_put_findings", "_ml_put_finders", "_ml_put_kept", "_ml_put_capacity"),
    *("_ml_put_anomalies", "_ml_put_incidents", "_ml_say", "_ml_put_forecast", "_ml_put_scan"),
    *("_ml_put_devices", "_ml_put_signals", "_ml_pool_peaks", "_ml_put_fleet_models"),
    *("_ml_note_scan", "_ml_begin_job", "_ml_note_job", "_ml_lock", "_ml_try_lock"),
    *("_ml_put_retired", "_ml_put_unretired"),
    *("_ml_put_targets", "_ml_claim_delivery", "_ml_confirm", "_ml_postpone", "_ml_watch_scans"),
    "ml_resend",
    *("_ml_put_counts", "_ml_put_arrivals", "_ml_settle_arrivals"),
}

ROUTINES = """
SELECT p.oid::regprocedure::text AS name, p.proname, p.prokind::text, l.lanname, p.prosrc,
       p.prosecdef, p.proconfig, obj_description(p.oid, 'pg_proc') AS comment,
       EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
               WHERE a.grantee = 0) AS open
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_language l ON l.oid = p.prolang
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')
"""
RELATIONS = """
SELECT c.oid::regclass::text AS name, c.relkind::text,
       obj_description(c.oid, 'pg_class') AS comment,
       c.oid = ANY (e.extconfig) AS dumped,
       EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0) AS open
FROM pg_extension e JOIN pg_depend d ON d.refobjid = e.oid JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND e.extname = 'pyml'
"""


@pytest.fixture
def routines(db: psycopg.Connection) -> list[Any]:
    found = db.cursor(row_factory=psycopg.rows.namedtuple_row).execute(ROUTINES).fetchall()
    assert len(found) > 10
    return found


@pytest.fixture
def relations(db: psycopg.Connection) -> list[Any]:
    found = db.cursor(row_factory=psycopg.rows.namedtuple_row).execute(RELATIONS).fetchall()
    assert {one.relkind for one in found} >= {"r", "v"}
    return found


def test_every_object_has_a_comment(routines: list[Any], relations: list[Any]) -> None:
    described = [*routines, *(one for one in relations if one.relkind in "rvm")]
    assert [one.name for one in described if not one.comment] == []
    # A line of \\df+; docs/calls.md has the rest.
    calls = [one for one in routines if one.proname.startswith("ml_")]
    assert [one.name for one in calls if len(one.comment) > 150] == []


COLUMNS = """
SELECT c.relname || '.' || a.attname, d.description
FROM pg_depend m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_description d ON d.classoid = m.classid AND d.objoid = c.oid AND d.objsubid = a.attnum
WHERE m.deptype = 'e' AND m.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')
  AND c.relkind IN ('r', 'v', 'm')
UNION ALL
SELECT t.tgname, d.description
FROM pg_depend m JOIN pg_trigger t ON m.classid = 'pg_class'::regclass AND t.tgrelid = m.objid
LEFT JOIN pg_description d ON d.classoid = 'pg_trigger'::regclass AND d.objoid = t.oid
WHERE m.deptype = 'e' AND m.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml')
  AND NOT t.tgisinternal
"""


def test_every_column_and_trigger_has_a_comment(db: psycopg.Connection) -> None:
    found = dict(db.execute(COLUMNS).fetchall())
    assert {"ml_model.blob", "ml_device_status.silent", "ml_setting_check"} <= set(found)
    assert [name for name, comment in found.items() if not comment] == []
    assert [name for name, comment in found.items() if not comment.isascii()] == []


def test_every_function_pins_its_search_path(routines: list[Any]) -> None:
    loose = {
        one.proname
        for one in routines
        if not any(item.startswith("search_path=pg_catalog, ") for item in one.proconfig or ())
    }
    assert loose <= COMMITTING


def test_only_what_writes_runs_with_its_owners_rights(routines: list[Any]) -> None:
    assert {one.proname for one in routines if one.prosecdef} == WRITING


def test_what_runs_with_its_owners_rights_is_plain_sql_on_tables_of_pyml(
    routines: list[Any],
) -> None:
    for one in routines:
        if one.prosecdef:
            assert one.lanname in ("sql", "plpgsql"), one.name
            assert not re.search(r"\bEXECUTE\b|_ml_history|_ml_devices", one.prosrc), one.name


def test_nothing_is_open_to_everybody(routines: list[Any], relations: list[Any]) -> None:
    assert [one.name for one in [*routines, *relations] if one.open] == []


def test_python_bodies_only_load_call_and_return(routines: list[Any]) -> None:
    bodies = [
        one.prosrc.strip().rpartition("\n")
        for one in routines
        if one.lanname == "plpython3u" and one.proname not in COMMITTING
    ]
    assert bodies
    (load,) = {load for load, _, _ in bodies}
    assert len(load.splitlines()) == 5
    call = re.compile(r" *return GD\['pyml [\w.]+'\]\.\w+\([\w, ]*\)")
    assert [last for _, _, last in bodies if not call.fullmatch(last)] == []


def test_every_table_is_dumped(relations: list[Any]) -> None:
    kept = [one for one in relations if one.relkind in "rS"]
    assert [one.name for one in kept if not one.dumped] == []


def test_every_function_states_volatility_and_parallel_safety(routines: list[Any]) -> None:
    heads = re.findall(r"^CREATE OR REPLACE FUNCTION (\w+)(.*?)\bAS \$", FUNCTIONS, re.M | re.S)
    assert {name for name, _ in heads} == {one.proname for one in routines if one.prokind == "f"}
    stated = r"\b(?:IMMUTABLE|STABLE|VOLATILE) PARALLEL (?:SAFE|RESTRICTED|UNSAFE) SECURITY \w+"
    assert [name for name, head in heads if not re.search(stated, head)] == []
