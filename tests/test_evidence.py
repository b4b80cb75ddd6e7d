"""What makes evidence: figures beside their origin, and scripts that still start."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from umair import evidence
from umair.config import load_config
from umair.errors import ContractError
from umair.evidence import ROOT, code_digest, mean_interval, origin, present_commit, provenance, spread, write_evidence
from umair.job import Config
from umair.training.tagged_pictures import Catalogue, open_tagged

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*/*.py")]
                 if "__main__" in path.read_text(encoding="utf-8"))


def test_the_interval_of_a_mean_over_seeds_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1; Student's t with two degrees of freedom leaves 2.5 % above 4.3027."""
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.3027 / 3 ** 0.5, 2 + 4.3027 / 3 ** 0.5), rel=1e-4)


def test_a_page_outside_the_checkout_is_named_as_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evidence(tmp_path / "page.md", {}, "# Page", {"auc": 1})
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "page.md"), "auc": 1}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts_and_says_what_it_takes(script: str) -> None:
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(("script", "arguments", "cases"), [
    ("gpu_encoders", ["--eager", "--sizes", "64", "--batch", "2"], 7),
    ("gpu_feeding", ["--sizes", "64", "--batch", "2", "--processes", "2"], 2),
    ("gpu_ranker", ["--forms", "eager", "--batches", "2", "4", "--illustrations", "500"], 4)])
def test_a_benchmark_for_gpus_runs_on_a_cpu_too(script: str, arguments: list[str], cases: int, tmp_path: Path) -> None:
    command = [sys.executable, f"benchmarks/{script}.py", "--device", "cpu", "--seconds", "0.05", "--out",
               str(tmp_path / "out.json"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(result["cases"]) == cases
    assert all(next(value for name, value in case.items() if name.endswith("_per_second")) > 0 for case in result["cases"])
    assert result["command"].endswith(arguments[-1])


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


def test_a_digest_of_code_knows_programs_and_no_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "__file__", str(tmp_path / "evidence.py"))

    def digest(source: str) -> str:
        (tmp_path / "part.py").write_text(source, encoding="utf-8")
        code_digest.cache_clear()
        return code_digest("part.py")

    first = digest('def half(x):\n    """One half."""\n    return x / 2\n')
    assert digest('# a remark\ndef half(x):\n\n    """Half of it."""\n    return (x / 2)\n') == first
    other = digest('def half(x):\n    """One half."""\n    return x / 3\n')
    assert other != first
    (tmp_path / "part.py").write_text("def half(x):\n    return x / 2\n", encoding="utf-8")
    assert code_digest("part.py") == other  # of what this process has imported, whatever is put beside it since
    code_digest.cache_clear()


# ---------------------------------------------------------------- examples
def example(name: str) -> ModuleType:
    return load(f"examples/{name}/train.py")


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_asked_and_found_is_of_the_present_figures() -> None:
    page = load("benchmarks/targets_page.py").targets_page()
    assert (ROOT / "docs/evidence/targets.md").read_text("utf-8") == page, "run python benchmarks/targets_page.py"
    told = [line.split(" | ") for line in page.splitlines() if "reached" in line or "**missed**" in line]
    assert len(told) > 20
    for _, least, found, verdict, _ in told:
        assert (verdict == "reached") == (float(found) >= float(least))


def test_the_readme_has_the_rankers_of_the_present_figures() -> None:
    table = load("benchmarks/rankers_table.py")
    readme = table.README.read_text("utf-8")
    assert table.written(readme) == readme, "run python benchmarks/rankers_table.py"
    heads, *rows = [line.strip("| ").split(" | ") for line in table.rankers_table().splitlines()]
    assert [row[0] for row in rows[1:]] == [*table.REFERENCES.values(), *table.RANKERS.values()]
    assert all(len(row) == len(heads) and all(row) for row in rows[3:-2])  # every rival in every world


def test_a_readme_without_the_marks_of_its_table_is_left_as_it_is() -> None:
    table = load("benchmarks/rankers_table.py")
    with pytest.raises(ValueError, match=r"found the marks .* 0 times; expected them once"):
        table.written("# umair\n")


def write_faces(folder: Path, labels: list[str]) -> None:
    (folder / "images").mkdir()
    for number, _ in enumerate(labels):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.jpg")
    lines = [f"{number},{label}" for number, label in enumerate(labels)]
    (folder / "tags.csv").write_text("\n".join(["id,tags", *lines]) + "\n", encoding="utf-8")


def test_the_configuration_of_faces_fits_what_is_read_of_them(tmp_path: Path) -> None:
    """60 faces of two kinds, 15 % of them held out."""
    write_faces(tmp_path, ["aqua hair red eyes", "pink hair red eyes"] * 30)
    pq.write_table(example("faces").read_faces(tmp_path), tmp_path / "table.parquet")
    pretext = load_config(ROOT / "conf/faces.yaml", [], Config).pretext
    train, held = open_tagged(Catalogue([str(tmp_path / "table.parquet")], str(tmp_path)), 16, (0, 1), pretext)
    assert (len(train), len(held)) == (51, 9)
    assert sorted(train.targets.vocabulary) == ["aqua hair", "pink hair", "red eyes"]


def test_a_face_without_hair_is_refused(tmp_path: Path) -> None:
    write_faces(tmp_path, ["aqua hair red eyes", "red eyes"])
    with pytest.raises(ContractError, match="found 'red eyes'; expected \"<hair> hair <eyes> eyes\""):
        example("faces").read_faces(tmp_path)


def test_the_page_of_terms_has_a_line_for_all_for_each_perspective_and_for_each_kind() -> None:
    terms = example("terms")
    found = {"work": [1, 1], "before": [[20, 20], [20, 20]], "after": [[1, 1], [1, 20]]}  # 3 of 4 sides
    lost = {"work": [2], "before": [[1, 1]], "after": [[20, 20]]}
    facts = {"epochs": 5, "pairs": 7, "texts": 9, "seed": 0, "seconds": 3.0, "approximate_recall": 0.9}
    start = terms._start("from scratch", [{**facts, "ranked": {"title ja-zh": found, "name ja-zh": found, "term-explanation en-en": lost}}])
    limits = {"large": 0.5, "never_held_out": 0.25}
    text = terms._text({**provenance("make terms"), "pairs": 8, "max_tokens": 32, "starts": [start],
                        "works": {"all": limits, "character-series": limits}})
    assert "seeds 0, 3 s at most. Of the exact 10 nearest among all 9 texts, an inverted file finds 0.900." in text
    names = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][1:]
    assert names == ["| **all**", "| **explanations**", "| explanations en-en", "| **multilingual names**", "| multilingual names ja-zh",
                     "| term-explanation en-en", "| name ja-zh", "| title ja-zh"]
    assert "| **multilingual names** | 4 | 0.000 [0.000, 0.000] | 0.750 [0.750, 0.750] | +0.750 [+0.750, +0.750] |" in text
    assert "| **explanations** | 1 | 1.000 [1.000, 1.000] | 0.000 [0.000, 0.000] | -1.000 [-1.000, -1.000] |" in text


