"""Scoring over Spark equals the rankers called directly, row by row; bad scores and missing rows are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_site import MAIN, RIVAL, ROWS, Site, make_site, save

from umair.errors import ContractError, StorageError
from umair.evaluation.contributions import agreement, read_true_weights, sample_users, user_weights
from umair.evaluation.scoring import plan_for, require_numbers, rows_of, score_batches, score_window
from umair.training.checkpoint import load_ranker
from umair.training.lookup import COLUMNS, Lookup


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def scored(spark, site):
    return score_window(spark, site.test_files, site.plan).persist()


def test_spark_equals_the_rankers_called_directly(scored, site):
    plan = site.plan
    table = pa.concat_tables([pq.read_table(file, columns=list(COLUMNS)) for file in site.test_files]).combine_chunks()
    rows = rows_of(table.to_batches()[0])
    found = scored.toPandas()
    assert len(found) == ROWS
    key = ["user_index", "illust_index", "label", "illust_views", "illust_bookmarks"]
    expected = pd.DataFrame({name: rows[name] for name in key})
    for name, folder in plan.rankers.items():
        ranker = load_ranker(Path(folder))
        with torch.inference_mode():
            scores = ranker(Lookup(plan.open_features(), ranker).batch(rows))
        expected[f"score_{name}"] = scores.logit_B.double().sigmoid().numpy()
        if name == "main":
            expected["contribution"], expected["match"] = scores.contribution_BM.numpy().tolist(), scores.match_BM.numpy().tolist()
    found, expected = (frame.sort_values(key, ignore_index=True) for frame in (found, expected))  # a pair stands once
    pd.testing.assert_frame_equal(found[key], expected[key], check_dtype=False)
    for name in ("score_main", "score_id_only"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    np.testing.assert_allclose(np.stack(found["contribution"]), np.stack(expected["contribution"]), atol=1e-5)
    np.testing.assert_allclose(np.stack(found["match"]), np.stack(expected["match"]), atol=1e-4)
    assert found["score_main"].std() > 0.05  # otherwise equality would say little


def test_a_row_says_whether_its_picture_is_known(scored):
    found = scored.select("illust_index", "has_picture").distinct().toPandas()
    assert (found["has_picture"] == (found["illust_index"] % 5 != 0)).all()


def test_rankers_whose_scores_depend_on_the_batch_are_scored_in_that_of_their_validation(site, tmp_path):
    table = pa.concat_tables([pq.read_table(file, columns=list(COLUMNS)) for file in [*site.test_files] * 3]).combine_chunks()
    sizes = {}
    for name, config in (("alone", MAIN), ("batch_mean", MAIN.model_copy(update={"batch_mean": True}))):
        plan = replace(site.plan, rankers={"main": save(tmp_path / name, config)}, batch_rows=2_048)
        sizes[name] = [len(batch) for batch in score_batches(iter(table.to_batches()), plan)]
    assert sizes == {"alone": [1_500], "batch_mean": [512, 512, 476]}


def test_rows_of_one_s_own_are_scored_by_the_ranker_that_the_weekly_run_names(spark, site, scored):
    plan = plan_for(site.plan.root, site.rankers / "main", site.plan.features)
    assert plan.open_features().folder == site.plan.open_features().folder
    mine, whole = (sorted(row.score_main for row in frame.select("score_main").collect())
                   for frame in (score_window(spark, site.test_files, plan), scored))
    np.testing.assert_allclose(mine, whole, atol=1e-6)
    with pytest.raises(StorageError, match=r"no facts\.json"):
        plan_for(site.plan.root, site.rankers / "no" / "ranker")


def test_contribution_weights_sum_to_one_and_match_has_its_modalities(scored):
    found = scored.toPandas()
    np.testing.assert_allclose(np.stack(found["contribution"]).sum(1), 1, atol=1e-5)
    assert np.stack(found["match"]).shape == (ROWS, 4)


def test_a_ranker_without_weights_has_empty_ones(spark, site):
    only = replace(site.plan, rankers={"main": site.plan.rankers["id_only"]})
    line = score_window(spark, site.test_files[:1], only).first()
    assert (line.contribution, line.match) == ([], [])


def test_scores_that_are_not_numbers_are_counted_and_refused(spark, site, tmp_path, scored):
    assert require_numbers(scored, ["main", "id_only"]) == ROWS
    broken = save(tmp_path / "broken", RIVAL, mean=float("nan"))
    rows = score_window(spark, site.test_files, replace(site.plan, rankers={**site.plan.rankers, "broken": broken}))
    with pytest.raises(ContractError, match=r"ranker 'broken': found 500 of 500 scores that are not numbers.*lower learning rate"):
        require_numbers(rows, ["main", "broken"])


def test_a_window_without_rows_is_refused(scored):
    with pytest.raises(ContractError, match="window_test: found no row"):
        require_numbers(scored.filter("label > 1"), ["main"])


def test_user_weights_by_hand(spark):
    rows = spark.createDataFrame([(1, [0.2, 0.8], [1.0, 5.0]), (1, [0.4, 0.6], [3.0, 5.0]), (2, [0.5, 0.5], [0.0, 0.0])],
                                 "user_index int, contribution array<float>, match array<float>")
    first, second = user_weights(rows, ("semantic", "style"), ("semantic", "text")).orderBy("user_index").collect()
    assert (first["rows"], first.contribution_semantic, first.contribution_style) == (2, pytest.approx(0.3), pytest.approx(0.7))
    assert (first.match_semantic, first.match_text) == (1.0, 0.0)  # only the semantic part varies
    assert second.match_semantic is None  # nothing varies


def test_true_weights_are_named_after_the_modality_that_can_know_them(spark, tmp_path):
    pd.DataFrame({"user_id": [7], "weight_content": [0.5], "weight_tags": [0.3], "weight_artist": [0.2]}).to_parquet(
        tmp_path / "users.parquet")
    users = spark.createDataFrame([(7, 3), (8, 4)], "user_id bigint, user_index int")
    (line,) = read_true_weights(spark, str(tmp_path), users).collect()
    assert line.asDict() == {"user_index": 3, "true_semantic": 0.5, "true_text": 0.3, "true_profile": 0.2}
    assert read_true_weights(spark, str(tmp_path / "elsewhere"), users) is None


def test_agreement_is_the_correlation_over_users_with_enough_rows(spark):
    weights = spark.createDataFrame([(0, 20, 0.1, 0.2), (1, 20, 0.5, 0.4), (2, 20, 0.3, 0.3), (3, 1, 0.9, 0.0)],
                                    "user_index int, rows int, mine double, truth double")
    assert agreement(weights, {"mine": "truth"}, fewest_rows=10) == (3, {"mine": pytest.approx(1.0)})
    assert agreement(weights.withColumn("truth", 0 * weights["truth"]), {"mine": "truth"}, 10) == (3, {})
    assert [line["user_index"] for line in sample_users(weights, 5, 10, seed=0)] != [3]
    assert len(sample_users(weights, 2, 10, seed=0)) == 2
