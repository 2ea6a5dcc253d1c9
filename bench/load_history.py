"""Load a recording into ``device_shadow_history``, as the fleet's agents would have written it.

    python bench/load_history.py "dbname=demo" ../shared/data/smd/machine-3-3.csv.gz
    python bench/load_history.py "dbname=demo" mine.csv --map load=system.cpuUsage

Reads SMD, ASD and JumpStarter machines, NAB series, and any CSV with a header: a timestamp
column and numeric columns. Time is shifted so that the recording ends now. The unnamed metrics
of ASD and JumpStarter become system.m0 and so on; detection needs rows of ml_metric for them.
"""

import argparse
import json
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from recordings import (
    NAB_HEADER,
    SMD_HEADER,
    UNNAMED_HEADER,
    BadRecording,
    Floats,
    numbers,
    read_smd,
    read_unnamed,
    seconds,
    table,
)

HISTORY_SQL = Path(__file__).parents[1] / "demo" / "history.sql"

# SMD scales each metric to [0, 1]; these make a plausible machine of it. Six decimals
# of a share survive in each: four of a per cent, MB and GB to 1e-4, whole bytes.
MEMORY_TOTAL = 16384  # MB
DISK_TOTAL = 500  # GB
FULL_RATE = 10_000_000  # bytes a second

TIME_COLUMNS = ("timestamp", "time", "datetime", "date", "ts")
# Column names, lower case without punctuation, that need no --map.
KNOWN_COLUMNS = {
    "cpu": "system.cpuUsage",
    "cpuusage": "system.cpuUsage",
    "cpupercent": "system.cpuUsage",
    "memoryusage": "system.memoryUsage",
    "memorytotal": "system.memoryTotal",
    "memorypercent": "system.memoryUsage",
    "diskusage": "system.diskUsage",
    "disktotal": "system.diskTotal",
    "diskpercent": "system.diskUsage",
    "temperature": "system.temperature",
    "rxbytes": "system.network.rxBytes",
    "txbytes": "system.network.txBytes",
    "uptime": "health.uptime",
}
PATH = re.compile(r"\w+(\.\w+)+")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A recording as telemetry.

    Attributes
    ----------
    times : ndarray of float64, shape (n,)
        Seconds, in the file's own time.
    fields : dict of str to ndarray of float64, shape (n,)
        By dotted path in the reported state; NaN where missing.
    ignored : tuple of str
        The file's columns that no field was found for.
    """

    times: Floats
    fields: dict[str, Floats]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` put into the table; the timestamps are naive UTC."""

    device: uuid.UUID
    rows: int
    first: datetime
    last: datetime
    ignored: tuple[str, ...]


def telemetry(
    path: Path | str, mapping: Mapping[str, str] | None = None, time_column: str | None = None
) -> Telemetry:
    """Read a recording.

    Parameters
    ----------
    path : Path or str
        A machine of SMD, ASD or JumpStarter, a NAB series or a CSV with a header; plain or gzip.
    mapping : mapping of str to str, optional
        Column -> dotted path in the reported state, before what names suggest.
    time_column : str, optional
        The column of the timestamps; found by its name where not given.

    Returns
    -------
    Telemetry

    Raises
    ------
    BadRecording
        The file cannot be read, or no column of it can be placed.
    """
    path = Path(path)
    header, columns = table(path)
    if header == SMD_HEADER:
        return _smd(path)
    if header == UNNAMED_HEADER:
        return _unnamed(path)
    named = dict(zip(header, columns, strict=True))
    if len(named) < len(header):
        raise BadRecording(f"{path}: two columns have the same name")
    mapping = dict(mapping or {})
    if header == NAB_HEADER:
        mapping.setdefault("value", "system.cpuUsage")
    if unknown := sorted(set(mapping) - set(named)):
        raise BadRecording(f"{path}: no column {unknown[0]}; it has {', '.join(header)}")

    clock = time_column or next((name for name in header if name.lower() in TIME_COLUMNS), None)
    if clock not in named:
        raise BadRecording(
            f"{path}: no timestamp column among {', '.join(header)}; name it with --time"
        )
    fields: dict[str, Floats] = {}
    ignored = []
    taken = ["identity", "health.status", "connectivity"]  # the agents' own
    for name, cells in named.items():
        place = mapping.get(name) or _place(name)
        if name == clock:
            continue
        if place is None:
            ignored.append(name)
        elif any(f"{place}.".startswith(f"{f}.") or f"{f}.".startswith(f"{place}.") for f in taken):
            raise BadRecording(f"{path}: no room for {name} at {place}: something is there already")
        else:
            taken.append(place)
            fields[place] = numbers(path, name, cells)
            if _plain(name).endswith("percent") and name not in mapping and "cpu" not in place:
                fields[place.replace("Usage", "Total")] = np.full(len(cells), 100.0)
    if not fields:
        raise BadRecording(
            f"{path}: none of {', '.join(header)} is known;"
            f" place one with --map {ignored[0] if ignored else 'column'}=system.cpuUsage"
        )
    times = seconds(path, clock, named[clock])
    return Telemetry(times, fields, tuple(ignored))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _place(name: str) -> str | None:
    """The field that a column's name suggests; a dotted name is a path already."""
    return name if PATH.fullmatch(name) else KNOWN_COLUMNS.get(_plain(name))


