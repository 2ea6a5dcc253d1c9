"""Devices per second of scans and trainings over a fleet, and the backend's memory.

    python bench/fleet.py "dbname=bench" [--devices 1000] [--days 7] [--lstm 5] [--calls 1000]
    python bench/fleet.py "dbname=bench" --nights 2

needs an empty database on this host, on a server where pyml is installed. It makes
the user's table (one index, as device and time), fills it (10 million rows: 3 GB), and
prints each figure beside the same work done by a call a device. ``CPU ms`` is the
backend's processor time for each, ``MB`` its private memory before and after. A loaded
machine takes more of either time: the load is printed. Nothing is deleted afterwards.

``--nights`` trains forecasts alone, as so many nights one after the other would: the model of the
fleet, and those of single devices. A night's figures are divided by all devices.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

# Telemetry with a day's rhythm and a noise of its own, one reading a minute; ten histories,
# of which each device has one: to make a thousand would take longer than to measure them.
HISTORIES = """
CREATE UNLOGGED TABLE history AS
SELECT i, phase, jsonb_build_object('system', jsonb_build_object(
        'cpuUsage',
        round((30 + phase + 12 * sin(i / 229.0 + phase) + 6 * (random() - 0.5))::numeric, 1),
        'memoryUsage',
        round((7000 + 900 * sin(i / 300.0 + phase) + 90 * (random() - 0.5))::numeric),
        'memoryTotal', 16320, 'diskUsage', round(200 + i / 5000.0, 1), 'diskTotal', 476,
        'temperature', round((45 + 4 * sin(i / 229.0 + phase) + random())::numeric, 1))) AS state
FROM generate_series(1, %(readings)s) AS i, generate_series(0, 9) AS phase;
"""
# Minute by minute, as rows arrive: those of one device lie far apart on disk.
FILL = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT reading.uuid, reading.state, %(end)s::timestamp - (%(readings)s - i) * interval '1 minute'
FROM generate_series(1, %(readings)s) AS i, LATERAL (
    SELECT d.uuid, h.state
    FROM history AS h
    JOIN (SELECT uuid, row_number() OVER (ORDER BY uuid) %% 10 AS phase FROM devices) AS d
        USING (phase)
    WHERE h.i = i.i) AS reading
"""
# Two days more for those that are trained on three days, one after the other.
EARLIER = """
INSERT INTO device_shadow_history (device_uuid, reported_state, "timestamp")
SELECT device_uuid, reported_state, "timestamp" - %(days)s * interval '1 day'
FROM device_shadow_history WHERE device_uuid = ANY (%(some)s) AND "timestamp" > (
    SELECT max("timestamp") - interval '2 days' FROM device_shadow_history)
"""
TABLE = """
CREATE TABLE devices (uuid uuid PRIMARY KEY);
CREATE TABLE device_shadow_history (
    id bigserial PRIMARY KEY, device_uuid uuid NOT NULL,
    shadow_name varchar(255) NOT NULL DEFAULT 'device-state', reported_state jsonb NOT NULL,
    version integer DEFAULT 0, "timestamp" timestamp NOT NULL,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP);
"""
INDEX = 'CREATE INDEX ON device_shadow_history (device_uuid, "timestamp" DESC)'


