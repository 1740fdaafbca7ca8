"""Pictures as an endpoint takes them: upright RGB JPEG, of limited size, in a ``data:`` URL."""

from __future__ import annotations


def as_data_url(data: bytes, max_pixels: int) -> str:
    """Returns an image file's bytes as ``data:image/jpeg;base64,...`` of at most ``max_pixels`` pixels.

    Raises ImageError.
    """
    raise NotImplementedError
