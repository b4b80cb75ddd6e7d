"""From window rows to batches: looks up what the rows point at, for one ranker.

I illustrations, T tags, D width, B rows, H history, L listed tags.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from umair.config import fingerprint
from umair.errors import ContractError
from umair.model.batch import (
    COUNTERS,
    ITEM_FIELDS,
    ITEM_TAGS,
    USER_FIELDS,
    USER_TAGS,
    VECTOR_MODALITIES,
    Batch,
    Catalogue,
)
from umair.model.compact import axes_key
from umair.model.projection import require_width
from umair.model.ranker import Ranker
from umair.schema import ABSENT
from umair.training.buckets import artist_buckets, item_buckets, tag_buckets, user_buckets
from umair.training.features import Features
from umair.training.reader import Rows

Array = npt.NDArray[Any]
COLUMNS = ("user_index", "illust_index", "label", "long_tags", "long_weights", "short_tags", "short_weights", "user_views",
           "user_bookmarks", "illust_views", "illust_bookmarks", "bookmarked", "passed")  # of a window, all but its time
PRIOR_RATE, PRIOR_VIEWS = 0.2, 10.0  # a rate is (bookmarks + PRIOR_RATE * PRIOR_VIEWS) / (views + PRIOR_VIEWS)


class Lookup:
    """Makes batches as one ranker reads them. Rankers with the same `key` read the same.

    The catalogue that all batches share lies on `device`; so do the whole vectors of semantics, style and text if they are
    to be `resident` (2 bytes a number), and otherwise in the pack's memory-mapped files. `interests`: whether their vectors
    are made, by default where the ranker reads them; else they have no numbers. Raises ContractError for a pack whose
    vectors are of another width than the ranker's axes.
    """

    def __init__(self, features: Features, ranker: Ranker, device: torch.device | str = "cpu", *, resident: bool = False,
                 interests: bool | None = None) -> None:
        self.features, self.config, self.axes, self.device = features, ranker.config, ranker.axes, torch.device(device)
        for name, axes in ranker.axes.items():
            require_width(name, features.widths[name], len(axes.get_buffer("mean_D")))
        self.interests = self.config.reads_interests if interests is None else interests
        self.buckets = fingerprint([self.config.user_fields, self.config.item_fields, self.config.tag_buckets])
        self.key = fingerprint([self.buckets, axes_key(ranker.axes), self.interests])
        place = self.device if resident else torch.device("cpu")
        self.vectors = {name: features.tensor(name, place) for name in VECTOR_MODALITIES}

    @cached_property
    def catalogue(self) -> Catalogue:
        """Made at the first batch."""
        features, size = self.features, self.config.item_fields["artist_id"]
        known_IM = np.stack([features.known[name] for name in VECTOR_MODALITIES], 1).astype(np.float32)
        tags_IT = tag_buckets(features.item_tags[:, :ITEM_TAGS], self.config.tag_buckets).astype(np.int32)
        compact_IC = {name: features.tensor(file, self.device) for name, file in features.compact(self.axes).items()}
        artist_I = torch.from_numpy(artist_buckets(features.item_fields, size))
        return Catalogue(compact_IC, torch.from_numpy(known_IM), artist_I, torch.from_numpy(tags_IT)).to(self.device)

    def batch(self, rows: Rows) -> Batch:
        """Window rows (COLUMNS, as the reader gives them) -> a Batch in the ranker's buckets, on the CPU but for what lies
        on the device already.

        Raises ContractError for a user, illustration or tag that the pack does not have, and for labels other than 0 and 1.
        """
        counters_BC = torch.cat([_counters(rows, "user"), _counters(rows, "illust")], 1)
        return Batch(**self._of_users(rows), **self._of_items(rows), counters_BC=counters_BC,
                     label_B=_labels(rows["label"]), catalogue=self.catalogue)

    def users(self, rows: Rows) -> Batch:
        """The same of a window's columns that tell of users, for a ranker's `user_side`: what a Batch says of illustrations
        is all zero or has no numbers, and costs nothing."""
        counters_BC = F.pad(_counters(rows, "user"), (0, len(COUNTERS) // 2))
        count = len(counters_BC)
        return Batch(**self._of_users(rows), item_B=_none(count), item_fields_BF=_none(count, len(ITEM_FIELDS)),
                     item_tags_BT=_none(count, ITEM_TAGS), vectors_BD={}, counters_BC=counters_BC,
                     label_B=torch.zeros(count), catalogue=self.catalogue)

    def items(self, rows: Rows) -> Batch:
        """The same of the columns that tell of illustrations, for `item_side`."""
        counters_BC = F.pad(_counters(rows, "illust"), (len(COUNTERS) // 2, 0))
        count = len(counters_BC)
        no_vector_B0, no_list_B0 = torch.zeros(count, 0), torch.zeros(count, 0, dtype=torch.int32)
        return Batch(**self._of_items(rows), user_fields_BF=_none(count, len(USER_FIELDS)),
                     user_tags_BT=_none(count, USER_TAGS), long_interest_BD=no_vector_B0, short_interest_BD=no_vector_B0,
                     bookmarked_BH=no_list_B0, passed_BH=no_list_B0, counters_BC=counters_BC,
                     label_B=torch.zeros(count), catalogue=self.catalogue)

    def _of_users(self, rows: Rows) -> dict[str, Any]:
        _require_below(rows["user_index"], self.features.users, "user_index")
        for name in ("bookmarked", "passed"):
            _require_below(rows[name], self.features.illustrations, name, lowest=ABSENT)
        tags_BL = np.concatenate([_first(rows["long_tags"], USER_TAGS // 2), _first(rows["short_tags"], USER_TAGS // 2)], 1)
        fields_BF = self.features.user_fields[rows["user_index"]]
        return {"user_fields_BF": _long(user_buckets(fields_BF, self.config.user_fields)),
                "user_tags_BT": _long(tag_buckets(tags_BL, self.config.tag_buckets)),
                "long_interest_BD": self._interest(rows["long_tags"], rows["long_weights"]),
                "short_interest_BD": self._interest(rows["short_tags"], rows["short_weights"]),
                "bookmarked_BH": _list(rows["bookmarked"]), "passed_BH": _list(rows["passed"])}

    def _of_items(self, rows: Rows) -> dict[str, Any]:
        item_N, features = rows["illust_index"], self.features
        _require_below(item_N, features.illustrations, "illust_index")
        totals, item_B = {"total_view": rows["illust_views"], "total_bookmarks": rows["illust_bookmarks"]}, _long(item_N)
        return {"item_B": item_B,
                "item_fields_BF": _long(item_buckets(features.item_fields[item_N], totals, self.config.item_fields)),
                "item_tags_BT": _long(tag_buckets(features.item_tags[item_N][:, :ITEM_TAGS], self.config.tag_buckets)),
                "vectors_BD": {name: of_ID[item_B.to(of_ID.device)].float() for name, of_ID in self.vectors.items()}}

    def _interest(self, tag_BL: Array, weight_BL: Array) -> Tensor:
        _require_below(tag_BL, self.features.tags, "interest tags", lowest=ABSENT)
        return _interest(self.features, tag_BL, weight_BL) if self.interests else torch.zeros(len(tag_BL), 0)


def lookups_of(features: Features, rankers: dict[str, Ranker], device: torch.device | str, *, resident: bool = False
               ) -> dict[str, Lookup]:
    """By ranker. One that reads no compact vectors does with the look-ups of one that does, if buckets are the same.
    Interests are made for all if one reads them."""
    interests = any(ranker.config.reads_interests for ranker in rankers.values())
    lookups = {name: Lookup(features, ranker, device, resident=resident, interests=interests)
               for name, ranker in rankers.items()}
    richest: dict[str, Lookup] = {}
    for lookup in sorted(lookups.values(), key=lambda lookup: -len(lookup.axes)):
        richest.setdefault(lookup.buckets, lookup)
    return {name: lookup if len(lookup.axes) else richest[lookup.buckets] for name, lookup in lookups.items()}


def _interest(features: Features, tag_BL: Array, weight_BL: Array) -> Tensor:
    """[B, D]: the weighted mean of the listed tags' vectors, over the tags that have one; zero when none has."""
    if not features.tags:
        return torch.zeros(len(tag_BL), features.widths["text"])
    distinct_T, place_BL = np.unique(tag_BL, return_inverse=True)
    place_BL = place_BL.reshape(tag_BL.shape)
    known_BL = (tag_BL >= 0) & features.tag_known[tag_BL]
    weight = torch.from_numpy(np.where(known_BL, weight_BL, 0).astype(np.float32))
    vector_TD = torch.from_numpy(features.tag_text[np.maximum(distinct_T, 0)]).float()
    total_BD = F.embedding_bag(torch.from_numpy(place_BL), vector_TD, per_sample_weights=weight, mode="sum")
    sum_B1 = weight.sum(1, keepdim=True)
    return total_BD / torch.where(sum_B1 > 0, sum_B1, torch.ones_like(sum_B1))


