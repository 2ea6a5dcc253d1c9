"""How long each call takes, beside the bare SELECT of its rows and beside a web service.

    python bench/latency.py "$(python3 install.py demo --dsn)"

makes a database ``pyml_latency`` on that server (on this host, with pyml installed on it) and
fills it with 100 devices and 30 days of minutes: 4.3 million rows and all indexes, some
minutes the first time. The service (bench/service) runs in a virtual environment that
this makes beside the private servers, or in the temporary folder; ``--no-service`` leaves it
out. Nothing else is touched and nothing deleted afterwards.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
from fleet import memory
from timing import (
    Connection,
    database,
    fleet,
    on_cpu,
    percentiles,
    prepared,
    rounds,
    say,
    table,
)

from pyml.detectors import isolation
from pyml.forecasters import recurrent
from pyml.telemetry.habits import Habit
from pyml.telemetry.readings import lookback
from pyml.telemetry.series import Metric

SERVICE = Path(__file__).parent / "service"
PORT = 8753
EPOCHS = 50  # of the service's LSTM, as the settings ask
FIELD = "system.cpuUsage"
FIELDS = (
    *("cpuUsage", "memoryUsage", "memoryTotal", "diskUsage", "diskTotal", "temperature"),
)  # fmt: skip
# Readings, one a minute, that are read before a window to score and for a forecast.
COUNTER, MINUTES = Metric("a", "a", None, 1.0, "counter"), Habit(rhythm=60.0, hold=120.0)
SPARE = round(lookback([COUNTER], [MINUTES], 60.0) / 60)
LOOKBACK = SPARE + round(isolation.Spans.of(60.0, isolation.PARAMETERS).lookback / 60)
REPLAYED = SPARE + 50 + 12 + recurrent.PARAMETERS.replay

# Where the time of a call goes: a stopwatch around functions of the package, in the backend.
WATCH = """
CREATE OR REPLACE FUNCTION pg_temp.watch(names text[]) RETURNS void LANGUAGE plpython3u AS $$
    import importlib, time
    spent = GD['bench'] = {}
    def watched(name, call):
        def timed(*args, **kwargs):
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0) + 1000 * (time.perf_counter() - started)
        return timed
    for name in names:
        module, path = name.split(':')
        owner = importlib.import_module('pyml.' + module)
        *within, last = path.split('.')
        for part in within:
            owner = getattr(owner, part)
        setattr(owner, last, watched(name, getattr(owner, last)))
$$;
CREATE OR REPLACE FUNCTION pg_temp.spent() RETURNS jsonb LANGUAGE plpython3u AS $$
    import json
    said = json.dumps(GD['bench'])
    GD['bench'].clear()
    return said
$$
"""


def bare(fields: tuple[str, ...] = FIELDS) -> str:
    """The SELECT that no call can do without: the fields of one device's last readings."""
    picks = ", ".join(f"reported_state -> 'system' ->> '{field}'" for field in fields)
    return (
        f'SELECT "timestamp", {picks} FROM device_shadow_history'
        " WHERE device_uuid = $1::uuid AND shadow_name = 'device-state'"
        " AND \"timestamp\" > (now() AT TIME ZONE 'UTC') - make_interval(mins => $2::int)"
        ' AND "timestamp" <= (now() AT TIME ZONE \'UTC\') ORDER BY "timestamp"'
    )


VIEWS = {
    "ml_anomalies, one device": "SELECT * FROM ml_anomalies WHERE device_uuid = $1::uuid",
    "ml_incidents, one device": "SELECT * FROM ml_incidents WHERE device_uuid = $1::uuid",
    "ml_forecasts, one device": "SELECT * FROM ml_forecasts WHERE device_uuid = $1::uuid",
    "ml_breaches, one device": "SELECT * FROM ml_breaches WHERE device_uuid = $1::uuid",
    "ml_models, one device": "SELECT * FROM ml_models WHERE device_uuid = $1::uuid",
    "ml_device_status, one": "SELECT * FROM ml_device_status WHERE device_uuid = $1::uuid",
    "ml_device_status, all": "SELECT * FROM ml_device_status WHERE $1::uuid IS NOT NULL",
    "ml_fleet_health": "SELECT * FROM ml_fleet_health WHERE $1::uuid IS NOT NULL",
    "ml_runs, last 20": "SELECT * FROM ml_runs WHERE $1::uuid IS NOT NULL LIMIT 20",
    "ml_jobs, last 20": "SELECT * FROM ml_jobs WHERE $1::uuid IS NOT NULL LIMIT 20",
}


