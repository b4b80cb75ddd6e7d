"""Paired intervals: known answers, coverage, and what a replicate is."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from umair.evaluation.comparison import Interval, resample_users

SETTINGS = {"replicates": 400, "confidence": 0.95, "seed": 3}


def rows(seed, users=200, per_user=6, signal=1.0, rival=0.3, user_effect=0.0):
    """Labels, and two scores that know them by more or less; `user_effect` makes the rows of one user alike."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), per_user)
    label = rng.integers(0, 2, len(user))
    shared = user_effect * rng.normal(size=users)[user]
    return user, label, {"good": signal * label + shared + rng.normal(size=len(user)),
                         "weak": rival * label + shared + rng.normal(size=len(user))}


def test_equal_rankers_differ_by_exactly_nothing():
    user, label, scores = rows(0)
    found = resample_users(user, label, {"one": scores["good"], "same": scores["good"].copy()}, **SETTINGS)
    assert found.difference("one", "same") == Interval(0.0, 0.0, 0.0)
    assert not found.difference("one", "same").excludes_zero


def test_a_clear_difference_excludes_zero_and_has_a_sign():
    user, label, scores = rows(1)
    found = resample_users(user, label, scores, **SETTINGS)
    gain = found.difference("good", "weak")
    assert gain.low > 0
    assert gain.estimate == pytest.approx(roc_auc_score(label, scores["good"]) - roc_auc_score(label, scores["weak"]))
    assert found.difference("weak", "good").high == pytest.approx(-gain.low)


def test_a_replicate_is_the_auc_with_users_counted_poisson_times():
    user, label, scores = rows(2, users=30)
    score = scores["good"].round(1)  # ties
    found = resample_users(user, label, {"good": score}, replicates=5, confidence=0.9, seed=7)
    weight_UR = np.random.default_rng(7).poisson(1.0, (30, 5))
    expected = [roc_auc_score(label, score, sample_weight=weight_U[user]) for weight_U in weight_UR.T]
    np.testing.assert_allclose(found.replicate_R["good"], expected, atol=1e-12)


def test_equal_seeds_give_equal_intervals():
    user, label, scores = rows(4)
    assert resample_users(user, label, scores, **SETTINGS).auc("good") == resample_users(
        user, label, scores, **SETTINGS).auc("good")


def test_95_of_100_intervals_cover_the_true_difference():
    # both scores are normal with unit spread: AUC = Phi(shift / sqrt(2))
    true = (math.erf(1.0 / 2) - math.erf(0.3 / 2)) / 2
    covered = 0
    for seed in range(100):
        gain = resample_users(*rows(100 + seed, users=120), **{**SETTINGS, "replicates": 200}).difference("good", "weak")
        covered += gain.low <= true <= gain.high
    assert 88 <= covered <= 100  # binomial(100, 0.95) is below 88 once in 500


def test_spread_agrees_with_delong_when_every_user_has_one_row():
    user, label, scores = rows(5, users=3_000, per_user=1)
    found = resample_users(user, label, scores, **SETTINGS)
    spread = np.std(found.replicate_R["good"] - found.replicate_R["weak"])
    assert spread == pytest.approx(delong_spread(label, scores["good"], scores["weak"]), rel=0.12)


def delong_spread(label, first, second):
    """Standard error of an AUC difference (DeLong, DeLong and Clarke-Pearson 1988)."""
    def placements(score):
        positive, negative = score[label == 1], score[label == 0]
        won = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
        return won.mean(1), won.mean(0)
    (first_pos, first_neg), (second_pos, second_neg) = placements(first), placements(second)
    return math.sqrt(np.var(first_pos - second_pos, ddof=1) / len(first_pos)
                     + np.var(first_neg - second_neg, ddof=1) / len(first_neg))


def test_users_whose_rows_are_alike_widen_the_interval():
    user, label, scores = rows(6, users=60, per_user=30, user_effect=3.0)
    label = np.where(np.random.default_rng(0).random(60)[user] < 0.5, label, (user % 2))  # users lean to one class
    whole = resample_users(user, label, scores, **SETTINGS).auc("good")
    as_if_apart = resample_users(np.arange(len(user)), label, scores, **SETTINGS).auc("good")
    assert whole.high - whole.low > 2 * (as_if_apart.high - as_if_apart.low)


def test_way_of_the_ceiling_itself_is_one():
    user, label, scores = rows(8)
    found = resample_users(user, label, scores, **SETTINGS)
    assert found.way("good", "good") == Interval(1.0, 1.0, 1.0)
    assert 0 < found.way("weak", "good").estimate < 1


@pytest.mark.parametrize("count", [0, 4])
def test_rows_of_one_class_have_no_interval(count):
    found = resample_users(np.arange(count), np.ones(count), {"good": np.arange(float(count))}, **SETTINGS).auc("good")
    assert math.isnan(found.estimate)
    assert math.isnan(found.low)
    assert not found.excludes_zero
