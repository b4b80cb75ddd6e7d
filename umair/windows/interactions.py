"""From events to labelled interactions: one a (user, illustration). Moments are microseconds since 1970 (UTC)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
DAY_US = 86_400_000_000


def microseconds(moment: datetime) -> int:
    """A moment as the integer that Spark's `unix_micros` gives for it."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def label_interactions(events: DataFrame, label_days: int) -> DataFrame:
    """events (user_index, illust_index, kind, at_us) -> user_index, illust_index, at_us, label.

    The interaction happens at the first view, and is labelled 1 if the bookmark follows at once or less than
    `label_days` later, otherwise 0. A bookmark that no view precedes is an interaction at its own moment, labelled 1.
    So the moment of an interaction never depends on what comes after it; its label does, for `label_days`.
    """
    pairs = events.groupBy("user_index", "illust_index").agg(
        F.min(F.when(F.col("kind") == "view", F.col("at_us"))).alias("viewed"),
        F.min(F.when(F.col("kind") == "bookmark", F.col("at_us"))).alias("bookmarked"))
    seen_first = F.col("bookmarked").isNull() | (F.col("viewed") <= F.col("bookmarked"))
    timed = pairs.withColumn("at_us", F.when(seen_first, F.col("viewed")).otherwise(F.col("bookmarked")))
    in_time = F.col("bookmarked") < F.col("at_us") + label_days * DAY_US
    return timed.select("user_index", "illust_index", "at_us", F.coalesce(in_time, F.lit(False)).cast("int").alias("label"))
