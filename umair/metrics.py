"""Exact measures of a ranker in numpy, as sums that add: partitions and ranks merge without loss. No Spark, no torch.

Letters in names: N rows, K distinct scores, U users, C calibration bins. A measure that is not defined on its rows
(AUC where one class is missing, a mean of no rows) is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON] before their logarithm: a row costs at most 16.1


@dataclass(frozen=True)
class ScoreCounts:
    """How many positive and negative rows have each distinct score: all that AUC depends on.

    score_K float64 ascending and distinct, positives_K and negatives_K float64 (counts, or sums of row weights).
    """

    score_K: Floats
    positives_K: Floats
    negatives_K: Floats

    @classmethod
    def of(cls, label_N: npt.ArrayLike, score_N: npt.ArrayLike) -> ScoreCounts:
        """Counts the rows of one partition. Labels are 0 or 1. Raises ValueError for another label or a NaN score."""
        labels_N = _labels(label_N)
        score_K, place_N = np.unique(_finite(score_N), return_inverse=True)
        return cls(score_K, _sums(place_N, labels_N, len(score_K)), _sums(place_N, 1 - labels_N, len(score_K)))

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        score_K, place = np.unique(np.concatenate([self.score_K, other.score_K]), return_inverse=True)
        positives = np.concatenate([self.positives_K, other.positives_K])
        negatives = np.concatenate([self.negatives_K, other.negatives_K])
        return ScoreCounts(score_K, _sums(place, positives, len(score_K)), _sums(place, negatives, len(score_K)))

    @property
    def auc(self) -> float:
        """The share of (positive, negative) pairs in which the positive has the higher score; a tie is half a win."""
        below_K = np.cumsum(self.negatives_K) - self.negatives_K
        won = float((self.positives_K * (below_K + self.negatives_K / 2)).sum())
        return ratio(won, float(self.positives_K.sum()) * float(self.negatives_K.sum()))


@dataclass(frozen=True)
class LogLoss:
    """Pure binary cross-entropy in nats: no penalty on weights is part of it."""

    total: float = 0.0
    rows: int = 0

    @classmethod
    def of(cls, label_N: npt.ArrayLike, probability_N: npt.ArrayLike) -> LogLoss:
        """The loss of one partition's rows. Raises ValueError for a label other than 0 and 1 or a NaN."""
        labels_N = _labels(label_N)
        clipped_N = np.clip(_finite(probability_N), EPSILON, 1 - EPSILON)
        said_N = np.where(labels_N == 1, clipped_N, 1 - clipped_N)
        return cls(float(-np.log(said_N).sum()), len(labels_N))

    def __add__(self, other: LogLoss) -> LogLoss:
        return LogLoss(self.total + other.total, self.rows + other.rows)

    @property
    def mean(self) -> float:
        return ratio(self.total, self.rows)


@dataclass(frozen=True)
class GroupedAuc:
    """AUC within each user, averaged. Users with rows of one class only have none and are dropped, and counted.

    Adds over partitions that share no user.
    """

    total: float = 0.0  # sum of AUC over kept users
    row_total: float = 0.0  # sum of AUC times rows over kept users
    kept_users: int = 0
    kept_rows: int = 0
    dropped_users: int = 0
    dropped_rows: int = 0

    @classmethod
    def of(cls, user_N: npt.ArrayLike, label_N: npt.ArrayLike, score_N: npt.ArrayLike) -> GroupedAuc:
        """The sums of one partition's rows; users are integers, labels 0 or 1."""
        rows_U, auc_U = auc_by_user(user_N, label_N, score_N)
        kept_U = ~np.isnan(auc_U)
        return cls(float(auc_U[kept_U].sum()), float((auc_U * rows_U)[kept_U].sum()),
                   int(kept_U.sum()), int(rows_U[kept_U].sum()), int((~kept_U).sum()), int(rows_U[~kept_U].sum()))

    def __add__(self, other: GroupedAuc) -> GroupedAuc:
        return GroupedAuc(
            self.total + other.total, self.row_total + other.row_total,
            self.kept_users + other.kept_users, self.kept_rows + other.kept_rows,
            self.dropped_users + other.dropped_users, self.dropped_rows + other.dropped_rows)

    @property
    def by_rows(self) -> float:
        """Impression-weighted: each kept user counts by the number of rows."""
        return ratio(self.row_total, self.kept_rows)

    @property
    def by_users(self) -> float:
        """Unweighted: each kept user counts once."""
        return ratio(self.total, self.kept_users)


def auc(label_N: npt.ArrayLike, score_N: npt.ArrayLike) -> float:
    """Exact area under the ROC curve, ties half credit; NaN with one class only."""
    return ScoreCounts.of(label_N, score_N).auc


