"""ISO weeks and the moments that bound a window. All moments are UTC; intervals are closed on the left only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from umair.errors import ConfigError


@dataclass(frozen=True, order=True)
class Week:
    """An ISO week, written 2026-W10: Monday 00:00 UTC to the next Monday 00:00 UTC."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Week:
        """Reads '2026-W10'. Raises ConfigError for anything else, and for a week that the year does not have."""
        match = re.fullmatch(r"([0-9]{4})-W([0-9]{2})", text)
        week = cls(int(match[1]), int(match[2])) if match else None
        if week is None or not week._in_calendar():
            raise ConfigError("--week", repr(text), "an ISO week such as 2026-W10", "correct --week")
        return week

    def _in_calendar(self) -> bool:
        try:
            return self.end > self.start
        except (ValueError, OverflowError):  # no such week in that year; an end after the year 9999
            return False

    @property
    def start(self) -> datetime:
        return datetime.combine(date.fromisocalendar(self.year, self.number, 1), datetime.min.time(), tzinfo=timezone.utc)

    @property
    def end(self) -> datetime:
        """The moment up to which, exclusively, this week's run may know anything."""
        return self.start + timedelta(days=7)

    def plus(self, weeks: int) -> Week:
        year, number, _ = (self.start + timedelta(weeks=weeks)).date().isocalendar()
        return Week(year, number)

    def __str__(self) -> str:
        return f"{self.year}-W{self.number:02d}"
