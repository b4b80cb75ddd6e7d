"""Packing: tables -> matrices by index, in one folder of .npy files. What the files hold is said at `pack`.

I illustrations, U users, T tags, D width; N rows of a batch that is read, M list entries of such rows, P places.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from umair.config import fingerprint
from umair.errors import ContractError
from umair.model.batch import ITEM_TAGS, VECTOR_MODALITIES
from umair.model.compact import COMPACT
from umair.model.projection import SMALLEST_SCALE
from umair.schema import ILLUSTRATIONS, IMAGE_VECTORS, TAGS, TEXT_VECTORS, USERS
from umair.storage import Store

Array = npt.NDArray[Any]
STATIC_FIELDS = ("restrict", "sanity_level", "x_restrict", "width", "height", "illust_index", "artist_index")
USER_COLUMNS = ("user_index", "username")
UNKNOWN = -1  # in item_fields, item_tags and user_fields
READ_ROWS = 4_096  # rows of a table in memory at once
LAYOUT = 3  # of a pack; another one is another pack
AXES_FROM = 20_000  # illustrations, evenly spread, from which a modality's axes are taken
VECTOR_TABLES = (IMAGE_VECTORS.name, TEXT_VECTORS.name)
TABLES = (ILLUSTRATIONS.name, USERS.name, TAGS.name, *VECTOR_TABLES)


@dataclass(frozen=True)
class FeatureSource:
    """What a pack is made from: exact table versions, and the two encoders whose vectors count. Names the pack."""

    versions: dict[str, int]  # of each of TABLES; one of VECTOR_TABLES may be missing, then it has no vectors
    identities: dict[str, str]  # of the same tables: another store's version 3 is not this one's
    image_encoder: str  # fingerprint
    text_encoder: str  # fingerprint
    widths: dict[str, int]  # of semantic, style and text vectors
    titles: bool  # whether an illustration's title counts in its text vector

    @property
    def key(self) -> str:
        return fingerprint([LAYOUT, vars(self)])


def pack(store: Store, source: FeatureSource, folder: Path) -> dict[str, Any]:
    """Fills an empty folder and returns its facts.

    semantic.npy, style.npy, text.npy: fp16 [I, width]; tag_text.npy fp16 [T, text width]; NAME_known.npy bool, False where
    there is no picture or no text; NAME_scale.npy float32 [2, width], mean and deviation over the known vectors;
    NAME_axes.npy float32 [width, C] (`fit_axes`);
    item_fields.npy int32 [I, 7], columns as STATIC_FIELDS; item_tags.npy int32 [I, 4], the artist's first tags;
    user_fields.npy int32 [U, 2], index and hash of the name. An illustration's text vector is the mean of the vectors of
    its tags and, beyond the paper and if `source.titles`, of its title, as far as these have any. An index whose
    id is gone is a hole: unknown in every file.

    Where a table holds several vectors for one key and encoder, the one that the latest version appended counts, and
    within a version the last one in the order of file names. Tables are streamed; in memory are indices and hashes only.
    Raises ContractError for indices that stand twice or were never given, for vectors of another width, and where there
    are vectors of other encoders only.
    """
    return _Packer(store, source, folder).pack()


class _Packer:
    """Makes one pack in an empty folder."""

    def __init__(self, store: Store, source: FeatureSource, folder: Path) -> None:
        self.store, self.source, self.folder = store, source, folder
        self.users, self.illustrations, self.tags = (self._count_given(*named) for named in (
            (USERS.name, "user_index"), (ILLUSTRATIONS.name, "illust_index"), (TAGS.name, "tag_index")))

    def pack(self) -> dict[str, Any]:
        self._pack_users()
        title_hash_I = self._pack_items()
        self._pack_image_vectors()
        self._pack_texts(title_hash_I)
        self._average_texts()
        known = {name: self._pack_scale(name) for name in VECTOR_MODALITIES}
        for name in VECTOR_MODALITIES:
            axes = fit_axes(self._open(name), self._open(f"{name}_known"), self._open(f"{name}_scale"))
            self._new(f"{name}_axes", axes.shape, np.float32)[:] = axes
        return {"versions": self.source.versions, "image_encoder": self.source.image_encoder,
                "text_encoder": self.source.text_encoder, "widths": self.source.widths, "known": known,
                "illustrations": self.illustrations, "users": self.users, "tags": self.tags}

    def _count_given(self, table: str, index: str) -> int:
        """How many indices were ever given: an id that is gone leaves a hole, which no later id fills."""
        return int(self.store.snapshot(table, self.source.versions[table]).facts[f"next_{index}"])

    # ------------------------------------------------------------ ids and metadata
    def _pack_users(self) -> None:
        users = self._new("user_fields", (self.users, len(USER_COLUMNS)), np.int32)
        users[:] = UNKNOWN
        index_of = _IndexCheck(USERS.name, "user_index", len(users))
        for batch in self._read(USERS.name, USER_COLUMNS):
            index_N = index_of.take(batch)
            users[index_N, 0] = index_N
            users[index_N, 1] = _fold(_hash_texts(batch.column("username")))

    def _pack_items(self) -> Array:
        """Fills item_fields and item_tags; returns the hash of each title, 0 where there is none."""
        fields = self._new("item_fields", (self.illustrations, len(STATIC_FIELDS)), np.int32)
        tags = self._new("item_tags", (self.illustrations, ITEM_TAGS), np.int32)
        fields[:], tags[:] = UNKNOWN, UNKNOWN
        title_hash_I = np.zeros(self.illustrations, np.uint64)
        index_of = _IndexCheck(ILLUSTRATIONS.name, "illust_index", self.illustrations)
        for batch in self._read(ILLUSTRATIONS.name, (*STATIC_FIELDS, "tag_indices", "title")):
            index_N = index_of.take(batch)
            for place, name in enumerate(STATIC_FIELDS):
                fields[index_N, place] = batch.column(name).fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
            tag_M, row_M, place_M = _listed(batch.column("tag_indices"))
            kept_M = place_M < ITEM_TAGS
            tags[index_N[row_M[kept_M]], place_M[kept_M]] = tag_M[kept_M]
            if self.source.titles:
                title_hash_I[index_N] = _hash_texts(batch.column("title"))
        return title_hash_I

    # ------------------------------------------------------------ vectors
    def _pack_image_vectors(self) -> None:
        vectors = {name: self._new(name, (self.illustrations, self.source.widths[name]), np.float16)
                   for name in ("semantic", "style")}
        known_I = self._new("semantic_known", (self.illustrations,), np.bool_)
        for batch in self._read_encoded(IMAGE_VECTORS.name, ("illust_index", *vectors), self.source.image_encoder):
            index_N = batch.column("illust_index").to_numpy()
            here_N = index_N < self.illustrations  # a later week's illustrations are not known as of this one
            for name, matrix in vectors.items():
                matrix[index_N[here_N]] = self._matrix(batch, name, name, IMAGE_VECTORS.name)[here_N]
            known_I[index_N[here_N]] = True
        self._new("style_known", (self.illustrations,), np.bool_)[:] = known_I

    def _pack_texts(self, title_hash_I: Array) -> None:
        """Fills tag_text, and text with the titles' vectors."""
        width = self.source.widths["text"]
        goals = [(_Places(hash_P), self._new(name, (len(hash_P), width), np.float16),
                  self._new(f"{name}_known", (len(hash_P),), np.bool_))
                 for name, hash_P in (("tag_text", self._tag_hashes()), ("text", title_hash_I))]
        for batch in self._read_encoded(TEXT_VECTORS.name, ("text", "vector"), self.source.text_encoder):
            hash_N = _hash_texts(batch.column("text"))
            vector_ND = self._matrix(batch, "vector", "text", TEXT_VECTORS.name)
            for places, matrix, known in goals:
                place_M, row_M = places.find(hash_N)
                matrix[place_M] = vector_ND[row_M]
                known[place_M] = True

    def _tag_hashes(self) -> Array:
        hash_T = np.zeros(self.tags, np.uint64)
        index_of = _IndexCheck(TAGS.name, "tag_index", self.tags)
        for batch in self._read(TAGS.name, ("tag_index", "tag")):
            hash_T[index_of.take(batch)] = _hash_texts(batch.column("tag"))
        return hash_T

    def _average_texts(self) -> None:
        """Adds the tags' vectors to the titles' and divides by their number."""
        text, known_I = self._open("text"), self._open("text_known")
        tag_text, tag_known = self._open("tag_text"), self._open("tag_text_known")
        for batch in self._read(ILLUSTRATIONS.name, ("illust_index", "tag_indices")):
            index_N = batch.column("illust_index").to_numpy()
            tag_M, row_M, _ = _listed(batch.column("tag_indices"))
            self._require_tags(tag_M)
            kept_M = tag_known[tag_M]
            tag_M, row_M = tag_M[kept_M], row_M[kept_M]
            total_ND = text[index_N].astype(np.float32)
            first_M = np.flatnonzero(np.diff(row_M, prepend=-1))  # rows ascend: where each one's tags begin
            if len(first_M):
                total_ND[row_M[first_M]] += np.add.reduceat(tag_text[tag_M].astype(np.float32), first_M)
            count_N = known_I[index_N] + np.bincount(row_M, minlength=len(index_N))
            text[index_N] = total_ND / np.maximum(count_N, 1)[:, None]
            known_I[index_N] = count_N > 0

    def _require_tags(self, tag_M: Array) -> None:
        if len(tag_M) and not 0 <= tag_M.min() <= tag_M.max() < self.tags:
            raise ContractError(f"table '{ILLUSTRATIONS.name}', tag_indices", f"index {tag_M.max()}",
                                f"indices below {self.tags}, the rows of table '{TAGS.name}'",
                                "run jobs/ingest_tables.py again")

    def _pack_scale(self, name: str) -> int:
        """Writes mean and deviation over the known vectors; returns their number."""
        matrix, known_I = self._open(name), self._open(f"{name}_known")
        total_2D, count = np.zeros((2, matrix.shape[1])), int(known_I.sum())
        for start in range(0, len(matrix), READ_ROWS):
            part_ND = matrix[start:start + READ_ROWS][known_I[start:start + READ_ROWS]].astype(np.float64)
            total_2D += part_ND.sum(0), (part_ND**2).sum(0)
        mean_D, square_D = total_2D / max(count, 1)
        scale = np.stack([mean_D, np.sqrt(np.maximum(square_D - mean_D**2, 0))])
        self._new(f"{name}_scale", scale.shape, np.float32)[:] = scale
        return count

    # ------------------------------------------------------------ files
    def _new(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """A zeroed array in a file of the pack."""
        path = self.folder / f"{name}.npy"
        array: Array = np.lib.format.open_memmap(str(path), mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
        with path.open("r+b") as file:  # a full disk is an error here, but would be a dead process at a later page
            os.posix_fallocate(file.fileno(), 0, max(path.stat().st_size, 1))
        return array

    def _open(self, name: str) -> Array:
        array: Array = np.load(self.folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False)
        return array

    def _read(self, table: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        """Batches of a table's pinned version, files of later versions after those of earlier ones."""
        for file in self._files(table):
            yield from pq.ParquetFile(file).iter_batches(READ_ROWS, columns=list(columns))

    def _files(self, table: str) -> list[str]:
        """The pinned version's files, in the order in which versions first had them, and by name within one."""
        newest = self.source.versions.get(table)
        if newest is None:
            return []
        wanted, ordered = set(self.store.snapshot(table, newest).files), []
        for version in range(newest + 1):
            new = wanted & set(self.store.files_of(table, version))
            ordered += sorted(new)
            wanted -= new
        return ordered

    def _read_encoded(self, table: str, columns: tuple[str, ...], encoder: str) -> Iterator[pa.RecordBatch]:
        """The same, rows of one encoder only. Raises ContractError when there is none, though there are others."""
        found: set[str] = set()
        for batch in self._read(table, (*columns, "encoder")):
            encoders = batch.column("encoder")
            found |= set(encoders.unique().to_pylist())
            yield batch.filter(pc.equal(encoders, encoder))
        if found and encoder not in found:
            raise ContractError(f"table '{table}', version {self.source.versions[table]}",
                                f"vectors of encoders {sorted(found)}", f"vectors of encoder {encoder}",
                                "run the embedding job again with the present encoder")

    def _matrix(self, batch: pa.RecordBatch, column: str, modality: str, table: str) -> Array:
        """A list column as [N, width]. Raises ContractError for vectors of another width."""
        lists, width = batch.column(column), self.source.widths[modality]
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        wrong = lengths[lengths != width]
        if len(wrong):
            raise ContractError(f"table '{table}', column '{column}'", f"a vector of {wrong[0]} numbers",
                                f"{width}, the width of the encoder", "embed again with the present encoder")
        values: Array = lists.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(lists), width)


def fit_axes(vector_ID: Array, known_I: Array, scale_2D: Array, count: int = COMPACT) -> Array:
    """[D, C] float32: the principal axes of the known vectors in their standard deviations, the widest first.

    (x - mean) @ axes has variance 1 on average over the C components. Numbers that never vary have no part in it, and
    where fewer illustrations than axes are known, the last axes are zero. The same vectors give the same axes.
    """
    place_I = np.flatnonzero(known_I)
    place_I = place_I[::max(1, -(-len(place_I) // AXES_FROM))]
    scale_D = np.where(scale_2D[1] > SMALLEST_SCALE, scale_2D[1], np.inf).astype(np.float64)
    standard_ID = (vector_ID[place_I].astype(np.float64) - scale_2D[0]) / scale_D
    variance_D, axes_DD = np.linalg.eigh(standard_ID.T @ standard_ID / max(1, len(place_I)))
    kept = min(count, len(variance_D))
    variance_C, axes_DC = variance_D[::-1][:kept], axes_DD[:, ::-1][:, :kept]
    axes_DC = axes_DC * (np.sign(axes_DC[np.abs(axes_DC).argmax(0), np.arange(kept)]) * (variance_C > 1e-9 * variance_C[0]))
    fitted_DC: Array = axes_DC / scale_D[:, None] / np.sqrt(max(variance_C.mean(), 1e-12))
    return fitted_DC.astype(np.float32)


class _IndexCheck:
    """Sees to it that a table's indices were given (0 to `given` - 1), each to one row."""

    def __init__(self, table: str, column: str, given: int) -> None:
        self.table, self.column, self.seen = table, column, np.zeros(given, np.bool_)

    def take(self, batch: pa.RecordBatch) -> Array:
        index_N: Array = batch.column(self.column).to_numpy(zero_copy_only=False)
        if len(index_N) and not 0 <= index_N.min() <= index_N.max() < len(self.seen):
            self._refuse(f"index {index_N.max() if index_N.min() >= 0 else index_N.min()}; {len(self.seen)} were given")
        if self.seen[index_N].any() or len(np.unique(index_N)) < len(index_N):
            self._refuse("an index twice")
        self.seen[index_N] = True
        return index_N

    def _refuse(self, found: str) -> None:
        raise ContractError(f"table '{self.table}', column '{self.column}'", found,
                            f"indices from 0 to {len(self.seen) - 1}, each once at most", "run jobs/ingest_tables.py again")


class _Places:
    """Where each text stands, by its 64-bit hash: two of 10 million texts share one with a probability of 3e-6."""

    def __init__(self, hash_P: Array) -> None:
        self.order_P = np.argsort(hash_P, kind="stable")
        self.sorted_P = hash_P[self.order_P]

    def find(self, hash_N: Array) -> tuple[Array, Array]:
        """place_M, row_M: every place that holds row_M's text; none for the hash 0, which is no text."""
        first_N = np.searchsorted(self.sorted_P, hash_N, "left")
        count_N = np.where(hash_N == 0, 0, np.searchsorted(self.sorted_P, hash_N, "right") - first_N)
        row_M = np.repeat(np.arange(len(hash_N)), count_N)
        start_M = np.repeat(first_N - (np.cumsum(count_N) - count_N), count_N)
        return self.order_P[start_M + np.arange(len(row_M))], row_M


def _hash_texts(texts: pa.Array) -> Array:
    """64-bit hashes, the same in every process and on every machine; 0 for null."""
    values = texts.fill_null("").to_numpy(zero_copy_only=False)
    hash_N: Array = pd.util.hash_array(values.astype(object), categorize=False)
    hash_N[pc.is_null(texts).to_numpy(zero_copy_only=False)] = 0
    return hash_N


def _fold(hash_N: Array) -> Array:
    """Hashes as non-negative int32; UNKNOWN where there is no text."""
    return np.where(hash_N == 0, UNKNOWN, hash_N >> np.uint64(33)).astype(np.int32)


def _listed(lists: pa.ListArray) -> tuple[Array, Array, Array]:
    """A list column flat: value_M, the row_M it stands in, and its place_M there."""
    length_N = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    value_M = lists.flatten().to_numpy(zero_copy_only=False)
    row_M = np.repeat(np.arange(len(length_N)), length_N)
    return value_M, row_M, np.arange(len(value_M)) - np.repeat(np.cumsum(length_N) - length_N, length_N)
