"""A fleet over three servers, behind the router of examples/plproxy."""

import json
import shutil
import subprocess
import sysconfig
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from installer.cluster import Cluster
from installer.extension import extension_files
from installer.postgres import find_postgres
from installer.process import Failure, write
from installer.suite import find_plproxy
from tests.stored import newest, put_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROLE = {"user": "api", "password": "secret"}
DEVICES = [f"00000000-0000-4000-8000-{n:012}" for n in range(4, 9)]  # some on each shard
UNKNOWN = "00000000-0000-4000-8000-999999999999"
ROWS = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT %s, jsonb_build_object('system', jsonb_build_object(
        'cpuUsage', round((30 + 12 * sin(i / 229.0) + i * 7919 %% 101 / 20.0)::numeric, 2),
        'memoryUsage', 7000 + i * 6271 %% 307, 'memoryTotal', 16320)),
    date_trunc('second', now() AT TIME ZONE 'UTC') - i * interval '1 minute'
FROM generate_series(1, 1500) AS i
"""
SHARD = """
CREATE EXTENSION pyml CASCADE;
UPDATE ml_setting SET value = '20' WHERE name = 'n_estimators';
UPDATE ml_setting SET value = '2' WHERE name = 'epochs';
UPDATE ml_setting SET value = '[]' WHERE name = 'forecast_fields';
SELECT ml_grant('api', 'train');
GRANT SELECT ON devices, device_shadow_history TO api;
"""


@dataclass
class Place:
    """A database of the sharded fleet."""

    host: Path
    name: str

    def connect(self, **other: str) -> psycopg.Connection:
        who = other or {"user": "postgres"}
        return psycopg.connect(host=str(self.host), dbname=self.name, autocommit=True, **who)

    def ask(self, statement: str, *values: object) -> list[tuple]:
        with self.connect() as conn:
            return conn.execute(statement, values or None).fetchall()


@dataclass
class Sharded:
    """The databases that hold the devices, and the one that stands for them."""

    shards: list[Place]
    router: Place

    def shard(self, device: str) -> Place:
        """Where whoever writes readings finds a device's place."""
        ((number,),) = self.router.ask("SELECT shard_of(%s)", device)
        return self.shards[number % len(self.shards)]

    def each(self, statement: str) -> list[list[tuple]]:
        """Every shard's answer."""
        return [shard.ask(statement) for shard in self.shards]


