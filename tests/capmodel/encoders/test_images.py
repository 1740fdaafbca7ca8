"""decode_image: every kind of picture becomes upright, opaque, eight-bit RGB, or says what is wrong with it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captionbeam.capmodel.encoders.images import MAX_PIXELS, decode_image
from captionbeam.schemas.errors import ImageError
from tests.builders.data.images import drawn, encoded, exif, png_of_size

PICTURE = drawn()
FILES = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "progressive": encoded(PICTURE, "JPEG", progressive=True),
    "cmyk": encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"),
    "png": encoded(PICTURE, "PNG"),
    "webp": encoded(PICTURE, "WEBP", lossless=True),
    "gif": encoded(PICTURE, "GIF"),
    "bmp": encoded(PICTURE, "BMP"),
    "tiff": encoded(PICTURE, "TIFF"),
    "tiff-lzw": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
}


def failure(data: bytes, **options: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    assert caught.value.stage == "decode"
    return caught.value


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["png", "webp", "bmp", "tiff", "tiff-lzw"])
def test_formats_without_loss_give_every_pixel_back(name):
    pixels = decode_image(FILES[name])
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 48, 3))
    np.testing.assert_array_equal(pixels, PICTURE)


@pytest.mark.parametrize("options", [{"subsampling": 2}, {"progressive": True}])
def test_a_jpeg_loses_little(options):
    picture = drawn(51, 37)
    pixels = decode_image(encoded(picture, "JPEG", quality=95, **options))
    assert np.abs(pixels.astype(int) - picture).mean() < 4


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">")])
def test_sixteen_bits_are_scaled_and_rounded_not_clipped(kind, order):
    wide = np.array([[0, 128, 129, 257], [32768, 65000, 65406, 65407], [65535, 1, 256, 385]], np.uint16)
    image = Image.frombytes("I;16" if order == "<" else "I;16B", (4, 3), wide.astype(f"{order}u2").tobytes())
    expected = np.rint(wide / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(image, kind)), three(expected))


def test_pixels_without_a_stated_range_are_not_guessed_at():
    for mode in ("F", "I"):
        error = failure(encoded(Image.new(mode, (3, 2), 7), "TIFF"))
        assert (error.code, error.message) == (
            "unsupported",
            f"TIFF with pixels of mode {mode}; expected 8 or 16 bits a channel",
        )


def test_alpha_lies_on_white():
    image = Image.new("RGBA", (3, 1), (200, 100, 0, 0))
    image.putpixel((1, 0), (200, 100, 0, 255))
    image.putpixel((2, 0), (200, 100, 0, 51))
    expected = [[[255, 255, 255], [200, 100, 0], [244, 224, 204]]]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert decode_image(encoded(image, kind, **options)).tolist() == expected


def test_a_palettes_colours_and_its_transparent_one():
    image = Image.new("P", (3, 1))
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
    image.putdata([0, 1, 2])
    assert decode_image(encoded(image, "PNG")).tolist() == [[[250, 0, 0], [0, 250, 0], [0, 0, 250]]]
    for kind in ("PNG", "GIF"):
        seen = decode_image(encoded(image, kind, transparency=1))
        assert seen.tolist() == [[[250, 0, 0], [255, 255, 255], [0, 0, 250]]]


def test_a_png_colour_that_means_transparent_lies_on_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode_image(encoded(image, "PNG", transparency=(1, 2, 3))).tolist() == [
        [[255, 255, 255], [4, 5, 6]]
    ]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_it_was_made_from(kind):
    patches = np.zeros((16, 64, 3), np.uint8)
    for index, colour in enumerate([(255, 255, 255), (0, 0, 0), (200, 40, 90), (20, 160, 70)]):
        patches[:, 16 * index : 16 * (index + 1)] = colour
    data = encoded(Image.fromarray(patches).convert("CMYK"), kind)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_allclose(decode_image(data).astype(int), patches, atol=3)


STORED = {  # how an upright picture lies in a file of each orientation
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_comes_out_upright(orientation):
    stored = np.ascontiguousarray(STORED[orientation](PICTURE))
    np.testing.assert_array_equal(decode_image(encoded(stored, "PNG", exif=exif(orientation))), PICTURE)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_a_broken_exif_block_turns_nothing(block):
    data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + block)
    assert decode_image(data).shape[2] == 3


def test_an_animation_gives_its_first_frame():
    second = Image.fromarray(PICTURE[::-1].copy())
    data = encoded(PICTURE, "PNG", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(decode_image(data), PICTURE)


def test_no_bytes_are_empty():
    assert failure(b"").code == "empty"


@pytest.mark.parametrize("data", [b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_unsupported(data):
    error = failure(data)
    assert error.code == "unsupported"
    assert repr(data[:16]) in error.message


def test_more_pixels_than_the_limit_are_too_large():
    error = failure(FILES["png"], max_pixels=48 * 32 - 1)
    assert (error.code, error.message) == ("too_large", "48 x 32 pixels; expected at most 1535 in all")
    assert decode_image(FILES["png"], max_pixels=48 * 32).shape == (32, 48, 3)


def test_a_bomb_is_told_by_its_header():
    error = failure(png_of_size(10_001, 10_001))
    assert error.code == "too_large"
    assert str(MAX_PIXELS) in error.message


def outcome(data: bytes) -> np.ndarray | ImageError:
    try:
        return decode_image(data, max_pixels=1_000_000)
    except ImageError as error:
        return error


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1))
def test_of_a_file_cut_anywhere_comes_all_or_an_error(name, share):
    data = FILES[name][: int(share * len(FILES[name]))]
    result = outcome(data)
    if isinstance(result, ImageError):
        assert result.code in {"empty", "truncated", "decode"} or (
            result.code == "unsupported" and len(data) < 12
        )
    else:
        np.testing.assert_array_equal(result, decode_image(FILES[name]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6)
)
def test_damaged_bytes_raise_nothing_but_image_errors(name, damages):
    data = bytearray(FILES[name])
    for place, value in damages:
        data[int(place * len(data))] = value
    result = outcome(bytes(data))
    if isinstance(result, ImageError):
        assert result.stage == "decode"
    else:
        assert (result.dtype, result.ndim, result.shape[2]) == (np.uint8, 3, 3)
