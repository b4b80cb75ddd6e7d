"""Rows in a seeded random order, dealt into files of equal length (one row more or less), whatever the partitions were."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from umair.windows.lines import number

PIECES = 1024  # of a split's shuffled line; one task sorts a piece
KEY = ("user_index", "illust_index")


def deal(rows: DataFrame, files: int, seed: int) -> DataFrame:
    """Adds `place` (a random order within each split) and `ticket` (what `one_file_a_partition` moves a row by).

    rows: user_index, illust_index, split and anything else; distinct in (user_index, illust_index) within a split, since
    the order is by a hash of that pair and the seed. The places of a split follow each other, so dealing them out in turn
    gives each of `files` the same number of rows, or one more.
    """
    lot = rows.withColumn("lot", F.xxhash64(F.lit(seed), *KEY))
    pieces = lot.withColumn("piece", F.concat_ws("-", "split", F.lpad(F.pmod("lot", F.lit(PIECES)).cast("string"), 4, "0")))
    placed = number(pieces, "piece", ("lot", *KEY), F.lit(True)).drop("lot", "piece")
    dealt = placed.withColumn("file", F.pmod("place", F.lit(files)).cast("int"))
    return dealt.join(F.broadcast(_tickets(rows.sparkSession, files)), "file", how="inner").drop("file")


def one_file_a_partition(dealt: DataFrame, files: int) -> DataFrame:
    """Moves the rows of one split to `files` partitions, in order; a write then makes exactly `files` files."""
    return dealt.repartition(files, "ticket").sortWithinPartitions("place")


def _tickets(spark: SparkSession, files: int) -> DataFrame:
    """file -> ticket: for each file a number that Spark's hash partitioning sends to a partition of its own.

    Spark puts a row into partition pmod(hash(key), n). By the number of the file itself, two files would often share one.
    """
    tried = spark.range(64 * files).select(F.col("id").alias("ticket"),
                                           F.pmod(F.hash("id"), F.lit(files)).cast("int").alias("file"))
    return tried.groupBy("file").agg(F.min("ticket").alias("ticket"))
