"""Preprocess: torchvision's pixels, Keras's and EfficientNet's scaling, whatever the picture's size."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional

from captionbeam.capmodel.encoders.preprocess import Preprocess, scaling_of
from captionbeam.capmodel.specs import PREPROCESS_VERSION
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import fingerprint, from_spec, spec_of
from tests.builders.data.images import drawn

SIZES = [(640, 480), (480, 640), (427, 640), (300, 300), (224, 224), (64, 97), (1001, 333)]
RESNET = Preprocess(224, 256)
INCEPTION = Preprocess(299, 342, scaling="tf")
LITE = Preprocess(224, 256, "square-crop", "bicubic", scaling="lite")


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="torchvision resizes bytes as floats on this CPU",
)
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_crop_has_the_pixels_of_torchvision(width, height, interpolation):
    image = as_tensor(drawn(width, height))
    resized = functional.resize(image, [256], functional.InterpolationMode(interpolation), antialias=True)
    expected = functional.center_crop(resized, [224])
    pixels = Preprocess(224, 256, interpolation=interpolation).pixels(drawn(width, height))
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize(
    ("scaling", "formula"),
    [
        ("torch", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("tf", lambda x: x / 127.5 - 1),
        ("caffe", lambda x: x - [123.68, 116.779, 103.939]),
        ("lite", lambda x: (x - 127) / 128),
    ],
)
def test_scalings_are_their_formulas(scaling, formula):
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    rgb = Preprocess(8, 8, channels="rgb", scaling=scaling)(image)
    expected = torch.from_numpy(formula(image.astype(float))).permute(2, 0, 1)
    torch.testing.assert_close(rgb.double(), expected, rtol=1e-6, atol=1e-5)
    bgr = Preprocess(8, 8, channels="bgr", scaling=scaling)(image)
    torch.testing.assert_close(bgr.double(), expected.flip(0), rtol=1e-6, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    size=st.integers(1, 40),
    margin=st.integers(0, 10),
    crop=st.sampled_from(["resize-crop", "square-crop"]),
    channels=st.sampled_from(["rgb", "bgr"]),
)
def test_whatever_the_size_a_plain_picture_stays_plain(width, height, size, margin, crop, channels):
    image = np.full((height, width, 3), (10, 200, 90), np.uint8)
    pixels = Preprocess(size, size + margin, crop, channels=channels).pixels(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, size, size))
    assert pixels.permute(1, 2, 0).is_contiguous()
    colour = [10, 200, 90] if channels == "rgb" else [90, 200, 10]
    assert torch.equal(pixels, torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, size, size))


# Raise PREPROCESS_VERSION when one of these changes: stores hold features of the old pixels.
GOLDEN = {
    RESNET: "da59b81a21e0f3aa",
    INCEPTION: "e421e9750707a467",
    LITE: "f6f48d1837f9176e",
    Preprocess(224, 224, "square-crop", channels="bgr", scaling="caffe"): "5331af61bce73f24",
}


@pytest.mark.parametrize("preset", GOLDEN, ids=lambda preset: f"{preset.crop}-{preset.size}-{preset.scaling}")
def test_golden_pixels(preset):
    pixels = [preset.pixels(drawn(width, height)) for width, height in SIZES]
    seen = hashlib.sha256(b"".join(p.permute(1, 2, 0).numpy().tobytes() for p in pixels)).hexdigest()
    assert (PREPROCESS_VERSION, seen[:16]) == (1, GOLDEN[preset])


def test_it_travels_as_plain_values_and_every_one_counts():
    assert from_spec(Preprocess, spec_of(LITE)) == LITE
    changes = {"scaling": "torch", "image_size": 192, "crop": "resize-crop", "interpolation": "bilinear",
               "channels": "bgr"}  # fmt: skip
    others = [LITE.override(**{name: value}) for name, value in changes.items()]
    assert len({fingerprint(spec_of(each)) for each in [LITE, *others]}) == 6


def test_the_users_choices_over_a_preset():
    assert INCEPTION.override() == INCEPTION
    assert INCEPTION.override(image_size=224) == Preprocess(224, 256, scaling="tf")
    assert INCEPTION.override(crop="square-crop") == Preprocess(299, 299, "square-crop", scaling="tf")
    assert INCEPTION.override(resize=299) == Preprocess(299, 299, scaling="tf")
    assert INCEPTION.override(image_size=224, resize=232) == Preprocess(224, 232, scaling="tf")
    assert INCEPTION.override("caffe") == Preprocess(299, 342, channels="bgr", scaling="caffe")
    assert INCEPTION.override("caffe").override("torch") == Preprocess(299, 342)
    assert INCEPTION.override("caffe", channels="rgb").channels == "rgb"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"scaling": "0.5,0.5,0.5/0.5,0.5,0"},
            "unknown scaling '0.5,0.5,0.5/0.5,0.5,0'; expected one of torch, tf, "
            "caffe, lite, clip, or mean and standard deviation of colours from 0 to 1, as R,G,B/R,G,B",
        ),
        ({"image_size": 0}, "image size 0 with resize 0; expected 1 <= image size <= resize"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(wrong, sentence):
    with pytest.raises(RequestError) as caught:
        INCEPTION.override(**wrong)
    assert str(caught.value) == sentence


def test_another_version_is_refused():
    with pytest.raises(
        RequestError, match=f"preprocessing version 0; this captionbeam has version {PREPROCESS_VERSION}"
    ):
        from_spec(Preprocess, {**spec_of(LITE), "version": 0})


def test_a_scaling_may_be_written_out():
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.25)
    image = drawn(64, 64)
    seen = Preprocess(64, 64, scaling=scaling_of(mean, std))(image)
    expected = functional.normalize(as_tensor(image).float() / 255, list(mean), list(std))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    assert scaling_of(mean, std) == "0.4,0.5,0.6/0.1,0.2,0.25"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_square_crop_is_pillows_crop_and_resize_within_one_level(width, height):
    image = drawn(width, height)
    side = min(width, height)
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    cut = Image.fromarray(image).crop((left, top, left + side, top + side))
    expected = np.asarray(cut.resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
    difference = Preprocess(96, 96, "square-crop").pixels(image).permute(1, 2, 0).numpy() - expected
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


def test_squash_crop_is_torchvisions_resize_of_both_sides_and_its_crop():
    image = drawn(90, 60)
    both = functional.resize(as_tensor(image), [64, 64], antialias=True)
    expected = functional.center_crop(both, [56])
    seen = Preprocess(56, 64, "squash-crop").pixels(image)
    assert (seen.int() - expected.int()).abs().max() <= 1
