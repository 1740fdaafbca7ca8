"""JPEGs: the fast decoder gives Pillow's pixels, whole or scaled, and tells of pixel data that ends early."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.schemas.errors import ImageError
from tests.builders.data.images import drawn, encoded, exif

KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "rgb": {"keep_rgb": True},
}


def pillow(data: bytes, scale: int = 1) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.draft(None, (image.width // scale, image.height // scale))
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (37, 51), (160, 120)])
def test_pixels_equal_pillows(name: str, size: tuple[int, int]):
    data = encoded(drawn(*size), "JPEG", **KINDS[name])
    np.testing.assert_array_equal(decode_image(data), pillow(data))


def test_a_grey_jpeg_has_three_equal_channels():
    data = encoded(Image.fromarray(drawn()).convert("L"), "JPEG")
    np.testing.assert_array_equal(decode_image(data), pillow(data))


@pytest.mark.parametrize(("side", "scale"), [(121, 1), (120, 1), (61, 1), (60, 2), (30, 4), (15, 8), (1, 8)])
def test_a_side_that_is_enough_decides_the_scale(side: int, scale: int):
    data = encoded(drawn(161, 120), "JPEG", progressive=True)
    pixels = decode_image(data, side=side)
    assert pixels.shape == (120 // scale, -(-161 // scale), 3)
    np.testing.assert_array_equal(pixels, pillow(data, scale))


def test_scaled_leaves_twice_the_resized_side_and_small_pictures_alone():
    whole, scaled = Preprocess(24, 32), Preprocess(24, 32, decode="scaled")
    small, large = (encoded(drawn(2 * side, side), "JPEG", exif=exif(6)) for side in (127, 128))
    np.testing.assert_array_equal(scaled.prepare(small), whole.prepare(small))
    np.testing.assert_array_equal(scaled.prepare(large), whole.pixels(np.rot90(pillow(large, 2), -1)))


def test_pixel_data_that_ends_early_is_truncated_with_an_end_marker_too():
    data = encoded(drawn(160, 120), "JPEG")
    for cut in (data[: len(data) // 2] + b"\xff\xd9", data[: len(data) // 2]):
        with pytest.raises(ImageError) as caught:
            decode_image(cut)
        assert caught.value.code == "truncated"
    whole = f"JPEG of {len(data) // 2 + 2} bytes: its pixel data ends early"
    with pytest.raises(ImageError, match=whole):
        decode_image(data[: len(data) // 2] + b"\xff\xd9")


def test_bytes_between_segments_are_passed_over_as_pillow_does():
    data = encoded(drawn(), "JPEG")
    padded = data[:-2] + b"\x00\x01\x02" + data[-2:]
    np.testing.assert_array_equal(decode_image(padded), pillow(data))