# ---- the service ---------------------------------------------------------------


def service_python() -> Path:
    """The interpreter of the service's environment: this one's libraries and a few more."""
    place = Path(os.environ.get("PYML_HOME", tempfile.gettempdir())) / "bench-service"
    python = place / "bin/python"
    if not (place / "complete").exists():
        say(f"making the service's virtual environment in {place}")
        venv.create(place, clear=True, with_pip=True)
        (own,) = place.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        lock = str(SERVICE / "requirements.txt")
        command = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--require-hashes",
            "-r",
            lock,
        ]
        subprocess.run(command, check=True)
        (place / "complete").touch()
    return python


class Service:
    """The running service, over one connection that stays open."""

    def __init__(self, dsn: str) -> None:
        command = [service_python(), "-m", "uvicorn", "app:app", "--port", str(PORT)]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--log-level", "error", "--timeout-keep-alive", "3600"],
            cwd=SERVICE,
            env=os.environ | {"DSN": dsn, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self.http = http.client.HTTPConnection("127.0.0.1", PORT)

    def wait(self) -> float:
        """Seconds from its start until it answers."""
        while self.process.poll() is None:
            try:
                self.ask("GET", "openapi.json")
                return time.monotonic() - self.started
            except OSError:
                self.http.close()
                time.sleep(0.05)
        sys.exit("the service does not start")

    def ask(self, method: str, path: str, **parameters: object) -> Any:
        """An answer, read but not parsed."""
        query = "&".join(f"{name}={quote(str(value))}" for name, value in parameters.items())
        self.http.request(method, f"/{path}?{query}")
        answer = self.http.getresponse()
        said = answer.read()
        if answer.status != 200:
            sys.exit(f"the service: {said.decode()}")
        return said

    def memory(self) -> float:
        """Its private memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1024


@contextmanager
def serving(dsn: str) -> Iterator[Service]:
    """The service while it is needed."""
    service = Service(dsn)
    try:
        yield service
    finally:
        service.process.terminate()
        service.process.wait()


# ---- trainings -----------------------------------------------------------------

READ = ("telemetry.history:History.read",)
CLEAN = tuple(f"telemetry.window:{name}" for name in ("received", "learn", "assemble"))
STORE = ("server.store:put",)
PHASES = {
    "ml_train_forest": {
        "load scikit-learn": ("detectors.growing:load",),
        "read": READ,
        "prepare": (
            *CLEAN,
            *("forest:standardised", "forest:moves", "detectors.hours:learn"),
        ),
        "fit": ("detectors.growing:grow",),
        "limits": (
            "detectors.thresholds:Blocks.unseen_scores",
            "detectors.thresholds:Thresholds.of",
            "forest:_unseen_distances",
        ),
        "finders": ("training.detectors:Following.of",),
        "build": ("detectors.growing:path_lengths", "detectors.growing:numbers_of"),
        "store": STORE,
    },
    "ml_train_lstm": {
        "load TensorFlow": ("lstm:prepare",),
        "read": READ,
        "prepare": (*CLEAN, "training.forecasters:regular", "lstm:usual_of", "lstm:learn"),
        "fit": ("lstm:descend", "lstm:choose_ridge", "lstm:Paths.fitted"),
        "measure": ("lstm:measured", "lstm:_peaks"),
        "build": ("lstm:numbers_of", "forecasters.inference:runner"),
        "store": STORE,
    },
}


def train(conn: Connection, function: str, device: str, as_of: datetime) -> tuple[float, list[Any]]:
    """Seconds of a training, and the ms of each of its phases and of the rest."""
    started = time.monotonic()
    conn.execute(f"SELECT {function}(%s, as_of => %s)", [device, as_of])
    seconds = time.monotonic() - started
    spent = conn.execute("SELECT pg_temp.spent()").fetchone()[0]
    parts = [
        sum(spent.get(name, 0.0) for name in functions) for functions in PHASES[function].values()
    ]
    return seconds, [*parts, 1000 * seconds - sum(parts)]


def trainings(conn: Connection, device: str, as_of: datetime) -> dict[str, float]:
    """Train each model twice in a backend of its own; print where the time goes."""
    best = {}
    for function, phases in PHASES.items():
        with psycopg.connect(conn.info.dsn, autocommit=True) as own:
            own.execute(WATCH)
            own.execute("SELECT ml_doctor()")  # the package is loaded by whatever comes first
            names = [name for functions in phases.values() for name in functions]
            own.execute("SELECT pg_temp.watch(%s)", [names])
            lines = []
            for which in ("first in a session", "again"):
                seconds, parts = train(own, function, device, as_of)
                lines.append((f"{function}, {which}", seconds, *parts))
            best[function] = seconds
        table(
            ["training, 7 days", "s", *(f"{phase} ms" for phase in phases), "scoring, rest ms"],
            lines,
        )
    return best


def service_trainings(
    service: Service, device: str, as_of: datetime, epochs: int
) -> tuple[float, float]:
    """Seconds of the service's trainings on the same readings: its forest, `epochs` of its LSTM."""
    found = []
    for path, more in (("forest", {}), ("lstm", {"epochs": epochs})):
        say(f"the service trains its {path}")
        started = time.monotonic()
        service.ask("POST", f"{path}/{device}", as_of=as_of, **more)
        found.append(time.monotonic() - started)
    return found[0], found[1]


def forecast_errors(
    conn: Connection, service: Service, device: str, as_of: datetime
) -> tuple[float, float, float]:
    """Mean absolute error over the day after `as_of`, 12 steps from each of 60 origins.

    Of the last value repeated, of pyml and of the service.
    """
    column = "(reported_state #>> '{system,cpuUsage}')::float8"
    truth = np.array(
        conn.execute(
            f"SELECT {column} FROM device_shadow_history WHERE device_uuid = %s AND timestamp > %s"
            " ORDER BY timestamp LIMIT 1440",
            [device, as_of - timedelta(minutes=1)],
        ).fetchall()
    )[:, 0]
    errors = []
    for i in range(0, 1416, 24):
        origin = as_of + timedelta(minutes=i)
        said = service.ask("GET", f"forecast/{device}", as_of=origin)
        theirs = [step["predicted_value"] for step in json.loads(said)["predictions"]]
        ours = [
            row[0]
            for row in conn.execute(
                "SELECT predicted_value FROM ml_predict(%s, %s, as_of => %s AT TIME ZONE 'UTC')",
                [device, FIELD, origin],
            )
        ]
        came = truth[i + 1 : i + 13]
        errors.append([np.abs(came - said).mean() for said in (truth[i], ours, theirs)])
    last, ours, theirs = np.mean(errors, axis=0).tolist()
    return last, ours, theirs


# ---- calls ---------------------------------------------------------------------


def calls_of(conn: Connection, device: str) -> dict[str, tuple[str, Callable[[], object]]]:
    """Each call by its name: the name of its own bare SELECT, and what makes it."""

    def floor(minutes: int, fields: tuple[str, ...] = FIELDS) -> Callable[[], object]:
        return prepared(conn, bare(fields), device, minutes)

    day, week = "bare SELECT, 24 h", "bare SELECT, 168 h of one field"
    look, replay = f"bare SELECT, {1 + LOOKBACK} readings", f"bare SELECT, {REPLAYED} readings"
    one = (
        "SELECT * FROM ml_score($1::uuid, now() - interval '1 minute', now())",
        "SELECT ml_forecast($1::uuid)",
        "SELECT * FROM ml_predict($1::uuid, 'system.cpuUsage')",
        "SELECT ml_detect($1::uuid)",
        "SELECT * FROM ml_zscore($1::uuid, 'system.cpuUsage')",
    )
    score, ahead, predict, detect, zscore = (prepared(conn, sql, device) for sql in one)
    return {
        day: (day, floor(1440)),
        look: (look, floor(1 + LOOKBACK)),
        replay: (replay, floor(REPLAYED, ("cpuUsage", "memoryTotal", "diskTotal"))),
        week: (week, floor(10080, ("cpuUsage",))),
        "ml_detect, 24 h": (day, detect),
        "ml_score, one reading": (look, score),
        "ml_forecast": (replay, ahead),
        "ml_predict": (replay, predict),
        "ml_zscore, 168 h": (week, zscore),
        **{name: (day, prepared(conn, sql, device)) for name, sql in VIEWS.items()},
    }


def warm(
    conn: Connection, calls: dict[str, tuple[str, Callable[[], object]]], count: int
) -> dict[str, float]:
    """Each call in a session that has made it before; prints them and gives the medians."""
    for _ in range(6):  # the sixth execution of a prepared statement uses its lasting plan
        for _, call in calls.values():
            call()
    plain = {name: call for name, (_, call) in calls.items()}
    spent = rounds(plain, count, conn.info.backend_pid)
    wall, cpu = ({name: float(np.median(each[i])) for name, each in spent.items()} for i in (0, 1))
    table(
        ["warm, ms", "p50", "p95", "p99", "times bare", "CPU", "times bare's"],
        [
            (
                *(name, *percentiles(spent[name][0]), wall[name] / wall[floor]),
                *((cpu[name], cpu[name] / cpu[floor]) if cpu[name] else ("", "")),
            )
            for name, (floor, _) in calls.items()
        ],
    )
    return wall


FIRST = {
    "bare SELECT, 24 h": bare(),
    "ml_detect, 24 h": "SELECT ml_detect($1::uuid)",
    "ml_score, one reading": "SELECT * FROM ml_score($1::uuid, now() - interval '1 minute', now())",
    "ml_forecast": "SELECT ml_forecast($1::uuid)",
    "ml_zscore, 168 h": "SELECT * FROM ml_zscore($1::uuid, 'system.cpuUsage')",
}


def first(dsn: str, device: str, count: int) -> None:
    """The first call on a fresh connection, and what its backend has loaded and holds."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in FIRST}
    held: dict[str, list[float]] = {name: [] for name in FIRST}
    loaded = dict.fromkeys(FIRST, "")
    for _ in range(count):
        for name, sql in FIRST.items():
            with psycopg.connect(dsn, autocommit=True) as conn:
                pid = conn.info.backend_pid
                before, started = on_cpu(pid), time.perf_counter()
                call = prepared(conn, sql, *([device, 1440] if "$2" in sql else [device]))
                call()
                wall = 1000 * (time.perf_counter() - started)
                spent[name].append((wall, on_cpu(pid) - before))
                for _ in range(6):
                    call()
                held[name].append(memory(conn))
                maps = Path(f"/proc/{pid}/maps").read_text()
                loaded[name] = ", ".join(
                    library for library in ("numpy", "sklearn", "tensorflow") if library in maps
                )
    floor = float(np.median(held["bare SELECT, 24 h"]))
    table(
        ["first of a connection, ms", "p50", "p95", "p99", "CPU", "MB above bare", "loaded"],
        [
            (
                *(name, *percentiles(np.array(spent[name])[:, 0])),
                *(float(np.median(np.array(spent[name])[:, 1])),),
                *(float(np.median(held[name])) - floor, loaded[name]),
            )
            for name in FIRST
        ],
    )


def pgbench(dsn: str, devices: list[str], seconds: int) -> None:
    """Calls from 1, 4 and 16 connections at a time, for one device and for all of them."""
    binary = Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip(), "pgbench")
    lines = []
    for name, some in (
        ("bare SELECT, 24 h", devices),
        ("ml_detect, 24 h", devices[:1]),
        ("ml_detect, 24 h", devices),
        ("ml_forecast", devices[:1]),
        ("ml_forecast", devices),
    ):
        for clients in (1, 4, 16):
            with tempfile.TemporaryDirectory() as folder:
                scripts = []
                for device in some:  # pgbench picks one of its scripts for each transaction
                    asked = FIRST[name].replace("$1", f"'{device}'").replace("$2", "1440")
                    Path(folder, device).write_text(asked + ";\n")
                    scripts += ["-f", device]
                command = [
                    *(str(binary), "-n", "-M", "prepared", "-c", str(clients), "-T", str(seconds)),
                    *("-l", "--log-prefix=log", *scripts, dsn),
                ]
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
                logs = [np.loadtxt(log, usecols=2, ndmin=1) for log in Path(folder).glob("log.*")]
            spent = np.concatenate(logs) / 1000
            rate = len(spent) / seconds
            lines.append((name, len(some), clients, rate, *percentiles(spent)))
    table(["pgbench, ms", "devices", "connections", "a second", "p50", "p95", "p99"], lines)


def crowd(conn: Connection, device: str, count: int) -> None:
    """One backend scores for ever more devices: what it holds must not grow with them."""
    made = COPY_MODELS.format(
        devices="SELECT gen_random_uuid() AS uuid FROM generate_series(1, %s)"
    )
    strangers = list({row[0] for row in conn.execute(made, [count, device])})
    with psycopg.connect(conn.info.dsn, autocommit=True) as own:
        own.execute(FIRST["bare SELECT, 24 h"].replace("$1", "%s").replace("$2", "1440"), [device])
        floor = memory(own)
        lines = []
        for number, stranger in enumerate(strangers, 1):
            own.execute("SELECT * FROM ml_score(%s, now() - interval '1 hour', now())", [stranger])
            if number in (1, 10, 30, 100, 300, 1000, 3000, count):
                lines.append((number, memory(own) - floor))
    table(["devices scored by one backend", "MB above bare"], lines)
    conn.execute("DELETE FROM ml_model WHERE device_uuid = ANY(%s)", [strangers])


# A trained model given to other devices, for what depends on their number and not on their data.
COPY_MODELS = """
INSERT INTO ml_model (device_uuid, kind, field, is_current, window_start, window_end,
    readings_used, readings_rejected, parameters, figures, versions, seconds, sha256, blob)
SELECT d.uuid, m.kind, m.field, true, m.window_start, m.window_end, m.readings_used,
    m.readings_rejected, m.parameters, m.figures, m.versions, m.seconds, m.sha256, m.blob
FROM ml_model AS m, ({devices}) AS d WHERE m.device_uuid = %s AND m.is_current
RETURNING device_uuid
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("dsn", help="libpq connection string of a superuser's database")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each kind")
    parser.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        help="of the service's LSTM; with fewer than all, its time is given in proportion",
    )
    parser.add_argument("--no-service", action="store_true", help="leave the web service out")
    given = parser.parse_args()
    dsn = database(given.dsn, "pyml_latency")
    conn = psycopg.connect(dsn, autocommit=True)
    # Devices go on reporting while the bench runs: one that does not has its last reading looked
    # for, and its window read anew from there.
    report = partial(fleet, conn, given.devices, given.days)
    devices = report()
    conn.execute("DROP EXTENSION IF EXISTS pyml; CREATE EXTENSION pyml CASCADE")
    device, *others = devices
    as_of = conn.execute(
        "SELECT date_trunc('minute', now() AT TIME ZONE 'UTC') - interval '1 day'"
    ).fetchone()[0]

    ours = trainings(conn, device, as_of)
    conn.execute(COPY_MODELS.format(devices="SELECT unnest(%s::uuid[]) AS uuid"), [others, device])
    say("a scan of all devices, for the views")
    conn.execute("CALL ml_scan()")
    conn.execute("VACUUM ANALYZE")
    calls = calls_of(conn, device)
    if given.no_service:
        report()
        warm(conn, calls, given.rounds)
    else:
        with serving(dsn) as service:
            beside(conn, report, service, device, as_of, ours, calls, given.rounds, given.epochs)
    report()
    first(dsn, device, 20)
    crowd(conn, device, 1000)
    report()
    pgbench(dsn, devices[:100], 5)


