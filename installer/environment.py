"""The Python that matches the server's, and the environment with the libraries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from installer.debian import apt_install
from installer.postgres import Server, literal
from installer.process import (
    HERE,
    IS_ROOT,
    PLAIN_ENVIRONMENT,
    Failure,
    digest,
    privileged,
    run,
    run_reporting,
    say,
    write,
)

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
            answer = run([guess, "-I", "-c", probe], env=PLAIN_ENVIRONMENT)
        except Failure as failure:
            if "ensurepip" not in str(failure):
                continue
            apt_install([f"{name}-venv"], f"{guess} cannot make virtual environments")
            return find_python(server, wanted)
        if not answer.startswith("{"):  # a program, but no Python
            continue
        outside = json.loads(answer)
        if outside["abi"] == inside["abi"]:
            return Path(guess), series
        if wanted:
            version = ".".join(map(str, outside["version"]))
            raise Failure(
                f"{wanted} is Python {version}, but the server's PL/Python runs {series} "
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
        run_reporting(
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
