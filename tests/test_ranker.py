"""The ranker: its parameter counts against the paper's, its independence of the batch, and its configuration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from batches import PAPER_WIDTHS, SMALL, WIDTHS, known_of, loss_after, random_batch, small, where_known
from pydantic import ValidationError
from torch.nn import functional as F

from umair.config import fingerprint, load_config
from umair.errors import ConfigError, ContractError
from umair.model.batch import COUNTERS, ITEM_FIELDS, MODALITIES, VECTOR_MODALITIES
from umair.model.presets import PRESETS, with_preset
from umair.model.profiles import FieldTable
from umair.model.ranker import RankerConfig, UmairRanker, count_parameters

FORMS = {
    "paper": {},
    "match": {"match": True},
    "match, counters": {"match": True, "counters": True, "standardise": True},
    "no contribution": {"contribution": "none"},
    "no cross, no linear": {"cross_layers": 0, "linear": False},
    "no profile": {"modalities": ["semantic", "style", "text"], "match": ["style"]},
    "profile alone": {"modalities": ["profile"]},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def ranker(**changes: object) -> UmairRanker:
    return UmairRanker(small(**changes), WIDTHS)


# ------------------------------------------------------------ the paper's counts (UMAIR-FPS, tables 3 and 4)
@pytest.mark.parametrize(("keras", "changes"), [
    (10_597_028, {}),
    (10_597_028, {"experts": 1}),  # attention experts have no weights
    (10_597_028, {"experts": 4}),
    (10_580_580, {"modalities": ["semantic", "text", "profile"]}),  # w/o STY
    (10_531_428, {"modalities": ["style", "text", "profile"]}),  # w/o SEM, clean: the paper's row has another bug
    (10_547_812, {"modalities": ["style", "text", "profile"], "text_for_style": True}),  # w/o SEM as the authors ran it
    (10_564_196, {"modalities": ["semantic", "style", "profile"]}),  # w/o TSEM
    (10_522_532, {"cross_layers": 0}),  # w/o DCN-V2
    (10_708_772, {"contribution": "none"}),  # w/o UMCM as the authors' code concatenates
    (10_597_028 - 1_207_044, {"linear": False}),
    (10_597_028 + 2 * 580, {"contribution": "senet", "experts": 2}),
    (10_597_608, {"contribution": "mixed", "experts": 2}),  # one attention, one SENet
    (10_597_028 + 3 * 2 * 64 * 64, {"projected_experts": True}),
    (10_597_028 + 4 * 128, {"residual": True}),
    (10_597_028, {"machine": True}),
])
def test_has_the_papers_parameter_count(keras, changes):
    assert count_parameters(UmairRanker(RankerConfig(**changes), PAPER_WIDTHS))["keras"] == keras


@pytest.mark.parametrize("changes", [
    {"contribution": "item"}, {"contribution": "senet"}, {"contribution": "mixed", "experts": 4}, {"projected_experts": True}, {"score": "hadamard"},
    {"residual": True, "machine": True}, {"modalities": ["style"], "machine": True}, {"contribution": "senet", "senet_sum": True},
])
def test_every_variant_learns_a_batch_by_heart_row_by_row(changes):
    model, batch = ranker(deep_dropout=0, tower_dropout=0, attention_dropout=0, **changes), random_batch(rows=24)
    assert loss_after(80, model, batch) < 0.2
    together = model.eval()(batch).logit_B
    torch.testing.assert_close(model(batch.rows([3])).logit_B[0], together[3], rtol=1e-4, atol=1e-4)


def test_every_preset_sets_the_same_keys_so_that_one_replaces_another():
    assert len({frozenset(keys) for keys in PRESETS.values()}) == 1
    over_umair = RankerConfig(**{**RankerConfig(preset="umair").model_dump(), **with_preset({"preset": "paper"})})
    assert over_umair == RankerConfig(preset="paper") == RankerConfig(penalties=True)


def test_a_preset_is_what_it_says_and_any_key_beside_it_counts_more():
    umair = RankerConfig(preset="umair", deep_dropout=0.4)
    assert (umair.matched, umair.counters, umair.deep, umair.deep_dropout) == (MODALITIES, True, (128, 64, 32), 0.4)
    corrected = RankerConfig(preset="corrected")
    assert (corrected.matched, corrected.counters, corrected.projected_experts, corrected.penalties) == ((), True, True, False)
    with pytest.raises(ValidationError, match="preset 'best'; known: paper, corrected, umair, authors, fair"):
        RankerConfig(preset="best")
    for name in ("authors", "fair"):  # it would be our own ranker, by default, with some of a rival's keys
        with pytest.raises(ValidationError, match=f"preset '{name}' without a form"):
            RankerConfig(preset=name)


@pytest.mark.parametrize("form", ["dcn", "xdeepfm", "fibinet", "difm", "dcn_v2", "final_mlp"])
def test_a_rival_is_as_the_authors_ran_it_or_given_all_that_the_default_reads(form):
    assert RankerConfig(preset="authors", form=form) == RankerConfig(form=form, inputs="authors", penalties=True)
    assert RankerConfig(preset="fair", form=form) == RankerConfig(preset="umair", form=form, inputs="all", vector_fields=3)


@pytest.mark.parametrize(("changes", "text"), [
    ({"batch_mean": True, "score": "hadamard"}, "batch_mean with score hadamard"),
    ({"batch_mean": True, "contribution": "none"}, "batch_mean with contribution none"),
    ({"projected_experts": True, "contribution": "senet"}, "projected_experts with contribution senet"),
    ({"score": "hadamard", "contribution": "item"}, "score hadamard with contribution item"),
])
def test_keys_that_would_change_nothing_are_refused(changes, text):
    with pytest.raises(ValidationError, match=f"{text}, which would change nothing; leave the first out"):
        RankerConfig(**changes)


def test_without_weights_of_the_users_own_matches_are_added_as_they_are():
    torch.manual_seed(0)
    model, batch = ranker(match=True, match_weights=False).eval(), random_batch()
    torch.testing.assert_close(model(batch).match_BM, model.match(batch).sum_BM)
    weighed = ranker(match=True).eval()
    weighed.load_state_dict(model.state_dict(), strict=False)
    for value in (weighed.weigh.weight, weighed.weigh.bias):
        torch.nn.init.constant_(value, 0.0)  # softplus(0) = log 2 for every user and modality
    torch.testing.assert_close(weighed(batch).match_BM, model.match(batch).sum_BM * math.log(2))


def test_only_the_authors_batch_mean_makes_a_row_feel_its_batch():
    model, batch = ranker(batch_mean=True).eval(), random_batch(rows=24)
    assert not torch.allclose(model(batch.rows([3])).logit_B[0], model(batch).logit_B[3], rtol=0, atol=1e-6)


def test_the_machine_adds_the_pairs_of_all_fields():
    torch.manual_seed(0)
    model, batch = ranker(machine=True).eval(), random_batch()
    for table in (model.user_profile, model.item_profile):
        for rows in (table.fields.rows, table.tags.rows):
            torch.nn.init.normal_(rows.weight)
    without = ranker().eval()
    without.load_state_dict({name: value for name, value in model.state_dict().items() if name in without.state_dict()})
    profiles = model.user_profile(batch.user_fields_BF, batch.user_tags_BT), model.item_profile(batch.item_fields_BF, batch.item_tags_BT)
    fields_BFE = torch.cat(profiles, 1).view(len(batch), -1, model.config.embedding_width).double()
    pairs_BFF = torch.einsum("bfe,bge->bfg", fields_BFE, fields_BFE)
    expected_B = pairs_BFF.triu(diagonal=1).sum((1, 2))
    torch.testing.assert_close((model(batch).logit_B - without(batch).logit_B).double(), expected_B, rtol=1e-3, atol=1e-3)


def test_penalties_are_the_authors_squares():
    model = ranker(penalties=True, contribution="senet", experts=1)
    assert ranker().penalty() is None
    for weight in model.parameters():
        torch.nn.init.constant_(weight, 2.0)
    modality = sum(layer.weight.numel() for layer in model.project.values())
    deep = sum(layer.weight.numel() for layer in model.deep[:-1] if isinstance(layer, torch.nn.Linear))
    cross = model.cross.down_LDER.numel() + model.cross.core_LERR.numel()
    senet = 2 * len(model.modalities) * model.config.tower[-1]
    expected = 4 * (1e-4 * modality + 1e-2 * deep + 1e-2 * cross + 1e-3 * senet)
    assert model.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_torch_trains_the_count_without_batch_norms_running_statistics():
    counts = count_parameters(UmairRanker(RankerConfig(), PAPER_WIDTHS))
    assert counts == {"trainable": 10_596_036, "keras": 10_597_028}


# ------------------------------------------------------------ laws
@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_after_training_a_row_does_not_feel_its_batch(changes):
    model, batch = ranker(**changes), random_batch(small(**changes))
    model(batch)  # moves the running statistics
    together = model.eval()(batch)
    assert together.logit_B.shape == (len(batch),)
    for row in range(len(batch)):
        alone = model(batch.rows([row]))
        torch.testing.assert_close(alone.logit_B[0], together.logit_B[row])
        if alone.contribution_BM is not None:
            torch.testing.assert_close(alone.contribution_BM[0], together.contribution_BM[row])


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_learns_a_batch_by_heart_with_every_weight(changes):
    changes = changes | {"tower_dropout": 0, "deep_dropout": 0, "attention_dropout": 0, "standardise": False}
    model, batch = ranker(**changes), random_batch(small(**changes), rows=24)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    touched = {name: False for name, _ in model.named_parameters()}
    for _ in range(40):
        loss = F.binary_cross_entropy_with_logits(model(batch).logit_B, batch.label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        touched = {name: touched[name] or bool((weight.grad != 0).any()) for name, weight in model.named_parameters()}
    assert loss < 0.2
    assert all(touched.values()), [name for name, was in touched.items() if not was]


def test_the_contribution_is_the_users_own_and_skips_what_is_unknown():
    model, batch = ranker().eval(), random_batch(rows=40)
    weight_BM = model(batch).contribution_BM
    assert model.modalities == MODALITIES
    torch.testing.assert_close(weight_BM.sum(1), torch.ones(40))
    for m, name in enumerate(VECTOR_MODALITIES):
        known_B = known_of(batch, name)[batch.item_B]
        assert (weight_BM[~known_B, m] == 0).all()
        assert (weight_BM[known_B, m] > 0).all()
        assert not known_B.all()


def test_an_illustration_without_any_vector_counts_by_its_profile_alone():
    model, batch = ranker(match=True).eval(), random_batch()
    bare = where_known(batch, torch.zeros_like(batch.catalogue.known_IM))
    scores = model(bare)
    assert scores.contribution_BM.tolist() == [[0, 0, 0, 1]] * len(batch)
    assert (scores.match_BM[:, :3] == 0).all()
    assert (scores.match_BM[:, 3] != 0).any()
    assert scores.logit_B.isfinite().all()


def test_text_in_the_styles_place_is_read_twice_and_the_style_never():
    model, batch = ranker(modalities=["style", "text", "profile"], text_for_style=True, standardise=True).eval(), random_batch()
    model.set_vector_scale("style", torch.full((6,), 9.0), torch.full((6,), 9.0))  # of the style, which it does not read
    model.set_vector_scale("text", torch.full((8,), 0.3), torch.full((8,), 2.0))
    assert model.project["style"].in_features == model.project["text"].in_features == WIDTHS["text"]
    assert model.project["style"].mean_D.tolist() == model.project["text"].mean_D.tolist()

    def said(**vectors: torch.Tensor) -> torch.Tensor:
        return model(replace(batch, vectors_BD=batch.vectors_BD | vectors)).logit_B

    torch.testing.assert_close(said(style=torch.full((6, 6), 1e6)), said(), rtol=0, atol=0)
    assert not torch.allclose(said(text=batch.vectors_BD["text"].flip(0)), said())
    known_BM = torch.stack([batch.known("text"), batch.known("text"), batch.known("profile")], 1)
    assert torch.equal(model(batch).contribution_BM > 0, known_BM)  # where there is no text, both places are empty
    assert not known_BM.all()
    assert not torch.equal(batch.known("style"), batch.known("text"))
    with pytest.raises(ValidationError, match="text_for_style with a match of the style, which would read the style itself"):
        small(text_for_style=True, match=True)


@pytest.mark.parametrize("form", ["paper", "match", "no contribution"])
def test_what_stands_where_a_vector_is_unknown_is_never_seen(form):
    model, batch = ranker(**FORMS[form]).eval(), random_batch()
    damaged = {name: of_BD.masked_fill(~batch.known(name)[:, None], 1e6) for name, of_BD in batch.vectors_BD.items()}
    torch.testing.assert_close(model(replace(batch, vectors_BD=damaged)).logit_B, model(batch).logit_B, rtol=0, atol=0)


@pytest.mark.parametrize("experts", [2, 4])
def test_rankers_of_more_attention_experts_are_the_same_ranker(experts):
    one, more, batch = ranker(experts=1).eval(), ranker(experts=experts).eval(), random_batch()
    more.load_state_dict(one.state_dict())
    torch.testing.assert_close(more(batch).logit_B, one(batch).logit_B)


def test_the_match_is_added_to_what_the_head_says():
    model, batch = ranker(match=True).eval(), random_batch()
    scores = model(batch)
    assert model.matched == MODALITIES
    with torch.no_grad():
        model.weigh.bias.fill_(-1e9)  # softplus of which is zero
        model.weigh.weight.zero_()
    torch.testing.assert_close(model(batch).logit_B + scores.match_BM.sum(1), scores.logit_B)


def test_only_the_match_reads_the_history():
    batch = random_batch()
    other = replace(batch, bookmarked_BH=batch.bookmarked_BH.flip(0), passed_BH=batch.passed_BH.flip(0))
    paper, matched = ranker().eval(), ranker(match=True).eval()
    torch.testing.assert_close(paper(other).logit_B, paper(batch).logit_B, rtol=0, atol=0)
    assert not torch.allclose(matched(other).logit_B, matched(batch).logit_B)


@pytest.mark.parametrize("counter", range(len(COUNTERS)), ids=COUNTERS)
def test_each_counter_is_read_if_and_only_if_asked_for(counter):
    batch = random_batch()
    other = replace(batch, counters_BC=batch.counters_BC + 3 * F.one_hot(torch.tensor(counter), len(COUNTERS)))
    paper, counting = ranker().eval(), ranker(counters=True).eval()
    torch.testing.assert_close(paper(other).logit_B, paper(batch).logit_B, rtol=0, atol=0)
    assert not torch.allclose(counting(other).logit_B, counting(batch).logit_B)


def test_scaled_vectors_score_like_vectors_scaled_beforehand():
    batch, mean_D, scale_D = random_batch(), torch.full((6,), 4.0), torch.full((6,), 2.0)
    plain, scaled = ranker(match=True).eval(), ranker(match=True, standardise=True).eval()
    scaled.load_state_dict(plain.state_dict())
    moved = replace(batch, vectors_BD=batch.vectors_BD | {"style": batch.vectors_BD["style"] * scale_D + mean_D})
    scaled.set_vector_scale("style", mean_D, scale_D)
    torch.testing.assert_close(scaled(moved).logit_B, plain(batch).logit_B)
    before_B = plain(moved).logit_B
    plain.set_vector_scale("style", mean_D, scale_D)  # a ranker that does not standardise
    torch.testing.assert_close(plain(moved).logit_B, before_B, rtol=0, atol=0)


# ------------------------------------------------------------ bad input
def test_one_row_cannot_be_trained_on():
    with pytest.raises(ValueError, match="a batch of one row in training"):
        ranker()(random_batch(rows=1))


@pytest.mark.parametrize("form", ["paper", "match"])
def test_vectors_of_another_encoder_are_refused(form):
    batch = random_batch(widths=WIDTHS | {"semantic": 13})
    with pytest.raises(ContractError, match=r"semantic vectors: found 13 numbers; expected 12[.] What to do: embed with"):
        ranker(**FORMS[form])(batch)


@pytest.mark.parametrize("bucket", [-1, 7])
def test_a_bucket_beyond_its_field_is_refused_not_read_from_the_next_field(bucket):
    table = FieldTable([3, 7, 9], width=2, std=1.0)
    with pytest.raises(ValueError, match=f"bucket {bucket} in column 1 of a field table; known: 0 to 6"):
        table(torch.tensor([[2, bucket, 0]]))


def test_fields_have_rows_of_their_own():
    table = FieldTable([3, 7, 9], width=2, std=1.0)
    rows_BFE = table(torch.tensor([[2, 6, 8], [0, 0, 0]]))
    torch.testing.assert_close(rows_BFE, table.rows.weight[torch.tensor([[2, 9, 18], [0, 3, 10]])])


def test_some_of_the_fields_are_read_from_their_own_rows():
    table = FieldTable([3, 7, 9], width=2, std=1.0)
    torch.testing.assert_close(table(torch.tensor([[6, 8], [0, 0]]), first=1), table.rows.weight[torch.tensor([[9, 18], [3, 10]])])
    with pytest.raises(ValueError, match="bucket 7 in column 0 of a field table; known: 0 to 6"):
        table(torch.tensor([[7, 8]]), first=1)


def test_the_linear_part_is_the_sum_of_the_users_share_and_the_illustrations():
    batch, linear = random_batch(), ranker().config.linear_part()
    torch.nn.init.normal_(linear.weights.rows.weight)
    user_B, item_B = linear.of_user(*batch.buckets[:2]), linear.of_item(*batch.buckets[2:])
    torch.testing.assert_close(user_B + item_B, linear(*batch.buckets))
    weight = linear.weights.rows.weight[:, 0]
    starts = torch.tensor([*SMALL.user_fields.values(), *[SMALL.tag_buckets] * 8, *SMALL.item_fields.values()]).cumsum(0)
    first = batch.item_fields_BF[0]
    others = weight[starts[9:18] + first].sum() + weight[starts[-1] + torch.arange(4) * SMALL.tag_buckets + batch.item_tags_BT[0]].sum()
    torch.testing.assert_close(item_B[0], others)


# ------------------------------------------------------------ configuration
def test_fields_that_are_left_out_keep_the_papers_size():
    config = RankerConfig(item_fields={"illust_id": 4096})
    assert config.item_fields == ITEM_FIELDS | {"illust_id": 4096}
    assert list(config.item_fields) == list(ITEM_FIELDS)


def test_modalities_keep_one_order_whatever_the_order_given():
    given, sorted_ = RankerConfig(modalities=["profile", "semantic"]), RankerConfig(modalities=["semantic", "profile"])
    assert given.modalities == ("semantic", "profile")
    assert fingerprint(given) == fingerprint(sorted_)


@pytest.mark.parametrize(("given", "matched"), [
    (True, ("style", "text", "profile")), (False, ()), (["text", "semantic"], ("text",)), ([], ())])
def test_the_match_follows_the_modalities(given, matched):
    assert RankerConfig(match=given, modalities=["style", "text", "profile"]).matched == matched


@pytest.mark.parametrize(("changes", "text"), [
    ({"item_fields": {"ilust_id": 9}}, "no field ilust_id; known: restrict, sanity_level"),
    ({"item_fields": {"illust_id": 0}}, "greater than or equal to 2"),
    ({"modalities": ["semantic", "smell"]}, "Input should be 'semantic', 'style', 'text' or 'profile'"),
    ({"modalities": []}, "at least 1 item"),
    ({"match": ["title"]}, "Input should be 'semantic', 'style', 'text' or 'profile'"),
    ({"deep_dropout": 1.0}, "less than 1"),
    ({"deep": []}, "at least 1 item"),
    ({"tower": [0]}, "greater than 0"),
])
def test_a_wrong_configuration_is_refused(changes, text):
    with pytest.raises(ValidationError, match=text):
        RankerConfig(**changes)


def test_a_file_can_turn_the_match_on_with_one_key(tmp_path):
    (tmp_path / "ranker.yaml").write_text("form: umair\n", encoding="utf-8")
    config = load_config(tmp_path / "ranker.yaml", ["match=true", "item_fields.illust_id=5000"], RankerConfig)
    assert config.matched == MODALITIES
    assert config.item_fields["illust_id"] == 5000
    with pytest.raises(ConfigError, match="key 'item_fields'"):
        load_config(tmp_path / "ranker.yaml", ["item_fields.illust=5000"], RankerConfig)


def test_without_totals_the_binned_counts_are_not_read():
    batch = random_batch()
    other = replace(batch, item_fields_BF=batch.item_fields_BF.clone())
    other.item_fields_BF[:, 3:5] = (other.item_fields_BF[:, 3:5] + 1) % 10  # total_bookmarks, total_view
    for totals in (True, False):
        torch.manual_seed(0)
        ranker = UmairRanker(small(totals=totals), WIDTHS).eval()
        assert torch.equal(ranker(batch).logit_B, ranker(other).logit_B) is not totals


def test_without_interests_the_vectors_of_the_users_tags_are_not_read():
    batch = random_batch()
    for name in ("long_interest_BD", "short_interest_BD"):
        other = replace(batch, **{name: getattr(batch, name) + 1})
        for interests in (True, False):
            torch.manual_seed(0)
            ranker = UmairRanker(small(interests=interests), WIDTHS).eval()
            assert torch.equal(ranker(batch).logit_B, ranker(other).logit_B) is not interests, name
    widths = [UmairRanker(small(interests=interests), WIDTHS).user_tower[0].in_features for interests in (True, False)]
    assert widths[0] - widths[1] == 2 * WIDTHS["text"]


@pytest.mark.parametrize("changes", [{}, {"match": ["style"]}, {"match_width": 5}, {"contribution": "none"}])
def test_mixed_matches_are_what_the_contribution_weighs(changes):
    """The user vector and the illustration stay; only the list of bookmarks is another one."""
    batch = random_batch()
    other = replace(batch, bookmarked_BH=batch.bookmarked_BH.flip(0))
    for mixed in (True, False):
        torch.manual_seed(0)
        ranker = UmairRanker(small(**{"match": True, "match_mixed": mixed, **changes}), WIDTHS).eval()
        seen = []
        ranker.cross.register_forward_hook(lambda module, given, output, seen=seen: seen.append(given[0]))
        one, two = ranker(batch), ranker(other)
        assert torch.equal(*seen) is not mixed
        if one.contribution_BM is not None:
            assert torch.equal(one.contribution_BM, two.contribution_BM) is not mixed


def test_a_mixed_match_is_added_to_its_own_modality():
    torch.manual_seed(0)
    batch, ranker = random_batch(), UmairRanker(small(match=["style", "profile"], match_mixed=True), WIDTHS).eval()
    matches, modality_BMD = ranker.match(batch), torch.zeros(len(batch), 4, ranker.config.tower[-1])
    added_BMD = ranker._with_matches(modality_BMD, matches)
    expected_BMP = ranker.mix(matches.product_BMP)
    assert not added_BMD[:, [0, 2]].any()  # semantic, text
    torch.testing.assert_close(added_BMD[:, [1, 3]], expected_BMP)


CONTENT = {"ids": False, "match": True, "modalities": ["semantic", "style", "text"], "counters": True}


def test_without_ids_no_field_and_no_tag_is_read_and_vectors_and_history_are():
    torch.manual_seed(0)
    batch, ranker = random_batch(), UmairRanker(small(**CONTENT), WIDTHS).eval()
    names = ("user_fields_BF", "user_tags_BT", "item_fields_BF", "item_tags_BT")
    of_all = batch.catalogue
    other = replace(batch, **{name: getattr(batch, name).flip(0) for name in names},
                    catalogue=replace(of_all, artist_I=of_all.artist_I.flip(0), tags_IT=of_all.tags_IT.flip(0)))
    assert torch.equal(ranker(other).logit_B, ranker(batch).logit_B)
    for name in ("bookmarked_BH", "counters_BC"):
        other = replace(batch, **{name: getattr(batch, name).flip(0)})
        assert not torch.allclose(ranker(other).logit_B, ranker(batch).logit_B), name
    assert loss_after(80, UmairRanker(small(**CONTENT, deep_dropout=0), WIDTHS), random_batch(rows=24)) < 0.4