def _smd(path: Path) -> Telemetry:
    machine = read_smd(path)
    cpu, memory, disk, received, sent = machine.values.T
    step = np.diff(machine.times, prepend=machine.times[0] - 60)

    def counter(share: Floats) -> Floats:
        return np.cumsum(np.round(np.nan_to_num(share) * FULL_RATE * step))

    n = len(machine.times)
    return Telemetry(
        machine.times,
        {
            "system.cpuUsage": np.round(cpu * 100, 4),
            "system.memoryUsage": np.round(memory * MEMORY_TOTAL, 4),
            "system.memoryTotal": np.full(n, float(MEMORY_TOTAL)),
            "system.diskUsage": np.round(disk * DISK_TOTAL, 4),
            "system.diskTotal": np.full(n, float(DISK_TOTAL)),
            "system.network.rxBytes": counter(received),
            "system.network.txBytes": counter(sent),
        },
    )


def _unnamed(path: Path) -> Telemetry:
    machine = read_unnamed(path)
    columns = zip(machine.names, machine.values.T, strict=True)
    return Telemetry(machine.times, {unnamed_path(name): column for name, column in columns})


def unnamed_path(name: str) -> str:
    """Where a metric of ASD or JumpStarter is in the reported state."""
    return f"system.{name}"


def device_of(path: Path | str) -> uuid.UUID:
    """The device that a recording becomes: the same for the same file name."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"pyml/recording/{Path(path).name}")


def load(
    conn: psycopg.Connection[Any],
    path: Path | str,
    *,
    device: uuid.UUID | None = None,
    end: datetime | None = None,
    days: float | None = None,
    mapping: Mapping[str, str] | None = None,
    time_column: str | None = None,
) -> Loaded:
    """Write a recording into ``device_shadow_history``, in the caller's transaction.

    Missing tables are created. Loading a file again replaces what it loaded before.

    Parameters
    ----------
    conn : psycopg.Connection
    path, mapping, time_column
        As in `telemetry`.
    device : uuid.UUID, optional
        An own device instead of the one that the file name gives; must have no history.
    end : datetime, optional
        Time of the last reading, naive UTC or with an offset; now where not given.
    days : float, optional
        Load only the last so many days.

    Returns
    -------
    Loaded

    Raises
    ------
    BadRecording
        As `telemetry`, or the chosen device has a history already.
    """
    path = Path(path)
    recording = telemetry(path, mapping, time_column)
    last = _utc(end or datetime.now(UTC).replace(microsecond=0))
    offsets = recording.times - recording.times.max()
    if days is not None and not days > 0:
        raise BadRecording(f"{days:g} days hold no reading; give a positive number")
    keep = np.flatnonzero(offsets > (-np.inf if days is None else -86400 * days)).tolist()
    chosen = device or device_of(path)

    with conn.cursor() as cursor:
        cursor.execute("SELECT to_regclass('device_shadow_history') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute(HISTORY_SQL.read_bytes())
        if device is None:
            cursor.execute("DELETE FROM device_shadow_history WHERE device_uuid = %s", (chosen,))
        else:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM device_shadow_history WHERE device_uuid = %s)",
                (chosen,),
            )
            if cursor.fetchone() == (True,):
                raise BadRecording(f"device {chosen} has a history already; choose another")
        cursor.execute(
            "INSERT INTO devices (uuid, name) VALUES (%s, %s) ON CONFLICT (uuid) DO NOTHING",
            (chosen, path.name.split(".")[0]),
        )
        with cursor.copy(
            "COPY device_shadow_history (device_uuid, reported_state, timestamp) FROM STDIN"
        ) as copy:
            for i, state in zip(keep, _states(recording, chosen, path.name, keep), strict=True):
                copy.write_row((chosen, state, last + timedelta(seconds=float(offsets[i]))))
        cursor.execute("ANALYZE device_shadow_history")
    first = last + timedelta(seconds=float(offsets[keep].min()))
    return Loaded(chosen, len(keep), first, last, recording.ignored)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _states(recording: Telemetry, device: uuid.UUID, model: str, keep: list[int]) -> Iterator[str]:
    """The reported state of each kept reading, as JSON text."""
    start = recording.times.min()
    fields = [(path.split("."), column) for path, column in recording.fields.items()]
    for i in keep:
        state: dict[str, Any] = {
            "identity": {"deviceUuid": str(device), "model": model},
            "health": {"status": "healthy", "uptime": int(recording.times[i] - start)},
            "system": {},
            "connectivity": {"mqttConnected": True, "cloudConnected": True},
        }
        for (*parents, leaf), column in fields:
            value, place = column[i].item(), state
            for parent in parents:
                place = place.setdefault(parent, {})
            finite = np.isfinite(value)
            place[leaf] = (int(value) if value.is_integer() else value) if finite else None
        yield json.dumps(state)


def _mapping(text: str) -> tuple[str, str]:
    column, sign, place = text.partition("=")
    if not (column and sign and PATH.fullmatch(place)):
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=json.path")
    return column, place


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ISO 8601 timestamp") from None


def main() -> None:
    """Load the recording that the command line names and say what to type next."""
    parser = argparse.ArgumentParser(
        description="Load a recording into device_shadow_history, shifted to end now."
    )
    parser.add_argument("dsn", help="libpq connection string of the database")
    parser.add_argument("file", type=Path, help="recording, or CSV with a header")
    parser.add_argument("--device", type=uuid.UUID, help="load as this device")
    parser.add_argument("--end", type=_moment, help="time of the last reading (UTC; default now)")
    parser.add_argument("--days", type=float, help="only the last so many days")
    parser.add_argument("--time", help="name of the timestamp column")
    parser.add_argument(
        "--map",
        type=_mapping,
        action="append",
        default=[],
        metavar="COLUMN=json.path",
        help="where a column goes, for instance load=system.cpuUsage; may be repeated",
    )
    options = parser.parse_args()
    try:
        with psycopg.connect(options.dsn) as conn:
            loaded = load(
                conn,
                options.file,
                device=options.device,
                end=options.end,
                days=options.days,
                mapping=dict(options.map),
                time_column=options.time,
            )
    except (BadRecording, psycopg.Error) as problem:
        sys.exit(f"load_history: {problem}")

    if loaded.ignored:
        print(f"ignored  {', '.join(loaded.ignored)} (place them with --map)")
    print(f"device   {loaded.device}")
    print(f"rows     {loaded.rows}")
    print(f"from     {loaded.first:%Y-%m-%d %H:%M:%S} UTC")
    print(f"until    {loaded.last:%Y-%m-%d %H:%M:%S} UTC")
    split = loaded.last - timedelta(days=1)
    print("\nNext: train on the week before the last day, then look at that day.\n")
    print(f"SELECT ml_train_forest('{loaded.device}', as_of => '{split:%Y-%m-%d %H:%M:%S}Z');")
    print(
        f"SELECT * FROM ml_score('{loaded.device}', since => '{split:%Y-%m-%d %H:%M:%S}Z',"
        f" until => '{loaded.last:%Y-%m-%d %H:%M:%S}Z') WHERE is_anomaly;"
    )


if __name__ == "__main__":
    main()
