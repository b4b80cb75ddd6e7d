"""umair: weekly multi-modal recommendation of illustrations (UMAIR-FPS, arXiv 2402.10381) on Spark and Horovod."""

__version__ = "0.1.0"
