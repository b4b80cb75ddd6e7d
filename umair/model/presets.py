"""Named rankers: what they set; any key beside `preset` changes that. Sizes of tables are in none: they are the data's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAPER: dict[str, Any] = {  # section 3, with the dropouts and penalties of the authors' code
    "match": False, "match_mixed": False, "interests": True, "counters": False, "id_dropout": 0.0, "standardise": False,
    "scaled_scores": False, "projected_experts": False, "tower_dropout": 0.5, "attention_dropout": 0.5,
    "deep": [64, 32, 16], "deep_dropout": 0.5, "penalties": True, "inputs": "ids", "vector_fields": 1}
_CORRECTED: dict[str, Any] = {  # the paper's form with what it lacks: counters as of the row, new ids, experts that differ;
    # regularised as conf/search/corrected.yaml found it (docs/decisions/014)
    **_PAPER, "counters": True, "id_dropout": 0.45, "standardise": True, "scaled_scores": True, "projected_experts": True,
    "tower_dropout": 0.23, "attention_dropout": 0.34, "deep": [128, 64, 32], "deep_dropout": 0.01, "penalties": False}
_UMAIR: dict[str, Any] = {  # our default: history too, which says what the interest vectors say, and better
    **_CORRECTED, "projected_experts": False, "id_dropout": 0.3, "tower_dropout": 0.1, "attention_dropout": 0.1,
    "deep_dropout": 0.1, "match": True, "match_mixed": True, "interests": False}
_AUTHORS = {**_PAPER, "inputs": "authors"}  # a rival as the authors ran it; its form is named beside it
_FAIR = {**_UMAIR, "inputs": "all", "vector_fields": 3}  # a rival given all that our default reads, and its dropouts
PRESETS = {"paper": _PAPER, "corrected": _CORRECTED, "umair": _UMAIR,  # the same keys each: one replaces another
           "authors": _AUTHORS, "fair": _FAIR}
OF_RIVALS = ("authors", "fair")


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """A ranker's keys with those of the preset that `preset` names under them. Raises ValueError for a name that is none."""
    given = dict(values)
    name = given.pop("preset", None)
    if name is None:
        return given
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}; known: {', '.join(PRESETS)}")
    if name in OF_RIVALS and "form" not in given:
        raise ValueError(f"preset {name!r} without a form, which it needs: it says what a rival reads, not which it is")
    return {**PRESETS[name], **given}
