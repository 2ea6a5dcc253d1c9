"""What ``ml_not_a_fault`` proposes."""

from collections.abc import Sequence
from typing import Any

from pyml import queries
from pyml.errors import NotEnoughData
from pyml.incidents.grouping import is_rare
from pyml.incidents.proposals import WEEKS, About, Case, propose
from pyml.incidents.rules import Kept, left_of, parts
from pyml.seconds import DAY
from pyml.server import backend, fields
from pyml.server.incidents import found_of, terms_of
from pyml.server.rules import said_of
from pyml.telemetry.window import metrics_of
from pyml.zones import zone_of


@backend.document
def proposal(device: str, incident_id: int) -> dict[str, Any]:
    """``_ml_propose``: the smallest rule that would have kept an incident quiet, if one is needed.

    It is tried as if the device had a reading each moment, and each were judged by itself: what
    passes keeps quiet what a scan finds, too.
    """
    row = backend.execute(queries.INCIDENT, device, incident_id)[0]
    now, since = float(row["now"]), float(row["started_at"]) - WEEKS * DAY
    rows = backend.execute(queries.INCIDENT_FINDINGS, device, since, [incident_id])
    found = [found_of(each, device) for each in rows]
    own = [one for one in found if one.incident_id == incident_id]
    if not own:
        raise NotEnoughData(
            f"the findings of incident {incident_id} are no longer there",
            detail="What keeps them quiet cannot be tried. They are kept for anomaly_days, and"
            " those of an incident that is part of another one are that one's.",
            hint=f"SELECT ml_resolve({incident_id});",
        )
    terms = terms_of(row)
    said = said_of(device, row["rules"], own, now)
    every = [each for one in own for each in parts(one) if is_rare(each, terms.rare)]
    left = left_of(every, (), said, terms)
    told = [one.found for one in left if not one.is_quiet]
    others = [one for one in found if one.incident_id != incident_id]
    zone = row["zone"] if zone_of(row["zone"]) else "UTC"
    best = propose(Case(told, others, _about(), said, terms, now, zone))
    if best is None:
        return {"words": _needless([one.kept for one in left if one.kept])}
    return {"table": best.table, "rows": best.rows, "words": best.words}


def _about() -> dict[str, About]:
    """The metrics, by what findings call them: the name, and the path of a plain value."""
    metrics = metrics_of(backend.execute)
    units = fields.units_of([metric.name for metric in metrics])
    about = {one.name: About(one.name, units.get(one.name), one.direction) for one in metrics}
    paths = {one.path: about[one.name] for one in reversed(metrics) if one.is_plain}
    return paths | about


def _needless(kept: Sequence[Kept]) -> str:
    """Why nothing is proposed."""
    if not kept:
        return "Nothing is needed: such findings come too often to be told."
    one = kept[0]
    what = f"quiet window {one.quiet_id}" if one.rule_id is None else f"rule {one.rule_id}"
    return f"Nothing more is needed: {what} keeps it quiet."
