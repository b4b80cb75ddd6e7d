"""Checkpoints: what is saved comes back bit by bit, only whole folders count, and another architecture is named by its keys."""

from __future__ import annotations

import json

import pytest
import torch
from small_store import RANKER, RIVAL

from umair.baselines.dcn_v2 import DcnV2
from umair.errors import ContractError, StorageError
from umair.model.ranker import UmairRanker
from umair.training.checkpoint import Checkpoints, Position, build_ranker, load_ranker, save_ranker

WIDTHS = {"semantic": 16, "style": 4, "text": 8}


@pytest.mark.parametrize(("config", "kind"), [(RANKER, UmairRanker), (RIVAL, DcnV2)])
def test_a_saved_ranker_comes_back_bit_by_bit_in_evaluation_mode(tmp_path, config, kind):
    ranker = build_ranker(config, WIDTHS)
    ranker.set_vector_scale("style", torch.arange(4.0), torch.full((4,), 3.0))
    save_ranker(tmp_path / "r", ranker, config, WIDTHS)
    loaded = load_ranker(tmp_path / "r")
    assert type(loaded) is type(ranker) is kind
    assert not loaded.training
    said, came = ranker.state_dict(), loaded.state_dict()
    assert all(torch.equal(said[name], came[name]) for name in said)
    assert sorted(path.suffix for path in (tmp_path / "r").iterdir()) == [".json", ".safetensors"]


def test_a_ranker_of_another_architecture_and_a_damaged_one_are_told_apart(tmp_path):
    save_ranker(tmp_path, build_ranker(RANKER, WIDTHS), RANKER, WIDTHS)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, "widths": {**WIDTHS, "style": 5}}))
    with pytest.raises(ContractError, match=r"another architecture: .*style\.\w+ \(.*4.*\) instead of \(.*5.*\)"):
        load_ranker(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(said))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(StorageError, match="no readable weights"):
        load_ranker(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StorageError, match=r"no usable config\.json"):
        load_ranker(tmp_path)


def line(out: int = 1) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, out)
    return module, torch.optim.Adam(module.parameters(), lr=0.1)


def learn(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        module(torch.full((2, 3), float(step))).square().sum().backward()
        optimizer.step()


def test_weights_and_optimiser_go_on_exactly_where_they_were(tmp_path):
    whole, resumed = line(), line()
    learn(*whole, 3)
    Checkpoints(tmp_path, "key").save(3, Position(0, 3), {"curve": [1]}, {"line": whole})
    assert Checkpoints(tmp_path, "key").load({"line": resumed}) == (Position(0, 3), {"curve": [1]})
    learn(*whole, 5)
    learn(*resumed, 5)
    assert torch.equal(whole[0].weight, resumed[0].weight)
    fresh = line()
    fresh[0].load_state_dict(line()[0].state_dict())
    learn(*fresh, 5)
    assert not torch.equal(whole[0].weight, fresh[0].weight)  # and it can fail


def test_the_newest_two_are_kept_and_half_written_or_foreign_ones_do_not_count(tmp_path):
    checkpoints, part = Checkpoints(tmp_path, "key"), line()
    assert checkpoints.load({"line": part}) is None
    for done in (1, 2, 3):
        checkpoints.save(done, Position(0, done), {}, {"line": part})
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == ["step-00000002", "step-00000003"]
    (tmp_path / "key" / "step-00000009").mkdir()  # no facts.json: the writer died
    assert checkpoints.load({"line": part}) == (Position(0, 3), {})
    checkpoints.save(2, Position(1, 1), {}, {"line": part})  # of ranks whose epochs have fewer steps
    assert checkpoints.load({"line": part}) == (Position(1, 1), {})
    other = Checkpoints(tmp_path, "other")
    assert other.load({"line": part}) is None
    other.save(1, Position(0, 1), {}, {"line": part})  # the tables have changed since, say
    assert other.load({"line": part}) == (Position(0, 1), {})
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    checkpoints.remove()
    assert not tmp_path.exists()


def test_a_checkpoint_of_another_architecture_names_the_differing_keys(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(1, Position(0, 1), {}, {"line": line(1)})
    with pytest.raises(ContractError, match=r"bias \(1,\) instead of \(2,\); weight \(1, 3\) instead of \(2, 3\)"):
        checkpoints.load({"line": line(2)})


def test_the_best_weights_come_back_after_worse_ones(tmp_path):
    checkpoints, (module, optimizer) = Checkpoints(tmp_path, "key"), line()
    checkpoints.keep_best("line", 1, module)
    best = module.weight.detach().clone()
    learn(module, optimizer, 3)
    assert not torch.equal(module.weight, best)
    checkpoints.keep_best("line", 2, module)  # and killed before the checkpoint that says so
    checkpoints.restore_best("line", 1, module)
    assert torch.equal(module.weight, best)
    learn(module, optimizer, 3)
    checkpoints.save(6, Position(2, 0), {}, {"line": (module, optimizer)}, {"line": 1})  # the second time it was no better
    checkpoints.restore_best("line", 1, module)
    assert torch.equal(module.weight, best)
    with pytest.raises(StorageError, match="best/line/2"):
        checkpoints.restore_best("line", 2, module)
    checkpoints.save(9, Position(3, 0), {}, {"line": (module, optimizer)})
    checkpoints.restore_best("line", 1, module)
