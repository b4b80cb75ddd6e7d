"""Indices that count from 0 and never change: known ids keep theirs, new ones follow in a stated order.

An index that was given once is never given to another id: `first_free` is kept in the facts of each commit, and so an
id that is gone leaves a hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from umair.storage import for_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from umair.storage import Store

ROWS_PER_BUCKET = 500_000  # a bucket is sorted in one task
SAMPLES_PER_BUCKET = 100


@dataclass(frozen=True)
class Known:
    """The indices of the table's last version: `frame` (id, index) or None, and the first index never given."""

    frame: DataFrame | None = None
    first_free: int = 0


def read_known(spark: SparkSession, store: Store, table: str, identity: str, index: str) -> Known:
    """The pairs of columns (`identity`, `index`) that any week knows, and the newest fact `next_<index>`.

    The newest version holds them all, unless an earlier week was taken in again after later ones: then the newest version
    of each later week counts too, lest what it numbered be numbered anew. Raises StorageError where such a one was tidied
    away (`umair tidy` keeps those of the last weeks); files of other versions are not asked for.
    """
    if not store.exists(table):
        return Known()
    newest = store.snapshot(table)
    files, week = list(newest.files), newest.facts["week"]
    for version in range(newest.version - 1, -1, -1):
        if (later := store.facts_of(table, version)["week"]) > week:
            files, week = [*files, *store.snapshot(table, version).files], later
    frame = spark.read.parquet(*for_spark(*files)).select(identity, index).distinct()
    return Known(frame, int(newest.facts[f"next_{index}"]))


def assign(ids: DataFrame, order: list[str], index: str, known: Known) -> tuple[DataFrame, int]:
    """(id, index) for every row of `ids`, and the first index still free.

    `ids` holds each id once, in its first column; new ones are numbered by the columns `order`, unique together.
    """
    identity = ids.columns[0]
    if known.frame is None:
        numbered, first_free = number(ids, order, index, known.first_free)
        return numbered.select(identity, index), first_free
    old = ids.join(known.frame, identity, how="inner")
    numbered, first_free = number(ids.join(known.frame, identity, how="left_anti"), order, index, known.first_free)
    return old.select(identity, index).unionByName(numbered.select(identity, index)), first_free


def number(frame: DataFrame, order: list[str], index: str, first: int,
           rows_per_bucket: int = ROWS_PER_BUCKET) -> tuple[DataFrame, int]:
    """Adds column `index` (int): `first` and on, by the columns `order`; returns also the number after the last.

    The rows are cut into ranges of `order[0]` at bounds that are literals, and each range is sorted by itself. The
    numbers do not depend on where the bounds lie, so they are the same when Spark computes a lost part again.
    """
    rows = frame.count()
    bounds = _bounds(frame, order[0], rows, rows_per_bucket)
    bucketed = frame.withColumn("_bucket", _bucket(order[0], bounds))
    sizes = {0: rows}
    if bounds:
        sizes = {row["_bucket"]: row["count"] for row in bucketed.groupBy("_bucket").count().collect()}
    starts, start = [], first
    for bucket in range(len(bounds) + 1):
        starts.append(start)
        start += sizes.get(bucket, 0)
    in_bucket = F.row_number().over(Window.partitionBy("_bucket").orderBy(*order)) - 1
    offset = F.element_at(F.array(*map(F.lit, starts)), F.col("_bucket") + 1)
    return bucketed.withColumn(index, (offset + in_bucket).cast("int")).drop("_bucket"), start


def _bounds(frame: DataFrame, column: str, rows: int, rows_per_bucket: int) -> list[object]:
    buckets = math.ceil(rows / rows_per_bucket)
    if buckets < 2:
        return []
    share = min(1.0, SAMPLES_PER_BUCKET * buckets / rows)
    sample = [row[0] for row in frame.select(column).sample(share, seed=0).distinct().orderBy(column).collect()]
    return [sample[len(sample) * cut // buckets] for cut in range(1, buckets)] if sample else []


def _bucket(column: str, bounds: list[object]) -> Column:
    if not bounds:
        return F.lit(0)
    reached = F.filter(F.array(*map(F.lit, bounds)), lambda bound: F.col(column) >= bound)
    return F.size(reached)
