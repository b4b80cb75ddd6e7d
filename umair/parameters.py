"""The parameter table of UMAIR-FPS: what our rankers count beside what the paper prints (tables 3 and 4)."""

from __future__ import annotations

from typing import Any

from umair.baselines.rivals import RIVALS
from umair.model.ranker import RankerConfig, UmairRanker, count_parameters

WIDTHS = {"semantic": 1_024, "style": 256, "text": 512}  # of the authors' vectors
RIVAL_COUNTS = {"dcn": 10_175_324, "xdeepfm": 10_302_596, "fibinet": 10_424_966, "difm": 10_210_660, "dcn_v2": 10_278_092,
                "final_mlp": 10_160_912}
WITHOUT_SEMANTIC = {"modalities": ["style", "text", "profile"]}
ABLATIONS: dict[str, tuple[dict[str, Any], int]] = {  # name -> what differs from the paper's ranker, the paper's count
    "UMAIR-FPS": ({}, 10_597_028),
    "ATT": ({"experts": 1}, 10_597_028),
    "ATT x 2": ({"experts": 2}, 10_597_028),
    "ATT x 4": ({"experts": 4}, 10_597_028),
    "w/o STY": ({"modalities": ["semantic", "text", "profile"]}, 10_580_580),
    "w/o SEM": (WITHOUT_SEMANTIC, 10_531_428),
    "w/o SEM as the authors ran it": ({**WITHOUT_SEMANTIC, "text_for_style": True}, 10_547_812),
    "w/o TSEM": ({"modalities": ["semantic", "style", "profile"]}, 10_564_196),
    "w/o DCN-V2": ({"cross_layers": 0}, 10_522_532),
    **{f"SEN x {count}": ({"contribution": "senet", "experts": count}, 10_597_028 + 580 * count) for count in range(1, 5)},
    "w/o UMCM": ({"contribution": "none"}, 10_556_624),
    "w/o ALL": ({"form": "dcn_v2", "inputs": "authors"}, 10_283_072),
}
NOTES = {
    "w/o SEM": "what this ablation has; the paper prints the count of the next row",
    "w/o SEM as the authors ran it": "their index selects the tag text twice and never the style",
    "w/o UMCM": "not reproducible: side by side, as the authors' code has it, the head is 320 wide",
    "w/o ALL": "not reproducible: its scores are those of DCN-V2, and so is what is counted here",
}


def parameter_table() -> dict[str, dict[str, Any]]:
    """name -> trainable (weights), keras (with the running statistics of batch norm, as the paper counts), paper, and where
    they differ or need a word, difference and note."""
    counted = {name: (_count({"form": name, "inputs": "authors"}), paper) for name, paper in RIVAL_COUNTS.items()}
    for name, (changes, paper) in ABLATIONS.items():
        counted[name] = _count(changes), paper
    table: dict[str, dict[str, Any]] = {}
    for name, (count, paper) in counted.items():
        table[name] = {**count, "paper": paper}
        if count["keras"] != paper:
            table[name]["difference"] = count["keras"] - paper
        if name in NOTES:
            table[name]["note"] = NOTES[name]
    return table


def _count(changes: dict[str, Any]) -> dict[str, int]:
    config = RankerConfig(**changes)
    return count_parameters((UmairRanker if config.form == "umair" else RIVALS[config.form])(config, WIDTHS))
