"""A user's interests: the tags of what was bookmarked, counted as the bookmarks come. No Spark.

How the authors compute interests is not published. Here a tag weighs as many as the bookmarked illustrations that carry
it; the heaviest are kept, ties in favour of the smaller tag index, and their weights sum to 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interest:
    """The heaviest tags, heaviest first, and their weights, which sum to 1 (both empty without tags)."""

    tags: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


def heaviest(counts: dict[int, int], tags: Iterable[int], size: int) -> list[int]:
    """The `size` tags with the largest counts, largest first, ties by tag index."""
    return sorted(tags, key=lambda tag: (-counts[tag], tag))[:size]


def weigh(counts: dict[int, int], tags: list[int]) -> Interest:
    total = sum(counts[tag] for tag in tags)
    return Interest(tuple(tags), tuple(counts[tag] / total for tag in tags))


class LongInterest:
    """Tags of all bookmarked illustrations, each illustration once.

    Counts only grow, so a tag that was not among the heaviest gets there only when it is counted itself: an
    illustration costs its own tags, not all tags that the user ever met.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: dict[int, int] = {}
        self._heaviest: list[int] = []
        self._interest = Interest()

    def add(self, tags: Iterable[int]) -> None:
        rivals = set(self._heaviest)
        for tag in tags:
            self._counts[tag] = self._counts.get(tag, 0) + 1
            rivals.add(tag)
        self._heaviest = heaviest(self._counts, rivals, self._size)
        self._interest = weigh(self._counts, self._heaviest)

    def now(self) -> Interest:
        return self._interest


@dataclass(frozen=True)
class _Bookmark:
    illust: int
    at_us: int
    tags: tuple[int, ...]


class ShortInterest:
    """Tags of the last `events` bookmarked illustrations, less those bookmarked more than `span_us` ago.

    Spec 1.4 says "last 20 events or 7 days"; both bounds hold here, so that the interest is of few and of fresh bookmarks.
    """

    def __init__(self, size: int, events: int, span_us: int) -> None:
        self._size, self._events, self._span_us = size, events, span_us
        self._recent: list[_Bookmark] = []  # most recent first
        self._fresh = 0  # how many of them `_interest` was made of
        self._interest = Interest()

    def add(self, illust: int, at_us: int, tags: Iterable[int]) -> None:
        others = [bookmark for bookmark in self._recent if bookmark.illust != illust]
        self._recent = [_Bookmark(illust, at_us, tuple(tags)), *others][:self._events]
        self._fresh = -1

    def at(self, at_us: int) -> Interest:
        fresh = [bookmark.tags for bookmark in self._recent if bookmark.at_us >= at_us - self._span_us]
        if len(fresh) != self._fresh:
            counts = Counter(tag for tags in fresh for tag in tags)
            self._interest = weigh(counts, heaviest(counts, counts, self._size))
            self._fresh = len(fresh)
        return self._interest
