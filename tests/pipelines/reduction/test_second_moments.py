"""Second moments: summed in any order and partition, and what is decomposed of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionbeam.pipelines.reduction import second_moments as module
from captionbeam.pipelines.reduction.second_moments import SecondMoments, decompose
from captionbeam.pipelines.reduction.svd import SumMoments


def features(images: int = 40, channels: int = 6, seed: int = 0) -> np.ndarray:
    """Grids ``[images, 2, 2, channels]`` whose channels lean on each other and have a mean, float16."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((images, 2, 2, channels)) * np.arange(channels, 0, -1)
    return (mixed @ random.standard_normal((channels, channels)) + 1).astype(np.float16)


def gathered(*parts: np.ndarray) -> SecondMoments:
    combine = SumMoments(parts[0].shape[-1])
    accumulators = [combine.add_input(combine.create_accumulator(), part) for part in parts]
    return combine.extract_output(combine.merge_accumulators(accumulators))


def test_the_vectors_are_the_right_singular_vectors_of_all_cells():
    matrix = features().reshape(-1, 6).astype(np.float64)
    found = decompose(gathered(features()), 4)
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    assert np.abs(found.vectors @ vectors.T).round(9).tolist() == np.eye(4, 6).tolist()
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-10)


@pytest.mark.parametrize("center", [False, True])
def test_of_scaled_channels_they_are_those_of_channels_of_equal_size(center):
    """Divided by the sizes themselves: they multiply features as they are. A channel of noughts stays out of it."""
    rows = features()
    rows[..., 4] = 0
    matrix = rows.reshape(-1, 6).astype(np.float64)
    moved = matrix - matrix.mean(0) * center
    sizes = np.sqrt((moved**2).mean(0))
    scaled = np.divide(moved, sizes, out=np.zeros_like(moved), where=sizes > 0)
    found = decompose(gathered(rows), 4, center, scale=True)
    _, values, vectors = np.linalg.svd(scaled, full_matrices=False)
    signs = np.sign((scaled @ vectors[:4].T * (moved @ found.vectors.T)).sum(0))
    np.testing.assert_allclose(moved @ found.vectors.T, scaled @ vectors[:4].T * signs, atol=1e-8)
    np.testing.assert_allclose(found.singular_values[:5], values[:5], rtol=1e-9)
    assert found.vectors[:, 4].tolist() == [0] * 4
    assert found.total == pytest.approx(scaled.var(0).sum())


@pytest.mark.parametrize("center", [False, True])
def test_the_variance_is_that_of_the_projected_features(center):
    matrix = features().reshape(-1, 6).astype(np.float64)
    found = decompose(gathered(features()), 6, center)
    np.testing.assert_allclose(found.variance, (matrix @ found.vectors.T).var(0), rtol=1e-9)
    assert found.total == pytest.approx(matrix.var(0).sum(), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(30)), st.lists(st.integers(1, 29), max_size=6), st.integers(1, 50))
def test_any_order_partition_and_block_gives_the_same(order, cuts, block):
    rows = features(30)
    whole, parts = gathered(rows), np.split(rows[list(order)], sorted(set(cuts)))
    before, module.BLOCK = module.BLOCK, block
    try:
        merged = gathered(*parts)
    finally:
        module.BLOCK = before
    assert (merged.images, merged.cells) == (30, 120)
    np.testing.assert_allclose(merged.sums, whole.sums, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(merged.products, whole.products, rtol=1e-10)
    one, other = decompose(merged, 6), decompose(whole, 6)
    np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-10)
