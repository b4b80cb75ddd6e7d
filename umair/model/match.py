"""How well an illustration's vectors match what the user bookmarked, less what the user passed over.

B rows, X of rows or illustrations, M matched modalities, P projected width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umair.model.batch import VECTOR_MODALITIES, Batch
from umair.model.listed import Lists, sum_profiles
from umair.model.norm import BatchNorm
from umair.model.projection import require_width

FRESH_PLACE = 0.1  # deviation of fresh places of artists and tags: Adam moves a row that far in some fifty steps


class Matches(NamedTuple):
    """What `Match` finds. Zero wherever the row's illustration has no vector of the modality."""

    product_BMP: Tensor  # taste times illustration, element by element
    sum_BM: Tensor  # the products' sums: how well each modality matches
    known_BM: Tensor  # bool: the illustration has a vector


def meet(suits_BMP: Tensor, place_BMP: Tensor, known_BM: Tensor) -> Matches:
    """What `Match` says of users and illustrations whose sides are known."""
    product_BMP = suits_BMP * place_BMP
    return Matches(product_BMP, product_BMP.sum(-1), known_BM)


class Match(nn.Module):
    """The match of each modality. Beyond the paper, whose user vector knows ids and tags alone. batch -> Matches.

    Of semantics, style and text the compact vectors are read (`umair.model.compact`), of the profile artist and tags;
    `projects` brings each to the width P.

    The user's taste is the mean of the bookmarked less the mean of the passed-over ones, both with sum / (count + shrink),
    so that a short history says little and none says nothing; illustrations without a vector are not counted. A learnt map
    turns tastes into the illustrations that suit them. Projection and scale are affine, so that they are applied to a
    list's sum and not to each illustration in it.

    The projections learn from the rows' own illustrations, not from those in the lists, of which there are a hundred
    times as many: that spares the way back through the lists.
    """

    def __init__(self, projects: Mapping[str, nn.Linear | ProfilePlace], width: int, shrink: float, *, passed: bool = True
                 ) -> None:
        super().__init__()
        self.modalities, self.shrink, self.passed = tuple(projects), shrink, passed
        self.places = Places(projects, width)
        self.map_MPP = nn.Parameter(torch.empty(len(projects), width, width).uniform_(-(width ** -0.5), width ** -0.5))

    def forward(self, batch: Batch) -> Matches:
        return meet(self.suits(batch), *self.own(batch))

    def suits(self, batch: Batch) -> Tensor:
        """[B, M, P]: where illustrations stand that suit the rows' users."""
        return torch.einsum("bmp,mpq->bmq", self._tastes(batch), self.map_MPP)

    def own(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """place_BMP, where the rows' illustrations stand, and known_BM."""
        known_BM = torch.stack([batch.known(name) for name in self.modalities], 1)
        return self.places({name: _own(name, batch) for name in self.modalities}, known_BM), known_BM

    @torch.no_grad()
    def _tastes(self, batch: Batch) -> Tensor:
        """[B, M, P]: shrunk mean of the bookmarked less that of the passed-over illustrations, if these count."""
        if not self.passed:
            return self._means(batch, batch.bookmarked_BH)
        bookmarked_BMP, passed_BMP = self._means(batch, _one_below_the_other(batch.bookmarked_BH, batch.passed_BH)).chunk(2)
        return bookmarked_BMP - passed_BMP

    def _means(self, batch: Batch, listed_XH: Tensor) -> Tensor:
        """[X, M, P]: the sum of the listed places that are known, over their count and `shrink`."""
        lists = Lists(listed_XH)
        count_XV, totals, counts = lists.sum(batch.catalogue.known_IM), [], []
        for name, project in self.places.projects.items():
            if isinstance(project, ProfilePlace):
                totals += sum_profiles([lists], project.artist, project.tags, batch.catalogue)
                counts.append(lists.count_B[:, None].to(count_XV.dtype))
            elif isinstance(project, nn.Linear):
                counts.append(count_XV[:, VECTOR_MODALITIES.index(name), None])  # a list of places would make a GPU wait
                compact_IC = batch.catalogue.compact_IC[name]  # unknown ones are zero
                require_width(f"compact {name}", compact_IC.shape[1], project.in_features)
                sum_XC = lists.sum(compact_IC)
                totals.append(F.linear(sum_XC, project.weight) + counts[-1] * project.bias)
        count_XM1 = torch.stack(counts, 1)
        return self.places.of_sums(torch.stack(totals, 1), count_XM1) / (count_XM1 + self.shrink).clamp(min=1)


class Places(nn.Module):
    """Where illustrations stand in each modality, each direction in deviations: what each project takes, known_XM bool ->
    [X, M, P].

    Zero where not known. Batch norm takes its moments over the known ones (`BatchNorm.moments`), of all modalities at once.
    """

    def __init__(self, projects: Mapping[str, nn.Linear | ProfilePlace], width: int) -> None:
        super().__init__()
        self.projects, self.norm = nn.ModuleDict(projects), BatchNorm(len(projects) * width)
        self.shape = len(projects), width

    def forward(self, parts: Mapping[str, list[Tensor]], known_XM: Tensor) -> Tensor:
        projected = [project(*parts[name]) for name, project in self.projects.items()]
        projected_XMP = torch.stack(projected, 1).float()  # moments in float32 whatever the products'
        known_XM1 = known_XM[..., None].to(projected_XMP.dtype)
        moments = self.norm.moments(projected_XMP, known_XM1) if self.training else self.norm.settled(self.shape)
        scale_MP, shift_MP = self.norm.scale_and_shift(*moments)
        return torch.addcmul(shift_MP, projected_XMP, scale_MP) * known_XM1

    def of_sums(self, total_XMP: Tensor, count_XM1: Tensor) -> Tensor:
        """The sums of places, by the running moments, from the sums of what was projected."""
        scale_MP, shift_MP = self.norm.scale_and_shift(*self.norm.settled(self.shape))
        return total_XMP * scale_MP + count_XM1 * shift_MP


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


def _one_below_the_other(one_BH: Tensor, other_BH: Tensor) -> Tensor:
    """[2B, H]; the shorter lists are filled up with none."""
    length = max(one_BH.shape[1], other_BH.shape[1])
    return torch.cat([F.pad(listed_BH, (0, length - listed_BH.shape[1]), value=-1) for listed_BH in (one_BH, other_BH)])


def _own(name: str, batch: Batch) -> list[Tensor]:
    """What a modality's place is made from, for the illustrations of the rows."""
    catalogue, item_B = batch.catalogue, batch.item_B
    if name == "profile":
        return [catalogue.artist_I[item_B], catalogue.tags_IT[item_B]]
    return [catalogue.compact_IC[name][item_B].float()]
