"""The README's statements give the output that it shows, on the demo's own fleet."""

import re
import subprocess
from pathlib import Path

import pytest
import sample_fleet

README = Path(__file__).parents[1] / "README.md"


def _block(kind: str) -> str:
    return re.search(rf"```{kind}\n(.*?)```", README.read_text(), re.DOTALL)[1]


def _loose(output: str) -> str:
    """Without the widths, which follow the longest value of a run."""
    return re.sub(r"-{2,}", "--", " ".join(output.split()))


@pytest.mark.slow
def test_the_statements_give_the_output_shown(db, dsn):
    sample_fleet.load(dsn)
    # psql's libpq may be older than psycopg's, and not know all that a DSN of its says.
    where = {"-h": db.info.host, "-p": str(db.info.port), "-U": db.info.user, "-d": db.info.dbname}
    ran = subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *sum(where.items(), ())],
        input="SET client_min_messages = warning;\n" + _block("sql"),
        capture_output=True,
        text=True,
        check=True,
    )
    shown = _loose(_block("text"))
    pattern = ".*?".join(re.escape(part) for part in shown.split("…"))
    assert re.fullmatch(pattern, _loose(ran.stdout)), ran.stdout


def test_every_file_that_it_names_is_there():
    for path in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / path).exists(), path
