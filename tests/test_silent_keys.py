"""Keys that say nothing: a ranker with another value of one is the same ranker, weight by weight and score by score."""

from __future__ import annotations

import pytest
import torch
from batches import WIDTHS, random_batch, small
from pydantic import ValidationError
from torch.nn import functional as F

from umair.model.ranker import RankerConfig
from umair.model.silent_keys import silent_keys
from umair.training.checkpoint import build_ranker

OTHER = {  # values of each key, of which at least one is not the base's
    "inputs": ["authors", "all"], "vector_fields": [2], "embedding_width": [4], "embedding_std": [0.5], "counters": [True, False],
    "ids": [False, True], "totals": [False, True], "interests": [True, False], "id_dropout": [0.5], "tower": [(12, 6)],
    "tower_dropout": [0.3], "modalities": [("semantic", "profile"), ("style", "text")], "standardise": [True, False],
    "text_for_style": [True, False],
    "contribution": ["attention", "senet", "mixed", "item", "none"], "experts": [2], "projected_experts": [True, False],
    "score": ["hadamard", "dot"], "scaled_scores": [True, False], "batch_mean": [True, False], "senet_sum": [True, False],
    "attention_dropout": [0.3], "cross_layers": [1, 0], "cross_rank": [2], "cross_experts": [3], "deep": [(9, 4)],
    "deep_dropout": [0.3], "residual": [True, False], "machine": [True, False], "linear": [True, False],
    "penalties": [True, False], "match": [True, ("semantic",), ()], "match_width": [6], "match_passed": [False, True],
    "match_weights": [False, True], "match_shrink": [1.0], "match_mixed": [True, False], "tag_buckets": [41],
    "user_fields": [{"user_id": 51, "username": 20}], "item_fields": [{"illust_id": 61, "artist_id": 30}]}
NO_PART_OF_THE_RANKER = {"form", "exact"}  # another ranker, and a check of its tables
BASES = {
    "paper": {}, "senet": {"contribution": "senet"}, "mixed": {"contribution": "mixed"},
    "mixed of one": {"contribution": "mixed", "experts": 1}, "item": {"contribution": "item"},
    "side by side": {"contribution": "none"}, "no crosses": {"cross_layers": 0}, "match": {"match": True, "counters": True},
    "match mixed": {"match": True, "match_mixed": True}, "undropped": {"attention_dropout": 0.0},
    "projected, undropped": {"attention_dropout": 0.0, "projected_experts": True}, "hadamard": {"score": "hadamard"},
    "batch mean": {"batch_mean": True}, "profile": {"modalities": ["profile"]},
    "content": {"modalities": ["semantic", "style"], "linear": False, "match": True},
    "content, no ids": {"modalities": ["semantic", "style"], "linear": False, "match": True, "ids": False, "counters": True},
    "no ids": {"ids": False}, "no style": {"modalities": ["semantic", "profile"]}, "new ids": {"id_dropout": 0.3},
    **{f"{form} {inputs}": {"form": form, "inputs": inputs} for inputs in ("ids", "authors", "all")
       for form in ("dcn", "xdeepfm", "fibinet", "difm", "dcn_v2", "final_mlp")},
    "dcn_v2 uncrossed": {"form": "dcn_v2", "cross_layers": 0}}


def behaviour(config: RankerConfig) -> list[torch.Tensor]:
    """The weights that it has, as numbers that depend on their place and shape, and what it says and learns with them."""
    torch.manual_seed(0)
    ranker = build_ranker(config, WIDTHS)
    for name in WIDTHS:
        ranker.set_vector_scale(name, torch.full((WIDTHS[name],), 0.3), torch.full((WIDTHS[name],), 2.0))
    batch = random_batch(rows=8)
    fresh = [weight.detach().clone() for weight in ranker.parameters()]
    for part in ranker.parameters():
        part.data += 0.05 * torch.randn(part.shape)  # scores of nothing but zeros would be alike
    torch.manual_seed(1)
    loss = F.binary_cross_entropy_with_logits(ranker(batch).logit_B, batch.label_B)
    penalty = ranker.penalty()
    (loss if penalty is None else loss + penalty).backward()
    learnt = [torch.zeros(1) if weight.grad is None else weight.grad.to_dense() for weight in ranker.parameters()]
    with torch.inference_mode():
        said = ranker.eval()(batch)
    return [*fresh, *learnt, *[part for part in said if part is not None]]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_key_is_tried():
    assert set(OTHER) | NO_PART_OF_THE_RANKER == set(RankerConfig.model_fields)


@pytest.mark.parametrize("base", BASES)
def test_silent_keys_are_those_that_change_nothing(base):
    config = small(**BASES[base])
    as_it_is, silent = behaviour(config), silent_keys(config)
    for key, values in OTHER.items():
        changed = []
        for value in values:
            try:
                other = small(**BASES[base], **{key: value}) if key not in BASES[base] else small(**{**BASES[base], key: value})
            except ValidationError:  # said to change nothing when it is read
                continue
            if other != config:
                changed.append(not same(as_it_is, behaviour(other)))
        if changed:
            assert any(changed) == (key not in silent), f"{base}: {key}"
