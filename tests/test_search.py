"""Hyper-parameter search: what is tried, by what it is judged, and that a kill costs no finished trial."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from test_experiments import ROOT, SMALL

from umair.config import load_config
from umair.errors import ClusterError, ConfigError, ContractError
from umair.experiments.data import open_training
from umair.experiments.run import alone
from umair.experiments.search import SearchConfig, _as_yaml, _open_study, _tell, _tried, run_search
from umair.job import Config
from umair.storage import read_facts
from umair.training.inputs import TrainingInputs
from umair.training.packing import FeatureSource

SPACE = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "ranker.match_width": {"low": 4, "high": 8},
         "ranker.deep": [[8], [16, 8]]}


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "tiny.yaml"
    values = {"numeric": {**SMALL["numeric"], "rows": 4_000}, "training": SMALL["training"], "ranker": SMALL["ranker"], "space": SPACE}
    file.write_text(yaml.safe_dump({**values, "trials": 3, **changes}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    run_search(written(folder), folder / "out", processes=2)
    return folder / "out" / "tiny"


def trained(searched: Path) -> dict[Path, dict]:
    return {path.parent: read_facts(path.parent) for path in (searched / "rankers").glob("*/facts.json")}


def test_the_summary_is_what_the_validation_window_said(searched):
    summary = json.loads((searched / "summary.json").read_text("utf-8"))
    losses = sorted(facts["valid"][0]["rankers"]["main"]["log_loss"] for facts in trained(searched).values())
    assert [trial["log_loss"] for trial in summary["all"]] == pytest.approx(losses, abs=1e-5)
    assert summary["best"] == summary["all"][0]
    for trial in summary["all"]:
        assert trial["values"].keys() == SPACE.keys()
        assert 1e-4 <= trial["values"]["training.learning_rate"] <= 1e-2
        assert trial["values"]["ranker.match_width"] in (4, 5, 6, 7, 8)
        assert trial["values"]["ranker.deep"] in ([8], [16, 8])
    made = {json.loads((folder / "main" / "config.json").read_text("utf-8"))["ranker"]["match_width"] for folder in trained(searched)}
    assert made == {trial["values"]["ranker.match_width"] for trial in summary["all"]}


def test_a_larger_search_goes_on_and_never_opens_the_test_window(searched, tmp_path):
    before = trained(searched)
    copy = tmp_path / "out" / "tiny"
    shutil.copytree(searched, copy)
    tests = list(copy.glob("world/window_test/*"))
    assert tests
    for file in tests:
        file.write_bytes(b"nobody reads this")
    summary = run_search(written(tmp_path, trials=5), tmp_path / "out", processes=1)
    assert summary["trials"] == 5
    assert {folder.name for folder in before} < {folder.name for folder in trained(copy)}
    assert len({json.dumps(trial["values"]) for trial in summary["all"]}) == 5  # what is new, not what was drawn before
    best_before = json.loads((searched / "summary.json").read_text("utf-8"))["all"]
    assert all(trial in summary["all"] for trial in best_before)
    same = run_search(written(tmp_path, trials=5), tmp_path / "out", processes=1)
    assert same == summary


def test_a_trial_that_a_kill_left_is_made_with_the_same_values(searched, tmp_path):
    copy = tmp_path / "out" / "tiny"
    shutil.copytree(searched, copy)
    config = load_config(written(tmp_path, trials=4), [], SearchConfig)
    inputs, _ = open_training(config.numeric, config.week, copy)
    left = _open_study(config, config.key(inputs), copy).ask()  # and then the process dies
    drawn = left.suggest_float("training.learning_rate", 1e-4, 1e-2, log=True)
    left.suggest_int("ranker.match_width", 4, 8)
    left.suggest_int("ranker.deep", 0, 1)
    summary = run_search(written(tmp_path, trials=4), tmp_path / "out", processes=1)
    assert drawn in [trial["values"]["training.learning_rate"] for trial in summary["all"]]


@pytest.mark.parametrize(("changes", "text"), [
    ({"numeric": None}, "rows from `numeric` or from `week`"),
    ({"space": {"raw.folder": ["a"]}}, "space: 'raw.folder'; a key is training.NAME or ranker.NAME"),
    ({"space": {"ranker.match_width": []}}, "space: 'ranker.match_width' has nothing to try"),
    ({"space": {"ranker.match_widht": [8]}}, "ranker.match_widht: no such key; did you mean 'match_width'"),
    ({"space": {"training.epochs": [0]}}, "training.epochs: Input should be greater than 0"),
    ({"space": {"ranker.match_width": [-3]}}, "greater than 1"),
    ({"space": {"ranker.id_dropout": {"low": 0.5, "high": 0.5}}}, "low < high"),
    ({"space": {"ranker.match_shrink": {"low": 0, "high": 1, "log": True}}}, "above 0 for log"),
    ({"space": {"ranker.match_width": [8, -3]}}, "greater than 1"),
    ({"space": {"ranker.deep_dropout": {"low": 0, "high": 2.5}}}, "less than 1"),
    ({"space": {"training.ranks": [1, 2]}}, "each trial is one process"),
    ({"training": {"ranks": 2}}, "each trial is one process"),
    ({"training": {"ranks": 1, "features": "/packs"}}, "training.features with `numeric`, whose pack lies beside its rows"),
])
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        load_config(written(tmp_path, **changes), [], SearchConfig)


def test_without_optuna_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"umair search: found no optuna; .*pip install 'umair\[search\]'"):
        run_search(written(tmp_path), tmp_path / "out", processes=1)


def test_a_trial_that_diverges_counts_as_tried_and_the_search_goes_on(tmp_path, caplog):
    caplog.set_level("INFO", logger="umair")
    space = {"training.learning_rate": [1e38, 1e-3]}
    summary = run_search(written(tmp_path, space=space, trials=4), tmp_path / "out", processes=2)
    assert (summary["failed"] > 0, summary["trials"] > 0, summary["failed"] + summary["trials"]) == (True, True, 4)
    assert summary["best"]["values"] == {"training.learning_rate": 1e-3}
    assert "trials, none: ranker 'main', step" in caplog.text
    with pytest.raises(ContractError, match=r"2 trials, none of which came to its end; .*narrow the space; the first said: ranker 'main'"):
        run_search(written(tmp_path, space={"training.learning_rate": [1e38]}, trials=2), tmp_path / "out", processes=2)


def test_a_trial_too_large_for_the_gpu_counts_as_tried(tmp_path):
    """Or each later run would try the same values first, and end with them."""
    import optuna

    study, future = optuna.create_study(), Future()
    future.set_exception(torch.OutOfMemoryError("CUDA out of memory"))
    trial = study.ask()
    assert _tell(study, trial, future) == "none: CUDA out of memory"
    assert (study.trials[0].state.name, _tried(study)) == ("FAIL", 1)


def test_nothing_is_something_to_try(tmp_path):
    load_config(written(tmp_path, space={"training.patience": [None, 2]}), [], SearchConfig)


def test_two_searches_do_not_train_in_one_folder(searched):
    with alone(searched), pytest.raises(ClusterError, match="another process that runs this experiment or search"):
        run_search(written(searched.parents[1]), searched.parent, processes=1)


def test_a_killed_search_leaves_no_process_behind(searched, tmp_path):
    """Its trials, too, end: the next run takes up their folders."""
    copy = tmp_path / "out" / "tiny"
    shutil.copytree(searched, copy)
    command = ("from pathlib import Path; from umair.experiments.search import run_search\nif __name__ == '__main__':\n"
               f"    run_search(Path({str(written(tmp_path, trials=60))!r}), Path({str(tmp_path / 'out')!r}), 2)\n")
    script = tmp_path / "endless.py"
    script.write_text(command, encoding="utf-8")
    search = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until = time.monotonic() + 60
        while len(trained(copy)) < 4 and time.monotonic() < until:
            time.sleep(0.2)
        children = psutil.Process(search.pid).children(recursive=True)
    finally:
        search.kill()
        search.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert len(children) >= 2
    assert alive == []


def test_the_starting_point_is_tried_first_and_the_best_is_said_as_overrides(searched):
    summary = json.loads((searched / "summary.json").read_text("utf-8"))
    start = {"training.learning_rate": 2e-3, "ranker.match_width": 8, "ranker.deep": [16, 8]}
    assert summary["start"]["values"] == start
    assert summary["start"] in summary["all"]
    best = summary["best"]["values"]
    printed = json.dumps(summary["overrides"])[1:-1]  # as it stands in the terminal, from where it is copied
    pasted = subprocess.run(f"printf '%s\\n' {printed}", shell=True, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in pasted)} == best
    assert [_as_yaml(value) for value in ("cosine", "on", "3", None, True, 1e-05, [16, 8])] == [
        "cosine", '"on"', '"3"', "null", "true", "1e-05", "[16, 8]"]


def test_a_search_is_of_its_very_windows(tmp_path):
    """As many rows in each file, but built anew: losses on them are not compared with those of before."""
    config = load_config(written(tmp_path), [], SearchConfig)
    inputs = [TrainingInputs(FeatureSource({}, {}, "i", "t", {}, False), {"train": {f"{part}/0.parquet": 9}}, {}) for part in "ab"]
    assert config.key(inputs[0]) != config.key(inputs[1])
    assert config.key(inputs[0]) == config.model_copy(update={"trials": 99}).key(inputs[0])


def test_a_week_brings_its_own_ranker_and_training(tmp_path):
    file = tmp_path / "week.yaml"
    values = {"week": {"config": str(ROOT / "conf/movielens.yaml"), "week": "2018-W39"}, "training": {"epochs": 2},
              "space": {"ranker.match_width": [32, 64]}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    ranker, training = load_config(file, [], SearchConfig).settings({"ranker.match_width": 32})
    week = load_config(ROOT / "conf/movielens.yaml", [], Config)
    assert ranker == week.ranker.model_copy(update={"match_width": 32})
    assert (training.epochs, training.batch, training.ranks, training.rivals) == (2, week.training.batch, 1, {})


@pytest.mark.parametrize("file", sorted((ROOT / "conf/search").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_searches_of_the_project_start_inside_their_space(file):
    assert load_config(file, [], SearchConfig).start is not None


def test_another_space_is_another_search_and_says_so(searched, tmp_path, caplog):
    caplog.set_level("INFO", logger="umair")
    copy = tmp_path / "out" / "tiny"
    shutil.copytree(searched, copy)
    summary = run_search(written(tmp_path, trials=1, space={"ranker.match_width": [4]}), tmp_path / "out", processes=1)
    assert summary["trials"] == 1
    assert summary["start"] is None
    assert "a new search; earlier trials do not count" in caplog.text
    assert "the starting point lies outside the space" in caplog.text
