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
import sys, time
from pathlib import Path
from umair.processes import worker_processes

def begin(folder, number):
    (Path(folder) / str(number)).touch()
    if number > 1:
        time.sleep(600)

if __name__ == "__main__":
    with worker_processes(2, "waiting") as pool:
        for done in [pool.submit(begin, sys.argv[1], number) for number in range(30)]:
            done.result()
"""


@pytest.fixture
def endless(tmp_path):
    """A process with two others, of whose thirty tasks all but the first two are endless; each task that is begun is a file."""
    (tmp_path / "begun").mkdir()
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script), str(tmp_path / "begun")], cwd=ROOT, start_new_session=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def workers(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those that work for `parent`: not the tracker of resources that Python starts beside them."""
    return [child for child in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(child.cmdline())]


def until(holds, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    """One that nobody has asked for its exit code is gone as well."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_that_is_killed_is_an_error_of_ours():
    said = r"drawing: found a process that ended before its work, .* expected 2 processes that run to their end"
    with pytest.raises(ClusterError, match=said), worker_processes(2, "drawing") as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def test_where_the_work_ends_early_nothing_more_is_begun(tmp_path, endless):
    """Ctrl-C reaches every process of a terminal: all end at once, and no further task is taken up."""
    begun = tmp_path / "begun"
    until(lambda: len(list(begun.iterdir())) == 4)
    children = workers(endless)
    os.killpg(endless.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in endless.communicate(timeout=30)[1]
    assert len(children) == 2
    until(lambda: all(map(gone, children)))
    assert len(list(begun.iterdir())) == 4


def test_an_error_ends_what_is_running():
    def fail() -> None:
        with worker_processes(2, "waiting") as pool:
            waiting = [pool.submit(time.sleep, 600) for _ in range(6)]
            until(waiting[0].running)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        fail()


@pytest.mark.parametrize("begun", [0, 4], ids=["while they start", "while they work"])
def test_none_outlives_a_parent_that_is_killed(tmp_path, endless, begun):
    until(lambda: len(workers(endless)) == 2 and len(list((tmp_path / "begun").iterdir())) >= begun)
    children = workers(endless)
    endless.kill()
    endless.wait()
    until(lambda: all(map(gone, children)))
