"""Precision of an encoder's matrix products, for pictures and texts alike."""

from __future__ import annotations

from typing import Any, Literal

import torch

from umair.config import Section

Precision = Literal["float32", "bfloat16", "float16"]


class PrecisionConfig(Section):
    """What both embedding jobs have in common."""

    precision: Precision = "float32"  # of matrix products; of pictures, sums over a Gram matrix stay float32

    def named(self, facts: dict[str, Any]) -> dict[str, Any]:
        """An encoder's facts, its fingerprint with the precision where it is not float32: rounded otherwise, the same
        weights give vectors that must not stand beside each other."""
        suffix = "" if self.precision == "float32" else f"-{self.precision}"
        return {**facts, "fingerprint": f"{facts['fingerprint']}{suffix}"}


def in_precision(precision: Precision, device_type: str) -> torch.autocast:
    """A context in which products are made in `precision`; of float32, one that changes nothing."""
    return torch.autocast(device_type, getattr(torch, precision), enabled=precision != "float32")
