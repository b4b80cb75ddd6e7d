"""Sums over the illustrations that history lists name, straight from the catalogue's tables: nothing is copied for a batch.

A linear map of a sum is the sum of the mapped, so that what is summed here is mapped once a row, not once for every
illustration of a list. B lists, H places in each, I illustrations, X numbers of each, T tags.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umair.model.batch import Catalogue


class Lists:
    """listed_BH, integer indices of illustrations, -1 = none. Prepared once, summed over often.

    On a CPU the empty places are taken out, so that a short history costs little; on a GPU, and in a compiled step, they
    weigh nothing instead, as a shape that depends on the data would make it wait. `packed` overrules that.
    """

    def __init__(self, listed_BH: Tensor, *, packed: bool | None = None) -> None:
        there_BH = listed_BH >= 0
        self.count_B = there_BH.sum(1)
        self.share = 0.5 ** max(listed_BH.shape[1] - 1, 0).bit_length()  # 1 / 256 for 200 places: exact in every dtype
        self.there_BH: Tensor | None = None
        self.start_B: Tensor | None = None
        packed = not (listed_BH.is_cuda or torch.compiler.is_compiling()) if packed is None else packed
        if packed:
            self.index = listed_BH[there_BH]  # one after the other
            self.start_B = (self.count_B.cumsum(0) - self.count_B).to(self.index.dtype)
        else:
            self.index, self.there_BH = listed_BH.clamp(min=0), there_BH  # [B, H]

    def sum(self, table_IX: Tensor) -> Tensor:
        """[B, X] of the table's dtype; float32 of one in float16, which is summed in float32 and rounded once."""
        if table_IX.dtype == torch.float16:
            share = torch.full_like(self.index, self.share, dtype=torch.float16)
            share = share if self.there_BH is None else share * self.there_BH
            mean_BX = F.embedding_bag(self.index, table_IX, self.start_B, mode="sum", per_sample_weights=share)
            return mean_BX.float() / self.share
        weight_BH = None if self.there_BH is None else self.there_BH.to(table_IX.dtype)
        return F.embedding_bag(self.index, table_IX, self.start_B, mode="sum", per_sample_weights=weight_BH)

    def sum_profiles(self, artist: nn.Embedding, tags: nn.EmbeddingBag, catalogue: Catalogue) -> Tensor:
        """[B, X]: each listed illustration's row of `artist` beside the mean of its rows of `tags`, looked up one by one."""
        artist_E, tag_ET = catalogue.artist_I[self.index], catalogue.tags_IT[self.index]
        share_ET = (tag_ET > 0).float()
        share_ET = share_ET / share_ET.sum(-1, keepdim=True).clamp(min=1)
        start_B, weight_BH = self.start_B, None
        if self.there_BH is not None:
            weight_BH = self.there_BH.float()
            tag_ET, share_ET = tag_ET.flatten(1), (share_ET * weight_BH[..., None]).flatten(1)
        else:
            tag_ET, share_ET = tag_ET.flatten(), share_ET.flatten()
        _announce(artist, artist_E)
        _announce(tags, tag_ET)
        artist_BX = F.embedding_bag(artist_E, artist.weight, start_B, mode="sum", per_sample_weights=weight_BH,
                                    sparse=artist.sparse)
        start_B = None if start_B is None else start_B * catalogue.tags_IT.shape[1]
        tags_BX = F.embedding_bag(tag_ET, tags.weight, start_B, mode="sum", per_sample_weights=share_ET, sparse=tags.sparse)
        return torch.cat([artist_BX, tags_BX], 1)


def _announce(table: nn.Module, row: Tensor) -> None:
    """Tells those who wait for a table to be called (RowAdam) which rows are read past its `forward`."""
    for listen in table._forward_pre_hooks.values():
        listen(table, (row,))


def sum_profiles(several: Sequence[Lists], artist: nn.Embedding, tags: nn.EmbeddingBag, catalogue: Catalogue
                 ) -> list[Tensor]:
    """`Lists.sum_profiles` of each. Where the lists together are longer than the catalogue, its profiles are made once,
    unless the tables' gradients are sparse: those must name the rows that were listed, and no others."""
    if artist.sparse or tags.sparse or len(catalogue) > sum(lists.index.numel() for lists in several):
        return [lists.sum_profiles(artist, tags, catalogue) for lists in several]
    profile_IX = torch.cat([artist(catalogue.artist_I), tags(catalogue.tags_IT)], 1)
    return [lists.sum(profile_IX) for lists in several]
