"""How threads of torch wait for each other: docs/decisions/017."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from umair.evidence import ROOT

SCRIPTS = sorted(str(path.relative_to(ROOT)) for pattern in ("jobs/*.py", "examples/*/*.py", "benchmarks/e*.py", "benchmarks/train.py")
                 for path in ROOT.glob(pattern))
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spins(script: str, **given: str) -> str:
    """What libgomp itself says when it is loaded."""
    mine = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    said = subprocess.run([sys.executable, "-c", script], env={**mine, "OMP_DISPLAY_ENV": "verbose", **given},
                          capture_output=True, text=True, check=True, cwd=ROOT)
    found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", said.stderr)
    assert found, said.stderr
    return found[1]


@pytest.mark.parametrize("module", ["umair", "umair.training.ranks", "umair.embedding.image_worker"])
def test_threads_spin_briefly(module: str) -> None:
    assert spins(f"import {module}, torch") == "10000"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_umair_before_torch(script: str) -> None:
    lines = (ROOT / script).read_text(encoding="utf-8").splitlines()
    imports = [line for line in lines if re.match(r"(from|import) (umair|torch|numpy|catalogue)\b", line)]
    assert "umair" in imports[0] or not any("torch" in line for line in imports), imports[0]


def test_the_user_may_say_how_threads_wait() -> None:
    assert spins("import umair, torch", GOMP_SPINCOUNT="7") == "7"
    by_default = spins("import torch", OMP_WAIT_POLICY="active")
    assert spins("import umair, torch", OMP_WAIT_POLICY="active") == by_default != "10000"
