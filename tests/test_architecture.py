"""Rules that matter are tests: who may import whom, where foreign systems stop, how long a job or a function may be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVEL = {  # umair.<part> -> level; imports point down only, parts of one level do not know each other
    "errors": -1, "config": -0.5, "schema": 0, "keys": 0, "storage": 0, "weeks": 0, "java": 0, "picture": 0, "processes": 0, "picture_files": 0.5, "metrics": 0,
    "neighbours": 0.5, "evidence": 0.5, "devices": 0.5, "parameters": 1.7, "tidy": 3,
    "model": 1, "tables": 1, "world": 1, "baselines": 1.5, "doctor": 1,
    "embedding": 2, "windows": 2, "training": 2, "evaluation": 3, "recommendations": 3.5, "job": 4, "experiments": 4.5, "cli": 5, "__init__": 0,
}
WITHOUT_TORCH = {part for part, level in LEVEL.items() if level <= 0} | {"tables", "windows", "world"}
WITHOUT_SPARK = {part for part, level in LEVEL.items() if level <= 0} | {"model", "baselines", "world"}
HOMES = {"horovod": "umair/training/ranks.py", "petastorm": "umair/training/reader.py", "pickle": "nowhere"}
SOURCES = sorted([*ROOT.glob("umair/**/*.py"), *ROOT.glob("jobs/*.py")])


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT).parts
    return "jobs" if inside[0] == "jobs" else inside[1].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    for module in imports_of(path):
        if part == "jobs" or not module.startswith("umair."):
            continue
        imported = module.split(".")[1]
        assert imported == part or LEVEL[imported] < LEVEL[part], f"{path} may not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_foreign_systems_stay_at_home(path: Path) -> None:
    part, tops = part_of(path), {module.split(".")[0] for module in imports_of(path)}
    for foreign, home in HOMES.items():
        assert foreign not in tops or str(path.relative_to(ROOT)) == home, f"{path} imports {foreign}; only {home} may"
    assert "torch" not in tops or part not in WITHOUT_TORCH, f"{path}: no torch in {part}"
    assert "pyspark" not in tops or part not in WITHOUT_SPARK, f"{path}: no pyspark in {part}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_spark_is_told_that_files_are_local(path: Path) -> None:
    """Else it looks for them in its default file system, on YARN most often HDFS, where `Store` does not see them."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.search(r"\.(parquet|json|csv|text|orc)\(", line) and "json.load" not in line:
            assert "for_spark(" in line, f"{path}:{number}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60, f"{path}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/*.py")), ids=lambda path: path.name)
def test_a_job_is_a_page(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/*.py")), ids=lambda path: path.name)
def test_a_job_runs_alone_and_says_what_it_does(path: Path) -> None:
    told = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert told.returncode == 0, told.stderr
    assert "--week" in told.stdout
    assert len(told.stdout.split("\n\n")[1]) > 30  # the function's own sentence


def test_the_rules_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import petastorm.reader\nfrom umair.job import Job\n", encoding="utf-8")
    assert set(imports_of(bad)) == {"petastorm.reader", "umair.job"}
