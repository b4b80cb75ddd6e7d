"""What do neighbours share? Precision among the nearest, where the answer is known.

N pictures, K neighbours, G groups, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Vectors = npt.NDArray[Any]
_BLOCK_ROWS = 1_024


@dataclass(frozen=True)
class Precision:
    """Mean over queries, its 95 % interval over resampled groups, and what random neighbours would get."""

    mean: float
    low: float
    high: float
    chance: float


def standardised(vector_ND: Vectors) -> Vectors:
    """Every number in deviations from its mean; one that never varies becomes 0."""
    centred_ND = vector_ND - vector_ND.mean(0)
    deviation_D = centred_ND.std(0)
    result: Vectors = np.divide(centred_ND, deviation_D, out=np.zeros_like(centred_ND), where=deviation_D > 0)
    return result


def precision_among_others(vector_ND: Vectors, wanted_N: Labels, other_N: Labels, count: int, *, resamplings: int = 1_000,
                           seed: int = 0) -> Precision:
    """Of each picture's `count` nearest by cosine, among those with another `other`: the share that has its `wanted`.

    With styles wanted and contents other, it asks for the same style in other contents: whoever finds the same content
    gains nothing. Intervals resample the wanted groups, within which queries are alike.
    """
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    unit_ND = np.divide(vector_ND, length_N1, out=np.zeros_like(vector_ND), where=length_N1 > 0)
    hits_N, chance_N = np.empty(len(unit_ND)), np.empty(len(unit_ND))
    for start in range(0, len(unit_ND), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        cosine_BN = unit_ND[block] @ unit_ND.T
        allowed_BN = other_N[block, None] != other_N[None, :]
        cosine_BN[~allowed_BN] = -np.inf
        near_BK = np.argpartition(-cosine_BN, count - 1, axis=1)[:, :count]
        same_BN = (wanted_N[block, None] == wanted_N[None, :]) & allowed_BN
        hits_N[block] = np.take_along_axis(same_BN, near_BK, 1).mean(1)
        chance_N[block] = same_BN.sum(1) / allowed_BN.sum(1)
    group_N = np.unique(wanted_N, return_inverse=True)[1]
    sum_G, size_G = np.bincount(group_N, hits_N), np.bincount(group_N)
    drawn_RG = np.random.default_rng(seed).integers(0, len(sum_G), (resamplings, len(sum_G)))
    mean_R = sum_G[drawn_RG].sum(1) / size_G[drawn_RG].sum(1)
    low, high = np.quantile(mean_R, [0.025, 0.975])
    return Precision(float(hits_N.mean()), float(low), float(high), float(chance_N.mean()))
