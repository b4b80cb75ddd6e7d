"""ISO weeks, checked against the calendar by hand."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umair.errors import ConfigError
from umair.weeks import Week


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)


@pytest.mark.parametrize(("text", "monday"), [
    ("2026-W10", utc(2026, 3, 2)),
    ("2026-W01", utc(2025, 12, 29)),  # the week with the year's first Thursday, 1 January 2026
    ("2020-W53", utc(2020, 12, 28)),  # a long year
    ("2021-W01", utc(2021, 1, 4)),
    ("2024-W09", utc(2024, 2, 26)),  # holds 29 February
])
def test_weeks_by_hand(text, monday):
    week = Week.parse(text)
    assert (week.start, week.end) == (monday, monday + timedelta(days=7))
    assert str(week) == text


def test_a_week_ends_where_the_next_begins():
    assert Week(2020, 52).plus(1) == Week(2020, 53)
    assert Week(2020, 53).plus(1) == Week(2021, 1)
    assert Week(2021, 1).plus(-1) == Week(2020, 53)
    assert Week(2026, 10).plus(0) == Week(2026, 10)
    assert Week(2020, 53).end == Week(2021, 1).start
    assert Week(2020, 53) < Week(2021, 1) < Week(2021, 2)


@given(st.integers(1990, 2100), st.integers(1, 52), st.integers(-300, 300))
def test_going_and_coming_back(year, number, weeks):
    week = Week(year, number)
    there = week.plus(weeks)
    assert there.plus(-weeks) == week
    assert there.start - week.start == timedelta(weeks=weeks)
    assert Week.parse(str(there)) == there


@pytest.mark.parametrize("text", ["2021-W53", "2026-W00", "2026-W54", "2026-10", "2026W10", "2026-W1", "26-W10", "2026-W10 ",
                                  "2026-w10", "0000-W10", "", "2026-W10-1", "٢٠٢٦-W10", "9999-W52"])
def test_what_is_no_week(text):
    with pytest.raises(ConfigError, match=r"--week: found .*; expected an ISO week such as 2026-W10"):
        Week.parse(text)