def test_a_kind_without_a_perspective_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "pairs.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("lang_a\ttext_a\tlang_b\ttext_b\tkind\tsource\nja\ta\ten\tb\tnickname\tx\n")
    with pytest.raises(ContractError, match=r"found kind nickname; expected kinds title, name, character"):
        example("terms").read_pairs(tmp_path)


@pytest.mark.parametrize("file", ["conf/local.yaml", "conf/cluster.yaml"])
def test_the_form_of_style_that_is_configured_is_the_one_that_the_evidence_found_best(file: str) -> None:
    encoders, lines = load("benchmarks/encoders.py"), json.loads((ROOT / "docs/evidence/encoders.json").read_text(encoding="utf-8"))["lines"]
    configured = load_config(ROOT / file, [], Config).image_encoder
    named = encoders.FORMS[encoders.DEFAULT]
    assert (configured.style, configured.style_log, configured.style_stages) == (named["style"], named["style_log"], 1)
    found = {form: np.mean([line["finds_style"]["mean"] for line in lines if (line["weights"], line["form"], line["scaling"]) == (
        weights, form, encoders.STANDARDISED)]) for form, weights in encoders.THROUGH_ITSELF.items()}
    assert max(found, key=found.__getitem__) == encoders.DEFAULT


def test_a_tree_with_changes_has_a_plus_unless_they_are_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """make experiments writes three pages: the first is no change of what the second was made by."""
    def git(*command: str) -> None:
        subprocess.run(["git", "-c", "user.name=u", "-c", "user.email=u@u", *command], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setenv("UMAIR_COMMIT", "told")
    assert present_commit() == "told"
    files = [tmp_path / name for name in ("docs/evidence/page.md", "benchmarks/results/train.json", "umair/code.py")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("first", encoding="utf-8")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "first")
    commit = present_commit()
    assert len(commit) >= 7
    for file, said in zip(files, (commit, commit, f"{commit}+"), strict=True):
        file.write_text("second", encoding="utf-8")
        assert present_commit() == said
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without git: no step fails for it
    assert present_commit() == "told"
