"""Is one ranker better than another? Paired intervals by resampling users.

Rows of one user are not independent, so whole users are resampled: in each of R replicates every user counts Poisson(1)
times, for all rankers alike. Each ranker's rows are sorted once; every replicate is then a weighted sum along that order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from umair.metrics import Floats, auc, way

Indices = npt.NDArray[np.int64]
_BLOCK_ELEMENTS = 500_000  # replicates times rows that are held at once: 4 MB an array stays in the cache


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that covers the true value in the stated share of repetitions."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedAucs:
    """AUC of each ranker on the given rows, and on R resamplings of their users that all rankers share."""

    estimate: dict[str, float]
    replicate_R: dict[str, Floats]
    confidence: float

    def auc(self, ranker: str) -> Interval:
        return self._interval(self.estimate[ranker], self.replicate_R[ranker])

    def difference(self, better: str, other: str) -> Interval:
        """AUC of `better` minus AUC of `other`."""
        return self._interval(self.estimate[better] - self.estimate[other],
                              self.replicate_R[better] - self.replicate_R[other])

    def way(self, ranker: str, ceiling: str) -> Interval:
        """(AUC - 0.5) / (AUC of `ceiling` - 0.5)."""
        return self._interval(way(self.estimate[ranker], self.estimate[ceiling]),
                              (self.replicate_R[ranker] - 0.5) / (self.replicate_R[ceiling] - 0.5))

    def _interval(self, estimate: float, replicate_R: Floats) -> Interval:
        if math.isnan(estimate) or np.isnan(replicate_R).all():
            return Interval(estimate, math.nan, math.nan)
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(replicate_R, [tail, 1 - tail])
        return Interval(estimate, float(low), float(high))


def resample_users(user_N: npt.ArrayLike, label_N: npt.ArrayLike, scores: dict[str, Floats], *, replicates: int,
                   confidence: float, seed: int) -> PairedAucs:
    """Resamples users and returns every ranker's AUC in every replicate. Equal arguments give equal results."""
    labels_N = np.asarray(label_N, dtype=np.float64)
    user_of_N = np.unique(np.asarray(user_N), return_inverse=True)[1]
    users = int(user_of_N.max()) + 1 if len(user_of_N) else 0
    rng = np.random.default_rng(seed)
    weight_UR = rng.poisson(1.0, (users, replicates)).astype(np.float64)
    return PairedAucs(
        {name: auc(labels_N, score_N) for name, score_N in scores.items()},
        {name: _weighted_aucs(user_of_N, labels_N, score_N, weight_UR) for name, score_N in scores.items()},
        confidence)


def _weighted_aucs(user_N: Indices, label_N: Floats, score_N: Floats, weight_UR: Floats) -> Floats:
    """AUC_R. P positive and Q negative rows, the negatives by ascending score."""
    positive_N = label_N == 1
    score_P, score_Q = score_N[positive_N], score_N[~positive_N]
    order_Q = np.argsort(score_Q, kind="stable")
    user_P, user_Q, sorted_Q = user_N[positive_N], user_N[~positive_N][order_Q], score_Q[order_Q]
    lower_P, upper_P = np.searchsorted(sorted_Q, score_P, "left"), np.searchsorted(sorted_Q, score_P, "right")
    width = max(1, _BLOCK_ELEMENTS // max(1, len(score_N)))
    parts = [_aucs_of_block(weight_UR[:, first:first + width], user_P, user_Q, lower_P, upper_P)
             for first in range(0, weight_UR.shape[1], width)]
    return np.concatenate(parts)


def _aucs_of_block(weight_UR: Floats, user_P: Indices, user_Q: Indices, lower_P: Indices, upper_P: Indices) -> Floats:
    below_QR = np.zeros((len(user_Q) + 1, weight_UR.shape[1]))
    np.cumsum(weight_UR[user_Q], axis=0, out=below_QR[1:])
    weight_PR, below_PR = weight_UR[user_P], below_QR[lower_P]
    if not np.array_equal(lower_P, upper_P):  # ties, each half a win
        below_PR = (below_PR + below_QR[upper_P]) / 2
    won_R = np.einsum("pr,pr->r", weight_PR, below_PR)
    pairs_R = weight_PR.sum(axis=0) * below_QR[-1]
    return np.divide(won_R, pairs_R, out=np.full(len(won_R), np.nan), where=pairs_R > 0)
