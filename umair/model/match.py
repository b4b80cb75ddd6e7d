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
        self.places = nn.ModuleDict({name: Place(project, width) for name, project in projects.items()})
        self.map_MPP = nn.Parameter(torch.empty(len(projects), width, width).uniform_(-(width ** -0.5), width ** -0.5))

    def forward(self, batch: Batch) -> Matches:
        known_BM = torch.stack([batch.known(name) for name in self.modalities], 1)
        suits_BMP = torch.einsum("bmp,mpq->bmq", self._tastes(batch), self.map_MPP)
        item_BMP = torch.stack([self.places[name](_own(name, batch), known_BM[:, m])
                                for m, name in enumerate(self.modalities)], 1)
        product_BMP = suits_BMP * item_BMP
        return Matches(product_BMP, product_BMP.sum(-1), known_BM)

    @torch.no_grad()
    def _tastes(self, batch: Batch) -> Tensor:
        """[B, M, P]: shrunk mean of the bookmarked less that of the passed-over illustrations, if these count."""
        lists = [Lists(batch.bookmarked_BH), *([Lists(batch.passed_BH)] if self.passed else [])]
        counts = [each.sum(batch.catalogue.known_IM) for each in lists]
        means = [self._means(name, batch, lists, counts) for name in self.modalities]
        return torch.stack([of_list[0] - of_list[1] if self.passed else of_list[0] for of_list in means], 1)

    def _means(self, name: str, batch: Batch, lists: list[Lists], counts_BM: list[Tensor]) -> list[Tensor]:
        """[B, P] for each of the lists: the sum of the listed places that are known, over their count and `shrink`."""
        place: Place = self.places[name]  # type: ignore[assignment]
        if isinstance(place.project, ProfilePlace):
            counts = [each.count_B[:, None] for each in lists]
            totals = sum_profiles(lists, place.project.artist, place.project.tags, batch.catalogue)
        else:
            counts = [count_BM[:, [VECTOR_MODALITIES.index(name)]] for count_BM in counts_BM]
            sums = [each.sum(batch.catalogue.compact_IC[name]) for each in lists]  # unknown ones are zero
            totals = [F.linear(sum_BC, place.project.weight) + count_B1 * place.project.bias
                      for sum_BC, count_B1 in zip(sums, counts, strict=True)]
        return [place.of_sum(total_BP, count_B1) / (count_B1 + self.shrink).clamp(min=1)
                for total_BP, count_B1 in zip(totals, counts, strict=True)]


class Place(nn.Module):
    """Where illustrations stand in one modality, each direction in deviations; what `project` takes, known_X bool -> [X, P].

    Zero where not known. Batch norm takes its moments over the known ones (`BatchNorm.moments`).
    """

    def __init__(self, project: nn.Linear | ProfilePlace, out: int) -> None:
        super().__init__()
        self.project, self.norm = project, BatchNorm(out)

    def forward(self, parts: list[Tensor], known_X: Tensor) -> Tensor:
        projected_XP = self.project(*parts).float()  # moments in float32 whatever the products'
        known_X1 = known_X[:, None].to(projected_XP.dtype)
        moments = self.norm.moments(projected_XP, known_X1) if self.training else self.norm.settled()
        scale_P, shift_P = self.norm.scale_and_shift(*moments)
        return torch.addcmul(shift_P, projected_XP, scale_P) * known_X1

    def of_sum(self, total_BP: Tensor, count_B1: Tensor) -> Tensor:
        """The sum of places, by the running moments, from the sum of what was projected."""
        scale_P, shift_P = self.norm.scale_and_shift(*self.norm.settled())
        return total_BP * scale_P + count_B1 * shift_P


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


def _own(name: str, batch: Batch) -> list[Tensor]:
    """What a modality's place is made from, for the illustrations of the rows."""
    catalogue, item_B = batch.catalogue, batch.item_B
    if name == "profile":
        return [catalogue.artist_I[item_B], catalogue.tags_IT[item_B]]
    return [catalogue.compact_IC[name][item_B].float()]
