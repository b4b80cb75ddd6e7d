"""Experiments: ablations of one key, trials made once, and a table that says what the scores say."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_architecture import imports_of

from umair.config import load_config
from umair.errors import ClusterError, ConfigError, ContractError
from umair.evidence import machine_kind
from umair.experiments.config import DEFAULT, ExperimentConfig
from umair.experiments.data import Rows, _data, open_data
from umair.experiments.learnable import Known, _ridge, fit_users, learnable_scores, score_users
from umair.experiments.page import _published, experiment_text
from umair.experiments.run import run_experiments
from umair.experiments.summary import REPLICATES, _GroupedReplicates, _Replicates, summarise
from umair.experiments.trial import CODE, Outcome, Trial, run_trial, user_means, user_shares
from umair.job import Config
from umair.metrics import auc, way
from umair.storage import read_facts
from umair.training.checkpoint import Position
from umair.training.inputs import TrainingInputs
from umair.training.loop import _Run
from umair.training.packing import FeatureSource

ROOT = Path(__file__).parents[1]
SMALL = {
    "claim": "a match is worth more than ids", "numeric": {"users": 60, "illustrations": 300, "artists": 30, "rows": 12_000},
    "seeds": [0, 1], "training": {"epochs": 1, "batch": 256, "learning_rate": 2e-3, "ranks": 1},
    "ranker": {"user_fields": {"user_id": 80, "username": 80}, "item_fields": {"illust_id": 400, "artist_id": 40},
               "tag_buckets": 80, "match": True, "counters": True, "standardise": True, "scaled_scores": True, "tower": [16, 8],
               "deep": [16, 8], "match_width": 8, "tower_dropout": 0.1, "deep_dropout": 0.1, "attention_dropout": 0.1},
    "others": {"ids": {"form": "dcn_v2", "counters": False}}, "ablations": {"no_match": {"match": False}}}


def written(folder: Path, **changes: object) -> Path:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished experiment."""
    folder = tmp_path_factory.mktemp("experiments")
    run_experiments([written(folder)], folder / "out", processes=2)
    return folder / "out"


def summary_of(ran: Path) -> dict:
    return json.loads((ran / "small" / "summary.json").read_text("utf-8"))


def outcomes_of(ran: Path) -> dict[str, list[Outcome]]:
    """By ranker, told apart by their weights."""
    found = [Outcome.of(path.parent) for path in (ran / "small" / "trials").glob("*/facts.json")]
    return {name: [each for each in found if each.facts["trainable"] == facts["trainable"] and each.facts["seed"] < 2]
            for name, facts in summary_of(ran)["rankers"].items()}


# ---------------------------------------------------------------- configuration
@pytest.mark.parametrize("changed", [{"match": False, "linear": False}, {}])
def test_an_ablation_changes_one_key(tmp_path, changed):
    with pytest.raises(ConfigError, match=r"ablation 'bare' changes [02] keys; one each"):
        load_config(written(tmp_path, ablations={"bare": changed}), [], ExperimentConfig)


