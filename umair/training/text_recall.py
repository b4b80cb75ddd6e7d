"""How well a text encoder finds what belongs together: recall and reciprocal rank on pairs that it was not trained on.

N pairs, C candidates, D vector width, W works, F figures, R resamplings, S runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from umair.training.text_pairs import TextPairs

Ints = npt.NDArray[np.int64]
Ranked = dict[str, tuple[Ints, Ints]]
Measured = dict[str, Any]  # as JSON holds it
FIGURES = ("recall_at_1", "recall_at_10", "mrr")
MOMENTS = ("before", "after")  # training
_BLOCK = 512  # queries at once


def rank_pairs(encode: Callable[[list[str]], npt.NDArray[np.float32]], terms: TextPairs, rows: Ints) -> Ranked:
    """By kind and languages: the rows of that group, and the place [n, 2] of each pair's own answer, from 1, asked from
    either side.

    `encode` gives unit vectors. Each pair asks twice, once from each side, among the other sides of all pairs of its kind
    and languages; other known partners of the asking text do not compete, being right answers too. Equal cosines count
    against the pair. The more pairs a group has, the harder it is: compare within a group only.
    """
    ranked = {}
    for group in sorted({terms.group_of(row) for row in rows}):
        own = np.array([row for row in rows if terms.group_of(row) == group])
        ranked[group] = own, np.stack([_ranks(encode, terms, own, asking) for asking in (0, 1)], axis=1)
    return ranked


def summary_of(ranked: Ranked) -> Measured:
    """recall_at_1, recall_at_10, mrr and pairs over all that `rank_pairs` found, and the same by group under `by`."""
    if not ranked:
        return {"pairs": 0, "by": {}}
    found = {group: {"pairs": len(own), **_summary(rank_N2)} for group, (own, rank_N2) in ranked.items()}
    all_N2 = np.concatenate([rank_N2 for _, rank_N2 in ranked.values()])
    return {"pairs": len(all_N2), **_summary(all_N2), "by": found}


def _ranks(encode: Callable[[list[str]], npt.NDArray[np.float32]], terms: TextPairs, rows: Ints, asking: int) -> Ints:
    """The place of each pair's own answer, from 1."""
    query_N, answer_N = terms.pair_N2[rows, asking], terms.pair_N2[rows, 1 - asking]
    candidate_C, own_N = np.unique(answer_N, return_inverse=True)
    query_ND, candidate_CD = (encode(terms.texts_at(positions)) for positions in (query_N, candidate_C))
    place_of = {int(text): place for place, text in enumerate(candidate_C)}
    ranks = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        cosine_BC = query_ND[block] @ candidate_CD.T
        for line, (query, own) in enumerate(zip(query_N[block], own_N[block], strict=True)):
            mine = cosine_BC[line, own]
            aside = [place_of[text] for text in (int(query), *terms.partners_of(int(query))) if text in place_of]
            cosine_BC[line, aside] = -np.inf
            ranks[start + line] = 1 + int((~(cosine_BC[line] < mine)).sum())  # last of all where it is no number
    return ranks


def figures_of(rank_N2: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """What each pair adds to recall_at_1, recall_at_10 and mrr: [N], the mean of its two sides."""
    values = (rank_N2 <= 1).mean(1), (rank_N2 <= 10).mean(1), (1 / rank_N2).mean(1)
    return dict(zip(FIGURES, values, strict=True))


def recall_intervals(runs: list[dict[str, Any]], groups: Collection[str], *, resamplings: int = 1_000, seed: int = 0
                     ) -> Measured:
    """pairs (mean over runs) and, for each of FIGURES, before, after and gain as (mean, low, high), over `groups` together.

    `runs`: what `train_text_encoder` says under `ranked`, one for each seed, which holds out works of its own. The 95 %
    interval is of the mean over these runs: a resampling draws, in each, as many works as it holds out, since pairs of one
    work are found or missed together. By how much another training would differ on the same works is not in it. Raises
    ValueError where no run has a pair of these groups.
    """
    chance = np.random.default_rng(seed)
    found = [pairs for run in runs if (pairs := _pairs_of(run, groups)) is not None]
    if not found:
        raise ValueError(f"no held-out pair in {', '.join(sorted(groups))}")
    mean_SF = np.stack([value_NF.mean(0) for _, value_NF in found])
    replicate_RF = np.stack([_resampled(work_N, value_NF, resamplings, chance) for work_N, value_NF in found]).mean(0)
    low_F, high_F = np.quantile(replicate_RF, [0.025, 0.975], axis=0)
    columns = np.stack([mean_SF.mean(0), low_F, high_F], axis=1).round(4).tolist()
    names = [(figure, moment) for moment in (*MOMENTS, "gain") for figure in FIGURES]
    mean_pairs = float(np.mean([len(work_N) for work_N, _ in found]))
    result: Measured = {"pairs": round(mean_pairs), **{name: {} for name in FIGURES}}
    for (figure, moment), triple in zip(names, columns, strict=True):
        result[figure][moment] = triple
    return result


def _pairs_of(run: dict[str, Any], groups: Collection[str]) -> tuple[Ints, npt.NDArray[np.float64]] | None:
    """Works [N] and figures [N, F] before, after and gained, of the run's pairs in these groups; None without any."""
    there = [run[group] for group in groups if group in run]
    if not there:
        return None
    before_NF, after_NF = (np.stack(list(figures_of(np.concatenate([np.array(each[moment]) for each in there])).values()), 1)
                           for moment in MOMENTS)
    work_N = np.concatenate([np.array(each["work"]) for each in there])
    return work_N, np.concatenate([before_NF, after_NF, after_NF - before_NF], axis=1)


def _resampled(work_N: Ints, value_NF: npt.NDArray[np.float64], resamplings: int, chance: np.random.Generator
               ) -> npt.NDArray[np.float64]:
    """Means [R, F] over as many works as there are, drawn with replacement."""
    place_N = np.unique(work_N, return_inverse=True)[1]
    size_W = np.bincount(place_N)
    sum_WF = np.stack([np.bincount(place_N, column) for column in value_NF.T], axis=1)
    times_RW = chance.multinomial(len(size_W), np.full(len(size_W), 1 / len(size_W)), resamplings)
    means: npt.NDArray[np.float64] = (times_RW @ sum_WF) / (times_RW @ size_W)[:, None]
    return means


def _summary(rank_N2: Ints) -> dict[str, float]:
    return {name: round(float(value_N.mean()), 4) for name, value_N in figures_of(rank_N2).items()}
