"""Measures over Spark equal those of numpy on the same rows; slices are what they say."""

import math

import numpy as np
import pandas as pd
import pytest

from umair import metrics
from umair.errors import ContractError
from umair.evaluation.references import (
    RANK_ONLY,
    add_baselines,
    add_ceiling,
    read_truth,
    require_whole_ceiling,
)
from umair.evaluation.slices import SLICES, calibration, mark_slices, slice_figures


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    count = 900
    score = rng.random(count).round(2)  # rounded: many ties
    return pd.DataFrame({
        "user_index": rng.integers(0, 120, count), "illust_index": (illust := rng.integers(0, 40, count)),
        "has_picture": illust < 20,
        "label": (rng.random(count) < score).astype(int), "score_main": score,
        "score_popularity": rng.integers(0, 5, count).astype(float), "score_constant": 0.5})


@pytest.fixture(scope="module")
def marked(spark, rows):
    training = pd.DataFrame({"illust_index": [one for one in range(30) for _ in range(one + 1)]})  # 0..29: 1..30 rows
    return mark_slices(spark.createDataFrame(rows), spark.createDataFrame(training), 0.8).persist()


@pytest.fixture(scope="module")
def figures(marked):
    return {(line.slice, line.ranker): line for line in slice_figures(marked, RANK_ONLY)}


def members(rows, part):
    illust = rows["illust_index"]
    return rows[{"all": illust >= 0, "cold": illust >= 30, "head": (illust >= 24) & (illust < 30),
                 "tail": illust < 24, "known_picture": illust < 20, "missing_picture": illust >= 20}[part]]


def test_every_row_is_in_its_slices_once(marked, rows):
    # quantile 0.8 of 1..30 rows is 24.2: more than that have the illustrations 24 to 29 (25 to 30 rows)
    assert marked.count() == len(rows)
    found = marked.toPandas()
    for part in SLICES:
        mine = found[found["slices"].map(lambda slices, part=part: part in list(slices))]
        assert sorted(mine["illust_index"]) == sorted(members(rows, part)["illust_index"])


@pytest.mark.parametrize("part", SLICES)
@pytest.mark.parametrize("ranker", ["main", "popularity", "constant"])
def test_spark_equals_numpy(figures, rows, part, ranker):
    found, mine = figures[part, ranker], members(rows, part)
    label, score = mine["label"].to_numpy(), mine[f"score_{ranker}"].to_numpy()
    assert (found.rows, found.positives) == (len(mine), label.sum())
    assert found.auc == pytest.approx(metrics.auc(label, score), abs=1e-12)
    expected = metrics.GroupedAuc.of(mine["user_index"], label, score)
    assert found.gauc.by_rows == pytest.approx(expected.by_rows, abs=1e-12)
    assert found.gauc.by_users == pytest.approx(expected.by_users, abs=1e-12)
    assert (found.gauc.kept_users, found.gauc.dropped_users) == (expected.kept_users, expected.dropped_users)
    assert (found.gauc.kept_rows, found.gauc.dropped_rows) == (expected.kept_rows, expected.dropped_rows)
    assert expected.dropped_users > 0  # otherwise this would not show that they are dropped
    if ranker == "popularity":
        assert found.log_loss is None
    else:
        assert found.log_loss.mean == pytest.approx(metrics.LogLoss.of(label, score).mean, abs=1e-12)


def test_a_constant_is_chance(figures):
    assert figures["all", "constant"].auc == 0.5
    assert figures["all", "constant"].gauc.by_rows == 0.5


def test_calibration_over_spark_equals_numpy(marked, rows):
    found, expected = calibration(marked, "main", 10), metrics.Calibration.of(rows["label"], rows["score_main"], 10)
    np.testing.assert_allclose(found.said_C, expected.said_C, atol=1e-9)
    np.testing.assert_array_equal(found.positives_C, expected.positives_C)
    np.testing.assert_array_equal(found.rows_C, expected.rows_C)


def test_one_class_only_has_no_auc(spark):
    frame = spark.createDataFrame([(1, 1, 0.5, ["all"]), (2, 1, 0.7, ["all"])],
                                  "user_index int, label int, score_main double, slices array<string>")
    (line,) = slice_figures(frame)
    assert math.isnan(line.auc)
    assert math.isnan(line.gauc.by_rows)
    assert (line.gauc.kept_users, line.gauc.dropped_users, line.gauc.dropped_rows) == (0, 2, 2)


def test_baselines_by_hand(spark):
    frame = spark.createDataFrame([(3, 8), (0, 0)], "illust_bookmarks int, illust_views int")
    first, unseen = add_baselines(frame, base_rate=0.25, prior_views=4).collect()
    assert (first.score_popularity, first.score_bookmark_rate) == (3.0, (3 + 1) / (8 + 4))
    assert (unseen.score_popularity, unseen.score_bookmark_rate, unseen.score_constant) == (0.0, 0.25, 0.25)


@pytest.fixture
def truth_folder(tmp_path):
    pd.DataFrame({"user_id": [70, 70, 99], "illust_id": [500, 501, 500], "probability": [0.9, 0.2, 0.4]}).to_parquet(
        tmp_path / "events.parquet")
    return tmp_path


def test_the_ceiling_is_the_row_s_own_probability(spark, truth_folder):
    users = spark.createDataFrame([(70, 0)], "user_id bigint, user_index int")
    illustrations = spark.createDataFrame([(500, 8), (501, 9)], "illust_id bigint, illust_index int")
    rows = spark.createDataFrame([(0, 9), (0, 8), (0, 10)], "user_index int, illust_index int")
    found = add_ceiling(rows, read_truth(spark, str(truth_folder), users, illustrations))
    assert {line.illust_index: line.score_ceiling for line in found.collect()} == {8: 0.9, 9: 0.2, 10: None}
    with pytest.raises(ContractError, match="1 test rows without a probability"):
        require_whole_ceiling(found, str(truth_folder))
    require_whole_ceiling(found.filter("illust_index < 10"), str(truth_folder))


def test_a_missing_truth_folder_says_which_key_to_mend(spark, tmp_path):
    empty = spark.createDataFrame([], "user_id bigint, user_index int, illust_id bigint, illust_index int")
    with pytest.raises(ContractError, match=r"evaluation\.truth: found no .*events\.parquet"):
        read_truth(spark, str(tmp_path), empty, empty)