def _counters(rows: Rows, owner: str) -> Tensor:
    """[B, 3], the owner's of COUNTERS: log1p of views and bookmarks, and their rate pulled toward PRIOR_RATE."""
    views, bookmarks = rows[f"{owner}_views"].astype(np.float64), rows[f"{owner}_bookmarks"].astype(np.float64)
    rate = (bookmarks + PRIOR_RATE * PRIOR_VIEWS) / (views + PRIOR_VIEWS)
    return torch.from_numpy(np.stack([np.log1p(views), np.log1p(bookmarks), rate], 1).astype(np.float32))


def _labels(label_B: Array) -> Tensor:
    wrong = label_B[(label_B != 0) & (label_B != 1)]
    if len(wrong):
        raise ContractError("window, column 'label'", f"label {wrong[0]}", "0 or 1", "build the windows again")
    return torch.from_numpy(label_B.astype(np.float32))


def _first(list_BL: Array, count: int) -> Array:
    """The first `count` entries of each list, filled up with -1 where the lists are shorter."""
    missing = max(count - list_BL.shape[1], 0)
    return np.pad(list_BL[:, :count], ((0, 0), (0, missing)), constant_values=ABSENT)


def _require_below(index: Array, count: int, column: str, lowest: int = 0) -> None:
    if index.size and not lowest <= index.min() <= index.max() < count:
        wrong = index.max() if index.max() >= count else index.min()
        raise ContractError(f"window, column '{column}'", f"index {wrong}",
                            f"indices from {lowest} to {count - 1}, as the packed features have rows",
                            "build the windows again: they and the pack must come from the same tables")


def _none(*shape: int) -> Tensor:
    """Buckets 0 or illustration 0, held once."""
    return torch.zeros((), dtype=torch.int64).expand(shape)


def _long(index: Array) -> Tensor:
    return torch.from_numpy(index.astype(np.int64))


def _list(listed_BH: Array) -> Tensor:
    return torch.from_numpy(listed_BH.astype(np.int32))
