"""Processes that share work end with their parent, and what kills one is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from umair.errors import ClusterError
from umair.processes import worker_processes

ROOT = Path(__file__).parent.parent
ENDLESS = """
import time
from umair.processes import worker_processes
if __name__ == "__main__":
    with worker_processes(2, "waiting") as pool:
        list(pool.map(time.sleep, [600] * 4))
"""


def touch(path: Path) -> None:
    path.touch()
    time.sleep(0.3)


def test_a_process_that_is_killed_is_an_error_of_ours():
    said = r"drawing: found a process that was killed, .* expected 2 processes that run to their end"
    with pytest.raises(ClusterError, match=said), worker_processes(2, "drawing") as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, ValueError])
def test_where_the_work_ends_early_nothing_more_is_begun(tmp_path, ended_by):
    def begin_thirty() -> None:
        with worker_processes(1, "touching") as pool:
            done = [pool.submit(touch, tmp_path / str(number)) for number in range(30)]
            done[0].result()
            raise ended_by

    with pytest.raises(ended_by):
        begin_thirty()
    begun = len(list(tmp_path.iterdir()))
    assert 1 <= begun <= 5  # what ran, and what the pool had handed out
    time.sleep(0.7)
    assert len(list(tmp_path.iterdir())) == begun


@pytest.mark.parametrize("after", [0.0, 3.0], ids=["while they start", "while they work"])
def test_none_outlives_a_parent_that_is_killed(tmp_path, after):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until, children = time.monotonic() + 30, list[psutil.Process]()
        while len(children) < 2 and time.monotonic() < until:
            children = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(after)
        children = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.kill()
        parent.wait()
    assert len(children) >= 2
    assert psutil.wait_procs(children, timeout=20)[1] == []
