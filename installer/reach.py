"""A real server: reached as a superuser, and asked what it is and what it has."""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import re
import shlex
import shutil
import socket
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from installer.debian import apt_install
from installer.environment import Environment
from installer.postgres import Server, literal
from installer.process import HERE, IS_ROOT, Failure, write

FACTS = """
SELECT json_build_object('user', current_user, 'database', current_database(),
    'super', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    'standby', pg_is_in_recovery(), 'number', current_setting('server_version_num')::int / 10000,
    'plpython', EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpython3u'),
    'installed', (SELECT extversion FROM pg_extension WHERE extname = 'pyml'))
"""

FILES = """
SELECT json_build_object('system', (SELECT system_identifier::text FROM pg_control_system()),
    'sharedir', (SELECT setting FROM pg_config WHERE name = 'SHAREDIR'))
"""


def hosts(dsn: str) -> list[str]:
    """The hosts that a connection string names."""
    if re.match(r"postgres(ql)?://", dsn):
        parts = urllib.parse.urlsplit(dsn)
        places = parts.netloc.rpartition("@")[2].split(",")
        named = urllib.parse.parse_qs(parts.query)
        places += ",".join(named.get("host", []) + named.get("hostaddr", [])).split(",")
        found = [re.sub(r":\d*$", "", place) for place in places]
    else:
        named = re.findall(r"\bhost(?:addr)?\s*=\s*'?([^\s']*)", dsn)
        found = ",".join(named or [os.environ.get("PGHOST", "")]).split(",")
    return [urllib.parse.unquote(one).strip("[]") for one in found if one]


def is_here(host: str) -> bool:
    """Whether a host is this machine: a socket's directory, or an address to listen on."""
    if host.startswith(("/", "@")):
        return True
    with contextlib.suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
    return False


def again(command: str, options: argparse.Namespace) -> str:
    """Another command of this file, for the same server and the same place."""
    place = ["--into", options.into] if options.into else []
    script = ["python3", str(HERE / "install.py"), command]
    return shlex.join([*script, *filter(None, [options.dsn]), *place])


def connect(options: argparse.Namespace) -> tuple[Server, dict[str, Any]]:
    """Reach the server as a superuser, and ask it what it is."""
    dsn = options.dsn or ""
    for host in hosts(dsn):
        if not is_here(host):
            raise Failure(
                f"{host} is another machine, and an extension's files lie on the server's own disk",
                f"on {host}: {again(options.command, options)}",
            )
    psql = shutil.which("psql") or next(iter(glob.glob("/usr/lib/postgresql/*/bin/psql")), None)
    if not psql:
        apt_install(["postgresql-client"], "there is no psql here")
        psql = "psql"
    # Debian lets the system's user postgres in as the superuser.
    users = [None, "postgres"] if IS_ROOT else [None]
    wrong = []
    for user in users:
        server = Server(dsn, psql, user)
        try:
            facts = server.ask_json(FACTS)
            if facts["super"]:
                return server, {**facts, **server.ask_json(FILES)}
            wrong.append(f"{facts['user']} is no superuser, and only one may add an extension")
        except Failure as failure:
            wrong.append(str(failure))
    if absent := re.search(r'FATAL: +database "(.+?)" does not exist', "; ".join(wrong)):
        program = ["createdb", absent[1]] if options.command == "install" else ["psql", "-l"]
        raise Failure(f'database "{absent[1]}" does not exist', on_the_same_server(program, dsn))
    script = shlex.join(["python3", str(HERE / "install.py"), options.command])
    fix = f"pg_lsclusters; {script} 'host=… dbname=… user=postgres'"
    raise Failure("; ".join(dict.fromkeys(wrong)), fix)


def on_the_same_server(program: Sequence[str], dsn: str) -> str:
    """A command of PostgreSQL's for the server that a connection string leads to."""
    if not dsn or re.fullmatch(r"\w+|postgres(ql)?:///\w*", dsn):  # the one that is found unasked
        return shlex.join([*(["sudo", "-u", "postgres"] if IS_ROOT else []), *program])
    other = f"{dsn} dbname=postgres"
    if "://" in dsn:
        other = re.sub(r"^(postgres(?:ql)?://[^/?]*)(/[^?]*)?", r"\1/postgres", dsn)
    option = "-d" if program[0] == "psql" else "--maintenance-db"
    return shlex.join([program[0], option, other, *program[1:]])


def require_plpython(server: Server, facts: Mapping[str, Any]) -> None:
    """Install PL/Python for the server, or raise an error that says how."""
    package = f"postgresql-plpython3-{facts['number']}"
    if facts["plpython"]:
        return
    why = f"this server has no PL/Python (looked in {facts['sharedir']}/extension)"
    if facts["sharedir"].startswith("/usr/share/postgresql/"):
        apt_install([package], why)
    if not server.ask_json(FACTS)["plpython"]:
        raise Failure(why, f"sudo apt-get install {package}")


def require_shared_disk(server: Server, root: Path) -> None:
    """Make sure that the server sees and can read what is written in `root`."""
    probe = root / f".probe-{os.getpid()}"
    write(probe, "pyml")
    try:
        seen = server.ask(f"SELECT pg_read_file({literal(probe)}, 0, 4, true)")
    except Failure as failure:
        fix = f"chmod a+rx {root}, and what it lies in; or choose another place with --into"
        raise Failure(f"the server cannot read {root}: {failure}", fix) from failure
    finally:
        probe.unlink(missing_ok=True)
    if seen != "pyml":
        raise Failure(
            f"the server does not see {root}: it runs in a container, or on another machine",
            "run this where the server runs",
        )


def server_root(options: argparse.Namespace) -> Path:
    """Where environments for real servers are made, one a version."""
    if options.into:
        return Path(options.into).resolve()
    return Path("/opt/pyml") if IS_ROOT else Path.home() / ".local/share/pyml/server"


def databases_with_it(server: Server) -> dict[str, str | None]:
    """The databases of a server that have pyml, and its version there.

    They are looked into: a restored dump and a copy are made without this program, and a
    database may be dropped or renamed. Of one that cannot be reached the version is None.
    """
    found: dict[str, str | None] = {}
    for name in server.ask_json("SELECT json_agg(datname) FROM pg_database WHERE datallowconn"):
        value = name.replace("\\", r"\\").replace("'", r"\'")
        place = f"dbname='{value}'".replace('"', '""')
        asked = f'\\connect -reuse-previous=on "{place}"\nSELECT extversion FROM pg_extension '
        try:
            version = server.ask(asked + "WHERE extname = 'pyml'")
        except Failure:
            found[name] = None
            continue
        if version:
            found[name] = version
    return found


def record_users(server: Server, facts: Mapping[str, Any], root: Path) -> None:
    """Write down which databases use each environment in a folder."""
    here, system = databases_with_it(server), f" of {facts['system']}"
    for environment in environments(root):
        recorded = environment.state().get("users", [])
        users = [name + system for name in here if here[name] in (None, environment.path.name)]
        users += [user for user in recorded if not user.endswith(system)]
        if sorted(users) != recorded:
            environment.record(users=sorted(users))


def environments(root: Path) -> list[Environment]:
    """The complete environments in a folder, one a version."""
    found = [Environment(stamp.parent, "") for stamp in root.glob("*/pyml.json")]
    return sorted(found, key=lambda one: one.stamp.stat().st_mtime)
