"""The extension out of a database again, and off the disk."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from installer.postgres import Server
from installer.process import HERE, Failure, privileged, say, write
from installer.reach import connect, environments, record_users, server_root

# Takes the jobs of this database off pg_cron, whoever has scheduled them.
UNSCHEDULE = """
SELECT jobname FROM (SELECT jobname, cron.unschedule(jobid) FROM cron.job
    WHERE jobname LIKE 'pyml %' AND database = current_database()) AS gone
"""
# What a DROP EXTENSION takes along, as a person counts it.
LOSSES = """
SELECT concat_ws(', ', (SELECT count(*) FROM {0}.ml_model) || ' models',
    (SELECT count(*) FROM {0}.ml_anomaly) || ' logged anomalies',
    (SELECT count(*) FROM {0}.ml_finding) || ' findings',
    (SELECT count(*) FROM {0}.ml_incident) || ' incidents',
    (SELECT count(*) FROM {0}.ml_rule) || ' rules',
    (SELECT count(*) FROM {0}.ml_quiet) || ' quiet windows',
    (SELECT count(*) FROM {0}.ml_setting WHERE value <> default_value) || ' changed settings',
    (SELECT count(*) FROM {0}.ml_metric WHERE NOT built_in) || ' metrics of your own')
"""


def confirm_drop(server: Server, facts: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Say what a drop takes along, and ask.

    Raises
    ------
    Failure
        The answer is no, or there is nobody to ask.
    """
    home = server.ask("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pyml'")
    losses = "its models and settings"
    with contextlib.suppress(Failure):  # a release with other tables
        losses = server.ask(LOSSES.format(home))
    say(
        f"this drops pyml {facts['installed']} from database {facts['database']}, and with it "
        f"{losses}; tables that pyml only reads stay"
    )
    if options.yes:
        return
    command = shlex.join(["python3", str(HERE / "install.py"), *sys.argv[1:], "--yes"])
    if not sys.stdin.isatty():
        raise Failure("nothing was dropped, since nobody can be asked here", command)
    print("Drop it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was dropped", command)


def command_uninstall(options: argparse.Namespace) -> int:
    """Take the extension out of a database, and off the disk when no other one uses it."""
    server, facts = connect(options)
    if facts["standby"]:
        raise Failure("this server is a read-only standby", "run this against its primary first")
    root, directory = server_root(options), Path(facts["sharedir"]) / "extension"
    # Whatever could be refused is refused before anything is lost.
    places = [environment.path for environment in environments(root)]
    for place in [*places, *([root] if places else []), *([directory] * any_file(directory))]:
        if not os.access(place, os.W_OK):
            raise Failure(f"nothing was dropped: no right to write in {place}", privileged())
    if facts["installed"]:
        confirm_drop(server, facts, options)
        with contextlib.suppress(Failure):  # pg_cron is not in this database
            for job in server.ask(UNSCHEDULE).splitlines():
                say(f"took {job} off pg_cron")
        server.ask("DROP EXTENSION pyml")
        say("dropped")
    else:
        say(f"database {facts['database']} has no pyml")
    record_users(server, facts, root)
    for environment in environments(root):
        if users := environment.state().get("users"):
            say(f"{environment.path} stays: used by {', '.join(users)}")
            continue
        say(f"removing {environment.path}")
        for script in directory.glob("pyml--*.sql"):
            if script.stem.split("--")[-1] == environment.path.name:
                script.unlink()
        shutil.rmtree(environment.path)
    left = releases_in(directory)
    if not options.into:
        with contextlib.suppress(OSError):  # not empty, or never made
            root.rmdir()
    control = directory / "pyml.control"
    if control.exists() and not left:
        control.unlink()
    elif left:
        default = f"default_version = '{left[-1]}'"
        write(control, re.sub("default_version = .*", default, control.read_text()))
    return 0


def releases_in(directory: Path) -> list[str]:
    """The releases that a server's extension directory can create, the newest last."""
    scripts = [path.stem.split("--") for path in directory.glob("pyml--*.sql")]
    whole = [script[1] for script in scripts if len(script) == 2]
    return sorted(whole, key=lambda release: [int(one) for one in re.findall(r"\d+", release)])


def any_file(directory: Path) -> bool:
    """Whether a server's extension directory holds a file of pyml's."""
    return any(directory.glob("pyml*"))
