"""How fast a step is on a device; needs torch alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP, REPEATS = 3, 5
Step = Callable[[], None]


def rate(step: Step, rows: int, seconds: float, device: torch.device) -> float:
    """The median over REPEATS of rows a second, `seconds` in all; warming up, compiling with it, is not timed."""
    for _ in range(WARM_UP):
        step()
    count = max(1, round(seconds / REPEATS / _timed(step, 1, device)))
    return rows * count / statistics.median(_timed(step, count, device) for _ in range(REPEATS))


def _timed(step: Step, count: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
