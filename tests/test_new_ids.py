"""What a ranker makes of ids that training never met."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import PAPER_WIDTHS, SMALL, WIDTHS, random_batch, small

from umair.model.new_ids import NewIds
from umair.model.ranker import Ranker, RankerConfig, UmairRanker
from umair.training.checkpoint import build_ranker

SIZES = list(SMALL.user_fields.values()), list(SMALL.item_fields.values())


def met(ranker: Ranker, steps: int = 1) -> Ranker:
    """A ranker that has trained on a batch of 64 rows, whose ids are all below half of their buckets."""
    batch = random_batch(rows=64)
    batch = replace(batch, user_fields_BF=batch.user_fields_BF // 2, item_fields_BF=batch.item_fields_BF // 2)
    for _ in range(steps):
        ranker.train()(batch)
    return ranker.eval()


@pytest.mark.parametrize("form", ["umair", "dcn_v2"])
def test_all_that_training_never_met_is_alike(form):
    ranker = met(build_ranker(small(form=form, id_dropout=0.5), WIDTHS))
    batch = random_batch(rows=8)
    fields = batch.user_fields_BF.clone(), batch.item_fields_BF.clone()
    logits = []
    for user, illustration, artist in ((48, 58, 28), (49, 59, 29), (0, 0, 0)):
        fields[0][:, 0], fields[0][:, 1], fields[1][:, 7], fields[1][:, 8] = user, min(user, 19), illustration, artist
        logits.append(ranker(replace(batch, user_fields_BF=fields[0].clone(), item_fields_BF=fields[1].clone())).logit_B)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    torch.testing.assert_close(logits[0], logits[2], rtol=0, atol=0)
    without = met(build_ranker(small(form=form), WIDTHS))  # and it can fail
    other = replace(batch, user_fields_BF=torch.full_like(fields[0], 19))
    assert not torch.equal(without(other).logit_B, without(replace(other, user_fields_BF=other.user_fields_BF * 0)).logit_B)


def test_the_share_of_rows_is_drawn_for_user_illustration_and_artist_apart():
    ids, rows = NewIds(0.25, *SIZES), 20_000
    batch = random_batch(rows=rows)
    batch = replace(batch, user_fields_BF=torch.ones_like(batch.user_fields_BF), item_fields_BF=torch.ones_like(batch.item_fields_BF))
    shown = ids.train()(batch)
    user, name = (shown.user_fields_BF == 0).T
    illustration, artist = (shown.item_fields_BF[:, 7:] == 0).T
    assert torch.equal(user, name)  # a user whose name stays would be no new user
    for new_B in (user, illustration, artist):
        assert new_B.float().mean().item() == pytest.approx(0.25, abs=0.0125)  # 4 standard errors
    assert (user & illustration).float().mean().item() == pytest.approx(1 / 16, abs=0.007)
    assert (illustration & artist).float().mean().item() == pytest.approx(1 / 16, abs=0.007)
    assert torch.equal(shown.item_fields_BF[:, :7], batch.item_fields_BF[:, :7])  # what is no id stays
    assert batch.user_fields_BF.min() == 1  # and the batch itself, which others read


def test_what_was_dropped_was_met_all_the_same():
    ids = NewIds(0.99, *SIZES)
    batch = random_batch(rows=5)
    ids.train()(batch)
    assert torch.equal(ids.eval()(batch).user_fields_BF, batch.user_fields_BF)


def test_the_paper_has_none_of_it():
    assert UmairRanker(RankerConfig(), PAPER_WIDTHS).new_ids is None
