"""One step of a ranker: its parts, its gradients and its optimiser, against what must come out the same."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import cloudpickle
import pytest
import torch
from batches import WIDTHS, random_batch, small

from umair.errors import ContractError
from umair.model.batch import Batch
from umair.model.ranker import UmairRanker
from umair.training.loop import TrainingConfig
from umair.training.ranks import Ranks, run_ranks
from umair.training.row_adam import RowAdam, clip_gradients, gradient_bytes, make_tables_sparse
from umair.training.trainee import Trainee, share_moments

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks cannot import a test file
cloudpickle.register_pickle_by_value(sys.modules["batches"])
EVEN = {"match": True, "counters": True, "tower_dropout": 0, "attention_dropout": 0, "deep_dropout": 0}  # nothing is drawn


def trainee(ranks: Ranks | None = None, *, ranker: dict | None = None, momentum: float = 0.0, **settings: object) -> Trainee:
    torch.manual_seed(0)
    config, training = small(**(EVEN | (ranker or {}))), TrainingConfig(ranks=1, **settings)
    fresh = UmairRanker(config, WIDTHS)
    fresh.match.places.norm.momentum = momentum  # 0: tastes follow the running statistics, which every part of a batch would move
    if training.sparse_from is not None:
        make_tables_sparse(fresh, training.sparse_from)
    return Trainee("main", config, fresh, RowAdam(fresh, 0.01), ranks or Ranks(), training)


def weights(of: Trainee) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in of.ranker.parameters()])


def gradients(of: Trainee, batch: Batch) -> torch.Tensor:
    of.ranker.train()
    of._backward(batch, 1.0)
    return torch.cat([weight.grad.to_dense().flatten() for weight in of.ranker.parameters()])


# ---------------------------------------------------------------- parts of a batch
def test_two_equal_parts_have_the_gradients_of_one_alone() -> None:
    batch = random_batch(rows=8)
    alone, parts = gradients(trainee(), batch), gradients(trainee(accumulate=2), batch.rows([*range(8), *range(8)]))
    torch.testing.assert_close(parts, alone, rtol=1e-4, atol=1e-7)
    assert alone.abs().max() > 1e-3


def test_parts_of_unequal_size_count_by_their_rows() -> None:
    batch = random_batch(rows=5)
    whole, parts = trainee(accumulate=2), [trainee(), trainee()]
    found = gradients(whole, batch)
    small_part, large_part = (gradients(each, batch.rows(part)) for each, part in zip(parts, (slice(0, 2), slice(2, 5)), strict=True))
    torch.testing.assert_close(found, 0.4 * small_part + 0.6 * large_part, rtol=1e-4, atol=1e-6)


def test_no_part_has_a_single_row() -> None:
    gradients(trainee(accumulate=4), random_batch(rows=5))  # two parts: batch norm needs two rows


# ---------------------------------------------------------------- ranks
SETTINGS = ({}, {"sparse_from": 1, "clip_norm": 0.05})


def learn(ranks: Ranks, settings: dict) -> dict:
    """Steps on rows that the ranks share, or that one rank takes in two parts; the gradients are those of the first step."""
    of, gradients_of_first = trainee(ranks, accumulate=2 // ranks.count, **settings), torch.zeros(0)
    for step in range(3):
        batch = random_batch(rows=12, seed=step)
        of.step(batch.rows(slice(ranks.index * 6, ranks.index * 6 + 6)) if ranks.count > 1 else batch, seed=0)
        if step == 0:  # later ones differ: Adam makes full steps of rounding errors, where batch norm leaves a bias without effect
            gradients_of_first = torch.cat([weight.grad.to_dense().flatten() for weight in of.ranker.parameters()])
    return {"gradients": gradients_of_first.tolist(), "weights": weights(of).tolist(), "sent": of.sent}


@pytest.mark.parametrize("settings", SETTINGS, ids=["dense", "sparse and clipped"])
def test_two_ranks_have_the_gradients_of_one_that_takes_two_parts(spark, settings: dict) -> None:
    first, second = run_ranks(spark, learn, {"settings": settings}, 2)
    assert all(first[name] == second[name] for name in ("gradients", "weights"))  # bit by bit
    alone = learn(Ranks(), settings)
    assert first["gradients"] == pytest.approx(alone["gradients"], rel=1e-3, abs=1e-6)
    assert max(alone["gradients"]) > 1e-3
    assert alone["sent"] == 0
    whole = 4 * len(first["weights"])
    assert (first["sent"] < whole) if settings else (first["sent"] == whole)


def learn_together(ranks: Ranks) -> list[float]:
    """Two steps on rows that the ranks share, with one batch norm; -> the weights that the first step pulled at.

    The second shows that the first left the same weights and statistics. More would show rounding: weights that differ by 1e-7
    of their size are 0.0004 apart after two steps of Adam and, with other rows, 0.016 after five.
    """
    of = trainee(ranks, momentum=0.1)
    share_moments(of.ranker, ranks)
    pulled = torch.zeros(0)
    for step in range(2):
        batch = random_batch(rows=12, seed=step)
        of.step(batch.rows(slice(ranks.index * 6, ranks.index * 6 + 6)) if ranks.count > 1 else batch, seed=0)
        if step == 0:  # what batch norm leaves without effect has gradients of rounding errors, of which Adam makes full steps
            pulled = torch.cat([weight.grad.flatten() for weight in of.ranker.parameters()]).abs() > 1e-4
    return weights(of)[pulled].tolist()


def test_two_ranks_with_shared_moments_have_the_weights_of_one_rank_with_all_rows(spark) -> None:
    first, second = run_ranks(spark, learn_together, {}, 2)
    assert first == second
    alone = learn_together(Ranks())
    assert len(alone) > 1_000
    assert first == pytest.approx(alone, rel=1e-3, abs=1e-3)  # each has moved by some 0.02


def spoil(ranks: Ranks, after: list[float]) -> str:
    """The second rank's second step is spoilt; with that the weights, and every rank's third step if there is `after`."""
    of = trainee(ranks)
    losses = [0.5, float("inf")] if ranks.index else [0.5, 0.5]
    of.recent = [torch.tensor(value) for value in (*losses, *after)]
    try:
        of.take_loss(12 + len(after), 10, "checkpoint-10")
    except ContractError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("after", [[float("nan")], []])  # without: the other rank's losses are numbers all
def test_a_loss_that_is_no_number_is_laid_on_the_rank_and_step_where_it_began(spark, after) -> None:
    first, second = run_ranks(spark, spoil, {"after": after}, 2)
    assert first == second
    assert "step 12 on rank 1 (batch 2 of epoch 2): found loss inf" in first
    assert "the last good checkpoint is kept: checkpoint-10" in first


def test_statistics_that_an_enormous_input_leaves_are_refused_though_loss_and_weights_are_finite() -> None:
    """1e30 has a square that float32 has not: the batch's variance is infinite, and what it divides is zero."""
    of, batch = trainee(momentum=0.1), random_batch()
    of.step(batch, seed=0)
    of.require_finite(1, "checkpoint-1")
    of.step(replace(batch, long_interest_BD=batch.long_interest_BD * 1e30), seed=1)
    assert of.take_loss(2, 2, "checkpoint-1") < 10
    assert weights(of).isfinite().all()
    with pytest.raises(ContractError, match=r"ranker 'main', step 2: found weights or statistics that are not finite, first user_tower\.1\.running_var; "
                                            r"expected finite ones.*enormous vectors; the last good checkpoint is kept: checkpoint-1$"):
        of.require_finite(2, "checkpoint-1")


