"""What makes evidence: figures beside their origin, and scripts that still start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from umair import evidence
from umair.evidence import ROOT, origin, provenance, spread, write_evidence

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*/*.py")]
                 if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts_and_says_what_it_takes(script: str) -> None:
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("script", ["examples/faces/train.py", "examples/terms/train.py"])
def test_a_missing_data_set_is_one_line_and_exit_code_2(script: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, script, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "found no such file; expected" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_page_and_its_figures_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    result = {**provenance("make something"), "figures": [0.5, 0.7]}
    page = tmp_path / "docs" / "page.md"
    write_evidence(page, result, f"# Title\n\n{origin(result)}\n", {"mean": 0.6})
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == result
    assert f"commit {result['commit']}" in page.read_text(encoding="utf-8")
    assert json.loads(capsys.readouterr().out) == {"page": "docs/page.md", "mean": 0.6}
    assert set(result) == {"command", "commit", "machine", "date", "figures"}


def test_a_spread_names_lowest_and_highest() -> None:
    assert spread([0.5]) == "0.500"
    assert spread([0.5, 0.7, 0.6]) == "0.600 (0.500 to 0.700)"
