"""The match against the written formula, and what an unknown vector or an empty history may do: nothing."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import WIDTHS, known_of, random_batch, where_known
from torch import nn

from umair.errors import ContractError
from umair.model.batch import Batch
from umair.model.listed import Lists, sum_profiles
from umair.model.match import Match, Matches, Places, ProfilePlace
from umair.model.projection import Projection

P, SHRINK = 5, 3.0
MODALITIES = ["semantic", "style", "text", "profile"]


def fresh_match(*, passed: bool = True) -> Match:
    torch.manual_seed(2)
    projects = {**{name: nn.Linear(width, P) for name, width in WIDTHS.items()}, "profile": ProfilePlace(30, 40, P)}
    return Match(projects, P, SHRINK, passed=passed)


def trained_match(batch: Batch) -> Match:
    """In evaluation mode, with running statistics that are not the initial ones."""
    match = fresh_match()
    matches_of(match, batch)
    return match.eval()


def matches_of(match: Match, batch: Batch) -> Matches:
    return match(batch)


def projected(project: nn.Module, batch: Batch, illustration: int, modality: str) -> np.ndarray:
    if modality == "profile":
        artist = project.artist.weight[batch.catalogue.artist_I[illustration]].detach().double().numpy()
        tags = [project.tags.weight[tag].detach().double().numpy() for tag in batch.catalogue.tags_IT[illustration] if tag > 0]
        return np.concatenate([artist, np.mean(tags, axis=0) if tags else np.zeros(P - P // 2)])
    weight, bias = project.weight.detach().double().numpy(), project.bias.detach().double().numpy()
    return weight @ batch.catalogue.compact_IC[modality][illustration].double().numpy() + bias


def written_out(match: Match, batch: Batch, row: int, modality: str) -> np.ndarray:
    """The products of one row and one modality, one illustration at a time, in float64; running statistics."""
    project, norm, width = match.places.projects[modality], match.places.norm, slice(P * (m := match.modalities.index(modality)), P * m + P)
    known = np.ones(len(batch.catalogue), bool) if modality == "profile" else known_of(batch, modality).numpy()
    mean, deviation = norm.running_mean[width].double().numpy(), (norm.running_var[width].double().numpy() + norm.eps) ** 0.5

    def where(illustration: int) -> np.ndarray:
        return (projected(project, batch, illustration, modality) - mean) / deviation

    def shrunk_mean(listed: torch.Tensor) -> np.ndarray:
        places = [where(one) for one in listed.tolist() if one >= 0 and known[one]]
        return np.sum(places, axis=0) / (len(places) + SHRINK) if places else np.zeros(P)

    item = int(batch.item_B[row])
    if not known[item]:
        return np.zeros(P)
    taste = shrunk_mean(batch.bookmarked_BH[row]) - shrunk_mean(batch.passed_BH[row])
    mapped = taste @ match.map_MPP[m].detach().double().numpy()
    return mapped * where(item)


def test_equals_the_formula_row_by_row():
    batch = random_batch(rows=12)
    match = trained_match(batch)
    found = matches_of(match, batch)
    for m, modality in enumerate(match.modalities):
        wanted_BP = np.stack([written_out(match, batch, row, modality) for row in range(len(batch))])
        np.testing.assert_allclose(found.product_BMP[:, m].detach().numpy(), wanted_BP, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.sum_BM[:, m].detach().numpy(), wanted_BP.sum(1), rtol=0, atol=2e-6)
        assert modality == "profile" or found.known_BM[:, m].tolist() == known_of(batch, modality)[batch.item_B].tolist()
    assert match.modalities == tuple(MODALITIES)
    assert found.known_BM[:, 3].all()
    assert not all(known_of(batch, "style")[batch.item_B])  # the case was there
    assert (batch.bookmarked_BH < 0).all(1).any()


@pytest.mark.parametrize("packed", [True, False])
def test_half_precision_as_packs_have_it_moves_the_match_by_little(monkeypatch, packed):
    batch = random_batch(rows=40, history=60)
    halves = {name: of_IC.half() for name, of_IC in batch.catalogue.compact_IC.items()}
    exact = {name: of_IC.float() for name, of_IC in halves.items()}
    match = trained_match(batch)
    wanted = matches_of(match, replace(batch, catalogue=replace(batch.catalogue, compact_IC=exact)))
    monkeypatch.setattr("umair.model.match.Lists", functools.partial(Lists, packed=packed))
    found = matches_of(match, replace(batch, catalogue=replace(batch.catalogue, compact_IC=halves)))
    torch.testing.assert_close(found.product_BMP, wanted.product_BMP, rtol=5e-3, atol=5e-4)
    assert not torch.equal(found.product_BMP, wanted.product_BMP)  # it was rounded


def test_an_illustration_without_vector_matches_nothing_and_says_so():
    batch = random_batch()
    but_style_M = torch.tensor([1.0, 0.0, 1.0])
    found = matches_of(trained_match(batch), where_known(batch, batch.catalogue.known_IM * but_style_M))
    assert (found.product_BMP[:, 1] == 0).all()
    assert not found.known_BM[:, 1].any()
    assert (found.product_BMP[:, 0] != 0).any()  # the other modalities go on


def test_a_user_without_history_matches_nothing():
    batch = random_batch()
    none_BH = torch.full_like(batch.passed_BH, -1)
    found = matches_of(trained_match(batch), replace(batch, bookmarked_BH=none_BH, passed_BH=none_BH))
    assert (found.sum_BM == 0).all()


def test_order_of_history_and_empty_places_mean_nothing():
    batch = random_batch()
    match = trained_match(batch)
    shuffled_BH = torch.cat([batch.bookmarked_BH.flip(1), torch.full_like(batch.bookmarked_BH, -1)], 1)
    padded_BH = torch.cat([batch.passed_BH, torch.full_like(batch.passed_BH, -1)], 1)
    torch.testing.assert_close(matches_of(match, replace(batch, bookmarked_BH=shuffled_BH, passed_BH=padded_BH)), matches_of(match, batch))


def test_swapping_bookmarked_and_passed_turns_the_sign():
    batch = random_batch()
    match = trained_match(batch)
    swapped = matches_of(match, replace(batch, bookmarked_BH=batch.passed_BH, passed_BH=batch.bookmarked_BH))
    torch.testing.assert_close(swapped.sum_BM, -matches_of(match, batch).sum_BM)


def test_what_was_passed_over_can_be_left_out():
    batch = random_batch()
    with_passed, without = trained_match(batch), fresh_match(passed=False)
    without.load_state_dict(with_passed.state_dict())
    nothing_BH = torch.full_like(batch.passed_BH, -1)
    wanted = matches_of(with_passed, replace(batch, passed_BH=nothing_BH)).product_BMP
    torch.testing.assert_close(matches_of(without.eval(), batch).product_BMP, wanted)
    assert not torch.allclose(matches_of(with_passed, batch).product_BMP, wanted)


def test_works_of_one_artist_with_the_same_tags_stand_in_one_place():
    project = ProfilePlace(30, 40, P)
    artist_X, tags_XT = torch.tensor([3, 3, 4]), torch.tensor([[5, 0, 0, 0], [0, 5, 0, 5], [0, 0, 0, 0]])
    place_XP = project(artist_X, tags_XT)
    torch.testing.assert_close(place_XP[0], place_XP[1])
    assert not place_XP[2, P // 2:].any()  # no tag


def test_one_bookmark_counts_a_quarter_with_three_to_shrink():
    batch = random_batch(rows=1)
    item = int(known_of(batch, "style").nonzero()[0])
    one_BH = torch.tensor([[item]])
    alone = replace(batch, item_B=torch.tensor([item]), bookmarked_BH=one_BH, passed_BH=torch.full((1, 1), -1))
    match = trained_match(random_batch())
    of_all = batch.catalogue
    parts = {name: [of_IC] for name, of_IC in of_all.compact_IC.items()} | {"profile": [of_all.artist_I, of_all.tags_IT]}
    place_P = match.places(parts, torch.ones(len(of_all), 4, dtype=torch.bool))[item, 1]
    wanted_P = (place_P / 4) @ match.map_MPP[1] * place_P
    torch.testing.assert_close(matches_of(match, alone).product_BMP[0, 1], wanted_P)


def test_after_training_a_row_does_not_feel_its_batch():
    batch = random_batch()
    match = trained_match(batch)
    for row in range(len(batch)):
        torch.testing.assert_close(matches_of(match, batch.rows([row])).product_BMP[0], matches_of(match, batch).product_BMP[row])


def test_statistics_come_from_the_known_illustrations_of_each_modality():
    of_all = random_batch(illustrations=30).catalogue
    places = Places({name: nn.Linear(WIDTHS[name], P) for name in ("style", "text")}, P)
    known_IM = torch.stack([known_of(random_batch(illustrations=30), name) for name in ("style", "text")], 1)
    assert not torch.equal(known_IM[:, 0], known_IM[:, 1])
    found_IMP = places({name: [of_all.compact_IC[name]] for name in ("style", "text")}, known_IM)
    assert not found_IMP[~known_IM].any()
    for m in range(2):
        found_IP = found_IMP[known_IM[:, m], m]
        torch.testing.assert_close(found_IP.mean(0), torch.zeros(P), rtol=0, atol=1e-5)
        torch.testing.assert_close(found_IP.var(0, unbiased=False), torch.ones(P), rtol=0, atol=1e-3)


def test_places_of_several_modalities_are_those_of_batch_norm_on_each():
    of_all = random_batch(illustrations=30).catalogue
    names, known_IM = ("style", "text"), torch.ones(30, 2, dtype=torch.bool)
    places = Places({name: nn.Linear(WIDTHS[name], P) for name in names}, P)
    nn.init.normal_(places.norm.weight)
    nn.init.normal_(places.norm.bias)
    for training in (True, False):
        found_IMP = places.train(training)({name: [of_all.compact_IC[name]] for name in names}, known_IM)
        for m, name in enumerate(names):
            torchs, columns = nn.BatchNorm1d(P).train(training), slice(P * m, P * m + P)
            torchs.load_state_dict({key: value[columns] if value.ndim else value for key, value in places.norm.state_dict().items()})
            projected_IP = places.projects[name](of_all.compact_IC[name])
            torch.testing.assert_close(found_IMP[:, m], torchs(projected_IP), rtol=1e-4, atol=1e-5)
            if training:
                fresh = nn.BatchNorm1d(P)
                fresh(projected_IP)
                torch.testing.assert_close(places.norm.running_var[columns], fresh.running_var)
                torch.testing.assert_close(places.norm.running_mean[columns], fresh.running_mean)


@pytest.mark.parametrize("known", [0, 1])
def test_a_batch_with_hardly_a_picture_trains_on_running_statistics(known):
    places = Places({name: nn.Linear(WIDTHS[name], P) for name in ("style", "text")}, P)
    parts = {name: [torch.randn(4, WIDTHS[name])] for name in ("style", "text")}
    all_UM = torch.ones(4, 2, dtype=torch.bool)
    places(parts, all_UM)
    before = places.norm.running_mean.clone()
    known_UM = all_UM.clone()
    known_UM[:, 0] = torch.arange(4) < known
    found_UMP = places(parts, known_UM)
    found_UMP.sum().backward()
    torch.testing.assert_close(places.norm.running_mean[:P], before[:P])  # those of the text have moved
    assert not torch.allclose(places.norm.running_mean[P:], before[P:])
    torch.testing.assert_close(found_UMP[:, 0], places.eval()(parts, known_UM)[:, 0])


def test_lists_of_different_lengths_count_as_those_filled_up():
    batch = random_batch()
    match, nothing_B3 = trained_match(batch), torch.full((len(batch), 3), -1)
    longer = replace(batch, passed_BH=torch.cat([batch.passed_BH, nothing_B3], 1))
    torch.testing.assert_close(matches_of(match, longer).product_BMP, matches_of(match, batch).product_BMP)


LISTED_BH = torch.tensor([[0, 0, 8], [3, -1, -1], [-1, -1, -1], [8, 2, -1]])  # one twice, none at all


weighed = functools.partial(Lists, packed=False)  # as on a GPU


@pytest.mark.parametrize("form", [Lists, weighed])
def test_sums_of_listed_rows_and_their_gradient(form):
    table_IX = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    wanted_BX = torch.stack([table_IX[row[row >= 0]].sum(0) for row in LISTED_BH])
    torch.testing.assert_close(form(LISTED_BH).sum(table_IX), wanted_BX)
    weight_BX = torch.randn(4, 4, dtype=torch.float64)
    wanted_IX, = torch.autograd.grad((wanted_BX * weight_BX).sum(), table_IX)
    found_IX, = torch.autograd.grad((form(LISTED_BH).sum(table_IX) * weight_BX).sum(), table_IX)
    torch.testing.assert_close(found_IX, wanted_IX)
    assert form(LISTED_BH).count_B.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(("form", "places"), [(Lists, 5), (Lists, 0), (weighed, 5)])
def test_sums_of_lists_that_are_all_empty(form, places):
    table_IX = torch.randn(3, 2, requires_grad=True)
    sum_BX = form(torch.full((4, places), -1)).sum(table_IX)
    sum_BX.sum().backward()
    assert (sum_BX == 0).all()
    assert (table_IX.grad == 0).all()


@pytest.mark.parametrize("form", [Lists, weighed])
def test_half_precision_is_summed_in_float32(form):
    """1 + 2^-10 added up 1,024 times is 1,025; fp16 alone rounds to whole numbers from 1,024 on, and ends at 65,504."""
    table_IX = torch.tensor([[1 + 2.0 ** -10, 60_000.0]], dtype=torch.float16)  # whose sum no fp16 can hold
    assert form(torch.zeros(1, 1_024, dtype=torch.int32)).sum(table_IX).tolist() == [[1_025, 1_024 * 60_000]]
    assert form(torch.tensor([[0, -1, 0]])).sum(table_IX).tolist() == [[2 + 2.0 ** -9, 120_000]]


@pytest.mark.parametrize("form", [Lists, weighed])
@pytest.mark.parametrize("sparse", [False, True])
def test_profiles_are_summed_alike_one_by_one_and_through_the_catalogue(form, sparse):
    catalogue, project = random_batch().catalogue, ProfilePlace(30, 40, P)
    lists, weight_BP = form(torch.cat([torch.full((1, 12), -1), torch.randint(-1, 20, (4, 12))]).int()), torch.randn(5, P)
    tables = [project.artist.weight, project.tags.weight]
    assert lists.index.numel() > len(catalogue)
    through_BP, = sum_profiles([lists], project.artist, project.tags, catalogue)
    project.artist.sparse = project.tags.sparse = sparse
    one_by_one_BP, = sum_profiles([lists], project.artist, project.tags, catalogue) if sparse else [
        lists.sum_profiles(project.artist, project.tags, catalogue)]
    torch.testing.assert_close(through_BP, one_by_one_BP)
    found, wanted = ([each.to_dense() for each in torch.autograd.grad((sum_BP * weight_BP).sum(), tables)]
                     for sum_BP in (through_BP, one_by_one_BP))
    torch.testing.assert_close(found, wanted)


def test_a_scaled_projection_is_a_projection_of_scaled_vectors():
    plain, scaled = Projection("style", 6, 4), Projection("style", 6, 4)
    scaled.load_state_dict(plain.state_dict())
    vectors_UD, mean_D, scale_D = torch.randn(5, 6) * 3 + 10, torch.full((6,), 10.0), torch.tensor([3.0, 2, 1, 5, 0, 1])
    scaled.set_scale(mean_D, scale_D)
    wanted_UO = plain((vectors_UD - mean_D) / torch.tensor([3.0, 2, 1, 5, 1, 1]))  # what never moves keeps its size
    torch.testing.assert_close(scaled(vectors_UD), wanted_UO)
    plain.load_state_dict(scaled.state_dict())
    torch.testing.assert_close(plain(vectors_UD), wanted_UO)  # the scale travels with the weights


def test_vectors_of_another_width_are_refused():
    projection = Projection("style", 6, 4)
    with pytest.raises(ContractError, match=r"style vectors: found 7 numbers; expected 6[.] What to do: embed with the encoder"):
        projection(torch.zeros(2, 7))
    with pytest.raises(ContractError, match="style vectors: found 5 numbers"):
        projection.set_scale(torch.zeros(5), torch.ones(5))


def test_a_sparse_gradient_names_the_listed_rows_alone():
    catalogue, project = random_batch().catalogue, ProfilePlace(30, 40, P)
    project.artist.sparse = project.tags.sparse = True
    sum_BP, = sum_profiles([Lists(torch.tensor([[3] * 30]))], project.artist, project.tags, catalogue)  # longer than the catalogue
    sum_BP.sum().backward()
    assert set(project.artist.weight.grad.coalesce().indices()[0].tolist()) == {int(catalogue.artist_I[3])}
    assert set(project.tags.weight.grad.coalesce().indices()[0].tolist()) == set(catalogue.tags_IT[3].tolist())
