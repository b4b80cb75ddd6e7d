"""What one step of a ranker sees. Made by `umair.training.lookup`, read by every ranker and baseline.

B rows, I illustrations of the catalogue, H history length, T tags, D width of vectors, C width of compact ones. History
lists name illustrations; what is known of these is in a Catalogue, which all batches share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

VECTOR_MODALITIES = ("semantic", "style", "text")  # the fourth, profile, is made from ids and metadata
MODALITIES = (*VECTOR_MODALITIES, "profile")

# Sparse fields in the order of the authors' code, each with the paper's number of buckets. Bucket 0 is unknown or padding.
USER_FIELDS = {"user_id": 100_000, "username": 1_000}
ITEM_FIELDS = {"restrict": 3, "sanity_level": 10, "x_restrict": 3, "total_bookmarks": 10, "total_view": 10,
               "width": 4, "height": 4, "illust_id": 1_000_000, "artist_id": 10_000}
TAG_BUCKETS = 8_000
USER_TAGS, ITEM_TAGS = 8, 4  # user: 4 long-term then 4 short-term interests; item: the artist's first 4
COUNTERS = ("user_views", "user_bookmarks", "user_rate", "illust_views", "illust_bookmarks", "illust_rate")


@dataclass(frozen=True)
class Catalogue:
    """What history lists point at: every illustration, on the device of the batches that share it."""

    compact_IC: dict[str, Tensor]  # modality -> [I, C] fp16, by the ranker's axes, zero where not known; {} if it reads none
    known_IM: Tensor  # [I, 3] float32, as it is summed: 0 where there is no picture or no text; order of VECTOR_MODALITIES
    artist_I: Tensor  # [I] int32 buckets
    tags_IT: Tensor  # [I, 4] int32 buckets, 0 = none

    def __len__(self) -> int:
        return len(self.artist_I)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Catalogue:
        """The same on another device; on this one nothing is copied."""
        compact_IC = {name: of_IC.to(device, non_blocking=non_blocking) for name, of_IC in self.compact_IC.items()}
        others = (self.known_IM, self.artist_I, self.tags_IT)
        return Catalogue(compact_IC, *(table.to(device, non_blocking=non_blocking) for table in others))


@dataclass(frozen=True)
class Batch:
    """One batch on one device. Index tensors are int64 where not said otherwise, dense ones float32."""

    user_fields_BF: Tensor  # [B, 2] buckets, order of USER_FIELDS
    user_tags_BT: Tensor  # [B, 8] buckets, 0 = none
    item_fields_BF: Tensor  # [B, 9] buckets, order of ITEM_FIELDS; the two totals are as-of counts in bins
    item_tags_BT: Tensor  # [B, 4] buckets, 0 = none
    long_interest_BD: Tensor  # [B, D] weighted mean of tag vectors; zero when the user has no history
    short_interest_BD: Tensor  # [B, D]
    counters_BC: Tensor  # [B, 6] order of COUNTERS: log1p of counts, smoothed rates
    vectors_BD: dict[str, Tensor]  # modality -> [B, width of the modality], of the row's own illustration
    item_B: Tensor  # [B] the row's illustration
    bookmarked_BH: Tensor  # [B, H] int32 illustrations, -1 = none, most recent first
    passed_BH: Tensor  # [B, H] int32
    label_B: Tensor  # [B] float32 0 or 1
    catalogue: Catalogue

    def __len__(self) -> int:
        return len(self.label_B)

    @property
    def buckets(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fields and tags, the user's first."""
        return self.user_fields_BF, self.user_tags_BT, self.item_fields_BF, self.item_tags_BT

    def known(self, modality: str) -> Tensor:
        """[B] bool: the row's illustration has this modality; a profile is always known."""
        if modality == "profile":
            return torch.ones_like(self.item_B, dtype=torch.bool)
        return self.catalogue.known_IM[self.item_B, VECTOR_MODALITIES.index(modality)] > 0

    def rows(self, part: slice | list[int]) -> Batch:
        """Some of the rows, or some of them twice."""
        own: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            if name != "catalogue":
                own[name] = {key: of_BX[part] for key, of_BX in value.items()} if isinstance(value, dict) else value[part]
        return replace(self, **own)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            if isinstance(value, dict):
                moved[name] = {key: tensor.to(device, non_blocking=True) for key, tensor in value.items()}
            else:
                moved[name] = value.to(device, non_blocking=True)
        return Batch(**moved)