def auc_by_user(user_N: npt.ArrayLike, label_N: npt.ArrayLike, score_N: npt.ArrayLike) -> tuple[Floats, Floats]:
    """rows_U and auc_U (NaN with one class only) by ascending user: one sort, no loop over users."""
    users_N, labels_N, scores_N = np.asarray(user_N), _labels(label_N), _finite(score_N)
    if not len(users_N):
        return np.empty(0), np.empty(0)
    order_N = np.lexsort((scores_N, users_N))
    users_N, labels_N, scores_N = users_N[order_N], labels_N[order_N], scores_N[order_N]
    new_user_N = np.r_[True, users_N[1:] != users_N[:-1]]
    starts_K = np.flatnonzero(new_user_N | np.r_[True, scores_N[1:] != scores_N[:-1]])  # distinct (user, score)
    positives_K, negatives_K = np.add.reduceat(labels_N, starts_K), np.add.reduceat(1 - labels_N, starts_K)
    starts_U = np.flatnonzero(new_user_N[starts_K])  # where each user begins among the K
    positives_U, negatives_U = np.add.reduceat(positives_K, starts_U), np.add.reduceat(negatives_K, starts_U)
    user_K = np.cumsum(new_user_N[starts_K]) - 1
    earlier_U = np.cumsum(negatives_U) - negatives_U  # negatives of other users, which do not count
    below_K = np.cumsum(negatives_K) - negatives_K - earlier_U[user_K]
    won_U = np.add.reduceat(positives_K * (below_K + negatives_K / 2), starts_U)
    pairs_U = positives_U * negatives_U
    return positives_U + negatives_U, np.divide(won_U, pairs_U, out=np.full(len(won_U), np.nan), where=pairs_U > 0)


@dataclass(frozen=True)
class Calibration:
    """Said probability against what happened, in C bins of equal width over [0, 1]; the last bin holds 1 itself."""

    said_C: Floats  # sum of probabilities
    positives_C: Floats
    rows_C: Floats

    @classmethod
    def of(cls, label_N: npt.ArrayLike, probability_N: npt.ArrayLike, bins: int) -> Calibration:
        labels_N, said_N = _labels(label_N), _finite(probability_N)
        bin_N = np.clip((said_N * bins).astype(np.int64), 0, bins - 1)
        return cls(_sums(bin_N, said_N, bins), _sums(bin_N, labels_N, bins), _sums(bin_N, np.ones_like(said_N), bins))

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.said_C + other.said_C, self.positives_C + other.positives_C, self.rows_C + other.rows_C)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between said and happened, bins weighted by rows."""
        return ratio(float(np.abs(self.said_C - self.positives_C).sum()), float(self.rows_C.sum()))


def way(auc: float, ceiling: float) -> float:
    """How far of the way from chance (0.5) to the best possible AUC a ranker gets: 0 is chance, 1 the ceiling."""
    return ratio(auc - 0.5, ceiling - 0.5)


def ratio(part: float, whole: float) -> float:
    """part / whole, NaN when there is nothing to divide by."""
    return part / whole if whole else math.nan


def _sums(place_N: npt.NDArray[np.int64], value_N: Floats, places: int) -> Floats:
    return np.asarray(np.bincount(place_N, value_N, places), dtype=np.float64)


def _labels(label_N: npt.ArrayLike) -> Floats:
    labels = np.asarray(label_N, dtype=np.float64)
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError("labels other than 0 and 1")
    return labels


def _finite(score_N: npt.ArrayLike) -> Floats:
    scores = np.asarray(score_N, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError("NaN among the scores: they have no order")
    return scores


def mean_average_precision(score_NT: npt.NDArray[Any], truth_NT: npt.NDArray[Any]) -> float:
    """The mean over tags of the average precision of ranking the N rows by score; tags that no row carries are left out.

    Rows with equal scores share one threshold, so a constant score gets the tag's share of rows. NaN without any tag.
    """
    return float(np.mean([_average_precision(score_NT[:, tag], truth_NT[:, tag])
                          for tag in np.flatnonzero(truth_NT.any(axis=0))] or [np.nan]))


def _average_precision(score_N: npt.NDArray[Any], truth_N: npt.NDArray[Any]) -> float:
    order_N = np.argsort(-score_N, kind="stable")
    found_N = np.cumsum(truth_N[order_N])
    last = np.flatnonzero(np.diff(score_N[order_N], append=-np.inf))  # last row of each group of equal scores
    precision = found_N[last] / (last + 1)
    return float((np.diff(found_N[last], prepend=0.0) * precision).sum() / found_N[-1])
