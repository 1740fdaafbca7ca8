"""Pictures for an endpoint: upright RGB JPEGs of limited size, whatever the files were."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from captionbeam.capmodel.encoders.images import decode_image, scaled
from captionbeam.pipelines.endpoints.pictures import LONGEST_SIDE, as_data_url
from captionbeam.schemas.errors import ImageError
from tests.builders.data.images import drawn, encoded, exif

PREFIX = "data:image/jpeg;base64,"
MANY = 1 << 20


def jpeg_of(data, max_pixels=MANY):
    url = as_data_url(data, max_pixels)
    assert url.startswith(PREFIX)
    return base64.b64decode(url.removeprefix(PREFIX), validate=True)


def opened(data, max_pixels=MANY):
    image = Image.open(io.BytesIO(jpeg_of(data, max_pixels)))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def difference(image, pixels):
    """The mean difference of a channel, from 0 to 255."""
    return np.abs(np.asarray(image).astype(int) - pixels.astype(int)).mean()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_fits_stays_as_it_is(progressive):
    data = encoded(drawn(), "JPEG", progressive=progressive)
    assert jpeg_of(data, 48 * 32) == data


def segment(kind, payload):
    return bytes([0xFF, kind]) + (len(payload) + 2).to_bytes(2, "big") + payload


SECRETS = [segment(kind, b"at home" * 9) for kind in (0xE0, 0xE2, *range(0xE3, 0xF0), 0xFE)]
SECRETS += [segment(0xE1, exif(1) + b"at home"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0at home")]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_sent_without_metadata_and_without_what_follows_it(progressive):
    bare = encoded(drawn(), "JPEG", progressive=progressive)
    (scan, *_) = [at for at in range(len(bare)) if bare[at : at + 2] == b"\xff\xda"]
    secret = b"".join(SECRETS)
    data = bare[:2] + secret + bare[2:scan] + secret + bare[scan:] + b"at home" + bare
    assert jpeg_of(data) == bare


def test_metadata_between_the_scans_of_a_jpeg_is_not_sent():
    bare = encoded(drawn(), "JPEG", progressive=True)
    last = bare.rindex(b"\xff\xda")
    assert bare.index(b"\xff\xda") < last
    assert jpeg_of(bare[:last] + segment(0xFE, b"at home") + bare[last:]) == bare


def test_a_jpeg_keeps_its_colour_profile_its_density_and_its_colour_space():
    rgb = encoded(drawn(), "JPEG", icc_profile=b"profile" * 20_000, dpi=(72, 72), keep_rgb=True)
    assert b"Adobe" in rgb
    assert jpeg_of(rgb) == rgb


def test_a_jpegs_thumbnail_is_not_sent():
    bare = encoded(drawn(), "JPEG")
    head = bare.index(b"JFIF") - 4
    thumbnail = segment(0xE0, bare[head + 4 : head + 16] + b"\1\1" + b"RGB")
    assert jpeg_of(bare[:head] + thumbnail + bare[head + 18 :]) == bare


def test_a_jpeg_of_an_unusual_structure_is_encoded_again():
    bare = encoded(drawn(), "JPEG", quality=95)
    data = bare[:2] + segment(0xFE, b"at home") + b"\xff" + bare[2:]
    sent = jpeg_of(data)
    assert b"at home" not in sent
    assert difference(Image.open(io.BytesIO(sent)), drawn()) < 8


def cmyk(pixels):
    return Image.fromarray(pixels).convert("CMYK")


@pytest.mark.parametrize(
    "data",
    [
        encoded(drawn(), "PNG"),
        encoded(drawn(), "WEBP", lossless=True),
        encoded(drawn(), "GIF"),
        encoded(drawn(), "BMP"),
        encoded(drawn(), "TIFF"),
        encoded(drawn(), "AVIF"),
        encoded(drawn(), "JPEG2000"),
        encoded(cmyk(drawn()), "JPEG", quality=95),
        encoded(Image.fromarray(drawn()).convert("L"), "JPEG"),
        encoded((drawn()[..., 0].astype(np.uint16) * 257), "PNG"),
        encoded(Image.fromarray(drawn()).convert("RGBA"), "PNG"),
        encoded(drawn(), "JPEG", quality=95, exif=exif(6)),
        encoded(drawn(), "JPEG", quality=95, exif=exif(3)),
    ],
    ids=[
        "png",
        "webp",
        "gif",
        "bmp",
        "tiff",
        "avif",
        "jp2",
        "cmyk",
        "grey",
        "16-bit",
        "alpha",
        "turned",
        "upside-down",
    ],
)
def test_any_other_file_becomes_an_upright_rgb_jpeg(data):
    expected = decode_image(data)
    image = opened(data)
    assert image.size == (expected.shape[1], expected.shape[0])
    assert difference(image, expected) < 8
    assert not image.getexif()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "HEIF"])
def test_a_large_picture_is_scaled_down(kind):
    data = encoded(drawn(1200, 800), kind)
    image = opened(data, 60_000)
    assert image.size == (300, 200)
    assert difference(image, drawn(300, 200)) < 8


def test_a_jpeg_of_more_pixels_than_pillow_opens_is_a_failure_of_its_image():
    data = encoded(drawn(), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    with pytest.raises(
        ImageError, match="too_large: 60000 x 60000 pixels; expected at most 100000000 in all"
    ):
        as_data_url(data[:frame] + (60_000).to_bytes(2, "big") * 2 + data[frame + 4 :], MANY)


def test_a_large_picture_that_lies_on_its_side_is_scaled_upright():
    data = encoded(drawn(1200, 800), "JPEG", exif=exif(6))
    image = opened(data, 60_000)
    assert image.size == (200, 300)
    assert difference(image, np.rot90(drawn(300, 200), -1)) < 8


@given(
    st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)),
    st.integers(1, 10_000_000),
)
@example((65, 65), 1)
def test_a_scaled_size_keeps_within_the_limits_and_near_the_proportions(size, max_pixels):
    width, height = scaled(size, max_pixels, LONGEST_SIDE)
    assert 1 <= width * height <= max_pixels
    assert max(width, height) <= LONGEST_SIDE
    scale = width / size[0], height / size[1]
    assert max(scale) <= 1 or min(width, height) == 1
    assert min(width, height) < 20 or scale[0] == pytest.approx(scale[1], rel=0.06)


def test_a_very_long_strip_is_sent_all_the_same():
    assert opened(encoded(np.zeros((70_000, 1, 3), np.uint8), "PNG")).size == (1, LONGEST_SIDE)


def broken(data, code, max_pixels=MANY):
    with pytest.raises(ImageError) as info:
        as_data_url(data, max_pixels)
    assert (info.value.code, info.value.stage) == (code, "decode")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.4, 0.9, 0.99])
@pytest.mark.parametrize("max_pixels", [MANY, 5000])
def test_a_truncated_jpeg_is_not_sent(progressive, kept, max_pixels):
    data = encoded(drawn(320, 200), "JPEG", progressive=progressive)
    broken(data[: int(len(data) * kept)], "truncated", max_pixels)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "empty"), (b"<html>", "unsupported"), (b"\xff\xd8\xff\xe0 no picture", "truncated")],
)
def test_what_is_no_picture_is_not_sent(data, code):
    broken(data, code)
