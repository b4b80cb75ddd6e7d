"""What an experiment found: each ranker's measures, and its difference to the default on the same rows.

A figure is the mean over seeds. Its interval comes from replicates in which users are drawn anew and seeds are weighed as
Student's t says of their mean, for all rankers alike, so that a difference is paired in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from umair.evaluation.comparison import resample_users
from umair.experiments.config import DEFAULT
from umair.experiments.data import COLD, NEW_USERS, Data
from umair.experiments.trial import Outcome
from umair.metrics import GroupedAuc, LogLoss, auc, auc_by_user, way
from umair.training.loop import MAIN

REPLICATES, CONFIDENCE = 200, 0.95  # of users
SEED_DRAWS = 10  # weights of seeds for each replicate of users
FEWEST_ROWS = 20  # of a user whose weights are compared with the truth
PLACE = ("machine", "device", "at_once")  # facts of a trial
Line = dict[str, Any]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


def summarise(data: Data, outcomes: dict[str, list[Outcome]]) -> Line:
    """`outcomes`: by ranker, one a seed, the seeds in the same order. -> rows of each window, slices with marks and lines,
    facts by ranker, and where they were trained: the place first whose seconds the rankers' facts are."""
    slices = {name: _slice(data, outcomes, name, mask_N) for name, mask_N in data.slices.items()}
    trained = _places([one.facts for each in outcomes.values() for one in each])
    rows = {split: sum(files.values()) for split, files in data.inputs.rows_by_file.items()}
    found: Line = _nulled({"rows": rows, "slices": slices, "trained": trained,
                           "rankers": {name: _facts(data, each, trained[0]) for name, each in outcomes.items()}})
    return found


def _nulled(value: Any) -> Any:
    """None for what is not defined: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _nulled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_nulled(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _places(facts: list[dict[str, Any]]) -> list[Line]:
    """How many trainings each machine made, on which device, how many at once, and their minutes. CPUs come first: what
    shares one GPU waits for it."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for each in facts:
        found.setdefault(tuple(each[key] for key in PLACE), []).append(each["seconds"])
    places = [{**dict(zip(PLACE, place, strict=True)), "trainings": len(seconds), "minutes": round(sum(seconds) / 60)}
              for place, seconds in found.items()]
    return sorted(places, key=lambda each: (each["device"] != "cpu", -each["trainings"], each["machine"], each["at_once"]))


def _slice(data: Data, outcomes: dict[str, list[Outcome]], name: str, mask_N: Array) -> Line:
    marks = _marks(data, name, mask_N)
    replicates = _Replicates(data.test.user_N[mask_N], data.test.label_N[mask_N],
                             {ranker: [each.logit_N[mask_N] for each in seeds] for ranker, seeds in outcomes.items()})
    lines = {ranker: {**replicates.line(ranker), **{f"way_to_{mark}": round(way(replicates.mean(ranker), best), 4)
                                                    for mark, best in marks.items()}} for ranker in outcomes}
    return {"rows": int(mask_N.sum()), "positives": int(data.test.label_N[mask_N].sum()), "marks": marks, "rankers": lines}


def _marks(data: Data, name: str, mask_N: Array) -> dict[str, float]:
    """The AUC of the truth and of what can be learned, where the world says them."""
    label_N, marks = data.test.label_N[mask_N], {}
    if data.probability_N is not None:
        marks["ceiling"] = auc(label_N, data.probability_N[mask_N])
    if data.learnable is not None and name != NEW_USERS:  # of whom a regression on training rows knows nothing
        score_N = data.learnable.cold_N if name == COLD else data.learnable.all_N
        marks["learnable"] = auc(label_N, score_N[mask_N])
    return marks


class _Replicates:
    """Every ranker's AUC on one slice, for each seed, and in replicates of users and seeds that all share. R of users, D of
    users and seeds, S seeds."""

    def __init__(self, user_N: Array, label_N: Array, logits: dict[str, list[Array]]) -> None:
        self.label_N, self.logits = label_N, logits
        self.seeds = len(next(iter(logits.values())))
        scores = {f"{ranker} {seed}": logit_N.astype(np.float64)
                  for ranker, each in logits.items() for seed, logit_N in enumerate(each)}
        self.aucs = resample_users(user_N, label_N, scores, replicates=REPLICATES, confidence=CONFIDENCE, seed=0)
        self.weight_DS = seed_weights(self.seeds, REPLICATES * SEED_DRAWS)
        self.weight_UR = np.random.default_rng(2).poisson(1.0, (len(np.unique(user_N)), REPLICATES)).astype(np.float64)
        self.gaucs = {ranker: [_GroupedReplicates.of(user_N, label_N, logit_N, self.weight_UR) for logit_N in each]
                      for ranker, each in logits.items()}

    def by_seed(self, ranker: str) -> list[float]:
        return [self.aucs.estimate[f"{ranker} {seed}"] for seed in range(self.seeds)]

    def mean(self, ranker: str) -> float:
        return float(np.mean(self.by_seed(ranker)))

    def replicate(self, ranker: str) -> Floats:
        """AUC_D: each over that replicate's users and weights of seeds."""
        return self._over_seeds([self.aucs.replicate_R[f"{ranker} {seed}"] for seed in range(self.seeds)])

    def gauc(self, ranker: str) -> float:
        return float(np.mean([each.estimate for each in self.gaucs[ranker]]))

    def gauc_replicate(self, ranker: str) -> Floats:
        return self._over_seeds([each.replicate_R for each in self.gaucs[ranker]])

    def _over_seeds(self, of_seeds: list[Floats]) -> Floats:
        """From S arrays over R -> D: each replicate of users with SEED_DRAWS weights of seeds."""
        drawn_D: Floats = (np.tile(np.stack(of_seeds, 1), (SEED_DRAWS, 1)) * self.weight_DS).sum(1)
        return drawn_D

    def line(self, ranker: str) -> Line:
        gap = self.gauc(DEFAULT) - self.gauc(ranker)
        losses = [_log_loss(self.label_N, logit_N) for logit_N in self.logits[ranker]]
        own_D = self.replicate(ranker)
        return {"auc": _figure(self.mean(ranker), own_D), "auc_by_seed": [round(value, 5) for value in self.by_seed(ranker)],
                "default_minus": _figure(self.mean(DEFAULT) - self.mean(ranker), self.replicate(DEFAULT) - own_D),
                "gauc": round(self.gauc(ranker), 5),
                "gauc_default_minus": _figure(gap, self.gauc_replicate(DEFAULT) - self.gauc_replicate(ranker)),
                "log_loss": round(float(np.mean(losses)), 5)}


