"""Where and on what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def present_commit() -> str:
    """The commit of the working tree, with + when something is changed."""
    def git(*command: str) -> str:
        return subprocess.run(["git", *command], capture_output=True, text=True, check=False, cwd=Path(__file__).parent).stdout

    return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain", "--untracked-files=no").strip() else "")


def machine_kind() -> str:
    """Cores, processor, GPU, memory."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}{gpu}, {memory:.0f} GiB"