def beside(
    conn: Connection,
    report: Callable[[], object],
    service: Service,
    device: str,
    as_of: datetime,
    ours: dict[str, float],
    calls: dict[str, tuple[str, Callable[[], object]]],
    count: int,
    epochs: int,
) -> None:
    """The warm calls with the service's among them, and what the service takes otherwise."""
    up = service.wait()
    their_forest, their_lstm = service_trainings(service, device, as_of, epochs)
    their_lstm *= EPOCHS / epochs
    report()
    now = as_of + timedelta(days=1)

    def served(path: str, **more: object) -> Callable[[], object]:
        return lambda: service.ask("GET", f"{path}/{device}", as_of=now, **more)

    day, replay = calls["ml_detect, 24 h"][0], calls["ml_forecast"][0]
    spent = warm(
        conn,
        calls
        | {
            "service: anomalies, 24 h": (day, served("anomalies")),
            "service: forecast, model.predict": (replay, served("forecast")),
        },
        count,
    )
    # Called as a function, a Keras LSTM goes from step to step in Python: a few calls are enough.
    direct = {"forecast": served("forecast", direct=True)}
    few = rounds(direct, max(3, count // 20), service.process.pid)["forecast"]
    last, error, their_error = forecast_errors(conn, service, device, as_of)
    some = "" if epochs == EPOCHS else f", from {epochs} of {EPOCHS} epochs"
    pairs = {
        "anomalies, 24 h, ms": (spent["service: anomalies, 24 h"], spent["ml_detect, 24 h"]),
        "forecast by model.predict, ms": (
            spent["service: forecast, model.predict"],
            spent["ml_forecast"],
        ),
        "forecast by model(x), ms": (float(np.median(few[0])), spent["ml_forecast"]),
        "forest training, s": (their_forest, ours["ml_train_forest"]),
        f"LSTM training, s{some}": (their_lstm, ours["ml_train_lstm"]),
        f"forecast's error (last value: {last:.3g})": (their_error, error),
        "private memory, MB": (service.memory(), memory(conn)),
    }
    table(
        ["beside the service", "service", "pyml", "service / pyml"],
        [(what, their, our, their / our) for what, (their, our) in pairs.items()],
    )
    print(f"the service answers {up:.1f} s after its start\n")


if __name__ == "__main__":
    main()
