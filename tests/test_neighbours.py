"""Nearest illustrations: known answers, equality with the plain formula, and what an approximate search misses."""

from typing import Any

import numpy as np
import pytest

from umair.neighbours import NearestIllustrations, approximate_recall


def scale(vectors: Any) -> tuple[Any, Any]:
    return vectors.mean(0), vectors.std(0)


def as_they_are(width: int) -> tuple[Any, Any]:
    return np.zeros(width), np.ones(width)


def test_nearest_of_four_directions_by_hand() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], dtype=np.float16)
    found, cosine = NearestIllustrations(vectors, *as_they_are(2), np.arange(4)).nearest(np.array([0]), 3)
    assert found.tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(cosine, [[0.9 / np.hypot(0.9, 0.1), 0, -1]], atol=1e-3)


def test_an_exact_search_equals_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    vectors, queries, pool = rng.normal(size=(60, 5)), np.array([3, 17, 40]), np.arange(0, 60, 2)
    mean, deviation = scale(vectors)
    index = NearestIllustrations(vectors, mean, deviation, pool)
    found, cosine = index.nearest(queries, 6)
    standard = (vectors - mean) / deviation
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    for place, query in enumerate(queries):
        others = pool[pool != query]
        expected = others[np.argsort(-(standard[others] @ standard[query]))][:6]
        assert found[place].tolist() == expected.tolist()
        np.testing.assert_allclose(cosine[place], standard[expected] @ standard[query], atol=1e-6)
    assert (index.exact, index.recall(queries, 6)) == (True, 1.0)


def test_no_illustration_is_its_own_neighbour_not_even_among_equals() -> None:
    near = NearestIllustrations(np.ones((5, 3)) + np.eye(5, 3), *as_they_are(3), np.arange(5)).nearest(np.arange(5), 4)[0]
    assert all(query not in row for query, row in enumerate(near.tolist()))
    equal = NearestIllustrations(np.ones((40, 3)), *as_they_are(3), np.arange(40)).nearest(np.arange(40), 4)[0]
    assert equal.shape == (40, 4)
    assert all(query not in row for query, row in enumerate(equal.tolist()))


def test_what_an_inverted_file_finds_among_vectors_of_ones_own() -> None:
    rng = np.random.default_rng(0)
    clustered = rng.normal(size=(40, 16)).repeat(100, 0) + 0.1 * rng.normal(size=(4_000, 16))
    scattered = rng.normal(size=(40_000, 64))  # 625 lists of which 32 are looked into, and no cluster to find
    assert approximate_recall(clustered, 10, queries=200) > 0.99
    assert 32 / 625 < approximate_recall(scattered, 10, queries=200) < 0.9


def test_one_large_number_does_not_decide() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 8))
    vectors[1] = vectors[0] + 0.1 * rng.normal(size=8)  # the true neighbour
    loud = vectors.copy()
    loud[:, 0] *= 1_000
    loud[1, 0] = -loud[0, 0] / 100
    assert NearestIllustrations(loud, *scale(loud), np.arange(200)).nearest(np.array([0]), 1)[0].item() == 1
    raw = NearestIllustrations(loud, *as_they_are(8), np.arange(200))
    assert raw.nearest(np.array([0]), 1)[0].item() != 1  # and it can fail


def test_numbers_that_never_vary_count_nothing() -> None:
    vectors = np.array([[1.0, 7], [2, 7], [-1, 7], [3, 7]])
    index = NearestIllustrations(vectors, np.array([1.25, 7.0]), np.array([1.0, 0.0]), np.arange(4))
    found, cosine = index.nearest(np.array([1]), 1)
    assert found.item() == 3
    assert cosine.item() == 1.0


def test_a_pool_that_cannot_fill_the_rows_is_refused() -> None:
    index = NearestIllustrations(np.ones((3, 2)), *as_they_are(2), np.arange(3))
    with pytest.raises(ValueError, match="3 neighbours from a pool of 3"):
        index.nearest(np.array([0]), 3)


def test_beyond_the_stated_size_the_search_is_approximate_and_says_what_it_misses() -> None:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(200, 16))
    vectors = (centres[rng.integers(0, 200, 20_000)] + 0.3 * rng.normal(size=(20_000, 16))).astype(np.float16)
    pool, queries = np.arange(0, 20_000, 2), np.arange(0, 20_000, 200)
    index = NearestIllustrations(vectors, *scale(vectors.astype(np.float32)), pool, exact_most=9_999)
    found, cosine = index.nearest(queries, 10)
    assert not index.exact
    assert set(found.ravel().tolist()) <= set(pool.tolist())
    assert (np.diff(cosine, axis=1) <= 0).all()
    assert 0.9 < index.recall(queries, 10) <= 1.0
    even = NearestIllustrations(rng.normal(size=(20_000, 16)), *as_they_are(16), np.arange(20_000), exact_most=9_999)
    even._index.nprobe = 1
    assert even.recall(queries, 10) < 0.6  # without clusters one list holds few of them
