"""Real servers to install on: private clusters, each with an extension directory of its own."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("install.py", "installer", "pyproject.toml", "requirements*.lock", "pyml", "sql", "demo")


@dataclass
class Person:
    """Somebody who runs install.py: an account, a checkout and a server of their own."""

    name: str
    home: Path
    checkout: Path
    dsn: str = ""

    def run(self, *arguments: str, checkout: Path | None = None) -> subprocess.CompletedProcess:
        """Run install.py as they would."""
        script = (checkout or self.checkout) / "install.py"
        return self.python(script, *arguments)

    def python(self, *arguments: str | Path) -> subprocess.CompletedProcess:
        """Run the machine's own Python under their account."""
        account = pwd.getpwnam(self.name)
        other = account.pw_uid != os.geteuid()
        return subprocess.run(
            [sys._base_executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
            **({"user": account.pw_uid, "group": account.pw_gid} if other else {}),
            **({"extra_groups": []} if other else {}),
        )

    def control(self, what: str) -> str:
        """Start or stop their server; gives how to connect to it."""
        done = self.python("-c", START, self.checkout, self.home, what)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Ask their server."""
        dsn = self.dsn.replace("/postgres?", f"/{database}?")
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def extension(self) -> Path:
        """The server's extension directory."""
        return Path(self.sql("SELECT setting FROM pg_config WHERE name = 'SHAREDIR'"), "extension")

    def files(self) -> set[Path]:
        """Everything of pyml that lies on the disk, outside the checkout."""
        placed = [*self.extension.glob("pyml*"), *self.home.glob("opt/*")]
        return {path for path in placed if not path.name.startswith(".")}


START = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from installer.cluster import Cluster
from installer.postgres import find_postgres
cluster = Cluster(Path(sys.argv[2]), "server", find_postgres())
getattr(cluster, sys.argv[3])()
print(cluster.dsn("postgres"))
"""


def checkout(place: Path) -> Path:
    """Copy what a release holds, and no more."""
    place.mkdir()
    for pattern in SHIPPED:
        for path in ROOT.glob(pattern):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, place / path.name)
    return place


@pytest.fixture(scope="session")
def libraries() -> str:
    """The environment that runs these tests: its libraries need no second download."""
    return sys.prefix


@pytest.fixture(scope="session")
def settle() -> Iterator[Callable[[str], Person]]:
    """Give an account a home, a checkout and a running server."""
    people = []

    def settle(name: str) -> Person:
        # Not pytest's own folder, which another account could not enter.
        home = Path(tempfile.mkdtemp(prefix="pyml-", dir="/var/tmp"))
        home.chmod(0o755)
        person = Person(name, home, checkout(home / "checkout"))
        if os.geteuid() == 0:
            shutil.chown(home, name)
        people.append(person)
        (home / "opt").mkdir()
        if os.geteuid() == 0:
            shutil.chown(home / "opt", name)
        person.dsn = person.control("start")
        return person

    yield settle
    for person in people:
        person.control("stop")
        shutil.rmtree(person.home)


@pytest.fixture(scope="session")
def admin(settle: Callable[[str], Person]) -> Person:
    """Whoever runs the tests: root, in CI."""
    return settle(pwd.getpwuid(os.geteuid()).pw_name)


@pytest.fixture(scope="session")
def user(settle: Callable[[str], Person]) -> Person:
    """An ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("the user who runs the tests is an ordinary one already")
    return settle("nobody")
