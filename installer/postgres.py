"""PostgreSQL: finding an installation, and talking to a server through psql."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from installer.debian import apt_candidate, apt_install
from installer.process import IS_ROOT, Failure, run


class Postgres:
    """A PostgreSQL installation: where its programs and files are."""

    def __init__(self, bindir: Path) -> None:
        self.bindir = bindir
        found = run([bindir / "pg_config", "--sharedir", "--pkglibdir", "--version"]).splitlines()
        self.sharedir, self.pkglibdir = Path(found[0]), Path(found[1])
        self.major = re.findall(r"\d+", found[2])[0]

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
