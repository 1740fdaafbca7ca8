"""Conversion of colours to sRGB, by the ICC profile in a picture's file."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

SAME = 1  # levels: profiles that say sRGB in other words are not applied
PROFILES = 64  # kept transforms; the pictures of a collection have few different profiles


def to_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Returns uint8 ``[H, W, 3]`` in sRGB, by relative colorimetry; ``profile``: of ``pixels``, None for sRGB.

    Colours that sRGB does not have get its nearest ones. A profile that cannot be read counts as sRGB, as in browsers.
    """
    transform = _transform(profile) if profile else None
    if transform is None:
        return pixels
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))


@functools.lru_cache(maxsize=PROFILES)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform of a profile to sRGB; None for a profile that is sRGB, or broken."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    seen = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return None if np.abs(seen.astype(int) - colours).max() <= SAME else transform
