"""How often an illustration had been viewed and bookmarked, as of the moment before each row.

The catalogue's own totals are not used: they are of the day of the crawl and count the label itself.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def count_before(rows: DataFrame, events: DataFrame) -> DataFrame:
    """Adds `illust_views` and `illust_bookmarks`: the illustration's events at a smaller `at_us` than the row's.

    rows: illust_index, at_us and anything else. events: illust_index, kind, at_us.
    One running sum over each illustration's rows and events in time: linear, however popular the illustration.
    """
    counted = events.select("illust_index", "at_us", (F.col("kind") == "view").cast("int").alias("view"),
                            (F.col("kind") == "bookmark").cast("int").alias("bookmark"))
    line = rows.withColumn("is_row", F.lit(True)).unionByName(counted, allowMissingColumns=True)
    before = (Window.partitionBy("illust_index").orderBy("at_us")
              .rangeBetween(Window.unboundedPreceding, -1))  # up to the microsecond before
    return (line.withColumn("illust_views", F.coalesce(F.sum("view").over(before), F.lit(0)).cast("int"))
            .withColumn("illust_bookmarks", F.coalesce(F.sum("bookmark").over(before), F.lit(0)).cast("int"))
            .filter("is_row").drop("is_row", "view", "bookmark"))
