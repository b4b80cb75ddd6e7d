"""What the report says of pictures and texts: from made-up measures, and the circumstances by hand."""

from __future__ import annotations

import pytest

from umair.evaluation.content import circumstances, content_sentences

TOLD = {"new_users": 0.85, "past_views": 41.0}


def line(part: str, ranker: str, rows: int, auc: float, gauc: float | None = 0.7) -> dict:
    return {"slice": part, "ranker": ranker, "rows": rows, "auc": auc, "gauc": gauc}


LINES = [line("all", "main", 1_000, 0.807), line("all", "no_content", 1_000, 0.804, 0.69),
         line("cold", "main", 200, 0.75, None), line("cold", "no_content", 200, 0.76), line("missing_picture", "main", 640, 0.8)]


def gap(part: str, low: float | None, high: float | None, against: str = "no_content") -> dict:
    middle = None if low is None or high is None else (low + high) / 2
    return {"slice": part, "against": against, "estimate": middle, "low": low, "high": high,
            "excludes_zero": low is not None and high is not None and (low > 0 or high < 0)}


@pytest.mark.parametrize(("low", "high", "meaning"), [
    (-0.002, 0.008, "which includes zero: these rows do not show that they help"),
    (0.001, 0.005, "which excludes zero: they help"), (-0.02, -0.01, "which excludes zero: they harm")])
def test_the_interval_decides_what_is_said(low, high, meaning):
    first, circumstance = content_sentences(LINES, [gap("all", low, high), gap("cold", None, None)], TOLD, 0.95)
    assert first == (f"With pictures and texts the ranker's AUC on all rows is 0.807, without them 0.804: {(low + high) / 2:+.4f}, "
                     f"95% interval {low:+.4f} to {high:+.4f}, {meaning}. Within users (GAUC, no interval) it is 0.700 with and "
                     "0.690 without.")
    assert circumstance == ("What is there to learn from: 64% of the test rows are of illustrations without a picture, 85% of "
                            "users who came after training, and half of the rows are of users with 41 views or fewer before "
                            "them.")


def test_cold_rows_have_a_sentence_of_their_own():
    _, cold, _ = content_sentences(LINES, [gap("all", 0.1, 0.2), gap("cold", -0.02, 0.0)], TOLD, 0.9)
    assert cold.startswith("With pictures and texts the ranker's AUC on illustrations never seen in training is 0.750, without")
    assert cold.endswith("90% interval -0.0200 to +0.0000, which includes zero: these rows do not show that they help.")


def test_without_such_a_rival_nothing_is_said():
    assert content_sentences(LINES[:1], [gap("all", 0.1, 0.2, against="id_only")], TOLD, 0.95) == []


def test_circumstances_by_hand(spark):
    test = spark.createDataFrame([(1, 0), (1, 10), (2, 4), (3, 6)], "user_index int, user_views int")
    training = spark.createDataFrame([(1,), (1,), (9,)], "user_index int")
    assert circumstances(test, training) == {"new_users": 0.5, "past_views": 5.0}