# ---------------------------------------------------------------- the optimiser
def both(table: torch.nn.Embedding) -> tuple[torch.nn.Embedding, torch.nn.Embedding]:
    dense, sparse = (torch.nn.Embedding.from_pretrained(table.weight.clone(), freeze=False) for _ in range(2))
    sparse.sparse = True
    return dense, sparse


def test_a_table_of_which_every_step_reads_every_row_learns_as_by_adam() -> None:
    dense, sparse = both(torch.nn.Embedding(4, 3))
    optimizers = torch.optim.Adam(dense.parameters(), 0.1, fused=True), RowAdam(sparse, 0.1)
    for step in range(5):
        index = torch.tensor([0, 1, 2, 3, 3, step % 4])
        for table, optimizer in zip((dense, sparse), optimizers, strict=True):
            optimizer.zero_grad()
            (table(index) * torch.arange(3.0)).sin().sum().backward()
            optimizer.step()
    assert sparse.weight.grad.is_sparse
    torch.testing.assert_close(sparse.weight, dense.weight, rtol=1e-5, atol=1e-6)


def test_rows_that_a_step_does_not_read_rest_with_their_moments() -> None:
    _, table = both(torch.nn.Embedding(4, 3))
    optimizer = RowAdam(table, 0.1)
    for row in (0, 1):
        before = table.weight.detach().clone()
        optimizer.zero_grad()
        table(torch.tensor([row])).sum().backward()
        optimizer.step()
        moved = (table.weight.detach() != before).any(1)
        assert moved.tolist() == [place == row for place in range(4)]
    state = optimizer.state[table.weight]
    assert state["exp_avg"][:, 0].tolist() == pytest.approx([0.1, 0.1, 0, 0])  # (1 - 0.9) * gradient 1, once each
    assert float(state["step"]) == 2


def test_clipping_scales_all_gradients_by_one_factor() -> None:
    """Gradients 3 (dense) and 4 (a row read twice, 2 each): norm 5, so at most 1 is a fifth of each; at most 10 changes nothing."""
    module = torch.nn.ModuleDict({"line": torch.nn.Linear(1, 1, bias=False), "table": torch.nn.Embedding(2, 1, sparse=True)})
    for norm, factor in ((1.0, 0.2), (10.0, 1.0)):
        module.zero_grad()
        (3 * module["line"].weight.sum() + 2 * module["table"](torch.tensor([1, 1])).sum()).backward()
        assert gradient_bytes(module) == 4 + 8 + 4  # one number; one row and its number
        clip_gradients(module, norm)
        assert module["line"].weight.grad.item() == pytest.approx(3 * factor)
        assert module["table"].weight.grad.to_dense().flatten().tolist() == pytest.approx([0, 4 * factor])


def test_only_large_tables_are_sparse() -> None:
    of = trainee(sparse_from=45).ranker
    assert of.user_profile.fields.rows.sparse  # 50 + 20
    assert not of.user_profile.tags.rows.sparse  # 40


# ---------------------------------------------------------------- precision and compiling
def test_bfloat16_is_near_float32_and_not_the_same() -> None:
    batch = random_batch(rows=64)
    exact, rounded = gradients(trainee(), batch), gradients(trainee(precision="bfloat16"), batch)
    assert 0.99 < torch.nn.functional.cosine_similarity(exact, rounded, 0) < 0.999999


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_is_the_same_function() -> None:
    plain, compiled = trainee(), trainee(compiled=True)
    for seed in range(2):  # the second batch mentions another number of illustrations
        batch = random_batch(rows=8 + seed, illustrations=20 + seed, seed=seed)
        torch.testing.assert_close(gradients(compiled, batch), gradients(plain, batch), rtol=1e-3, atol=1e-5)
        for of in (plain, compiled):
            of.optimizer.zero_grad()
