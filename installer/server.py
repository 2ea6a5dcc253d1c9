"""The extension into a database of a real server, and its upgrade."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from installer.environment import Environment, find_python, in_server
from installer.extension import extension_files, version
from installer.postgres import Server, literal
from installer.process import HERE, Failure, digest, privileged, say, write
from installer.reach import (
    again,
    connect,
    record_users,
    require_plpython,
    require_shared_disk,
    server_root,
)

# Objects that an upgrade has added are given to those who have a level. Not the extension's
# script does it: what a script grants, pg_dump takes for the extension's own and leaves out.
GRANT_AGAIN = """
DO $$
DECLARE
    home CONSTANT regnamespace := (SELECT extnamespace FROM pg_extension WHERE extname = 'pyml');
    granted record;
BEGIN
    FOR granted IN
        SELECT r.rolname, CASE WHEN bool_or(p.proname = 'ml_train_forest') THEN 'train'
            WHEN bool_or(p.proname = 'ml_acknowledge') THEN 'act'
            WHEN bool_or(p.proname = 'ml_detect') THEN 'read' ELSE 'notify' END AS level
        FROM pg_proc p, aclexplode(p.proacl) AS a JOIN pg_roles r ON r.oid = a.grantee
        WHERE p.pronamespace = home AND a.grantee <> p.proowner AND p.proname IN
            ('ml_train_forest', 'ml_acknowledge', 'ml_detect', '_ml_claim_delivery')
        GROUP BY r.rolname
    LOOP
        EXECUTE format('SELECT %s.ml_grant(%L, %L)', home, granted.rolname, granted.level);
    END LOOP;
END $$
"""


def put_extension(
    server: Server, facts: dict[str, Any], options: argparse.Namespace, undo: contextlib.ExitStack
) -> Environment:
    """Put the environment and the extension's files where this server finds them."""
    root, directory = server_root(options), Path(facts["sharedir"]) / "extension"
    place = root / version()
    try:
        if not root.exists():
            root.mkdir(parents=True)
            undo.callback(lambda: root.exists() and not any(root.iterdir()) and root.rmdir())
    except OSError as error:
        raise Failure(f"cannot make {root}: {error.strerror}", privileged()) from error
    for each in (root, directory):
        if not os.access(each, os.W_OK):
            raise Failure(f"cannot write in {each}", privileged())
    require_shared_disk(server, root)
    python, series = find_python(server, options.python)
    environment = Environment(place, series)
    if not environment.state().get("users"):
        undo.callback(shutil.rmtree, place, ignore_errors=True)
    lock = HERE / ("requirements-gpu.lock" if options.gpu else "requirements.lock")
    environment.build(python, lock, options.libraries and Path(options.libraries).resolve())
    made = digest(HERE / "pyml")
    files = extension_files(environment.site)
    old = {name: directory / name for name in files if (directory / name).exists()}
    if environment.state().get("users"):
        main = f"pyml--{version()}.sql"
        same = environment.state().get("package") == made
        if not same or main not in old or old[main].read_text() != files[main]:
            raise Failure(
                f"{place} holds pyml {version()} from other sources, and databases use it: "
                + ", ".join(environment.state()["users"]),
                "python3 install.py uninstall each of these databases, which drops its models; "
                f"then {again(options.command, options)}",
            )
    elif environment.state().get("package") != made:
        environment.put_package()
        environment.record(package=made)
    for name, text in files.items():
        before = old[name].read_text() if name in old else None
        if before != text:
            say(f"writing {directory / name}")
            undo.callback(restore, directory / name, before)
            write(directory / name, text)
    paths = f"sys.path.insert(0, {str(environment.site)!r}); import numpy"
    in_server(server, f"import sys; {paths}", "'well'")
    return environment


def restore(path: Path, text: str | None) -> None:
    """Restore a file's earlier content, or remove it where there was none."""
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write(path, text)


def command_install(options: argparse.Namespace) -> int:
    """Install or upgrade the extension in one database of a server on this machine."""
    upgrading = options.command == "upgrade"
    server, facts = connect(options)
    old, new, database = facts["installed"], version(), facts["database"]
    if facts["standby"]:
        raise Failure("this server is a read-only standby", "run this against its primary first")
    if upgrading and not old:
        raise Failure(f"database {database} has no pyml to upgrade", again("install", options))
    if not upgrading and old and old != new:
        wrong = f"database {database} has pyml {old}, and this is {new}"
        raise Failure(wrong, again("upgrade", options))
    say(f"PostgreSQL {facts['number']}, database {database}: {old or 'no pyml'}; this is {new}")
    require_plpython(server, facts)
    with contextlib.ExitStack() as undo:
        environment = put_extension(server, facts, options, undo)
        if old is None:
            schema = '"' + options.schema.replace('"', '""') + '"' if options.schema else ""
            say(f"creating the extension in database {database}")
            server.ask(
                "BEGIN; CREATE EXTENSION IF NOT EXISTS plpython3u;"
                + (f"CREATE SCHEMA IF NOT EXISTS {schema};" if schema else "")
                + f"CREATE EXTENSION pyml {schema and 'SCHEMA ' + schema} VERSION '{new}'; COMMIT;"
            )
        elif old != new:
            if not server.ask(
                "SELECT 1 FROM pg_extension_update_paths('pyml') WHERE path IS NOT NULL "
                f"AND source = {literal(old)} AND target = '{new}'"
            ):
                wrong = f"there is no way from pyml {old} to {new}"
                raise Failure(wrong, f"take a checkout whose sql/releases.json names {old}")
            say(f"upgrading pyml {old} to {new} in database {database}")
            server.ask(f"ALTER EXTENSION pyml UPDATE TO '{new}'")
            server.ask(GRANT_AGAIN)
            say("sessions that have pyml loaded have to reconnect")
        undo.pop_all()
    record_users(server, facts, server_root(options))
    if old == new:
        say("nothing had to be done")
    schema = server.ask(
        "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pyml'"
    )
    rows = server.ask_json(f"SELECT json_agg(d) FROM {schema}.ml_doctor() AS d")
    print(f"pyml {new} in database {database}, package in {environment.site}")
    for row in rows:
        print(f"  {'ok' if row['ok'] else 'NO':<4}{row['check_name']:<16}{row['detail']}")
        if not row["ok"]:
            print(f"      {'':<14}→ {row['fix']}")
    if not upgrading:
        print(f"""
What comes next, in psql, where the history has readings:
  CALL {schema}.ml_retrain();              -- train a model for each device
  CALL {schema}.ml_scan();                 -- find what is anomalous, and forecast
  SELECT * FROM {schema}.ml_schedule();    -- do both again and again""")
    return 0
