"""What is known of users and illustrations at one moment, whether or not anything happens then: rows without an event."""

from __future__ import annotations

from datetime import datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from umair.schema import ABSENT
from umair.windows.counters import count_before
from umair.windows.history import Lengths, add_past
from umair.windows.interactions import microseconds


def active_users(events: DataFrame, moment: datetime, days: int | None = None) -> DataFrame:
    """Every user with an event in the `days` before `moment` (None: with any before it): user_index, and `seen array<int>`,
    the illustrations that the user ever viewed or bookmarked before it. events: schema.EVENTS."""
    users = _before(events, moment).groupBy("user_index").agg(F.max("at_us").alias("last_us"),
                                                              F.collect_set("illust_index").alias("seen"))
    if days is not None:
        users = users.filter(F.col("last_us") >= microseconds(moment - timedelta(days=days)))
    return users.drop("last_us")


def users_at(events: DataFrame, illustrations: DataFrame, moment: datetime, lengths: Lengths, days: int | None = None
             ) -> DataFrame:
    """The `active_users` as a window's row of that moment would know them: user_index, seen, PAST_COLUMNS.

    events: schema.EVENTS. illustrations: illust_index, tag_indices. Events of the very moment, and later ones, are not seen.
    """
    users, known = active_users(events, moment, days), _before(events, moment)
    if days is not None:  # nobody walks through the past of others
        known = known.join(users.select("user_index"), "user_index", how="left_semi")
    rows = users.withColumn("illust_index", F.lit(ABSENT)).withColumn("at_us", F.lit(microseconds(moment)))
    return add_past(rows, known, illustrations, lengths).drop("illust_index", "at_us")


def candidates_at(events: DataFrame, illustrations: DataFrame, moment: datetime, days: int | None = None) -> DataFrame:
    """Every illustration that was created before `moment`, in the `days` before it if these are given: illust_index, and as
    of that moment illust_views and illust_bookmarks. illustrations: illust_index, created_at."""
    created = illustrations.filter(F.col("created_at") < F.lit(moment))
    if days is not None:
        created = created.filter(F.col("created_at") >= F.lit(moment - timedelta(days=days)))
    rows = created.select("illust_index", F.lit(microseconds(moment)).alias("at_us"))
    return count_before(rows, _before(events, moment)).select("illust_index", "illust_views", "illust_bookmarks")


def _before(events: DataFrame, moment: datetime) -> DataFrame:
    timed = events.withColumn("at_us", F.unix_micros("at")).drop("at")
    return timed.filter(F.col("at_us") < microseconds(moment))
