"""When a device's signals reach their limits: looked at by a scan once a day."""

import math
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyml import queries
from pyml.detectors.base import CRITICAL, WARNING, Finding
from pyml.detectors.wording import day, figures, of, step
from pyml.errors import NotEnoughData, UnknownField
from pyml.forecasters.capacity import Reach, reach
from pyml.seconds import DAY
from pyml.server import backend
from pyml.server.findings import Findings
from pyml.server.outlooks import outlook_of
from pyml.telemetry.history import History
from pyml.telemetry.series import columns_of
from pyml.telemetry.window import metrics_of

DETECTOR, KIND = "capacity", "breach"
EVERY = DAY
"""Seconds from one look to the next."""
# Times capacity_days that are looked ahead: to be sure, the far end of the band has to be there.
AHEAD = 2


def look(device: str, history: History, newest: float | None, found: Findings) -> None:
    """Write when a device's signals reach their limits; what is near and sure is a finding.

    Parameters
    ----------
    device : str
    history : History
    newest : float or None
        The device's newest reading.
    found : Findings
        Of this scan.
    """
    if newest is None:
        return
    rows_read = [dict(row) for row in backend.execute(queries.LIMITS, device)]
    limits = [one for one in rows_read if one["metric"] is not None]
    if len(limits) == len(rows_read) and all(
        _is_looked_at(one["looked_at"], newest, phase(device)) for one in limits
    ):
        return
    known = metrics_of(backend.execute)
    days = int(history.settings["capacity_days"])
    names = {one["metric"] for one in limits}
    paths, totals = columns_of(known)
    read = columns_of([metric for metric in known if metric.name in names])[0]
    read += [paths[place] for place in totals if paths[place] not in read]
    since = newest - DAY * int(history.settings["outlook_days"])
    once = history.fetched(device, since, newest, read)
    rows: list[dict[str, Any]] = []
    reached: list[tuple[dict[str, Any], Reach]] = []
    for one in limits:
        row = {**one, "looked_at": newest, "days": AHEAD * days}
        try:
            signal, ahead = outlook_of(once, device, one["metric"], AHEAD * days, newest, known)
        except (NotEnoughData, UnknownField) as error:
            rows.append(row | {"why_not": error.message[:1000]})
            continue
        said = reach(signal, ahead, one["limit"], one["side"] == "high")
        reached.append((one, said))
        times = {name: getattr(said, name) for name in ("earliest", "probably", "latest")}
        rows.append(row | times | {"value": said.value, "slope": said.slope})
    backend.execute(queries.PUT_CAPACITY, device, backend.to_json(backend.shown(rows)))
    _tell(device, newest, days, reached, found)


def phase(device: str) -> float:
    """Seconds after midnight in UTC at which a device's look falls due: a fleet's are spread."""
    return zlib.crc32(device.encode()) % EVERY


def _is_looked_at(at: float | None, newest: float, due: float) -> bool:
    return at is not None and (newest - due) // EVERY <= (at - due) // EVERY


def _tell(
    device: str,
    newest: float,
    days: int,
    reached: Sequence[tuple[dict[str, Any], Reach]],
    found: Findings,
) -> None:
    """Begin findings, or let them go on, of what reaches its limit."""
    before = backend.execute(queries.FINDINGS, device, DETECTOR, newest - 2 * EVERY)
    began = {row["metric"]: float(row["started_at"]) for row in before}
    told: list[Finding] = []
    for limit, said in reached:
        goes_on = limit["metric"] in began and said.there
        if not goes_on and not said.within(days):
            continue
        left = 0.0 if said.probably is None else max(0.0, said.probably - said.at) / DAY
        times = {name: _iso(getattr(said, name)) for name in ("earliest", "probably", "latest")}
        told.append(
            Finding(
                KIND,
                limit["metric"],
                min(newest, began.get(limit["metric"], newest)),
                newest,
                CRITICAL if left <= 1 else WARNING,
                days / max(left, 1 / 24),
                {"limit": limit["limit"], "value": said.value, "slope": said.slope, **times},
                words(limit["metric"], limit["limit"], limit["unit"], said),
            )
        )
    if told:
        found.put(DETECTOR, False, None, 0.0, told, [None] * len(told))


def words(metric: str, limit: float, unit: str | None, said: Reach) -> str:
    """When a signal reaches its limit, in a sentence."""
    value, at = figures(said.value, limit)
    how = f"now {of(value, unit)}"
    if said.slope:
        began = f"{datetime.fromtimestamp(said.since, UTC):%A}"
        since = began if said.at - said.since < 6.5 * DAY else day(said.since)
        a_day = f"{figures(abs(said.slope))[0]} {step(unit)}".strip()
        how += f", {'+' if said.slope > 0 else '-'}{a_day} a day since {since}"
    if said.there:
        return f"{metric} has reached {of(at, unit)} ({how})"
    return f"{metric} reaches {of(at, unit)} {_when(said)} ({how})"


def _when(said: Reach) -> str:
    ends = [one for one in (said.earliest, said.latest) if one is not None]
    first, last = (max(0.0, one - said.at) / DAY for one in (ends[0], ends[-1]))
    if last <= 1:
        return "within a day"
    low, high = max(1, math.floor(first)), math.ceil(last)
    return f"in {low} days" if low == high else f"in {low} to {high} days"


def _iso(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
