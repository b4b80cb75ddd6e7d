"""How a worker's process keeps the memory that its encoder frees."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 256 * 2**20  # bytes that are freed at the end of the heap and not given back
LARGEST = 32 * 2**20  # bytes: larger pieces come from the system, whatever is asked for


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, at most KEPT bytes, instead of handing it back after each batch and having the
    system clear it again for the next: that took a small encoder a fifth of its time. False without glibc's malloc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST))
