"""Training: real Horovod, Spark and Petastorm; what a kill, a rival or another rank may and may not change."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from small_store import RANKER, RIVAL, draw_store, inputs_of

from umair.errors import ContractError
from umair.model.ranker import RankerConfig
from umair.storage import Store
from umair.training import loop
from umair.training.features import pack_features
from umair.training.loop import TrainingConfig, load_ranker, scored_at_once, train_rankers
from umair.training.ranks import Ranks, run_ranks
from umair.training.trainee import Trainee

SPARSE = {"sparse_from": 1, "table_decay": 3.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    torch.set_num_threads(1)
    return draw_store(tmp_path_factory.mktemp("root"))


def arguments(store: Store, folder: Path, **changes) -> dict:
    settings = {"epochs": 2, "batch": 100, "learning_rate": 0.02, "shuffle_pool": 500, "checkpoint_steps": 5, **changes}
    return {"ranker": RANKER, "config": TrainingConfig(**settings), "inputs": inputs_of(store), "root": str(store.root),
            "folder": str(folder)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_ranker(folder).state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_two_ranks_train_a_ranker_and_a_rival_to_the_same_weights(spark, store, tmp_path, capfd):
    folder = tmp_path / "rankers" / "key"
    facts, others = run_ranks(spark, train_rankers, arguments(store, folder, rivals={"dcn_v2": RIVAL}, epochs=3, sparse_from=600), 2)
    assert json.loads((folder / "facts.json").read_text()) == json.loads(json.dumps(facts))
    assert (facts["rows"], facts["ranks"], facts["steps"]) == (1_200, 2, 12)
    assert facts["versions"] == {name: 0 for name in ("illustrations", "users", "tags", "image_vectors", "text_vectors",
                                                      "window_train", "window_valid")}
    assert [point["step"] for point in facts["curve"][:12]] == list(range(1, 13))
    assert facts["curve"] == others["curve"]  # means over the ranks
    assert facts["phases"]["step main"] + facts["phases"]["step dcn_v2"] < facts["phases"]["train"] < facts["seconds"]
    assert facts["curve"][-1]["loss"]["main"] < facts["curve"][0]["loss"]["main"]
    last = facts["valid"][-1]["rankers"]
    assert facts["valid"][-1]["rows"] == 300
    assert last["main"]["auc"] > 0.65  # the match finds what the drawn users like; ids alone cannot from so few rows
    assert last["main"]["auc"] > last["dcn_v2"]["auc"]
    assert load_ranker(folder / "dcn_v2").training is False
    assert sorted(path.name for path in folder.parent.iterdir()) == ["key"]  # no checkpoints, no temporary folders
    assert "train, epoch 3 of 3: 1,200 of 1,200 rows (100%)" in capfd.readouterr().out


@dataclass(frozen=True)
class KilledAt(Ranks):
    """Alone, and killed by SIGKILL when it is about to wait the nth time, which it does after each checkpoint."""

    waits: tuple[int, ...] = ()

    def barrier(self) -> None:
        seen = Path(os.environ["WAITS"])
        count = int(seen.read_text() or 0) + 1 if seen.exists() else 1
        seen.write_text(str(count))
        if count in self.waits:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(given: dict, waits: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    train_rankers(KilledAt(waits=waits), **given)


def kill(given: dict, waits: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains in a process of its own, which kills itself at these waits."""
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(given, waits))
    monkeypatch.setenv("WAITS", str(Path(given["folder"]).with_suffix(".waits")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_rankers_whose_scores_depend_on_their_batch_are_scored_in_batches_of_the_authors_size():
    assert scored_at_once([RANKER, RIVAL]) == 4_096
    assert scored_at_once([RIVAL, RANKER.model_copy(update={"batch_mean": True})]) == 512


@pytest.mark.parametrize("tables", [{}, SPARSE], ids=["dense", "sparse"])
def test_killed_twice_and_run_again_ends_with_the_weights_of_an_uninterrupted_run(store, tmp_path, monkeypatch, capsys, tables):
    whole, broken = (arguments(store, tmp_path / name, schedule="cosine", **tables) for name in ("whole", "broken"))
    facts = train_rankers(Ranks(), **whole)
    for _ in range(2):  # after step 5 of the first epoch; after step 5 of the second
        kill(broken, (1, 4), monkeypatch)
    assert not (tmp_path / "broken").exists()
    resumed = train_rankers(Ranks(), **broken)
    assert "train: goes on after step 17" in capsys.readouterr().out
    assert_same(weights(tmp_path / "whole" / "main"), weights(tmp_path / "broken" / "main"))
    assert (resumed["curve"], resumed["valid"]) == (facts["curve"], facts["valid"])


def test_a_checkpoint_of_other_rows_is_left_alone(store, tmp_path, monkeypatch, capsys):
    train_rankers(Ranks(), **arguments(store, tmp_path / "a"))
    given = arguments(store, tmp_path / "b")
    kill({**given, "inputs": inputs_of(draw_store(tmp_path / "other", rows=800)), "root": str(tmp_path / "other")}, (1,), monkeypatch)
    assert len(list(tmp_path.glob("checkpoints-*/*/step-*"))) == 1
    train_rankers(Ranks(), **given)
    assert "goes on" not in capsys.readouterr().out
    assert_same(weights(tmp_path / "a" / "main"), weights(tmp_path / "b" / "main"))


def test_another_number_of_ranks_takes_up_a_checkpoint_and_starts_its_epoch_over(spark, store, tmp_path, monkeypatch, capfd):
    """Killed alone in the second epoch, after its fifth step of 13; then on two ranks."""
    given = arguments(store, tmp_path / "moved", batch=99)
    kill(given, (4,), monkeypatch)
    made = max(tmp_path.glob("checkpoints-*/*/step-*"))
    assert made.name == "step-00000018"
    renamed = made.rename(made.with_name("step-00000900"))  # as if by ranks whose epochs had many more steps
    given["config"] = given["config"].model_copy(update={"ranks": 2, "threads": 2, "checkpoint_steps": 6})
    facts = run_ranks(spark, train_rankers, given, 2)[0]
    said = capfd.readouterr().out
    assert "train: the checkpoint is of 1 ranks: epoch 2 starts over from its weights" in said
    assert f"from {renamed}" in said
    assert [point["epoch"] for point in facts["curve"] if point["step"] == 1] == [0, 1, 1]  # the second epoch's first step, twice
    assert facts["valid"][-1]["rankers"]["main"]["auc"] > 0.6


def test_a_rival_beside_changes_nothing_for_the_ranker(store, tmp_path):
    train_rankers(Ranks(), **arguments(store, tmp_path / "alone", epochs=1))
    train_rankers(Ranks(), **arguments(store, tmp_path / "beside", epochs=1, rivals={"dcn_v2": RIVAL}))
    assert_same(weights(tmp_path / "alone" / "main"), weights(tmp_path / "beside" / "main"))
    train_rankers(Ranks(), **arguments(store, tmp_path / "other", epochs=1, seed=1))
    with pytest.raises(AssertionError):  # and it can fail
        assert_same(weights(tmp_path / "alone" / "main"), weights(tmp_path / "other" / "main"))


def test_a_loss_that_is_no_number_stops_names_the_step_and_keeps_the_checkpoint_before(store, tmp_path):
    given = arguments(store, tmp_path / "good", epochs=1, rivals={"dcn_v2": RIVAL})
    steep = {**given, "config": given["config"].model_copy(update={"learning_rate": 1e38}), "folder": str(tmp_path / "steep")}
    with pytest.raises(ContractError, match=r"ranker 'main', step \d+ \(batch \d+ of epoch 1\): found loss (nan|inf).*last good checkpoint is kept: there is none"):
        train_rankers(Ranks(), **steep)
    assert not (tmp_path / "steep").exists()


def test_a_poisoned_batch_is_named_and_the_checkpoint_before_it_is_kept_and_sound(store, tmp_path, monkeypatch):
    """Checkpoints after every fifth step; the eighth batch has interests that are no numbers."""
    step, seen = Trainee.step, []

    def poisoned(trainee, batch, *args, **named):
        seen.append(batch)
        nothing = float("nan") if len(seen) == 8 else 1.0
        return step(trainee, replace(batch, long_interest_BD=batch.long_interest_BD * nothing), *args, **named)

    monkeypatch.setattr(Trainee, "step", poisoned)
    with pytest.raises(ContractError, match=r"ranker 'main', step 8 \(batch 8 of epoch 1\): found loss nan; expected a finite loss.*last good checkpoint "
                                            r"is kept: (\S+)") as error:
        train_rankers(Ranks(), **arguments(store, tmp_path / "poisoned", epochs=1))
    kept = Path(re.search(r"is kept: (\S+)", str(error.value))[1])
    assert kept.name == "step-00000005"
    weights = load_file(kept / "main" / "weights.safetensors")
    assert len(weights) > 20
    assert all(value.isfinite().all() for value in weights.values())


def ruin(monkeypatch, number: int, tensor_of: Callable[[torch.nn.Module], torch.Tensor]) -> None:
    """The step of that number has a loss as any other and leaves a tensor of the ranker infinite at its start."""
    step, seen = Trainee.step, []

    def ruinous(trainee, batch, *args, **named):
        step(trainee, batch, *args, **named)
        seen.append(batch)
        if len(seen) == number:
            with torch.no_grad():
                tensor_of(trainee.ranker).view(-1)[0] = float("inf")

    monkeypatch.setattr(Trainee, "step", ruinous)


def test_weights_that_a_step_has_ruined_are_not_kept(store, tmp_path, monkeypatch):
    """By the fifth step, after which a checkpoint is due."""
    ruin(monkeypatch, 5, lambda ranker: next(ranker.parameters()))
    with pytest.raises(ContractError, match=r"ranker 'main', step 5: found weights or statistics that are not finite, first \S+; "
                                            r"expected finite ones.*last good checkpoint is kept: there is none yet"):
        train_rankers(Ranks(), **arguments(store, tmp_path / "ruined", epochs=1))
    assert not list(tmp_path.glob("checkpoints-*/**/step-*"))


def test_statistics_that_the_last_step_of_an_epoch_has_ruined_are_not_kept_as_the_best(store, tmp_path, monkeypatch):
    """An infinite variance gives scores that are numbers, so that validation would see nothing. Twelve steps an epoch."""
    ruin(monkeypatch, 12, lambda ranker: next(value for name, value in ranker.named_buffers() if name.endswith("running_var")))
    with pytest.raises(ContractError, match=r"ranker 'main', step 12: found weights or statistics that are not finite, first \S+running_var;"):
        train_rankers(Ranks(), **arguments(store, tmp_path / "ruined", epochs=1, checkpoint_steps=100))
    assert not list(tmp_path.glob("checkpoints-*/**/*.safetensors"))


@dataclass(frozen=True)
class BesideARuined(Ranks):
    """Alone, as if beside a rank whose statistics are infinite, so that the mean of both is."""

    def share_statistics(self, module: torch.nn.Module) -> None:
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(float("inf"))


def test_statistics_that_another_rank_has_ruined_are_not_kept(store, tmp_path):
    with pytest.raises(ContractError, match=r"ranker 'main', step 5: found weights or statistics that are not finite, first \S+running_var;"):
        train_rankers(BesideARuined(), **arguments(store, tmp_path / "ruined", epochs=1))
    assert not list(tmp_path.glob("checkpoints-*/**/step-*"))


def test_a_score_that_is_no_number_names_the_epoch_and_the_checkpoint_before_it(store, tmp_path, monkeypatch):
    """Twelve steps an epoch, checkpoints after every fifth; the second epoch's validation window has interests that are no numbers."""
    score, seen = Trainee.score, []

    def poisoned(trainee, batch):
        seen.append(batch)
        nothing = float("nan") if len(seen) == 2 else 1.0
        return score(trainee, replace(batch, long_interest_BD=batch.long_interest_BD * nothing))

    monkeypatch.setattr(Trainee, "score", poisoned)
    with pytest.raises(ContractError, match=r"ranker 'main' on the validation window after epoch 2: found a score that is not a number; "
                       r"expected finite scores\..*last good checkpoint is kept: \S+/step-00000022$"):
        train_rankers(Ranks(), **arguments(store, tmp_path / "poisoned"))
    assert not (tmp_path / "poisoned").exists()


def test_a_rank_with_fewer_validation_rows_than_steps_scores_those_it_has(store, tmp_path, monkeypatch):
    """The second of two ranks, with two rows beside a file of 75: these take four steps of at most 20 rows."""
    monkeypatch.setattr(loop, "SCORING_BATCH", 20)
    given, few = arguments(store, tmp_path / "few", epochs=1), str(tmp_path / "few.parquet")
    file, rows = next(iter(given["inputs"].rows_by_file["valid"].items()))
    assert rows == 75
    pq.write_table(pq.read_table(file).slice(0, 2), few)
    by_file = {**given["inputs"].rows_by_file, "valid": {file: rows, few: 2}}
    facts = train_rankers(Ranks(index=1, count=2), **{**given, "inputs": replace(given["inputs"], rows_by_file=by_file)})
    assert facts["valid"][-1]["rows"] == 2


def test_fewer_files_than_ranks_and_batches_of_one_row_are_refused(store, tmp_path):
    given = arguments(store, tmp_path / "x")
    with pytest.raises(ContractError, match=r"4 files with rows for 5 ranks.*windows\.files to 5"):
        train_rankers(Ranks(count=5), **given)
    few = draw_store(tmp_path / "few", rows=5, files=2)
    with pytest.raises(ContractError, match="5 rows a rank in 3 steps: a batch of one row"):
        train_rankers(Ranks(), **arguments(few, tmp_path / "y", batch=2, ranks=1))
    even = draw_store(tmp_path / "even", rows=8, files=2)
    given = {"batch": 2, "ranks": 1, "accumulate": 2, "epochs": 1}
    with pytest.raises(ContractError, match=r"8 rows a rank in 4 steps: a batch of 2 rows; expected 4 rows or more in every batch, "
                                            r"for batch norm in 2 parts \(training.accumulate\)"):
        train_rankers(Ranks(), **arguments(even, tmp_path / "z", **given, share_moments=True))
    train_rankers(Ranks(), **arguments(even, tmp_path / "z", **given))  # one rank's own moments wait for nobody


def test_an_exact_ranker_has_a_bucket_for_each_or_says_how_many_it_needs(store, tmp_path):
    given = arguments(store, tmp_path / "exact", epochs=1)
    given["ranker"] = RANKER.model_copy(update={"exact": True, "tag_buckets": 21})
    facts = train_rankers(Ranks(), **given)
    shared = facts["rankers"]["main"]["shared_buckets"]
    assert {shared[field] for field in ("user_id", "illust_id", "artist_id", "tags")} == {0.0}
    given["ranker"] = given["ranker"].model_copy(update={"tag_buckets": 20})
    with pytest.raises(ContractError, match=r"ranker 'main', exact: true: found 10.0% of tags in a bucket with others; "
                       r"expected a bucket for each and one for the unknown \(60 users, 200 illustrations, \d+ artists, 20 tags\)"):
        train_rankers(Ranks(), **{**given, "folder": str(tmp_path / "crowded")})


@pytest.mark.parametrize(("changes", "match"), [
    ({"batch": 3, "ranks": 2}, "a batch of 3 rows over 2 ranks"), ({"rivals": {"main": {}}}, "rival 'main'"),
    ({"rivals": {"../up": {}}}, "names are letters"), ({"epochs": 0}, "greater than 0")])
def test_a_configuration_that_cannot_work_is_refused(changes, match):
    with pytest.raises(ValidationError, match=match):
        TrainingConfig(**changes)


def test_defaults_are_the_papers():
    config = TrainingConfig()
    assert (config.epochs, config.batch, config.learning_rate) == (1, 128, 1e-3)
    assert TrainingConfig(rivals={"ids": {"form": "dcn_v2"}}).rivals["ids"] == RankerConfig(form="dcn_v2")


def test_steps_that_are_compiled_have_dense_tables(store, tmp_path):
    features = pack_features(store, inputs_of(store).source, tmp_path)
    for compiled in (False, True):
        fresh = Trainee.fresh("main", RANKER, features, Ranks(), TrainingConfig(ranks=1, sparse_from=1, compiled=compiled))
        assert [part.sparse for part in fresh.ranker.modules() if isinstance(part, torch.nn.Embedding)] == [not compiled] * 6


@pytest.mark.parametrize("tables", [{}, {"sparse_from": 1}], ids=["dense", "sparse"])
def test_the_epoch_with_the_lowest_validation_loss_is_kept(store, tmp_path, tables):
    """Ten epochs on 1,200 rows learn them by heart; each ranker keeps its own best epoch, which a run of that length ends with."""
    given = {"epochs": 10, "learning_rate": 0.01, "rivals": {"dcn_v2": RIVAL}, **tables}
    facts = train_rankers(Ranks(), **arguments(store, tmp_path / "best", **given))
    for name in ("main", "dcn_v2"):
        losses = [line["rankers"][name]["log_loss"] for line in facts["valid"]]
        kept = facts["rankers"][name]["kept_epoch"]
        assert losses[kept - 1] == min(losses) < losses[-1]
        train_rankers(Ranks(), **arguments(store, tmp_path / name, **{**given, "epochs": kept}))
        assert_same(weights(tmp_path / "best" / name), weights(tmp_path / name / name))
    last = train_rankers(Ranks(), **arguments(store, tmp_path / "last", **given, keep="last"))
    assert last["rankers"]["main"]["kept_epoch"] == 10
    with pytest.raises(AssertionError):
        assert_same(weights(tmp_path / "best" / "main"), weights(tmp_path / "last" / "main"))


def test_patience_ends_a_run_that_gets_no_better(store, tmp_path):
    given = {"epochs": 10, "learning_rate": 0.01, "rivals": {"dcn_v2": RIVAL}}
    whole = train_rankers(Ranks(), **arguments(store, tmp_path / "whole", **given))
    patient = train_rankers(Ranks(), **arguments(store, tmp_path / "patient", **given, patience=2))
    ends = max(whole["rankers"][name]["kept_epoch"] for name in ("main", "dcn_v2")) + 2
    assert patient["epochs"] == len(patient["valid"]) == ends < 10
    for name in ("main", "dcn_v2"):
        assert_same(weights(tmp_path / "whole" / name), weights(tmp_path / "patient" / name))


def test_the_cosine_schedule_falls_from_the_rate_to_zero_over_all_epochs(store, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainee, "step", lambda self, batch, seed, share, rate: (seen.append(rate), self.recent.append(torch.zeros(()))))
    train_rankers(Ranks(), **arguments(store, tmp_path / "x", schedule="cosine"))
    assert len(seen) == 24
    assert seen == sorted(seen, reverse=True)
    assert (seen[11] + seen[12]) / 2 == pytest.approx(0.01)  # half way: half of 0.02
    assert seen[0] > 0.0199
    assert seen[-1] < 1e-4
