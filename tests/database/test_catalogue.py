"""What every object of the extension owes its users, read from the catalogue."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

FUNCTIONS = (Path(__file__).parents[2] / "sql" / "functions.sql").read_text()
# A procedure that commits cannot carry a SET clause.
COMMITTING = {"ml_scan", "ml_retrain"}

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


def test_every_function_pins_its_search_path(routines: list[Any]) -> None:
    loose = {
        one.proname
        for one in routines
        if not any(item.startswith("search_path=pg_catalog, ") for item in one.proconfig or ())
    }
    assert loose <= COMMITTING


def test_nothing_runs_with_its_owners_rights(routines: list[Any]) -> None:
    assert [one.name for one in routines if one.prosecdef] == []


def test_nothing_is_open_to_everybody(routines: list[Any], relations: list[Any]) -> None:
    assert [one.name for one in [*routines, *relations] if one.open] == []


def test_python_bodies_only_load_call_and_return(routines: list[Any]) -> None:
    bodies = [
        one.prosrc.strip().rpartition("\n") for one in routines if one.lanname == "plpython3u"
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
    stated = r"\b(?:IMMUTABLE|STABLE|VOLATILE) PARALLEL (?:SAFE|RESTRICTED|UNSAFE) SECURITY INVOKER"
    assert [name for name, head in heads if not re.search(stated, head)] == []
