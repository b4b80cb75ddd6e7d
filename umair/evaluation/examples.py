"""What the report shows of single users and illustrations, and the one number a kind that keeps it honest.

Q queries, K neighbours, N illustrations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from umair.config import Section
from umair.evaluation.contributions import CONTRIBUTION, MATCH, TRUE, agreement, sample_users
from umair.evaluation.thumbnails import thumbnail
from umair.neighbours import Indices
from umair.picture import PictureLimits
from umair.training.features import Features
from umair.training.packing import STATIC_FIELDS

LOOKS = {"style": "by style", "semantic": "by content", "text": "by tags"}  # vector modality -> what the page calls its row
_COLUMNS = {CONTRIBUTION: "contribution of each modality", MATCH: "what moves the scores", TRUE: "true weights"}
Line = dict[str, Any]


class ExamplesConfig(Section):
    """How many users and illustrations the report shows."""

    users: int = Field(12, ge=0, le=100)  # whose weights are shown
    fewest_rows: int = Field(10, ge=1)  # test rows of a user below which a mean says little
    illustrations: int = Field(6, ge=0, le=100)  # whose neighbours are shown
    neighbours: int = Field(6, ge=1, le=12)  # of each, by style and by semantic vector
    pool: int = Field(100_000, ge=2)  # illustrations searched; of more, a random sample
    measured: int = Field(300, ge=1)  # queries whose neighbours are counted
    thumbnail: int = Field(112, ge=32, le=256)  # pixels
    tags: int = Field(4, ge=0)  # in a caption
    seed: int = 0  # of what is drawn


def weight_examples(weights: DataFrame, true: DataFrame | None, config: ExamplesConfig
                    ) -> tuple[list[Line], list[str], Line]:
    """Users as the page shows them, the names of their columns, and what report.json says of all users.

    weights: `contributions.user_weights`; true: `contributions.read_true_weights` or None.
    """
    joined = weights if true is None else weights.join(true, "user_index", how="left")
    groups = {group: names for group in _COLUMNS if (names := _named(joined, group))}
    joined = joined.persist()
    users = [{"name": f"user {line['user_index']}", "rows": line["rows"], "stacks": [
        [(name, line[f"{group}_{name}"] or 0.0) for name in names] for group, names in groups.items()]}
        for line in sample_users(joined, config.users, config.fewest_rows, config.seed)]
    facts = _agreement(joined, groups, config.fewest_rows)
    joined.unpersist()
    return users, [_COLUMNS[group] for group in groups], facts


def _agreement(joined: DataFrame, groups: dict[str, list[str]], fewest_rows: int) -> Line:
    """users, and agreement: by group of weights and modality, the correlation with the true weight."""
    pairs = {f"{group}_{name}": (group, name) for group in (CONTRIBUTION, MATCH)
             for name in groups.get(group, []) if name in groups.get(TRUE, [])}
    users, found = agreement(joined, {mine: f"{TRUE}_{name}" for mine, (_, name) in pairs.items()}, fewest_rows)
    told: dict[str, dict[str, float]] = {CONTRIBUTION: {}, MATCH: {}}
    for mine, value in found.items():
        group, name = pairs[mine]
        told[group][name] = round(value, 4)
    return {"users": users, "agreement": told}


def _named(frame: DataFrame, group: str) -> list[str]:
    return [column.removeprefix(f"{group}_") for column in frame.columns if column.startswith(f"{group}_")]


def choose_pool(features: Features, config: ExamplesConfig) -> Indices:
    """Indices of the illustrations whose neighbours are sought and found: those with every vector, or a sample of them."""
    known = np.flatnonzero(np.logical_and.reduce([features.known[look] for look in LOOKS]))
    if len(known) <= config.pool:
        return known
    return np.sort(np.random.default_rng(config.seed).choice(known, config.pool, replace=False))


def neighbour_examples(features: Features, pool: Indices, illustrations: DataFrame, image_root: str, limits: PictureLimits,
                       config: ExamplesConfig) -> list[Line]:
    """Random illustrations and, for each, its nearest by each of LOOKS, with thumbnails and tags."""
    count = min(config.neighbours, len(pool) - 1)
    if count < 1 or not config.illustrations:
        return []
    queries = np.random.default_rng(config.seed).choice(pool, min(config.illustrations, len(pool)), replace=False)
    found = {look: features.neighbours(look, pool).nearest(queries, count)[0] for look in LOOKS}
    needed = np.unique(np.concatenate([queries, *[near_QK.ravel() for near_QK in found.values()]]))
    items = _items(illustrations, needed, image_root, limits, config)
    return [{**items[query], "rows": [(name, [items[near] for near in found[look][place]]) for look, name in LOOKS.items()]}
            for place, query in enumerate(queries)]


def _items(illustrations: DataFrame, needed: Indices, image_root: str, limits: PictureLimits, config: ExamplesConfig
           ) -> dict[int, Line]:
    lines = (illustrations.filter(F.col("illust_index").isin([int(index) for index in needed]))
             .select("illust_index", "title", "tags", "image", "image_content").collect())
    return {line.illust_index: {
        "title": line.title or "", "tags": (line.tags or [])[:config.tags],
        "thumbnail": thumbnail(image_root, line.image, line.image_content, config.thumbnail, limits)} for line in lines}


def neighbour_facts(features: Features, pool: Indices, config: ExamplesConfig) -> Line:
    """Of the nearest of random illustrations, the share by the same artist and the share with a tag in common; the same
    shares of random illustrations stand beside them. `recall`: of the exact nearest, the lowest share found by any look."""
    count = min(config.neighbours, len(pool) - 1)
    if count < 1:
        return {}
    rng = np.random.default_rng(config.seed)
    queries = rng.choice(pool, min(config.measured, len(pool)), replace=False)
    indexes = {look: features.neighbours(look, pool) for look in LOOKS}
    facts = {look: _shares(features, queries, index.nearest(queries, count)[0]) for look, index in indexes.items()}
    facts["random"] = _shares(features, queries, rng.choice(pool, (len(queries), count)))
    recall = min(index.recall(queries, count) for index in indexes.values())
    return {"pool": len(pool), "queries": len(queries), "neighbours": count, "recall": round(recall, 4), **facts}


def _shares(features: Features, queries: Indices, near_QK: Indices) -> Line:
    artist = np.asarray(features.item_fields[:, STATIC_FIELDS.index("artist_index")])
    tags_QT, tags_QKT = features.item_tags[queries], features.item_tags[near_QK]
    equal = (tags_QT[:, None, :, None] == tags_QKT[:, :, None, :]) & (tags_QT >= 0)[:, None, :, None]
    return {"same_artist": round(float((artist[queries][:, None] == artist[near_QK]).mean()), 4),
            "shared_tag": round(float(equal.any((2, 3)).mean()), 4)}
