"""From raw fields to embedding buckets. Bucket 0 is unknown or padding wherever the config leaves room for it.

B rows, F fields, L list entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from umair.training.packing import STATIC_FIELDS

Array = npt.NDArray[Any]

# Fields whose values fall into bins: a value's bin is the number of bounds that it reaches.
BOUNDS = {
    "total_bookmarks": (100, 250, 500, 1_000, 1_500, 2_000, 3_000, 6_000, 10_000),
    "total_view": (100, 250, 500, 1_000, 5_000, 10_000, 40_000, 60_000, 100_000),
    "width": (400, 800, 1_600),
    "height": (400, 800, 1_600),
    "restrict": (1, 2),  # the site's values are 0, 1 and 3
    "x_restrict": (1, 2),
}


def user_buckets(user_BF: Array, sizes: dict[str, int]) -> Array:
    """Raw user fields [B, 2] -> buckets int64 [B, 2], in the order of `sizes` (user_id, username)."""
    return np.stack([_hashed(user_BF[:, place], size) for place, size in enumerate(sizes.values())], 1)


def item_buckets(static_BF: Array, totals: dict[str, Array], sizes: dict[str, int]) -> Array:
    """Raw static fields [B, 7] and as-of totals [B] -> buckets int64 [B, 9], in the order of `sizes`."""
    raw = {**{name: static_BF[:, place] for place, name in enumerate(STATIC_FIELDS)}, **totals}
    raw["illust_id"], raw["artist_id"] = raw["illust_index"], raw["artist_index"]
    return np.stack([_binned(name, raw[name], size) if name in BOUNDS else _hashed(raw[name], size)
                     for name, size in sizes.items()], 1)


def artist_buckets(static_IF: Array, size: int) -> Array:
    """Raw static fields [I, 7] -> each illustration's artist, buckets int32 [I]."""
    return _hashed(static_IF[:, STATIC_FIELDS.index("artist_index")], size).astype(np.int32)


def tag_buckets(tag_BL: Array, size: int) -> Array:
    """Tag indices, -1 for none -> buckets int64."""
    return _hashed(tag_BL, size)


def _hashed(value: Array, size: int) -> Array:
    """1 + value modulo the buckets that are left; 0 for unknown."""
    wide = value.astype(np.int64)
    bucket: Array = np.where(wide < 0, 0, 1 + wide % (size - 1))
    return bucket


def _binned(name: str, value: Array, size: int) -> Array:
    """The value's bin. A field with exactly as many buckets as bins (the paper's) counts unknown as the lowest bin."""
    room = int(size > len(BOUNDS[name]) + 1)  # for a bucket of unknown ones
    bins = np.searchsorted(BOUNDS[name], value, side="right")
    bucket: Array = np.where(value < 0, 0, np.minimum(bins + room, size - 1)).astype(np.int64)
    return bucket


def shared_buckets(features: Any, user_sizes: dict[str, int], item_sizes: dict[str, int], tag_size: int) -> dict[str, float]:
    """By field: the share of its values that share their bucket with another value. `features`: a Features.

    A bucket is the value's index modulo the buckets, so there are none to share where a field has more buckets than
    values: then its table is an exact vocabulary.
    """
    item_IF = features.item_fields
    of = {"illust_index": "illust_id", "artist_index": "artist_id"}
    values = {"user_id": (features.user_fields[:, 0], user_sizes["user_id"]),
              "username": (features.user_fields[:, 1], user_sizes["username"]),
              **{field: (item_IF[:, STATIC_FIELDS.index(column)], item_sizes[field]) for column, field in of.items()},
              "tags": (np.arange(features.tags), tag_size)}
    return {field: _share_shared(np.asarray(value_N), size) for field, (value_N, size) in values.items()}


def _share_shared(value_N: Array, size: int) -> float:
    known = np.unique(value_N[value_N >= 0])
    if not len(known):
        return 0.0
    count_N = np.bincount(_hashed(known, size), minlength=size)
    return round(float((count_N[_hashed(known, size)] > 1).mean()), 4)
