"""The pages for people, and the statements on them, which psql runs as a reader would."""

import re
import subprocess
from pathlib import Path

import psycopg

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BETWEEN = "== next block =="


def name(page: Path) -> str:
    """How a page is called in a test's name."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, how: str) -> list[tuple[str, str]]:
    """The statements of blocks that begin with ```sql and a word, and the output shown for them."""
    pattern = rf"^ *```sql {how}\n(.*?)^ *```\n(?:\s*```text\n(.*?)^ *```\n)?"
    return re.findall(pattern, page.read_text(), re.M | re.S)


def _loose(output: str) -> str:
    """Without the widths, which follow the longest value of a run."""
    return re.sub(r"-{2,}", "--", " ".join(output.split()))


def run(page: Path, how: str, where: psycopg.ConnectionInfo) -> None:
    """Run a page's blocks by psql, in their order; their output has to be what is shown."""
    found = blocks(page, how)
    # psql's libpq may be older than psycopg's, and not know all that a DSN of its says.
    options = {"-h": where.host, "-p": str(where.port), "-U": where.user, "-d": where.dbname}
    ran = subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *sum(options.items(), ())],
        input="SET client_min_messages = warning;\n"
        + f"\n\\echo {BETWEEN}\n".join(statements for statements, _ in found),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    for (statements, shown), output in zip(found, ran.stdout.split(BETWEEN), strict=True):
        if shown:
            pattern = ".*?".join(re.escape(part) for part in _loose(shown).split("…"))
            assert re.fullmatch(pattern, _loose(output)), f"{statements}\ngives\n{output}"