@pytest.mark.parametrize(("changes", "text"), [
    ({"numeric": None}, "rows from `numeric` or from `week`, one of them"),
    ({"week": {"config": "a.yaml", "week": "2026-W10"}}, "rows from `numeric` or from `week`, one of them"),
    ({"others": {DEFAULT: {}}}, "names that stand twice: umair"),
    ({"others": {"no_match": {}}}, "names that stand twice: no_match"),
    ({"training": {"rivals": {"a": {}}}}, "an experiment names its rankers under `others`"),
    ({"training": {"ranks": 2}}, "trials run as one process each"),
    ({"training": {**SMALL["training"], "features": "/packs"}}, "training.features with `numeric`, whose pack lies beside its rows"),
    ({"seeds": [0, 0]}, "each once, or one would count twice"),
    ({"seeds": [-1]}, "key 'seeds.0': found -1; expected greater than or equal to 0"),
    ({"seeds": [0, True]}, "key 'seeds.1': found True"),
    ({"seeds": ["3"]}, "key 'seeds.0': found '3'"),
    ({"training": {**SMALL["training"], "seed": 7}}, "training.seed 7; an experiment has `seeds`, one a training"),
    ({"numeric": {"train_share": 0.8, "test_from": 0.8}}, "train_share 0.8 and test_from 0.8; the validation window lies between"),
    ({"others": {"same": {}}}, "'same' is the same ranker as 'umair'"),
    ({"ablations": {"summed": {"senet_sum": True}}}, "'summed' is the same ranker as 'umair': senet_sum changes nothing of it"),
    ({"others": {"ids": {"form": "dcn_v2"}, "uncounted": {"form": "dcn_v2", "contribution": "senet", "residual": True}}},
     "'uncounted' is the same ranker as 'ids': contribution, residual changes nothing of it"),
    ({"ablations": {"x": 5}}, "a mapping of names to mappings of what differs"),
    ({"ablations": ["x"]}, "a mapping of names to mappings of what differs"),
    ({"published": {"umair": {"auc": 0.8}, "strange": {"auc": 0.7}}}, "published: strange; expected rankers of this experiment"),
    ({"published": {"ids": {"auc": 0.7}}}, "published: no umair"),
    ({"others": {"x": "dcn"}}, "a mapping of names to mappings of what differs"),
    ({"others": {"x": None}}, "a mapping of names to mappings of what differs"),
    ({"without": ["idz"]}, "without: idz; expected names of others or ablations, here or in a base:"),
    ({"ablations": {"counted": {"exact": True}}}, "'counted' is the same ranker as 'umair': exact changes nothing of it"),
    ({"ablations": {"listed": {"match": ["semantic", "style", "text", "profile"]}}}, "'listed' is the same ranker as 'umair'"),
])
def test_what_makes_no_sense_is_refused(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        load_config(written(tmp_path, **changes), [], ExperimentConfig)


def test_every_ablation_of_the_project_differs_from_its_ranker_in_one_key():
    seen = 0
    for file in sorted((ROOT / "conf" / "experiments").glob("*.yaml")):
        if "claim" not in yaml.safe_load(file.read_text("utf-8")):  # of encoders, not of rankers
            continue
        config = load_config(file, [], ExperimentConfig)
        for name, ranker in config.ablations.items():
            differs = {key for key, value in ranker.model_dump().items() if value != config.ranker.model_dump()[key]}
            assert len(differs) == 1, f"{file.name}: {name} changes {differs}"
            seen += 1
    assert seen > 5


def test_what_a_base_has_can_be_left_out_by_name(tmp_path):
    written(tmp_path, published={"umair": {"auc": 0.8}, "ids": {"auc": 0.7}})
    (tmp_path / "over.yaml").write_text("base: small.yaml\nwithout: [ids]\nablations: {dot: {linear: false}}", "utf-8")
    config = load_config(tmp_path / "over.yaml", [], ExperimentConfig)
    assert (list(config.rankers), list(config.published)) == ([DEFAULT, "no_match", "dot"], ["umair"])


def test_an_experiment_on_a_week_starts_from_the_weeks_own_ranker(tmp_path):
    file = tmp_path / "week.yaml"
    file.write_text(yaml.safe_dump({
        "claim": "c", "week": {"config": str(ROOT / "conf/movielens.yaml"), "week": "2018-W39"}, "training": {"epochs": 2},
        "ranker": {"match_width": 32}, "others": {"paper": {"match": False}}}), encoding="utf-8")
    config, week = load_config(file, [], ExperimentConfig), load_config(ROOT / "conf/movielens.yaml", [], Config)
    assert config.ranker == week.ranker.model_copy(update={"match_width": 32})
    assert config.others["paper"] == config.ranker.model_copy(update={"match": ()})
    assert (config.training.epochs, config.training.batch, config.training.ranks) == (2, week.training.batch, 1)


def test_a_trial_that_fails_is_named(tmp_path):
    training = {**SMALL["training"], "learning_rate": 1e30}
    with pytest.raises(ContractError, match=r"trial of 'umair' with seed 4: ranker 'main', step \d+.*found loss"):
        run_experiments([written(tmp_path, seeds=[4], training=training, others={})], tmp_path / "out", processes=1)


def test_windows_of_one_label_are_refused_before_anything_trains(tmp_path, monkeypatch):
    config = load_config(written(tmp_path), [], ExperimentConfig)
    whole = Rows.of

    def bookmarked_alone(rows_by_file, split):
        rows = whole(rows_by_file, split)
        return Rows(rows.user_N, rows.item_N, np.ones_like(rows.label_N)) if split == "valid" else rows

    monkeypatch.setattr(Rows, "of", bookmarked_alone)
    with pytest.raises(ContractError, match=r"table 'window_valid' of the experiment: found \d+ rows, all with label 1; expected "
                                            r"rows of both labels"):
        open_data(config, tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_trials_on_a_gpu_want_one(tmp_path):
    with pytest.raises(ClusterError, match=r"training.device=cuda: found 0 visible GPUs.*or set training.device=cpu"):
        run_experiments([written(tmp_path)], tmp_path / "out", 1, ["training.device=cuda"])


def test_overrides_hold_for_every_file_and_a_wrong_one_is_refused(tmp_path):
    found = run_experiments([written(tmp_path, others={}, ablations={})], tmp_path / "out", 1, ["seeds=[3]", "training.batch=512"])
    assert found["small"]["seeds"] == [3]
    with pytest.raises(ConfigError, match=r"'training.bach'.*batch"):
        run_experiments([written(tmp_path)], tmp_path / "out", 1, ["training.bach=512"])


# ---------------------------------------------------------------- trials
def test_the_code_that_a_trial_depends_on_is_what_training_and_scoring_import():
    """All that is reached from there but the encoders' side, which makes vectors and no scores, what only prints, and presets, whose
    keys a trial's configuration holds."""
    elsewhere = {"image_encoder", "painting_style", "feature_maps", "pretext_loop", "tag_pretext", "tagged_pictures", "picture_cache",
                 "synonyms", "text_encoder", "text_pairs", "text_recall", "progress", "terminal", "presets"}
    reached, waiting = set(), [f"umair.training.{name}" for name in ("loop", "features", "feed", "checkpoint", "inputs")]
    while waiting:
        name = waiting.pop()
        file = ROOT / (name.replace(".", "/") + ".py")
        if name not in reached and name.split(".")[-1] not in elsewhere and file.is_file():
            reached.add(name)
            waiting += imports_of(file)
    parts = {name for name in reached if name.split(".")[1] in ("model", "training", "baselines")}
    named = {file for part in CODE for file in ([part] if part.endswith(".py") else
                                                [f"{part}/{path.name}" for path in (ROOT / "umair" / part).glob("[!_]*.py")])}
    own = {"experiments/trial.py", "metrics.py"}  # scores, and what chooses the best epoch
    assert named == own | {name.removeprefix("umair.").replace(".", "/") + ".py" for name in parts}


def test_the_table_says_what_the_scores_say(ran, tmp_path):
    summary, config = summary_of(ran), load_config(written(tmp_path), [], ExperimentConfig)
    data = open_data(config, ran / "small")
    cold_N = ~np.isin(data.test.item_N, _train_items(data))
    outcomes = [Outcome.of(path.parent) for path in (ran / "small" / "trials").glob("*/facts.json")]
    assert len(outcomes) == 6
    ids = [each for each in outcomes if not each.facts["modalities"]]
    for part, mask_N in (("all", np.ones(len(cold_N), bool)), ("cold", cold_N)):
        line = summary["slices"][part]
        assert (line["rows"], line["positives"]) == (mask_N.sum(), data.test.label_N[mask_N].sum())
        wanted = np.mean([auc(data.test.label_N[mask_N], each.logit_N[mask_N]) for each in ids])
        assert line["rankers"]["ids"]["auc"]["estimate"] == pytest.approx(wanted, abs=1e-5)
        assert line["rankers"]["ids"]["way_to_ceiling"] == pytest.approx(way(wanted, line["marks"]["ceiling"]), abs=1e-3)
        gap = line["rankers"][DEFAULT]["auc"]["estimate"] - line["rankers"]["ids"]["auc"]["estimate"]
        assert line["rankers"]["ids"]["default_minus"]["estimate"] == pytest.approx(gap, abs=2e-5)
        own = line["rankers"][DEFAULT]
        assert own["default_minus"] == own["gauc_default_minus"] == {"estimate": 0, "low": 0, "high": 0}
        gap = line["rankers"]["ids"]["gauc_default_minus"]
        assert gap["estimate"] == pytest.approx(own["gauc"] - line["rankers"]["ids"]["gauc"], abs=2e-5)
        assert gap["low"] < gap["estimate"] < gap["high"]
    assert set(summary["rankers"][DEFAULT]["match_agreement"]) == {"style", "semantic"}


def _train_items(data) -> np.ndarray:
    from umair.experiments.data import Rows

    return Rows.of(data.inputs.rows_by_file["train"], "train").item_N


def test_what_a_user_counts_of_each_modality_by_hand():
    """User 3 has two rows, user 1 one, which varies in nothing."""
    user_N, value_NM = np.array([3, 1, 3]), np.array([[1.0, 0.0], [7.0, 9.0], [5.0, 6.0]], np.float32)
    np.testing.assert_allclose(user_means(user_N, value_NM), [[7, 9], [3, 3]])
    np.testing.assert_allclose(user_shares(user_N, value_NM), [[0, 0], [2 / 5, 3 / 5]])  # deviations 2 and 3


def test_a_finished_trial_is_not_made_again_and_a_new_seed_is(ran, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ran / "small" / "trials").glob("*/facts.json")}
    summary = (ran / "small/summary.json").read_bytes()
    run_experiments([written(tmp_path, seeds=[0, 1, 2], others={})], ran, processes=2)
    (ran / "small/summary.json").write_bytes(summary)  # of other tests
    after = {path: path.stat().st_mtime_ns for path in (ran / "small" / "trials").glob("*/facts.json")}
    assert {path: after[path] for path in before} == before
    assert sorted(read_facts(path.parent)["seed"] for path in set(after) - set(before)) == [2, 2]


def test_who_trains_is_no_part_of_a_trials_key(tmp_path):
    """Else what a GPU made would be made again where there is none."""
    config = load_config(written(tmp_path), [], ExperimentConfig)
    inputs = TrainingInputs(FeatureSource({}, {}, "i", "t", {}, False), {"train": {"a": 1}}, {})

    def key(**changes: object) -> str:
        return Trial(config.ranker, config.training.model_copy(update=changes), inputs, "root").key

    assert key() == key(device="cuda") == key(threads=2) == key(resident=True)
    assert len({key(), key(seed=1), key(epochs=2), key(precision="bfloat16")}) == 4


def test_a_trial_that_was_begun_by_other_code_begins_anew_and_says_where_it_was_trained(ran, tmp_path, monkeypatch):
    """Else half of what is said of new code would be the old code's; seconds are of all machines that took a part."""
    config = load_config(written(tmp_path, training={**SMALL["training"], "epochs": 2}), [], ExperimentConfig)
    data = open_data(config, ran / "small")
    trial = Trial(config.others["ids"], config.training, data.inputs, data.root)
    begun: list[Position] = []
    whole = _Run.train_epoch

    def killed_in_the_second(run: _Run) -> None:
        begun.append(run.position)
        if run.position.epoch == 1 and len(begun) < 5:
            raise KeyboardInterrupt
        whole(run)

    monkeypatch.setattr(_Run, "train_epoch", killed_in_the_second)
    for digest, machine in (("old", "here"), ("new", "here"), ("new", "there")):
        monkeypatch.setattr("umair.experiments.trial.code_digest", lambda *_, digest=digest: digest)
        monkeypatch.setattr("umair.experiments.trial.machine_kind", lambda machine=machine: machine)
        with contextlib.suppress(KeyboardInterrupt):
            done = run_trial(trial, tmp_path / "trials", at_once=2)
    assert begun == [Position(0), Position(1), Position(0), Position(1), Position(1)]
    facts = read_facts(done)
    assert (facts["machine"], facts["device"], facts["at_once"], facts["epochs"]) == ("here then there", "cpu", 2, 2)


# ---------------------------------------------------------------- what can be learned
class Window:
    def __init__(self, user, item, label):
        self.user_N, self.item_N, self.label_N = np.array(user), np.array(item), np.array(label)


def test_a_users_regression_by_hand():
    """One factor, two users of opposite taste; each has two rows. In common they want nothing."""
    factor_IF = np.array([[1.0], [-1.0]])
    rows = Window([0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1])
    fit_UF = fit_users(rows, factor_IF, ridge=2.0)
    np.testing.assert_allclose(fit_UF[:, 0], [0.25, -0.25, 0])  # sum of factor * (label - rate) = 1, over 2 + 2
    np.testing.assert_allclose(fit_UF[:, 1], 0.5)
    np.testing.assert_allclose(score_users(fit_UF, Window([0, 1, 7], [0, 0, 0], [0, 0, 0]), factor_IF), [0.75, 0.25, 0.5])


def test_what_can_be_learned_lies_below_the_ceiling_and_above_chance(ran):
    for part in ("all", "cold"):
        marks = summary_of(ran)["slices"][part]["marks"]
        assert 0.55 < marks["learnable"] < marks["ceiling"]


@pytest.mark.parametrize("rows", [4, 60])
def test_a_ridge_by_rows_is_one_by_factors(rows):
    draw = np.random.default_rng(1)
    factor_NF, left_N = draw.normal(size=(rows, 12)), draw.normal(size=rows)
    residual_F = factor_NF.T @ (left_N - factor_NF @ (weight_F := _ridge(factor_NF, left_N, 3.0)))
    np.testing.assert_allclose(residual_F, 3.0 * weight_F, atol=1e-10)  # where the penalised sum of squares is least


def test_the_reference_knows_a_users_favourite_artists():
    """Two users, one for each of two artists; factors say nothing. Without artists nothing can be learned."""
    user_N, item_N = np.repeat([0, 1], 40), np.tile(np.arange(8), 10)
    label_N = (item_N % 2 == user_N).astype(int)
    rows, nothing_IF, none_I = Window(user_N, item_N, label_N), np.zeros((8, 1)), np.zeros(8)
    blind, seeing = (learnable_scores(rows, rows, rows, Known(nothing_IF, none_I, further))
                     for further in ((), (np.eye(2)[np.arange(8) % 2],)))
    assert auc(label_N, blind.all_N) == pytest.approx(0.5)
    assert auc(label_N, seeing.all_N) == auc(label_N, seeing.cold_N) == 1.0


def test_what_does_not_help_the_validation_window_is_left_out():
    """In training each user likes one artist, in the validation window the other: then artists are no help."""
    user_N, item_N = np.repeat([0, 1], 40), np.tile(np.arange(8), 10)
    draw = np.random.default_rng(0)
    factor_IF = draw.normal(size=(8, 1))
    liked_N = (factor_IF[item_N, 0] > 0).astype(int)
    train = Window(user_N, item_N, np.where(draw.random(80) < 0.7, item_N % 2 == user_N, liked_N).astype(int))
    valid = Window(user_N, item_N, liked_N)
    artist_IA = np.eye(2)[np.arange(8) % 2]
    chosen, without, forced = (learnable_scores(train, valid, valid, Known(*known)) for known in (
        (factor_IF, np.zeros(8), (artist_IA,)), (factor_IF, np.zeros(8)),
        (np.concatenate([factor_IF, artist_IA], 1), np.zeros(8))))
    np.testing.assert_array_equal(chosen.all_N, without.all_N)
    assert auc(liked_N, chosen.all_N) > auc(liked_N, forced.all_N)


def test_among_cold_rows_the_reference_knows_no_popularity():
    draw = np.random.default_rng(0)
    train, test = (Window(draw.integers(0, 3, 60), items, draw.integers(0, 2, 60)) for items in (
        draw.integers(0, 8, 60), np.r_[np.full(30, 9), np.full(30, 2)]))
    factor_IF, popularity_I = draw.normal(size=(10, 2)), draw.normal(size=10)
    before = learnable_scores(train, train, test, Known(factor_IF, popularity_I))
    popularity_I[9] += 5
    after = learnable_scores(train, train, test, Known(factor_IF, popularity_I))
    np.testing.assert_array_equal(before.cold_N, after.cold_N)
    assert (before.all_N != after.all_N).any()


def test_what_can_be_learned_of_all_rows_is_one_regression_with_popularity(ran):
    """Two regressions' scores do not rank together: mixed, warm and cold rows would lower their AUC."""
    config = load_config(ran.parent / "small.yaml", [], ExperimentConfig)
    data = open_data(config, ran / "small")
    assert data.learnable is not None
    marks = {name: each["marks"]["learnable"] for name, each in summary_of(ran)["slices"].items() if "learnable" in each["marks"]}
    assert marks["all"] == pytest.approx(auc(data.test.label_N, data.learnable.all_N))
    cold_N = data.slices["cold"]
    assert marks["cold"] == pytest.approx(auc(data.test.label_N[cold_N], data.learnable.cold_N[cold_N]))


def test_what_can_be_learned_of_users_with_450_rows_each_is_most_of_the_way_to_the_ceiling(tmp_path):
    """0.94 of it on all rows, 0.84 on cold ones; knowing half of the factors it would go 0.72 and 0.59."""
    numeric = {"users": 100, "illustrations": 500, "artists": 50, "rows": 60_000}
    data = open_data(load_config(written(tmp_path, numeric=numeric), [], ExperimentConfig), tmp_path / "out")
    for part, score_N, least in (("all", data.learnable.all_N, 0.9), ("cold", data.learnable.cold_N, 0.78)):
        rows = data.slices[part]
        found, ceiling = (auc(data.test.label_N[rows], each[rows]) for each in (score_N, data.probability_N))
        assert least < way(found, ceiling) < 1, part


# ---------------------------------------------------------------- the page
def test_the_page_has_every_rankers_figures(ran):
    summary = summary_of(ran)
    text = experiment_text("small", summary)
    for ranker, line in summary["slices"]["cold"]["rankers"].items():
        name = f"**{ranker}**" if ranker == DEFAULT else ranker
        assert f"| {name} | {line['auc']['estimate']:.4f} ({line['auc']['low']:.4f} to {line['auc']['high']:.4f}) |" in text
        assert f"| {ranker} | {summary['rankers'][ranker]['trainable']:,} |" in text
    assert f"cold: {summary['slices']['cold']['rows']:,} rows" in text
    assert SMALL["claim"] in text
    seconds = sum(one.facts["seconds"] for each in outcomes_of(ran).values() for one in each)
    assert summary["trained"] == [{"machine": machine_kind(), "device": "cpu", "at_once": 2, "trainings": 6, "minutes": round(seconds / 60)}]
    assert f"the time of each added up: 6 in {seconds / 60:.0f} minutes on {machine_kind()}, 2 at once.\n" in text
    facts = summary["rankers"][DEFAULT]
    assert set(facts["shared_buckets"]) == {"user_id", "username", "illust_id", "artist_id", "tags"}
    told = {**summary, "rankers": {**summary["rankers"], DEFAULT: {**facts, "shared_buckets": {"user_id": 0.25, "tags": 0.0}}}}
    assert "Hash collisions of the default: 25.0% of user_id.\n" in experiment_text("small", told)


def test_what_is_not_defined_is_left_out_or_null(tmp_path, monkeypatch):
    """Cold rows of one label have no AUC; users whose rows are all alike have none within them."""
    rows = {"train": Rows(np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2]), np.array([0, 1, 0, 1])),
            "valid": Rows(np.array([0, 1]), np.array([1, 2]), np.array([0, 1])),
            "test": Rows(np.array([0, 0, 1, 1, 1]), np.array([1, 1, 2, 2, 9]), np.array([0, 0, 1, 1, 1]))}
    monkeypatch.setattr(Rows, "of", lambda rows_by_file, split: rows[next(iter(rows_by_file))])
    inputs = TrainingInputs(FeatureSource({}, {}, "", "", {}, titles=False), {split: {split: 2} for split in rows}, {})
    data = _data(inputs, str(tmp_path))
    assert list(data.slices) == ["all", "tail"]  # cold: the row of illustration 9 alone
    facts = {"trainable": 1, "seconds": 1.0, "rows": 4, "epochs": 1, "kept_epoch": 1, "shared_buckets": {}, "machine": "m",
             "device": "cpu", "at_once": 1, "modalities": ["style"], "matched": [],
             "valid": [{"epoch": 1, "rankers": {"main": {"auc": 0.5, "log_loss": 0.7}}}]}
    data = replace(data, true_weights_U={"style": np.array([0.2, 0.9])})
    same = Outcome(facts, np.array([-1, -1, 1, 1, 1], np.float32), np.full((2, 1), 0.5), None)
    other = Outcome(facts, np.array([1, -1, 1, 1, -1], np.float32), np.full((2, 1), 0.5), None)
    monkeypatch.setattr("umair.experiments.summary.FEWEST_ROWS", 1)
    summary = {"claim": "c", "called": "ours", "seeds": [0], "published": {}, **summarise(data, {DEFAULT: [same], "x": [other]})}
    json.dumps(summary, allow_nan=False)
    line = summary["slices"]["all"]["rankers"]["x"]
    assert (line["gauc"], line["gauc_default_minus"]["low"]) == (None, None)
    assert summary["rankers"]["x"]["contribution_agreement"] == {"style": None}
    text = experiment_text("small", summary)
    assert f"| x | {line['auc']['estimate']:.4f} (" in text
    assert "nan" not in text
    assert "None" not in text
    assert _published({"umair": {"auc": 0.8, "note": ""}, "x": {"auc": 0.7, "note": "so"}},
                      {"x": {"default_minus": line["gauc_default_minus"], "auc_by_seed": [1, 2]}}, "ours")[-2].split(" | ")[4] == "cannot tell"


