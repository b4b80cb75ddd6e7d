"""A user and an illustration as the ranker sees each before they meet: made once, met in every pair.

B rows, or users, or illustrations; C counters, M modalities, D shared width, P projected width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor


class UserSide(NamedTuple):
    """What a ranker makes of a user, whatever the illustration. None: this ranker has no such part."""

    counters_BC: Tensor
    user_BD: Tensor  # the user vector
    suits_BMP: Tensor | None  # where illustrations stand that suit the user
    weight_BM: Tensor | None  # the user's own weights of the matches' sums
    linear_B: Tensor | None  # the user's share of the linear part
    factors_BX: Tensor | None  # what the factorization machine makes of the user's embeddings


class ItemSide(NamedTuple):
    """What a ranker makes of an illustration, whoever looks at it."""

    counters_BC: Tensor
    modality_BMD: Tensor  # each modality, brought to one width
    known_BM: Tensor  # bool
    place_BMP: Tensor | None  # where it stands in each matched modality
    placed_BM: Tensor | None  # bool: it has a place
    linear_B: Tensor | None
    factors_BX: Tensor | None


Side = TypeVar("Side", UserSide, ItemSide)


def chosen(side: Side, rows: Tensor | slice) -> Side:
    """Some of the rows, or some of them several times: a slice, or their numbers as int64."""
    parts: list[Any] = [None if part is None else _rows(part, rows) for part in side]
    return type(side)(*parts)


def joined(sides: Sequence[Side]) -> Side:
    """One below the other."""
    parts: list[Any] = [None if each[0] is None else torch.cat(each) for each in zip(*sides, strict=True)]
    return type(sides[0])(*parts)


def _rows(part: Tensor, rows: Tensor | slice) -> Tensor:
    if isinstance(rows, slice):
        return part[rows]
    return part.index_select(0, rows)  # copies whole rows, which on a CPU is several times as fast as part[rows]
