"""Runs the real jobs through the real spark-submit, on a small drawn world; shared by the end-to-end tests."""

from __future__ import annotations

import glob
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
WEEK, NEXT_WEEK = "2026-W07", "2026-W08"

CONFIG = """\
base: {local}
root: {root}
raw: {{folder: {raw}, image_root: {raw}/images, max_reject_share: 0.2}}
world: {{illustrations: 300, users: 80, views: 5500, artists: 20, weeks: 8}}
image_encoder: {{picture_size: 32, stem_width: 8, widths: [16, 16, 24, 32], depths: [3, 1, 1, 1]}}
pretext: {{epochs: 1, min_tag_uses: 5}}
text_encoder: {{vocabulary_size: 600, width: 32, layers: 1, heads: 2}}
text_pairs: {{epochs: 1}}
embed_images: {{max_reject_share: 0.2}}
embed_texts: {{partitions: 12}}
windows: {{train_days: 28, files: 2}}
training: {{epochs: 1, batch: 128, checkpoint_steps: 5}}
evaluation: {{truth: {raw}/truth, intervals: 50, reject_below_popularity: false, reject_below_last_week: false}}
"""  # an epoch on a few thousand rows says nothing of a ranker's worth: the verdict is left to the tests of evaluation


@dataclass(frozen=True)
class Run:
    """What a finished process left: exit code, all it printed, and whether it was killed by us."""

    code: int
    text: str
    killed: bool


def write_config(folder: Path) -> Path:
    """A small configuration whose world and tables lie in `folder`."""
    path = folder / "small.yaml"
    path.write_text(CONFIG.format(local=ROOT / "conf/local.yaml", root=folder / "run", raw=folder / "raw"), encoding="utf-8")
    return path


def submit(job: str, config: Path, week: str, *overrides: str, kill_at: str | None = None, kill_on: str | None = None) -> Run:
    """spark-submit jobs/`job`.py; SIGKILLs the whole process group when a line matches the pattern `kill_at`, or when a
    file appears that matches `kill_on`."""
    command = [str(Path(sys.prefix) / "bin" / "spark-submit"), "--driver-java-options",
               "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC", str(ROOT / "jobs" / f"{job}.py"),
               "--config", str(config), "--week", week, *overrides]
    environment = {**os.environ, "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
                   "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1",
                   "SPARK_CONF_DIR": str(ROOT / "conf/spark")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
                          cwd=ROOT, start_new_session=True) as process:
        timer = threading.Timer(400, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        watcher = threading.Thread(target=_kill_on, args=(process, kill_on))
        watcher.start()
        lines, killed = [], False
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if kill_at and not killed and re.search(kill_at, line):
                os.killpg(process.pid, signal.SIGKILL)
                killed = True
        code = process.wait()
        timer.cancel()
        watcher.join()
    return Run(code, "".join(lines), killed or (kill_on is not None and code < 0))


def _kill_on(process: subprocess.Popen[str], pattern: str | None) -> None:
    while pattern and process.poll() is None:
        if glob.glob(pattern):
            os.killpg(process.pid, signal.SIGKILL)
            return
        time.sleep(0.01)