def test_seconds_are_those_of_one_place_and_cpus_come_first(ran, tmp_path):
    """A GPU that several share makes each wait: the mean of its seconds and a CPU's is nobody's."""
    config, outcomes = load_config(written(tmp_path), [], ExperimentConfig), outcomes_of(ran)
    for each in outcomes.values():
        each[0].facts.update(seconds=30.0, rows=300, epochs=1)
        each[1].facts.update(seconds=600.0, machine="many cores, a GPU", device="cuda", at_once=9)
    outcomes["ids"][0].facts.update(outcomes["ids"][1].facts)
    summary = {**summary_of(ran), **summarise(open_data(config, ran / "small"), outcomes)}
    assert [(each["device"], each["trainings"], each["minutes"]) for each in summary["trained"]] == [("cpu", 2, 1), ("cuda", 4, 40)]
    assert [summary["rankers"][name]["seconds"] for name in ("umair", "ids")] == [30.0, None]
    assert [summary["rankers"][name]["rows_per_second"] for name in ("umair", "ids")] == [10, None]
    text = experiment_text("small", summary)
    assert "; 4 in 40 minutes on many cores, a GPU, 9 at once on one GPU, so that their seconds do not compare rankers.\n" in text
    assert f"\nSeconds and rows a second: of those on {machine_kind()}.\n" in text


