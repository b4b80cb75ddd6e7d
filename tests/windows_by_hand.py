"""What a window must hold, said again in plain Python that looks up everything afresh for every row."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from umair.windows.build import WindowsConfig, split_bounds


class Event(NamedTuple):
    user_index: int
    illust_index: int
    kind: str
    at: datetime


def expected_windows(events: list[Event], tags: dict[int, list[int]], config: WindowsConfig, week: Any) -> dict[str, list[dict]]:
    events = [event for event in events if event.at < week.end]
    rows: dict[str, list[dict]] = {split: [] for split in ("train", "valid", "test")}
    for user, illust in {(event.user_index, event.illust_index) for event in events}:
        at, label = moment_and_label(events, user, illust, config.label_days)
        for split, (start, end) in split_bounds(week, config).items():
            if start <= at < end:
                rows[split].append(row_of(events, tags, config, user, illust, at, label))
    return rows


def moment_and_label(events: list[Event], user: int, illust: int, label_days: int) -> tuple[datetime, int]:
    mine = [event for event in events if (event.user_index, event.illust_index) == (user, illust)]
    views = sorted(event.at for event in mine if event.kind == "view")
    bookmarks = sorted(event.at for event in mine if event.kind == "bookmark")
    if not bookmarks:
        return views[0], 0
    if not views or views[0] > bookmarks[0]:
        return bookmarks[0], 1
    return views[0], int(bookmarks[0] - views[0] < timedelta(days=label_days))


def row_of(events: list[Event], tags: dict[int, list[int]], config: WindowsConfig,
           user: int, illust: int, at: datetime, label: int) -> dict[str, Any]:
    past = [event for event in events if event.at < at]
    mine = [event for event in past if event.user_index == user]
    bookmarked = most_recent(event for event in mine if event.kind == "bookmark")
    viewed = most_recent(event for event in mine if event.kind == "view")
    short = [one for one in list(bookmarked)[:config.short_events] if bookmarked[one] >= at - timedelta(days=config.short_days)]
    long_tags, long_weights = interest([tags[one] for one in bookmarked], config.interest_tags)
    short_tags, short_weights = interest([tags[one] for one in short], config.interest_tags)
    passed = [one for one in viewed if one not in bookmarked]
    return {
        "user_index": user, "illust_index": illust, "label": label, "at": at,
        "long_tags": long_tags, "long_weights": long_weights, "short_tags": short_tags, "short_weights": short_weights,
        "user_views": sum(event.kind == "view" for event in mine),
        "user_bookmarks": sum(event.kind == "bookmark" for event in mine),
        "illust_views": sum(event.kind == "view" for event in past if event.illust_index == illust),
        "illust_bookmarks": sum(event.kind == "bookmark" for event in past if event.illust_index == illust),
        "bookmarked": padded(list(bookmarked), config.history_length, -1),
        "passed": padded(passed, config.history_length, -1)}


def most_recent(events: Any) -> dict[int, datetime]:
    """Illustration -> its last moment, most recent first, ties by index."""
    last: dict[int, datetime] = {}
    for event in events:
        last[event.illust_index] = max(event.at, last.get(event.illust_index, event.at))
    return dict(sorted(last.items(), key=lambda item: (-item[1].timestamp(), item[0])))


def interest(tag_lists: list[list[int]], size: int) -> tuple[list[int], list[float]]:
    counts = Counter(tag for tags in tag_lists for tag in set(tags))
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]
    total = sum(count for _, count in top)
    return (padded([tag for tag, _ in top], size, -1),
            padded([float(np.float32(count / total)) for _, count in top], size, 0.0))


def padded(values: list, size: int, filler: float) -> list:
    return [*values[:size], *[filler] * (size - len(values))]
