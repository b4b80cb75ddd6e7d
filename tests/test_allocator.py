"""A worker's process keeps what its encoder frees."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, sys
import numpy as np
from umair.embedding.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for round in range(11):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [np.ones(2**21) for _ in range(8)]  # 8 x 16 MiB, all freed before the next round
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the system had to hand out anew in ten rounds."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_was_freed_is_not_handed_out_anew() -> None:
    assert faults("kept") * 5 < faults("as it is")
