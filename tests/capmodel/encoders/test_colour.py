"""--colour srgb: colours of a profile's space come out as the sRGB values that the standards' formulas give."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.encoders.preprocess import Preprocess
from tests.builders.data.images import drawn, encoded
from tests.builders.data.profiles import ADOBE_RGB, DISPLAY_P3, SRGB, Space

LEVELS = np.arange(0, 256, 17, dtype=np.uint8)
PATCHES = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), -1).reshape(64, 64, 3)


@pytest.mark.parametrize("space", [DISPLAY_P3, ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_wide_gamut_colours_are_those_of_the_formula_to_one_level(space: Space, kind: str):
    data = encoded(PATCHES, kind, icc_profile=space.profile())
    difference = decode_image(data, srgb=True) - space.in_srgb(PATCHES)
    assert np.abs(difference).max() < 1
    np.testing.assert_array_equal(decode_image(data), PATCHES)


def test_a_jpeg_of_a_phone_is_converted_before_the_resize():
    data = encoded(drawn(96, 64), "JPEG", icc_profile=DISPLAY_P3.profile())
    stored = Preprocess(32, 32)
    converted = encoded(decode_image(data, srgb=True), "PNG")
    np.testing.assert_array_equal(Preprocess(32, 32, colour="srgb").prepare(data), stored.prepare(converted))
    assert not np.array_equal(stored.prepare(data), stored.prepare(converted))


@pytest.mark.parametrize(
    "profile",
    [
        SRGB.profile(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        DISPLAY_P3.profile()[:200],
    ],
    ids=["sRGB", "sRGB of lcms", "cut off"],
)
def test_profiles_of_srgb_and_broken_ones_change_nothing(profile: bytes):
    np.testing.assert_array_equal(
        decode_image(encoded(PATCHES, "PNG", icc_profile=profile), srgb=True), PATCHES
    )


def test_a_profile_of_other_channels_than_the_pixels_changes_nothing():
    grey = Image.fromarray(PATCHES[..., 0])
    data = encoded(grey, "PNG", icc_profile=DISPLAY_P3.profile())
    np.testing.assert_array_equal(decode_image(data, srgb=True), decode_image(data))
