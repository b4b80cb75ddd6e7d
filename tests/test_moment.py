"""What is known at a moment is what a window's row of that moment knows, and nothing of later."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession
from test_windows import END, SMALL, TAGS, day, frames, random_events
from windows_by_hand import Event, row_of

from umair.windows.moment import candidates_at, users_at

OF_ILLUSTRATIONS = ("illust_index", "illust_views", "illust_bookmarks")
NOT_OF_USERS = (*OF_ILLUSTRATIONS, "label", "at")


def users_known(spark: SparkSession, events: list[Event], moment: datetime, days: int | None = None) -> dict[int, dict[str, Any]]:
    rows = users_at(*frames(spark, events), moment, SMALL.lengths(), days).collect()
    found = {row["user_index"]: {**row.asDict(), "seen": sorted(row["seen"])} for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("moment", [END, day(3)])  # the second is also that of events
def test_users_are_as_a_row_of_that_moment_knows_them(spark, moment):
    events = random_events(1)
    assert moment == END or any(event.at == moment for event in events)
    past = [event for event in events if event.at < moment]
    found = users_known(spark, events, moment)
    assert set(found) == {event.user_index for event in past}
    for user, mine in found.items():
        expected = {name: value for name, value in row_of(events, TAGS, SMALL, user, 0, moment, 0).items() if name not in NOT_OF_USERS}
        expected["seen"] = sorted({event.illust_index for event in past if event.user_index == user})
        assert mine == expected


@pytest.mark.parametrize("moment", [END, day(3)])
def test_candidates_are_as_a_row_of_that_moment_counts_them(spark, moment):
    events = random_events(1)
    found = candidates_at(*frames(spark, events), moment).collect()
    rows = [row_of(events, TAGS, SMALL, 0, illust, moment, 0) for illust in TAGS]
    assert sorted(map(tuple, found)) == [tuple(row[name] for name in OF_ILLUSTRATIONS) for row in rows]


def test_a_later_event_changes_nothing(spark):
    events, moment = random_events(1), day(3)
    later = [Event(user, illust, kind, moment + timedelta(hours=user)) for user in range(12) for illust in TAGS
             for kind in ("view", "bookmark")]
    both = sorted({*events, *later})
    assert users_known(spark, both, moment) == users_known(spark, events, moment)
    counted = [sorted(map(tuple, candidates_at(*frames(spark, each), moment).collect())) for each in (events, both)]
    assert counted[0] == counted[1]
    assert users_known(spark, both, END) != users_known(spark, events, END)  # and it can fail


def test_days_bound_who_is_active_and_what_is_new(spark):
    events = [Event(1, 2, "view", day(9)), Event(1, 3, "view", day(2)), Event(4, 2, "view", day(5)), Event(5, 2, "view", day(1.5))]
    assert set(users_known(spark, events, END)) == {1, 4, 5}
    assert set(users_known(spark, events, END, days=5)) == {1, 4, 5}
    assert set(users_known(spark, events, END, days=4)) == {1, 5}
    assert set(users_known(spark, events, day(1.75), days=4)) == {1, 4}
    crowd = random_events(1, users=30, count=120)
    whole, narrow = users_known(spark, crowd, END), users_known(spark, crowd, END, days=2)
    assert 0 < len(narrow) < len(whole)
    assert narrow == {user: whole[user] for user in narrow}  # the past of those who are active is not cut
    illustrations = spark.createDataFrame([(0, [1], day(30)), (1, [1], day(7)), (2, [1], day(6)), (3, [1], END)],
                                          "illust_index int, tag_indices array<int>, created_at timestamp")
    told = frames(spark, events)[0]
    for days, expected in ((None, [0, 1, 2]), (7, [1, 2]), (6, [2])):
        assert sorted(row["illust_index"] for row in candidates_at(told, illustrations, END, days).collect()) == expected
