"""What one step of a ranker sees. Made by `umair.training.lookup`, read by every ranker and baseline.

B rows, U distinct illustrations that the rows mention (as target or in a history list), H history length, T tags, D width of
vectors, C width of compact ones. Lists hold positions into the U illustrations, so that each is projected once a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

VECTOR_MODALITIES = ("semantic", "style", "text")  # the fourth, profile, is made from ids and metadata
MODALITIES = (*VECTOR_MODALITIES, "profile")

# Sparse fields in the order of spec 1.5, each with the paper's number of buckets. Bucket 0 is unknown or padding.
USER_FIELDS = {"user_id": 100_000, "username": 1_000}
ITEM_FIELDS = {"restrict": 3, "sanity_level": 10, "x_restrict": 3, "total_bookmarks": 10, "total_view": 10,
               "width": 4, "height": 4, "illust_id": 1_000_000, "artist_id": 10_000}
TAG_BUCKETS = 8_000
USER_TAGS, ITEM_TAGS = 8, 4  # user: 4 long-term then 4 short-term interests; item: the artist's first 4
COUNTERS = ("user_views", "user_bookmarks", "user_rate", "illust_views", "illust_bookmarks", "illust_rate")


@dataclass(frozen=True)
class Batch:
    """One batch on one device. All index tensors are int64, all dense ones float32, masks bool."""

    user_fields_BF: Tensor  # [B, 2] buckets, order of USER_FIELDS
    user_tags_BT: Tensor  # [B, 8] buckets, 0 = none
    item_fields_BF: Tensor  # [B, 9] buckets, order of ITEM_FIELDS; the two totals are as-of counts in bins
    item_tags_BT: Tensor  # [B, 4] buckets, 0 = none
    long_interest_BD: Tensor  # [B, D] weighted mean of tag vectors; zero when the user has no history
    short_interest_BD: Tensor  # [B, D]
    counters_BC: Tensor  # [B, 6] order of COUNTERS: log1p of counts, smoothed rates
    vectors_BD: dict[str, Tensor]  # modality -> [B, width of the modality], of the row's own illustration
    compact_UC: dict[str, Tensor]  # modality -> [U, C], by the axes of the ranker; empty for one that has no use for it
    known_U: dict[str, Tensor]  # modality -> [U] bool: False where there is no picture or no text
    item_fields_UF: Tensor  # [U, 9] buckets as item_fields_BF, but for the two totals, which are 0
    item_tags_UT: Tensor  # [U, 4] buckets
    item_B: Tensor  # [B] position of the row's illustration among the U
    bookmarked_BH: Tensor  # [B, H] positions among the U, -1 = none, most recent first
    passed_BH: Tensor  # [B, H]
    label_B: Tensor  # [B] float32 0 or 1

    def __len__(self) -> int:
        return len(self.label_B)

    def rows(self, part: slice | list[int]) -> Batch:
        """Some of the rows, or some of them twice; the U illustrations stay."""
        own: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            if name.rsplit("_", 1)[1].startswith("B"):
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
