"""One door to history: what is known of a user at a moment, from events strictly before it.

A user's rows and events pass by once, in time. Rows come before events of the same microsecond, so no row can see an
event that is not in its past. A step costs the lengths of the lists, however long the user's history.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from umair.schema import ABSENT
from umair.windows.interests import Interest, LongInterest, ShortInterest

ROW, VIEW, BOOKMARK = 0, 1, 2  # what passes by
PAST_COLUMNS = ("long_tags array<int>, long_weights array<float>, short_tags array<int>, short_weights array<float>, "
                "user_views int, user_bookmarks int, bookmarked array<int>, passed array<int>")


@dataclass(frozen=True)
class Lengths:
    """How much of a user's past a row holds."""

    history: int  # illustrations in `bookmarked` and in `passed`
    interest: int  # tags an interest
    short_events: int  # bookmarks
    short_span_us: int  # microseconds


class History:
    """What one user did so far. Feed it events in time; `bookmarked` and `passed` give what a row may know."""

    def __init__(self, lengths: Lengths) -> None:
        self.views = self.bookmarks = 0  # events, repeated ones included
        self.long = LongInterest(lengths.interest)
        self.short = ShortInterest(lengths.interest, lengths.short_events, lengths.short_span_us)
        self.bookmarked: list[int] = []  # distinct, most recently bookmarked first
        self._length = lengths.history
        self._ever_bookmarked: set[int] = set()
        self._passed: OrderedDict[int, None] = OrderedDict()  # a linked list: bookmarks take from anywhere in it

    def view(self, illust: int) -> None:
        self.views += 1
        if illust not in self._ever_bookmarked:
            self._passed[illust] = None
            self._passed.move_to_end(illust)

    def bookmark(self, illust: int, at_us: int, tags: Iterable[int]) -> None:
        self.bookmarks += 1
        self.bookmarked = [illust, *(other for other in self.bookmarked if other != illust)][:self._length]
        self._passed.pop(illust, None)
        self.short.add(illust, at_us, tags)
        if illust not in self._ever_bookmarked:
            self._ever_bookmarked.add(illust)
            self.long.add(tags)

    def passed(self) -> Iterator[int]:
        """Viewed and not bookmarked, distinct, most recently viewed first."""
        return islice(reversed(self._passed), self._length)


@dataclass
class _Pasts:
    """The pasts of some rows, column by column; lists of one column lie end to end."""

    lengths: Lengths
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.columns = {part.split()[0]: [] for part in PAST_COLUMNS.split(", ")}

    def add(self, history: History, at_us: int) -> None:
        self._add_interest("long", history.long.now())
        self._add_interest("short", history.short.at(at_us))
        self.columns["user_views"].append(history.views)
        self.columns["user_bookmarks"].append(history.bookmarks)
        self._add_list("bookmarked", history.bookmarked, self.lengths.history, ABSENT)
        self._add_list("passed", history.passed(), self.lengths.history, ABSENT)

    def _add_interest(self, name: str, interest: Interest) -> None:
        self._add_list(f"{name}_tags", interest.tags, self.lengths.interest, ABSENT)
        self._add_list(f"{name}_weights", interest.weights, self.lengths.interest, 0.0)

    def _add_list(self, name: str, values: Iterable[float], length: int, filler: float) -> None:
        column = self.columns[name]
        whole = len(column) + length
        column.extend(values)
        column.extend([filler] * (whole - len(column)))

    def arrays(self) -> dict[str, pa.Array]:
        """Each column as an Arrow array, lists with their fixed length."""
        rows, arrays = len(self.columns["user_views"]), {}
        for name, values in self.columns.items():
            flat = pa.array(np.asarray(values, dtype=np.float32 if name.endswith("weights") else np.int32))
            length = len(flat) // rows if rows else 0
            is_list = not name.startswith("user_")
            offsets = np.arange(rows + 1, dtype=np.int32) * length
            arrays[name] = pa.ListArray.from_arrays(pa.array(offsets), flat) if is_list else flat
        return arrays


def add_past(rows: DataFrame, events: DataFrame, tags: DataFrame, lengths: Lengths) -> DataFrame:
    """Adds PAST_COLUMNS to each row, from events at a smaller `at_us` than the row's.

    rows: user_index, illust_index, at_us and anything else. events: user_index, illust_index, kind, at_us.
    tags: illust_index, tag_indices. Of illustrations in the same microsecond the smaller index counts as more recent.
    """
    payload = [column for column in rows.columns if column not in ("user_index", "at_us")]
    line = _line(rows, events, tags)
    types = dict(line.dtypes)
    kept = ", ".join(f"{column} {types[column]}" for column in ("user_index", "at_us", *payload))
    ordered = line.repartition("user_index").sortWithinPartitions(
        "user_index", "at_us", F.col("what") != ROW, F.desc("illust_index"), "what")

    def pass_by(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return let_pass(batches, lengths, ["user_index", "at_us", *payload])

    return ordered.mapInArrow(pass_by, f"{kept}, {PAST_COLUMNS}")


def _line(rows: DataFrame, events: DataFrame, tags: DataFrame) -> DataFrame:
    """Rows, views and bookmarks (with their tags) in one frame, told apart by `what`."""
    moments = events.select("user_index", "illust_index", "at_us", "kind")
    views = moments.filter("kind = 'view'").drop("kind").withColumn("what", F.lit(VIEW))
    bookmarks = (moments.filter("kind = 'bookmark'").drop("kind").withColumn("what", F.lit(BOOKMARK))
                 .join(tags.select("illust_index", F.array_distinct("tag_indices").alias("tag_indices")),
                       "illust_index", how="left"))
    return (rows.withColumn("what", F.lit(ROW)).unionByName(views, allowMissingColumns=True)
            .unionByName(bookmarks, allowMissingColumns=True))


def let_pass(batches: Iterable[pa.RecordBatch], lengths: Lengths, kept: list[str]) -> Iterator[pa.RecordBatch]:
    """Lets a partition pass: sorted by user, then time, rows before events. A user may span several batches."""
    user, history = None, History(lengths)
    for batch in batches:
        pasts = _Pasts(lengths)
        columns = [batch.column(name).to_pylist() for name in ("user_index", "illust_index", "at_us", "what", "tag_indices")]
        for next_user, illust, at_us, what, tags in zip(*columns, strict=True):
            if next_user != user:
                user, history = next_user, History(lengths)
            if what == ROW:
                pasts.add(history, at_us)
            elif what == VIEW:
                history.view(illust)
            else:
                history.bookmark(illust, at_us, tags or ())
        rows = batch.filter(pc.equal(batch.column("what"), ROW))
        if len(rows):
            arrays = {name: rows.column(name) for name in kept} | pasts.arrays()
            yield pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
