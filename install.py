#!/usr/bin/env python3
"""The one entry to pyml: try it, test it, put it on a server.

    python3 install.py demo        a private server with a sample fleet: nothing else is touched
    python3 install.py test        the whole test suite, on a private server
    python3 install.py install     the extension, on a PostgreSQL server of this machine

Standard library only, any Python from 3.9: it finds the Python of the server itself.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import functools
import glob
import hashlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IS_ROOT = os.geteuid() == 0
STARTED = time.monotonic()

# What a server and pip see of the environment: a PYTHONPATH or a version manager's
# directory in PATH would lead PL/Python to another interpreter's library.
PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}


class Failure(Exception):
    """What is wrong and the command that helps; the user sees these two and no traceback."""

    def __init__(self, wrong: str, fix: str = "") -> None:
        super().__init__(wrong)
        self.fix = fix


# Telling and running ------------------------------------------------------------------


def say(text: str) -> None:
    """Tell what is going on, on stderr: stdout is for what was asked."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path], *, user: str | None = None, wrong: str = "", **options: Any
) -> str:
    """Run a command (as another user, when root) and give its output; a failure says `wrong`."""
    if user and IS_ROOT:
        entry = pwd.getpwnam(user)
        options.update(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
    done = subprocess.run(
        [str(part) for part in command],
        text=True,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        stdin=None if "input" in options else subprocess.DEVNULL,
        cwd="/",
        **options,
    )
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip()
        raise Failure(f"{wrong or shlex.join(map(str, command))}: {said or done.returncode}")
    return (done.stdout or "").strip()


def run_told(command: Sequence[str | Path], wrong: str, fix: str = "", **options: Any) -> None:
    """Run a long command, telling every few seconds what it is at."""
    process = subprocess.Popen(
        [str(part) for part in command],
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        **options,
    )
    lines: list[str] = []
    told = time.monotonic()
    try:
        for line in process.stdout or ():
            lines = [*lines[-20:], line.strip()]
            if line.strip() and time.monotonic() - told > 4:
                say("  … " + line.strip()[:90])
                told = time.monotonic()
    except BaseException:
        process.kill()
        raise
    finally:
        process.communicate()  # waits, and closes the pipe
    if process.returncode:
        raise Failure(f"{wrong}:\n  " + "\n  ".join(lines[-8:]), fix)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text)
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failure(f"cannot write {path}: {error.strerror}", privileged()) from error


def privileged() -> str:
    """Give this very command, for somebody who may."""
    return "sudo " + shlex.join(["python3", str(HERE / "install.py"), *sys.argv[1:]])


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, so that two runs take turns."""
    with open(path, "a") as handle:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {path}")
            fcntl.flock(handle, kind)
        yield


def digest(*paths: Path) -> str:
    """One hash over the names and contents of files and folders."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(HERE)}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


# What is installed --------------------------------------------------------------------


def version() -> str:
    """The version of the extension and of its package: one and the same."""
    found = re.search(r'^__version__ = "(.+)"', (HERE / "pyml/__init__.py").read_text(), re.M)
    if not found:
        raise Failure("pyml/__init__.py states no __version__")
    return found[1]


def sources() -> str:
    """A digest of everything that `install` puts on a server."""
    return digest(HERE / "pyml", HERE / "sql", HERE / "requirements.lock")


def extension_files(site: Path) -> dict[str, str]:
    """Build the control file and the scripts for a package that lies in `site`.

    Raises
    ------
    Failure
        A migration that a release has shipped was changed, or a new one sorts before it.
    """
    release = version()
    scripts = sorted((HERE / "sql/migrations").glob("*.sql"))
    names = [script.name for script in scripts]
    bodies = [script.read_text() for script in scripts]
    again = [(HERE / "sql" / name).read_text() for name in ("functions.sql", "views.sql")]

    def script(parts: list[str], statement: str) -> str:
        guard = f'\\echo Use "{statement}" to load this file. \\quit\n'
        text = "\n".join([guard, *parts])
        return text.replace("@PYML_SITE@", str(site)).replace("@PYML_VERSION@", release)

    files = {
        f"pyml--{release}.sql": script([*bodies, *again], "CREATE EXTENSION pyml"),
        "pyml.control": f"""\
comment = 'anomaly detection and forecasting for device telemetry'
default_version = '{release}'
relocatable = false
requires = 'plpython3u'
superuser = true
""",
    }
    hashes = [hashlib.sha256(body.encode()).hexdigest() for body in bodies]
    for old, shipped in json.loads((HERE / "sql/releases.json").read_text()).items():
        count = len(shipped)
        if dict(zip(names[:count], hashes)) != shipped:
            raise Failure(
                f"sql/migrations no longer begins with what release {old} has shipped: "
                "a shipped file was changed, or a new one sorts before it",
                "git log -p -- sql/migrations",
            )
        if old != release:
            new = [*bodies[count:], *again]
            files[f"pyml--{old}--{release}.sql"] = script(new, "ALTER EXTENSION pyml UPDATE")
    return files


