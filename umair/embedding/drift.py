"""A new encoder beside the old one: how far its vectors moved, and whether it knows as many pictures.

N illustrations of a sample that both encoders embedded, D vector width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from umair.errors import ContractError
from umair.neighbours import Indices, NearestIllustrations

MODALITIES = ("semantic", "style")
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
NEIGHBOURS = 10
COVERED = {"illust_id": ("image_vectors", "illustrations", "look at image_rejects, mend the pictures, and run embed_images "
                         "again with --retry-rejects"),
           "text": ("text_vectors", "texts", "run embed_texts again, with the include_titles of before")}
Vectors = npt.NDArray[np.float32]


def measure_drift(vectors: DataFrame, before: str, after: str, *, key: str = "illust_id", kinds: Sequence[str] = MODALITIES,
                  sample: int = 5_000) -> dict[str, Any]:
    """By kind of vector (a column): quantiles of the cosine between the two vectors of an illustration or text, and
    `overlap`, the share of its ten nearest that stay its ten nearest.

    The overlap means the same for any two encoders; cosines are None where the widths differ, and mean little for an encoder
    that was trained anew. `rows`: those looked at, at most `sample`, drawn by a hash of `key`, which tells rows apart.
    """
    old, new = (vectors.filter(F.col("encoder") == encoder).select(
        key, *[F.col(name).alias(f"{name}_{moment}") for name in kinds])
        for moment, encoder in (("before", before), ("after", after)))
    drawn = old.join(new, key, how="inner").orderBy(F.xxhash64(key)).limit(sample).toPandas()
    measured: dict[str, Any] = {"before": before, "after": after, "rows": len(drawn)}
    for name in kinds if len(drawn) > NEIGHBOURS else ():
        columns = (drawn[f"{name}_{moment}"] for moment in ("before", "after"))
        before_ND, after_ND = (np.array(column.tolist(), np.float32) for column in columns)
        overlap = neighbour_overlap(before_ND, after_ND)
        measured[name] = {"cosine": _cosines(before_ND, after_ND), "overlap": round(overlap, 4)}
    return measured


def require_coverage(vectors: DataFrame, present: DataFrame, before: str, after: str, allowed: float, key: str = "illust_id"
                     ) -> dict[str, int]:
    """How many of the illustrations (or texts) that are `present`, by `key`, the old encoder knows, and how many of those
    the new one; what is new this week, which the old one has not tried, counts for neither. Raises ContractError when the
    new one knows fewer, beyond the share `allowed`: a model that is trained on its vectors would be blind where the old
    one saw.
    """
    listed = vectors.join(present.select(key).distinct(), key, how="left_semi")
    known = listed.filter(F.col("encoder") == before).select(key)
    old, new = known.count(), listed.filter(F.col("encoder") == after).join(known, key, how="left_semi").count()
    if new < (1 - allowed) * old:
        table, things, do = COVERED[key]
        raise ContractError(table, f"vectors of {new} {things} by the new encoder {after}, of the {old} that the old "
                            f"{before} knows", f"at least {(1 - allowed):.0%} of {old}",
                            f"{do}; until then nothing switches")
    return {"before": old, "after": new}


def neighbour_overlap(before_ND: Vectors, after_ND: Vectors) -> float:
    """The mean share of each row's ten nearest by cosine in one matrix that are among its ten nearest in the other."""
    one_NK, other_NK = (_nearest(vectors_ND) for vectors_ND in (before_ND, after_ND))
    shared = [len(np.intersect1d(one, other, assume_unique=True)) for one, other in zip(one_NK, other_NK, strict=True)]
    return float(np.mean(shared)) / NEIGHBOURS


def _nearest(vectors_ND: Vectors) -> Indices:
    """[N, K] without the row itself."""
    rows, width = np.arange(len(vectors_ND)), vectors_ND.shape[1]
    return NearestIllustrations(vectors_ND, np.zeros(width), np.ones(width), rows).nearest(rows, NEIGHBOURS)[0]


def _cosines(before_ND: Vectors, after_ND: Vectors) -> dict[str, float] | None:
    if before_ND.shape != after_ND.shape:
        return None
    cosine_N = (_unit(before_ND) * _unit(after_ND)).sum(1)
    return {f"{quantile:g}": round(float(value), 4)
            for quantile, value in zip(QUANTILES, np.quantile(cosine_N, QUANTILES), strict=True)}


def _unit(vectors_ND: Vectors) -> Vectors:
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.divide(vectors_ND, length_N1, out=np.zeros_like(vectors_ND), where=length_N1 > 0)
