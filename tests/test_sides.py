"""A pair scored from two sides that were made apart is scored as its row is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import WIDTHS, random_batch, small

from umair.model.batch import Batch
from umair.model.profiles import USER_COUNTERS
from umair.model.ranker import UmairRanker
from umair.model.sides import chosen, joined

VARIANTS = [{}, {"match": True, "counters": True, "match_mixed": True, "id_dropout": 0.2, "standardise": True},
            {"match": ["style"], "match_weights": False, "totals": False}, {"machine": True, "residual": True, "linear": False},
            {"contribution": "senet", "match": True, "match_passed": False}, {"contribution": "none", "ids": False},
            {"contribution": "mixed", "projected_experts": True, "interests": False}, {"modalities": ["semantic"]},
            {"score": "hadamard", "match": ["profile"]}, {"contribution": "item", "text_for_style": True}]


def trained(changes: dict) -> UmairRanker:
    """With batch norm's moments and met ids of a few batches, so that neither is what a fresh one has."""
    torch.manual_seed(0)
    ranker = UmairRanker(small(**changes), WIDTHS)
    for seed in range(1, 4):
        ranker(random_batch(ranker.config, seed=seed))
    return ranker.eval()


def crossed(users: Batch, items: Batch) -> Batch:
    """Each row's user of one batch, its illustration of another."""
    counters_BC = items.counters_BC.clone()
    counters_BC[:, USER_COUNTERS] = users.counters_BC[:, USER_COUNTERS]
    own = ("user_fields_BF", "user_tags_BT", "long_interest_BD", "short_interest_BD", "bookmarked_BH", "passed_BH")
    return replace(items, counters_BC=counters_BC, **{name: getattr(users, name) for name in own})


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_sides_made_once_meet_as_rows_are_scored(changes):
    ranker, batch = trained(changes), random_batch(rows=6)
    user_B, item_B = torch.arange(6).repeat_interleave(6), torch.arange(6).repeat(6)
    prepared = ranker.prepared(batch)
    found = ranker.meet(chosen(ranker.user_side(prepared), user_B), chosen(ranker.item_side(prepared), item_B))
    expected = ranker(crossed(batch.rows(user_B.tolist()), batch.rows(item_B.tolist())))
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert found.logit_B.view(6, 6).std(0).min() > 0  # otherwise equality would say little
    assert found.logit_B.view(6, 6).std(1).min() > 0


@pytest.mark.parametrize("changes", VARIANTS[:4], ids=str)
def test_parts_of_a_side_joined_again_are_the_side(changes):
    ranker, batch = trained(changes), random_batch(rows=6)
    for side in (ranker.user_side(ranker.prepared(batch)), ranker.item_side(ranker.prepared(batch))):
        parts = [chosen(side, slice(0, 2)), chosen(side, torch.tensor([2])), chosen(side, slice(3, 6))]
        for mine, part in zip(joined(parts), side, strict=True):
            assert mine is part is None or torch.equal(mine, part)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_no_side_looks_at_the_other(changes):
    ranker, batch, other = trained(changes), random_batch(rows=6), random_batch(rows=6, seed=9)
    own = replace(other, catalogue=batch.catalogue)
    one, two = (ranker.prepared(each) for each in (crossed(batch, own), crossed(own, batch)))
    whole = ranker.prepared(batch)
    for mine, theirs in ((ranker.user_side(one), ranker.user_side(whole)), (ranker.item_side(two), ranker.item_side(whole))):
        for part, expected in zip(mine, theirs, strict=True):
            assert part is expected is None or torch.equal(part, expected)
