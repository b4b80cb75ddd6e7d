"""What ids, tags and metadata say of a user and of an illustration: embeddings, the towers over them, the linear part.

B rows, F fields, T tags, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from umair.model.batch import COUNTERS, ITEM_TAGS, USER_TAGS
from umair.model.norm import BatchNorm

_USER = sum(name.startswith("user_") for name in COUNTERS)
# slices: a list of places would be copied to a GPU, which waits for it
USER_COUNTERS, ITEM_COUNTERS = slice(0, _USER), slice(_USER, len(COUNTERS))


class FieldTable(nn.Module):
    """One embedding table for several fields, their rows laid end to end: one look-up instead of F.

    bucket_BF int64, column f below `sizes[f]` -> [B, F, E] float32; one size alone serves all columns from the same
    rows. `first`: the field of the first column, where not all are given. Rows start normal with deviation `std`. Bucket 0
    (unknown) is a row that learns like any other, which unseen ids share. Raises ValueError for a bucket that its field does
    not have; on a GPU, where asking would wait for the device, only the table's own end is checked.
    """

    def __init__(self, sizes: Sequence[int], width: int, std: float) -> None:
        super().__init__()
        self.rows = nn.Embedding(sum(sizes), width)
        nn.init.normal_(self.rows.weight, std=std)
        sizes_F = torch.tensor(sizes)
        self.register_buffer("sizes_F", sizes_F, persistent=False)
        self.register_buffer("starts_F", sizes_F.cumsum(0) - sizes_F, persistent=False)
        self.sizes_F: Tensor
        self.starts_F: Tensor

    def forward(self, bucket_BF: Tensor, first: int = 0) -> Tensor:
        given = slice(first, first + bucket_BF.shape[1])
        if not bucket_BF.is_cuda:
            self._check(bucket_BF, self.sizes_F[given])
        rows_BFE: Tensor = self.rows(bucket_BF + self.starts_F[given])
        return rows_BFE

    def _check(self, bucket_BF: Tensor, sizes_F: Tensor) -> None:
        outside_BF = (bucket_BF < 0) | (bucket_BF >= sizes_F)
        if outside_BF.any():
            row, field = outside_BF.nonzero()[0].tolist()
            size = int(sizes_F.expand(bucket_BF.shape[1])[field])
            raise ValueError(f"bucket {int(bucket_BF[row, field])} in column {field} of a field table; "
                             f"known: 0 to {size - 1}")


class Profile(nn.Module):
    """The embeddings of a user's or of an illustration's sparse fields and tags, side by side, without bias.

    fields_BF, tags_BT int64 -> [B, (F + T) * E]. Every field has rows of its own; the T tags share one table.
    Departure from the authors' code: rows start normal with one deviation, theirs uniform by each field's size.
    """

    def __init__(self, sizes: Sequence[int], tags: int, tag_buckets: int, width: int, std: float) -> None:
        super().__init__()
        self.fields = FieldTable(sizes, width, std)
        self.tags = FieldTable([tag_buckets], width, std)
        self.width = (len(sizes) + tags) * width

    def forward(self, fields_BF: Tensor, tags_BT: Tensor) -> Tensor:
        return torch.cat([self.fields(fields_BF).flatten(1), self.tags(tags_BT).flatten(1)], 1)


class LinearPart(nn.Module):
    """A logit that is a sum of one weight per bucket (logistic regression over all one-hots), starting at zero.

    Each tag position has weights of its own, unlike the embeddings. user_fields_BF, user_tags_BT, item_fields_BF,
    item_tags_BT -> [B] float32; `of_user` and `of_item` are the two shares of that sum.
    """

    def __init__(self, user_sizes: Sequence[int], item_sizes: Sequence[int], tag_buckets: int) -> None:
        super().__init__()
        tags, self.first_of_item = [tag_buckets], len(user_sizes) + USER_TAGS
        self.weights = FieldTable([*user_sizes, *tags * USER_TAGS, *item_sizes, *tags * ITEM_TAGS], width=1, std=0.0)

    def forward(self, *buckets: Tensor) -> Tensor:
        return self._sum(*buckets, first=0)

    def of_user(self, fields_BF: Tensor, tags_BT: Tensor) -> Tensor:
        return self._sum(fields_BF, tags_BT, first=0)

    def of_item(self, fields_BF: Tensor, tags_BT: Tensor) -> Tensor:
        return self._sum(fields_BF, tags_BT, first=self.first_of_item)

    def _sum(self, *buckets: Tensor, first: int) -> Tensor:
        weight_BF1: Tensor = self.weights(torch.cat(buckets, 1), first)
        return weight_BF1.sum((1, 2))


class Counters(nn.Module):
    """The as-of counters in deviations, and a logit that is linear in them; counters_BC [B, 6] -> [B, 6], [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = BatchNorm(len(COUNTERS))
        self.linear = nn.Linear(len(COUNTERS), 1, bias=False)

    def forward(self, counters_BC: Tensor) -> tuple[Tensor, Tensor]:
        normal_BC: Tensor = self.norm(counters_BC)
        return normal_BC, self.linear(normal_BC)[:, 0]


def tower(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Dense, batch norm, ReLU and dropout for each hidden width: [B, width] -> [B, hidden[-1]]."""
    layers: list[nn.Module] = []
    for out in hidden:
        layers += [nn.Linear(width, out), BatchNorm(out), nn.ReLU(), nn.Dropout(dropout)]
        width = out
    return nn.Sequential(*layers)
