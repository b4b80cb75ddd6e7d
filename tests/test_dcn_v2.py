"""DCN-V2, the rival that knows ids, tags and counters alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import PAPER_WIDTHS, WIDTHS, loss_after, random_batch, small

from umair.baselines.dcn_v2 import DcnV2
from umair.model.batch import Batch
from umair.model.ranker import RankerConfig, count_parameters


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def rival(**changes: object) -> DcnV2:
    return DcnV2(small(form="dcn_v2", **changes), WIDTHS)


def without_content(batch: Batch) -> Batch:
    """Other vectors, interests and histories; the same ids, tags and counters."""
    return replace(batch, vectors_BD={name: of_BD + 1 for name, of_BD in batch.vectors_BD.items()},
                   catalogue=replace(batch.catalogue, known_IM=1 - batch.catalogue.known_IM),
                   long_interest_BD=batch.long_interest_BD + 1, short_interest_BD=batch.short_interest_BD + 1,
                   bookmarked_BH=batch.bookmarked_BH.flip(0), passed_BH=batch.passed_BH.flip(0))


def test_sees_nothing_but_ids_tags_and_counters():
    model, batch = rival(counters=True).eval(), random_batch()
    torch.testing.assert_close(model(without_content(batch)).logit_B, model(batch).logit_B, rtol=0, atol=0)
    for name in ("user_fields_BF", "user_tags_BT", "item_fields_BF", "item_tags_BT"):
        other = replace(batch, **{name: torch.zeros_like(getattr(batch, name))})
        assert not torch.allclose(model(other).logit_B, model(batch).logit_B), name
    assert not torch.allclose(model(replace(batch, counters_BC=batch.counters_BC + 1)).logit_B, model(batch).logit_B)


def test_counters_are_off_unless_asked_for():
    model, batch = rival().eval(), random_batch()
    torch.testing.assert_close(model(replace(batch, counters_BC=batch.counters_BC + 1)).logit_B, model(batch).logit_B)


def test_differs_from_the_papers_count_by_the_second_tag_table_and_the_embeddings_biases():
    counts = count_parameters(DcnV2(RankerConfig(form="dcn_v2"), PAPER_WIDTHS))
    assert counts["keras"] == 10_278_092 + 8_000 * 8 - 12 * 8


def test_a_row_does_not_feel_its_batch_and_one_row_is_a_batch():
    model, batch = rival(counters=True), random_batch()
    model(batch)
    together = model.eval()(batch)
    for row in range(len(batch)):
        torch.testing.assert_close(model(batch.rows([row])).logit_B[0], together.logit_B[row])
    assert together.contribution_BM is None
    assert together.match_BM is None


def test_learns_a_batch_by_heart():
    model, batch = rival(deep_dropout=0), random_batch(rows=24)
    assert loss_after(60, model, batch) < 0.1


def test_one_row_cannot_be_trained_on():
    with pytest.raises(ValueError, match="a batch of one row in training"):
        rival()(random_batch(rows=1))


def test_ignores_the_scale_of_vectors_it_does_not_read():
    model, batch = rival(standardise=True).eval(), random_batch()
    before = model(batch).logit_B
    model.set_vector_scale("style", torch.ones(6), torch.ones(6))
    torch.testing.assert_close(model(batch).logit_B, before)
