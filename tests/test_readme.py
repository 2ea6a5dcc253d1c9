"""What README.md and the pages of docs/ show is what happens, on the demo's own fleet.

A block that begins with ```sql run is run by psql, page by page, in the order of the page. If a
```text block follows it, the output has to be that, where … stands for anything. A block that
begins with ```sql ML001, or another code, has to end in the error of that code, with a HINT.
Blocks that begin with ```sql demo are for the whole fleet, a scan behind it, and are run in
tests/database/test_sample_fleet.py.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import textwrap

import psycopg
import pytest
import sample_fleet

from pyml import __version__, errors
from tests.pages import PAGES, ROOT, blocks, name, run

LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "examples").glob("*/README.md"))]
REFUSED = re.compile(r"^ *```sql (ML\d{3})\n(.*?)^ *```\n", re.M | re.S)
CODES = {each.sqlstate for each in errors.PymlError.__subclasses__() if each.sqlstate[:2] == "ML"}

# Two of the devices and one forecast are enough: an LSTM takes seconds to train.
DEVICES = sample_fleet.FLEET[:2]
FORECASTS = (
    "INSERT INTO ml_device_forecast SELECT uuid, '{}' FROM devices WHERE name <> 'web-paris'"
)
FUNCTIONS = """
SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
    AND d.classid = 'pg_proc'::regclass JOIN pg_extension e ON e.oid = d.refobjid
WHERE e.extname = 'pyml' AND p.proname LIKE 'ml\\_%'
"""


@pytest.fixture(autouse=True)
def _a_small_fleet(monkeypatch):
    monkeypatch.setattr(sample_fleet, "FLEET", DEVICES)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "run")], ids=name)
def test_the_statements_give_the_output_shown(page, db, dsn):
    sample_fleet.load(dsn, days=sample_fleet.DAYS if page == PAGES[0] else 2)
    db.execute(FORECASTS)
    if page != PAGES[0]:  # whose output shows what a whole training gives
        db.execute("UPDATE ml_setting SET value = '2' WHERE name = 'epochs'")
    run(page, "run", db.info)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if REFUSED.search(page.read_text())], ids=name
)
def test_the_statements_are_refused_as_shown(page, db, dsn):
    sample_fleet.load(dsn, days=1)
    for code, statement in REFUSED.findall(page.read_text()):
        with pytest.raises(psycopg.Error) as caught:
            db.execute(statement)
        assert caught.value.sqlstate == code, statement
        assert caught.value.diag.message_hint, statement


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_every_file_that_a_page_links_is_there(page):
    for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / path).exists(), path


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_every_function_is_in_the_documents(db):
    told = "".join(page.read_text() for page in PAGES)
    assert {name for (name,) in db.execute(FUNCTIONS) if f"{name}(" not in told} == set()


def test_every_error_code_has_its_entry_in_troubleshooting():
    found = re.findall(r"^### (ML\d{3})", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert found == sorted(CODES)


def test_the_release_recipe_records_what_is_shipped(tmp_path):
    for folder in ("pyml", "sql"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    told = (ROOT / "docs/releasing.md").read_text()
    recipe = textwrap.dedent(re.search(r"^ *```python\n(.*?)^ *```", told, re.M | re.S)[1])
    subprocess.run([sys.executable, "-c", recipe], cwd=tmp_path, check=True)
    shipped = json.loads((tmp_path / "sql/releases.json").read_text())[__version__]
    files = sorted((ROOT / "sql/migrations").iterdir())
    assert list(shipped) == [file.name for file in files]
    assert shipped[files[0].name] == hashlib.sha256(files[0].read_bytes()).hexdigest()