def test_the_page_says_what_the_kept_epochs_reached_in_validation(ran):
    """By which rankers are to be chosen; their test rows are for reporting."""
    ids = [each.facts for each in outcomes_of(ran)["ids"]]
    wanted = np.mean([each["valid"][each["kept_epoch"] - 1]["rankers"]["main"]["auc"] for each in ids])
    found = summary_of(ran)["rankers"]["ids"]
    assert found["valid_auc"] == pytest.approx(wanted, abs=1e-5)
    assert f"| {found['valid_auc']:.4f}, {found['valid_log_loss']:.4f} |" in experiment_text("small", summary_of(ran))


def test_what_other_experiments_found_stays_in_the_summary(ran, tmp_path):
    shutil.copytree(ran, tmp_path / "out")
    summary = tmp_path / "out/summary.json"
    summary.write_text(json.dumps({"other": {"claim": "kept"}}), encoding="utf-8")
    made = run_experiments([written(tmp_path)], tmp_path / "out", processes=1)
    assert json.loads(summary.read_text("utf-8")) == {"other": {"claim": "kept"}, **made}


def test_a_published_claim_holds_fails_or_cannot_be_told():
    def interval(low: float, high: float) -> dict:
        return {"estimate": (low + high) / 2, "low": low, "high": high}

    measured = {"worse": interval(0.01, 0.03), "better": interval(-0.03, -0.01), "open": interval(-0.01, 0.02)}
    seeds = {**{name: [0.7, 0.8] for name in measured}, "alone": [0.7]}
    measured["alone"] = measured["worse"]
    published = {"umair": {"auc": 0.80, "note": ""}, **{f"{name} {said}": {"auc": auc, "note": "so"} for name in measured
                                                        for said, auc in (("below", 0.75), ("above", 0.82))}}
    lines = _published(published, {f"{name} {said}": {"default_minus": measured[name], "auc_by_seed": seeds[name]}
                                   for name in measured for said in ("below", "above")}, "ours")
    told = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[4] for line in lines if line.endswith("| so |")}
    assert told == {"worse below": "holds", "worse above": "fails", "better below": "fails", "better above": "holds",
                    "open below": "cannot tell", "open above": "cannot tell", "alone below": "one seed", "alone above": "one seed"}
    assert "| **ours** | 0.8000 |  |  |  |  |" in lines
    assert any(line.startswith("| worse below | 0.7500 | +0.0500 | +0.0200 (+0.0100 to +0.0300) |") for line in lines)
    assert _published({}, measured, "ours") == []


