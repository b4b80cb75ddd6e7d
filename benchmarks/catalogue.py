"""What the size of the catalogue costs the default ranker, and what summing before mapping gains; called by train.py.

Rows with full histories of illustrations drawn at random, so that few rows share any, on one thread of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from umair.model.batch import COUNTERS, ITEM_TAGS, USER_TAGS, VECTOR_MODALITIES, Batch, Catalogue
from umair.model.compact import compact_width
from umair.model.match import Match
from umair.model.ranker import RankerConfig, UmairRanker

SIZES = (5_000, 100_000, 1_000_000)
WIDTHS = {"semantic": 1_024, "style": 256, "text": 512}
ROWS, HISTORY = 2_048, 200
Rate = Callable[[Callable[[], Any], int], int]  # work, the rows that it handles -> rows a second


class RowByRow(Match):
    """As it is written: every listed illustration is projected and scaled for every row that lists it."""

    def _means(self, batch: Batch, listed_XH: Tensor) -> Tensor:
        return torch.cat([self._mean(batch, part_YH) for part_YH in listed_XH.chunk(4)])  # to spare memory

    def _mean(self, batch: Batch, listed_YH: Tensor) -> Tensor:
        index, of_all = listed_YH.clamp(min=0).flatten(), batch.catalogue
        parts = {name: [of_all.compact_IC[name][index].float()] for name in VECTOR_MODALITIES}
        parts["profile"] = [of_all.artist_I[index], of_all.tags_IT[index]]
        known = torch.cat([of_all.known_IM[index] > 0, torch.ones(len(index), 1, dtype=torch.bool)], 1)
        known = known & (listed_YH.flatten()[:, None] >= 0)
        place_YHMP = self.places(parts, known).unflatten(0, listed_YH.shape)
        count_YM1 = known.unflatten(0, listed_YH.shape).sum(1)[..., None]
        mean_YMP: Tensor = place_YHMP.sum(1) / (count_YM1 + self.shrink).clamp(min=1)
        return mean_YMP


def compare(config: RankerConfig, steps: int, rate: Rate) -> dict[str, Any]:
    """By the number of illustrations: rows a second of a training step, of scoring, and of scoring row by row.

    Raises AssertionError where both ways of scoring do not say the same.
    """
    return {f"{count} illustrations": _of_size(config, count, steps, rate) for count in SIZES}


def _of_size(config: RankerConfig, count: int, steps: int, rate: Rate) -> dict[str, Any]:
    torch.manual_seed(0)
    batch, ranker = _batch(config, count), UmairRanker(config, WIDTHS)
    optimizer = torch.optim.Adam(ranker.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(ranker(batch).logit_B, batch.label_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    rates = {"step": rate(lambda: [step() for _ in range(steps)], steps * ROWS)}
    ranker.eval()
    with torch.inference_mode():
        first_B = ranker(batch).logit_B
        rates["scored"] = rate(lambda: [ranker(batch) for _ in range(steps)], steps * ROWS)
        assert ranker.match is not None
        ranker.match.__class__ = RowByRow
        torch.testing.assert_close(ranker(batch).logit_B, first_B, rtol=1e-2, atol=1e-3)  # fp16 sums
        rates["scored row by row"] = rate(lambda: [ranker(batch) for _ in range(2)], 2 * ROWS)
    return {**rates, "once_over_row_by_row": round(rates["scored"] / rates["scored row by row"], 2)}


def _batch(config: RankerConfig, count: int) -> Batch:
    draw = torch.Generator().manual_seed(0)

    def below(size: int, *shape: int) -> Tensor:
        return torch.randint(size, shape, generator=draw)

    def fields(sizes: dict[str, int]) -> Tensor:
        return torch.stack([below(size, ROWS) for size in sizes.values()], 1)

    compact_IC = {name: torch.randn(count, compact_width(width), generator=draw).half() for name, width in WIDTHS.items()}
    return Batch(
        user_fields_BF=fields(config.user_fields), user_tags_BT=below(config.tag_buckets, ROWS, USER_TAGS),
        item_fields_BF=fields(config.item_fields), item_tags_BT=below(config.tag_buckets, ROWS, ITEM_TAGS),
        long_interest_BD=torch.randn(ROWS, WIDTHS["text"], generator=draw),
        short_interest_BD=torch.randn(ROWS, WIDTHS["text"], generator=draw),
        counters_BC=torch.rand(ROWS, len(COUNTERS), generator=draw),
        vectors_BD={name: torch.randn(ROWS, width, generator=draw) for name, width in WIDTHS.items()},
        item_B=below(count, ROWS), bookmarked_BH=below(count, ROWS, HISTORY).int(), passed_BH=below(count, ROWS, HISTORY).int(),
        label_B=below(2, ROWS).float(),
        catalogue=Catalogue(compact_IC, torch.ones(count, len(WIDTHS)), below(config.item_fields["artist_id"], count).int(),
                            below(config.tag_buckets, count, ITEM_TAGS).int()))
