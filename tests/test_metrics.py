"""Measures against hand-worked numbers, against scikit-learn, and as sums that add."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from umair.metrics import EPSILON, Calibration, GroupedAuc, LogLoss, ScoreCounts, auc, auc_by_user, way


def rows(seed=0, count=2_000, users=60, decimals=2):
    rng = np.random.default_rng(seed)
    user, score = rng.integers(0, users, count), rng.random(count).round(decimals)  # rounded: many ties
    return user, (rng.random(count) < score).astype(int), score


def test_auc_of_four_rows_by_hand():
    # pairs (positive, negative): .8>.1 won, .8>.4 won, .4>.1 won, .4=.4 half -> 3.5 of 4
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 3.5 / 4


def test_all_scores_equal_is_chance_and_reversed_scores_are_the_rest():
    _, label, score = rows()
    assert auc(label, np.ones_like(score)) == 0.5
    assert auc(label, -score) == pytest.approx(1 - auc(label, score), abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_auc_equals_scikit_learn_with_many_and_with_few_ties(decimals):
    _, label, score = rows(decimals=decimals)
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_auc_of_one_class_is_not_a_number():
    assert math.isnan(auc([1, 1], [0.1, 0.2]))
    assert math.isnan(auc([], []))


def test_score_counts_of_parts_add_to_the_whole():
    _, label, score = rows(decimals=1)
    parts = ScoreCounts.of(label[:700], score[:700]) + ScoreCounts.of(label[700:], score[700:])
    whole = ScoreCounts.of(label, score)
    np.testing.assert_array_equal(parts.score_K, whole.score_K)
    np.testing.assert_array_equal(parts.positives_K, whole.positives_K)
    assert parts.auc == whole.auc


def test_log_loss_by_hand_clips_and_adds():
    first, second = LogLoss.of([1], [0.25]), LogLoss.of([0, 1], [0.5, 0.0])
    assert first.mean == pytest.approx(math.log(4))
    assert second.total == pytest.approx(math.log(2) - math.log(EPSILON))
    assert (first + second).mean == pytest.approx((math.log(8) - math.log(EPSILON)) / 3)


def test_log_loss_equals_scikit_learn():
    _, label, score = rows()
    inside = score.clip(0.01, 0.99)
    assert LogLoss.of(label, inside).mean == pytest.approx(sklearn_log_loss(label, inside), abs=1e-12)


def test_gauc_by_hand():
    # user 1: positive above and below one negative each -> 1/2 (3 rows); user 2: right (2 rows); user 3: one class
    user, label, score = [1, 1, 1, 2, 2, 3], [0, 1, 0, 0, 1, 1], [0.9, 0.5, 0.1, 0.2, 0.3, 0.4]
    found = GroupedAuc.of(user, label, score)
    assert found.by_rows == pytest.approx((3 * 0.5 + 2 * 1.0) / 5)
    assert found.by_users == pytest.approx((0.5 + 1.0) / 2)
    assert (found.kept_users, found.kept_rows, found.dropped_users, found.dropped_rows) == (2, 5, 1, 1)


@pytest.mark.parametrize("decimals", [1, 12])
def test_auc_of_each_user_equals_scikit_learn(decimals):
    user, label, score = rows(users=200, decimals=decimals)
    rows_U, auc_U = auc_by_user(user, label, score)
    for place, one in enumerate(np.unique(user)):
        mine = user == one
        assert rows_U[place] == mine.sum()
        if label[mine].min() == label[mine].max():
            assert np.isnan(auc_U[place])
        else:
            assert auc_U[place] == pytest.approx(roc_auc_score(label[mine], score[mine]), abs=1e-12)


def test_gauc_of_parts_that_share_no_user_add_to_the_whole():
    user, label, score = rows()
    first = user < 20
    parts = GroupedAuc.of(user[first], label[first], score[first]) + GroupedAuc.of(
        user[~first], label[~first], score[~first])
    whole = GroupedAuc.of(user, label, score)
    assert parts.by_rows == pytest.approx(whole.by_rows, abs=1e-12)
    assert parts.by_users == pytest.approx(whole.by_users, abs=1e-12)
    assert parts.dropped_users == whole.dropped_users


def test_gauc_of_no_rows_is_not_a_number():
    assert math.isnan(GroupedAuc.of([], [], []).by_rows)


def test_calibration_by_hand_and_adding():
    # two bins: [0, .5) says .2 and .4, one of two happened; [.5, 1] says .9 and 1, both happened
    whole = Calibration.of([0, 1, 1, 1], [0.2, 0.4, 0.9, 1.0], bins=2)
    np.testing.assert_allclose(whole.said_C, [0.6, 1.9])
    np.testing.assert_array_equal(whole.positives_C, [1, 2])
    assert whole.error == pytest.approx((0.4 + 0.1) / 4)
    parts = Calibration.of([0, 1], [0.2, 0.4], 2) + Calibration.of([1, 1], [0.9, 1.0], 2)
    np.testing.assert_array_equal(parts.rows_C, whole.rows_C)


def test_way_is_zero_at_chance_one_at_the_ceiling():
    assert way(0.5, 0.8) == 0
    assert way(0.8, 0.8) == 1
    assert way(0.65, 0.8) == pytest.approx(0.5)
    assert math.isnan(way(0.6, 0.5))


def test_bad_labels_and_scores_without_order_are_refused():
    with pytest.raises(ValueError, match="other than 0 and 1"):
        auc([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN"):
        auc([0, 1], [0.1, math.nan])
