"""A user's history, fed by hand: lists, interests, and batches cut anywhere."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from umair.windows.history import BOOKMARK, ROW, VIEW, History, Lengths, let_pass
from umair.windows.interests import Interest, LongInterest, ShortInterest

LENGTHS = Lengths(history=3, interest=2, short_events=2, short_span_us=100)


def test_lists_are_distinct_most_recent_first_and_bounded():
    history = History(LENGTHS)
    for illust in (1, 2, 3, 4, 1):
        history.view(illust)
    assert list(history.passed()) == [1, 4, 3]  # 1 was seen again
    for illust in (4, 9, 4):
        history.bookmark(illust, at_us=0, tags=[])
    assert history.bookmarked == [4, 9]
    assert list(history.passed()) == [1, 3, 2]  # 2 comes back as 4 leaves
    history.view(9)
    assert 9 not in list(history.passed())  # bookmarked once, never passed over again
    assert (history.views, history.bookmarks) == (6, 3)


def test_long_interest_counts_each_illustration_once():
    history = History(LENGTHS)
    for illust, tags in ((1, [5, 6]), (1, [5, 6]), (2, [7, 6])):
        history.bookmark(illust, at_us=0, tags=tags)
    assert history.long.now() == Interest((6, 5), (2 / 3, 1 / 3))  # 5 and 7 tie: the smaller index


def test_long_interest_kept_step_by_step_equals_counting_everything_again():
    dice, interest, counts = random.Random(3), LongInterest(size=3), dict.fromkeys(range(12), 0)
    for _ in range(300):
        tags = dice.sample(range(12), 4)
        interest.add(tags)
        for tag in tags:
            counts[tag] += 1
        top = sorted((tag for tag in counts if counts[tag]), key=lambda tag: (-counts[tag], tag))[:3]
        assert interest.now() == Interest(tuple(top), tuple(counts[tag] / sum(counts[t] for t in top) for tag in top))


def test_short_interest_is_of_few_and_fresh_bookmarks():
    interest = ShortInterest(size=2, events=2, span_us=100)
    for illust, at_us in ((1, 0), (2, 10), (3, 20)):
        interest.add(illust, at_us, [illust])
    assert interest.at(21) == Interest((2, 3), (0.5, 0.5))  # 1 is third last
    assert interest.at(110) == Interest((2, 3), (0.5, 0.5))  # exactly the span ago still counts
    assert interest.at(111) == Interest((3,), (1.0,))
    assert interest.at(121) == Interest()
    for illust, at_us in ((3, 129), (2, 130), (2, 131)):
        interest.add(illust, at_us, [illust])
    assert interest.at(132) == Interest((2, 3), (0.5, 0.5))  # bookmarked again: still one illustration


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_user_may_span_batches(size):
    """Any cut of the stream gives the same rows; users do not see each other's past."""
    dice, passing = random.Random(5), []
    for user in range(3):
        for at_us in range(40):
            what = dice.choice([ROW, VIEW, BOOKMARK]) if at_us else ROW
            tags = [dice.randrange(6)] if what == BOOKMARK else None
            passing.append((user, dice.randrange(8), at_us, what, tags))
    whole, cut = (pa.Table.from_batches(let_pass(batches(passing, size), LENGTHS, ["user_index", "at_us"]))
                  for size in (len(passing), size))
    assert cut.equals(whole)
    first_rows = [row for row in whole.to_pylist() if row["at_us"] == 0]
    assert len(first_rows) == 3
    assert all(row["user_views"] == 0 and set(row["bookmarked"]) == {-1} for row in first_rows)


def batches(passing, size):
    types = {"user_index": pa.int32(), "illust_index": pa.int32(), "at_us": pa.int64(), "what": pa.int32(),
             "tag_indices": pa.list_(pa.int32())}
    for start in range(0, len(passing), size):
        columns = zip(*passing[start:start + size], strict=True)
        yield pa.RecordBatch.from_arrays([pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)],
                                         names=list(types))


def test_lists_have_their_fixed_length_from_the_first_row_on():
    (batch,) = let_pass(batches([(0, 1, 0, ROW, None)], 1), LENGTHS, ["user_index"])
    assert batch.to_pylist() == [{
        "user_index": 0, "long_tags": [-1, -1], "long_weights": [0.0, 0.0], "short_tags": [-1, -1],
        "short_weights": [0.0, 0.0], "user_views": 0, "user_bookmarks": 0, "bookmarked": [-1] * 3, "passed": [-1] * 3}]