# Debian's packages --------------------------------------------------------------------


def apt_install(packages: Sequence[str], why: str) -> None:
    """Install Debian packages, when root; else tell which."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if not shutil.which("apt-get"):
        raise Failure(f"{why}; install what Debian calls {' '.join(packages)}")
    if not IS_ROOT:
        raise Failure(why, "sudo " + shlex.join(command))
    say(f"{why}: installing {' '.join(packages)} with apt-get")
    apt_update()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_default_cluster(environment):
        run_told(command, "apt-get failed", shlex.join(command), env=environment)


@functools.cache
def apt_update() -> None:
    """Fetch the package lists, once a run: a fresh machine has none, an old one stale ones."""
    run_told(["apt-get", "update"], "apt-get update failed", "apt-get update")


def apt_candidate(package: str) -> int:
    """The major version in which apt-get would install a package; 0 where it knows none."""
    if IS_ROOT:
        apt_update()
    found = re.search(r"Candidate: (\d+)", run(["apt-cache", "policy", package]))
    return int(found[1]) if found else 0


@contextlib.contextmanager
def no_default_cluster(environment: Mapping[str, str]) -> Iterator[None]:
    """Keep Debian's PostgreSQL package from making and starting a server that nobody asked for."""
    settings = Path("/etc/postgresql-common/createcluster.d/pyml.conf")
    if glob.glob("/usr/lib/postgresql/*/bin/postgres"):
        yield
        return
    common = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql-common"]
    run_told(common, "apt-get failed", shlex.join(common), env=dict(environment))
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:  # the user's own next server is made as always
        settings.unlink(missing_ok=True)


# PostgreSQL ---------------------------------------------------------------------------


class Postgres:
    """A PostgreSQL installation: where its programs and files are."""

    def __init__(self, bindir: Path) -> None:
        self.bindir = bindir
        told = run([bindir / "pg_config", "--sharedir", "--pkglibdir", "--version"]).splitlines()
        self.sharedir, self.pkglibdir = Path(told[0]), Path(told[1])
        self.major = re.findall(r"\d+", told[2])[0]

    def has(self, library: str) -> bool:
        """Whether a loadable module is there."""
        return (self.pkglibdir / f"{library}.so").exists()


def find_postgres() -> Postgres:
    """The newest PostgreSQL on this machine with PL/Python; installed if need be."""
    found = sorted(
        glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: float(path.split("/")[4])
    )
    if found:
        each = [Postgres(Path(path).parent) for path in found]
        postgres = next((one for one in reversed(each) if one.has("plpython3")), each[-1])
    else:  # one that was built by hand, perhaps; Debian's pg_config may be there without a server
        bindir = ""
        with contextlib.suppress(Failure, OSError):
            bindir = run(["pg_config", "--bindir"])
        own = bindir and Path(bindir, "postgres").exists()
        postgres = Postgres(Path(bindir)) if own else debian_postgres()
    if not postgres.has("plpython3"):
        wanted = f"postgresql-plpython3-{postgres.major}"
        apt_install([wanted], f"PostgreSQL {postgres.major} has no PL/Python")
    if not postgres.has("pg_cron") and IS_ROOT and shutil.which("apt-cache"):
        wanted = f"postgresql-{postgres.major}-cron"
        if run(["apt-cache", "search", "--names-only", f"^{wanted}$"]):
            apt_install([wanted], "the schedule needs pg_cron")
    return postgres


