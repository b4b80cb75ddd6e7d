"""Precision among the nearest: by hand, against a plain loop, and what the grid of pictures holds."""

from __future__ import annotations

import numpy as np
import pytest

from umair.evaluation.retrieval import precision_among_others, standardised
from umair.world.grid import draw_grid


def test_a_vector_that_is_the_style_finds_it_and_nothing_else():
    style, content = (grid.ravel() for grid in np.meshgrid(np.arange(6), np.arange(5), indexing="ij"))
    angle = style * 2 * np.pi / 6
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1)
    found = precision_among_others(vectors, style, content, 4)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.chance == pytest.approx(4 / 24)  # of 24 pictures with another content, 4 have the style
    assert precision_among_others(vectors, content, style, 5).mean == pytest.approx(1 / 5, abs=0.05)


def test_precision_equals_a_plain_loop():
    random = np.random.default_rng(3)
    vectors, wanted, other = random.normal(size=(70, 4)), random.integers(0, 5, 70), random.integers(0, 4, 70)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = []
    for query in range(70):
        allowed = [place for place in range(70) if other[place] != other[query]]
        near = sorted(allowed, key=lambda place: -(unit[place] @ unit[query]))[:7]
        shares.append(np.mean([wanted[place] == wanted[query] for place in near]))
    found = precision_among_others(vectors, wanted, other, 7)
    assert found.mean == pytest.approx(np.mean(shares))
    assert found.low < found.mean < found.high


def test_standardised_by_hand():
    assert standardised(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist() == [[-1, 0], [1, 0]]


def test_every_content_in_every_style_and_no_two_alike():
    pictures = list(draw_grid(3, 2, 48, seed=1))
    assert [(each.style, each.content) for each in pictures] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    again = list(draw_grid(3, 2, 48, seed=1))
    assert all(np.array_equal(one.pixels, two.pixels) for one, two in zip(pictures, again, strict=True))
    assert len({each.pixels.tobytes() for each in pictures}) == 6
    other = next(draw_grid(3, 2, 48, seed=2))
    assert not np.array_equal(other.pixels, pictures[0].pixels)
