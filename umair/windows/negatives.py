"""Negatives for sites without view logs: illustrations drawn from those that existed at the moment of a bookmark.

Like the paper's counterparts they are sampled uniformly or by popularity; which ones is a function of the seed
and the bookmark alone, whatever the partitions.
"""

from __future__ import annotations

from typing import Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from umair.windows.interactions import DAY_US
from umair.windows.lines import number

TRIES = 3  # draws a wanted negative, since some hit illustrations that the user knows, or another draw
Pool = Literal["uniform", "popularity"]


def candidates(pool: Pool, illustrations: DataFrame, events: DataFrame) -> DataFrame:
    """illust_index, since_us: one row a chance to be drawn from `since_us` on (microseconds).

    uniform: each illustration once, from its creation. popularity: each illustration once a bookmark, from the
    microsecond after it, so that a draw is proportional to the bookmarks known by then.
    """
    if pool == "uniform":
        return illustrations.select("illust_index", F.unix_micros("created_at").alias("since_us"))
    return events.filter("kind = 'bookmark'").select("illust_index", (F.col("at_us") + 1).alias("since_us"))


def draw_negatives(bookmarks: DataFrame, pool: DataFrame, known: DataFrame, each: int, seed: int, until_us: Column
                   ) -> DataFrame:
    """Up to `each` negatives a bookmark: user_index, illust_index, at_us (the bookmark's).

    bookmarks: user_index, illust_index, at_us. pool: illust_index, since_us (`candidates`).
    known: user_index, illust_index, at_us of all interactions in the log. until_us: of the bookmark's `at_us`, the moment
    by which its split is known. A drawn pair is none that came before it: like any label 0 it says that no bookmark
    followed in time. Later ones do not count: that a pair is missing from training would tell of the test. Drawn twice for a
    split, the earlier bookmark keeps it; each split draws by itself, as a pair that is a negative in training would else be
    none in the test, but may be a positive there. Fewer than `each` come out where few illustrations exist.
    """
    drawn = _draw(bookmarks, pool, each * TRIES, seed)
    met = known.select("user_index", "illust_index", F.col("at_us").alias("met_us"))
    timed = drawn.withColumn("until_us", until_us)
    fresh = timed.join(met, (timed["user_index"] == met["user_index"]) & (timed["illust_index"] == met["illust_index"])
                       & (F.col("met_us") < F.col("until_us")), how="left_anti")
    once = Window.partitionBy("user_index", "illust_index", "until_us").orderBy("at_us", "source", "attempt")
    distinct = fresh.withColumn("turn", F.row_number().over(once)).filter("turn = 1")
    best = Window.partitionBy("user_index", "source").orderBy("attempt")
    kept = distinct.withColumn("turn", F.row_number().over(best)).filter(F.col("turn") <= each)
    return kept.select("user_index", "illust_index", "at_us")


def _draw(bookmarks: DataFrame, pool: DataFrame, attempts: int, seed: int) -> DataFrame:
    """user_index, source (the bookmarked illustration), at_us, attempt, illust_index: uniform over the pool as of `at_us`.

    Pool and bookmarks stand in one line by time, pool first at equal times. A bookmark's place is then the number of
    candidates it may draw from, and a candidate's place the number by which it is drawn.
    """
    line = (pool.select("illust_index", F.col("since_us").alias("at_us")).withColumn("is_bookmark", F.lit(False))
            .unionByName(bookmarks.select("user_index", F.col("illust_index"), "at_us")
                         .withColumn("is_bookmark", F.lit(True)), allowMissingColumns=True)
            .withColumn("day", F.floor(F.col("at_us") / DAY_US)))
    placed = number(line, "day", ("at_us", "is_bookmark", "illust_index", "user_index"), ~F.col("is_bookmark"))
    numbered = placed.filter("NOT is_bookmark").select("place", "illust_index")
    draws = (placed.filter("is_bookmark AND place > 0")
             .select("user_index", F.col("illust_index").alias("source"), "at_us", F.col("place").alias("choice"),
                     F.explode(F.sequence(F.lit(1), F.lit(attempts))).alias("attempt")))
    lot = F.xxhash64(F.lit(seed), "user_index", "source", "attempt")
    return (draws.withColumn("place", F.pmod(lot, F.col("choice")) + 1)
            .join(numbered, "place", how="inner").drop("place", "choice"))
