"""The demo: a private server with a sample fleet."""

from __future__ import annotations

import argparse
import shutil

from installer.broker import find_mosquitto
from installer.cluster import Cluster, home, private
from installer.dashboard import api_server, show_dashboard
from installer.extension import sources
from installer.postgres import find_postgres
from installer.process import HERE, PLAIN_ENVIRONMENT, run, say


def command_demo(options: argparse.Namespace) -> int:
    """Show it on a private server."""
    if options.stop or options.remove:
        for data in sorted(home().glob(f"postgresql-*/{'*' if options.remove else 'demo'}/data")):
            major, name = data.parts[-3].removeprefix("postgresql-"), data.parts[-2]
            Cluster(home(), name, find_postgres(), major).stop()
        if options.remove:
            ours = [*home().glob("postgresql-*"), *home().glob("python-*")]
            for path in [*ours, home() / "lock", home() / "test-runs"]:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            say(f"removed the private servers and their environment from {home()}")
        return 0
    serve = api_server() if options.dashboard else []
    with private("demo") as (cluster, environment):
        dsn = cluster.dsn("demo")
        if cluster.server().ask("SELECT 1 FROM pg_database WHERE datname = 'demo'") == "":
            cluster.server().ask("CREATE DATABASE demo")
        psql = cluster.postgres.bindir / "psql"
        show = [environment.python, "-B", HERE / "demo/show.py", dsn, "--made", sources()]
        show += ["--psql", psql]
        quiet, live = ["--quiet"] * options.dsn, ["--live"] * options.dashboard
        run(
            [*show, *quiet, *live],
            env=PLAIN_ENVIRONMENT,
            wrong="the demo failed",
            stdout=None,
            stderr=None,
        )
        if options.dsn:
            print(dsn)
    if serve:
        place = cluster.place / "broker"
        show_dashboard(serve, cluster.server("demo"), environment.python, find_mosquitto(), place)
    return 0
