"""The published rivals: their counts, their formulas written out, what they see, and that each learns."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from batches import WIDTHS, loss_after, random_batch, small, where_known

from umair.baselines.dcn import CrossNet
from umair.baselines.difm import HEAD_WIDTH, HEADS, SelfAttention
from umair.baselines.fibinet import Bilinear, SqueezeExcite
from umair.baselines.final_mlp import FIRST, SECOND, Fusion, Gate
from umair.baselines.rival import Rival
from umair.baselines.rivals import RIVALS
from umair.baselines.xdeepfm import MAPS, InteractionNetwork
from umair.model.ranker import factorization, factors
from umair.parameters import NOTES, parameter_table

ROWS, FIELDS, WIDTH = 4, 5, 3
FORMS = sorted(RIVALS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def rival(form: str, **changes: object) -> Rival:
    return RIVALS[form](small(form=form, **changes), WIDTHS)


def fields() -> torch.Tensor:
    return torch.randn(ROWS, FIELDS, WIDTH)


def double(tensor: torch.Tensor) -> Any:
    return tensor.detach().double().numpy()


# ---------------------------------------------------------------- counts
def test_every_count_of_the_paper_is_exact_but_the_two_that_cannot_be() -> None:
    table = parameter_table()
    assert {name for name, row in table.items() if "difference" in row} == {"w/o UMCM", "w/o ALL"}
    of_table_3 = {"dcn": 10_175_324, "xdeepfm": 10_302_596, "fibinet": 10_424_966, "difm": 10_210_660, "dcn_v2": 10_278_092,
                  "final_mlp": 10_160_912}  # of the paper
    of_table_4 = {"UMAIR-FPS": 10_597_028, "ATT": 10_597_028, "ATT x 2": 10_597_028, "ATT x 4": 10_597_028, "w/o STY": 10_580_580,
                  "w/o SEM": 10_531_428, "w/o SEM as the authors ran it": 10_547_812, "w/o TSEM": 10_564_196,
                  "w/o DCN-V2": 10_522_532, "SEN x 1": 10_597_608, "SEN x 2": 10_598_188, "SEN x 3": 10_598_768,
                  "SEN x 4": 10_599_348}
    known = of_table_3 | of_table_4
    assert {name: (table[name]["keras"], table[name]["paper"]) for name in known} == {name: (count, count) for name, count in known.items()}
    assert set(table) == set(known) | {"w/o UMCM", "w/o ALL"}
    assert table["UMAIR-FPS"] == {"trainable": 10_596_036, "keras": 10_597_028, "paper": 10_597_028}
    assert table["w/o UMCM"]["difference"] == 10_708_772 - 10_556_624
    assert set(NOTES) <= set(table)


# ---------------------------------------------------------------- formulas, in float64
def test_dcn_crosses_by_vectors() -> None:
    net, x0 = CrossNet(6, 2), torch.randn(ROWS, 6)
    torch.nn.init.normal_(net.bias_LD)
    expected = []
    for row in double(x0):
        x = row
        for weight, bias in zip(double(net.weight_LD), double(net.bias_LD), strict=True):
            x = row * (x @ weight) + bias + x
        expected.append(x)
    np.testing.assert_allclose(net(x0).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_xdeepfm_s_maps_are_weighted_products_of_fields() -> None:
    net, x = InteractionNetwork(FIELDS), fields()
    expected = []
    for row in double(x):
        maps, sums = row, []
        for weight in map(double, net.weights):
            maps = np.array([sum(one[i, j] * maps[i] * row[j] for i in range(len(maps)) for j in range(FIELDS)) for one in weight])
            sums.append(maps.sum(1))
        expected.append(np.concatenate(sums))
    assert net(x).shape == (ROWS, sum(MAPS))
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_fibinet_weighs_fields_and_multiplies_pairs() -> None:
    weigh, pairs, x = SqueezeExcite(FIELDS), Bilinear(FIELDS, WIDTH), fields()
    for row, weighed, found in zip(double(x), double(weigh(x)), double(pairs(x)), strict=True):
        hidden = np.maximum(double(weigh.squeeze.weight) @ row.mean(1), 0)
        factors = np.maximum(double(weigh.excite.weight) @ hidden, 0)
        np.testing.assert_allclose(weighed, row * factors[:, None], atol=1e-6)
        products = [(row[i] @ double(pairs.weight_FEE)[i]) * row[j] for i, j in itertools.combinations(range(FIELDS), 2)]
        np.testing.assert_allclose(found, products, atol=1e-6)


def test_difm_attends_between_fields_and_then_multiplies_all_pairs() -> None:
    attention, x = SelfAttention(WIDTH), fields()
    row, found = double(x)[0], double(attention(x))[0]
    query, key, value, rest = (row @ double(layer.weight).T for layer in (attention.query, attention.key, attention.value,
                                                                         attention.residual))
    for head in range(HEADS):
        part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        scores = query[:, part] @ key[:, part].T / HEAD_WIDTH ** 0.5
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(found[:, part], np.maximum(weights @ value[:, part] + rest[:, part], 0), atol=1e-5)
    products = [sum(one[i] @ one[j] for i, j in itertools.combinations(range(FIELDS), 2)) for one in double(x)]
    np.testing.assert_allclose(factorization(factors(x)).numpy(), products, rtol=1e-4, atol=1e-5)


def test_finalmlp_gates_alike_for_all_rows_and_fuses_head_by_head() -> None:
    gate, fusion, x = Gate(FIELDS, 4), Fusion(6, 4), torch.randn(ROWS, 4)
    weights = 2 / (1 + np.exp(-(double(gate.weigh.weight) @ np.ones(FIELDS) + double(gate.weigh.bias))))
    np.testing.assert_allclose(double(gate(x)), double(x) * weights, atol=1e-6)
    torch.nn.init.normal_(fusion.bias_H)
    first, second = torch.randn(ROWS, 6), torch.randn(ROWS, 4)
    expected = []
    for one, other in zip(double(first), double(second), strict=True):
        heads = zip(one.reshape(2, 3), other.reshape(2, 2), double(fusion.first_HX), double(fusion.second_HY),
                    double(fusion.bilinear_HXY), double(fusion.bias_H), strict=True)
        expected.append(sum(bias + a @ o + b @ p + o @ w @ p for o, p, a, b, w, bias in heads))
    np.testing.assert_allclose(double(fusion(first, second)), expected, atol=1e-5)


# ---------------------------------------------------------------- whole logits, in float64 from the weights' names alone
Weights = dict[str, Any]


def drawn(form: str, **changes: object) -> Rival:
    """In evaluation mode; weights are drawn that start as constants, running statistics are those of another batch."""
    model = rival(form, embedding_std=0.5, deep_dropout=0, **changes)
    for weight in model.parameters():
        if weight.unique().numel() == 1:
            torch.nn.init.normal_(weight, std=0.5)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.momentum = 1
    model(random_batch(rows=50, seed=1))
    return model.eval()


def rows_of(table: Any, sizes: list[int], *bucket_BF: torch.Tensor) -> Any:
    """[B, F, E]: rows of a table in which those of each field follow those of the field before."""
    return table[np.concatenate(bucket_BF, 1) + np.cumsum([0, *sizes[:-1]])]


def fields_by_hand(w: Weights, model: Rival, batch: Any) -> Any:
    config = model.config
    user, item = list(config.user_fields.values()), list(config.item_fields.values())
    if config.inputs == "authors":
        rows = rows_of(w["fields.rows.rows.weight"], user + item, batch.user_fields_BF, batch.item_fields_BF)
        tags = w["fields.tags.rows.weight"][np.concatenate([batch.user_tags_BT, batch.item_tags_BT], 1)]
        bias = w["fields.bias_FE"]
        return np.maximum(np.concatenate([rows + bias[:-1], tags + bias[-1]], 1), 0)
    return np.concatenate([part for kind, sizes, fields_BF, tags_BT in (
        ("user", user, batch.user_fields_BF, batch.user_tags_BT), ("item", item, batch.item_fields_BF, batch.item_tags_BT))
        for part in (rows_of(w[f"fields.{kind}_profile.fields.rows.weight"], sizes, fields_BF),
                     w[f"fields.{kind}_profile.tags.rows.weight"][tags_BT])], 1)


def linear_by_hand(w: Weights, model: Rival, batch: Any) -> Any:
    config = model.config
    sizes = [*config.user_fields.values(), *[config.tag_buckets] * 8, *config.item_fields.values(), *[config.tag_buckets] * 4]
    return rows_of(w["linear.weights.rows.weight"], sizes, batch.user_fields_BF, batch.user_tags_BT, batch.item_fields_BF,
                   batch.item_tags_BT).sum((1, 2))


def dense(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def hidden(w: Weights, name: str, layers: int, x: Any) -> Any:
    """Dense, batch norm, ReLU, and a dropout that is still."""
    for place in range(0, 4 * layers, 4):
        norm = f"{name}.{place + 1}"
        x = (dense(w, f"{name}.{place}", x) - w[f"{norm}.running_mean"]) / np.sqrt(w[f"{norm}.running_var"] + 1e-5)
        x = np.maximum(x * w[f"{norm}.weight"] + w[f"{norm}.bias"], 0)
    return x


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def dcn(w: Weights, fields: Any) -> Any:
    x = x0 = fields.reshape(len(fields), -1)
    for weight, bias in zip(w["cross.weight_LD"], w["cross.bias_LD"], strict=True):
        x = x0 * (x @ weight)[:, None] + bias + x
    return dense(w, "out", np.concatenate([x, hidden(w, "deep", 2, x0)], 1))[:, 0]


def dcn_v2(w: Weights, fields: Any) -> Any:
    x = x0 = fields.reshape(len(fields), -1)
    for layer in range(2):
        gate = softmax(dense(w, "cross.gate", x))
        down, core, up, bias = (w[f"cross.{name}"][layer] for name in ("down_LDER", "core_LERR", "up_LERD", "bias_LD"))
        x = x + sum(gate[:, e, None] * x0 * (np.tanh(np.tanh(x @ down[:, e]) @ core[e]) @ up[e] + bias) for e in range(2))
    return dense(w, "out", np.concatenate([x, hidden(w, "deep", 2, x0)], 1))[:, 0]


def xdeepfm(w: Weights, fields: Any) -> Any:
    maps, sums = fields, []
    for layer in range(len(MAPS)):
        maps = np.einsum("hij,bie,bje->bhe", w[f"interactions.weights.{layer}"], maps, fields, optimize=True)
        sums.append(maps.sum(2))
    flat = fields.reshape(len(fields), -1)
    return (dense(w, "out", np.concatenate(sums, 1)) + dense(w, "deep.8", hidden(w, "deep", 2, flat)))[:, 0]


def fibinet(w: Weights, fields: Any) -> Any:
    weight = np.maximum(dense(w, "weigh.excite", np.maximum(dense(w, "weigh.squeeze", fields.mean(2)), 0)), 0)
    pairs = [(each[:, i] @ w[name][i]) * each[:, j] for name, each in (
        ("pairs.weight_FEE", fields), ("weighed_pairs.weight_FEE", fields * weight[:, :, None]))
        for i, j in itertools.combinations(range(fields.shape[1]), 2)]
    return dense(w, "deep.8", hidden(w, "deep", 2, np.concatenate(pairs, 1)))[:, 0]


def difm(w: Weights, fields: Any) -> Any:
    count, flat = fields.shape[1], fields.reshape(len(fields), -1)
    query, key, value = (dense(w, f"attention.{name}", fields).reshape(len(fields), count, HEADS, HEAD_WIDTH)
                         for name in ("query", "key", "value"))
    seen = np.einsum("bhfg,bgha->bfha", softmax(np.einsum("bfha,bgha->bhfg", query, key) / HEAD_WIDTH ** 0.5), value)
    found = np.maximum(seen.reshape(len(fields), count, -1) + dense(w, "attention.residual", fields), 0)
    weight = dense(w, "by_vector", found.reshape(len(fields), -1)) + dense(w, "by_bit", hidden(w, "deep", 2, flat))
    weighed = fields * weight[:, :, None]
    return sum((weighed[:, i] * weighed[:, j]).sum(1) for i, j in itertools.combinations(range(count), 2))


def final_mlp(w: Weights, fields: Any) -> Any:
    flat, found = fields.reshape(len(fields), -1), []
    for place, widths in enumerate((FIRST, SECOND)):
        gate = 2 / (1 + np.exp(-dense(w, f"gates.{place}.weigh", w[f"gates.{place}.context_F"])))
        layers = len(widths) - 1  # the last is dense alone
        last = dense(w, f"streams.{place}.{4 * layers}", hidden(w, f"streams.{place}", layers, flat * gate))
        found.append(last.reshape(len(fields), 2, -1))  # two heads
    one, other = found
    return (np.einsum("bhx,hxy,bhy->b", one, w["fuse.bilinear_HXY"], other) + np.einsum("bhx,hx->b", one, w["fuse.first_HX"])
            + np.einsum("bhy,hy->b", other, w["fuse.second_HY"]) + w["fuse.bias_H"].sum())


JUDGES = {"dcn": dcn, "dcn_v2": dcn_v2, "xdeepfm": xdeepfm, "fibinet": fibinet, "difm": difm, "final_mlp": final_mlp}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inputs", ["ids", "authors"])
def test_a_rivals_logit_is_what_its_paper_says_of_fields_and_a_linear_part(form: str, inputs: str) -> None:
    model, batch = drawn(form, inputs=inputs), random_batch()
    weights = {name: double(tensor) for name, tensor in model.state_dict().items()}
    expected = judged = JUDGES[form](weights, fields_by_hand(weights, model, batch))
    if form != "final_mlp":
        expected = judged + linear_by_hand(weights, model, batch)
    assert judged.std() > 0.01  # a thousand times what it may be off
    np.testing.assert_allclose(double(model(batch).logit_B), expected, rtol=1e-5, atol=1e-5)


def test_the_authors_inputs_are_embeddings_with_a_bias_and_a_relu() -> None:
    """Of a field's embedding e and bias b max(e + b, 0); all twelve tags have one bias."""
    model, batch = drawn("dcn", inputs="authors"), random_batch()
    weights = {name: double(tensor) for name, tensor in model.state_dict().items()}
    found = double(model.fields(batch))
    np.testing.assert_allclose(found, fields_by_hand(weights, model, batch), atol=1e-6)
    first = weights["fields.rows.rows.weight"][batch.user_fields_BF[0, 0]] + weights["fields.bias_FE"][0]
    np.testing.assert_allclose(found[0, 0], np.maximum(first, 0), atol=1e-6)
    assert 0.3 < (found == 0).mean() < 0.7


