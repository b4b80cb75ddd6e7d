"""The README's table of rankers, from the figures in docs/evidence/: python benchmarks/rankers_table.py

All rows of each test window, means over training seeds. Beside each AUC: how far umair is ahead of it on the same rows, as the 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from umair.evidence import ROOT
from umair.experiments.config import DEFAULT

README = ROOT / "README.md"
BEGIN, END = "<!-- written by python benchmarks/rankers_table.py -->", "<!-- to here -->"
WORLDS = {"rankers": ("numeric world", ["numeric"]), "rankers_on_drawn": ("drawn world", ["drawn"]),
          "rankers_on_drawn_fine": ("drawn world, finer encoders", ["drawn_fine", "drawn_fine_rivals"]),
          "rankers_on_movielens": ("MovieLens", ["movielens"])}
REFERENCES = {"ceiling": "best possible", "learnable": "learnable"}
RANKERS = {DEFAULT: "**umair**", "fibinet": "FiBiNET", "xdeepfm": "xDeepFM", "dcn_v2": "DCN-V2", "final_mlp": "FinalMLP", "difm": "DIFM", "dcn": "DCN",
           "early_fusion_fair": "plain fusion", "ids_counters": "DCN-V2 on ids, tags and counters", "paper": "the paper's form"}
Figures = dict[str, Any]


def rankers_table() -> str:
    """The table, of the figures that there are now."""
    slices = [[_experiments(page)[name]["slices"]["all"] for name in names] for page, (_, names) in WORLDS.items()]
    heads = [f"[{said}](docs/evidence/{page}.md)" for page, (said, _) in WORLDS.items()]
    lines = ["| AUC | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for mark, said in REFERENCES.items():
        found = [first["marks"].get(mark) for first, *_ in slices]
        lines.append(f"| {said} | " + " | ".join("" if each is None else f"{each:.3f}" for each in found) + " |")
    lines += [f"| {said} | " + " | ".join(_cell(world, ranker) for world in slices) + " |" for ranker, said in RANKERS.items()]
    return "\n".join(lines)


def written(readme: str) -> str:
    """The README with the table of now between its two marks."""
    between = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?=\n\n{re.escape(END)})", re.DOTALL)
    replaced, times = between.subn(lambda _: rankers_table(), readme)
    if times != 1:
        raise ValueError(f"README.md: found the marks {BEGIN} and {END} {times} times; expected them once, an empty line after the first and before the second")
    return replaced


def _cell(world: list[Figures], ranker: str) -> str:
    """The ranker's figures in the first of a world's experiments that has it; ¹ where that is not the experiment with all seeds."""
    for number, each in enumerate(world):
        if ranker in each["rankers"]:
            of = each["rankers"][ranker]
            auc = f"{of['auc']['estimate']:.3f}"
            if ranker == DEFAULT:
                return f"**{auc}**"
            return f"{auc} ({of['default_minus']['low']:+.3f} to {of['default_minus']['high']:+.3f}){' ¹' * (number > 0)}"
    return ""


def _experiments(page: str) -> Figures:
    experiments: Figures = json.loads((ROOT / f"docs/evidence/{page}.json").read_text(encoding="utf-8"))["experiments"]
    return experiments


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
