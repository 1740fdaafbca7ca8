"""Second moments of features, and their decomposition into components. Needs only numpy.

Shapes: n cells of grids (or pooled vectors), C channels, K components.

Products are summed in float64. Products of float16 numbers are exact in float64, and the order in which parts are
merged affects only about the fourteenth digit of the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BLOCK = 4096  # cells per matrix product: a float64 copy of 64 MiB at 2,048 channels


@dataclass(eq=False)
class SecondMoments:
    """Sums over cells ``x``: their number, ``x`` [C], ``x xᵀ`` [C, C] (symmetric); sums in float64."""

    channels: int
    images: int = 0
    cells: int = 0

    def __post_init__(self) -> None:
        self.sums = np.zeros(self.channels)
        self.products = np.zeros((self.channels, self.channels))

    def add(self, features: np.ndarray) -> None:
        """Adds images' features ``[images, ..., C]`` of any float type."""
        cells = features.reshape(-1, self.channels)
        self.images += len(features)
        self.cells += len(cells)
        for start in range(0, len(cells), BLOCK):
            block = cells[start : start + BLOCK].astype(np.float64)
            self.sums += block.sum(0)
            self.products += block.T @ block  # numpy lets BLAS compute only one triangle

    def merge(self, other: SecondMoments) -> None:
        """Adds the sums of another part."""
        self.images += other.images
        self.cells += other.cells
        self.sums += other.sums
        self.products += other.products


class Decomposition(NamedTuple):
    """``vectors`` float64 [K, C], to multiply with unscaled features; ``mean`` float64 [C], or None.

    Of the features (scaled, if scaling is on): ``variance`` float64 [C] along each component, ``total`` variance, and
    ``singular_values`` float64 [C].
    """

    vectors: np.ndarray
    mean: np.ndarray | None
    variance: np.ndarray
    total: float
    singular_values: np.ndarray


def decompose(moments: SecondMoments, count: int, center: bool = False, scale: bool = False) -> Decomposition:
    """Returns the first ``count`` right singular vectors of the matrix of all cells, minus their mean if ``center``.

    They are the eigenvectors of the second moments. A vector's sign is arbitrary; its largest number is made
    positive. With ``scale``, channels are first divided by their root mean squares (standard deviations if
    ``center``: PCA of the correlations). The returned vectors are divided by these too, so they apply to unscaled
    features.
    """
    offset = moments.sums / moments.cells
    second = moments.products / moments.cells
    sizes = np.sqrt(np.maximum(np.diag(second) - offset**2 * center, 0)) if scale else np.ones(len(offset))
    inverse = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    mean, second = offset * inverse, second * np.outer(inverse, inverse)
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean) if center else second)
    values, vectors = np.maximum(values[::-1], 0), vectors.T[::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], axis=1)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    variance = values if center else np.maximum(values - (vectors @ mean) ** 2, 0)
    total = float(np.trace(second) - mean @ mean)
    return Decomposition(
        vectors[:count] * inverse,
        offset if center else None,
        variance,
        total,
        np.sqrt(values * moments.cells),
    )
