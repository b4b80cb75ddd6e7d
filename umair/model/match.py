"""How well an illustration's vectors match what the user bookmarked, less what the user passed over.

B rows, U distinct illustrations of the batch, H history length, M matched modalities, P projected width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umair.model.batch import Batch


class Matches(NamedTuple):
    """What `Match` finds. Zero wherever the row's illustration has no vector of the modality."""

    product_BMP: Tensor  # taste times illustration, element by element
    sum_BM: Tensor  # the products' sums: how well each modality matches
    known_BM: Tensor  # bool: the illustration has a vector


class Match(nn.Module):
    """The match of each modality. Beyond the paper, whose user vector knows ids and tags alone.

    Of each modality the compact vectors are read (`umair.model.compact`). batch -> Matches.

    Each modality is projected and normalised once for the batch's distinct illustrations. The user's taste is the mean
    of the bookmarked less the mean of the passed-over ones, both with sum / (count + shrink), so that a short history
    says little and none says nothing; illustrations without a vector are not counted. A learnt map turns tastes into
    the illustrations that suit them.

    The projections learn from the rows' own illustrations, not from those in the lists, of which there are a hundred
    times as many: it costs no accuracy and spares a matrix product of U x D x P and the way back through the lists.
    """

    def __init__(self, widths: dict[str, int], width: int, shrink: float) -> None:
        super().__init__()
        self.modalities, self.shrink = tuple(widths), shrink
        self.places = nn.ModuleDict({name: Place(wide, width) for name, wide in widths.items()})
        self.map_MPP = nn.Parameter(torch.empty(len(widths), width, width).uniform_(-(width ** -0.5), width ** -0.5))

    def forward(self, batch: Batch) -> Matches:
        known_UM = torch.stack([batch.known_U[name] for name in self.modalities], 1)
        known_BM = known_UM[batch.item_B]
        suits_BMP = torch.einsum("bmp,mpq->bmq", self._tastes(batch, known_UM), self.map_MPP)
        item_BMP = torch.stack([self.places[name](batch.compact_UC[name][batch.item_B], known_BM[:, m])
                                for m, name in enumerate(self.modalities)], 1)
        product_BMP = suits_BMP * item_BMP
        return Matches(product_BMP, product_BMP.sum(-1), known_BM)

    @torch.no_grad()
    def _tastes(self, batch: Batch, known_UM: Tensor) -> Tensor:
        """[B, M, P]: shrunk mean of the bookmarked less that of the passed-over illustrations."""
        place_UX = torch.cat([self.places[name](batch.compact_UC[name], batch.known_U[name], settled=True)
                              for name in self.modalities], 1)
        value_UX = torch.cat([place_UX, known_UM.to(place_UX.dtype)], 1)  # the sum of `known` is the count
        sum_2BX = sum_listed(value_UX, torch.cat([batch.bookmarked_BH, batch.passed_BH]))
        places = place_UX.shape[1]
        weight_2BM1 = 1 / (sum_2BX[:, places:, None] + self.shrink).clamp(min=1)
        mean_2BMP = sum_2BX[:, :places].view(len(sum_2BX), len(self.modalities), -1) * weight_2BM1
        return mean_2BMP[:len(batch)] - mean_2BMP[len(batch):]


class Place(nn.Module):
    """Where illustrations stand in one modality, each direction in deviations; compact_XC, known_X bool -> [X, P].

    Zero where not known. Batch norm takes its statistics over the known ones, and falls back on its running ones where
    a batch has fewer than two (no picture at all, say).
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(width, out), nn.BatchNorm1d(out)

    def forward(self, compact_XC: Tensor, known_X: Tensor, *, settled: bool = False) -> Tensor:
        """`settled` asks for the running statistics, in training too."""
        norm, projected_XP = self.norm, self.project(compact_XC)
        if self.training and not settled and int(known_X.sum()) > 1:
            return torch.zeros_like(projected_XP).index_put((known_X,), norm(projected_XP[known_X]))
        place_XP = F.batch_norm(projected_XP, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return place_XP.masked_fill(~known_X[:, None], 0)


def sum_listed(value_UX: Tensor, listed_BH: Tensor) -> Tensor:
    """value_UX float32, listed_BH int64 -> [B, X]: the sums of the listed rows of `value_UX`; -1 lists nothing."""
    return F.embedding_bag(listed_BH.clamp(min=0), value_UX, mode="sum",
                           per_sample_weights=(listed_BH >= 0).to(value_UX.dtype))
