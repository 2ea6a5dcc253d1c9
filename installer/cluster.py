"""Private servers, which share nothing with the machine's others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from installer.environment import Environment, find_python
from installer.extension import extension_files
from installer.postgres import Postgres, Server, find_postgres
from installer.process import (
    HERE,
    IS_ROOT,
    PLAIN_ENVIRONMENT,
    Failure,
    digest,
    locked,
    run,
    say,
    write,
)


class Cluster:
    """A PostgreSQL server of our own, which shares nothing with the machine's others.

    PostgreSQL looks for its files at a path relative to its own program. A copy of the
    program in a tree of links to the installation's files therefore has an extension
    directory of its own, and needs no right to write in the system's.

    Parameters
    ----------
    home : Path
    name : str
    postgres : Postgres
    major : str, optional
        Version of the PostgreSQL that has made it, where that is not `postgres`: it can be stopped.
    """

    def __init__(self, home: Path, name: str, postgres: Postgres, major: str | None = None) -> None:
        self.name, self.postgres = name, postgres
        self.owner = "postgres" if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_name
        self.base = home / f"postgresql-{major or postgres.major}"
        parts = (postgres.bindir, postgres.sharedir, postgres.pkglibdir)
        self.bindir, self.sharedir, self.pkglibdir = (
            self.base / "tree" / part.relative_to(os.path.commonpath(parts)) for part in parts
        )
        self.place = self.base / name
        self.data, self.log, self.run = (self.place / one for one in ("data", "log", "run"))
        if len(str(self.run)) > 80:  # a socket's path holds 107 bytes
            short = hashlib.sha256(str(self.run).encode()).hexdigest()[:12]
            self.run = Path(f"/tmp/pyml-{short}")

    def dsn(self, database: str) -> str:
        """The connection string of one of its databases."""
        host = urllib.parse.quote(str(self.run))
        return f"postgresql:///{database}?host={host}&port=5432&user=postgres"

    def server(self, database: str = "postgres") -> Server:
        """One of its databases, to talk to."""
        return Server(self.dsn(database), self.postgres.bindir / "psql")

    def control(self, *arguments: str | Path, **options: Any) -> str:
        """Run pg_ctl on it."""
        command = [self.postgres.bindir / "pg_ctl", "-D", self.data, *arguments]
        return run(command, user=self.owner, env=PLAIN_ENVIRONMENT, **options)

    def is_running(self) -> bool:
        """Whether its postmaster is up."""
        with contextlib.suppress(Failure):
            return "server is running" in self.control("status")
        return False

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self.data.exists() and self.is_running():
            self.control("stop", "-m", "fast", wrong=f"cannot stop the {self.name} server")
            say(f"stopped the {self.name} server")

    def start(self) -> Server:
        """Make it if need be, start it if need be."""
        self.make_tree()
        for path in (self.place, self.run):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
            if IS_ROOT:
                shutil.chown(path, self.owner)
        if not self.data.exists():
            self.make_data()
        changed = self.configure()
        if self.is_running() and changed:
            self.stop()
        if not self.is_running():
            try:
                self.control("-p", self.bindir / "postgres", "-l", self.log, "-w", "start")
            except Failure as failure:
                wrong = f"the {self.name} server does not start:\n"
                wrong += run(["tail", "-n", "5", self.log])
                raise Failure(wrong, f"less {self.log}") from failure
            say(f"started the {self.name} server (PostgreSQL {self.postgres.major}, {self.place})")
        return self.server()

    def make_tree(self) -> None:
        """Bring the copy of the program and the links up to date with the installation."""
        extension = self.sharedir / "extension"
        for path in (self.bindir, extension):
            path.mkdir(parents=True, exist_ok=True)
        own, system = self.bindir / "postgres", self.postgres.bindir / "postgres"
        if not own.exists() or own.stat().st_mtime != system.stat().st_mtime:
            for one in self.base.iterdir():
                if (one / "data").exists():
                    Cluster(self.base.parent, one.name, self.postgres).stop()
            shutil.copy2(system, own.with_suffix(".new"))
            own.with_suffix(".new").replace(own)
        links = {self.pkglibdir: self.postgres.pkglibdir}
        for theirs in self.postgres.sharedir.iterdir():
            links[self.sharedir / theirs.name] = theirs
        del links[extension]
        for theirs in (self.postgres.sharedir / "extension").iterdir():
            if not theirs.name.startswith("pyml"):
                links[extension / theirs.name] = theirs
        for link, target in links.items():
            if not link.exists():
                link.unlink(missing_ok=True)  # one that leads nowhere
                link.symlink_to(target)

    def make_data(self) -> None:
        """Run initdb."""
        say(f"making the {self.name} server's data directory")
        part = self.data.with_name("data.new")
        shutil.rmtree(part, ignore_errors=True)
        run(
            [
                self.postgres.bindir / "initdb",
                "-D",
                part,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
            ],
            user=self.owner,
            env=PLAIN_ENVIRONMENT,
            wrong="initdb failed",
        )
        with open(part / "postgresql.conf", "a") as handle:
            handle.write("include 'pyml.conf'\n")
        part.rename(self.data)

    def configure(self) -> bool:
        """Write the settings; whether they are new."""
        lines = ["listen_addresses = ''", f"unix_socket_directories = '{self.run}'", "port = 5432"]
        if self.postgres.has("pg_cron"):
            database = "demo" if self.name == "demo" else "postgres"
            lines += [
                "shared_preload_libraries = 'pg_cron'",
                f"cron.host = '{self.run}'",
                f"cron.database_name = '{database}'",
            ]
        if self.name == "test":  # nothing is worth a wait for the disk, and plans hang on no chance
            lines += ["fsync = off", "full_page_writes = off", "synchronous_commit = off"]
            lines += ["autovacuum = off"]
        path, text = self.data / "pyml.conf", "\n".join(lines) + "\n"
        if path.exists() and path.read_text() == text:
            return False
        write(path, text)
        return True


def home() -> Path:
    """Where the private servers live."""
    if os.environ.get("PYML_HOME"):
        return Path(os.environ["PYML_HOME"]).resolve()
    return Path("/var/lib/pyml") if IS_ROOT else Path.home() / ".local/share/pyml"


@contextlib.contextmanager
def private(
    name: str, leave: Callable[[Cluster], None] | None = None
) -> Iterator[tuple[Cluster, Environment]]:
    """A running private server and its Python environment with this checkout in it.

    Where that comes to nothing, `leave` puts away what was begun.
    """
    root = home()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if IS_ROOT:
            run(["test", "-x", root], user="nobody")
    except (OSError, Failure) as error:
        why = getattr(error, "strerror", None) or "the server's user cannot enter it"
        raise Failure(
            f"cannot keep a server in {root}: {why}", "PYML_HOME=/var/tmp/pyml python3 install.py …"
        ) from error
    with locked(root / "lock"):
        cluster = Cluster(root, name, find_postgres())
        try:
            server = cluster.start()
            python, series = find_python(server)
            environment = Environment(root / f"python-{series}", series)
            environment.build(python, HERE / "requirements.lock")
            if environment.state().get("package") != digest(HERE / "pyml"):
                environment.put_package()
                environment.record(package=digest(HERE / "pyml"))
            for file, text in extension_files(environment.site).items():
                write(cluster.sharedir / "extension" / file, text)
            yield cluster, environment
        except BaseException:
            if leave:
                leave(cluster)
            raise