def debian_postgres() -> Postgres:
    """Install the PostgreSQL of this Debian release."""
    why = "there is no PostgreSQL server here"
    if not shutil.which("apt-cache"):
        apt_install(["postgresql", "postgresql-plpython3-$(VERSION)"], why)
    major = apt_candidate("postgresql")
    if not major:
        sudo = "" if IS_ROOT else "sudo "
        raise Failure(f"{why} and apt-get knows no package postgresql", f"{sudo}apt-get update")
    apt_install([f"postgresql-{major}", f"postgresql-plpython3-{major}"], why)
    return Postgres(Path(f"/usr/lib/postgresql/{major}/bin"))


class Server:
    """A running server, spoken to through psql."""

    def __init__(self, dsn: str, psql: Path | str = "psql", user: str | None = None) -> None:
        self.dsn, self.psql, self.user = dsn, psql, user

    def ask(self, sql: str, *, quiet: bool = True) -> str:
        """Run statements; what they print comes back, an error is a Failure."""
        command = [self.psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn, "-f", "-"]
        environment = {**os.environ, "PGAPPNAME": "pyml install"}
        if quiet:
            environment["PGOPTIONS"] = "-c client_min_messages=warning"
        try:
            return run(command, user=self.user, input=sql, env=environment)
        except Failure as failure:
            said = str(failure).partition(": ")[2] if "ERROR:" in str(failure) else str(failure)
            found = re.search(r"ERROR:\s+(.*)", said, re.S)
            raise Failure(
                found[1].strip() if found else said.split("psql: error: ")[-1]
            ) from failure

    def ask_json(self, sql: str) -> Any:
        """Run one statement that gives one JSON document."""
        return json.loads(self.ask(sql))


def literal(text: object) -> str:
    """An SQL literal that means the same whatever the server's settings are."""
    return "E'" + str(text).replace("\\", "\\\\").replace("'", "''") + "'"


# Python and its environment -----------------------------------------------------------

ABOUT = (
    "import json, sys, sysconfig; about = json.dumps({'version': list(sys.version_info[:3]), "
    "'abi': sysconfig.get_config_var('SOABI'), 'prefix': sys.base_prefix, "
    "'executable': sys.executable})"
)


def in_server(server: Server, body: str, result: str) -> str:
    """What a piece of Python says inside the server; nothing of it stays there."""
    return server.ask(
        f"BEGIN; CREATE EXTENSION IF NOT EXISTS plpython3u;"
        f"CREATE FUNCTION pg_temp.pyml_ask() RETURNS text LANGUAGE plpython3u AS "
        f"{literal(f'{body}; return {result}')};"
        f"SELECT pg_temp.pyml_ask(); ROLLBACK;"
    )


def find_python(server: Server, wanted: str | None = None) -> tuple[Path, str]:
    """The interpreter on disk that matches the one inside the server, and its X.Y."""
    inside = json.loads(in_server(server, ABOUT, "about"))
    major, minor = inside["version"][:2]
    series = f"{major}.{minor}"
    least = re.search(r'requires-python = ">=(\d+)\.(\d+)"', (HERE / "pyproject.toml").read_text())
    if least and (major, minor) < (int(least[1]), int(least[2])):
        raise Failure(
            f"the server's PL/Python runs Python {series}; pyml needs {least[1]}.{least[2]} on",
            "use a server whose PL/Python is built for a newer Python",
        )
    name = f"python{series}"
    guesses = [
        f"{inside['prefix']}/bin/{name}",
        inside["executable"],
        f"/usr/bin/{name}",
        shutil.which(name),
    ]
    for guess in [wanted] if wanted else guesses:
        if not guess or not os.access(guess, os.X_OK):
            continue
        probe = ABOUT + "; import venv, ensurepip; print(about)"
        try:
            told = run([guess, "-I", "-c", probe], env=PLAIN_ENVIRONMENT)
        except Failure as failure:
            if "ensurepip" not in str(failure):
                continue
            apt_install([f"{name}-venv"], f"{guess} cannot make virtual environments")
            return find_python(server, wanted)
        if not told.startswith("{"):  # a program, but no Python
            continue
        outside = json.loads(told)
        if outside["abi"] == inside["abi"]:
            return Path(guess), series
        if wanted:
            told = ".".join(map(str, outside["version"]))
            raise Failure(
                f"{wanted} is Python {told}, but the server's PL/Python runs {series} "
                f"({inside['abi']})",
                f"give --python the path of a {name}",
            )
    if wanted:
        raise Failure(f"{wanted} is no Python interpreter", f"give --python the path of a {name}")
    if IS_ROOT and not shutil.which(name, path=PLAIN_ENVIRONMENT["PATH"]):
        apt_install([name, f"{name}-venv"], f"the server's PL/Python runs {series}")
        return find_python(server)
    raise Failure(
        f"no {name} here that matches the server's ({inside['abi']})",
        f"give --python the path of one, or: sudo apt-get install {name}-venv",
    )