def memory(conn: Connection) -> float:
    """Private memory of a connection's backend, in MB."""
    status = Path(f"/proc/{conn.info.backend_pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def processor(conn: Connection) -> float:
    """Processor time of a connection's backend so far, in seconds, all its threads."""
    fields = Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(conn: Connection, what: str, count: int, work: Callable[[], object]) -> None:
    """Time some work and print it with the backend's memory before and after."""
    before, spent, started = memory(conn), processor(conn), time.monotonic()
    work()
    seconds, spent = time.monotonic() - started, processor(conn) - spent
    print(
        f"{what:48} {count:6} {seconds:8.1f} {count / seconds:9.1f} {1000 * spent / count:9.1f}"
        f" {before:7.0f} {memory(conn):7.0f} {os.getloadavg()[0]:6.1f}",
        flush=True,
    )


def make(conn: Connection, devices: int, days: int) -> Any:
    """Make the user's table, fill it and install the extension; the last reading's time."""
    conn.execute(TABLE)
    conn.execute("CREATE EXTENSION IF NOT EXISTS pyml CASCADE")
    conn.execute(
        "INSERT INTO devices SELECT gen_random_uuid() FROM generate_series(1, %s)", [devices]
    )
    end = conn.execute("SELECT date_trunc('minute', now() AT TIME ZONE 'UTC')").fetchone()[0]
    size = {"end": end, "readings": days * 1440}
    conn.execute(HISTORIES, size)
    conn.execute("CREATE INDEX ON history (i)")
    conn.execute(FILL, size)
    conn.execute(INDEX)
    conn.execute("VACUUM ANALYZE device_shadow_history")
    return end


def nights(conn: Connection, devices: int, count: int) -> None:
    """Train what is due of forecasts, so many nights."""
    conn.execute("UPDATE ml_metric SET enabled = false")
    for night in range(1, count + 1):
        report(
            conn, f"forecasts, night {night}", devices, lambda: conn.execute("CALL ml_retrain()")
        )
        told = conn.execute(
            "SELECT outcome, count(*), round(sum(seconds)::numeric) FROM ml_run"
            " WHERE started_at > now() - interval '20 hours' GROUP BY outcome ORDER BY 1"
        ).fetchall()
        said = [f"{outcome} {number}, {seconds} s" for outcome, number, seconds in told]
        print(f"  {'; '.join(said)}", flush=True)
        conn.execute("UPDATE ml_run SET started_at = started_at - interval '25 hours'")
        conn.execute("UPDATE ml_model SET trained_at = trained_at - interval '25 hours'")


def main() -> None:
    """Fill the database and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("dsn")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--lstm", type=int, default=5, help="devices with a forecast of their own")
    parser.add_argument("--nights", type=int, help="nights of forecasts alone")
    parser.add_argument("--calls", type=int, default=1000, help="devices of the separate calls")
    given = parser.parse_args()

    def connect() -> Connection:
        return psycopg.connect(given.dsn, autocommit=True)

    conn = connect()
    started = time.monotonic()
    end = make(conn, given.devices, given.days)
    devices = [row[0] for row in conn.execute("SELECT uuid FROM devices ORDER BY uuid")]
    print(
        f"{given.devices} devices, {given.days} days, loaded in {time.monotonic() - started:.0f} s;"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'':48} {'number':>6} {'seconds':>8} {'a second':>9} {'CPU ms':>9} {'MB':>7} {'after':>7}"
        f" {'load':>6}"
    )

    if given.nights:
        nights(conn, given.devices, given.nights)
        return

    def as_of(minutes: int) -> str:
        return f"timestamptz '{end}+00' - interval '{minutes} minutes'"

    calls = devices[: given.calls]
    forecast_field = "UPDATE ml_setting SET value = %s WHERE name = 'forecast_fields'"
    conn.execute(forecast_field, ["[]"])
    report(conn, "forest retraining", given.devices, lambda: conn.execute("CALL ml_retrain()"))
    apart = connect()
    report(
        apart,
        "  the same by separate calls of ml_train_forest",
        len(calls),
        lambda: [apart.execute("SELECT ml_train_forest(%s)", [one]) for one in calls],
    )
    conn = connect()
    report(
        conn,
        "scan, first (24 hours)",
        given.devices,
        lambda: conn.execute(f"CALL ml_scan(as_of => {as_of(20)})"),
    )
    for minutes in (15, 10):
        report(
            conn,
            "scan, incremental (5 new readings)",
            given.devices,
            lambda minutes=minutes: conn.execute(f"CALL ml_scan(as_of => {as_of(minutes)})"),
        )
    report(
        conn,
        "scan, nothing new",
        given.devices,
        lambda: conn.execute(f"CALL ml_scan(as_of => {as_of(10)})"),
    )
    apart = connect()
    report(
        apart,
        "  the same by separate calls, 5 new readings",
        len(calls),
        lambda: [apart.execute(f"CALL ml_scan(%s, {as_of(5)})", [one]) for one in calls],
    )
    (flagged,) = conn.execute(
        "SELECT count(*) / %s::float8 FROM ml_anomaly", [len(devices)]
    ).fetchone()
    print(f"{'  anomalies of these 24 hours, a device':48} {flagged:6.1f}")
    some = devices[len(devices) - given.lstm :]
    if not some:
        return
    conn.execute(EARLIER, {"days": given.days, "some": some})

    def train(conn: Connection, days_ago: int, devices: list[Any]) -> None:
        until = as_of(days_ago * 1440)
        for one in devices:
            conn.execute(f"SELECT ml_train_lstm(%s, as_of => {until})", [one])

    conn = connect()
    report(conn, "LSTM training, one: loads TensorFlow", 1, lambda: train(conn, 2, some[:1]))
    # A day apart, as retraining is: it starts from a model only where what it holds out is new.
    report(conn, "LSTM training, cold", len(some), lambda: train(conn, 2, some))
    report(conn, "LSTM training, warm", len(some), lambda: train(conn, 1, some))
    conn.execute(
        "INSERT INTO ml_device_forecast SELECT unnest(%s::uuid[]), '{system.cpuUsage}'", [some]
    )
    conn.execute("UPDATE ml_run SET started_at = started_at - interval '25 hours'")
    conn.execute(
        "UPDATE ml_model SET trained_at = trained_at - interval '25 hours' WHERE kind = 'lstm'"
    )
    report(conn, "LSTM retraining, warm", len(some), lambda: conn.execute("CALL ml_retrain()"))
    (warm,) = conn.execute(
        "SELECT count(*) FROM (SELECT (figures ->> 'warm')::boolean AS warm FROM ml_run"
        " WHERE kind = 'lstm' ORDER BY started_at DESC LIMIT %s) AS last WHERE warm",
        [2 * len(some)],
    ).fetchone()
    print(f"{'  of the warm ones started from a model':48} {warm:6}")
    conn = connect()
    conn.execute(f"CALL ml_scan(%s, {as_of(5)})", [some[0]])
    for minutes in (4, 0):
        report(
            conn,
            "scan with a forecast, incremental",
            len(some),
            lambda minutes=minutes: [
                conn.execute(f"CALL ml_scan(%s, {as_of(minutes)})", [one]) for one in some
            ],
        )


if __name__ == "__main__":
    main()
