"""Shares: every row once, equal steps, near-equal rows, over a grid of ranks and files."""

from __future__ import annotations

import random

import pytest

from umair.errors import ContractError
from umair.training.shares import count_steps, plan_epoch, share_files, step_sizes


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("files", [8, 9, 31])
@pytest.mark.parametrize("uneven", [False, True])
def test_every_file_is_in_one_share_and_shares_are_near_equal(ranks, files, uneven):
    sizes = random.Random(files)
    rows_by_file = {f"part-{i}": sizes.randint(1, 900) if uneven else 100 + i % 2 for i in range(files)}
    shares = share_files(rows_by_file, ranks)
    assert len(shares) == ranks
    assert sorted(file for share in shares for file in share) == sorted(rows_by_file)
    rows = [sum(rows_by_file[file] for file in share) for share in shares]
    assert max(rows) - min(rows) <= max(rows_by_file.values())
    shuffled = dict(sizes.sample(sorted(rows_by_file.items()), files))
    assert share_files(shuffled, ranks) == shares  # no matter in which order the files were listed


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [1, 7, 128])
def test_every_rank_takes_the_same_steps_reads_all_its_rows_and_no_batch_is_too_large(ranks, batch):
    rows = [1_000 + 13 * rank for rank in range(ranks)]
    steps = count_steps(rows, batch)
    for own in rows:
        sizes = step_sizes(own, steps)
        assert (len(sizes), sum(sizes)) == (steps, own)
        assert max(sizes) <= batch
        assert max(sizes) - min(sizes) <= 1


def test_by_hand():
    assert share_files({"a": 5, "b": 3, "c": 3, "d": 1}, 2) == [["a", "d"], ["b", "c"]]
    assert count_steps([10, 11], 4) == 3
    assert step_sizes(10, 3) == [3, 3, 4]


def test_shares_of_a_step_make_every_row_count_alike():
    """Three files on two ranks: 20 and 10 rows in 2 steps. Loss times share, averaged over ranks, is the mean over rows."""
    plans = [plan_epoch({"a": 10, "b": 10, "c": 10}, 2, rank, 10) for rank in range(2)]
    assert [plan.sizes for plan in plans] == [[10, 10], [5, 5]]
    assert [plan.share(0) for plan in plans] == pytest.approx([4 / 3, 2 / 3])
    assert all(plan.share(step) == plan.sizes[step] * 2 / sum(each.sizes[step] for each in plans) for plan in plans for step in range(2))
    assert sum(plan.share(1) / plan.sizes[1] * 7.0 for plan in plans) / 2 == pytest.approx(7.0 * 2 / 15)  # one row of each


def test_a_rank_with_fewer_rows_than_steps_has_no_empty_batch():
    """9,000 rows take three steps of at most 4,096; of two rows the first of three equal parts would be empty."""
    plans = [plan_epoch({"a": 9_000, "b": 2}, 2, rank, 4_096) for rank in range(2)]
    assert [plan.sizes for plan in plans] == [[3_000, 3_000, 3_000], [1, 1]]
    assert {plan.steps for plan in plans} == {3}


@pytest.mark.parametrize("rows_by_file", [{}, {"a": 10, "b": 10}, {"a": 10, "b": 10, "c": 0}])
def test_a_rank_without_rows_is_an_error_that_says_how_many_files_it_takes(rows_by_file):
    with pytest.raises(ContractError, match=r"for 3 ranks; expected at least 3 files with rows.*windows\.files to 3"):
        share_files(rows_by_file, 3, "window_train")
