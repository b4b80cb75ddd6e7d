"""How well a text encoder finds what belongs together: recall and reciprocal rank on pairs that it was not trained on.

N pairs, C candidates, D vector width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

    from umair.training.text_pairs import TextPairs

Ints = npt.NDArray[np.int64]
Measured = dict[str, Any]  # as JSON holds it
_BLOCK = 512  # queries at once


def measure_pairs(encode: Callable[[list[str]], npt.NDArray[np.float32]], terms: TextPairs, rows: Ints) -> Measured:
    """recall_at_1, recall_at_10, mrr and pairs over all `rows`, and the same by kind and languages under `by`.

    `encode` gives unit vectors. Each pair asks twice, once from each side, among the other sides of all pairs of its kind
    and languages; other known partners of the asking text do not compete, being right answers too. Equal cosines count
    against the pair. The more pairs a group has, the harder it is: compare within a group only.
    """
    ranks = {}
    for group in sorted({terms.group_of(row) for row in rows}):
        own = np.array([row for row in rows if terms.group_of(row) == group])
        ranks[group] = np.concatenate([_ranks(encode, terms, own, asking) for asking in (0, 1)])
    if not ranks:
        return {"pairs": 0, "by": {}}
    return {"pairs": len(rows), **_summary(np.concatenate(list(ranks.values()))),
            "by": {group: {"pairs": len(own) // 2, **_summary(own)} for group, own in ranks.items()}}


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
            ranks[start + line] = 1 + int((cosine_BC[line] >= mine).sum())
    return ranks


def _summary(ranks: Ints) -> dict[str, float]:
    return {"recall_at_1": round(float((ranks <= 1).mean()), 4), "recall_at_10": round(float((ranks <= 10).mean()), 4),
            "mrr": round(float((1 / ranks).mean()), 4)}
