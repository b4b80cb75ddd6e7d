"""The pictures and tags that one rank trains the image encoder on, and those it is measured on.

B rows of a step, T tags of the vocabulary, N rows of the table, R rows of one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from umair.config import Section
from umair.errors import ContractError
from umair.picture import PictureLimits
from umair.training.picture_cache import PictureCache
from umair.training.synonyms import concept_names, merge_synonyms

GIB = 2**30


class TaggedConfig(Section):
    """Which illustrations and tags are learned from, and what their pictures may cost."""

    vocabulary: int = Field(1_000, gt=0)  # most frequent tags, so many at most
    min_tag_uses: int = Field(20, gt=0)  # illustrations that a tag of the vocabulary has at least
    merge_synonyms: bool = False  # tags that the text pairs call the same are one; the paper takes tags as they are
    artists: int = Field(0, ge=0)  # so many with most pictures are told apart by the style vector; 0: none, as in the paper
    leave_days: int = Field(0, ge=0)  # days before the week's end whose illustrations are left for the test to be new
    sample: int | None = Field(None, gt=0)  # take a random sample of so many illustrations; None: all
    holdout_share: float = Field(0.1, gt=0, lt=1)  # of the illustrations, for the mean average precision
    holdout_most: int = Field(5_000, gt=0)  # illustrations held out, at most
    decode_threads: int = Field(2, gt=0)  # in each rank
    cache_gib: float = Field(20.0, ge=0)  # temporary disk for decoded pictures, in each rank
    inline_gib: float = Field(8.0, ge=0)  # memory for pictures that the catalogue holds as bytes, in each rank
    limits: PictureLimits = PictureLimits()
    seed: int = 0


@dataclass(frozen=True)
class Catalogue:
    """Where pictures and their tags are found."""

    files: list[str]  # Parquet, of the illustrations table
    image_root: str
    term_files: Sequence[str] = ()  # Parquet, of the terms table, which `merge_synonyms` reads
    before: datetime | None = None  # illustrations created then or later are left out


@dataclass(frozen=True)
class TagTargets:
    """Which of the vocabulary's tags each row carries, as compressed sparse rows."""

    vocabulary: list[str]
    start_N: NDArray[np.int64]  # one longer than the rows: row n owns tags[start[n]:start[n + 1]]
    tags: NDArray[np.int64]

    @classmethod
    def of(cls, tags_N: pa.ListArray, vocabulary: list[str]) -> TagTargets:
        tag = pc.index_in(pc.list_flatten(tags_N), value_set=pa.array(vocabulary, pa.string()))
        row = pc.list_parent_indices(tags_N).filter(tag.is_valid()).to_numpy()
        start_N = np.searchsorted(row, np.arange(len(tags_N) + 1))
        return cls(vocabulary, start_N, tag.drop_null().to_numpy().astype(np.int64))

    def dense(self, row_B: NDArray[np.int64]) -> Tensor:
        """float32 [B, T]: 1 where the row carries the tag."""
        target_BT = torch.zeros(len(row_B), len(self.vocabulary))
        for place, row in enumerate(row_B):
            target_BT[place, self.tags[self.start_N[row]:self.start_N[row + 1]]] = 1.0
        return target_BT

    def frequency(self, row_R: NDArray[np.int64]) -> Tensor:
        """The share of these rows that carry each tag, [T] float32. No row may stand twice."""
        asked_N = np.zeros(len(self.start_N) - 1, bool)
        asked_N[row_R] = True
        tags = self.tags[np.repeat(asked_N, np.diff(self.start_N))]
        return torch.from_numpy(np.bincount(tags, minlength=len(self.vocabulary)) / max(1, len(row_R))).float()


@dataclass(frozen=True)
class TaggedPictures:
    """Pictures, by position, and what they should be recognised as."""

    pictures: PictureCache
    targets: TagTargets
    frequency_T: Tensor  # float32: the share of all ranks' training pictures that carry each tag
    row_R: NDArray[np.int64]  # where each picture's row stands among the targets
    artist_N: NDArray[np.int64]  # of each row of the targets: 0 to artists - 1, or -1 for an artist who is not told apart

    def __len__(self) -> int:
        return len(self.row_R)

    def target(self, position_B: NDArray[np.int64]) -> Tensor:
        """float32 [B, T] of the pictures at these positions."""
        return self.targets.dense(self.row_R[position_B])

    def artist(self, position_B: NDArray[np.int64]) -> Tensor:
        """int64 [B] of the pictures at these positions."""
        return torch.from_numpy(self.artist_N[self.row_R[position_B]])

    @property
    def artists(self) -> int:
        return int(self.artist_N.max(initial=-1)) + 1


