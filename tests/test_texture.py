"""The laws of fine texture, and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umair.model.texture import DIFFERENCES, SCALES, TEXTURE_WIDTH, THRESHOLDS, texture

torch.set_num_threads(1)
RIGHT, BELOW, FALLING, RISING, ACROSS, DOWN, BOTH = range(DIFFERENCES)


def by_place(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """[B, scale, difference, threshold]"""
    return texture(pixels_BCHW).view(-1, len(SCALES), DIFFERENCES, len(THRESHOLDS))


def pictures(batch: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(5))


def test_stripes_by_hand():
    stripes = torch.zeros(1, 3, 12, 12)
    stripes[..., 1::2] = 0.3  # every other column: neighbours to the right differ by 0.3, those below by nothing
    fine, halved, quartered = by_place(stripes)[0]
    sure = 0.09 / (0.09 + torch.tensor(THRESHOLDS)**2)  # the last threshold is 0.3 itself: one half
    assert sure[-1] == pytest.approx(0.5)
    twice = 0.36 / (0.36 + torch.tensor(THRESHOLDS)**2)  # second differences are 0.6
    for place, expected in ((RIGHT, sure), (FALLING, sure), (RISING, sure), (ACROSS, twice)):
        torch.testing.assert_close(fine[place], expected)
    assert fine[[BELOW, DOWN, BOTH]].abs().max() < 1e-6
    assert torch.cat([halved, quartered]).abs().max() < 1e-6  # averaged over two columns nothing is left


def test_a_single_dot_by_hand():
    dot = torch.zeros(1, 3, 12, 12)
    dot[..., 5, 5] = 1.0  # two of the 12 x 11 differences to the right are 1
    fine = by_place(dot)[0, 0]
    one, two, half, quarter = (value**2 / (value**2 + torch.tensor(THRESHOLDS)**2) for value in (1.0, 2.0, 0.5, 0.25))
    torch.testing.assert_close(fine[RIGHT], 2 * one / (12 * 11))
    torch.testing.assert_close(fine[DOWN], (2 * one + two) / (10 * 12))  # 1, -2, 1
    torch.testing.assert_close(fine[BOTH], (one + 4 * half + 4 * quarter) / (10 * 10))  # 1, -2, 1 times 1, -2, 1, over 4


def test_it_does_not_know_where_things_are_nor_how_bright_they_are():
    tile = pictures(size=8).repeat(1, 1, 8, 8)  # of a pattern that repeats, any window holds the same neighbours
    moved = tile.roll((4, 4), (2, 3))
    torch.testing.assert_close(by_place(tile), by_place(moved), atol=0.03, rtol=0)
    torch.testing.assert_close(texture(0.5 * tile + 0.3), texture(0.5 * tile), atol=1e-5, rtol=0)
    assert (texture(0.5 * tile) - texture(tile)).abs().max() > 0.1  # and how strong they are it does know


def test_turned_by_half_it_is_the_same_and_mirrored_the_diagonals_change_places():
    pixels = pictures()
    torch.testing.assert_close(texture(pixels.flip(2, 3)), texture(pixels))
    swapped = by_place(pixels)[:, :, [RIGHT, BELOW, RISING, FALLING, ACROSS, DOWN, BOTH]]
    torch.testing.assert_close(by_place(pixels.flip(3)), swapped)
    assert not torch.allclose(by_place(pixels), swapped)


def test_it_is_what_numpy_says_in_float64():
    pixels = pictures(batch=3, size=20)
    grey_BHW = pixels.double().numpy().mean(1)
    for place, scale in enumerate(SCALES):
        part = grey_BHW.reshape(3, 20 // scale, scale, 20 // scale, scale).mean((2, 4))
        differences = [np.diff(part, axis=2), np.diff(part, axis=1), part[:, 1:, 1:] - part[:, :-1, :-1],
                       part[:, :-1, 1:] - part[:, 1:, :-1], np.diff(part, 2, axis=2), np.diff(part, 2, axis=1),
                       np.diff(np.diff(part, 2, axis=1), 2, axis=2) / 4]
        expected = [[(d**2 / (d**2 + t**2)).mean((1, 2)) for t in THRESHOLDS] for d in differences]
        np.testing.assert_allclose(by_place(pixels)[:, place].numpy(), np.moveaxis(np.array(expected), 2, 0), atol=2e-6)


def test_more_grain_is_more_of_every_count():
    flat, noise = torch.full((1, 3, 32, 32), 0.5), torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    little, much = (texture(flat + strength * noise) for strength in (0.01, 0.05))
    assert texture(flat).abs().max() < 1e-6
    assert (little > 0).all()
    assert (much > little).all()
    assert (much < 1).all()


def test_a_picture_does_not_depend_on_its_batch_nor_on_a_half_precision_around_it():
    pixels = pictures(batch=3)
    expected = texture(pixels)
    assert (expected.shape, expected.dtype) == ((3, TEXTURE_WIDTH), torch.float32)
    torch.testing.assert_close(texture(pixels[1:2]), expected[1:2])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(texture(pixels), expected, rtol=0, atol=0)
    half = texture(pixels.half())  # sums are float32, so that only the pixels are rounded
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=2e-3, rtol=0)


def test_a_count_is_never_below_zero():
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 256, 256)
    assert (texture(ramp) >= 0).all()
    assert (texture(torch.full((1, 3, 256, 256), 0.7)) >= 0).all()


def test_sides_that_do_not_divide_by_four_lose_their_rest_at_the_coarser_scales():
    pixels = pictures(size=18)
    torch.testing.assert_close(by_place(pixels)[:, 2], by_place(pixels[..., :16, :16])[:, 2])
    assert not torch.allclose(by_place(pixels)[:, 0], by_place(pixels[..., :16, :16])[:, 0])


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="pictures of 8 x 16; texture needs 12 x 12"):
        texture(torch.zeros(1, 3, 8, 16))
