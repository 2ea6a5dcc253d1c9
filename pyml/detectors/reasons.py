"""Why a reading is unusual: what of the forest's own evidence makes each metric's case.

In: readings with their evidence. Out: reasons, each with a kind (`pyml.detectors.sentences.KINDS`)
and the numbers behind it in a sentence.
"""

import math
from collections.abc import Mapping

import numpy as np

from pyml.detectors import sentences
from pyml.detectors.base import Detection, Reason
from pyml.detectors.evidence import Measured, Range, start_of
from pyml.detectors.isolation import Model

# By which share of its usual range a value has to have left it before it came back.
CLEAR = 0.1
# Beyond what one in a hundred exceeds; a number at its limit is not.
UNUSUAL = 1.0 + 1e-6
# Digits of a value end before its own limits' do.
SAME = 1e-9

Case = tuple[str, str]
"""Kind and sentence."""


class Cases:
    """The case of each metric of readings.

    Parameters
    ----------
    model : Model
    found : Detection
        Whose evidence is `pyml.detectors.evidence.Evidence`.
    units : mapping of str
        By metric.
    """

    def __init__(self, model: Model, found: Detection, units: Mapping[str, str]) -> None:
        self.model, self.units = model, [units.get(name, "") for name in model.names]
        with np.errstate(all="ignore"):  # of a model that no training has made
            self.seen = Measured(model, found)
        self.by_hour = len(model.hours.low) > 1

    def reason(self, i: int, j: int, gain: float) -> Reason:
        """Why metric j makes reading i unusual."""
        value, (low, high) = float(self.seen.values[i, j]), self.model.usual[j]
        with np.errstate(all="ignore"):
            kind, sentence = self._case(i, j, value, (low, high))
        return {
            "metric": self.model.names[j],
            "kind": kind,
            "sentence": sentence,
            "value": value if math.isfinite(value) else None,
            "usual_low": low,
            "usual_high": high,
            "contribution": round(gain, 4),
        }

    def _case(self, i: int, j: int, value: float, usual: Range) -> Case:
        if not math.isfinite(value):
            return "missing", sentences.missing(*self._named(j), usual)
        seen, k = self.seen, len(self.units) + j
        outside = _outside(value, usual)
        place, spread = seen.alone[i, j], seen.alone[i, k]
        if outside:
            return self._placed(i, j, value, usual, outside)
        jump = abs(seen.jump[i, j]) / seen.jump_size[j]
        if jump >= UNUSUAL and jump > max(place, spread):
            return self._jumped(i, j, value)
        if spread >= UNUSUAL and spread > place:
            return self._unsteady(i, j)
        if place >= UNUSUAL:
            return self._placed(i, j, value, usual, outside)
        if max(seen.strain[i, j], seen.strain[i, k]) < 1:
            _, last = seen.last(i, j, -1)
            lowest, highest = float(last.min()), float(last.max())
            clear = CLEAR * (usual[1] - usual[0])
            if lowest < usual[0] - clear or highest > usual[1] + clear:
                name, unit = self._named(j)
                over = seen.spans[-1]
                return "restless", sentences.ranged(name, unit, lowest, highest, over, usual)
        return "together", self._together(i, j, value, usual)

    def _placed(self, i: int, j: int, value: float, usual: Range, outside: int) -> Case:
        """Where the value is makes the case."""
        if not self.by_hour and not outside:
            middle = self.model.scaling[j][0]
            return "far", sentences.far(*self._named(j), value, usual, middle)
        side = self.seen.beyond[i, j] or outside
        kind = "high" if side > 0 else "low"
        if side * outside <= 0:
            kind += " for this hour"
        hour = self.seen.at_hour(i, j) if self.by_hour else None
        return kind, sentences.placed(*self._named(j), value, usual, hour)

    def _jumped(self, i: int, j: int, value: float) -> Case:
        """How far the value is from those before it makes the case."""
        over, near = self.seen.spans[0], self.seen.jump_size[j] * self.model.scaling[j][1]
        before = float(self.seen.last(i, j, 0)[1][:-1].mean())
        said = sentences.jumped(*self._named(j), before, value, over, float(near))
        return "rose" if value > before else "fell", said

    def _unsteady(self, i: int, j: int) -> Case:
        """How the value has moved makes the case."""
        k, over = len(self.units) + j, self.seen.spans[0]
        usual, more = self.seen.at_hour(i, k), self.seen.beyond[i, k] > 0
        times, last = self.seen.last(i, j, 0)
        start = start_of(times, last) if more else None
        if start is None:
            spread, kind = float(last.std()), "restless" if more else "still"
            return kind, sentences.varied(*self._named(j), spread, over, usual, self.by_hour)
        before, now, within = start[0], float(last[-1]), start[1]
        moved = sentences.moved(*self._named(j), before, now, within, over, usual)
        return "rose" if now > before else "fell", moved

    def _together(self, i: int, j: int, value: float, usual: Range) -> str:
        """What the other metrics let expect makes the case."""
        seen, k, over = self.seen, len(self.units) + j, self.seen.spans[0]
        q = j if seen.strain[i, j] >= seen.strain[i, k] else k
        others = [self._beside(i, column) for column in seen.tied_to(i, q)]
        due = seen.due_at(i, q) if others and seen.strain[i, q] >= 1 else None
        if due is not None and q == j:
            return sentences.expected(*self._named(j), value, due, others)
        if due is not None:
            return sentences.expected_spread(*self._named(j), seen.spread(i, j), due, over, others)
        others = others or [sentences.own_past(self.units[j], seen.spread(i, j), over)]
        return sentences.together(*self._named(j), value, usual, others)

    def _beside(self, i: int, q: int) -> str:
        """How a metric is beside which another one is unusual."""
        j = q % len(self.units)
        if q == j:
            return sentences.at(*self._named(j), float(self.seen.values[i, j]))
        return sentences.varying(*self._named(j), self.seen.spread(i, j))

    def _named(self, j: int) -> tuple[str, str]:
        return self.model.names[j], self.units[j]


def _outside(value: float, usual: Range) -> int:
    """On which side of its usual range a value is: 1 above, -1 below, 0 within."""
    if any(math.isclose(value, end, rel_tol=SAME) for end in usual):
        return 0
    return (value > usual[1]) - (value < usual[0])
