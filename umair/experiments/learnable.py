"""What can be learned: a ridge regression for each user on the world's own factors, from the rows that rankers train on.

A ranker sees vectors, not factors; but it reads counters and the user's history up to the row, where this reference stops
with the training window, so it can be passed. Training rows say nothing of a cold illustration's popularity: for cold rows
by themselves there is a reference without. That of all rows knows the true popularity of cold illustrations too, as one
regression must rank them all: it is the stricter by that. More factors can be worse where a user has few rows: which of
them help is chosen on the validation window, for cold rows on its cold ones; the ridge on all its rows.
N rows, U users, F factors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from umair.metrics import auc

Floats = npt.NDArray[np.float64]
SCORED_AT_ONCE = 20_000  # rows
RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0)  # tried; the validation window chooses


class Known(NamedTuple):
    """The factors of each illustration, and further ones that are taken only if they help: its artist, its tags."""

    factor_IF: Floats
    popularity_I: Floats
    further: Sequence[Floats] = ()  # each [I, F], about 1 where it holds: standardised, rare ones would be blown up


class Learnable(NamedTuple):
    """Scores of the test rows. The two are of different regressions, and not to be ranked together."""

    all_N: Floats
    cold_N: Floats  # without popularity, for rows of illustrations that no training row is about


def learnable_scores(train: Any, valid: Any, test: Any, known: Known) -> Learnable:
    """What each regression learns of the test rows. Windows have user_N, item_N and label_N."""
    whole_IF = np.concatenate([known.factor_IF, known.popularity_I[:, None]], 1)
    every_N = np.ones(len(valid.label_N), np.bool_)
    cold_N = ~np.isin(valid.item_N, train.item_N)
    cold_N = cold_N if len(np.unique(valid.label_N[cold_N])) == 2 else every_N  # without both labels nothing can be chosen
    return Learnable(*(_best(train, valid, test, factor_IF, known.further, judged_N)
                       for factor_IF, judged_N in ((whole_IF, every_N), (known.factor_IF, cold_N))))


def _best(train: Any, valid: Any, test: Any, factor_IF: Floats, further: Sequence[Floats], judged_N: npt.NDArray[np.bool_]
          ) -> Floats:
    """Of every choice of further factors, each with the ridge that suits the validation window, the one that is best on the
    judged rows of it."""
    factor_IF = (factor_IF - factor_IF.mean(0)) / np.maximum(factor_IF.std(0), 1e-9)
    found = []
    for chosen in itertools.chain.from_iterable(itertools.combinations(further, count) for count in range(len(further) + 1)):
        all_IF = np.concatenate([factor_IF, *chosen], 1)
        fits = [(fit_UF := fit_users(train, all_IF, ridge), score_users(fit_UF, valid, all_IF)) for ridge in RIDGES]
        fit_UF, valid_N = max(fits, key=lambda fit: auc(valid.label_N, fit[1]))
        found.append((auc(valid.label_N[judged_N], valid_N[judged_N]), fit_UF, all_IF))
    _, fit_UF, all_IF = max(found, key=lambda each: each[0])
    return score_users(fit_UF, test, all_IF)


def fit_users(rows: Any, factor_IF: Floats, ridge: float) -> Floats:
    """[U + 1, F + 1]: each user's weights and rate, pulled toward all users' weights as if by `ridge` rows of theirs; last,
    and of a user without a row, those of all users."""
    users = int(rows.user_N.max()) + 1
    rate, common_F = _common(rows, factor_IF)
    fit = np.tile(np.r_[common_F, rate], (users + 1, 1))
    order_N = np.argsort(rows.user_N, kind="stable")
    bounds = np.searchsorted(rows.user_N[order_N], np.arange(users + 1))
    for user in range(users):
        mine = order_N[bounds[user]:bounds[user + 1]]
        if not len(mine):
            continue
        own_rate = (rows.label_N[mine].sum() + 10 * rate) / (len(mine) + 10)
        factor_NF = factor_IF[rows.item_N[mine]]
        left_N = rows.label_N[mine] - own_rate - factor_NF @ common_F
        fit[user, :-1] += _ridge(factor_NF, left_N, ridge)
        fit[user, -1] = own_rate
    return fit


def _ridge(factor_NF: Floats, left_N: Floats, ridge: float) -> Floats:
    """The F weights, by as many equations as there are rows or factors, whichever are fewer."""
    rows, factors = factor_NF.shape
    if rows < factors:
        dual_F: Floats = factor_NF.T @ np.linalg.solve(factor_NF @ factor_NF.T + ridge * np.eye(rows), left_N)
        return dual_F
    weight_F: Floats = np.linalg.solve(factor_NF.T @ factor_NF + ridge * np.eye(factors), factor_NF.T @ left_N)
    return weight_F


def score_users(fit_UF: Floats, rows: Any, factor_IF: Floats) -> Floats:
    """Scores of rows; a user without a training row has the weights of all users, which stand last."""
    known = np.minimum(rows.user_N, len(fit_UF) - 1)
    parts = []
    for part in np.array_split(np.arange(len(known)), max(1, len(known) // SCORED_AT_ONCE)):
        weight_NF = fit_UF[known[part]]
        parts.append(np.einsum("nf,nf->n", weight_NF[:, :-1], factor_IF[rows.item_N[part]]) + weight_NF[:, -1])
    return np.concatenate(parts)


def _common(rows: Any, factor_IF: Floats) -> tuple[float, Floats]:
    """All users' rate, and their common regression on the factors: sums over illustrations, of which there are fewer."""
    rate, items = float(rows.label_N.mean()), len(factor_IF)
    count_I, left_I = (np.bincount(rows.item_N, weights, items) for weights in (None, rows.label_N - rate))
    square_FF = (factor_IF.T * count_I) @ factor_IF + np.eye(factor_IF.shape[1])
    return rate, np.linalg.solve(square_FF, factor_IF.T @ left_I)
