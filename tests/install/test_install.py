"""install, upgrade and uninstall on real servers, by root and by an ordinary user."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from installer.uninstall import releases_in

from .conftest import Person, checkout

pytestmark = pytest.mark.server

VERSION = re.search(
    r'__version__ = "(.+)"', (Path(__file__).parents[2] / "pyml/__init__.py").read_text()
)[1]
EXTENSIONS = "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension"
INSTALLED = "SELECT extversion FROM pg_extension WHERE extname = 'pyml'"


def failed(done: subprocess.CompletedProcess, wrong: str, fix: str) -> None:
    """Assert that a run failed as a user should see it."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    error, _, hint = done.stderr.partition("error: ")[2].partition("fix:")
    assert wrong in error
    assert fix in hint


# A user's files and rights are looked at by test_uninstall_finds_out_about_permissions_first.
@pytest.fixture(params=["admin", pytest.param("user", marks=pytest.mark.long)])
def person(request: pytest.FixtureRequest) -> Person:
    """Each kind of person, with nothing installed."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(person: Person, libraries: str) -> list[str]:
    return ["--into", str(person.home / "opt"), "--libraries", libraries]


@pytest.fixture
def clean(person: Person) -> Iterator[None]:
    """Check that a test left nothing behind."""
    assert person.files() == set()
    yield
    assert person.files() == set()


@pytest.mark.usefixtures("clean")
def test_install_again_and_uninstall(person: Person, place: list[str]) -> None:
    person.sql("CREATE TABLE kept AS SELECT 1 AS x")
    first = person.run("install", person.dsn, *place)
    assert first.returncode == 0, first.stderr
    assert f"pyml {VERSION} in database postgres" in first.stdout
    assert re.search(r"ok +python ", first.stdout)
    assert re.search(r"ok +libraries ", first.stdout)
    assert "relation" not in first.stdout.lower()
    for step in ("CALL public.ml_retrain();", "CALL public.ml_scan();", "public.ml_schedule();"):
        assert step in first.stdout
    assert person.sql(INSTALLED) == VERSION

    before = {path: path.stat().st_mtime_ns for path in person.files()}
    second = person.run("install", person.dsn, *place)
    assert second.returncode == 0, second.stderr
    assert "nothing had to be done" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in person.files()} == before

    other = person.dsn.replace("/postgres?", "/other?")
    person.sql("CREATE DATABASE other")
    assert person.run("install", other, *place, "--schema", "ml").returncode == 0
    told = len(re.findall(r"^  (?:ok|NO)  ", first.stdout, re.M))
    assert person.sql("SELECT count(*) FROM ml.ml_doctor()", "other") == str(told)

    # A copy, as a restored dump, uses the files too, though nobody has installed it there.
    copied = """it's "other" """
    person.sql("CREATE DATABASE " + '"' + copied.replace('"', '""') + '" TEMPLATE other')
    into = place[:2]
    gone = person.run("uninstall", person.dsn, *into, "--yes")
    assert gone.returncode == 0, gone.stderr
    assert re.search(rf"used by {copied} of \d+, other of \d+\n", gone.stderr)
    assert person.sql(INSTALLED) == ""
    assert person.sql(INSTALLED, "other") == VERSION
    last = person.run("uninstall", other, *into, "--yes")
    assert re.search(rf"used by {copied} of \d+\n", last.stderr)
    person.sql("DROP DATABASE " + '"' + copied.replace('"', '""') + '"')
    assert person.run("uninstall", other, *into, "--yes").returncode == 0
    assert person.sql("SELECT x FROM kept") == "1"
    person.sql("DROP TABLE kept")
    person.sql("DROP DATABASE other")


HISTORY = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %s, jsonb_build_object('system', jsonb_build_object('cpuUsage', i * 7919 %% 101)),
       date_trunc('second', now() AT TIME ZONE 'UTC') - i * interval '1 minute'
