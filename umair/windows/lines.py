"""Places in one long line, exact and without a sort on one machine: buckets are counted, then numbered side by side."""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F


def number(frame: DataFrame, bucket: str, within: Iterable[str], counted: Column) -> DataFrame:
    """Adds `place`: how many `counted` rows stand before or at this one, in the order of `bucket`, then of `within`.

    `bucket` cuts the line into at most some ten thousand pieces, the same whatever the partitions are: one task sorts a
    piece, and one task adds up their sizes. Rows that are equal in `within` must be interchangeable.
    """
    one = F.when(counted, 1).otherwise(0)
    earlier = Window.orderBy(bucket).rowsBetween(Window.unboundedPreceding, -1)
    so_far = Window.partitionBy(bucket).orderBy(*within).rowsBetween(Window.unboundedPreceding, Window.currentRow)
    sizes = frame.groupBy(bucket).agg(F.sum(one).alias("size"))
    starts = sizes.select(bucket, F.coalesce(F.sum("size").over(earlier), F.lit(0)).alias("start"))
    return (frame.join(F.broadcast(starts), bucket, how="inner")
            .withColumn("place", F.col("start") + F.sum(one).over(so_far)).drop("start"))
