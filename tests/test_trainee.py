"""One step of a ranker: its parts, its gradients and its optimiser, against what must come out the same."""

from __future__ import annotations

import copy
import gc
import shutil
import sys
import weakref
from dataclasses import replace

import cloudpickle
import pytest
import torch
from batches import WIDTHS, random_batch, small

from umair.errors import ContractError
from umair.model.batch import Batch
from umair.model.ranker import UmairRanker
from umair.training import rest
from umair.training.checkpoint import build_ranker
from umair.training.loop import TrainingConfig
from umair.training.ranks import Ranks, run_ranks
from umair.training.row_adam import RowAdam, clip_gradients, gradient_bytes, make_tables_sparse
from umair.training.schedule import pace
from umair.training.trainee import Trainee, share_moments

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks cannot import a test file
cloudpickle.register_pickle_by_value(sys.modules["batches"])
EVEN = {"match": True, "counters": True, "tower_dropout": 0, "attention_dropout": 0, "deep_dropout": 0}  # nothing is drawn


def trainee(ranks: Ranks | None = None, *, ranker: dict | None = None, momentum: float = 0.0, **settings: object) -> Trainee:
    torch.manual_seed(0)
    config, training = small(**(EVEN | (ranker or {}))), TrainingConfig(ranks=1, **settings)
    fresh = UmairRanker(config, WIDTHS)
    fresh.match.places.norm.momentum = momentum  # 0: tastes follow the running statistics, which every part of a batch would move
    make_tables_sparse(fresh, training.sparse_from)
    return Trainee("main", config, fresh, RowAdam(fresh, 0.01, training.table_decay), ranks or Ranks(), training)


def rival(**settings: object) -> Trainee:
    torch.manual_seed(0)
    config, training = small(form="dcn_v2", inputs="all", counters=True, deep_dropout=0), TrainingConfig(ranks=1, **settings)
    fresh = build_ranker(config, WIDTHS)
    make_tables_sparse(fresh, training.sparse_from)
    return Trainee("rival", config, fresh, RowAdam(fresh, 0.01), Ranks(), training)


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
SETTINGS = ({}, {"sparse_from": 1, "clip_norm": 0.05, "table_decay": 10.0})


def learn(ranks: Ranks, settings: dict) -> dict:
    """Steps on rows that the ranks share, or that one rank takes in two parts; the gradients are those of the first step."""
    of, gradients_of_first = trainee(ranks, accumulate=2 // ranks.count, **settings), torch.zeros(0)
    for step in range(3):
        batch = random_batch(rows=12, seed=step)
        of.step(batch.rows(slice(ranks.index * 6, ranks.index * 6 + 6)) if ranks.count > 1 else batch, seed=0)
        if step == 0:  # later ones differ: Adam makes full steps of rounding errors, where batch norm leaves a bias without effect
            gradients_of_first = torch.cat([weight.grad.to_dense().flatten() for weight in of.ranker.parameters()])
    of.settle()
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


def drawn(*sparse: bool, dtype: torch.dtype = torch.float32) -> list[torch.nn.Embedding]:
    """Tables of the same weights."""
    weight_N3 = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    return [torch.nn.Embedding.from_pretrained(weight_N3.clone(), freeze=False, sparse=each) for each in sparse]


ROWS, STEPS = 300, 500


def read_rows(table: torch.nn.Embedding, optimizer: torch.optim.Optimizer, *, scale: float = 1.0, seed: int = 0,
              settle_every: int = STEPS) -> torch.Tensor:
    """STEPS of 8 rows each, a few of them often and most seldom or never; the loss is `scale` x their squared distance from places."""
    draw = torch.Generator().manual_seed(seed)
    place_N3 = torch.randn(ROWS, 3, generator=draw, dtype=torch.float64).to(table.weight.dtype)
    often_N = torch.arange(1.0, ROWS + 1) ** -1.2
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * pace(step + 1, STEPS, 0.0)
        row_8 = torch.multinomial(often_N, 8, replacement=True, generator=draw)
        optimizer.zero_grad()
        (scale * (table(row_8) - place_N3[row_8]).square().sum()).backward()
        optimizer.step()
        if isinstance(optimizer, RowAdam) and (step + 1) % settle_every == 0:
            optimizer.settle()
    return table.weight.detach()


@pytest.mark.parametrize(("scale", "decay", "near"), [(1.0, 0.0, 1e-7), (1.0, 10.0, 1e-9), (1e-6, 0.0, 2e-3), (1e-6, 10.0, 1e-5)])
def test_tables_of_which_steps_read_a_few_rows_learn_as_by_adam(scale: float, decay: float, near: float) -> None:
    """In float64, so that rounding hides nothing. At a scale of 1e-6 the root of the second moment comes near Adam's eps."""
    dense, sparse = drawn(False, True, dtype=torch.float64)
    start, optimizer = dense.weight.detach().clone(), RowAdam(sparse, 0.01, decay)
    by_adam = read_rows(dense, torch.optim.AdamW(dense.parameters(), 0.01, weight_decay=decay), scale=scale)
    torch.testing.assert_close(read_rows(sparse, optimizer, scale=scale), by_adam, rtol=0, atol=near)
    assert (by_adam - start).abs().max() > 1
    assert sparse.weight.grad.is_sparse


def test_many_steps_and_rows_are_made_up_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "ROOM", 64)
    monkeypatch.setattr(rest, "CHUNK", 100)
    dense, sparse = drawn(False, True, dtype=torch.float64)
    by_adam = read_rows(dense, torch.optim.AdamW(dense.parameters(), 0.01, weight_decay=3.0))
    torch.testing.assert_close(read_rows(sparse, RowAdam(sparse, 0.01, 3.0)), by_adam, rtol=0, atol=1e-8)


