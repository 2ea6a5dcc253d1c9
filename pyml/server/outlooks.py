"""The next days of a device's signal, from its history as it stands. Nothing is stored."""

from collections.abc import Iterator, Sequence

from pyml import queries
from pyml.errors import NotEnoughData
from pyml.forecasters.outlook import PARAMETERS, WEEK_DAYS, Outlook, Steps, outlook, steps_of
from pyml.seconds import DAY
from pyml.server import arguments, backend
from pyml.server.backend import Row, rows
from pyml.telemetry.history import History
from pyml.telemetry.series import Metric
from pyml.telemetry.window import metrics_of, window

MOST_DAYS = 30
"""Days that an outlook looks ahead at most."""


@rows
def look_ahead(device: str, field: str, days: int) -> Iterator[Row]:
    """``ml_outlook``."""
    arguments.given(device=device, field=field, days=days)
    arguments.within("days", days, 1, MOST_DAYS)
    history = backend.history_of(backend.execute(queries.CONTEXT)[0])
    until = float(backend.execute(queries.SESSION)[0]["until"])
    known = metrics_of(backend.execute)
    signal, found = outlook_of(history, device, field, days, until, known)
    if signal.days < 2 * WEEK_DAYS:
        backend.notice(
            f"the outlook of {field} is from {signal.days:.1f} days, too few to know its week;"
            f" it was tried on {found.tests} of them"
        )
    bands = zip(found.lower, found.upper, strict=True)
    columns = (found.predicted, *(end for band in bands for end in band))
    shown = (backend.shown(column).tolist() for column in columns)
    yield from zip(found.times.tolist(), *shown, strict=True)


def outlook_of(
    history: History,
    device: str,
    field: str,
    days: int,
    until: float,
    known: Sequence[Metric],
) -> tuple[Steps, Outlook]:
    """What is known of a field up to a moment, and its next days.

    Raises
    ------
    NotEnoughData, UnknownField
    """
    since = until - DAY * int(history.settings["outlook_days"])
    quiet = history.quiet(device, since, until)
    metric, _, found = window(history, device, since, until, field, known, quiet)
    readings = found.readings
    signal = steps_of(readings.times, readings.values[:, 0], found.interval)
    least = PARAMETERS.least_days
    if signal.days < least:
        call = f"ml_zscore({queries.literal(history.id(device))}, {queries.literal(field)}"
        raise NotEnoughData(
            f"{field} has {signal.days:.1f} days of values; an outlook needs {least:g}",
            detail=f"Looked at the {history.settings['outlook_days']} days of outlook_days in"
            f" {history.settings['history_table']}. What is missing is not counted.",
            hint=f"SELECT * FROM {call}, hours => 72);",  # noqa: S608 (a hint)
        )
    return signal, outlook(signal, days, (metric.lower, metric.upper))
