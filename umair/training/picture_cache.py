"""One rank's pictures, decoded in threads the first time and kept in a memory-mapped file for the epochs that follow."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umair.errors import StorageError
from umair.picture import RGB, PictureError, PictureLimits, decode_picture
from umair.picture_files import read_picture
from umair.training.ahead import ahead

UNSEEN, KEPT, BROKEN = 0, 1, 2  # states of a row


class PictureRows(NamedTuple):
    """Some rows' pictures. An unreadable picture is black and not `readable`."""

    row_B: NDArray[np.int64]
    pictures_BHWC: RGB
    readable_B: NDArray[np.bool_]


class PictureCache:
    """The pictures of the rows of `sources` (columns image, image_content), as uint8 [size, size, 3].

    The first rows that fit into `most_bytes` of temporary disk are decoded once, the others each time they are asked for.
    `asked` counts the rows that were asked for, again and again; `broken` the unreadable ones by rule, each once.
    """

    def __init__(self, sources: pa.Table, image_root: str, size: int, limits: PictureLimits, *, threads: int,
                 most_bytes: int) -> None:
        self.asked, self.broken = 0, Counter[str]()
        self._sources, self._root, self._size, self._limits = sources, image_root, size, limits
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._state_N = np.full(len(sources), UNSEEN, dtype=np.uint8)
        self._kept_NHWC = _disk_array(min(len(sources), most_bytes // (size * size * 3)), size)

    def __len__(self) -> int:
        return len(self._sources)

    def batches(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[PictureRows]:
        """`read` of each group of rows, the next one always under way while the caller works."""
        return ahead(map(self.read, rows), depth=1)

    def read(self, row_B: NDArray[np.int64]) -> PictureRows:
        """The pictures of these rows, from the kept ones or decoded now."""
        self.asked += len(row_B)
        pictures_BHWC = np.zeros((len(row_B), self._size, self._size, 3), dtype=np.uint8)
        kept_B = self._state_N[row_B] == KEPT
        pictures_BHWC[kept_B] = self._kept_NHWC[row_B[kept_B]]
        missing = np.flatnonzero(self._state_N[row_B] == UNSEEN)
        for place, picture in zip(missing, self._threads.map(self._decode, row_B[missing].tolist()), strict=True):
            self._keep(int(row_B[place]), picture)
            if not isinstance(picture, PictureError):
                pictures_BHWC[place] = picture
        return PictureRows(row_B, pictures_BHWC, self._state_N[row_B] != BROKEN)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    def _decode(self, row: int) -> RGB | PictureError:
        content = self._sources["image_content"][row].as_py()
        try:
            if content is None:
                content = read_picture(self._root, self._sources["image"][row].as_py(), self._limits)
            return decode_picture(content, self._size, self._limits)
        except PictureError as error:
            return error

    def _keep(self, row: int, picture: RGB | PictureError) -> None:
        if isinstance(picture, PictureError):
            self.broken[picture.rule] += 1
            self._state_N[row] = BROKEN
        elif row < len(self._kept_NHWC):
            self._kept_NHWC[row] = picture
            self._state_N[row] = KEPT


def _disk_array(rows: int, size: int) -> RGB:
    """An array on temporary disk, its space taken now: running out later would kill the process without a word."""
    if rows == 0:
        return np.zeros((0, size, size, 3), dtype=np.uint8)
    count = rows * size * size * 3
    with tempfile.TemporaryFile(prefix="umair-pictures-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, count)
        except OSError as error:
            raise StorageError(tempfile.gettempdir(), f"no room for decoded pictures ({error.strerror})",
                               f"{count / 2**30:.1f} GiB free", "lower pretext.cache_gib or point TMPDIR to a larger disk"
                               ) from error
        return np.memmap(file, dtype=np.uint8, mode="r+", shape=(rows, size, size, 3))