def test_at_a_rate_of_zero_nothing_moves() -> None:
    _, table = both(torch.nn.Embedding(3, 1))
    before, optimizer = table.weight.detach().clone(), RowAdam(table, 0.0, 10.0)
    for row in (0, 1):
        optimizer.zero_grad()
        table(torch.tensor([row])).sum().backward()
        optimizer.step()
    optimizer.settle()
    assert table.weight.equal(before)


def test_settling_while_scoring_stops_no_later_step() -> None:
    of = trainee(sparse_from=1)
    of.step(random_batch(), seed=0)
    with torch.inference_mode():
        of.optimizer.settle()
    of.step(random_batch(), seed=1)
    assert weights(of).isfinite().all()


def test_a_table_keeps_no_optimiser_alive() -> None:
    table = torch.nn.Embedding(3, 1, sparse=True)
    gone = weakref.ref(RowAdam(table, 0.1))
    gc.collect()
    assert gone() is None
    table(torch.tensor([0]))  # nobody listens


def test_a_row_that_rests_drifts_on_what_is_left_of_its_moments() -> None:
    """A gradient of 1 at the first step: 0.1 and 0.001 are left of it, and the row moves by the rate. Then, without one,
    0.09 / (1 - 0.81) over the root of 0.000999 / (1 - 0.998001) is 0.67006 of the rate."""
    _, table = both(torch.nn.Embedding(3, 1))
    before, optimizer = table.weight.detach().clone(), RowAdam(table, 0.1)
    for row in (0, 1):
        optimizer.zero_grad()
        table(torch.tensor([row])).sum().backward()
        optimizer.step()
    moved = (table.weight.detach() - before).flatten()
    assert moved.tolist() == pytest.approx([-0.1, -0.0744137, 0], abs=1e-6)  # 0.1 / 0.19 over the root of 0.001 / 0.001999
    optimizer.settle()
    moved = (table.weight.detach() - before).flatten()
    assert moved.tolist() == pytest.approx([-0.1670056, -0.0744137, 0], abs=1e-6)
    state = optimizer.state[table.weight]
    assert state["exp_avg"].flatten().tolist() == pytest.approx([0.09, 0.1, 0])
    assert state["exp_avg_sq"].flatten().tolist() == pytest.approx([0.000999, 0.001, 0])


def test_a_row_comes_out_the_same_to_the_bit_beside_whichever_others() -> None:
    """Two ranks read other rows; the union of what they read takes the step, on both."""
    first, second = drawn(True, True)
    optimizers = [RowAdam(table, 0.01, 10.0) for table in (first, second)]
    for table, optimizer in zip((first, second), optimizers, strict=True):
        read_rows(table, optimizer, settle_every=STEPS + 1)
    assert first.weight.equal(second.weight)
    for row in range(0, ROWS, 7):
        first(torch.tensor([row]))  # one by one, the others together
    first(torch.arange(ROWS))
    assert not first.weight.equal(second.weight)
    optimizers[1].settle()
    assert first.weight.equal(second.weight)


