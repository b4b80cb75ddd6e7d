"""Kept raw rows -> the trusted tables, with indices that never change."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from umair.tables.indices import assign, read_known
from umair.tables.tags import count_uses, tag_index_lists

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from umair.storage import Store


class Trusted:
    """Builds the tables of one run. `facts` holds, by table, the first index that is still free."""

    def __init__(self, spark: SparkSession, store: Store, cache: contextlib.ExitStack) -> None:
        self.spark, self.store, self.cache = spark, store, cache
        self.facts: dict[str, dict[str, Any]] = defaultdict(dict)

    def users(self, raw_users: DataFrame) -> DataFrame:
        """schema.USERS, numbered by user_id."""
        pairs = self._pairs(raw_users.select("user_id"), ["user_id"], "users", "user_index")
        return raw_users.join(pairs, "user_id", how="inner")

    def births(self, catalogue: DataFrame) -> DataFrame:
        """illust_id, created_at, illust_index: what an event needs to know of its illustration. The oldest comes first."""
        births = catalogue.select("illust_id", F.unix_micros("created_at").alias("born"), "created_at")
        pairs = self._pairs(births, ["born", "illust_id"], "illustrations", "illust_index")
        return births.drop("born").join(pairs, "illust_id", how="inner")

    def tags(self, catalogue: DataFrame) -> DataFrame:
        """schema.TAGS, numbered by the tag's code points."""
        uses = cached(count_uses(catalogue), self.cache)
        return uses.join(self._pairs(uses.select("tag"), ["tag"], "tags", "tag_index"), "tag", how="inner")

    def illustrations(self, catalogue: DataFrame, births: DataFrame, tags: DataFrame) -> DataFrame:
        """schema.ILLUSTRATIONS; artists are numbered by their oldest illustration, then by artist_id."""
        oldest = catalogue.groupBy("artist_id").agg(F.min(F.unix_micros("created_at")).alias("born"))
        artists = self._pairs(oldest, ["born", "artist_id"], "illustrations", "artist_index")
        tag_lists = tag_index_lists(catalogue, tags.select("tag", "tag_index"))
        return (catalogue.join(births.drop("created_at"), "illust_id", how="inner")
                .join(artists, "artist_id", how="inner")
                .join(tag_lists, "illust_id", how="left")
                .withColumn("tag_indices", F.coalesce("tag_indices", F.array().cast("array<int>"))))

    def _pairs(self, ids: DataFrame, order: list[str], table: str, index: str) -> DataFrame:
        known = read_known(self.spark, self.store, table, ids.columns[0], index)
        pairs, self.facts[table][f"next_{index}"] = assign(ids, order, index, known)
        return cached(pairs, self.cache)


def cached(frame: DataFrame, cache: contextlib.ExitStack) -> DataFrame:
    """`frame` in Spark's cache (memory, then disk) until `cache` is closed."""
    cache.callback(frame.persist().unpersist)
    return frame
