"""Nearest illustrations: known answers, equality with the plain formula, and that one large number does not decide."""

import numpy as np
import pytest

from umair.embedding import neighbours
from umair.embedding.neighbours import nearest


def scale(vectors):
    return vectors.mean(0), vectors.std(0)


def test_nearest_of_four_directions_by_hand():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], dtype=np.float16)
    found, cosine = nearest(vectors, np.zeros(2), np.ones(2), np.array([0]), np.arange(4), 3)
    assert found.tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(cosine, [[0.9 / np.hypot(0.9, 0.1), 0, -1]], atol=1e-3)


def test_blocks_equal_the_plain_formula(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    vectors, queries, pool = rng.normal(size=(60, 5)), np.array([3, 17, 40]), np.arange(0, 60, 2)
    mean, deviation = scale(vectors)
    found, _ = nearest(vectors, mean, deviation, queries, pool, 6)
    standard = (vectors - mean) / deviation
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    for place, query in enumerate(queries):
        others = pool[pool != query]
        expected = others[np.argsort(-(standard[others] @ standard[query]), kind="stable")][:6]
        assert found[place].tolist() == expected.tolist()


def test_no_illustration_is_its_own_neighbour():
    vectors = np.ones((5, 3)) + np.eye(5, 3)
    found, _ = nearest(vectors, np.zeros(3), np.ones(3), np.arange(5), np.arange(5), 4)
    assert all(query not in row for query, row in enumerate(found.tolist()))


def test_one_large_number_does_not_decide():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 8))
    vectors[1] = vectors[0] + 0.1 * rng.normal(size=8)  # the true neighbour
    loud = vectors.copy()
    loud[:, 0] *= 1_000
    loud[1, 0] = -loud[0, 0] / 100
    assert nearest(loud, *scale(loud), np.array([0]), np.arange(200), 1)[0].item() == 1
    assert nearest(loud, np.zeros(8), np.ones(8), np.array([0]), np.arange(200), 1)[0].item() != 1  # and it can fail


def test_numbers_that_never_vary_count_nothing():
    vectors = np.array([[1.0, 7], [2, 7], [-1, 7], [3, 7]])
    found, cosine = nearest(vectors, np.array([1.25, 7.0]), np.array([1.0, 0.0]), np.array([1]), np.arange(4), 1)
    assert found.item() == 3
    assert cosine.item() == 1.0


def test_a_pool_that_cannot_fill_the_rows_is_refused():
    with pytest.raises(ValueError, match="3 neighbours from a pool of 3"):
        nearest(np.ones((3, 2)), np.zeros(2), np.ones(2), np.array([0]), np.arange(3), 3)
