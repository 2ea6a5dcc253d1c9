"""Scores -> tail probabilities in powers of ten: -log10 of the share of scores as high."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyml.forms import listed, number, record

Floats = NDArray[np.float64]

# Of the shares whose quantiles are kept, -log10: down to one score in fifty. None is 0.
LEVELS = np.linspace(-np.log10(0.999), -np.log10(0.02), 18)
# Least mean excess, in ranges of the scores: where all are alike, none is rare for a rounding.
LEAST = 1e-3
# Powers of ten beyond which they count half: one score in a thousand. What is rarer is read off the
# exponential tail alone. Three kinds: as they are, one distance far out on ordinary rows outweighs
# both views elsewhere, and .81 instead of .83 of the events are found at one false alarm a day; a
# quarter finds .84, but then what is far out is hardly rarer than what comes once a week.
TRUSTED, BEYOND = 3.0, 0.5
# Nothing is rarer.
MOST = 300.0


@dataclass(frozen=True, slots=True)
class Tail:
    """How rare a score is; higher scores are rarer.

    Beyond one score in fifty the tail is taken for exponential (Pickands 1975: excesses over a
    high threshold are nearly so for most distributions).

    Attributes
    ----------
    scores : tuple of float
        Those that the shares of `LEVELS` reach.
    excess : float
        Mean excess over the last of them.
    """

    scores: tuple[float, ...]
    excess: float

    @classmethod
    def of(cls, scores: Floats) -> "Tail":
        """The tail of ordinary scores (n,)."""
        kept = np.quantile(scores, 1.0 - 10.0**-LEVELS)
        beyond = scores[scores > kept[-1]] - kept[-1]
        least = LEAST * (1.0 + float(np.ptp(kept)))
        return cls(tuple(kept.tolist()), max(float(beyond.mean()) if len(beyond) else 0.0, least))

    @classmethod
    def of_json(cls, meta: dict[str, Any]) -> "Tail":
        """What JSON kept of it."""
        return cls(tuple(meta["scores"]), meta["excess"])

    def powers(self, scores: Floats) -> Floats:
        """-log10 of the share of ordinary scores that are as high as each of `scores` (n,).

        Beyond `TRUSTED` it grows half as fast.
        """
        last = self.scores[-1]
        inside = np.interp(scores, self.scores, LEVELS)
        beyond = LEVELS[-1] + (scores - last) / (self.excess * np.log(10.0))
        powers = np.where(scores > last, beyond, inside)
        powers = np.minimum(powers, TRUSTED) + BEYOND * np.maximum(powers - TRUSTED, 0.0)
        return np.asarray(np.minimum(powers, MOST))


_FORM = record(
    scores=listed(number(), len(LEVELS), len(LEVELS)),
    excess=number(LEAST),
)


def is_tail(value: Any) -> bool:
    """Whether a value is a `Tail` as JSON has it."""
    return _FORM(value) and sorted(value["scores"]) == value["scores"]
