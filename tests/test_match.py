"""The match against the written formula, and what an unknown vector or an empty history may do: nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import WIDTHS, random_batch
from torch import nn

from umair.errors import ContractError
from umair.model.batch import Batch
from umair.model.match import Match, Matches, Place, ProfilePlace, sum_listed
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
        artist = project.artist.weight[batch.item_fields_UF[illustration, 8]].detach().double().numpy()
        tags = [project.tags.weight[tag].detach().double().numpy() for tag in batch.item_tags_UT[illustration] if tag > 0]
        return np.concatenate([artist, np.mean(tags, axis=0) if tags else np.zeros(P - P // 2)])
    weight, bias = project.weight.detach().double().numpy(), project.bias.detach().double().numpy()
    return weight @ batch.compact_UC[modality][illustration].double().numpy() + bias


def written_out(match: Match, batch: Batch, row: int, modality: str) -> np.ndarray:
    """The products of one row and one modality, one illustration at a time, in float64; running statistics."""
    place = match.places[modality]
    known = np.ones(len(batch.item_tags_UT), bool) if modality == "profile" else batch.known_U[modality].numpy()
    mean, deviation = place.norm.running_mean.double().numpy(), (place.norm.running_var.double().numpy() + place.norm.eps) ** 0.5

    def where(illustration: int) -> np.ndarray:
        return (projected(place.project, batch, illustration, modality) - mean) / deviation

    def shrunk_mean(listed: torch.Tensor) -> np.ndarray:
        places = [where(one) for one in listed.tolist() if one >= 0 and known[one]]
        return np.sum(places, axis=0) / (len(places) + SHRINK) if places else np.zeros(P)

    item = int(batch.item_B[row])
    if not known[item]:
        return np.zeros(P)
    taste = shrunk_mean(batch.bookmarked_BH[row]) - shrunk_mean(batch.passed_BH[row])
    mapped = taste @ match.map_MPP[match.modalities.index(modality)].detach().double().numpy()
    return mapped * where(item)


def test_equals_the_formula_row_by_row():
    batch = random_batch(rows=12)
    match = trained_match(batch)
    found = matches_of(match, batch)
    for m, modality in enumerate(match.modalities):
        wanted_BP = np.stack([written_out(match, batch, row, modality) for row in range(len(batch))])
        np.testing.assert_allclose(found.product_BMP[:, m].detach().numpy(), wanted_BP, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.sum_BM[:, m].detach().numpy(), wanted_BP.sum(1), rtol=0, atol=2e-6)
        assert modality == "profile" or found.known_BM[:, m].tolist() == batch.known_U[modality][batch.item_B].tolist()
    assert match.modalities == tuple(MODALITIES)
    assert found.known_BM[:, 3].all()
    assert not all(batch.known_U["style"][batch.item_B])  # the case was there
    assert (batch.bookmarked_BH < 0).all(1).any()


def test_an_illustration_without_vector_matches_nothing_and_says_so():
    batch = random_batch()
    nothing_U = torch.zeros_like(batch.known_U["style"])
    found = matches_of(trained_match(batch), replace(batch, known_U=batch.known_U | {"style": nothing_U}))
    assert (found.product_BMP[:, 1] == 0).all()
    assert not found.known_BM[:, 1].any()
    assert (found.product_BMP[:, 0] != 0).any()  # the other modalities go on


def test_what_stands_where_a_vector_is_unknown_is_never_seen():
    batch = random_batch()
    match = trained_match(batch)
    damaged = {name: of_UC.masked_fill(~batch.known_U[name][:, None], 1e6) for name, of_UC in batch.compact_UC.items()}
    torch.testing.assert_close(matches_of(match, replace(batch, compact_UC=damaged)), matches_of(match, batch), rtol=0, atol=0)
    again = copy.deepcopy(match).train()  # training moves the running statistics
    torch.testing.assert_close(matches_of(again, replace(batch, compact_UC=damaged)), matches_of(match.train(), batch))


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
    item = int(batch.known_U["style"].nonzero()[0])
    one_BH = torch.tensor([[item]])
    alone = replace(batch, item_B=torch.tensor([item]), bookmarked_BH=one_BH, passed_BH=torch.full((1, 1), -1))
    match = trained_match(random_batch())
    place_P = match.places["style"]([batch.compact_UC["style"]], batch.known_U["style"])[item]
    wanted_P = (place_P / 4) @ match.map_MPP[1] * place_P
    torch.testing.assert_close(matches_of(match, alone).product_BMP[0, 1], wanted_P)


def test_after_training_a_row_does_not_feel_its_batch():
    batch = random_batch()
    match = trained_match(batch)
    for row in range(len(batch)):
        torch.testing.assert_close(matches_of(match, batch.rows([row])).product_BMP[0], matches_of(match, batch).product_BMP[row])


def test_statistics_come_from_the_known_illustrations():
    batch = random_batch(illustrations=30)
    place = Place(nn.Linear(WIDTHS["style"], P), P)
    found_UP = place([batch.compact_UC["style"]], batch.known_U["style"])[batch.known_U["style"]]
    torch.testing.assert_close(found_UP.mean(0), torch.zeros(P), rtol=0, atol=1e-5)
    torch.testing.assert_close(found_UP.var(0, unbiased=False), torch.ones(P), rtol=0, atol=1e-3)


@pytest.mark.parametrize("known", [0, 1])
def test_a_batch_with_hardly_a_picture_trains_on_running_statistics(known):
    place, vectors_UD = Place(nn.Linear(WIDTHS["style"], P), P), torch.randn(4, WIDTHS["style"])
    place([vectors_UD], torch.ones(4, dtype=torch.bool))
    before = place.norm.running_mean.clone()
    found_UP = place([vectors_UD], torch.arange(4) < known)
    found_UP.sum().backward()
    torch.testing.assert_close(found_UP, place.eval()([vectors_UD], torch.arange(4) < known))
    torch.testing.assert_close(place.norm.running_mean, before)


def test_sums_of_listed_rows_and_their_gradient():
    value_UX = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    listed_BH = torch.tensor([[0, 0, 8], [3, -1, -1], [-1, -1, -1], [8, 2, -1]])  # a row twice, none at all
    wanted_BX = torch.stack([value_UX[row[row >= 0]].sum(0) for row in listed_BH])
    torch.testing.assert_close(sum_listed(value_UX, listed_BH), wanted_BX)
    weight_BX = torch.randn(4, 4, dtype=torch.float64)
    wanted_UX, = torch.autograd.grad((wanted_BX * weight_BX).sum(), value_UX)
    found_UX, = torch.autograd.grad((sum_listed(value_UX, listed_BH) * weight_BX).sum(), value_UX)
    torch.testing.assert_close(found_UX, wanted_UX)
    assert torch.autograd.gradcheck(lambda value: sum_listed(value, listed_BH), value_UX)


def test_sums_of_lists_that_are_all_empty():
    value_UX = torch.randn(3, 2, requires_grad=True)
    sum_BX = sum_listed(value_UX, torch.full((4, 5), -1))
    sum_BX.sum().backward()
    assert (sum_BX == 0).all()
    assert (value_UX.grad == 0).all()


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
