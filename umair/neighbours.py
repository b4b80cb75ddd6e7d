"""Nearest illustrations by a vector: cosine of standardised vectors through FAISS, exact while they are few. No Spark.

N illustrations, P of them searched (the pool), Q queries, D vector width, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[Any]  # fp16 on disk, float32 here
EXACT_MOST = 200_000  # illustrations; beyond, an inverted file: a search looks into PROBES of its lists
PROBES = 32
TRAINED_ON = 64  # vectors for each list's centre
_BLOCK_ROWS = 65_536  # illustrations that are widened from fp16 at once


class NearestIllustrations:
    """An index over the vectors of `pool`, rows of vector_ND, standardised by mean_D and scale_D.

    Standardised, so that one large number does not decide; a number that never varies (scale 0) counts nothing. Up to
    `exact_most` illustrations the search is exact; beyond, it is approximate, and `recall` says by how much.
    """

    def __init__(self, vector_ND: Vectors, mean_D: Vectors, scale_D: Vectors, pool: Indices, *,
                 exact_most: int = EXACT_MOST) -> None:
        self.pool, self.exact = np.asarray(pool, np.int64), len(pool) <= exact_most
        self._vector_ND, self._mean_D, self._scale_D = vector_ND, mean_D, scale_D
        self._index = self._flat() if self.exact else self._inverted_file()
        for start in range(0, len(self.pool), _BLOCK_ROWS):
            self._index.add(self._directions(vector_ND[self.pool[start:start + _BLOCK_ROWS]]))

    def nearest(self, queries: Indices, count: int) -> tuple[Indices, npt.NDArray[np.float32]]:
        """neighbour_QK and cosine_QK of the illustrations `queries`, nearest first, never the query itself.

        Raises ValueError when the pool is too small to fill every row without the query.
        """
        if len(self.pool) <= count:
            raise ValueError(f"{count} neighbours from a pool of {len(self.pool)}; there must be more")
        found_QX, cosine_QX = self.nearest_to(self._vector_ND[queries], count + 1)
        others_QX = found_QX != np.asarray(queries)[:, None]
        others_QX[others_QX.all(1), -1] = False  # the query is not in the pool, or among equals: the farthest goes
        shape = (len(found_QX), count)
        return found_QX[others_QX].reshape(shape), cosine_QX[others_QX].reshape(shape)

    def nearest_to(self, vector_QD: Vectors, count: int) -> tuple[Indices, npt.NDArray[np.float32]]:
        """neighbour_QK and cosine_QK of any vectors of the same kind. -1 where an approximate search found too few."""
        cosine_QK, place_QK = self._index.search(self._directions(vector_QD), count)
        return np.where(place_QK >= 0, self.pool[place_QK], -1), cosine_QK

    def recall(self, queries: Indices, count: int) -> float:
        """The share of the exact nearest of `queries` that this index finds; 1 where it is exact itself."""
        if self.exact:
            return 1.0
        exact = NearestIllustrations(self._vector_ND, self._mean_D, self._scale_D, self.pool, exact_most=len(self.pool))
        found_QK, true_QK = self.nearest(queries, count)[0], exact.nearest(queries, count)[0]
        return float((found_QK[:, :, None] == true_QK[:, None, :]).any(2).mean())

    def _flat(self) -> Any:
        import faiss

        return faiss.IndexFlatIP(self._vector_ND.shape[1])

    def _inverted_file(self) -> Any:
        """FAISS's inverted file of fp16 vectors, about 4 * sqrt(P) lists, their centres trained on a random sample."""
        import faiss

        lists = max(1, min(round(4 * len(self.pool) ** 0.5), len(self.pool) // TRAINED_ON))
        index: Any = faiss.index_factory(self._vector_ND.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).choice(self.pool, min(len(self.pool), TRAINED_ON * lists), replace=False)
        index.train(self._directions(self._vector_ND[np.sort(sample)]))
        index.nprobe = PROBES
        return index

    def _directions(self, vector_XD: Vectors) -> npt.NDArray[np.float32]:
        """Standardised and of length 1; a vector equal to the mean stays zero."""
        centred_XD = np.asarray(vector_XD, dtype=np.float32) - self._mean_D.astype(np.float32)
        standard_XD = np.divide(centred_XD, self._scale_D, out=np.zeros_like(centred_XD), where=self._scale_D > 0)
        length_X1 = np.linalg.norm(standard_XD, axis=1, keepdims=True)
        return np.divide(standard_XD, length_X1, out=np.zeros_like(standard_XD), where=length_X1 > 0)


def approximate_recall(vector_ND: Vectors, count: int, queries: int = 1_000) -> float:
    """What share of the exact nearest an inverted file finds among these vectors, few as they may be: the mean over
    `queries` of them, drawn at random."""
    everything = np.arange(len(vector_ND))
    index = NearestIllustrations(vector_ND, vector_ND.mean(0), vector_ND.std(0), everything, exact_most=0)
    return index.recall(np.random.default_rng(0).permutation(everything)[:queries], count)
