"""docs/evidence/targets.md from the figures that lie beside it and in benchmarks/results/: python benchmarks/targets_page.py

What was aimed at when the rankers were built, and what came out. Where a figure says "at least", more is better.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from umair.evidence import ROOT
from umair.experiments.config import DEFAULT

EVIDENCE, RESULTS = ROOT / "docs/evidence", ROOT / "benchmarks/results"
RIVALS = ("dcn", "xdeepfm", "fibinet", "difm", "dcn_v2", "final_mlp")
ROWS = 24_200_000  # of the paper's training set
Figures = dict[str, Any]
Target = tuple[str, float, float, str]  # what, at least, found, page


def targets_page() -> str:
    """The page, of the figures that there are now."""
    lines = ["# Targets, and what was found", "",
             "Written by `python benchmarks/targets_page.py` from the figures of the pages that it names. Do not edit.", "",
             "| what | target: at least | found | verdict | page |", "| --- | --- | --- | --- | --- |"]
    for what, least, found, page in (*_rankers(), *_speed(), *_gpu()):
        lines.append(f"| {what} | {least:g} | {found:.3g} | {'reached' if found >= least else '**missed**'} | [{page}]({page}.md) |")
    rows = _read(EVIDENCE / "rankers_on_drawn.json")["experiments"]["drawn"]["rows"]
    minutes = sum(each["minutes"] / each["at_once"] for each in _read(EVIDENCE / "rankers.json")["experiments"]["numeric"]["trained"])
    once = [each["once_over_row_by_row"] for each in _read(RESULTS / "train.json")["catalogue"].values()]
    lines += ["", "Users and illustrations made once each are scored where they are known at one moment, as recommendations are. The evaluation scores the test window's rows",
              "each as of a moment of its own; above they are scored the other way as a measurement alone. In the evaluation a list is summed once instead of illustration by illustration, "
              f"{min(once):.0f} to {max(once):.0f} times as fast ([speed](speed.md), docs/decisions/011 and 024).", "",
              "On two cores `make params` takes three seconds, `make bench-train` what [speed](speed.md) says, `make experiments` four and a half hours: 29, 47 and 8 minutes",
              f"for paper, paper_free and paper_without_semantic, run in one go on a fresh clone, beside tests, and {minutes:.0f} for numeric: the time of all its trainings, two at once,",
              "in that clone, in several goes with other work between them. On one GPU most of them once took eleven minutes (docs/decisions/015).",
              "What is finished is kept, so that any of them goes on where it was stopped.", "",
              f"The drawn world has 500,000 views and the bookmarks that follow them; {rows['train']:,}, {rows['valid']:,} and {rows['test']:,} of the views are rows of the",
              "three windows; the days before them are history alone.", "",
              "Table 4's \"w/o SEM\" as the authors ran it, which drops the style as well and reads the tags' text twice, has [a page of its own](table4_without_semantic.md).", "",
              "Two ranks learn what one learns from the same rows, to rounding, where batch norm takes its moments over all ranks (`training.share_moments`)",
              "and nothing is dropped, and so it is tested; as configured, moments and dropout are each rank's own (docs/decisions/012)."]
    return "\n".join(lines) + "\n"


def _rankers() -> Iterator[Target]:
    for page, world, least in (("rankers", "numeric", 0.93), ("rankers_on_drawn", "drawn", 0.85)):
        slices = _read(EVIDENCE / f"{page}.json")["experiments"][world]["slices"]
        for part in ("all", "cold"):
            of = slices[part]["rankers"]
            yield f"{world} world, {part} rows: share of the way to what can be learned", least, of[DEFAULT]["way_to_learnable"], page
            yield f"{world} world, {part} rows: AUC ahead of the best rival, lower end of the interval", 0, _least(of, "default_minus", "low"), page
    yield from _fine()
    for part, found in _read(EVIDENCE / "rankers_on_movielens.json")["experiments"]["movielens"]["slices"].items():
        for name, key in (("AUC", "default_minus"), ("GAUC", "gauc_default_minus")):
            for end in ("estimate", "low"):
                said = "lower end of the interval" if end == "low" else "estimate"
                rows = part if part == "new users" else f"{part} rows"
                yield f"MovieLens with posters, {rows}: {name} ahead of the best rival, {said}", 0, _least(found["rankers"], key, end), "rankers_on_movielens"


def _fine() -> Iterator[Target]:
    """The drawn world through finer encoders: the default with five seeds, each rival in the one experiment that has it."""
    page = "rankers_on_drawn_fine"
    found = _read(EVIDENCE / f"{page}.json")["experiments"]
    for part in ("all", "cold"):
        of, more = (found[name]["slices"][part]["rankers"] for name in ("drawn_fine", "drawn_fine_rivals"))
        yield f"drawn world, finer encoders, {part} rows, after two rounds of tuning: share of the way to what can be learned", 0.85, of[DEFAULT]["way_to_learnable"], page
        yield f"drawn world, finer encoders, {part} rows: AUC ahead of DCN-V2, five seeds, lower end of the interval", 0, of["dcn_v2"]["default_minus"]["low"], page
        yield (f"drawn world, finer encoders, {part} rows: AUC ahead of the best of the other five rivals, one seed, lower end of the interval over users", 0,
               min(more[rival]["default_minus"]["low"] for rival in RIVALS if rival != "dcn_v2"), page)


def _least(rankers: Figures, key: str, end: str) -> float:
    """The smallest of what the default is ahead of the rivals by; not a number where one of them has no such figure."""
    ahead = [rankers[rival][key][end] for rival in RIVALS]
    return math.nan if None in ahead else min(ahead)


def _speed() -> Iterator[Target]:
    result = _read(RESULTS / "train.json")
    for name, each in result["steps"].items():
        if not name.startswith("ids"):  # which reads no vectors
            yield f"{name}: fed by Petastorm over held in memory", 0.85, each["fed_over_held"], "speed"
        if name.startswith(DEFAULT):
            paper = result["steps"][name.replace(DEFAULT, "paper")]
            yield f"{name}: rows a second of training, over those of the paper's form", 0.7, each["fed"] / paper["fed"], "speed"
            yield f"{name}: scoring, read and looked up, over training", 1, each["scoring_over_training"], "speed"
    window = _read(RESULTS / "pairs.json")["window"]["once_over_row_by_row"]
    yield "the test window, by users and illustrations made once each, over row by row, both looked up", 3, window, "speed"
    for name, ratio in _read(RESULTS / "pairs.json")["once_over_row_by_row"].items():
        yield f"every user with every candidate: users and illustrations made once each, over pairs scored {name}", 3, ratio, "speed"
    for batch, each in result.get("dcn_v2", {}).items():
        least = 3 if batch == "128" else 1.5
        yield f"DCN-V2 at batches of {batch} over deepctr-torch's as it compiles", least, each["ours_over_theirs"], "speed"
        yield f"DCN-V2 at batches of {batch} over deepctr-torch's with a fused Adam", least, each["ours_over_theirs_fused"], "speed"
    for name, each in result["ranks"].items():
        if name.startswith("batch"):
            rows = "1,024 rows of each rank (two take 2,048 a step)" if "each rank" in name else name
            yield f"two ranks over one, {rows}{'' if 'unbound' in name else ', each bound to a core'}", 1.7, each["two_over_one"], "speed"


def _gpu() -> Iterator[Target]:
    for name in ("gpu_ranker", "gpu_ranker_eager", "gpu_ranker_graph"):
        result = _read(RESULTS / f"{name}.json")
        for form in dict.fromkeys(case["form"] for case in result["cases"]):
            found = [case["rows_per_second"] for case in result["cases"] if (case["form"], case["batch"]) == (form, 8_192)
                     and case["precision"] == "float32"]
            if found:
                yield f"{result['device']}, commit {result['commit']}, {form}, batches of 8,192: the paper's 24.2 million rows, passes a minute", 1, found[0] * 60 / ROWS, "speed"


def _read(file: Path) -> Figures:
    figures: Figures = json.loads(file.read_text(encoding="utf-8"))
    return figures


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    (EVIDENCE / "targets.md").write_text(targets_page(), encoding="utf-8")
