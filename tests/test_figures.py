"""The verdict and the values of report.json, from made-up rows."""

import json

import numpy as np
import pytest

from umair import metrics
from umair.evaluation.comparison import resample_users
from umair.evaluation.figures import VerdictConfig, differences, headline, judge, measure_lines
from umair.evaluation.slices import Figures

SKILL = {"main": 1.5, "id_only": 0.5, "last_week": 1.4, "popularity": 0.3, "bookmark_rate": 0.4, "ceiling": 4.0, "constant": 0}


def measured(skill, one_class=False, count=3_000):
    """Figures and resamplings on the slices all and cold, for rankers that know the label by more or less."""
    rng = np.random.default_rng(0)
    user, label, cold = rng.integers(0, 150, count), rng.integers(0, 2, count), rng.random(count) < 0.2
    if one_class:
        label[:] = 1
    scores = {name: 1 / (1 + np.exp(-(much * (label - 0.5) + rng.normal(size=count) * (much > 0))))
              for name, much in skill.items()}
    figures, paired = [], {}
    for part, mine in (("all", np.ones(count, bool)), ("cold", cold)):
        kept = {name: score[mine] for name, score in scores.items()}
        paired[part] = resample_users(user[mine], label[mine], kept, replicates=100, confidence=0.95, seed=0)
        figures += [Figures(part, name, int(mine.sum()), int(label[mine].sum()), metrics.auc(label[mine], score),
                            None if name == "popularity" else metrics.LogLoss.of(label[mine], score),
                            metrics.GroupedAuc.of(user[mine], label[mine], score)) for name, score in kept.items()]
    return measure_lines(figures, paired), differences(paired, [name for name in skill if name in (
        "id_only", "last_week", "popularity", "bookmark_rate")])


def test_a_better_ranker_is_accepted_and_the_sentence_says_by_how_much():
    lines, gaps = measured(SKILL)
    verdict, reasons = judge(lines, gaps, VerdictConfig())
    assert verdict == "accept"
    gap = next(gap for gap in gaps if (gap["slice"], gap["against"]) == ("all", "bookmark_rate"))
    assert f"{gap['estimate']:.3f} more than bookmark rate" in reasons[0]


def test_a_ranker_below_popularity_is_rejected_unless_that_is_allowed():
    lines, gaps = measured({**SKILL, "main": 0.1})
    verdict, reasons = judge(lines, gaps, VerdictConfig(reject_below_last_week=False))
    assert verdict == "reject"
    assert "which bookmark rate alone reaches" in reasons[0]
    allowed = VerdictConfig(reject_below_popularity=False, reject_below_last_week=False)
    assert judge(lines, gaps, allowed)[0] == "accept"


def test_a_ranker_clearly_below_last_week_s_is_rejected():
    lines, gaps = measured({**SKILL, "last_week": 2.5})
    verdict, reasons = judge(lines, gaps, VerdictConfig())
    assert verdict == "reject"
    assert "The ranker before it is better by" in reasons[0]
    assert judge(*measured({**SKILL, "last_week": 1.52}), VerdictConfig())[0] == "accept"  # not clearly


def test_a_minimum_auc_is_kept():
    lines, gaps = measured(SKILL)
    assert judge(lines, gaps, VerdictConfig(minimum_auc=0.99))[0] == "reject"


def test_headline_takes_the_better_popularity_and_the_rival_of_its_name():
    lines, _ = measured(SKILL)
    values = {(line["slice"], line["ranker"]): line["auc"] for line in lines}
    found = headline(lines)
    assert found["popularity_auc"] == max(values["all", "popularity"], values["all", "bookmark_rate"])
    assert found["id_only_auc"] == values["all", "id_only"]
    assert found["cold_ceiling_auc"] == values["cold", "ceiling"]
    assert found["way"] == pytest.approx((values["all", "main"] - 0.5) / (values["all", "ceiling"] - 0.5))


def test_without_truth_or_rival_the_values_are_null():
    skill = {name: much for name, much in SKILL.items() if name not in ("ceiling", "id_only")}
    lines, _ = measured(skill)
    found = headline(lines)
    assert (found["ceiling_auc"], found["id_only_auc"], found["way"], found["cold_ceiling_auc"]) == (None,) * 4
    assert all(line["way_low"] is None for line in lines)


def test_rows_of_one_class_give_null_never_nan_and_a_rejection():
    lines, gaps = measured(SKILL, one_class=True)
    json.dumps([lines, gaps], allow_nan=False)
    assert headline(lines)["auc"] is None
    assert judge(lines, gaps, VerdictConfig()) == (
        "reject", ["The test rows hold one class only, so that nothing can be said about the order of their scores."])


def test_intervals_of_way_hold_their_estimate():
    lines, _ = measured(SKILL)
    main = next(line for line in lines if (line["slice"], line["ranker"]) == ("all", "main"))
    assert main["way_low"] < main["way"] < main["way_high"] < 1
    assert main["auc_low"] < main["auc"] < main["auc_high"]


@pytest.mark.parametrize("gaps", [[], [{"slice": "all", "against": "id_only", "estimate": None, "low": None, "high": None}]])
def test_a_sample_of_users_that_shows_nothing_is_said_so(gaps):
    lines, _ = measured(SKILL)
    verdict, reasons = judge(lines, gaps, VerdictConfig())
    assert verdict == "accept"
    assert "Raise evaluation.interval_rows" in reasons[0]
