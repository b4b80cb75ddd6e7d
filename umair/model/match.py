"""How well an illustration's vectors match what the user bookmarked, less what the user passed over.

B rows, U distinct illustrations of the batch, H history length, M matched modalities, P projected width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umair.model.batch import ITEM_FIELDS, Batch

ARTIST = list(ITEM_FIELDS).index("artist_id")
FRESH_PLACE = 0.1  # deviation of fresh places of artists and tags: Adam moves a row that far in some fifty steps


class Matches(NamedTuple):
    """What `Match` finds. Zero wherever the row's illustration has no vector of the modality."""

    product_BMP: Tensor  # taste times illustration, element by element
    sum_BM: Tensor  # the products' sums: how well each modality matches
    known_BM: Tensor  # bool: the illustration has a vector


class Match(nn.Module):
    """The match of each modality. Beyond the paper, whose user vector knows ids and tags alone. batch -> Matches.

    Of semantics, style and text the compact vectors are read (`umair.model.compact`), of the profile artist and tags;
    `projects` brings each to the width P.

    Each modality is projected and normalised once for the batch's distinct illustrations. The user's taste is the mean
    of the bookmarked less the mean of the passed-over ones, both with sum / (count + shrink), so that a short history
    says little and none says nothing; illustrations without a vector are not counted. A learnt map turns tastes into
    the illustrations that suit them.

    The projections learn from the rows' own illustrations, not from those in the lists, of which there are a hundred
    times as many: that spares the way back through the lists.
    """

    def __init__(self, projects: Mapping[str, nn.Module], width: int, shrink: float, *, passed: bool = True) -> None:
        super().__init__()
        self.modalities, self.shrink, self.passed = tuple(projects), shrink, passed
        self.places = nn.ModuleDict({name: Place(project, width) for name, project in projects.items()})
        self.map_MPP = nn.Parameter(torch.empty(len(projects), width, width).uniform_(-(width ** -0.5), width ** -0.5))

    def forward(self, batch: Batch) -> Matches:
        known_UM = torch.stack([_known(name, batch) for name in self.modalities], 1)
        known_BM = known_UM[batch.item_B]
        suits_BMP = torch.einsum("bmp,mpq->bmq", self._tastes(batch, known_UM), self.map_MPP)
        item_BMP = torch.stack([self.places[name]([part_UX[batch.item_B] for part_UX in _parts(name, batch)], known_BM[:, m])
                                for m, name in enumerate(self.modalities)], 1)
        product_BMP = suits_BMP * item_BMP
        return Matches(product_BMP, product_BMP.sum(-1), known_BM)

    @torch.no_grad()
    def _tastes(self, batch: Batch, known_UM: Tensor) -> Tensor:
        """[B, M, P]: shrunk mean of the bookmarked less that of the passed-over illustrations, if these count."""
        place_UX = torch.cat([self.places[name](_parts(name, batch), known_UM[:, m], settled=True)
                              for m, name in enumerate(self.modalities)], 1)
        value_UX = torch.cat([place_UX, known_UM.to(place_UX.dtype)], 1)  # the sum of `known` is the count
        bookmarked_BMP = self._mean(value_UX, batch.bookmarked_BH)
        return bookmarked_BMP - self._mean(value_UX, batch.passed_BH) if self.passed else bookmarked_BMP

    def _mean(self, value_UX: Tensor, listed_BH: Tensor) -> Tensor:
        """[B, M, P]; the last M columns of `value_UX` are counted."""
        sum_BX, count = sum_listed(value_UX, listed_BH), len(self.modalities)
        weight_BM1 = 1 / (sum_BX[:, -count:, None] + self.shrink).clamp(min=1)
        return sum_BX[:, :-count].view(len(sum_BX), count, -1) * weight_BM1


class Place(nn.Module):
    """Where illustrations stand in one modality, each direction in deviations; what `project` takes, known_X bool -> [X, P].

    Zero where not known. Batch norm takes its statistics over the known ones, and falls back on its running ones where
    a batch has fewer than two (no picture at all, say). No shape depends on what is known, so that a GPU is not waited for.
    """

    def __init__(self, project: nn.Module, out: int) -> None:
        super().__init__()
        self.project, self.norm = project, nn.BatchNorm1d(out)

    def forward(self, parts: list[Tensor], known_X: Tensor, *, settled: bool = False) -> Tensor:
        """`settled` asks for the running statistics, in training too."""
        norm, projected_XP = self.norm, self.project(*parts).float()  # statistics in float32 whatever the products'
        if self.training and not settled:
            mean_P, square_P = self._statistics(projected_XP, known_X[:, None].to(projected_XP.dtype))
        else:
            mean_P, square_P = self._settled()
        scale_P = norm.weight * (square_P + norm.eps).rsqrt()
        return torch.addcmul(norm.bias - mean_P * scale_P, projected_XP, scale_P) * known_X[:, None]

    def _settled(self) -> tuple[Tensor, Tensor]:
        return self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")

    def _statistics(self, value_XP: Tensor, known_X1: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the known ones, which move the running ones as those of batch norm do."""
        (settled_P, spread_P), count = self._settled(), known_X1.sum()
        mean_P = (value_XP * known_X1).sum(0) / count.clamp(min=1)
        square_P = ((value_XP - mean_P).square() * known_X1).sum(0) / count.clamp(min=1)
        with torch.no_grad():
            pace = (self.norm.momentum or 0.0) * (count > 1)
            settled_P += pace * (mean_P - settled_P)
            spread_P += pace * (square_P * count / (count - 1).clamp(min=1) - spread_P)
        return torch.where(count > 1, mean_P, settled_P), torch.where(count > 1, square_P, spread_P)


class ProfilePlace(nn.Module):
    """Artist and tags of an illustration as P numbers, half of them for each: artist_X, tags_XT int64 -> [X, P].

    Two works of one artist, or with the same tags, start near and others far, as random directions do; training moves them.
    Bucket 0, no tag, counts nothing.
    """

    def __init__(self, artists: int, tags: int, out: int) -> None:
        super().__init__()
        self.artist = nn.Embedding(artists, out // 2)
        self.tags = nn.EmbeddingBag(tags, out - out // 2, mode="mean", padding_idx=0)
        for table in (self.artist, self.tags):
            nn.init.normal_(table.weight, std=FRESH_PLACE)

    def forward(self, artist_X: Tensor, tags_XT: Tensor) -> Tensor:
        return torch.cat([self.artist(artist_X), self.tags(tags_XT)], 1)


def _parts(name: str, batch: Batch) -> list[Tensor]:
    """What a modality's place is made from, for the U illustrations of the batch."""
    return [batch.item_fields_UF[:, ARTIST], batch.item_tags_UT] if name == "profile" else [batch.compact_UC[name]]


def _known(name: str, batch: Batch) -> Tensor:
    """[U] bool; a profile is always known."""
    if name == "profile":
        return torch.ones(len(batch.item_tags_UT), dtype=torch.bool, device=batch.item_B.device)
    return batch.known_U[name]


def sum_listed(value_UX: Tensor, listed_BH: Tensor) -> Tensor:
    """value_UX float32, listed_BH int64 -> [B, X]: the sums of the listed rows of `value_UX`; -1 lists nothing."""
    return F.embedding_bag(listed_BH.clamp(min=0), value_UX, mode="sum",
                           per_sample_weights=(listed_BH >= 0).to(value_UX.dtype))
