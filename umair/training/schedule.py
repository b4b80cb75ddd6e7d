"""The learning rate over a training."""

from __future__ import annotations

import math


def pace(step: int, steps: int, warm_up: float) -> float:
    """The share of the highest learning rate at a step, counted from 1: a line up, then half a cosine down to 0."""
    rising = warm_up * steps
    if step <= rising:
        return step / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / (steps - rising + 1))
