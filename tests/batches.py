"""Random batches for the tests of rankers, in any sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from umair.model.batch import COUNTERS, ITEM_TAGS, USER_TAGS, Batch
from umair.model.compact import COMPACT
from umair.model.ranker import Ranker, RankerConfig

PAPER_WIDTHS = {"semantic": 1024, "style": 256, "text": 512}
WIDTHS = {"semantic": 12, "style": 6, "text": 8}
SMALL = RankerConfig(user_fields={"user_id": 50, "username": 20}, item_fields={"illust_id": 60, "artist_id": 30},
                     tag_buckets=40, tower=(16, 8), deep=(16, 8), cross_rank=3, cross_experts=2, match_width=5)


def small(**changes: object) -> RankerConfig:
    """SMALL with changes, checked like any configuration."""
    return RankerConfig.model_validate(SMALL.model_dump() | changes)


def random_batch(config: RankerConfig = SMALL, widths: Mapping[str, int] = WIDTHS, rows: int = 6, *, illustrations: int = 20,
                 history: int = 7, seed: int = 0) -> Batch:
    """Random buckets, vectors of which about a fifth is unknown, and histories of every length from none to full."""
    draw = torch.Generator().manual_seed(seed)

    def below(size: int, *shape: int) -> torch.Tensor:
        return torch.randint(size, shape, generator=draw)

    def listed() -> torch.Tensor:
        length_B1 = below(history + 1, rows, 1)
        return below(illustrations, rows, history).masked_fill(torch.arange(history) >= length_B1, -1)

    known = {name: torch.rand(illustrations, generator=draw) > 0.2 for name in widths}
    vectors_UD = {name: torch.randn(illustrations, width, generator=draw) * known[name][:, None] for name, width in widths.items()}
    item_B = below(illustrations, rows)
    return Batch(
        user_fields_BF=torch.stack([below(size, rows) for size in config.user_fields.values()], 1),
        user_tags_BT=below(config.tag_buckets, rows, USER_TAGS),
        item_fields_BF=torch.stack([below(size, rows) for size in config.item_fields.values()], 1),
        item_tags_BT=below(config.tag_buckets, rows, ITEM_TAGS),
        long_interest_BD=torch.randn(rows, widths["text"], generator=draw),
        short_interest_BD=torch.randn(rows, widths["text"], generator=draw),
        counters_BC=torch.rand(rows, len(COUNTERS), generator=draw),
        vectors_BD={name: of_UD[item_B] for name, of_UD in vectors_UD.items()},
        compact_UC={name: torch.randn(illustrations, min(width, COMPACT), generator=draw) for name, width in widths.items()},
        item_fields_UF=torch.stack([below(size, illustrations) for size in config.item_fields.values()], 1),
        item_tags_UT=below(config.tag_buckets, illustrations, ITEM_TAGS), known_U=known, item_B=item_B, bookmarked_BH=listed(), passed_BH=listed(),
        label_B=below(2, rows).float())


def loss_after(steps: int, model: Ranker, batch: Batch) -> float:
    """The loss on a batch in the last of so many steps of training on it alone."""
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(model(batch).logit_B, batch.label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
