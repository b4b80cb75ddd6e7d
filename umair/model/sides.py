"""A user and an illustration as the ranker sees each before they meet: made once, met in every pair.

B rows, or users, or illustrations; F fields, T tags, C counters, M modalities, D shared width, P projected width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from torch import Tensor


class UserSide(NamedTuple):
    """What a ranker makes of a user, whatever the illustration."""

    fields_BF: Tensor  # int64 buckets, order of USER_FIELDS
    tags_BT: Tensor  # int64 buckets
    counters_BC: Tensor
    user_BD: Tensor  # the user vector
    suits_BMP: Tensor | None  # where illustrations stand that suit the user; None where nothing is matched
    weight_BM: Tensor | None  # the user's own weights of the matches' sums; None where they are added as they are


class ItemSide(NamedTuple):
    """What a ranker makes of an illustration, whoever looks at it."""

    fields_BF: Tensor  # int64 buckets, order of ITEM_FIELDS
    tags_BT: Tensor  # int64 buckets
    counters_BC: Tensor
    modality_BMD: Tensor  # each modality, brought to one width
    known_BM: Tensor  # bool
    place_BMP: Tensor | None  # where it stands in each matched modality; None where nothing is matched
    placed_BM: Tensor | None  # bool: it has a place


Side = TypeVar("Side", UserSide, ItemSide)


def chosen(side: Side, rows: Tensor | slice) -> Side:
    """Some of the rows, or some of them several times."""
    parts: list[Any] = [part if part is None else part[rows] for part in side]
    return type(side)(*parts)
