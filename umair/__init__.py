"""umair: weekly multi-modal recommendation of illustrations (UMAIR-FPS, arXiv 2402.10381) on Spark and Horovod."""

import os

__version__ = "0.1.0"

# libgomp reads this when torch is imported, so it stands before everything else: docs/decisions/017
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
