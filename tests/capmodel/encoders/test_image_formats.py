"""HEIC, AVIF, JPEG 2000 and JPEG XL: read like every other picture, or a sentence says what is wrong."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from captionbeam.capmodel.encoders.image_files import boxes, format_of
from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.schemas.errors import ImageError
from tests.builders.data.images import drawn, encoded, exif, png_of_size

PICTURE = drawn()
EXACT = {
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "JPEG2000": {},
    "JXL": {"lossless": True},
}
FILES = {kind: encoded(PICTURE, kind, **options) for kind, options in EXACT.items()}
FILES["codestream"] = encoded(PICTURE, "JPEG2000", no_jp2=True)
FILES["container"] = encoded(PICTURE, "JXL", lossless=True, use_container=True)
TILES = encoded(drawn(300, 200), "HEIF", tile_size=128)  # as telephones write them


def jpeg_as_jxl(jpeg: bytes) -> bytes:
    """A JPEG XL from which the JPEG can be had back, bit by bit, as cjxl makes of JPEGs."""
    from pillow_jxl import Encoder

    encode = Encoder(mode="RGB", lossless=True, use_container=True, use_original_profile=False)
    return bytes(encode(jpeg, 48, 32, jpeg_encode=True))


def brand(data: bytes, major: bytes) -> bytes:
    return data[:8] + major + data[12:]


def failure(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_every_pixel_comes_back(name):
    pixels = decode_image(FILES[name])
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 48, 3))
    np.testing.assert_allclose(pixels.astype(int), PICTURE, atol=3 if name == "AVIF" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_once(orientation):
    for kind in ("HEIF", "AVIF"):
        turned = decode_image(encoded(PICTURE, kind, exif=exif(orientation), **EXACT[kind]))
        expected = decode_image(encoded(PICTURE, "PNG", exif=exif(orientation)))
        np.testing.assert_allclose(turned.astype(int), expected, atol=3)


def test_a_jpeg_xl_is_turned_by_its_own_header_and_not_by_exif():
    data = encoded(PICTURE, "JXL", lossless=True, exif=exif(6))
    np.testing.assert_array_equal(decode_image(data), PICTURE)
    jpeg = encoded(PICTURE, "JPEG", exif=exif(6))
    np.testing.assert_array_equal(decode_image(jpeg_as_jxl(jpeg)), decode_image(jpeg))


@pytest.mark.parametrize("kind", EXACT)
def test_alpha_lies_on_white(kind):
    image = Image.new("RGBA", (64, 64), (200, 100, 0, 51))
    pixels = decode_image(encoded(image, kind, **EXACT[kind]))
    np.testing.assert_allclose(pixels.astype(int), np.full((64, 64, 3), (244, 224, 204)), atol=1)


@pytest.mark.parametrize("kind", ["JPEG2000", "JXL"])
def test_sixteen_bits_are_scaled_and_rounded(kind):
    wide = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    pixels = decode_image(encoded(Image.fromarray(wide), kind, **EXACT[kind]))
    np.testing.assert_array_equal(pixels, np.repeat(np.rint(wide / 257)[..., None], 3, axis=2))


def test_what_pillow_reads_with_white_as_black_is_refused():
    data = bytearray(FILES["JPEG2000"])
    depths = data.index(b"\xff\x4f\xff\x51") + 42
    data[depths : depths + 9 : 3] = b"\x0f\x0f\x0f"
    error = failure(bytes(data))
    assert (error.code, error.message) == (
        "unsupported",
        "JPEG2000 in colour with 16 bits a channel; expected 8",
    )


def test_a_format_is_told_by_its_brands():
    assert [format_of(brand(FILES[kind], b"mif1")) for kind in ("HEIF", "AVIF")] == ["HEIF", "AVIF"]
    np.testing.assert_array_equal(decode_image(brand(FILES["HEIF"], b"mif1")), PICTURE)
    error = failure(b"\0\0\0\x14ftypisom\0\0\2\0mp41")
    assert error.code == "unsupported"


def test_the_main_picture_of_several():
    second = Image.fromarray(PICTURE[::-1].copy())
    data = encoded(PICTURE, "HEIF", **EXACT["HEIF"], save_all=True, append_images=[second], primary_index=1)
    np.testing.assert_array_equal(decode_image(data), PICTURE[::-1])
    jpegs = encoded(PICTURE, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(jpegs)).n_frames == 2
    np.testing.assert_array_equal(decode_image(jpegs), decode_image(encoded(PICTURE, "JPEG")))


@pytest.mark.parametrize("name", FILES)
def test_of_a_file_cut_anywhere_comes_nothing(name):
    data = FILES[name]
    assert {failure(data[:end]).code for end in range(16, len(data), 13)} <= {"truncated", "decode"}
    # a bare JPEG XL has neither a length nor an end
    assert failure(data[:-20]).code == ("decode" if name == "JXL" else "truncated")


def test_tiles_that_a_file_lacks_are_not_filled_with_black():
    assert decode_image(TILES).shape == (200, 300, 3)
    (end,) = [end for kind, _, end in boxes(TILES) if kind == b"mdat"]
    assert failure(TILES[: end - 1]).code == "truncated"
    np.testing.assert_array_equal(decode_image(TILES + b"a camera's mark"), decode_image(TILES))


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [("HEIF", "pillow-heif", "heif"), ("JXL", "pillow-jxl-plugin", "jxl")]
)
def test_without_its_package_the_sentence_names_the_extra(kind, package, extra, monkeypatch):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("heif", "jpeg_xl"):
        monkeypatch.delitem(sys.modules, f"captionbeam.capmodel.encoders.{module}", raising=False)
    error = failure(FILES[kind])
    assert (error.code, error.stage) == ("unsupported", "decode")
    assert error.message == (
        f"{kind}: {package} is not installed; expected pip install '.[{extra}]' in a clone of captionbeam, "
        "on workers too"
    )


@pytest.mark.parametrize("limit", [None, 10])
def test_the_limit_is_ours_whatever_pillows_is(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    np.testing.assert_array_equal(decode_image(encoded(PICTURE, "PNG")), PICTURE)
    error = failure(png_of_size(20_000, 20_000))
    assert (error.code, error.message) == (
        "too_large",
        "20000 x 20000 pixels; expected at most 100000000 in all",
    )


def test_a_jpeg_xls_size_is_read_before_its_pixels():
    square = 3 << 1 | 19_999 << 3 | 1 << 33  # a SizeHeader: 30 bits of height, width by a ratio of 1:1
    error = failure(b"\xff\x0a" + square.to_bytes(8, "little"))
    assert (error.code, error.message) == (
        "too_large",
        "20000 x 20000 pixels; expected at most 100000000 in all",
    )


def test_a_jpeg_xl_animation_is_refused():  # its decoder would give the last picture
    frames = bytes.fromhex(
        "ff0a41044d002026080401001c004b188b158203000804050038004b188b158055ea7f000c655c4d04"
    )
    assert (failure(frames).code, failure(frames).message) == (
        "unsupported",
        "JXL animation; expected a single picture",
    )