# ---------------------------------------------------------------- the authors' squared weights
@pytest.mark.parametrize(("form", "factor"), [("dcn", 0.01), ("dcn_v2", 0.05), ("xdeepfm", 0.001), ("fibinet", 0.01), ("difm", 0),
                                              ("final_mlp", 0)])
def test_the_authors_add_squared_weights_of_embeddings_linear_part_deep_layers_and_crosses(form: str, factor: float) -> None:
    model = rival(form, inputs="authors", penalties=True)
    assert rival(form, inputs="authors").penalty() is None
    for weight in model.parameters():
        torch.nn.init.constant_(weight, 2.0)
    config, rows = model.config, sum(model.config.user_fields.values()) + sum(model.config.item_fields.values())
    wide = 23 * config.embedding_width
    into_deep = 23 * 22 * config.embedding_width if form == "fibinet" else wide
    kernels = rows + 12 * config.tag_buckets + into_deep * 16 + 16 * 8  # linear part, hidden layers of 16 and 8
    crosses = {"dcn": 2 * wide, "dcn_v2": 2 * 2 * (wide * 3 + 3 * 3)}  # two layers; V and C of two experts of rank 3
    tables = (rows + config.tag_buckets) * config.embedding_width
    expected = 4 * (0.01 * tables + factor * (kernels + crosses.get(form, 0)))
    assert model.penalty().item() == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- what they see
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inputs", ["ids", "authors", "all"])
def test_a_rival_sees_what_it_is_granted_and_nothing_else(form: str, inputs: str) -> None:
    model, batch = rival(form, inputs=inputs, counters=inputs == "all").eval(), random_batch()
    before = model(batch).logit_B
    of_all = batch.catalogue
    others = {"vectors_BD": {name: of_BD + 1 for name, of_BD in batch.vectors_BD.items()},
              "catalogue": replace(of_all, compact_IC={name: of_IC.flip(0) for name, of_IC in of_all.compact_IC.items()}),
              "bookmarked_BH": batch.bookmarked_BH.flip(0), "passed_BH": batch.passed_BH.flip(0),
              "long_interest_BD": batch.long_interest_BD + 1, "short_interest_BD": batch.short_interest_BD + 1,
              "counters_BC": batch.counters_BC + 1}
    for name, other in others.items():
        same = torch.allclose(model(replace(batch, **{name: other})).logit_B, before, rtol=0, atol=1e-7)
        assert same == (inputs != "all"), name
    for changed in ({"artist_I": of_all.artist_I.flip(0)}, {"tags_IT": of_all.tags_IT.flip(0)}, {"known_IM": 1 - of_all.known_IM}):
        other = model(replace(batch, catalogue=replace(of_all, **changed))).logit_B
        assert torch.allclose(other, before, rtol=0, atol=1e-7) == (inputs != "all"), changed.keys()
    for name in ("user_fields_BF", "user_tags_BT", "item_fields_BF", "item_tags_BT"):
        other = replace(batch, **{name: torch.zeros_like(getattr(batch, name))})
        assert not torch.allclose(model(other).logit_B, before), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inputs", ["authors", "all"])
