"""Window rows from Parquet files through Petastorm. The only file that imports Petastorm.

Petastorm is given an explicit list of files, never a folder: in a folder it would unpickle whatever `_common_metadata`
somebody left there. The rows that come out are counted against the Parquet footers, since a reader that drops rows in
silence (Petastorm 0.13 does) would train a worse model and say nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from umair.errors import ContractError, StorageError

Rows = dict[str, npt.NDArray[Any]]  # column -> [N] or, for lists of one length, [N, length]
FIRST_POOL = 1 / 8  # of a pool; each pool after it holds twice as many rows, until one is whole
AHEAD = 4  # row groups that Petastorm's thread reads before they are asked for


def count_rows(files: Iterable[str]) -> dict[str, int]:
    """The number of rows of each file, from its Parquet footer. Raises StorageError for a file that has none."""
    rows = {}
    for file in files:
        try:
            rows[file] = pq.read_metadata(file).num_rows
        except (OSError, pa.ArrowException) as error:
            raise StorageError(file, f"no readable Parquet footer ({error})", "a whole Parquet file",
                               "run the job that makes this table again") from error
    return rows


def read_rows(rows_by_file: dict[str, int], columns: tuple[str, ...]) -> Iterator[Rows]:
    """All rows of the files, a row group at a time, in the order of the mapping.

    `rows_by_file` holds what the footers said when the work was shared out. Raises ContractError when another number of
    rows came out or lists of a column differ in length, StorageError when a file is lost or damaged.
    """
    files = [file for file, rows in rows_by_file.items() if rows]
    found = 0
    for chunk in _through_petastorm(files, columns) if files else ():
        found += len(chunk[columns[0]])
        yield chunk
    expected = sum(rows_by_file.values())
    if found != expected:
        raise ContractError(f"{len(files)} window files, the first {files[0] if files else 'missing'}",
                            f"{found} rows read", f"{expected} rows, as the Parquet footers said",
                            "build the windows again; see that nothing rewrites them while they are read")


def read_batches(rows_by_file: dict[str, int], columns: tuple[str, ...], sizes: list[int], *,
                 order: tuple[int, ...] = (), pool: int = 0, skip: int = 0) -> Iterator[Rows]:
    """The same rows cut into batches of exactly `sizes` rows, the first `skip` of them left out.

    With `order` (any integers, such as seed, epoch and rank) files come in an order drawn from them and rows are
    permuted within pools of about `pool` rows, so the sequence is a function of (`order`, `pool`, the files) alone.
    """
    files = sorted(rows_by_file)
    if order:
        random = np.random.default_rng(order)
        files = [files[place] for place in random.permutation(len(files))]
        chunks = _permute(read_rows({file: rows_by_file[file] for file in files}, columns), pool, random)
    else:
        chunks = read_rows({file: rows_by_file[file] for file in files}, columns)
    for number, batch in enumerate(_cut(chunks, sizes)):
        if number >= skip:
            yield batch


def numpy_of(column: pa.Array) -> npt.NDArray[Any]:
    """[N], or of lists [N, length]. Raises ValueError for lists of several lengths and for what is missing."""
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} values missing")
    if not pa.types.is_list(column.type):
        values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return values
    lengths = sorted(pc.unique(column.value_lengths()).to_pylist())
    if len(lengths) > 1:
        raise ValueError(f"lists of {', '.join(map(str, lengths[:5]))} entries")
    return numpy_of(column.flatten()).reshape(len(column), *lengths)


def _through_petastorm(files: list[str], columns: tuple[str, ...]) -> Iterator[Rows]:
    from petastorm import make_batch_reader

    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")  # its calls of old pyarrow names
    try:
        with make_batch_reader([Path(file).as_uri() for file in files], schema_fields=[f"^{name}$" for name in columns],
                               num_epochs=1, shuffle_row_groups=False,  # our own order is seeded and can be resumed
                               reader_pool_type="thread", workers_count=1,  # one thread keeps the order
                               results_queue_size=AHEAD) as reader:
            reader._results_queue_reader = _whole_columns()
            for row_group in reader:
                yield {name: getattr(row_group, name) for name in columns}
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"window files beside {files[0]}", f"one that cannot be read ({error})", "whole Parquet files",
                           "build the windows again") from error
    except ValueError as error:
        raise ContractError(f"window files beside {files[0]}", str(error), "lists of one length in each column",
                            "build the windows again") from error


def _whole_columns() -> Any:
    """Petastorm's own step from Arrow to numpy makes an array of every list of every row, in the thread that calls, which
    is more work than all else that feeding does. This one takes a column at once. Petastorm has no public place for it; its
    version is pinned, and tests/test_reader.py compares the two."""
    from petastorm.arrow_reader_worker import ArrowReaderWorkerResultsQueueReader, EmptyResultError

    class WholeColumns(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
        def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> Any:  # noqa: ARG002
            try:
                table = workers_pool.get_results()
            except EmptyResultError as end:
                raise StopIteration from end
            columns = {}
            for name in table.column_names:
                try:
                    columns[name] = numpy_of(table.column(name).combine_chunks())
                except ValueError as error:
                    raise ValueError(f"column {name}: {error}") from error
            return schema.make_namedtuple(**columns)

    return WholeColumns()


def _permute(chunks: Iterable[Rows], pool: int, random: np.random.Generator) -> Iterator[Rows]:
    """Gathers chunks until they hold `pool` rows and hands those out in random order; first of all fewer, so that an epoch
    need not begin by waiting for a whole pool."""
    held: list[Rows] = []
    wanted = pool * FIRST_POOL
    for chunk in chunks:
        held.append(chunk)
        if sum(map(_length, held)) >= wanted:
            yield _shuffled(held, random)
            held, wanted = [], min(2 * wanted, pool)
    if held:
        yield _shuffled(held, random)


def _shuffled(held: list[Rows], random: np.random.Generator) -> Rows:
    rows = _concatenated(held)
    place_N = random.permutation(_length(rows))
    return {name: column[place_N] for name, column in rows.items()}


def _cut(chunks: Iterator[Rows], sizes: list[int]) -> Iterator[Rows]:
    """Batches of exactly `sizes` rows; reads on to the end, where the rows are counted."""
    held: Rows = {}
    for size in sizes:
        parts, missing = [], size
        while missing:
            if not held or not _length(held):
                held = next(chunks)
            parts.append({name: column[:missing] for name, column in held.items()})
            held = {name: column[missing:] for name, column in held.items()}
            missing -= _length(parts[-1])
        yield _concatenated(parts)
    for _ in chunks:
        continue


def _concatenated(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _length(rows: Rows) -> int:
    return len(next(iter(rows.values())))
