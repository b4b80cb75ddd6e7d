"""Our DCN-V2 against the DCNMix of deepctr-torch, which is installed apart and for this alone: rows a second of one step.

The same 23 fields with the paper's tables, the same widths, dropout and batch norm; one thread; batches held in memory, BATCHES of
them in turns, whose ids are drawn evenly, so that a row of a large table has mostly rested since the last time round. Theirs
steps as its `fit` does (loss summed, its value read at every step), without progress bar and metrics, by the Adam that its
`compile("adam")` makes, and beside that by torch's fused one. Ours steps by RowAdam: with the default's sparse gradients of the large tables, and with dense ones,
when it is torch's fused Adam; both learn what Adam learns. Ours has 10.3 M weights, theirs 10.2 M: users' and illustrations' tags
have tables apart.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from umair.model.batch import ITEM_TAGS, USER_TAGS, Batch, Catalogue
from umair.model.ranker import RankerConfig
from umair.training.checkpoint import build_ranker
from umair.training.loop import MAIN, TrainingConfig
from umair.training.ranks import Ranks
from umair.training.row_adam import RowAdam, make_tables_sparse
from umair.training.trainee import Trainee

CONFIG = RankerConfig(form="dcn_v2")  # fields, tables and widths of the paper
WIDTHS = {"semantic": 8, "style": 8, "text": 8}  # of vectors that neither of them reads
ROWS = (128, 1_024, 4_096)  # of a batch
BATCHES = 32
ROUNDS = 5  # in which each way has its turn
Step = Callable[[], None]


def compare(folder: Path, rate: Callable[[Step, int], int]) -> dict[str, Any]:
    """`folder`: where deepctr-torch was installed; `rate(step, rows)`: rows a second. -> by batch, each way's and ratios."""
    sys.path.insert(0, str(folder))
    found = {}
    for rows in ROWS:
        batches = _batches(rows)
        steps = {"ours": _our_step(batches, TrainingConfig(ranks=1)),
                 "ours, dense": _our_step(batches, TrainingConfig(ranks=1, sparse_from=None)),
                 "theirs": _their_step(batches, fused=False), "theirs, fused Adam": _their_step(batches, fused=True)}
        for step in steps.values():
            for _ in range(BATCHES):  # once through all of them, so that every row read later has moments
                step()
        rounds = [{name: rate(step, rows) for name, step in steps.items()} for _ in range(ROUNDS)]
        found[str(rows)] = {**{name: round(statistics.median(each[name] for each in rounds)) for name in steps},
                            "ours_over_theirs": _ratio(rounds, "theirs")[0],
                            "ours_over_theirs_fused": _ratio(rounds, "theirs, fused Adam")[0],
                            "least_and_most_fused": _ratio(rounds, "theirs, fused Adam")[1:]}
    return found


def _ratio(rounds: list[dict[str, int]], other: str) -> list[float]:
    """Ours over another: the median of the rounds, the least and the most."""
    ratios = [each["ours"] / each[other] for each in rounds]
    return [round(of(ratios), 2) for of in (statistics.median, min, max)]


def _our_step(batches: list[Batch], config: TrainingConfig) -> Step:
    torch.manual_seed(0)
    ranker, turns = build_ranker(CONFIG, WIDTHS), cycle(batches)
    make_tables_sparse(ranker, config.sparse_from)
    trainee = Trainee(MAIN, CONFIG, ranker, RowAdam(ranker, config.learning_rate), Ranks(), config)
    return lambda: trainee.step(next(turns), 0)


def _their_step(batches: list[Batch], *, fused: bool) -> Step:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DCNMix

    width, sizes = CONFIG.embedding_width, {**CONFIG.user_fields, **CONFIG.item_fields}
    columns = [SparseFeat(name, size, embedding_dim=width) for name, size in sizes.items()]
    columns += [SparseFeat(f"tag_{place}", CONFIG.tag_buckets, embedding_dim=width, embedding_name="tags")
                for place in range(USER_TAGS + ITEM_TAGS)]
    model = DCNMix(columns, columns, cross_num=CONFIG.cross_layers, dnn_hidden_units=CONFIG.deep,
                   dnn_dropout=CONFIG.deep_dropout, dnn_use_bn=True, low_rank=CONFIG.cross_rank, num_experts=CONFIG.cross_experts, l2_reg_linear=0, l2_reg_embedding=0, l2_reg_cross=0)
    model.compile(torch.optim.Adam(model.parameters(), fused=True) if fused else "adam", "binary_crossentropy")
    model.train()
    turns = cycle([(torch.cat([batch.user_fields_BF, batch.item_fields_BF, batch.user_tags_BT, batch.item_tags_BT], 1).float(),
                    batch.label_B) for batch in batches])

    def step() -> None:
        x_BF, label_B = next(turns)
        predicted_B = model(x_BF).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted_B, label_B, reduction="sum") + model.get_regularization_loss() + model.aux_loss
        loss.item()
        loss.backward()
        model.optim.step()

    return step


def _batches(rows: int) -> list[Batch]:
    whole = _batch(rows * BATCHES)
    return [whole.rows(slice(start, start + rows)) for start in range(0, rows * BATCHES, rows)]


def _batch(rows: int) -> Batch:
    draw = torch.Generator().manual_seed(0)

    def below(sizes: list[int]) -> torch.Tensor:
        return torch.stack([torch.randint(size, (rows,), generator=draw) for size in sizes], 1)

    nothing_BD = torch.zeros(rows, 8)
    return Batch(
        user_fields_BF=below(list(CONFIG.user_fields.values())), item_fields_BF=below(list(CONFIG.item_fields.values())),
        user_tags_BT=below([CONFIG.tag_buckets] * USER_TAGS), item_tags_BT=below([CONFIG.tag_buckets] * ITEM_TAGS),
        long_interest_BD=nothing_BD, short_interest_BD=nothing_BD, counters_BC=torch.zeros(rows, 6),
        vectors_BD={name: nothing_BD for name in WIDTHS}, item_B=torch.zeros(rows).long(),
        bookmarked_BH=torch.zeros(rows, 0).int(), passed_BH=torch.zeros(rows, 0).int(),
        label_B=torch.randint(2, (rows,), generator=draw).float(),
        catalogue=Catalogue({}, torch.zeros(1, 3), torch.zeros(1).int(), torch.zeros(1, ITEM_TAGS).int()))