class Environment:
    """A virtual environment that holds the libraries and a copy of the package."""

    def __init__(self, path: Path, series: str) -> None:
        self.path = path
        self.python = path / "bin/python"
        self.site = path / f"lib/python{series}/site-packages"
        self.stamp = path / "pyml.json"  # there only when everything before it is

    def state(self) -> dict[str, Any]:
        """What is recorded of it; empty when it is not complete."""
        try:
            return dict(json.loads(self.stamp.read_text()))
        except (OSError, ValueError):
            return {}

    def record(self, **facts: Any) -> None:
        """Add to what is recorded."""
        write(self.stamp, json.dumps({**self.state(), **facts}, indent=1) + "\n")

    def build(self, python: Path, lock: Path, like: Path | None = None) -> None:
        """Make it with the libraries of `lock`, or with links to those of `like`, another one."""
        facts = {
            "lock": digest(lock),
            "python": json.loads(
                run([python, "-I", "-c", ABOUT + "; print(about)"], env=PLAIN_ENVIRONMENT)
            )["abi"],
        }
        if self.state().items() >= facts.items():
            return
        if self.path.exists():
            say(f"removing the incomplete or outdated {self.path}")
            shutil.rmtree(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            donor = Environment(like, self.site.parent.name[6:]) if like else None
            if donor and not donor.state().items() >= facts.items():
                raise Failure(
                    f"{like} holds other libraries than {lock.name}, or another Python",
                    "leave --libraries out",
                )
            say(f"making a virtual environment of {python} in {self.path}")
            bare = ["--without-pip"] if donor else []
            run(
                [python, "-m", "venv", *bare, self.path],
                env=PLAIN_ENVIRONMENT,
                wrong="cannot make the virtual environment",
            )
        except OSError as error:
            wrong = f"cannot write {error.filename}: {error.strerror}"
            raise Failure(wrong, privileged()) from error
        if donor:
            say(f"using the libraries of {like}")
            for entry in donor.site.iterdir():
                if entry.name not in ("pyml", "__pycache__"):
                    (self.site / entry.name).symlink_to(entry)
        else:
            self.pip(lock)
        self.record(**facts)

    def pip(self, lock: Path) -> None:
        """Install what a lock file names."""
        count = len(re.findall(r"^\S+==", lock.read_text(), re.M))
        say(f"installing {count} libraries from {lock.name} (some minutes, the first time)")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        before = {entry.name for entry in self.site.iterdir()}
        run_told(
            [
                self.python,
                "-m",
                "pip",
                "install",
                "--require-hashes",
                "--only-binary=:all:",
                "--no-compile",
                "--progress-bar=off",
                "--disable-pip-version-check",
                "--root-user-action=ignore",
                "-r",
                lock,
            ],
            "pip could not install the libraries",
            "check the network, and run this again",
            env=environment,
        )
        say("  … compiling them")
        new = [entry for entry in self.site.iterdir() if entry.name not in before]
        # Some libraries carry files for other Pythons: those that do not compile are not ours.
        subprocess.run(
            [str(self.python), "-m", "compileall", "-qq", "-j0", *map(str, new)],
            cwd="/",
            check=False,
            stdout=subprocess.DEVNULL,
        )

    def put_package(self) -> None:
        """Copy this checkout's package into it."""
        part, old = self.site / ".pyml.new", self.site / ".pyml.old"
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(HERE / "pyml", part, ignore=shutil.ignore_patterns("__pycache__"))
        for path in [part, *part.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        place = self.site / "pyml"
        if place.exists():
            place.rename(old)
        part.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        run([self.python, "-m", "compileall", "-q", place], env=PLAIN_ENVIRONMENT)


# Private clusters ---------------------------------------------------------------------


class Cluster:
    """A PostgreSQL server of our own, which shares nothing with the machine's others.

    PostgreSQL looks for its files at a path relative to its own program. A copy of the
    program in a tree of links to the installation's files therefore has an extension
    directory of its own, and needs no right to write in the system's.
    """

    def __init__(self, home: Path, name: str, postgres: Postgres) -> None:
        self.name, self.postgres = name, postgres
        self.owner = "postgres" if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_name
        self.base = home / f"postgresql-{postgres.major}"
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
        """Write the settings, and tell whether they are new."""
        lines = ["listen_addresses = ''", f"unix_socket_directories = '{self.run}'", "port = 5432"]
        if self.postgres.has("pg_cron"):
            database = "demo" if self.name == "demo" else "postgres"
            lines += [
                "shared_preload_libraries = 'pg_cron'",
                f"cron.host = '{self.run}'",
                f"cron.database_name = '{database}'",
            ]
        if self.name == "test":  # nothing that is worth a wait for the disk
            lines += ["fsync = off", "full_page_writes = off", "synchronous_commit = off"]
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
def private(name: str) -> Iterator[tuple[Cluster, Environment]]:
    """A running private server and its Python environment with this checkout in it."""
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
            if name == "test":
                leave(cluster)
            raise


# The demo -----------------------------------------------------------------------------


def command_demo(options: argparse.Namespace) -> int:
    """Show it on a private server."""
    if options.stop or options.remove:
        for base in sorted(home().glob("postgresql-*")):
            for place in base.iterdir():
                if (place / "data").exists() and (options.remove or place.name == "demo"):
                    Cluster(home(), place.name, find_postgres()).stop()
        if options.remove:
            for path in [*home().glob("postgresql-*"), *home().glob("python-*"), home() / "lock"]:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            say(f"removed the private servers and their environment from {home()}")
        return 0
    serve = api_server() if options.dashboard else []
    with private("demo") as (cluster, environment):
        dsn = cluster.dsn("demo")
        if cluster.server().ask("SELECT 1 FROM pg_database WHERE datname = 'demo'") == "":
            cluster.server().ask("CREATE DATABASE demo")
        show = [environment.python, "-B", HERE / "demo/show.py", dsn, "--made", sources()]
        quiet, live = ["--quiet"] * options.dsn, ["--live"] * options.dashboard
        run(
            [*show, *quiet, *live],
            env=PLAIN_ENVIRONMENT,
            wrong="the demo failed",
            stdout=None,
            stderr=None,
        )
        print(dsn if options.dsn else f"{cluster.postgres.bindir}/psql '{dsn}'")
    if serve:
        show_dashboard(serve, cluster.server("demo"))
    return 0


# The dashboard ------------------------------------------------------------------------

API_SERVER = HERE / "examples/api-server"
SCAN_SECONDS = 60


def api_server() -> list[str]:
    """The command that starts the API server, which is built if need be."""
    node = find_node()
    npm = [shutil.which("npm") or "npm", "--prefix", str(API_SERVER)]
    lock, installed = (
        API_SERVER / one for one in ("package-lock.json", "node_modules/.package-lock.json")
    )
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        say("installing the API server's libraries with npm")
        fix = "check the network, and run this again"
        run_told([*npm, "ci", "--no-audit", "--no-fund"], "npm could not install them", fix)
    run([*npm, "run", "build"], wrong="the API server cannot be built")
    return [node, str(API_SERVER / "dist/main.js")]


def find_node() -> str:
    """Node.js, as new as the API server says; Debian's is installed where it is that new."""
    package = json.loads((API_SERVER / "package.json").read_text())
    least = int(package["engines"]["node"].removeprefix(">="))
    node = shutil.which("node")
    found = run([node, "--version"]) if node else "none"
    if node and shutil.which("npm") and int(found[1:].split(".")[0]) >= least:
        return node
    why = f"the API server needs Node.js {least} or later with npm; here is {found}"
    if node or not shutil.which("apt-cache") or apt_candidate("nodejs") < least:
        raise Failure(why, "https://nodejs.org/en/download")
    apt_install(["nodejs", "npm"], why)
    return find_node()


def show_dashboard(command: Sequence[str], server: Server) -> None:
    """Serve the dashboard on the demo's fleet, and scan as a schedule would, until Ctrl-C."""
    with socket.socket() as probe:
        port = 8080 if probe.connect_ex(("127.0.0.1", 8080)) else 0
    settings = {"DATABASE_URL": server.dsn, "PORT": str(port)}
    for each in (signal.SIGINT, signal.SIGTERM):  # either way the server ends with this program
        signal.signal(each, signal.default_int_handler)
    with subprocess.Popen(
        command, env={**PLAIN_ENVIRONMENT, **settings}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            address = (process.stdout.readline() if process.stdout else "").split()[-1:]
            if not address:
                raise Failure("the API server does not start")
            print(f"\nThe dashboard: {address[0]}  (Ctrl-C stops it)", flush=True)
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
                webbrowser.open(address[0])
            while process.poll() is None:
                server.ask("CALL ml_scan()")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SCAN_SECONDS)
        except KeyboardInterrupt:
            say("stopping the dashboard; the demo's server goes on")
        finally:
            process.terminate()


# The tests ----------------------------------------------------------------------------


def find_browser() -> None:
    """Chromium, in which the dashboard is tested."""
    if not shutil.which("chromium"):
        why = "the dashboard is tested in Chromium, which is not here"
        apt_install(["chromium", "fonts-dejavu-core"], why)


def find_plproxy(postgres: Postgres) -> None:
    """PL/Proxy, with which a sharded fleet is tested."""
    if not postgres.has("plproxy"):
        why = "a sharded fleet is tested with PL/Proxy, which is not here"
        apt_install([f"postgresql-{postgres.major}-plproxy"], why)


def find_strace() -> None:
    """What shows whom a session calls and which files it writes."""
    if not shutil.which("strace"):
        apt_install(["strace"], "that nothing is reported is tested with strace, which is not here")


def adopt_orphans() -> None:
    """Become the parent of what outlives its own, such as a server that a test has started."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def descendants(root: int) -> list[int]:
    """The processes that `root` has started, and those that they have; the children last."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = Path(path).read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.split("/")[2])] = int(parent)
    found: list[int] = []
    generation = [root]
    while generation:
        generation = [pid for pid, parent in parents.items() if parent in generation]
        found = generation + found
    return found


def leave_nothing(process: subprocess.Popen[bytes]) -> None:
    """End the tests, if they still run, and whatever they have left running."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if process.poll() is None:
        say("ending the tests")
        # As Ctrl-C does; each process of a parallel run then takes down what it has set up.
        pytests = [pid for pid in descendants(process.pid) if is_python(pid)]
        for pid in [*pytests, process.pid]:
            tell(pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
    # A PostgreSQL server that is told to quit takes its sessions with it.
    for told in (signal.SIGQUIT, signal.SIGKILL):
        until = time.monotonic() + 10
        left = descendants(os.getpid())
        if left:
            say(f"ending what the tests have left running: {' '.join(map(str, left))}")
        for pid in left:
            tell(pid, told)
        while descendants(os.getpid()) and time.monotonic() < until:
            time.sleep(0.1)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def is_python(pid: int) -> bool:
    """Whether a process runs the interpreter of the tests."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("python")
    return False


def tell(pid: int, what: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def leave(cluster: Cluster) -> None:
    """Stop the tests' server, and remove those of tests that were killed, if no run is going on."""
    with open(home() / "test-runs", "a") as handle, contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for place in cluster.base.glob("*-[0-9]*"):
            Cluster(home(), place.name, cluster.postgres).stop()
            shutil.rmtree(place)
        cluster.stop()


def interrupt(*_: object) -> None:
    """Take a signal to end as Ctrl-C, so that what was begun is put away."""
    raise KeyboardInterrupt


# Arguments that choose no tests and need no terminal: with these alone all cores are used.
WHOLE_SUITE = re.compile(r"--(quick|long|durations=\d+|maxfail=\d+)|-[qvx]+")
CORES = 4  # at most: each backend that trains takes some 600 MB


def command_test(options: argparse.Namespace) -> int:
    """Run the suite against a private server."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
    with private("test") as (cluster, environment):
        lock = HERE / "requirements-test.lock"
        if environment.state().get("test") != digest(lock):
            environment.pip(lock)
            environment.record(test=digest(lock))
    arguments = options.arguments
    cores = min(os.cpu_count() or 1, CORES)
    if cores > 1 and all(WHOLE_SUITE.fullmatch(one) for one in arguments):
        arguments = ["-n", str(cores), "--dist", "loadfile", "--no-loadscope-reorder", *arguments]
    settings = {
        "PYML_TEST_HOST": str(cluster.run),
        "PYML_TEST_PORT": "5432",
        "PYML_TEST_USER": "postgres",
    }
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PG"))}
    try:
        needs = (find_node, find_browser, find_strace, lambda: find_plproxy(cluster.postgres))
        for need in needs:
            try:
                need()
            except Failure as failure:
                say(f"{failure}: tests that need it are skipped ({failure.fix})")
        with locked(home() / "test-runs", shared=True):
            say("running the tests")
            adopt_orphans()
            # Ctrl-C reaches pytest too, and its summary is worth waiting for.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            process = subprocess.Popen(
                [str(environment.python), "-m", "pytest", *arguments],
                cwd=HERE,
                env={**keep, **settings},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            try:
                while process.returncode is None:  # orphans are reaped meanwhile
                    pid, status = os.wait()
                    if pid == process.pid:
                        process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode
            finally:
                leave_nothing(process)
    finally:
        leave(cluster)


# A real server ------------------------------------------------------------------------

FACTS = """
SELECT json_build_object('user', current_user, 'database', current_database(),
    'super', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    'standby', pg_is_in_recovery(), 'number', current_setting('server_version_num')::int / 10000,
    'plpython', EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpython3u'),
    'installed', (SELECT extversion FROM pg_extension WHERE extname = 'pyml'))
"""
# Objects that an upgrade has added are given to those who have a level. Not the extension's
# script does it: what a script grants, pg_dump takes for the extension's own and leaves out.
GRANT_AGAIN = """
DO $$
DECLARE
    home CONSTANT regnamespace := (SELECT extnamespace FROM pg_extension WHERE extname = 'pyml');
    held record;
BEGIN
    FOR held IN
        SELECT r.rolname,
            CASE max(p.proname::text) WHEN 'ml_train_forest' THEN 'train' ELSE 'read' END AS level
        FROM pg_proc p, aclexplode(p.proacl) AS a JOIN pg_roles r ON r.oid = a.grantee
        WHERE p.pronamespace = home AND p.proname IN ('ml_detect', 'ml_train_forest')
          AND a.grantee <> p.proowner GROUP BY r.rolname
    LOOP
        EXECUTE format('SELECT %s.ml_grant(%L, %L)', home, held.rolname, held.level);
    END LOOP;
END $$
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
    """Another command of this file, for the same server."""
    return shlex.join(["python3", str(HERE / "install.py"), command, *filter(None, [options.dsn])])


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
    script = shlex.join(["python3", str(HERE / "install.py"), options.command])
    fix = f"pg_lsclusters; {script} 'host=… dbname=… user=postgres'"
    raise Failure("; ".join(dict.fromkeys(wrong)), fix)


def require_plpython(server: Server, facts: Mapping[str, Any]) -> None:
    """Install PL/Python for the server, or tell how."""
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
                f"{again('uninstall', options)}, and install anew (this drops the models)",
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
    paths = f"sys.path.insert(0, {str(environment.site)!r}); import numpy, onnx, onnxruntime"
    in_server(server, f"import sys; {paths}", "'well'")
    return environment


def restore(path: Path, text: str | None) -> None:
    """Give a file back what it held before, or take it away."""
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
    user = f"{database} of {facts['system']}"
    for other in environments(server_root(options)):
        users = set(other.state().get("users", []))
        wanted = users | {user} if other.path == environment.path else users - {user}
        if wanted != users:
            other.record(users=sorted(wanted))
    if old == new:
        say("nothing had to be done")
    schema = server.ask(
        "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pyml'"
    )
    rows = server.ask(f"SELECT check_name, ok, detail, fix FROM {schema}.ml_doctor()").splitlines()
    print(f"pyml {new} in database {database}, package in {environment.site}")
    for row in rows:
        name, ok, detail, fix = row.split("|", 3)
        print(f"  {'ok' if ok == 't' else 'NO':<4}{name:<16}{detail}")
        if ok != "t":
            print(f"      {'':<14}→ {fix}")
    return 0


def environments(root: Path) -> list[Environment]:
    """The complete environments in a folder, one a version."""
    found = [Environment(stamp.parent, "") for stamp in root.glob("*/pyml.json")]
    return sorted(found, key=lambda one: one.stamp.stat().st_mtime)


def command_uninstall(options: argparse.Namespace) -> int:
    """Take the extension out of a database, and off the disk when no other one uses it."""
    server, facts = connect(options)
    if facts["installed"]:
        say(
            f"dropping pyml {facts['installed']}, its models and settings, from "
            f"database {facts['database']}; tables that pyml only reads stay"
        )
        server.ask("DROP EXTENSION pyml")
    else:
        say(f"database {facts['database']} has no pyml")
    user = f"{facts['database']} of {facts['system']}"
    directory = Path(facts["sharedir"]) / "extension"
    for environment in environments(server_root(options)):
        users = set(environment.state().get("users", [])) - {user}
        if not os.access(environment.path, os.W_OK):
            raise Failure(f"the files in {environment.path} stay: no right to write", privileged())
        environment.record(users=sorted(users))
        if users:
            say(f"{environment.path} stays: used by {', '.join(sorted(users))}")
            continue
        say(f"removing {environment.path}")
        for script in directory.glob("pyml--*.sql"):
            if script.stem.split("--")[-1] == environment.path.name:
                script.unlink()
        shutil.rmtree(environment.path)
    left = sorted(path for path in directory.glob("pyml--*.sql") if path.stem.count("--") == 1)
    if not options.into:
        with contextlib.suppress(OSError):  # not empty, or never made
            server_root(options).rmdir()
    control = directory / "pyml.control"
    if control.exists() and not left:
        control.unlink()
    elif left:
        default = f"default_version = '{left[-1].stem.split('--')[1]}'"
        write(control, re.sub("default_version = .*", default, control.read_text()))
    return 0


# The command line ---------------------------------------------------------------------


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="install.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="a private server with a sample fleet")
    choice = demo.add_mutually_exclusive_group()
    choice.add_argument("--dsn", action="store_true", help="only print how to connect to it")
    choice.add_argument(
        "--dashboard", action="store_true", help="show it in a browser, with the API server"
    )
    choice.add_argument("--stop", action="store_true", help="stop it")
    choice.add_argument(
        "--remove",
        action="store_true",
        help="remove the private servers, demo's and test's, and their libraries",
    )
    demo.set_defaults(call=command_demo)
    test = commands.add_parser(
        "test",
        help="the test suite; --quick leaves out what takes long; further arguments go to pytest",
    )
    test.set_defaults(call=command_test)
    for name, call, told in (
        ("install", command_install, "the extension into a database of a server on this machine"),
        ("upgrade", command_install, "the extension to the version of this checkout"),
        ("uninstall", command_uninstall, "drop it; its files too, when no database uses them"),
    ):
        each = commands.add_parser(name, help=told)
        each.add_argument("dsn", nargs="?", metavar="DSN", help="libpq connection string")
        each.add_argument("--into", metavar="DIR", help="where the libraries go (/opt/pyml)")
        each.set_defaults(call=call, schema=None)
        if call is command_install:
            each.add_argument("--python", metavar="PATH", help="the interpreter, if not found")
            each.add_argument("--gpu", action="store_true", help="TensorFlow with GPU support")
            each.add_argument(
                "--libraries",
                metavar="DIR",
                help="use the libraries of this environment in place (same Python, same lock file)",
            )
        if name == "install":
            each.add_argument("--schema", help="the schema to create it in")
    options, rest = parser.parse_known_args()
    if rest and options.command != "test":
        parser.error(f"unknown arguments: {shlex.join(rest)}")
    options.arguments = rest
    os.umask(0o022)
    try:
        return int(options.call(options))
    except Failure as failure:
        print(f"\nerror: {failure}", file=sys.stderr)
        if failure.fix:
            print(f"fix:   {failure.fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; running the same command again goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