def test_a_row_does_not_feel_its_batch(form: str, inputs: str) -> None:
    model, batch = rival(form, inputs=inputs, counters=True), random_batch()
    model(batch)
    together = model.eval()(batch).logit_B
    for row in range(len(batch)):
        torch.testing.assert_close(model(batch.rows([row])).logit_B[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inputs", ["ids", "all"])
def test_every_rival_learns_a_batch_by_heart(form: str, inputs: str) -> None:
    model, batch = rival(form, inputs=inputs, deep_dropout=0), random_batch(rows=24)
    assert loss_after(80, model, batch) < 0.15


@pytest.mark.parametrize("form", FORMS)
def test_the_linear_part_stands_beside_all_but_finalmlp(form: str) -> None:
    assert (rival(form).linear is not None) == (form != "final_mlp")
    assert rival(form, linear=False).linear is None


def test_unknown_vectors_and_empty_lists_are_fields_of_zeros() -> None:
    model, batch = rival("dcn", inputs="all").eval(), random_batch()
    nothing = where_known(batch, torch.zeros_like(batch.catalogue.known_IM))
    empty = replace(batch, bookmarked_BH=torch.full_like(batch.bookmarked_BH, -1), passed_BH=torch.full_like(batch.passed_BH, -1))
    assert model.fields.vectors is not None
    unseen_BFE = model.fields.vectors(nothing)
    assert not unseen_BFE[:, 2:11].any()
    alone_BFE = model.fields.vectors(empty)
    assert [bool(alone_BFE[:, place].any()) for place in range(2, 15)] == [True, False, False] * 3 + [False] * 4


@pytest.mark.parametrize("form", FORMS)
def test_a_rival_without_interests_has_two_vectors_less(form: str) -> None:
    model, batch = rival(form, inputs="all", interests=False, vector_fields=3).eval(), random_batch()
    assert model.fields.count == rival(form, inputs="all", vector_fields=3).fields.count - 6
    nothing = {name: torch.zeros(len(batch), 0) for name in ("long_interest_BD", "short_interest_BD")}
    assert torch.equal(model(batch).logit_B, model(replace(batch, **nothing)).logit_B)


@pytest.mark.parametrize("form", FORMS)
def test_a_vector_may_become_several_fields(form: str) -> None:
    """Two interests, and of three modalities the own, the liked and the passed-over vector: 11 vectors."""
    one, three = (rival(form, inputs="all", vector_fields=count).eval() for count in (1, 3))
    assert three.fields.count == one.fields.count + 2 * 11
    batch = random_batch(small())
    assert three.fields(batch).shape == (len(batch), three.fields.count, one.config.embedding_width)
    assert three(batch).logit_B.isfinite().all()
