"""Exact measures over Spark, by slice and ranker: only one line a (slice, ranker) comes to the driver.

A row is in several slices: `all`; one of `cold`, `tail`, `head`; one of `known_picture`, `missing_picture`.
The numbers equal those of `umair.metrics` on the same rows; a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from umair.metrics import EPSILON, Calibration, GroupedAuc, LogLoss, ratio

ALL, COLD, TAIL, HEAD = "all", "cold", "tail", "head"
KNOWN_PICTURE, MISSING_PICTURE = "known_picture", "missing_picture"
SLICES = (ALL, COLD, TAIL, HEAD, KNOWN_PICTURE, MISSING_PICTURE)
_PREFIX = "score_"


@dataclass(frozen=True)
class Figures:
    """What one ranker does on one slice. `log_loss` is None for scores that are no probabilities."""

    slice: str
    ranker: str
    rows: int
    positives: int
    auc: float
    log_loss: LogLoss | None
    gauc: GroupedAuc

    @property
    def base_rate(self) -> float:
        return ratio(self.positives, self.rows)


def mark_slices(rows: DataFrame, training: DataFrame, tail_quantile: float) -> DataFrame:
    """Adds `slices array<string>` to test rows, which have illust_index and has_picture.

    cold: the illustration has no row in `training` (illust_index). Of the others, head: it has more training rows than
    the quantile `tail_quantile` over illustrations with any; tail: the rest.
    """
    seen = training.groupBy("illust_index").agg(F.count("*").alias("training_rows"))
    edge = seen.agg(F.percentile("training_rows", F.lit(tail_quantile)).alias("edge"))
    joined = rows.join(seen, "illust_index", how="left").join(F.broadcast(edge), how="cross")
    popularity = (F.when(F.col("training_rows").isNull(), COLD)
                  .when(F.col("training_rows") > F.col("edge"), HEAD).otherwise(TAIL))
    picture = F.when(F.col("has_picture"), KNOWN_PICTURE).otherwise(MISSING_PICTURE)
    marked = joined.withColumn("slices", F.array(F.lit(ALL), popularity, picture))
    return marked.drop("training_rows", "edge")


def score_columns(rows: DataFrame) -> list[str]:
    """The names of the rankers whose scores the rows hold."""
    return [column.removeprefix(_PREFIX) for column in rows.columns if column.startswith(_PREFIX)]


def slice_figures(rows: DataFrame, rank_only: Sequence[str] = ()) -> list[Figures]:
    """Every ranker on every slice. rows: user_index, label, slices, score_<ranker>...

    AUC and GAUC from exact counts by distinct score (ties half credit; exact up to 2**53 pairs), log loss in float64.
    `rank_only` names the rankers whose scores are no probabilities.
    """
    names = score_columns(rows)
    long = _by_slice_and_ranker(rows, names)
    won = {(line.slice, line.ranker): line.auc for line in _auc_by(long, "slice", "ranker").collect()}
    grouped = {(line.slice, line.ranker): line for line in _grouped_auc(long).collect()}
    losses = {(line.slice, line.ranker): line for line in _losses(long).collect()}
    order = [(part, name) for part in SLICES for name in names if (part, name) in losses]
    figures = []
    for key in order:
        line, group = losses[key], grouped[key]
        loss = None if key[1] in rank_only else LogLoss(line.loss, line.rows)
        figures.append(Figures(*key, line.rows, line.positives, _number(won[key]), loss, GroupedAuc(
            group.total or 0.0, group.row_total or 0.0, group.kept_users, group.kept_rows, group.dropped_users,
            group.dropped_rows)))
    return figures


def calibration(rows: DataFrame, ranker: str, bins: int) -> Calibration:
    """Said against happened over all rows, in `bins` bins of equal width."""
    said = F.col(_PREFIX + ranker)
    place = F.least(F.floor(said * bins), F.lit(bins - 1)).alias("bin")
    lines = rows.groupBy(place).agg(F.sum(said).alias("said"), F.sum("label").alias("positives"),
                                    F.count("*").alias("rows")).collect()
    sums = np.zeros((3, bins))
    for line in lines:
        sums[:, line.bin] = line.said, line.positives, line["rows"]
    return Calibration(*sums)


def _by_slice_and_ranker(rows: DataFrame, names: list[str]) -> DataFrame:
    pairs = F.array(*[F.struct(F.lit(name).alias("ranker"), F.col(_PREFIX + name).cast("double").alias("score"))
                      for name in names])
    exploded = rows.select("user_index", "label", F.explode("slices").alias("slice"), pairs.alias("pairs"))
    return exploded.select("slice", "user_index", "label", F.inline("pairs"))


def _auc_by(long: DataFrame, *keys: str) -> DataFrame:
    """keys..., auc (null with one class only), rows."""
    counts = long.groupBy(*keys, "score").agg(F.sum("label").cast("double").alias("positives"),
                                              F.sum(1 - F.col("label")).cast("double").alias("negatives"))
    lower = Window.partitionBy(*keys).orderBy("score").rowsBetween(Window.unboundedPreceding, -1)
    below = F.coalesce(F.sum("negatives").over(lower), F.lit(0.0))
    won = counts.withColumn("won", F.col("positives") * (below + F.col("negatives") / 2))
    pairs = F.sum("positives") * F.sum("negatives")
    return won.groupBy(*keys).agg(F.when(pairs > 0, F.sum("won") / pairs).alias("auc"),
                                  F.sum(F.col("positives") + F.col("negatives")).alias("rows"))


def _grouped_auc(long: DataFrame) -> DataFrame:
    users = _auc_by(long, "slice", "ranker", "user_index")
    kept = F.col("auc").isNotNull()
    return users.groupBy("slice", "ranker").agg(
        F.sum("auc").alias("total"), F.sum(F.col("auc") * F.col("rows")).alias("row_total"),
        F.count("auc").alias("kept_users"), _count_rows(kept).alias("kept_rows"),
        F.sum((~kept).cast("long")).alias("dropped_users"), _count_rows(~kept).alias("dropped_rows"))


def _count_rows(condition: Column) -> Column:
    return F.sum(F.when(condition, F.col("rows")).otherwise(0.0)).cast("long")


def _losses(long: DataFrame) -> DataFrame:
    clipped = F.greatest(F.lit(EPSILON), F.least(F.lit(1 - EPSILON), F.col("score")))
    loss = -F.log(F.when(F.col("label") == 1, clipped).otherwise(1 - clipped))
    return long.groupBy("slice", "ranker").agg(F.sum(loss).alias("loss"), F.sum("label").alias("positives"),
                                               F.count("*").alias("rows"))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
