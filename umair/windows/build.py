"""Events -> labelled, leak-free windows: train, valid and test (design decisions 2 and 4).

Every label needs `label_days` to ripen. Each split therefore ends that long before the next one starts (the last one
before the week's end): whoever trains on a split knew all its labels before the first row of the next.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import reduce
from typing import Any, Literal

from pydantic import Field
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from umair.config import Section
from umair.errors import ContractError
from umair.schema import SPLITS, WINDOW
from umair.weeks import Week
from umair.windows.counters import count_before
from umair.windows.files import deal, one_file_a_partition
from umair.windows.history import Lengths, add_past
from umair.windows.interactions import DAY_US, label_interactions, microseconds
from umair.windows.negatives import candidates, draw_negatives

EARLIEST = datetime(1990, 1, 1, tzinfo=timezone.utc)  # no event is older (the raw contract)
Bounds = dict[str, tuple[datetime, datetime]]  # by split: first moment, and the first one after it


class WindowsConfig(Section):
    """How rows are made of events. Defaults follow the paper's split where it says something."""

    train_days: int | None = Field(273, gt=0)  # days; null takes all history. Paper: 2021-01-01 to 2021-10-01
    valid_days: int = Field(7, gt=0)  # days
    test_days: int = Field(92, gt=0)  # days. Paper: 2021-10-01 to 2022-01-01
    label_days: int = Field(1, gt=0)  # days after the first view in which a bookmark makes the label 1
    history_length: int = Field(50, gt=0)  # illustrations in `bookmarked` and in `passed`
    interest_tags: int = Field(8, gt=0)  # tags of an interest; the paper's ranker reads the first 4
    short_events: int = Field(20, gt=0)  # last bookmarks that the short-term interest is made of, at most
    short_days: int = Field(7, gt=0)  # those bookmarks are not older than this, in days
    negatives: Literal["none", "uniform", "popularity"] = "none"  # sampled ones, for sites without view logs
    negatives_per_bookmark: int = Field(4, gt=0)  # at most, when `negatives` is not none
    files: int = Field(16, gt=0)  # Parquet files a split, of equal length
    seed: int = 0  # of the order of rows and of the negatives

    def lengths(self) -> Lengths:
        return Lengths(self.history_length, self.interest_tags, self.short_events, self.short_days * DAY_US)


def split_bounds(week: Week, config: WindowsConfig) -> Bounds:
    """When each split starts and ends (exclusively), from the last backwards.

    The test split ends `label_days` before the week does, the validation split `label_days` before the test split
    starts, the training split `label_days` before the validation split starts.
    """
    ripening = timedelta(days=config.label_days)
    test_end = week.end - ripening
    test_start = test_end - timedelta(days=config.test_days)
    valid_end = test_start - ripening
    valid_start = valid_end - timedelta(days=config.valid_days)
    train_end = valid_start - ripening
    train_start = EARLIEST if config.train_days is None else train_end - timedelta(days=config.train_days)
    return {"train": (train_start, train_end), "valid": (valid_start, valid_end), "test": (test_start, test_end)}


def build_windows(events: DataFrame, illustrations: DataFrame, config: WindowsConfig, week: Week) -> dict[str, DataFrame]:
    """The rows (schema.WINDOW) of each split, in random order, ready to be written as `config.files` equal files.

    events: schema.EVENTS. illustrations: illust_index, tag_indices, created_at of schema.ILLUSTRATIONS. The result is
    the same whatever the input's partitions, and is cached: clear the cache after the last split is written.
    Raises ContractError when a split has fewer rows than files.
    """
    bounds = split_bounds(week, config)
    known = (events.withColumn("at_us", F.unix_micros("at")).drop("at")
             .filter(F.col("at_us") < microseconds(week.end)))
    rows = _rows(known, illustrations, config, bounds).persist(StorageLevel.MEMORY_AND_DISK)  # counted, then used
    _require_rows(rows, known, config, bounds)
    placed = deal(rows, config.files, config.seed)
    whole = add_past(count_before(placed, known), known, illustrations, config.lengths())
    whole.persist(StorageLevel.MEMORY_AND_DISK)  # three splits are written from one pass over the events
    return {split: _promise(one_file_a_partition(whole.filter(F.col("split") == split), config.files))
            for split in SPLITS}


