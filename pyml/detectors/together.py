"""How far all metrics together are from where they usually are.

References
----------
Mahalanobis, "On the generalised distance in statistics", 1936. Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", 2004.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = list[list[float]]

# Least variance of a combination of metrics, in squared ranges of the training: metrics that
# always move together may part by a thousandth.
LEAST_VARIANCE = 1e-6
# Distances are in steps of this: BLAS rounds differently for different batch sizes.
STEP = 4096


@dataclass(frozen=True, slots=True)
class Together:
    """Usual places of vectors of k numbers.

    Attributes
    ----------
    centre : list, length k
    whitening : list, shape (k, k)
        After which usual vectors are uncorrelated and of size 1.
    """

    centre: list[float]
    whitening: Rows

    @classmethod
    def of(cls, vectors: Floats) -> "Together":
        """Those of usual vectors (n, k); what is missing (NaN) is as usual."""
        from sklearn.covariance import LedoitWolf

        centre = _means(vectors)
        centred = np.nan_to_num(vectors - centre)
        if len(vectors) > 1:
            fitted = LedoitWolf(assume_centered=True, store_precision=False).fit(centred)
            covariance = fitted.covariance_
        else:
            covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
        variance, axes = np.linalg.eigh(covariance)
        whitening = axes / np.sqrt(np.maximum(variance, LEAST_VARIANCE))
        return cls(centre.tolist(), whitening.tolist())

    def distance(self, vectors: Floats) -> Floats:
        """Logarithm of 1 + the squared distance of vectors (n, k), in steps of 1 / `STEP`."""
        centred = np.nan_to_num(vectors - np.array(self.centre))
        square = ((centred @ np.array(self.whitening)) ** 2).sum(axis=1)
        return np.asarray(np.rint(np.log1p(square) * STEP) / STEP)


def _means(vectors: Floats) -> Floats:
    known = np.isfinite(vectors)
    return np.asarray(np.where(known, vectors, 0.0).sum(axis=0) / np.maximum(1, known.sum(axis=0)))
