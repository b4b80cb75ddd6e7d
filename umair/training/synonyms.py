"""Which tags are words for one thing, by the site's own text pairs: what 猫, ねこ and cat have in common.

A catalogue in three languages spreads each concept over many tags, and each of them is then a rare label. N rows.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SAME_MEANING = "multilingual"  # the kind of pairs that name one thing twice, in two languages or in one


def concept_names(term_files: list[str]) -> dict[str, str]:
    """Text -> the name of its concept, for every text in a pair of kind `multilingual`.

    Texts that pairs connect, however indirectly, are one concept; it is named by its first text in order of the alphabet.
    One wrong pair joins two concepts, so leave this off where the pairs are not clean.
    """
    pairs = ds.dataset(term_files, format="parquet").to_table(columns=["text_a", "text_b"],
                                                              filter=ds.field("kind") == SAME_MEANING)
    texts = np.unique(np.array(pairs["text_a"].to_pylist() + pairs["text_b"].to_pylist(), dtype=str))
    if len(texts) == 0:
        return {}
    ends = [np.searchsorted(texts, np.array(pairs[side].to_pylist(), dtype=str)) for side in ("text_a", "text_b")]
    graph = coo_matrix((np.ones(len(pairs), dtype=np.int8), ends), shape=(len(texts), len(texts)))
    _, concept = connected_components(graph, directed=False)
    _, first = np.unique(concept, return_index=True)  # texts are sorted, so the first one is the concept's name
    return dict(zip(texts.tolist(), texts[first[concept]].tolist(), strict=True))


def merge_synonyms(tags_N: pa.ListArray, names: dict[str, str]) -> pa.ListArray:
    """Each row's tags by the names of their concepts, each once, in alphabetical order; other tags stay themselves."""
    flat = pc.list_flatten(tags_N)
    place = pc.index_in(flat, value_set=pa.array(list(names), pa.string()))
    named = pc.coalesce(pa.array(list(names.values()), pa.string()).take(place), flat)
    table = pa.table({"row": pc.list_parent_indices(tags_N), "tag": named}).group_by(["row", "tag"]).aggregate([])
    ordered = table.sort_by([("row", "ascending"), ("tag", "ascending")]).combine_chunks()
    offsets = np.searchsorted(ordered["row"].to_numpy(), np.arange(len(tags_N) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), ordered["tag"].combine_chunks())