def describe_windows(windows: dict[str, DataFrame]) -> dict[str, dict[str, Any]]:
    """By split: rows, positives, users, illustrations, and the share of cold rows.

    A row is cold when no training row is about its illustration.
    """
    narrow = [rows.select(F.lit(split).alias("split"), "user_index", "illust_index", "label")
              for split, rows in windows.items()]
    trained = windows["train"].select("illust_index").distinct().withColumn("warm", F.lit(1))
    counts = (reduce(DataFrame.unionByName, narrow).join(trained, "illust_index", how="left")
              .groupBy("split").agg(F.count("*").alias("rows"), F.sum("label").alias("positives"),
                                    F.countDistinct("user_index").alias("users"),
                                    F.countDistinct("illust_index").alias("illustrations"),
                                    F.avg(F.col("warm").isNull().cast("int")).alias("cold_share")))
    return {row["split"]: {name: value for name, value in row.asDict().items() if name != "split"}
            for row in counts.collect()}


def require_both_classes(facts: dict[str, dict[str, Any]]) -> None:
    """`facts` of `describe_windows`. Raises ContractError for a split without bookmarks, or with nothing else."""
    for split, told in facts.items():
        if told["positives"] in (0, told["rows"]):
            raise ContractError(
                f"window_{split}", f"{told['rows']} rows, {told['positives']} of them bookmarks", "bookmarks, and views "
                "without one: of one kind alone nothing can be learnt or measured",
                f"choose another --week or make windows.{split}_days longer; where only bookmarks are logged, set "
                "windows.negatives (docs/own_data.md)")


def _rows(events: DataFrame, illustrations: DataFrame, config: WindowsConfig, bounds: Bounds) -> DataFrame:
    """user_index, illust_index, at_us, label, split: the interactions inside the splits, and sampled negatives."""
    interactions = label_interactions(events, config.label_days)
    rows = interactions.withColumn("split", _split_of(bounds)).filter("split IS NOT NULL")
    if config.negatives == "none":
        return rows
    bookmarks = rows.filter("label = 1")
    pool = candidates(config.negatives, illustrations, events)
    drawn = draw_negatives(bookmarks, pool, interactions, config.negatives_per_bookmark, config.seed,
                           _known_by(bounds, config.label_days))
    return rows.unionByName(drawn.withColumn("label", F.lit(0)).withColumn("split", _split_of(bounds)))


def _known_by(bounds: Bounds, label_days: int) -> Column:
    """When a row's label is final, in microseconds: what happens after it must not shape the row's split."""
    ends = [F.when(F.col("at_us") < microseconds(bounds[split][1]), microseconds(bounds[split][1]) + label_days * DAY_US)
            for split in SPLITS]
    return F.coalesce(*ends)


def _split_of(bounds: Bounds) -> Column:
    """The split that a row's moment falls into, as a column; null between the splits."""
    splits = [F.when((F.col("at_us") >= microseconds(start)) & (F.col("at_us") < microseconds(end)), split)
              for split, (start, end) in bounds.items()]
    return F.coalesce(*splits)


def _promise(rows: DataFrame) -> DataFrame:
    """The columns of schema.WINDOW, in its order."""
    timed = rows.withColumn("at", F.timestamp_micros("at_us"))
    return timed.select(*WINDOW.column_names)


def _require_rows(rows: DataFrame, events: DataFrame, config: WindowsConfig, bounds: Bounds) -> None:
    counts = {row["split"]: row["count"] for row in rows.groupBy("split").count().collect()}
    for split, (start, end) in bounds.items():
        if counts.get(split, 0) < config.files:
            raise ContractError(
                f"window_{split}, {start:%Y-%m-%d} to {end:%Y-%m-%d}", f"{counts.get(split, 0)} rows ({_span(events)})",
                f"at least one row for each of the {config.files} files",
                f"choose another --week, make windows.{split}_days longer, or windows.files smaller")


def _span(events: DataFrame) -> str:
    edges = events.agg(F.timestamp_micros(F.min("at_us")), F.timestamp_micros(F.max("at_us"))).first()
    return f"events run from {edges[0]} to {edges[1]}" if edges and edges[0] else "there are no events"
