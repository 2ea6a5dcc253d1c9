"""Detectors to compare with: scikit-learn's, on the values of a recording.

Each takes the rows to train on, the rows to score and a seed, and gives the scores of both,
higher for more anomalous rows.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest

Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]

SPANS = (5, 15, 60)  # minutes


def deviation(values: Floats, window: int) -> Floats:
    """Standard deviation over the trailing `window` rows, as if the first had come before too."""
    padded = np.vstack([np.repeat(values[:1], window - 1, axis=0), values])
    found: Floats = sliding_window_view(padded, window, axis=0).std(axis=-1)
    return found


def isolation(train: Floats, day: Floats, seed: int) -> Scores:
    """Scores of an Isolation Forest."""
    forest = IsolationForest(n_estimators=100, random_state=seed).fit(train)
    return -forest.score_samples(train), -forest.score_samples(day)


def mahalanobis(train: Floats, day: Floats) -> Scores:
    """Logarithm of the distance from the mean, each column in its standard deviations."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread == 0] = 1.0
    train, day = (train - mean) / spread, (day - mean) / spread
    fitted = LedoitWolf().fit(train)
    return np.log(fitted.mahalanobis(train) + 1e-9), np.log(fitted.mahalanobis(day) + 1e-9)


def tail(train: Floats, score: Floats) -> Floats:
    """Minus the logarithm of the share of the training's scores that are as high or higher."""
    as_high = len(train) - np.searchsorted(np.sort(train), score)
    return -np.log((as_high + 1) / (len(train) + 1))


def baselines(values: Floats, minutes: float) -> dict[str, Callable[[slice, slice, int], Scores]]:
    """The detectors by name, over a recording with a row every `minutes`."""
    spreads = {span: deviation(values, max(2, round(span / minutes))) for span in SPANS}
    one = np.hstack([values, spreads[15]])
    three = np.hstack([values, *spreads.values()])

    def noise(train: slice, day: slice, seed: int) -> Scores:
        draw = np.random.default_rng((seed, day.start))
        return draw.random(train.stop - train.start), draw.random(day.stop - day.start)

    def both(train: slice, day: slice, seed: int) -> Scores:
        views = [isolation(three[train], three[day], seed), mahalanobis(one[train], one[day])]
        before, now = (sum(tail(view[0], view[i]) for view in views) for i in range(2))
        return np.asarray(before), np.asarray(now)

    return {
        "random": noise,
        "forest, values": lambda t, d, seed: isolation(values[t], values[d], seed),
        "forest, 5 15 60": lambda t, d, seed: isolation(three[t], three[d], seed),
        "Mahalanobis, 15": lambda t, d, seed: mahalanobis(one[t], one[d]),
        "both, tails": both,
    }
