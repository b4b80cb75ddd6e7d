"""Scores that need no ranker: two popularity baselines, a constant, and the best that anyone could do.

All of them stand beside the rankers' as `score_<name>` columns of the same rows, so that one code measures all.
"""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from umair.errors import ContractError
from umair.storage import for_spark

POPULARITY, BOOKMARK_RATE, CONSTANT, CEILING = "popularity", "bookmark_rate", "constant", "ceiling"
BASELINES = (POPULARITY, BOOKMARK_RATE, CONSTANT)
RANK_ONLY = (POPULARITY,)  # a count: it orders rows, but is no probability


def add_baselines(rows: DataFrame, base_rate: float, prior_views: float) -> DataFrame:
    """Adds `score_popularity`, `score_bookmark_rate` and `score_constant` from the as-of counters of a window's rows.

    popularity: bookmarks of the illustration so far. bookmark_rate: bookmarks a view so far, drawn toward the training
    base rate as if `prior_views` more views had met it. constant: the training base rate.
    """
    bookmarks, views = F.col("illust_bookmarks").cast("double"), F.col("illust_views").cast("double")
    rate = (bookmarks + prior_views * base_rate) / (views + prior_views)
    return rows.withColumns({"score_popularity": bookmarks, "score_bookmark_rate": F.least(rate, F.lit(1.0)),
                             "score_constant": F.lit(float(base_rate))})


def read_truth(spark: SparkSession, folder: str, users: DataFrame, illustrations: DataFrame) -> DataFrame:
    """The truth table of a drawn world by index: user_index, illust_index, score_ceiling.

    Raises ContractError when the folder has no events.parquet.
    """
    path = Path(folder) / "events.parquet"
    if not path.exists():
        raise ContractError("evaluation.truth", f"no {path}", "the truth table of a drawn world, or null",
                            "correct evaluation.truth, or set it to null for data whose truth nobody knows")
    truth = spark.read.parquet(*for_spark(path))
    return (truth.join(users.select("user_id", "user_index"), "user_id", how="inner")
            .join(illustrations.select("illust_id", "illust_index"), "illust_id", how="inner")
            .select("user_index", "illust_index", F.col("probability").cast("double").alias("score_ceiling")))


def add_ceiling(rows: DataFrame, truth: DataFrame) -> DataFrame:
    """Adds `score_ceiling`, the probability that the row's view became a bookmark: no ranker can order rows better."""
    return rows.join(truth, ["user_index", "illust_index"], how="left")


def require_whole_ceiling(rows: DataFrame, folder: str) -> None:
    """Raises ContractError when a test row has no truth: the ceiling would stand for other rows than the rankers' AUC."""
    missing = rows.filter(F.col("score_ceiling").isNull()).count()
    if missing:
        raise ContractError(f"evaluation.truth {folder}", f"{missing} test rows without a probability",
                            "one for every test row", "take the truth that was drawn with these events, or set "
                            "evaluation.truth to null")
