"""Tags in one spelling, and the table of all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def normalise(tags: Iterable[str | None]) -> list[str]:
    """NFKC, trimmed, without empty and repeated ones; the artist's order stays."""
    spelled = (unicodedata.normalize("NFKC", tag).strip() for tag in tags if tag is not None)
    return list(dict.fromkeys(tag for tag in spelled if tag))


def normalised(tags: Column) -> Column:
    """`normalise` over a column of array<string>; null becomes an empty list. Spark SQL has no NFKC, hence Python."""
    column: Column = pandas_udf(_normalise_series, "array<string>")(tags)  # type: ignore[call-overload]
    return column


def _normalise_series(lists: pd.Series) -> pd.Series:
    return lists.map(lambda given: normalise(given) if given is not None else [])


def count_uses(illustrations: DataFrame) -> DataFrame:
    """tag, uses: in how many illustrations each tag is."""
    return illustrations.select(F.explode("tags").alias("tag")).groupBy("tag").agg(F.count(F.lit(1)).alias("uses"))


def tag_index_lists(illustrations: DataFrame, indices: DataFrame) -> DataFrame:
    """illust_id, tag_indices in the order of `tags`, of illustrations that have tags."""
    placed = illustrations.select("illust_id", F.posexplode("tags").alias("position", "tag"))
    listed = placed.join(indices, "tag", how="inner").groupBy("illust_id").agg(
        F.sort_array(F.collect_list(F.struct("position", "tag_index"))).alias("placed"))
    return listed.select("illust_id", F.expr("transform(placed, item -> item.tag_index)").alias("tag_indices"))