FROM generate_series(0, 600) AS i
"""


@pytest.fixture
def releases(admin: Person) -> Iterator[tuple[Path, Path]]:
    """A checkout of release 1.0.0 and one of 1.1.0, which adds a migration."""
    old, new = (checkout(admin.home / name) for name in ("old", "new"))
    for place, number in ((old, "1.0.0"), (new, "1.1.0")):
        (place / "pyml/__init__.py").write_text(f'__version__ = "{number}"\n')
    shipped = sorted((old / "sql/migrations").glob("*.sql"))
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped}
    (new / "sql/releases.json").write_text(json.dumps({"1.0.0": hashes}))
    (new / "sql/migrations/900_create_extra.sql").write_text("CREATE TABLE ml_extra (x int);\n")
    yield old, new
    for place in (old, new):
        shutil.rmtree(place)


# Everything that a user of the extension meets, whatever the numbers of its objects.
CATALOGUE = """
SELECT string_agg(line, chr(10) ORDER BY line COLLATE "C") FROM (
    SELECT pg_get_functiondef(p.oid) || coalesce(obj_description(p.oid, 'pg_proc'), '') AS line
    FROM members m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
    UNION ALL
    SELECT concat_ws(' ', c.relname, c.relkind, c.reloptions, obj_description(c.oid, 'pg_class'),
        (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
             a.attnotnull, a.attidentity, pg_get_expr(f.adbin, f.adrelid),
             col_description(c.oid, a.attnum)), ', ' ORDER BY a.attnum)
         FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = c.oid AND f.adnum = a.attnum
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname)
         FROM pg_constraint k WHERE k.conrelid = c.oid),
        (SELECT string_agg(pg_get_indexdef(i.indexrelid), ', '
             ORDER BY pg_get_indexdef(i.indexrelid))
         FROM pg_index i WHERE i.indrelid = c.oid),
        (SELECT string_agg(pg_get_triggerdef(t.oid), ', ' ORDER BY t.tgname)
         FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal),
        CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END,
        c.oid = ANY (SELECT unnest(e.extconfig) FROM pg_extension e WHERE e.extname = 'pyml'))
    FROM members m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
    UNION ALL
    SELECT concat_ws(' ', name, kind, minimum, maximum, default_value, meaning) FROM ml_setting
    UNION ALL
    SELECT ml_metric::text FROM ml_metric
) AS lines
"""
MEMBERS = """
WITH members AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pyml'))
"""
STATEMENTS = (
    "SELECT ml_detect('{device}')",
    "SELECT * FROM ml_score('{device}', now() - interval '1 hour', now())",
    "SELECT ml_forecast('{device}')",
    "SELECT * FROM ml_predict('{device}', 'system.cpuUsage')",
    "SELECT ml_train_forest('{device}')",
    "SELECT ml_train_lstm('{device}')",
    "CALL ml_scan()",
)


def refused_upgrades(admin: Person, old: Path, new: Path, place: list[str]) -> None:
    """What may not be done with a database of 1.0.0 is refused, and changes nothing."""
    files = admin.files()
    again = admin.run("install", admin.dsn, *place, checkout=new)
    failed(again, "has pyml 1.0.0", f"--into {place[1]}")
    releases, first = new / "sql/releases.json", min((new / "sql/migrations").glob("*.sql"))
    for path, text, wrong, fix in (
        (releases, "{}", "no way from", "releases.json"),
        (first, first.read_text() + "-- changed\n", "release 1.0.0 has shipped", "git"),
    ):
        kept = path.read_text()
        path.write_text(text)
        failed(admin.run("upgrade", admin.dsn, *place, checkout=new), wrong, fix)
        path.write_text(kept)
    assert admin.files() == files


def test_upgrade_with_data_in_place(
    admin: Person, libraries: str, releases: tuple[Path, Path]
) -> None:
    old, new = releases
    into = ["--into", str(admin.home / "opt")]
    place = [*into, "--libraries", libraries]
    failed(admin.run("upgrade", admin.dsn, *into, checkout=old), "no pyml to upgrade", "install.py")
    assert admin.run("install", admin.dsn, *place, checkout=old).returncode == 0
    refused_upgrades(admin, old, new, place)
    with psycopg.connect(admin.dsn, autocommit=True) as held:
        held.execute((old / "demo/history.sql").read_bytes())
        device = held.execute(
            "INSERT INTO devices VALUES (gen_random_uuid(), 'kept') RETURNING uuid::text"
        ).fetchone()[0]
        held.execute(HISTORY, [device])
        held.execute("UPDATE ml_setting SET value = '0.02' WHERE name = 'contamination'")
        held.execute("CREATE ROLE reader LOGIN; SELECT ml_grant('reader', 'read')")
        held.execute("GRANT SELECT ON device_shadow_history TO reader")
        held.execute("SELECT ml_train_forest(%s)", [device])
        asked = "SELECT ml_detect(%s)"
        before = held.execute(asked, [device]).fetchone()

        upgraded = admin.run("upgrade", admin.dsn, *place, checkout=new)
        assert upgraded.returncode == 0, upgraded.stderr
        assert "reconnect" in upgraded.stderr
        assert admin.sql(INSTALLED) == "1.1.0"

        # The session that holds the old code says so, whatever it calls; others go on.
        for statement in STATEMENTS:
            with pytest.raises(psycopg.Error) as caught:
                held.execute(statement.format(device=device))
            said = caught.value.diag
            assert said.sqlstate == "ML006", said.message_primary
            assert "1.0.0" in said.message_primary
            assert "1.1.0" in said.message_primary
            assert said.message_hint.startswith("Reconnect")
            assert "Traceback" not in (said.context or "")
        detail = "SELECT ok, detail FROM ml_doctor() WHERE check_name = 'python'"
        assert held.execute(detail).fetchone()[0] is False
    assert "1.1.0" in admin.sql("SELECT detail FROM ml_doctor() WHERE check_name = 'python'")
    setting = "SELECT value::float8 FROM ml_setting WHERE name = 'contamination'"
    assert admin.sql(setting) == "0.02"
    with psycopg.connect(admin.dsn, user="reader", autocommit=True) as reader:
        assert reader.execute(asked, [device]).fetchone() == before
        # What a release adds is given to those who had a level before.
        assert reader.execute("SELECT count(*) FROM ml_extra").fetchone() == (0,)
    dumped = subprocess.run(["pg_dump", "-s", admin.dsn], capture_output=True, text=True).stdout
    assert re.search(r"GRANT ALL ON FUNCTION public.ml_detect\(.*\) TO reader", dumped)

    admin.sql("CREATE DATABASE fresh")
    fresh = admin.dsn.replace("/postgres?", "/fresh?")
    assert admin.run("install", fresh, *place, checkout=new).returncode == 0
    with psycopg.connect(admin.dsn) as one, psycopg.connect(fresh) as other:
        found, expected = (db.execute(MEMBERS + CATALOGUE).fetchone()[0] for db in (one, other))
    assert found.splitlines() == expected.splitlines()

    assert admin.run("uninstall", fresh, *into, "--yes", checkout=new).returncode == 0
    assert admin.run("uninstall", admin.dsn, *into, "--yes", checkout=new).returncode == 0
    admin.sql("DROP DATABASE fresh")
    admin.sql("DROP OWNED BY reader; DROP ROLE reader; DROP TABLE device_shadow_history, devices")
    assert admin.files() == set()


def test_a_remote_server_is_refused_unasked(admin: Person) -> None:
    # An address for documentation: nothing is there, and nothing is sent.
    for dsn in ("host=192.0.2.1 dbname=fleet", "postgresql://u@192.0.2.1:5433/fleet"):
        failed(admin.run("install", dsn), "192.0.2.1 is another machine", "on 192.0.2.1: python3")


def test_no_server_and_no_superuser(admin: Person, libraries: str) -> None:
    failed(admin.run("install", f"host={admin.home} dbname=x"), "No such file", "pg_lsclusters")
    admin.sql("CREATE ROLE plain LOGIN")
    dsn = admin.dsn.replace("user=postgres", "user=plain")
    failed(admin.run("install", dsn), "plain is no superuser", "user=postgres")
    admin.sql("DROP ROLE plain")
    assert admin.files() == set()


def test_an_unwritable_directory(user: Person, libraries: str) -> None:
    done = user.run("install", user.dsn, "--into", "/opt/pyml-test", "--libraries", libraries)
    failed(done, "cannot make /opt/pyml-test", "sudo python3")
    directory = user.extension
    directory.chmod(0o555)
    done = user.run("install", user.dsn, "--into", str(user.home / "opt"), "--libraries", libraries)
    directory.chmod(0o755)
    failed(done, f"cannot write in {directory}", "sudo python3")
    assert user.files() == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="the server runs as the same user")
def test_a_directory_that_the_server_cannot_read(admin: Person, libraries: str) -> None:
    closed = admin.home / "closed"
    closed.mkdir(mode=0o700)
    done = admin.run("install", admin.dsn, "--into", str(closed / "opt"), "--libraries", libraries)
    failed(done, "the server cannot read", "--into")
    assert list(closed.iterdir()) == []
    assert admin.files() == set()


def test_a_server_without_plpython(admin: Person, libraries: str) -> None:
    control = admin.extension / "plpython3u.control"
    target = control.readlink()
    control.unlink()
    done = admin.run(
        "install", admin.dsn, "--into", str(admin.home / "opt"), "--libraries", libraries
    )
    control.symlink_to(target)
    failed(done, "no PL/Python", "apt-get install postgresql-plpython3-")
    assert admin.files() == set()


def test_a_python_that_is_not_the_servers(admin: Person, libraries: str) -> None:
    into = ["--into", str(admin.home / "opt"), "--libraries", libraries]
    failed(admin.run("install", admin.dsn, *into, "--python", "/bin/true"), "no Python", "--python")
    found = [
        *Path("/usr/bin").glob("python3.*"),
        *Path.home().glob(".pyenv/versions/3.*/bin/python"),
    ]
    minor = re.compile(rf"3\.{sys.version_info.minor}\b|config")
    others = [path for path in found if not minor.search(str(path))]
    if not others:
        pytest.skip("there is one version of Python only on this machine")
    done = admin.run("install", admin.dsn, *into, "--python", str(others[0]))
    failed(done, "but the server's PL/Python runs", "--python")
    assert admin.files() == set()


def test_a_failing_script_leaves_nothing(admin: Person, libraries: str) -> None:
    before = admin.sql(EXTENSIONS)
    broken = checkout(admin.home / "broken")
    with open(broken / "sql/views.sql", "a") as handle:
        handle.write("SELECT 1 / 0;\n")
    into = ["--into", str(admin.home / "opt"), "--libraries", libraries]
    failed(admin.run("install", admin.dsn, *into, checkout=broken), "division by zero", "")
    assert admin.files() == set()
    assert admin.sql(EXTENSIONS) == before


# ---- what uninstall takes along ------------------------------------------------------


@pytest.fixture
def lived_in(admin: Person, libraries: str) -> Iterator[list[str]]:
    """A database with something to lose; gives the options of its place."""
    place = ["--into", str(admin.home / "opt")]
    done = admin.run("install", admin.dsn, *place, "--libraries", libraries)
    assert done.returncode == 0, done.stderr
    admin.sql("UPDATE ml_setting SET value = '0.02' WHERE name = 'contamination'")
    admin.sql("INSERT INTO ml_metric (name, path) VALUES ('mine', 'a.b'), ('other', 'a.c')")
    admin.sql("INSERT INTO ml_quiet (starts_at, ends_at) VALUES (now(), now() + interval '1 day')")
    yield place
    assert admin.run("uninstall", admin.dsn, *place, "--yes").returncode == 0
    assert admin.files() == set()


LOST = (
    "0 models, 0 logged anomalies, 0 findings, 0 incidents, 0 rules, 1 quiet windows, "
    "1 changed settings, 2 metrics of your own"
)


def test_the_tenth_release_is_newer_than_the_ninth(tmp_path: Path) -> None:
    for release in ("1.10.0", "1.9.0", "1.9.0--1.10.0"):
        (tmp_path / f"pyml--{release}.sql").touch()
    assert releases_in(tmp_path) == ["1.9.0", "1.10.0"]


def test_uninstall_asks_first(admin: Person, lived_in: list[str]) -> None:
    files = admin.files()
    cron = (admin.extension / "pg_cron.control").exists()
    if cron:
        admin.sql("CREATE EXTENSION pg_cron")
        admin.sql("SELECT ml_schedule()")
    done = admin.run("uninstall", admin.dsn, *lived_in)
    failed(done, "nothing was dropped", "--yes")
    assert LOST in done.stderr
    assert admin.sql(INSTALLED) == VERSION
    assert admin.files() == files
    for answer in ("n", "", "y"):
        done = uninstall_at_a_terminal(admin, lived_in, answer)
        assert "Drop it? [y/N]" in done.stderr
        assert LOST in done.stderr
        assert done.returncode == (answer != "y")
        assert admin.sql(INSTALLED) == ("" if answer == "y" else VERSION)
        if cron:
            assert admin.sql("SELECT count(*) FROM cron.job") == ("0" if answer == "y" else "2")
    if cron:
        admin.sql("DROP EXTENSION pg_cron")


def uninstall_at_a_terminal(
    admin: Person, place: list[str], answer: str
) -> subprocess.CompletedProcess:
    """What it says to a person who gives an answer."""
    ours, theirs = os.openpty()
    os.write(ours, f"{answer}\n".encode())
    command = [sys._base_executable, admin.checkout / "install.py", "uninstall", admin.dsn]
    done = subprocess.run([*command, *place], stdin=theirs, capture_output=True, text=True)
    os.close(ours)
    os.close(theirs)
    return done


def test_uninstall_finds_out_about_permissions_first(user: Person, libraries: str) -> None:
    place = ["--into", str(user.home / "opt")]
    assert user.run("install", user.dsn, *place, "--libraries", libraries).returncode == 0
    files = user.files()
    for directory in (user.extension, user.home / "opt", user.home / "opt" / VERSION):
        directory.chmod(0o555)
        done = user.run("uninstall", user.dsn, *place, "--yes")
        directory.chmod(0o755)
        failed(done, f"nothing was dropped: no right to write in {directory}", "sudo python3")
        assert user.sql(INSTALLED) == VERSION
        assert user.files() == files
    assert user.run("uninstall", user.dsn, *place, "--yes").returncode == 0
    assert user.files() == set()


def test_a_database_that_does_not_exist(admin: Person) -> None:
    dsn = admin.dsn.replace("/postgres?", "/absent?")
    for command, program in (("uninstall", "psql"), ("install", "createdb")):
        done = admin.run(command, dsn)
        failed(done, 'database "absent" does not exist', program)
        fix = done.stderr.partition("fix:")[2].strip()
        followed = subprocess.run(fix, shell=True, capture_output=True, text=True)
        assert followed.returncode == 0, followed.stderr
    admin.sql("DROP DATABASE absent")


def test_where_pg_cron_is_missing_its_package_comes_first(
    admin: Person, lived_in: list[str]
) -> None:
    """To preload what is not there would keep the server from starting."""
    control = admin.extension / "pg_cron.control"
    if not control.exists():
        pytest.skip("this machine has no pg_cron")
    admin.sql("ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'")
    admin.control("stop")
    admin.control("start")
    target = control.readlink()
    control.unlink()
    fix = admin.sql("SELECT fix FROM ml_doctor() WHERE check_name = 'pg_cron'")
    control.symlink_to(target)
    admin.sql("ALTER SYSTEM RESET shared_preload_libraries")
    admin.control("stop")
    admin.control("start")
    assert re.fullmatch(r"sudo apt-get install postgresql-\d+-cron", fix)


SERVERS = {  # what is given, and what createdb is told then
    "": "",
    "absent": "",
    "postgresql:///absent": "",
    "postgresql:///absent?host=/run/x": "--maintenance-db 'postgresql:///postgres?host=/run/x' ",
    "postgresql://me@localhost:5433/absent": (
        "--maintenance-db postgresql://me@localhost:5433/postgres "
    ),
    "postgresql://localhost": "--maintenance-db postgresql://localhost/postgres ",
    "host=/run/x dbname=absent": "--maintenance-db 'host=/run/x dbname=absent dbname=postgres' ",
}


@pytest.mark.parametrize("dsn", SERVERS)
def test_a_database_is_made_where_it_is_looked_for(admin: Person, dsn: str) -> None:
    ask = (
        "import sys; sys.path.insert(0, sys.argv[1]); from installer import reach;"
        "reach.IS_ROOT = False;"
        "print(reach.on_the_same_server(['createdb', 'absent'], sys.argv[2]))"
    )
    assert admin.python("-c", ask, admin.checkout, dsn).stdout == f"createdb {SERVERS[dsn]}absent\n"
