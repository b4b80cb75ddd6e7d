"""What counts for whom: how each modality enters a user's scores, beside the true weights where they are known."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from umair.storage import for_spark

CONTRIBUTION, MATCH, TRUE = "contribution", "match", "true"
FACTOR = {"semantic": "weight_content", "style": "weight_style", "text": "weight_tags", "profile": "weight_artist",
           "popularity": "weight_popularity"}  # the modality that can know it -> column of a drawn world's users


def user_weights(rows: DataFrame, modalities: tuple[str, ...], matched: tuple[str, ...]) -> DataFrame:
    """One line a user: user_index, rows, contribution_<modality>..., match_<modality>...; shares that sum to 1.

    rows: user_index, contribution array<float>, match array<float> (in the order of `modalities` and `matched`).
    contribution: the mean weight over the user's rows. match: how much the modality's part of the logit varies over the
    user's rows (standard deviation), as a share of all: what varies moves the order, a constant does not.
    """
    means = [F.avg(F.get(CONTRIBUTION, F.lit(place))).alias(f"{CONTRIBUTION}_{name}")
             for place, name in enumerate(modalities)]
    spreads = [F.stddev_pop(F.get(MATCH, F.lit(place))).alias(f"{MATCH}_{name}") for place, name in enumerate(matched)]
    users = rows.groupBy("user_index").agg(F.count("*").alias("rows"), *means, *spreads)
    return _as_shares(users, [f"{MATCH}_{name}" for name in matched])


def read_true_weights(spark: SparkSession, folder: str, users: DataFrame) -> DataFrame | None:
    """A drawn world's weights, each named after the modality that can know it: user_index, true_<modality>..., sum 1.

    None where the truth does not say.
    """
    path = Path(folder) / "users.parquet"
    if not path.exists():
        return None
    truth = spark.read.parquet(*for_spark(path))
    named = {name: column for name, column in FACTOR.items() if column in truth.columns}
    if not named:
        return None
    weights = truth.select("user_id", *[F.col(column).cast("double").alias(f"{TRUE}_{name}")
                                        for name, column in named.items()])
    return weights.join(users.select("user_id", "user_index"), "user_id", how="inner").drop("user_id")


def sample_users(weights: DataFrame, count: int, fewest_rows: int, seed: int) -> list[dict[str, float]]:
    """Lines of `count` users with at least `fewest_rows` rows, chosen by a hash of the user, so that reruns agree."""
    chosen = (weights.filter(F.col("rows") >= fewest_rows)
              .orderBy(F.xxhash64("user_index", F.lit(seed)), "user_index").limit(count))
    return [line.asDict() for line in chosen.collect()]


def agreement(weights: DataFrame, pairs: dict[str, str], fewest_rows: int) -> tuple[int, dict[str, float]]:
    """The number of users with at least `fewest_rows` rows, and over these the correlation between the columns of each
    pair, by the pair's first name; pairs without one are left out."""
    measured = weights.filter(F.col("rows") >= fewest_rows).agg(
        F.count("*").alias("users"), *[_correlation(mine, true).alias(mine) for mine, true in pairs.items()])
    users, *values = measured.collect()[0]
    return users, {name: value for name, value in zip(pairs, values, strict=True) if value is not None}


def _correlation(first: str, second: str) -> Column:
    """Null where one of the two never varies; Spark's own corr fails there in ANSI mode."""
    both = F.col(first).isNotNull() & F.col(second).isNotNull()
    spread = F.stddev_pop(F.when(both, F.col(first))) * F.stddev_pop(F.when(both, F.col(second)))
    return F.when(spread > 1e-12, F.covar_pop(first, second) / spread)


def _as_shares(frame: DataFrame, columns: list[str]) -> DataFrame:
    if not columns:
        return frame
    total: Column = sum((F.col(name) for name in columns), start=F.lit(0.0))
    shares = {name: F.when(F.col("_total") > 0, F.col(name) / F.col("_total")) for name in columns}
    return frame.withColumn("_total", total).withColumns(shares).drop("_total")
