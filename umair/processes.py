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
    """A pool of `count` processes for `what`. None lives longer than this process, even where it is killed; where the block
    ends early, by an error or Ctrl-C, they are killed, so that what they do must bear to be begun again. To be used by the
    thread that lives longest: the kernel counts a thread's end as its parent's.

    Raises ClusterError when one of them ends before its work.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise ClusterError(what, "a process that ended before its work, perhaps killed for memory",
                               f"{count} processes that run to their end", "see what it printed above and how much memory "
                               "is free, or choose fewer processes, then run again") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, which may be while this one starts. Ctrl-C in a terminal
    reaches all of them, but only the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
