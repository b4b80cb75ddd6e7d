"""What a rival sees of a row: fields of one width, side by side.

B rows, I illustrations, F fields, E embedding width, V fields a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from umair.model.batch import COUNTERS, ITEM_TAGS, USER_TAGS, VECTOR_MODALITIES, Batch
from umair.model.compact import compact_width
from umair.model.listed import Lists, sum_profiles
from umair.model.norm import BatchNorm
from umair.model.profiles import FieldTable
from umair.model.projection import Projection
from umair.model.ranker import RankerConfig


class AuthorsFields(nn.Module):
    """The 23 sparse fields as the UMAIR-FPS authors gave them to the rivals: batch -> fields_BFE, float32.

    An embedding with a bias and a ReLU, one table for the tags of users and illustrations together. Neither counters nor
    vectors nor history.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        sizes = [*config.user_fields.values(), *config.item_fields.values()]
        self.rows = FieldTable(sizes, config.embedding_width, config.embedding_std)
        self.tags = FieldTable([config.tag_buckets], config.embedding_width, config.embedding_std)
        self.bias_FE = nn.Parameter(torch.zeros(len(sizes) + 1, config.embedding_width))  # the last is the tags'
        self.count = len(sizes) + USER_TAGS + ITEM_TAGS

    def forward(self, batch: Batch) -> Tensor:
        rows_BFE = self.rows(torch.cat([batch.user_fields_BF, batch.item_fields_BF], 1)) + self.bias_FE[:-1]
        tags_BTE = self.tags(torch.cat([batch.user_tags_BT, batch.item_tags_BT], 1)) + self.bias_FE[-1]
        return F.relu(torch.cat([rows_BFE, tags_BTE], 1))


class Fields(nn.Module):
    """Ids and tags as our ranker embeds them, and what else the configuration grants: batch -> fields_BFE, float32.

    `counters`: one field of the as-of counters. `inputs: all`: everything that our ranker reads beside them, each brought to
    a field's width by a linear map (a vector to that of `vector_fields` of them): the vectors of the illustration, the means
    of those that the user bookmarked and passed over, of their artists and tags, the two interest vectors.
    """

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__()
        self.width = config.embedding_width
        self.user_profile, self.item_profile = config.user_profile(), config.item_profile()
        self.counters = nn.Sequential(BatchNorm(len(COUNTERS)), nn.Linear(len(COUNTERS), self.width)
                                      ) if config.counters else None
        self.vectors = Vectors(config, widths) if config.inputs == "all" else None
        sparse = (self.user_profile.width + self.item_profile.width) // self.width
        self.count = sparse + config.counters + (self.vectors.count if self.vectors else 0)

    def forward(self, batch: Batch) -> Tensor:
        parts_BX = [self.user_profile(batch.user_fields_BF, batch.user_tags_BT),
                    self.item_profile(batch.item_fields_BF, batch.item_tags_BT)]
        if self.counters is not None:
            parts_BX.append(self.counters(batch.counters_BC))
        if self.vectors is not None:
            parts_BX.append(self.vectors(batch).flatten(1))
        return torch.cat(parts_BX, 1).view(len(batch), self.count, self.width)


class Vectors(nn.Module):
    """The dense inputs as fields: batch -> [B, 11 V + 4, E]. What is not known, and an empty list, is a field of zeros.

    Two interests, unless `interests` is false; of each modality the illustration's own vector and the means of those
    bookmarked and passed over; of these two lists also the mean artist and the mean of the tags, as embeddings. Each vector
    becomes V fields (`vector_fields`).
    """

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__()
        self.width, width = config.embedding_width, config.embedding_width * config.vector_fields
        interests = 2 * config.interests
        self.count = (3 * len(VECTOR_MODALITIES) + interests) * config.vector_fields + 4
        self.artist = nn.Embedding(config.item_fields["artist_id"], self.width)
        self.tags = nn.EmbeddingBag(config.tag_buckets, self.width, mode="mean", padding_idx=0)
        for table in (self.artist, self.tags):
            nn.init.normal_(table.weight, std=config.embedding_std)
        self.own = nn.ModuleDict({name: Projection(name, widths[name], width) for name in VECTOR_MODALITIES})
        self.listed = nn.ModuleDict({name: nn.Linear(compact_width(widths[name]), width) for name in VECTOR_MODALITIES})
        self.interests = nn.ModuleList([nn.Linear(widths["text"], width) for _ in range(interests)])

    def forward(self, batch: Batch) -> Tensor:
        fields = [interest(vector_BD) for interest, vector_BD in zip(
            self.interests, (batch.long_interest_BD, batch.short_interest_BD), strict=False)]
        bookmarked, passed = self._listed(batch, [Lists(batch.bookmarked_BH), Lists(batch.passed_BH)])
        for place, name in enumerate(VECTOR_MODALITIES):
            own_BX = self.own[name](batch.vectors_BD[name]) * batch.known(name)[:, None]
            fields += [own_BX, bookmarked[place], passed[place]]
        for place in range(len(VECTOR_MODALITIES), len(bookmarked)):
            fields += [bookmarked[place], passed[place]]
        return torch.cat(fields, 1).view(len(batch), self.count, self.width)

    def _listed(self, batch: Batch, several: list[Lists]) -> list[list[Tensor]]:
        """For each of the lists: the illustrations' mean vector by modality [B, V E], mean artist and mean of tags [B, E].

        A linear map of a mean is the mean of the mapped, so that only artists and tags learn through the lists.
        """
        profiles = sum_profiles(several, self.artist, self.tags, batch.catalogue)
        return [[*self._mean_vectors(batch, lists), *(sum_BX / lists.count_B[:, None].clamp(min=1)).chunk(2, 1)]
                for lists, sum_BX in zip(several, profiles, strict=True)]

    def _mean_vectors(self, batch: Batch, lists: Lists) -> list[Tensor]:
        count_BM, fields = lists.sum(batch.catalogue.known_IM), []
        for m, name in enumerate(VECTOR_MODALITIES):
            mean_BC = lists.sum(batch.catalogue.compact_IC[name]) / count_BM[:, m, None].clamp(min=1)
            fields.append(self.listed[name](mean_BC) * (count_BM[:, m, None] > 0))
        return fields
