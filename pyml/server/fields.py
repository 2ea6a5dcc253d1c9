"""Fields as SQL takes and shows them: which one where none is named, and their units."""

from collections.abc import Sequence

from pyml import queries
from pyml.errors import UnknownField
from pyml.server import backend
from pyml.telemetry.history import History, iso
from pyml.telemetry.series import Metric
from pyml.telemetry.window import metrics_of, no_numbers

# What most devices report, and what is looked for first.
USUAL = "system.cpuUsage"
# Metrics that an error names.
NAMED = 10


def reported(history: History, device: str, since: float, until: float) -> str:
    """The field that a device reports in a window: the usual one, or its first metric by name.

    Raises
    ------
    NotEnoughData
        It has no readings there.
    UnknownField
        They hold no number at any path that was looked for.
    """
    if history.last(device, until, USUAL, since) is not None:
        return USUAL
    metrics = metrics_of(backend.execute, enabled=True)
    found = history.first_reported(device, since, until, metrics)
    if found is None:
        raise _nothing(history, device, since, until, metrics)
    return found


def unit_of(field: str) -> str | None:
    """The unit of a field's values, where known."""
    found = backend.execute(queries.UNIT, field)
    return found[0]["unit"] if found else None


def units_of(names: Sequence[str]) -> dict[str, str]:
    """The units of metrics, by their names; without those that have none."""
    return {row["name"]: row["unit"] for row in backend.execute(queries.UNITS, list(names))}


def _nothing(
    history: History, device: str, since: float, until: float, metrics: Sequence[Metric]
) -> Exception:
    """What is said where a device reports none of the metrics."""
    usual = Metric(USUAL, USUAL, None, 1.0, "gauge")
    error = no_numbers(history, device, usual, since, until)
    if isinstance(error, UnknownField):
        places = [USUAL, *(f"{metric.name} ({metric.path})" for metric in metrics[:NAMED])]
        more = f" and {len(metrics) - NAMED} more" if len(metrics) > NAMED else ""
        error.message = f"device {history.id(device)} reports no metric that is enabled"
        error.detail = (
            f"Looked from {iso(since)} to {iso(until)} for a number at {', '.join(places)}{more}."
        )
    return error