def test_the_interval_over_seeds_is_students():
    """Five figures 0, 1, 3, 4, 7: their mean 3 has the standard error 1.2247, and 2.776 of those are Student's for four degrees of
    freedom; two figures 0, 2: mean 1, error 1, 12.71 of those; one figure says nothing of others."""
    logit_N = np.array([0.0, 1.0])
    for figures, half, within in (((0.0, 1.0, 3.0, 4.0, 7.0), 3.400, 0.15), ((0.0, 2.0), 12.71, 0.3), ((5.0,), 0.0, 0.0)):
        replicates = _Replicates(np.array([0, 1]), np.array([0, 1]), {"umair": [logit_N] * len(figures)})
        drawn_D = replicates._over_seeds([np.full(REPLICATES, value) for value in figures])
        low, high = np.quantile(drawn_D, [0.025, 0.975])
        assert (high - low) / 2 == pytest.approx(half, rel=within)
        assert (high + low) / 2 == pytest.approx(np.mean(figures), abs=0.15 * half)


def test_seeds_of_two_rankers_are_weighed_alike():
    """A ranker that is 0.1 behind with every seed is 0.1 behind in every replicate, however much seeds vary."""
    replicates = _Replicates(np.array([0, 1]), np.array([0, 1]), {"umair": [np.array([0.0, 1.0])] * 3})
    best, worse = ([np.full(REPLICATES, value - gap) for value in (0.5, 0.7, 0.9)] for gap in (0.0, 0.1))
    np.testing.assert_allclose(replicates._over_seeds(best) - replicates._over_seeds(worse), 0.1)


def test_the_gauc_of_a_replicate_counts_each_user_as_often_as_it_was_drawn():
    """Three users of 2, 4 and 2 rows with AUC 1, 0.5 and none (one class)."""
    user_N, label_N = np.array([0, 0, 1, 1, 1, 1, 2, 2]), np.array([0, 1, 0, 0, 1, 1, 1, 1])
    score_N = np.array([0.1, 0.9, 0.1, 0.9, 0.5, 0.5, 0.3, 0.4])
    weight_UR = np.array([[1.0, 3, 0, 0], [1, 1, 2, 0], [1, 5, 0, 4]])
    found = _GroupedReplicates.of(user_N, label_N, score_N, weight_UR)
    np.testing.assert_allclose(found.estimate, (2 * 1 + 4 * 0.5) / 6)
    np.testing.assert_allclose(found.replicate_R, [4 / 6, (6 + 2) / 10, 0.5, np.nan])