def route(sharded: Sharded, **role: str) -> None:
    """Run the router's file as its owner does."""
    shards = ", ".join(f"host={shard.host} dbname={shard.name}" for shard in sharded.shards)
    variables = [f"--set={name}={value}" for name, value in {"shards": shards, **role}.items()]
    dsn = f"host={sharded.router.host} dbname={sharded.router.name} user=postgres"
    done = subprocess.run(
        ["psql", "-X", "-d", dsn, *variables, "-f", ROOT / "examples/plproxy/router.sql"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def sharded() -> Iterator[Sharded]:
    postgres = find_postgres()
    try:
        find_plproxy(postgres)
    except Failure as failure:
        pytest.skip(f"{failure} ({failure.fix})")
    home = Path(tempfile.mkdtemp(prefix="pyml-", dir="/var/tmp"))
    home.chmod(0o755)
    clusters = [Cluster(home, f"shard{number}", postgres) for number in range(3)]
    try:
        for cluster in clusters:
            cluster.start()
            hba = cluster.data / "pg_hba.conf"
            hba.write_text("local all api scram-sha-256\n" + hba.read_text())
            cluster.control("reload")
            cluster.server().ask("CREATE ROLE api LOGIN PASSWORD 'secret'; CREATE DATABASE fleet")
        files = extension_files(Path(sysconfig.get_path("purelib")))
        for name, text in files.items():
            write(clusters[0].sharedir / "extension" / name, text)
        clusters[0].server().ask("CREATE DATABASE router")
        shards = [Place(cluster.run, "fleet") for cluster in clusters]
        made = Sharded(shards, Place(clusters[0].run, "router"))
        for shard in shards:
            with shard.connect() as conn:
                conn.execute((ROOT / "demo/history.sql").read_bytes())
                conn.execute(SHARD)
        route(made, role=ROLE["user"], password=ROLE["password"])
        for device in DEVICES:
            with made.shard(device).connect() as conn:
                conn.execute("INSERT INTO devices VALUES (%s, 'test')", [device])
                conn.execute(ROWS, [device])
        with made.shard(DEVICES[0]).connect() as conn:
            put_model(conn, DEVICES[0], newest("lstm"))
        yield made
    finally:
        for cluster in filter(Cluster.is_running, clusters):
            cluster.control("stop", "-m", "immediate")
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def trained(sharded: Sharded) -> Sharded:
    """Trained and scanned on every shard at once, as each one's schedule does."""

    def work(shard: Place) -> None:
        with shard.connect() as conn:
            conn.execute("CALL ml_retrain()")
            conn.execute("CALL ml_scan()")

    with ThreadPoolExecutor(len(sharded.shards)) as pool:
        list(pool.map(work, sharded.shards))
    return sharded


@pytest.fixture
def client(sharded: Sharded) -> Iterator[psycopg.Connection]:
    """The router, as the API server's role sees it."""
    with sharded.router.connect(**ROLE) as conn:
        yield conn


def test_each_shard_trains_its_own_devices(trained: Sharded) -> None:
    held = trained.each("SELECT device_uuid::text FROM ml_models WHERE kind = 'forest' ORDER BY 1")
    expected = [
        [(device,) for device in DEVICES if trained.shard(device) is shard]
        for shard in trained.shards
    ]
    assert held == expected
    assert all(held)


@pytest.mark.parametrize(
    "call",
    [
        "SELECT * FROM ml_score(%s, '{since}', '{until}')",
        "SELECT * FROM ml_predict(%s, 'system.cpuUsage', level => 0.8, as_of => '{until}')",
        "SELECT ml_forecast(%s) #- '{{model_info,last_reading_age_seconds}}'",
        "SELECT ml_model_info(%s)",
        "SELECT * FROM ml_zscore(%s, 'cpu_usage', hours => 9000)",
    ],
)
def test_a_function_answers_as_on_the_devices_shard(
    trained: Sharded, client: psycopg.Connection, call: str
) -> None:
    ((since, until),) = trained.shards[0].ask("SELECT now() - interval '3 hours', now()")
    statement = call.format(since=since, until=until)
    answer = client.execute(statement, [DEVICES[0]]).fetchall()
    assert answer
    assert answer == trained.shard(DEVICES[0]).ask(statement, DEVICES[0])


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_is_found(trained: Sharded, client: psycopg.Connection, device: str) -> None:
    (found,) = client.execute("SELECT ml_detect(%s, hours => 9000)", [device]).fetchone()
    assert (found["device_uuid"], found["analyzed_points"]) == (device, 1500)


def test_a_refusal_keeps_its_code_and_its_hint(client: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        client.execute("SELECT ml_detect(%s)", [UNKNOWN])
    said = caught.value.diag
    assert said.sqlstate == "ML002"
    assert said.message_hint.endswith(f"SELECT public.ml_train_forest('{UNKNOWN}');")


def test_training_through_the_router_stays_on_the_shard(
    trained: Sharded, client: psycopg.Connection
) -> None:
    models = "SELECT device_uuid::text, count(*) FROM ml_model GROUP BY 1 ORDER BY 1"
    before = [dict(rows) for rows in trained.each(models)]
    client.execute("SELECT ml_train_forest(%s)", [DEVICES[1]])
    holder = trained.shards.index(trained.shard(DEVICES[1]))
    before[holder][DEVICES[1]] *= 2  # a forest and its finders
    assert [dict(rows) for rows in trained.each(models)] == before


def test_views_hold_every_shards_rows(trained: Sharded, client: psycopg.Connection) -> None:
    views = trained.shards[0].ask(
        "SELECT c.relname, array_agg((a.attname, a.atttypid::regtype)::text ORDER BY a.attnum)"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relkind = 'v' AND c.relname ~ '^ml_' GROUP BY 1"
    )
    assert len(views) >= 9
    for view, columns in views:
        gathered = client.execute(f"SELECT * FROM {view}")
        kinds = [psycopg.postgres.types[column.type_code] for column in gathered.description]
        told = [
            f"({column.name},{kind.regtype}{'[]' * (column.type_code == kind.array_oid)})"
            for column, kind in zip(gathered.description, kinds, strict=True)
        ]
        assert told == [column.replace('"', "") for column in columns], view
        if view != "ml_fleet_health":
            rows = [row for rows in trained.each(f"SELECT * FROM {view}") for row in rows]
            assert sorted(map(str, gathered.fetchall())) == sorted(map(str, rows)), view
    status = client.execute("SELECT device_uuid::text FROM ml_device_status ORDER BY 1").fetchall()
    assert status == [(device,) for device in DEVICES]


def test_the_fleet_in_one_row(trained: Sharded, client: psycopg.Connection) -> None:
    row = client.execute("SELECT to_jsonb(h) FROM ml_fleet_health h").fetchone()[0]
    parts = [rows[0][0] for rows in trained.each("SELECT to_jsonb(h) FROM ml_fleet_health h")]
    counts = {name for name, value in parts[0].items() if isinstance(value, int)}
    assert {name: row[name] for name in counts} == {
        name: sum(part[name] for part in parts) for name in counts
    }
    assert (row["devices"], row["without_model"]) == (len(DEVICES), 0)
    assert row["oldest_scan_at"] == min(part["oldest_scan_at"] for part in parts)
    assert row["last_reading_at"] == max(part["last_reading_at"] for part in parts)


@pytest.mark.parametrize("since", ["'2020-01-01'", "(SELECT now() - interval '1 day')"])
def test_a_views_condition_travels_to_the_shards(client: psycopg.Connection, since: str) -> None:
    plan = client.execute(
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM ml_incidents"
        f" WHERE device_uuid = '{DEVICES[0]}' AND started_at > {since}"
    ).fetchall()
    sent = [line for (line,) in plan if "Remote SQL" in line]
    assert len(sent) == 3
    assert all("device_uuid = " in line and "started_at > " in line for line in sent)


def test_the_api_server_asks_the_router(trained: Sharded, serve: Callable[..., object]) -> None:
    def get(path: str) -> dict:
        with urllib.request.urlopen(address + path) as answer:
            return json.load(answer)

    where = {"PGHOST": str(trained.router.host), "PGDATABASE": trained.router.name}
    with serve(**where, PGUSER=ROLE["user"], PGPASSWORD=ROLE["password"]) as address:
        fleet = get("/devices")
        assert sorted(device["device_uuid"] for device in fleet["devices"]) == DEVICES
        assert get("/fleet/health")["totalDevices"] == len(DEVICES)
        assert len(get(f"/fleet/sparks?device={DEVICES[0]}")["sparks"]) <= 1
        held = trained.each("SELECT count(*) FROM ml_incidents")
        for query in ("", "?folded=true"):
            incidents = get(f"/incidents{query}")
            assert len(incidents["incidents"]) == sum(number for ((number,),) in held)
            assert not incidents["may_act"]  # an incident's number is one of each shard's own
        assert get(f"/devices/{DEVICES[0]}")["device"]["device_uuid"] == DEVICES[0]
        values = get(f"/devices/{DEVICES[0]}/twin/history?field=cpu_usage&hours=48&points=5000")
        assert len(values["points"]) == 1500
        assert values["forecast"]
        rows = trained.each("SELECT count(*) FROM ml_doctor()")
        assert len(get("/health")["checks"]) == sum(number for ((number,),) in rows)


def test_the_routers_role_may_do_what_it_may_on_the_shards(
    trained: Sharded, client: psycopg.Connection
) -> None:
    trained.each("SELECT ml_grant('api', 'read')")
    try:
        client.execute("SELECT ml_detect(%s)", [DEVICES[0]])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute("SELECT ml_train_forest(%s)", [DEVICES[0]])
    finally:
        trained.each("SELECT ml_grant('api', 'train')")
    with trained.router.connect() as conn:
        conn.execute("CREATE ROLE stranger")
        conn.execute("SET ROLE stranger")
        for statement in (f"SELECT ml_detect('{DEVICES[0]}')", "SELECT * FROM ml_fleet_health"):
            with pytest.raises(psycopg.Error):
                conn.execute(statement)
        conn.execute("RESET ROLE; DROP ROLE stranger")


def test_the_routers_file_may_run_again(trained: Sharded, client: psycopg.Connection) -> None:
    route(trained, role=ROLE["user"], password=ROLE["password"])
    client.execute("SELECT ml_detect(%s)", [DEVICES[0]])


def test_ml_doctor_speaks_for_all(client: psycopg.Connection) -> None:
    rows = client.execute("SELECT check_name, ok FROM ml_doctor() WHERE check_name = 'python'")
    assert rows.fetchall() == [("python", True)] * 3
