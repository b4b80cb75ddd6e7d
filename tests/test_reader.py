"""Reader: real Petastorm over real files; every row once, in an order that is a function of the seed; losses are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from umair.errors import ContractError, StorageError
from umair.training.reader import _permute, count_rows, read_batches, read_rows
from umair.training.shares import step_sizes

COLUMNS = ("illust_index", "passed")


def write(path: Path, first: int, rows: int, *, group: int = 40) -> str:
    numbers = np.arange(first, first + rows, dtype=np.int32)
    lists = pa.array([[number, -1, -1] for number in numbers], pa.list_(pa.int32()))
    pq.write_table(pa.table({"illust_index": numbers, "passed": lists, "label": numbers % 2}), path, row_group_size=group)
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, int]:
    return count_rows([write(tmp_path / f"{name}.parquet", first, 100) for name, first in (("a", 0), ("b", 100), ("c", 200))])


def numbers(batches) -> list[int]:
    return [int(number) for batch in batches for number in batch["illust_index"]]


def test_every_row_once_in_the_order_of_the_files_with_lists_as_matrices(files):
    chunks = list(read_rows(dict(reversed(files.items())), COLUMNS))
    assert numbers(chunks) == [*range(200, 300), *range(100, 200), *range(100)]
    assert chunks[0].keys() == set(COLUMNS)
    assert chunks[0]["passed"].shape == (40, 3)
    assert chunks[0]["passed"].dtype == np.int32


@pytest.mark.parametrize("pool", [0, 50, 10_000])
def test_batches_have_the_sizes_asked_for_and_hold_every_row_once(files, pool):
    sizes = step_sizes(300, 7)
    batches = list(read_batches(files, COLUMNS, sizes, order=(1, 0), pool=pool))
    assert [len(batch["passed"]) for batch in batches] == sizes
    assert sorted(numbers(batches)) == list(range(300))
    assert all((batch["passed"][:, 0] == batch["illust_index"]).all() for batch in batches)  # columns move together


def test_the_order_is_a_function_of_the_seed_and_a_resumed_epoch_goes_on_where_it_stopped(files):
    sizes = step_sizes(300, 7)
    whole = list(read_batches(files, COLUMNS, sizes, order=(1, 0), pool=80))
    assert numbers(read_batches(files, COLUMNS, sizes, order=(1, 0), pool=80)) == numbers(whole)
    assert numbers(read_batches(files, COLUMNS, sizes, order=(1, 0), pool=80, skip=3)) == numbers(whole[3:])
    assert numbers(read_batches(files, COLUMNS, sizes, order=(1, 1), pool=80)) != numbers(whole)  # the next epoch
    assert numbers(whole[:1]) != sorted(numbers(whole[:1]))  # rows are permuted too, not files alone
    assert numbers(read_batches(files, COLUMNS, sizes)) == list(range(300))  # no order asked for


def test_pools_double_until_they_are_whole():
    chunks = ({"row": np.array([number])} for number in range(300))
    pools = [chunk["row"] for chunk in _permute(chunks, 80, np.random.default_rng(0))]
    assert [len(pool) for pool in pools] == [10, 20, 40, 80, 80, 70]
    assert [sorted(pool) for pool in pools[:2]] == [list(range(10)), list(range(10, 30))]


@pytest.mark.parametrize("rows", [60, 140])
def test_a_file_that_changed_after_its_footer_was_read_is_noticed(files, rows):
    write(Path(sorted(files)[1]), 100, rows)
    with pytest.raises(ContractError, match=f"found {200 + rows} rows read; expected 300 rows"):
        list(read_rows(files, COLUMNS))
    with pytest.raises(ContractError, match=f"found {200 + rows} rows read; expected 300 rows"):
        list(read_batches(files, COLUMNS, [300], order=(1,), pool=1_000))


def test_a_lost_and_a_truncated_file_are_storage_errors(files):
    lost, broken = Path(sorted(files)[0]), Path(sorted(files)[1])
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(StorageError, match="no readable Parquet footer"):
        count_rows(sorted(files))
    lost.unlink()
    with pytest.raises(StorageError, match="one that cannot be read"):
        list(read_rows(files, COLUMNS))


def test_lists_of_different_lengths_are_a_broken_promise(tmp_path):
    path = tmp_path / "ragged.parquet"
    pq.write_table(pa.table({"illust_index": pa.array([1, 2], pa.int32()), "passed": [[1], [2, 3]]}), path)
    with pytest.raises(ContractError, match="found column passed: lists of 1, 2 entries; expected lists of one length"):
        list(read_rows(count_rows([str(path)]), COLUMNS))
    # as many entries as two lists of two
    pq.write_table(pa.table({"illust_index": pa.array([1, 2], pa.int32()), "passed": [[1], [2, 3, 4]]}), path)
    with pytest.raises(ContractError, match="found column passed: lists of 1, 3 entries"):
        list(read_rows(count_rows([str(path)]), COLUMNS))


@pytest.mark.parametrize(("wrong", "found"), [([[1, 2], None], "1 of 2 values"), ([[1, 2], [3, None]], "1 of 4 values")])
def test_what_is_missing_is_a_broken_promise(tmp_path, wrong, found):
    path = tmp_path / "holes.parquet"
    pq.write_table(pa.table({"illust_index": pa.array([1, 2], pa.int32()), "passed": pa.array(wrong, pa.list_(pa.int32()))}), path)
    with pytest.raises(ContractError, match=f"found column passed: {found} missing"):
        list(read_rows(count_rows([str(path)]), COLUMNS))


def test_columns_are_those_that_petastorm_itself_makes(files):
    from petastorm import make_batch_reader

    ours = list(read_rows(files, (*COLUMNS, "label")))
    with make_batch_reader([Path(file).as_uri() for file in files], num_epochs=1, shuffle_row_groups=False,
                           reader_pool_type="thread", workers_count=1) as reader:
        theirs = list(reader)
    assert len(ours) == len(theirs)
    for mine, their in zip(ours, theirs, strict=True):
        for name, column in mine.items():
            np.testing.assert_array_equal(column, getattr(their, name))
            assert column.dtype == getattr(their, name).dtype


def test_a_file_without_rows_is_no_obstacle(files, tmp_path):
    empty = write(tmp_path / "empty.parquet", 0, 0)
    assert len(numbers(read_rows({empty: 0, **files}, COLUMNS))) == 300
    assert list(read_rows({empty: 0}, COLUMNS)) == []
