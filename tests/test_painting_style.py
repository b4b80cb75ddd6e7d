"""The laws of Gram matrices and of the style vector, and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from umair.model.painting_style import StylePool, gram_matrix, style_vector

torch.set_num_threads(1)


def maps(batch: int = 2, channels: int = 6, size: int = 5, seed: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_a_gram_matrix_by_hand() -> None:
    maps_BCHW = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, -1.0]]]])  # two channels of 2 x 2
    # channel 0 with itself: (1 + 4 + 9 + 16) / 4; with channel 1: (2 - 4) / 4; channel 1 with itself: (1 + 1) / 4
    torch.testing.assert_close(gram_matrix(maps_BCHW), torch.tensor([[[7.5, -0.5], [-0.5, 0.5]]]))


def test_a_style_vector_by_hand() -> None:
    first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, -1.0]]]])  # columns' maxima: 7.5 and 0.5
    second = torch.tensor([[[[1.0, 1.0]], [[2.0, 2.0]]]])  # Gram [[1, 2], [2, 4]]: maxima 2 and 4; another H x W
    torch.testing.assert_close(style_vector([first]), torch.tensor([[7.5, 0.5]]))
    torch.testing.assert_close(style_vector([first, second]), torch.tensor([[7.5, 4.0]]))


def test_it_is_symmetric_and_positive_semi_definite() -> None:
    gram_BJK = gram_matrix(maps())
    torch.testing.assert_close(gram_BJK, gram_BJK.transpose(1, 2))
    assert torch.linalg.eigvalsh(gram_BJK.double()).min() > -1e-6
    assert gram_BJK.diagonal(dim1=1, dim2=2).min() > 0


def test_style_does_not_know_where_things_are() -> None:
    maps_BCHW = maps()
    moved = maps_BCHW.flatten(2)[:, :, torch.randperm(25)].view_as(maps_BCHW)
    torch.testing.assert_close(style_vector([moved]), style_vector([maps_BCHW]))
    other_channels = maps_BCHW.flatten(1)[:, torch.randperm(150)].view_as(maps_BCHW)  # and it can fail
    assert not torch.allclose(style_vector([other_channels]), style_vector([maps_BCHW]))


@pytest.mark.parametrize("factor", [0.5, -2.0, 3.0])
def test_maps_times_c_give_style_times_c_squared(factor: float) -> None:
    layers = [maps(), maps(seed=4)]
    scaled = style_vector([factor * layer for layer in layers])
    torch.testing.assert_close(scaled, factor**2 * style_vector(layers))


def test_it_is_at_least_each_channels_own_energy() -> None:
    maps_BCHW = maps()
    assert (style_vector([maps_BCHW]) >= maps_BCHW.square().mean(dim=(2, 3)) - 1e-6).all()


def test_a_picture_does_not_depend_on_its_batch() -> None:
    maps_BCHW = maps(batch=3)
    torch.testing.assert_close(style_vector([maps_BCHW])[1:2], style_vector([maps_BCHW[1:2]]))


def test_half_precision_maps_are_summed_in_float32() -> None:
    ones = torch.ones(1, 2, 128, 128, dtype=torch.bfloat16) * 3
    with torch.autocast("cpu", torch.bfloat16):
        gram_BJK = gram_matrix(ones)
        uneven = gram_matrix(maps().bfloat16())
    assert gram_BJK.dtype == torch.float32
    torch.testing.assert_close(gram_BJK, torch.full((1, 2, 2), 9.0))
    assert not torch.equal(uneven, uneven.bfloat16().float())  # rounded to bf16 it would lose digits


def test_no_layer_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        style_vector([])


# ---------------------------------------------------------------- other forms
def test_a_sketch_is_what_the_whole_gram_matrix_would_give() -> None:
    maps = torch.randn(2, 5, 4, 3, dtype=torch.float64).float()
    pool = StylePool("gram_sketch", [5], 7)
    left_CY, right_CY = pool.get_buffer("turn_0")
    gram_BJK = gram_matrix(maps)
    expected_BY = torch.einsum("jy,bjk,ky->by", left_CY, gram_BJK, right_CY) * 5
    torch.testing.assert_close(pool([maps]), expected_BY)


def test_moments_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])  # two channels of two positions
    assert StylePool("moments", [2], 4)([maps]).tolist() == [[2.0, 2.0, 1.0, 0.0]]  # means, then deviations


@pytest.mark.parametrize("form", ["gram_sketch", "moments"])
def test_other_forms_do_not_know_where_things_are_either(form: str) -> None:
    maps, order = [torch.randn(3, 6, 4, 4), torch.randn(3, 4, 2, 2)], torch.randperm(16)
    moved = [maps[0].flatten(2)[:, :, order].view_as(maps[0]), maps[1].flip(2, 3)]
    pool = StylePool(form, [6, 4], 8)
    torch.testing.assert_close(pool(maps), pool(moved))
    assert not torch.allclose(pool(maps), pool([maps[0], torch.randn(3, 4, 2, 2)]))  # every layer counts


def test_log_keeps_the_sign() -> None:
    maps = [torch.randn(2, 5, 3, 3)]
    bare_BY, logged_BY = StylePool("gram_sketch", [5], 9)(maps), StylePool("gram_sketch", [5], 9, log=True)(maps)
    torch.testing.assert_close(logged_BY, bare_BY.sign() * torch.log(1 + bare_BY.abs()))
    assert (bare_BY < 0).any()


def test_half_precision_sketches_are_summed_in_float32() -> None:
    maps = torch.full((1, 2, 64, 64), 3.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = StylePool("gram_sketch", [2], 6)([maps])
    torch.testing.assert_close(half, StylePool("gram_sketch", [2], 6)([maps.float()]))

