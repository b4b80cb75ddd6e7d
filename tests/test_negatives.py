"""Sampled negatives: only what existed, nothing the user knows, the stated distribution, the same on any partitions."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F
from test_windows import SMALL, TAGS, WEEK, collect, day, frames

from umair.windows.build import build_windows
from umair.windows.interactions import DAY_US
from umair.windows.negatives import candidates, draw_negatives

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
END_US = 1_000 * DAY_US  # of the split
PAIRS = "user_index int, illust_index int, at_us bigint"


def pool_of(spark: SparkSession, since_us: dict[int, int]) -> DataFrame:
    return spark.createDataFrame(list(since_us.items()), "illust_index int, since_us bigint")


def test_only_illustrations_that_existed_are_drawn(spark):
    """Illustration i appears on day i; bookmarks are at the very moment when 30 appears, and before the first one does."""
    pool = pool_of(spark, {illust: illust * DAY_US for illust in range(60)})
    bookmarks = spark.createDataFrame([(user, 0, 30 * DAY_US) for user in range(200)] + [(0, 99, -1)], PAIRS)
    drawn = draw_negatives(bookmarks, pool, bookmarks, 5, 1, F.lit(END_US)).collect()
    assert {row["illust_index"] for row in drawn} == set(range(1, 31))  # 0 is what was bookmarked
    assert {row["at_us"] for row in drawn} == {30 * DAY_US}


def test_known_pairs_are_never_drawn_and_each_pair_once(spark):
    pool = pool_of(spark, dict.fromkeys(range(100), 0))
    known = spark.createDataFrame([(user, illust, 900) for user in range(20) for illust in range(20)], PAIRS)
    bookmarks = spark.createDataFrame([(user, illust, 5 + illust) for user in range(20) for illust in range(3)], PAIRS)
    drawn = [tuple(row) for row in draw_negatives(bookmarks, pool, known, 4, 1, F.lit(END_US)).collect()]
    assert all(illust >= 20 for _, illust, _ in drawn)
    assert len({(user, illust) for user, illust, _ in drawn}) == len(drawn)
    per_bookmark = Counter((user, at_us) for user, _, at_us in drawn)
    assert max(per_bookmark.values()) == 4
    assert len(drawn) > 0.9 * 20 * 3 * 4  # spare draws make up for the hits on known ones


def test_what_happens_after_the_split_does_not_shape_its_negatives(spark):
    """The same draw, whether or not users meet illustrations after the end; what they meet a moment earlier counts."""
    pool = pool_of(spark, dict.fromkeys(range(30), 0))
    bookmarks = spark.createDataFrame([(user, 0, 5) for user in range(50)], PAIRS)

    def drawn(met_us: int) -> set[tuple[int, ...]]:
        met = spark.createDataFrame([(user, illust, met_us) for user in range(50) for illust in range(1, 20)], PAIRS)
        return {tuple(row) for row in draw_negatives(bookmarks, pool, bookmarks.union(met), 4, 1, F.lit(END_US)).collect()}

    alone = {tuple(row) for row in draw_negatives(bookmarks, pool, bookmarks, 4, 1, F.lit(END_US)).collect()}
    assert drawn(END_US) == alone
    assert drawn(END_US - 1) != alone


def test_each_split_draws_by_itself(spark):
    """A negative of the training window that could be none of the test's, but a positive, would give the test's label away."""
    pool = pool_of(spark, dict.fromkeys(range(1, 4), 0))
    bookmarks = spark.createDataFrame([(user, 0, at_us) for user in range(50) for at_us in (5, 600)], PAIRS)
    until_us = F.when(F.col("at_us") < 500, 500).otherwise(1000)
    drawn = draw_negatives(bookmarks, pool, bookmarks, 8, 1, until_us).collect()
    pairs = Counter((row["user_index"], row["illust_index"]) for row in drawn)
    assert max(pairs.values()) == 2  # once a split
    assert len(drawn) > 0.99 * 50 * 3 * 2  # a pair is in none of a split's 24 draws once in 17,000


@pytest.mark.parametrize(("kind", "share"), [("uniform", 0.5), ("popularity", 0.75)])
def test_draws_follow_the_pool(spark, kind, share):
    """Two illustrations; 1 has thirty bookmarks before the moment and 2 ten, and 2 gets a hundred more afterwards."""
    rows = [(100 + n, 1 if n < 30 else 2, "bookmark", n * DAY_US) for n in range(40)]
    rows += [(100 + n, 2, "bookmark", 50 * DAY_US) for n in range(100)]
    events = spark.createDataFrame(rows, "user_index int, illust_index int, kind string, at_us bigint")
    illustrations = spark.createDataFrame([(1, EPOCH), (2, EPOCH + timedelta(days=29))], "illust_index int, created_at timestamp")
    bookmarks = spark.createDataFrame([(user, 9, 50 * DAY_US) for user in range(4000)], PAIRS)
    pool = candidates(kind, illustrations, events)
    drawn = draw_negatives(bookmarks, pool, bookmarks, 1, 1, F.lit(END_US)).collect()
    assert len(drawn) == 4000
    assert sum(row["illust_index"] == 1 for row in drawn) / 4000 == pytest.approx(share, abs=0.03)  # 4 standard errors


def test_draws_depend_on_the_seed_and_not_on_partitions(spark):
    pool = pool_of(spark, {illust: illust for illust in range(500)})
    bookmarks = spark.createDataFrame([(user, 0, 400) for user in range(50)], PAIRS)
    first, again, other = (
        {tuple(row) for row in draw_negatives(bookmarks.repartition(parts), pool.repartition(parts), bookmarks, 3, seed, F.lit(END_US)).collect()}
        for parts, seed in ((1, 1), (7, 1), (1, 2)))
    assert first == again
    assert len(first & other) < len(first) / 4


def test_windows_of_bookmarks_alone(spark):
    """Nine users bookmark six illustrations each; windows get up to two negatives a bookmark, at its moment, labelled 0."""
    events = [(user, (user + n) % len(TAGS), "bookmark", day(9.5 - 1.5 * n)) for user in range(9) for n in range(6)]
    config = SMALL.model_copy(update={"negatives": "uniform", "negatives_per_bookmark": 2})
    splits = collect(build_windows(*frames(spark, events), config, WEEK))
    for rows in splits.values():  # a negative of one split may be bookmarked in a later one, which nobody knew
        assert len({(row["user_index"], row["illust_index"]) for row in rows}) == len(rows)
    rows = [row for split in splits.values() for row in split]
    positives = {(row["user_index"], row["at"]) for row in rows if row["label"]}
    negatives = Counter((row["user_index"], row["at"]) for row in rows if not row["label"])
    assert negatives.keys() <= positives
    assert max(negatives.values()) == 2
    assert negatives.total() > 1.8 * len(positives)
    for row in rows:  # negatives included: as of the bookmark's moment
        assert day(9.5 - 1.5 * row["user_bookmarks"]) == row["at"]
