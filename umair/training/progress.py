"""A line of progress now and then: rows, rate, loss, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 3.0


class Progress:
    """Says how far `total` rows have come. `done` rows were done before, by the run that this one continues."""

    def __init__(self, say: Callable[[str], None], what: str, total: int, done: int = 0) -> None:
        self.say, self.what, self.total, self.done_before = say, what, total, done
        self.started = self.said = time.monotonic()

    def show(self, done: int, losses: dict[str, float]) -> None:
        """Prints a line, but not more often than every EVERY_SECONDS; the last row always does."""
        now = time.monotonic()
        if done < self.total and now - self.said < EVERY_SECONDS:
            return
        self.said = now
        rate = (done - self.done_before) / max(now - self.started, 1e-9)
        loss = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self.say(f"{self.what}: {done:,} of {self.total:,} rows ({done / self.total:.0%}), {rate:,.0f} rows/s, "
                 f"loss {loss}, {clock((self.total - done) / max(rate, 1e-9))} left")


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
