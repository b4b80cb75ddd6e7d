"""Random batches for the tests of rankers, in any sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch.nn import functional as F

from umair.model.batch import COUNTERS, ITEM_TAGS, USER_TAGS, VECTOR_MODALITIES, Batch, Catalogue
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
        return below(illustrations, rows, history).masked_fill(torch.arange(history) >= length_B1, -1).int()

    known = {name: torch.rand(illustrations, generator=draw) > 0.2 for name in widths}
    vectors_ID = {name: torch.randn(illustrations, width, generator=draw) * known[name][:, None] for name, width in widths.items()}
    item_B = below(illustrations, rows)
    return Batch(
        user_fields_BF=torch.stack([below(size, rows) for size in config.user_fields.values()], 1),
        user_tags_BT=below(config.tag_buckets, rows, USER_TAGS),
        item_fields_BF=torch.stack([below(size, rows) for size in config.item_fields.values()], 1),
        item_tags_BT=below(config.tag_buckets, rows, ITEM_TAGS),
        long_interest_BD=torch.randn(rows, widths["text"], generator=draw),
        short_interest_BD=torch.randn(rows, widths["text"], generator=draw),
        counters_BC=torch.rand(rows, len(COUNTERS), generator=draw),
        vectors_BD={name: of_ID[item_B] for name, of_ID in vectors_ID.items()},
        item_B=item_B, bookmarked_BH=listed(), passed_BH=listed(), label_B=below(2, rows).float(),
        catalogue=Catalogue(
            {name: torch.randn(illustrations, min(width, COMPACT), generator=draw) * known[name][:, None] for name, width in widths.items()},
            torch.stack([known[name] for name in VECTOR_MODALITIES], 1).float(),
            below(config.item_fields["artist_id"], illustrations).int(), below(config.tag_buckets, illustrations, ITEM_TAGS).int()))


def known_of(batch: Batch, modality: str) -> torch.Tensor:
    """[I] bool: which illustrations of the catalogue have the modality."""
    return batch.catalogue.known_IM[:, VECTOR_MODALITIES.index(modality)] > 0


def where_known(batch: Batch, known_IM: torch.Tensor) -> Batch:
    """The batch with other illustrations known, and nothing left of those that are not."""
    compact = {name: of_IC * known_IM[:, place, None] for place, (name, of_IC) in enumerate(batch.catalogue.compact_IC.items())}
    return replace(batch, catalogue=replace(batch.catalogue, known_IM=known_IM, compact_IC=compact))


def loss_after(steps: int, model: Ranker, batch: Batch) -> float:
    """The loss on a batch in the last of so many steps of training on it alone."""
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(model(batch).logit_B, batch.label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