def open_tagged(catalogue: Catalogue, size: int, rank: tuple[int, int], config: TaggedConfig
                ) -> tuple[TaggedPictures, TaggedPictures]:
    """One rank's training pictures and its part of the held-out ones; `rank` is (index, count).

    Every rank has equally many training pictures (fewer than `count` rows are left over), so that all take equal steps.
    Raises ContractError when there is too little to train on.
    """
    index, count = rank
    table = read_tagged(catalogue, artists=config.artists > 0)
    tags_N = table["tags"].chunk(0)
    if config.merge_synonyms:
        tags_N = merge_synonyms(tags_N, concept_names(list(catalogue.term_files)))
    held_N, train_N = split_rows(len(table), config)
    targets = TagTargets.of(tags_N, frequent_tags(tags_N.take(pa.array(train_N)), config))  # held-out ones have no say
    frequency_T = targets.frequency(train_N)
    artist_N = frequent_artists(table, config.artists)
    own_R = train_N[: len(train_N) // count * count][index::count]
    if len(own_R) < 2:
        raise ContractError("illustrations", f"{len(train_N)} with a picture and a tag to train on",
                            f"at least {2 * count}, two for each rank",
                            "use fewer ranks, or check raw.image_root and the catalogue's tags")
    def opened(row_R: NDArray[np.int64], gib: float) -> TaggedPictures:
        sources = _sources(catalogue.files, table, row_R, config)
        return TaggedPictures(PictureCache(sources, catalogue.image_root, size, config.limits, threads=config.decode_threads,
                                           most_bytes=int(gib * GIB)), targets, frequency_T, row_R, artist_N)

    return opened(own_R, config.cache_gib), opened(held_N[index::count], 0.0)


def read_tagged(catalogue: Catalogue, *, artists: bool = False) -> pa.Table:
    """tags, inline_bytes and row (position in the files) of every illustration with a picture and at least one tag; with
    `artists`, artist_index too.

    The pictures themselves are not read. Raises ContractError when there is none.
    """
    columns = {"tags": ds.field("tags"), "has_path": ds.field("image").is_valid(),
               "inline_bytes": pc.binary_length(ds.field("image_content")), "created_at": ds.field("created_at")}
    if artists:
        columns["artist_index"] = ds.field("artist_index")
    table = ds.dataset(catalogue.files, format="parquet").to_table(columns=columns)
    table = table.append_column("row", pa.array(np.arange(len(table))))
    pictured = pc.or_(table["has_path"], pc.is_valid(table["inline_bytes"]))
    tagged = pc.greater(pc.fill_null(pc.list_value_length(table["tags"]), 0), 0)
    wanted = pc.and_(pictured, tagged)
    if catalogue.before is not None:
        older = pc.less(table["created_at"], pa.scalar(catalogue.before, table["created_at"].type))
        wanted = pc.and_(wanted, pc.fill_null(older, False))
    table = table.drop_columns(["has_path", "created_at"]).filter(wanted).combine_chunks()
    if len(table) == 0:
        since = f" created before {catalogue.before:%Y-%m-%d}" if catalogue.before else ""
        raise ContractError("illustrations", f"none with a picture and a tag{since}", "pictures with tags to learn from",
                            "check the catalogue's columns image and tags and pretext.leave_days, or set "
                            "image_encoder.weights and pretext.epochs=0")
    return table


def frequent_tags(tags_N: pa.ListArray, config: TaggedConfig) -> list[str]:
    """The vocabulary: tags by falling number of uses, ties by name. Raises ContractError when no tag is frequent enough."""
    counts = pc.value_counts(pc.list_flatten(tags_N).drop_null())
    pairs = pa.table({"tag": counts.field("values"), "uses": counts.field("counts")})
    pairs = pairs.filter(pc.greater_equal(pairs["uses"], config.min_tag_uses))
    ordered = pairs.sort_by([("uses", "descending"), ("tag", "ascending")])["tag"]
    vocabulary: list[str] = ordered.slice(0, config.vocabulary).to_pylist()
    if not vocabulary:
        raise ContractError("illustrations", f"no tag with {config.min_tag_uses} uses among {len(tags_N)} illustrations",
                            "at least one", "lower pretext.min_tag_uses")
    return vocabulary


def frequent_artists(table: pa.Table, most: int) -> NDArray[np.int64]:
    """The class of each row's artist, the one with most pictures first, ties by index; -1 beyond the first `most`."""
    if not most:
        return np.full(len(table), -1)
    _, place_N, uses_A = np.unique(table["artist_index"].to_numpy(), return_inverse=True, return_counts=True)
    class_A = np.empty(len(uses_A), np.int64)
    class_A[np.argsort(-uses_A, kind="stable")] = np.arange(len(uses_A))
    class_N: NDArray[np.int64] = class_A[place_N]
    return np.where(class_N < most, class_N, -1)


def split_rows(count: int, config: TaggedConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers held out and to train on, in random order, the same on every rank."""
    row_N = np.random.default_rng(config.seed).permutation(count)[: config.sample]
    held = min(config.holdout_most, max(1, round(config.holdout_share * len(row_N))))
    return row_N[:held], row_N[held:]


def _sources(files: list[str], table: pa.Table, row_R: NDArray[np.int64], config: TaggedConfig) -> pa.Table:
    """image and image_content of these rows of `table`, in their order."""
    inline = pc.sum(table["inline_bytes"].take(pa.array(row_R))).as_py() or 0
    if inline > config.inline_gib * GIB:
        raise ContractError("illustrations", f"{inline / GIB:.2f} GiB of pictures as bytes for one rank",
                            f"at most {config.inline_gib} GiB (pretext.inline_gib)",
                            "set pretext.sample, use more ranks, or keep pictures as files below raw.image_root")
    place_R = table["row"].take(pa.array(row_R)).combine_chunks()
    return ds.dataset(files, format="parquet").take(place_R, columns=["image", "image_content"]).combine_chunks()
