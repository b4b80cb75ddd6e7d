"""Evidence: figures with the command, commit, machine and day that made them, as JSON and as a page."""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent  # of the checkout
WRITTEN = ("docs/evidence", "benchmarks/results")  # what commands write, not people


def evidence_parser(doc: str, config: Path) -> argparse.ArgumentParser:
    """DATA, --config and --seeds, as every script takes them that makes evidence from a data set."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", default=str(config))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser


def provenance(command: str) -> dict[str, str]:
    """command, commit, machine and date, to stand beside what was measured."""
    return {"command": command, "commit": present_commit(), "machine": machine_kind(), "date": time.strftime("%Y-%m-%d")}


def origin(result: dict[str, Any]) -> str:
    """The line of a page that says where its figures come from."""
    return (f"Written by `{result['command']}` on {result['date']}, {result['machine']}, commit {result['commit']}. "
            "Do not edit.")


def write_evidence(page: Path, result: dict[str, Any], text: str, summary: dict[str, Any]) -> None:
    """Writes the page and, beside it, all figures as JSON; prints the summary as the last line. Raises StorageError for a
    full disk, which leaves what was there."""
    from umair.storage import write_atomically  # needs packages that a benchmark on a GPU does without

    write_atomically(page.with_suffix(".json"), json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    write_atomically(page, text)
    named = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
    print(json.dumps({"page": str(named), **summary}))  # noqa: T201  for the terminal


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """The mean over at least two seeds and its 95 % interval by Student's t, which says nothing of the rows they share."""
    import numpy as np
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    mean = float(np.mean(values))
    return mean, mean - half, mean + half


def spread(values: list[float]) -> str:
    """The mean and, of several values, the lowest and the highest."""
    mean = f"{sum(values) / len(values):.3f}"
    return mean + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def present_commit() -> str:
    """The commit of the working tree, with + when something is changed other than evidence, which an earlier command of the
    same run may have written; of a copy without git, what UMAIR_COMMIT says."""
    def git(*command: str) -> str:
        try:
            return subprocess.run(["git", *command], capture_output=True, text=True, check=False, cwd=ROOT).stdout
        except OSError:  # no such program
            return ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{place}" for place in WRITTEN)).strip()
    commit = git("rev-parse", "--short", "HEAD").strip()
    return commit + ("+" if changed else "") if commit else os.environ.get("UMAIR_COMMIT", "unknown")


@functools.cache
def code_digest(*parts: str) -> str:
    """Stands for Python files of the package, named singly or by folder: what was computed depends on them. Comments,
    docstrings and layout do not count: they change no figure. A process keeps its first answer, as it keeps the modules that
    it has imported: who trains for hours would else be taken for the code that somebody has put beside it since."""
    package = Path(__file__).parent
    files = [file for part in parts for file in ([package / part], (package / part).rglob("*.py"))[not part.endswith(".py")]]
    sha = hashlib.sha256()
    for file in sorted(files):
        sha.update(file.name.encode() + _program(file.read_text(encoding="utf-8")).encode())
    return sha.hexdigest()[:12]


def _program(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree).replace(", type_params=[]", "")  # which Python 3.12 adds


def machine_kind() -> str:
    """Cores, processor, GPU, memory."""
    import torch  # here alone: who only wants a digest starts without it

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}{gpu}, {memory:.0f} GiB"