def seed_weights(seeds: int, draws: int) -> Floats:
    """weight_DS, each draw's with sum 1: of any S figures the weighted sum varies about their mean as Student's t with S - 1
    degrees of freedom times their deviation over the root of S. One seed has the weight 1, as it says nothing of others."""
    rng = np.random.default_rng(1)
    if seeds == 1:
        return np.ones((draws, 1))
    normal_DS, squares_D = rng.standard_normal((draws, seeds)), rng.chisquare(seeds - 1, draws)
    weight_DS: Floats = 1 / seeds + (normal_DS - normal_DS.mean(1, keepdims=True)) / np.sqrt(seeds * squares_D)[:, None]
    return weight_DS


@dataclass(frozen=True)
class _GroupedReplicates:
    """GAUC (by rows) of one ranker and seed: on all users, and where each counts as often as a replicate drew it."""

    estimate: float
    replicate_R: Floats

    @classmethod
    def of(cls, user_N: Array, label_N: Array, logit_N: Array, weight_UR: Floats) -> _GroupedReplicates:
        rows_U, auc_U = auc_by_user(user_N, label_N, logit_N)
        kept_U = ~np.isnan(auc_U)
        weighed_UR = weight_UR[kept_U] * rows_U[kept_U, None]
        total_R = weighed_UR.sum(0)
        replicate_R = np.divide(auc_U[kept_U] @ weighed_UR, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0)
        return cls(GroupedAuc.of(user_N, label_N, logit_N).by_rows, replicate_R)


def _figure(estimate: float, replicate_R: Floats) -> Line:
    tail = (1 - CONFIDENCE) / 2
    low, high = (math.nan, math.nan) if np.isnan(replicate_R).all() else np.nanquantile(replicate_R, [tail, 1 - tail])
    return {"estimate": round(estimate, 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def _log_loss(label_N: Array, logit_N: Array) -> float:
    return LogLoss.of(label_N, 1 / (1 + np.exp(-logit_N.astype(np.float64)))).mean


def _facts(data: Data, outcomes: list[Outcome], timed: Line) -> Line:
    """`timed`: the place whose seconds count; None where it trained no seed of this ranker."""
    facts = [each.facts for each in outcomes]
    there = [each for each in facts if all(each[key] == timed[key] for key in PLACE)]
    seconds = round(float(np.mean([each["seconds"] for each in there])), 1) if there else None
    rate = round(float(np.mean([each["rows"] * each["epochs"] / each["seconds"] for each in there]))) if there else None
    return {"trainable": facts[0]["trainable"], "seconds": seconds, "rows_per_second": rate,
            "kept_epochs": [each["kept_epoch"] for each in facts], **_validated(facts),
            "shared_buckets": facts[0]["shared_buckets"], **_agreements(data, outcomes)}


def _validated(facts: list[dict[str, Any]]) -> Line:
    """What the kept epochs reached on the validation window, by which whoever chooses between rankers should."""
    kept = [next(epoch["rankers"][MAIN] for epoch in each["valid"] if epoch["epoch"] == each["kept_epoch"])
            for each in facts]
    return {f"valid_{name}": round(float(np.mean([each[name] for each in kept])), 5) for name in ("auc", "log_loss")}


def _agreements(data: Data, outcomes: list[Outcome]) -> Line:
    """Correlation, over users, of what a modality counts with the weight that the world gave that user; mean over seeds.

    contribution: the mean weight. match: how much the modality's part of the logit varies, as a share of all.
    """
    if data.true_weights_U is None:
        return {}
    user_U, rows_U = np.unique(data.test.user_N, return_counts=True)
    enough_U = rows_U >= FEWEST_ROWS
    found: dict[str, dict[str, list[float]]] = {}
    for each in outcomes:
        for kind, names, of_UM in (("contribution", each.facts["modalities"], each.contribution_UM),
                                   ("match", each.facts["matched"], each.match_UM)):
            if of_UM is None:
                continue
            for name, of_U in zip(names, of_UM.T, strict=True):
                if name in data.true_weights_U:
                    value = _correlation(of_U[enough_U], data.true_weights_U[name][user_U[enough_U]])
                    found.setdefault(f"{kind}_agreement", {}).setdefault(name, []).append(value)
    return {kind: {name: round(float(np.mean(values)), 3) for name, values in by_name.items()}
            for kind, by_name in found.items()}


def _correlation(one_U: Array, other_U: Array) -> float:
    """NaN where one of the two never varies."""
    if one_U.std() < 1e-12 or other_U.std() < 1e-12:
        return math.nan
    return float(np.corrcoef(one_U, other_U)[0, 1])