def test_an_optimiser_that_was_saved_goes_on_as_the_one_that_was_not() -> None:
    kept, other = drawn(True, True)
    optimizer = RowAdam(kept, 0.01, 10.0)
    read_rows(kept, optimizer, settle_every=STEPS + 1)
    saved, weight = copy.deepcopy(optimizer.state_dict()), kept.weight.detach().clone()  # in this order: the first settles
    read_rows(other, later := RowAdam(other, 0.01, 10.0), seed=5)  # whatever it was before
    later.load_state_dict(saved)
    other.weight.data = weight
    assert read_rows(kept, optimizer, seed=1).equal(read_rows(other, later, seed=1))


def test_rows_that_are_brought_up_to_date_along_the_way_end_where_the_others_do() -> None:
    seldom, often = drawn(True, True, dtype=torch.float64)
    ends = [read_rows(table, RowAdam(table, 0.01, 3.0), settle_every=every) for table, every in ((seldom, STEPS), (often, 20))]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-8)
    assert not ends[0].equal(ends[1])  # they went other ways


def test_a_table_may_turn_dense_and_sparse_again() -> None:
    dense, turning = drawn(False, True, dtype=torch.float64)
    turns = RowAdam(turning, 0.01, 3.0)
    adam = torch.optim.AdamW(dense.parameters(), 0.01, weight_decay=3.0)
    for sparse in (True, False, True):
        turning.sparse = sparse
        read_rows(turning, turns, settle_every=STEPS + 1)
        read_rows(dense, adam)
    turns.settle()
    torch.testing.assert_close(turning.weight, dense.weight, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", ["umair", "dcn_v2"])
def test_a_ranker_learns_the_same_with_sparse_tables(form: str) -> None:
    """Listed artists and tags too, which are read past their tables' `forward`, with gradients (rival) and without (match).

    After each step all other weights are made alike: what batch norm leaves without effect walks off by rounding alone.
    """
    fresh = {"umair": trainee, "dcn_v2": rival}[form]
    dense, sparse = fresh(sparse_from=None), fresh(sparse_from=1)
    tables = {f"{name}.weight" for name, part in sparse.ranker.named_modules() if getattr(part, "sparse", False)}
    assert len(tables) == 7
    start = {name: sparse.ranker.get_parameter(name).detach().clone() for name in tables}
    for step in range(40):
        for of in (dense, sparse):
            of.step(random_batch(rows=4, seed=step), seed=step)
        with torch.no_grad():
            for name, weight in dense.ranker.named_parameters():
                if name not in tables:
                    sparse.ranker.get_parameter(name).copy_(weight)
    sparse.settle()
    for name in tables:
        one, other = (of.ranker.get_parameter(name).detach() for of in (dense, sparse))
        torch.testing.assert_close(other, one, rtol=0, atol=2e-4)
        assert (one - start[name]).abs().max() > 0.05


def test_rows_that_are_looked_at_between_gradient_and_step_leave_no_trace() -> None:
    looked_at, other = drawn(True, True)
    optimizers = [RowAdam(table, 0.01) for table in (looked_at, other)]
    for table, optimizer in zip((looked_at, other), optimizers, strict=True):
        for row in range(20):
            optimizer.zero_grad()
            table(torch.tensor([row])).sum().backward()
            if table is looked_at:
                with torch.no_grad():
                    seen = table(torch.arange(ROWS))
            optimizer.step()
    assert not seen[:18].isclose(other.weight[:18], rtol=0, atol=1e-4).any()  # rows that rested are not as they were
    assert looked_at.weight.equal(other.weight)


def test_scoring_between_steps_sees_the_rows_as_they_are_and_leaves_no_trace() -> None:
    scored, other = trainee(sparse_from=1), trainee(sparse_from=1)
    logits = []
    for step in range(6):
        for of in (scored, other):
            of.step(random_batch(rows=4, seed=step), seed=step)
        logits.append(scored.score(random_batch(rows=64, seed=step + 100)))
    for of in (scored, other):
        of.settle()
    assert weights(scored).equal(weights(other))
    assert scored.score(random_batch(rows=64, seed=105)).equal(logits[-1])


def test_a_table_that_turns_sparse_unannounced_is_refused() -> None:
    table = torch.nn.Embedding(3, 1)
    optimizer = RowAdam(table, 0.1)
    table.sparse = True
    table(torch.tensor([0])).sum().backward()
    with pytest.raises(ValueError, match=r"^a sparse gradient of a table that was dense when RowAdam was made; call make_tables_sparse before$"):
        optimizer.step()


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
    of = trainee(sparse_from=350).ranker
    assert of.user_profile.fields.rows.sparse  # 50 + 20 rows of 8 numbers
    assert not of.user_profile.tags.rows.sparse  # 40 of 8
    assert of.linear.weights.rows.sparse  # 684 of 1


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
