"""What is told of an event: the document of a webhook, and a title and a body in words.

The words stand in ``templates``, a file an event: the first line is the title.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

from pyml.detectors.wording import lasting
from pyml.workers.targets import Target

LONGEST_TITLE, LONGEST_BODY = 200, 4000
OUTCOMES = {
    "over": "over",
    "became usual": "has lasted for three days and counts as usual now",
    "retired": "the device is retired",
}


@dataclass(frozen=True, slots=True)
class Message:
    """What a target gets.

    Attributes
    ----------
    number : str
        Names it: the same at each attempt.
    document : mapping
        As a webhook sends it.
    title, body : str
    """

    number: str
    document: Mapping[str, Any]
    title: str
    body: str


def message(target: Target, told: Mapping[str, Any]) -> Message:
    """What a target gets of an event.

    Parameters
    ----------
    target : Target
    told : mapping
        As `_ml_claim_delivery` and `_ml_telling` give it.
    """
    document = {**told, "link": _link(target, told)}
    title, _, body = (
        _template(str(told["event"])).safe_substitute(_words(target, document)).partition("\n")
    )
    return Message(
        number=str(told["event_id"]),
        document=document,
        title=" ".join(title.split())[:LONGEST_TITLE],
        body="\n".join(line for line in body.splitlines() if line.strip())[:LONGEST_BODY],
    )


def trial(now: float) -> Mapping[str, Any]:
    """What is told to see whether a target can be reached."""
    return {"event": "test", "event_id": f"test-{now:.0f}"}


def _template(event: str) -> Template:
    return Template((files("pyml.workers") / "templates" / f"{event}.txt").read_text("utf-8"))


def _link(target: Target, told: Mapping[str, Any]) -> str | None:
    if told.get("incident_id") is None:
        return target.fleet_link
    if target.link is None:
        return None
    ids = ("incident_id", "device_uuid", "device_id")
    return target.link.format(**{name: quote(str(told[name]), safe="") for name in ids})


def _words(target: Target, told: Mapping[str, Any]) -> dict[str, str]:
    """What a template may name."""
    words = {name: _shown(name, value) for name, value in told.items()}
    trouble = " ".join(filter(None, (words.get("leading_metric"), words.get("kind"))))
    return {
        **words,
        "target": target.name,
        "trouble": trouble,
        "who": f"{told['devices']} of {told['fleet']} devices"
        if "devices" in told
        else words.get("device_name", ""),
        "incident": ", ".join(map(str, told["incident_ids"][:5])) + " …"
        if "incident_ids" in told
        else words.get("incident_id", ""),
        "outcome": _outcome(told),
    }


def _outcome(told: Mapping[str, Any]) -> str:
    """Why trouble is resolved."""
    if told.get("part_of") is not None:
        return f"is part of incident {told['part_of']}"
    if told.get("resolved_by") is not None:
        return f"resolved by {told['resolved_by']}"
    return OUTCOMES.get(str(told.get("why")), "resolved")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_at"):
        return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    # A name from outside may hold anything, and stands in a line of its own.
    return lasting(value) if name == "scan_every" else " ".join(str(value).split())
