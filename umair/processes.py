"""Processes that share work on one node: they end with their parent, however that ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from umair.errors import ClusterError

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@contextmanager
def worker_processes(count: int, what: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of `count` processes for `what`. Where the block ends early, by an error or Ctrl-C, nothing more is begun, and
    what has begun comes to its end first. None lives longer than this process, even where it is killed.

    Raises ClusterError when one of them is killed.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ClusterError(what, "a process that was killed, perhaps for memory", f"{count} processes that run to their end",
                           "look at the memory that is free, or choose fewer processes, then run again: what was finished "
                           "is kept") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends; the parent may have ended while it started."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
