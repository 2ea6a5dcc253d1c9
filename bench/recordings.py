"""Recordings of real machines as arrays: SMD, ASD, JumpStarter and NAB; DATA.md beside the data."""

import csv
import gzip
import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
SMD_HEADER = ["minute", "cpu_r", "mem_u", "disk_u", "eth1_fi", "eth1_fo", "label"]
NAB_HEADER = ["timestamp", "value"]
# ASD and JumpStarter: no timestamps, and metrics that nobody named.
UNNAMED = [f"m{i}" for i in range(19)]
UNNAMED_HEADER = [*UNNAMED, "label"]
UNNAMED_SECONDS = 300


class BadRecording(ValueError):
    """A file that cannot be read as a recording; the message says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One machine.

    Attributes
    ----------
    name : str
        The file's name without its endings.
    times : ndarray of float64, shape (n,)
        Seconds; NAB counts from the Unix epoch, the others from the start.
    values : ndarray of float64, shape (n, m)
    names : list of str, length m
    label : ndarray of float64, shape (n,)
        1 in an anomaly, 0 outside, NaN where nobody labelled.
    """

    name: str
    times: Floats
    values: Floats
    names: list[str]
    label: Floats


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a CSV file, plain or gzip.

    Returns
    -------
    header : list of str
    columns : list of list of str
        One for each name of the header, all of the same length, at least 1.

    Raises
    ------
    BadRecording
        No such file, not text, no rows, or rows of unequal length.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except FileNotFoundError:
        raise BadRecording(f"{path}: no such file") from None
    except IsADirectoryError:
        raise BadRecording(f"{path}: a folder, not a file") from None
    except UnicodeDecodeError:
        raise BadRecording(f"{path}: not a text file in UTF-8") from None
    except (OSError, EOFError, zlib.error, csv.Error) as problem:
        raise BadRecording(f"{path}: {problem}") from None
    if len(lines) < 2:
        raise BadRecording(f"{path}: needs a header and at least one row")
    header = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise BadRecording(
                f"{path}: row {number} has {len(line)} columns, the header has {len(header)}"
            )
    return header, [list(column) for column in zip(*lines[1:], strict=True)]


def numbers(path: Path, name: str, column: list[str]) -> Floats:
    """One column as float64, shape (n,); empty cells become NaN.

    Raises
    ------
    BadRecording
        A cell that is not a number.
    """
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in column])
    except ValueError:
        for row, cell in enumerate(column, 2):
            try:
                float(cell or "nan")
            except ValueError:
                raise BadRecording(
                    f"{path}: column {name}, row {row}: {cell!r} is not a number"
                ) from None
        raise


def seconds(path: Path, name: str, column: list[str]) -> Floats:
    """One column of timestamps as seconds since the Unix epoch, shape (n,).

    ISO 8601 (UTC where no offset is given), or numbers: seconds, or milliseconds
    where they are too large to be seconds.

    Raises
    ------
    BadRecording
        A cell that is neither.
    """
    try:
        found = np.array([float(cell) for cell in column])
    except ValueError:
        found = np.array([_seconds(path, name, row, cell) for row, cell in enumerate(column, 2)])
    if not np.isfinite(found).all():
        raise BadRecording(f"{path}: column {name} holds times that are not finite")
    return found / 1000 if np.median(found) > 1e11 else found


def _seconds(path: Path, name: str, row: int, cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        raise BadRecording(
            f"{path}: column {name}, row {row}: {cell!r} is not an ISO 8601 timestamp"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_smd(path: Path) -> Recording:
    """One machine of the Server Machine Dataset, values in [0, 1] as published."""
    header, columns = table(path)
    if header != SMD_HEADER:
        raise BadRecording(f"{path}: the header is not that of an SMD machine")
    values = [numbers(path, *pair) for pair in zip(header, columns, strict=True)]
    return Recording(
        path.name.split(".")[0],
        values[0] * 60,
        np.column_stack(values[1:6]),
        header[1:6],
        values[6],
    )


def read_unnamed(path: Path) -> Recording:
    """One machine of ASD or JumpStarter: 19 unnamed metrics every five minutes."""
    header, columns = table(path)
    if header != UNNAMED_HEADER:
        raise BadRecording(f"{path}: the header is not that of an ASD or JumpStarter machine")
    *values, label = (numbers(path, *pair) for pair in zip(header, columns, strict=True))
    return Recording(
        path.name.split(".")[0],
        np.arange(len(label), dtype=np.float64) * UNNAMED_SECONDS,
        np.column_stack(values),
        header[:-1],
        label,
    )


def read_nab(path: Path) -> Recording:
    """One series of the Numenta Anomaly Benchmark; labels from ``windows.json`` beside it."""
    header, (stamps, values) = table(path)
    if header != NAB_HEADER:
        raise BadRecording(f"{path}: the header is not that of a NAB series")
    times = seconds(path, header[0], stamps)
    label = np.full(len(times), np.nan)
    beside = path.with_name("windows.json")
    windows = json.loads(beside.read_text()).get(path.name) if beside.exists() else None
    if windows is not None:
        label = np.zeros(len(times))
        for first, last in windows:
            begin, end = (_seconds(beside, path.name, 0, moment) for moment in (first, last))
            label[(times >= begin) & (times <= end)] = 1
    value = numbers(path, "value", values)
    return Recording(path.stem, times, value[:, None], ["value"], label)


def smd(data: Path = DATA) -> list[Path]:
    """The SMD machines in a data folder.

    Raises
    ------
    BadRecording
        There are none.
    """
    return _files(data, "smd/machine-*.csv.gz")


def asd(data: Path = DATA) -> list[Path]:
    """The ASD servers in a data folder.

    Raises
    ------
    BadRecording
        There are none.
    """
    return _files(data, "asd/server-*.csv.gz")


def jumpstarter(data: Path = DATA) -> list[Path]:
    """The JumpStarter services in a data folder.

    Raises
    ------
    BadRecording
        There are none.
    """
    return _files(data, "jumpstarter/service-*.csv.gz")


def nab(data: Path = DATA) -> list[Path]:
    """The NAB hosts' CPU in a data folder.

    Raises
    ------
    BadRecording
        There are none.
    """
    return _files(data, "nab/*_cpu_utilization_*.csv")


def slow(data: Path = DATA) -> list[Path]:
    """NAB's series of the half hour and of the hour in a data folder.

    Raises
    ------
    BadRecording
        There are none.
    """
    return _files(data, "nab/ambient_temperature_*.csv", "nab/nyc_taxi.csv")


def _files(data: Path, *patterns: str) -> list[Path]:
    found = sorted(path for pattern in patterns for path in data.glob(pattern))
    if not found:
        raise BadRecording(f"{data}: no {patterns[0]} there; give the folder of the recordings")
    return found


KINDS = {
    "smd": (smd, read_smd),
    "asd": (asd, read_unnamed),
    "jumpstarter": (jumpstarter, read_unnamed),
}
"""The three kinds of machines: how to find their recordings, and how to read one."""
