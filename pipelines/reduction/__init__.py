"""Computes the components that reduce features: sums second moments with Beam and decomposes them."""

__all__ = ["svd"]
