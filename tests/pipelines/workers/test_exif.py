"""What an image file says about itself, of every format that is decoded, and of broken files."""

from __future__ import annotations

import datetime
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from captionbeam.pipelines.workers.exif import ABOUT, NAMES, exif_schema, read_exif
from tests.builders.data.images import encoded

TAKEN = datetime.datetime(2024, 2, 29, 12, 34, 56)
PARIS = {1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.2)}


def photograph(tags=None, exif=None, gps=None, file_format="JPEG", size=(40, 30)) -> bytes:
    """An image file with an EXIF block: its ``tags``, and those of its ``exif`` and ``gps`` directories."""
    block = Image.Exif()
    block.update(tags or {})
    block.get_ifd(0x8769).update(exif or {})
    block.get_ifd(0x8825).update(gps or {})
    return encoded(Image.new("RGB", size, (200, 40, 40)), file_format, exif=block.tobytes())


CAMERA = {0x010F: "Canon\0", 0x0110: "Canon EOS 5D ", 0x0112: 6}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_size_format_time_orientation_and_camera(file_format):
    data = photograph(CAMERA, {0x9003: "2024:02:29 12:34:56"}, file_format=file_format)
    assert read_exif(data, ABOUT.names) == {
        "width": 40, "height": 30, "format": file_format, "taken": TAKEN, "orientation": 6, "camera": "Canon EOS 5D",
    }  # fmt: skip


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF", "JXL"])
def test_formats_with_a_turn_of_their_own_have_what_is_left_to_do(file_format):
    data = photograph(CAMERA, {0x9003: "2024:02:29 12:34:56"}, PARIS, file_format)
    found = read_exif(data, NAMES)
    sizes = {"HEIF": (30, 40), "AVIF": (40, 30), "JXL": (40, 30)}
    assert (found["width"], found["height"]) == sizes[file_format]
    assert found.get("orientation") == {"HEIF": 1, "AVIF": 6}.get(file_format)
    assert (found["format"], found["taken"], found["camera"]) == (file_format, TAKEN, "Canon EOS 5D")
    assert found["latitude"] == pytest.approx(48.8583, abs=1e-3)


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "PNG", "JPEG"])
def test_files_without_an_exif_block_have_size_and_format(file_format):
    sink = io.BytesIO()
    Image.new("RGB", (7, 5)).save(sink, file_format)
    assert read_exif(sink.getvalue(), NAMES) == {"width": 7, "height": 5, "format": file_format}


@pytest.mark.parametrize(
    ("exif", "taken"),
    [
        ({0x9003: "2024:02:29 12:34:56", 0x9011: "+02:00"}, {"taken": TAKEN, "taken_offset": "+02:00"}),
        ({0x9003: "2024:02:29 12:34:56", 0x9291: "5 "}, {"taken": TAKEN.replace(microsecond=500_000)}),
        ({0x9003: "2024:02:29 12:34:56", 0x9291: "123456"}, {"taken": TAKEN.replace(microsecond=123_000)}),
        ({0x9003: "2024:02:29 12:34:56", 0x9011: "   :  ", 0x9291: "x"}, {"taken": TAKEN}),
        ({0x9003: "0000:00:00 00:00:00", 0x9011: "+02:00"}, {}),
        ({0x9003: "2024:02:30 12:34:56"}, {}),
        ({0x9003: "    :  :     :  :  "}, {}),
        ({0x9011: "+02:00"}, {}),
    ],
)
def test_the_time_is_the_cameras_clock_and_its_offset_if_it_has_one(exif, taken):
    found = read_exif(photograph(exif=exif), NAMES)
    assert {name: found[name] for name in ("taken", "taken_offset") if name in found} == taken


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("Apple", None, "Apple"),
        (None, "DSC-W55", "DSC-W55"),
        (" \0", "\0", None),
        ("x" * 300, "y" * 300, ("x" * 200)),
    ],
)
def test_a_camera_is_its_make_and_model(make, model, camera):
    tags = {tag: text for tag, text in ((0x010F, make), (0x0110, model)) if text}
    assert read_exif(photograph(tags), NAMES).get("camera") == camera


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_left_out(orientation):
    assert read_exif(photograph({0x0112: orientation}), ["orientation"]) == {}


def test_a_place_only_if_it_is_asked_for():
    data = photograph(gps=PARIS)
    place = read_exif(data, NAMES)
    assert (place["latitude"], place["longitude"]) == pytest.approx((48.858333, 2.2945))
    assert read_exif(data, ABOUT.names) == {"width": 40, "height": 30, "format": "JPEG"}


@pytest.mark.parametrize(
    ("gps", "place"),
    [
        ({**PARIS, 1: "S", 3: "W"}, (-48.858333, -2.2945)),
        ({**PARIS, 1: "s"}, (-48.858333, 2.2945)),
        ({**PARIS, 2: (148.0, 0.0, 0.0)}, None),
        ({**PARIS, 2: (IFDRational(48, 0), 0.0, 0.0)}, None),
        ({**PARIS, 3: "?"}, None),
        ({1: "N", 2: (48.0, 51.0, 30.0)}, None),
        ({**PARIS, 4: (2.0, 17.0)}, None),
    ],
)
def test_a_place_is_whole_or_left_out(gps, place):
    found = read_exif(photograph(gps=gps), NAMES)
    if place is None:
        assert not {"latitude", "longitude"} & set(found)
    else:
        assert (found["latitude"], found["longitude"]) == pytest.approx(place)


def test_a_picture_with_others_behind_it_is_a_jpeg():
    sink, first = io.BytesIO(), Image.new("RGB", (8, 6))
    first.save(sink, "MPO", save_all=True, append_images=[Image.new("RGB", (4, 3))])
    assert read_exif(sink.getvalue(), NAMES) == {"width": 8, "height": 6, "format": "JPEG"}


def test_pixels_are_not_decoded():
    """A file that ends after its header has all of it."""
    for file_format in ("JPEG", "PNG"):
        sink = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
        Image.fromarray(noise).save(sink, file_format)
        data = sink.getvalue()
        assert read_exif(data[:2000], NAMES) == {"width": 400, "height": 300, "format": file_format}


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\xff"]
)
def test_what_is_no_image_has_nothing(data):
    assert read_exif(data, NAMES) == {}


WHOLE = photograph(CAMERA, {0x9003: "2024:02:29 12:34:56", 0x9011: "+02:00"}, PARIS)


@given(st.lists(st.tuples(st.integers(20, 400), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
def test_a_broken_block_is_no_failure(changes):
    """Whatever its bytes are, the values have their types."""
    data = bytearray(WHOLE)
    for at, values in changes:
        data[at : at + len(values)] = values
    found = read_exif(bytes(data), NAMES)
    kept = pa.array([found], pa.struct(list(exif_schema(NAMES)))).to_pylist()[0]
    assert {name: value for name, value in kept.items() if value is not None} == found
