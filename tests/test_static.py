"""What can be known without running it: style, types, and who imports whom."""

import importlib
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = {
    "lint": ["-m", "ruff", "check"],
    "format": ["-m", "ruff", "format", "--check"],
    "types": ["-m", "mypy", "--strict", "pyml"],
    "imports": ["-c", "from importlinter.cli import lint_imports_command as main; main()"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_static(check: str) -> None:
    done = subprocess.run(
        [sys.executable, *CHECKS[check]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_backslash_in_a_functions_literal_means_itself_in_any_session() -> None:
    """What it means without E is up to standard_conforming_strings."""
    literals = re.compile(r"(E?)'((?:[^']|'')*)'")
    plain = [
        f"{file.name}: {line.strip()}"
        for file in sorted((ROOT / "sql/functions").glob("*.sql"))
        for line in file.read_text().splitlines()
        for e, text in literals.findall(line.partition("-- ")[0])
        if "\\" in text and not e
    ]
    assert plain == []


def test_what_the_bench_of_latency_watches_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names functions of the package; those of the server need one."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    phases = importlib.import_module("latency").PHASES
    names = [name for parts in phases.values() for some in parts.values() for name in some]
    for module, _, path in (name.partition(":") for name in names):
        if module.startswith("server."):
            assert f"def {path}(" in (ROOT / "pyml" / f"{module.replace('.', '/')}.py").read_text()
        else:
            assert callable(attrgetter(path)(importlib.import_module(f"pyml.{module}")))


def test_the_page_on_architecture_names_every_module() -> None:
    names = re.findall(r"`([^`\n]+)`", (ROOT / "docs/architecture.md").read_text())
    named = {name.removeprefix("pyml/").removesuffix(".py") for name in names}
    modules = {path.stem for path in (ROOT / "pyml").rglob("*.py")} - {"__init__"}
    assert modules <= named
