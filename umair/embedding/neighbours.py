"""Nearest illustrations by a vector: exact cosine of standardised vectors, block by block. No index, no Spark.

N illustrations, Q queries, D vector width, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[Any]  # fp16 on disk, float32 here
_BLOCK_ROWS = 8_192  # illustrations that are widened from fp16 at once


def nearest(vector_ND: Vectors, mean_D: Vectors, scale_D: Vectors, queries: Indices, pool: Indices, count: int
            ) -> tuple[Indices, npt.NDArray[np.float32]]:
    """neighbour_QK and cosine_QK, nearest first, among `pool`, never the query itself.

    Vectors are standardised by `mean_D` and `scale_D`, so that one large number does not decide; a number that never
    varies (scale 0) counts nothing. Equal cosines go by their order in `pool`.
    Raises ValueError when the pool is too small to fill every row without the query.
    """
    if len(pool) <= count:
        raise ValueError(f"{count} neighbours from a pool of {len(pool)}; there must be more")
    query_QD = _directions(vector_ND[queries], mean_D, scale_D)
    best_QK = np.empty((len(queries), 0), dtype=np.int64)
    cosine_QK = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(pool), _BLOCK_ROWS):
        block = pool[start:start + _BLOCK_ROWS]
        cosine_QB = query_QD @ _directions(vector_ND[block], mean_D, scale_D).T
        cosine_QB[queries[:, None] == block[None, :]] = -np.inf
        best_QK = np.concatenate([best_QK, np.broadcast_to(block, cosine_QB.shape)], axis=1)
        cosine_QK = np.concatenate([cosine_QK, cosine_QB], axis=1)
        order_QK = np.argsort(-cosine_QK, axis=1, kind="stable")[:, :count]
        best_QK, cosine_QK = np.take_along_axis(best_QK, order_QK, 1), np.take_along_axis(cosine_QK, order_QK, 1)
    return best_QK, cosine_QK


def _directions(vector_XD: Vectors, mean_D: Vectors, scale_D: Vectors) -> npt.NDArray[np.float32]:
    """Standardised and of length 1; a vector equal to the mean stays zero."""
    centred_XD = np.asarray(vector_XD, dtype=np.float32) - mean_D.astype(np.float32)
    standard_XD = np.divide(centred_XD, scale_D, out=np.zeros_like(centred_XD), where=scale_D > 0)
    length_X1 = np.linalg.norm(standard_XD, axis=1, keepdims=True)
    return np.divide(standard_XD, length_X1, out=np.zeros_like(standard_XD), where=length_X1 > 0)
