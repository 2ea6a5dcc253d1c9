"""What the forest knows of readings that are to be explained, as numbers in the metrics' units.

In: a model, and readings with their features. Out: what is usual at each one's hour, how far it is
beyond that, where the other metrics let expect it, and how it has moved.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyml.detectors.base import Detection, Signals
from pyml.detectors.features import Features
from pyml.detectors.isolation import Model

Floats = NDArray[np.float64]
Range = tuple[float, float]

# What one in a hundred of normally distributed numbers exceeds, in standard deviations.
ONE_IN_HUNDRED = 2.576
# Share of a window's variance that a step, or a line, has to explain for the value to have moved:
# of a line a step explains 75 %, and of a step a line.
MOVED = 0.8
# A second metric is named where its tie is at least so much of the first one's.
SECOND = 0.5


@dataclass(frozen=True, slots=True)
class Evidence:
    """Readings to explain: their features, and among what other readings they came.

    Attributes
    ----------
    features : Features
    signals : Signals
        What the features were made of.
    rows : ndarray of int, shape (n,)
        Where in `signals` they are.
    """

    features: Features
    signals: Signals
    rows: NDArray[np.intp]

    def of(self, rows: NDArray[np.intp] | slice) -> "Evidence":
        """Some of the readings."""
        return Evidence(self.features.of(rows), self.signals, self.rows[rows])


class Measured:
    """n readings to explain, m metrics. Columns 0 to m are of their values, m to 2 m of spreads.

    Attributes
    ----------
    alone : ndarray of float64, shape (n, 2 m)
        How far each is beyond its hour's usual, in what one in a hundred exceeds: from 1 on it is
        unusual by itself.
    strain : ndarray of float64, shape (n, 2 m)
        How far each is from what all others let expect, likewise.
    beyond : ndarray of float64, shape (n, 2 m)
        As `Features.vectors`; 0 where missing.
    jump : ndarray of float64, shape (n, m)
        How far each value is from the mean of those before it in the first window, in ranges.
    jump_size : ndarray of float64, shape (m,)
        What one in a hundred of these exceeds.
    spans : list of float
        Seconds of the windows.
    """

    def __init__(self, model: Model, found: Detection) -> None:
        evidence = found.evidence
        self.model, self.signals, self.rows = model, evidence.signals, evidence.rows
        self.metrics, self.values = len(model.names), found.values
        self.spans = [window * model.interval for window in model.spans.windows]
        times = self.signals.times[self.rows]
        self.starts = [
            np.searchsorted(self.signals.times, times - span + model.interval / 2)
            for span in self.spans
        ]
        vectors, sizes = evidence.features.vectors, np.array(model.sizes)
        size, self.jump_size = np.split(sizes, [2 * self.metrics])
        self.jump = np.nan_to_num(evidence.features.columns[:, -self.metrics :])
        self.beyond = np.nan_to_num(vectors)
        self.alone = np.abs(self.beyond) / size
        self._usual(times, size)
        self._tied(np.nan_to_num(vectors - np.array(model.together.centre)))

    def _usual(self, times: Floats, size: Floats) -> None:
        """What is usual at each one's hour, in units: what all but one in a hundred keep to."""
        m = self.metrics
        self.centre, self.scale = np.array(self.model.scaling).T
        least, most = np.array(self.model.usual).T
        low, high = self.model.hours.usual(times)
        self.band = low, high  # in ranges
        low, high, margin = (part * np.tile(self.scale, 2) for part in (low, high, size))
        low[:, :m] += self.centre
        high[:, :m] += self.centre
        # Of what no hour has, nothing is said: a range that holds less than nothing.
        floor = np.concatenate([least, np.zeros(m)])
        roof = np.concatenate([most, np.full(m, np.inf)])
        self.low = np.maximum(low - margin, np.minimum(low, floor))
        self.high = np.minimum(high + margin, np.maximum(high, roof))

    def _tied(self, centred: Floats) -> None:
        """How far each number is from what all others let expect."""
        whitening = np.array(self.model.together.whitening)
        precision = whitening @ whitening.T
        own = np.maximum(np.diag(precision), 1e-300)
        pull = centred @ precision
        self.doubt = 1.0 / np.sqrt(own)
        self.strain = np.abs(pull) * self.doubt / ONE_IN_HUNDRED
        self.due = self.beyond - pull / own
        m = self.metrics
        known = np.tile(np.isfinite(self.values), 2)
        self.reach = ((np.abs(centred) + self.doubt) * known).reshape(-1, 2, m)
        self.ties = np.abs(precision).reshape(-1, 2, m)
        self.ties[np.arange(2 * m), :, np.arange(2 * m) % m] = 0.0

    def at_hour(self, i: int, q: int) -> Range:
        """Between what column q of reading i usually is at this hour."""
        return float(self.low[i, q]), float(self.high[i, q])

    def last(self, i: int, j: int, window: int) -> tuple[Floats, Floats]:
        """Times and values of metric j, as far as known, in a window that ends at reading i."""
        rows = slice(int(self.starts[window][i]), int(self.rows[i]) + 1)
        values = self.signals.values[rows, j]
        known = np.isfinite(values)
        return self.signals.times[rows][known], values[known]

    def spread(self, i: int, j: int) -> float:
        """The standard deviation of the values in the first window."""
        return float(self.last(i, j, 0)[1].std())

    def due_at(self, i: int, q: int) -> float | None:
        """Where column q would usually be beside the others; None where it has hardly been."""
        j, due = q % self.metrics, self.due[i, q]
        now, centre = (
            (float(self.values[i, j]), self.centre[j]) if q == j else (self.spread(i, j), 0)
        )
        low, high = self.band[0][i, q], self.band[1][i, q]
        if abs(due) > self.doubt[q]:
            inside = high if due > 0 else low
        else:
            inside = min(max((now - centre) / self.scale[j], low), high)
        near = float(centre + (inside + due) * self.scale[j])
        least, most = self.model.usual[j] if q == j else self.at_hour(i, q)
        told = abs(near - now) > self.doubt[q] * self.scale[j]
        return near if told and least <= near <= most else None

    def tied_to(self, i: int, q: int) -> list[int]:
        """Columns of the one or two metrics that column q is most tied to, among those known."""
        ties = self.ties[q] * self.reach[i]
        whole = ties.sum(axis=0)
        first, *more = np.argsort(-whole, kind="stable")[:2].tolist()
        found = [first] if whole[first] > 0 else []
        found += [j for j in more if found and whole[j] > SECOND * whole[first]]
        return [j + self.metrics * int(ties[1, j] > ties[0, j]) for j in found]


def start_of(times: Floats, values: Floats) -> tuple[float, float] | None:
    """From which value one has moved, and how many seconds ago; None where it only varied."""
    n = len(values)
    centred = values - values.mean()
    whole = float(centred @ centred)
    if n < 3 or not whole > 0:
        return None
    left = np.arange(1, n)
    explained = np.cumsum(centred)[:-1] ** 2 * n / (left * (n - left))
    split = int(explained.argmax()) + 1
    if explained[split - 1] >= MOVED * whole:
        before, after = values[:split].mean(), values[split:].mean()
        if (values[-1] - before) / (after - before) < 0.5:
            return None  # and is nearly back
        return float(before), float(times[-1] - times[split - 1])
    along = times - times.mean()
    if float(along @ centred) ** 2 >= MOVED * whole * float(along @ along):
        return float(values[0]), float(times[-1] - times[0])
    return None
