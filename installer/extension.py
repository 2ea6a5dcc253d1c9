"""What is installed: the version, and the extension's files made of `sql/`."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from installer.api import expanded
from installer.process import HERE, Failure, digest


def version() -> str:
    """The version of the extension and of its package: one and the same."""
    found = re.search(r'^__version__ = "(.+)"', (HERE / "pyml/__init__.py").read_text(), re.M)
    if not found:
        raise Failure("pyml/__init__.py states no __version__")
    return found[1]


def sources() -> str:
    """A digest of everything that `install` puts on a server."""
    return digest(HERE / "pyml", HERE / "sql", HERE / "installer", HERE / "requirements.lock")


def functions() -> str:
    """The functions as they are created: `sql/functions.sql`, a file in the place of each line."""

    def included(line: re.Match[str]) -> str:
        return expanded((HERE / "sql" / line[1]).read_text())

    text = (HERE / "sql/functions.sql").read_text()
    return re.sub(r"^\\ir (\S+)$", included, text, flags=re.M)


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
    again = [functions(), (HERE / "sql/views.sql").read_text()]

    def script(parts: list[str], statement: str) -> str:
        guard = f'\\echo Use "{statement}" to load this file. \\quit\n'
        text = "\n".join([guard, *parts])
        for snippet in sorted((HERE / "sql/snippets").iterdir()):
            indented = snippet.read_text().rstrip("\n").replace("\n", "\n    ")
            text = text.replace(f"@PYML_{snippet.stem.upper()}@", indented)
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
