"""What people say of a device, as rules and quiet windows are stored."""

import math
from collections.abc import Sequence
from typing import Any

from pyml import queries
from pyml.forms import parsed
from pyml.incidents.base import Found
from pyml.incidents.grouping import is_rare
from pyml.incidents.rules import Kept, Left, Rule, Said
from pyml.server import backend
from pyml.telemetry.quiet import Window


def rules_of(document: str | None) -> tuple[Rule, ...]:
    """The rules of the part ``rules`` of `queries`; None where there is none."""
    return tuple(
        Rule(
            rule_id=row["rule_id"],
            names=row["names"] and frozenset(row["names"]),
            direction=row["direction"],
            least=row["least"],
            mute=row["mute"],
            until=math.inf if row["until"] is None else float(row["until"]),
        )
        for row in parsed(document or "[]")
    )


def said_of(device: str, rules: str | None, found: Sequence[Found], now: float) -> Said:
    """What people say of some findings of a device, and of the moment `now`."""
    since = min((one.started_at for one in found), default=now)
    until = max((one.last_at for one in found), default=now)
    rows = backend.execute(queries.QUIET_SPANS, device, since, max(until, now))
    return Said(rules_of(rules), tuple(map(Window.of_row, rows)))


def put_kept(
    device: str,
    rows: Sequence[Any],
    found: Sequence[Found],
    left: Sequence[Left],
    rare: float,
) -> None:
    """Write what keeps findings quiet that else were told, where that has changed.

    Parameters
    ----------
    device : str
    rows : sequence of mapping
        Of `queries.INCIDENT_FINDINGS`.
    found : sequence of Found
        The same.
    left : sequence of Left
        What is told of each.
    rare : float
        As of `Terms`.
    """
    changed = []
    for row, one, rest in zip(rows, found, left, strict=True):
        told = not is_rare(one, rare) or (is_rare(rest.found, rare) and not rest.is_quiet)
        kept = Kept() if told or rest.kept is None else rest.kept
        if kept != Kept(row["rule_id"], row["quiet_id"]):
            changed.append((one.finding_id, kept.rule_id, kept.quiet_id))
    if changed:
        backend.execute(queries.PUT_KEPT, device, *map(list, zip(*changed, strict=True)))
