"""How seldom what a detector finds comes: by all devices together, or by the device alone."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from pyml import queries
from pyml.detectors.rarity import ENOUGH, MOST_PEAKS, Curve, Floats
from pyml.forms import listed, number, parsed, record
from pyml.server import backend

# Significant digits of hours.
DIGITS = 3
# Of a model's figures.
_HAS_PEAKS = record(ordinary_hours=number(0, 1e6), peaks=listed(number(), 1, MOST_PEAKS))


class Basis(TypedDict):
    """What hours are reckoned from, as a document has it.

    Attributes
    ----------
    devices : int
        1 where it is the device's own training.
    hours : float
        Of ordinary telemetry.
    provisional : bool
        Whether these are too few to tell what comes once in a month.
    """

    devices: int
    hours: float
    provisional: bool


@dataclass(frozen=True, slots=True)
class Rarity:
    """How seldom scores of one detector and device come.

    Attributes
    ----------
    own : Curve or None
        Of the training of the current model.
    fleet : Curve or None
        Of all devices.
    devices : int
        How many those are.
    """

    own: Curve | None
    fleet: Curve | None
    devices: int

    @classmethod
    def of(cls, kind: str, model_id: int | None) -> "Rarity":
        """Those of a detector's kind and of its current model; of the fleet alone without one."""
        row = backend.execute(queries.RARITY, kind, model_id)[0]
        said = parsed(row["own"] or "{}")
        own = Curve.of(said["ordinary_hours"], said["peaks"]) if _HAS_PEAKS(said) else None
        if row["hours"] is None:
            return cls(own, None, 0)
        heights, counts = np.array(row["heights"], float), np.array(row["counts"], float)
        return cls(own, Curve(row["hours"], heights, counts), row["devices"])

    def hours(self, scores: Floats, among: int = 1) -> list[float | None]:
        """Hours between two scores as low as each of `scores` (n,); None where nothing is known.

        What is rare in the fleet is not rare at a device that does it each day, and a device
        alone cannot know what comes once in a month: the lesser of what the two say. The device
        has `among` such models, each of which may be the one that says so.
        """
        found = [curve.hours_between(-scores) for curve in self._known()]
        if not found:
            return [None] * len(scores)
        return [_rounded(hours / among) for hours in np.minimum.reduce(found).tolist()]

    def basis(self) -> Basis | None:
        """What the hours are reckoned from."""
        known = self._known()
        if not known:
            return None
        hours = max(curve.hours for curve in known)
        return {
            "devices": max(self.devices, 1),
            "hours": _rounded(hours),
            "provisional": hours < ENOUGH,
        }

    def _known(self) -> list[Curve]:
        return [curve for curve in (self.own, self.fleet) if curve is not None]


def _rounded(hours: float) -> float:
    return float(f"{hours:.{DIGITS}g}")
