"""What pictures and texts are worth: the ranker beside the same ranker without them, in words, good or bad.

A rival named `no_content` is that other ranker; where the configuration trains none, nothing is said.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from umair.evaluation.slices import ALL, COLD, MISSING_PICTURE
from umair.training.loop import MAIN

NO_CONTENT = "no_content"
Line = dict[str, Any]


def circumstances(test: DataFrame, training: DataFrame) -> dict[str, float]:
    """Of test rows: `new_users`, the share whose user has no training row; `past_views`, the median of their users' views.

    test: user_index, user_views. training: user_index.
    """
    known = training.select("user_index").distinct().withColumn("known", F.lit(1))
    found = test.join(known, "user_index", how="left").agg(
        F.avg(F.col("known").isNull().cast("int")).alias("new_users"),
        F.percentile("user_views", F.lit(0.5)).alias("past_views")).collect()[0]
    return {name: float(value) for name, value in found.asDict().items()}


def content_sentences(lines: list[Line], gaps: list[Line], told: dict[str, float], confidence: float) -> list[str]:
    """Sentences on what the ranker gains over `no_content`, each with its interval, and on what may limit it here."""
    measures = {(line["slice"], line["ranker"]): line for line in lines}
    gap = {(each["slice"], each["against"]): each for each in gaps}
    sentences = [_gain(gap[part, NO_CONTENT], measures[part, MAIN], measures[part, NO_CONTENT], words, confidence)
                 for part, words in ((ALL, "on all rows"), (COLD, "on illustrations never seen in training"))
                 if gap.get((part, NO_CONTENT), {}).get("low") is not None]
    if not sentences:
        return []
    blind = measures.get((MISSING_PICTURE, MAIN), {"rows": 0})["rows"] / measures[ALL, MAIN]["rows"]
    return [*sentences, f"What is there to learn from: {blind:.0%} of the test rows are of illustrations without a picture, "
            f"{told['new_users']:.0%} of users who came after training, and half of the rows are of users with "
            f"{told['past_views']:.0f} views or fewer before them."]


def _gain(gap: Line, main: Line, without: Line, words: str, confidence: float) -> str:
    if not gap["excludes_zero"]:
        meaning = "which includes zero: these rows do not show that they help"
    else:
        meaning = "which excludes zero: they help" if gap["estimate"] > 0 else "which excludes zero: they harm"
    within = ""
    if main["gauc"] is not None and without["gauc"] is not None:
        within = f" Within users (GAUC, no interval) it is {main['gauc']:.3f} with and {without['gauc']:.3f} without."
    return (f"With pictures and texts the ranker's AUC {words} is {main['auc']:.3f}, without them {without['auc']:.3f}: "
            f"{gap['estimate']:+.4f}, {confidence:.0%} interval {gap['low']:+.4f} to {gap['high']:+.4f}, {meaning}.{within}")
