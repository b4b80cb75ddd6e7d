"""Precision of an encoder's matrix products, for pictures and texts alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

from umair.config import Section

Precision = Literal["float32", "bfloat16", "float16"]


class PrecisionConfig(Section):
    """What both embedding jobs have in common."""

    precision: Precision = "float32"  # of matrix products; sums over a Gram matrix stay float32

    def named(self, facts: dict[str, Any]) -> dict[str, Any]:
        """An encoder's facts, its fingerprint with the precision where it is not float32: rounded otherwise, the same
        weights give vectors that must not stand beside each other."""
        suffix = "" if self.precision == "float32" else f"-{self.precision}"
        return {**facts, "fingerprint": f"{facts['fingerprint']}{suffix}"}


@contextlib.contextmanager
def in_precision(precision: Precision, device_type: str) -> Iterator[None]:
    """A context in which products are made in `precision`; of float32, one that changes nothing.

    On a GPU, Gram matrices of half-precision maps, which are float32 throughout, take its TF32 units: those round factors
    to 10 bits, which is all that these maps have, and sum in float32. Without them they cost a fifth of an encoder's
    pictures a second (docs/decisions/015).
    """
    before, half = torch.get_float32_matmul_precision(), precision != "float32"
    if half and device_type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(device_type, getattr(torch, precision), enabled=half):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
