"""Encoders: torchvision's and EfficientNet's features, a row the same whatever its batch-mates."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from captionbeam.capmodel.encoders.backbones.efficientnet import SameConv2d
from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec, resolve_encoder
from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.capmodel.runtime.streams import ROWS
from captionbeam.schemas.errors import FingerprintError, RequestError
from tests.builders.model.encoding import PHOTOS, features, stored
from tests.builders.model.networks import layer_output, random_network


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("lite"))


@pytest.fixture(scope="module")
def resnet_pth(tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet") / "resnet.pth"
    torch.save(random_network("resnet50").state_dict(), path)
    return str(path)


# What the numbers are


@pytest.mark.parametrize("pooled", [False, True])
def test_resnet50_gives_what_torchvision_gives(tmp_path, resnet_pth, pooled):
    spec, url = stored(tmp_path, "resnet50", resnet_pth, output="pooled" if pooled else "grid", image_size=96)
    encoder = Encoder.load(spec, url, batch_size=8)
    batch = torch.stack([spec.preprocess.scale(encoder.prepare(photo)[None])[0] for photo in PHOTOS])
    whole = random_network("resnet50")
    whole.load_state_dict(torch.load(resnet_pth, weights_only=True))
    expected = layer_output(whole, "avgpool" if pooled else "layer4", batch)
    expected = expected.flatten(1) if pooled else expected.permute(0, 2, 3, 1)
    seen = features(encoder)
    assert (seen.dtype, seen.shape) == (np.float16, (8, *spec.shape))
    assert spec.shape == ((2048,) if pooled else (3, 3, 2048))
    np.testing.assert_allclose(seen.astype(np.float32), expected, rtol=2e-3, atol=1e-3)


def leave_padding_out(network: nn.Module) -> None:
    """Make torchvision's average pools divide by the cells there are."""

    def correct(_: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        return inputs[0] / functional.avg_pool2d(torch.ones_like(inputs[0]), 3, 1, 1)

    for name, module in network.named_modules():
        if name.endswith("branch_pool"):
            module.register_forward_pre_hook(correct)


@pytest.mark.parametrize("pool_padding", [True, False])
def test_inception_v3_gives_what_torchvision_gives(tmp_path, pool_padding):
    whole = random_network("inception_v3")
    torch.save(whole.state_dict(), tmp_path / "inception.pth")
    spec, url = stored(
        tmp_path, "inception_v3", str(tmp_path / "inception.pth"), image_size=107, pool_padding=pool_padding
    )
    encoder = Encoder.load(spec, url, batch_size=4)
    if not pool_padding:
        leave_padding_out(whole)
    batch = spec.preprocess.scale(torch.stack([encoder.prepare(photo) for photo in PHOTOS[:4]]))
    expected = layer_output(whole, "Mixed_7c", batch).permute(0, 2, 3, 1)
    np.testing.assert_allclose(
        features(encoder, PHOTOS[:4]).astype(np.float32), expected, rtol=2e-3, atol=1e-3
    )


@pytest.mark.parametrize("size", [8, 9, 15, 16])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_same_padding_is_tensorflows(size, kernel, stride):
    """Output ceil(size / stride), the odd cell of padding at the end:
    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2"""
    torch.manual_seed(0)
    conv = SameConv2d(2, 3, kernel, stride, bias=False)
    image = torch.randn(1, 2, size, size)
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    padded = functional.pad(image, [total // 2, total - total // 2] * 2)
    expected = functional.conv2d(padded, conv.weight, stride=stride)
    assert expected.shape[-1] == -(-size // stride)
    torch.testing.assert_close(conv(image), expected)


def test_bf16_is_nearly_fp32(lite):
    spec, url = lite
    exact = features(Encoder.load(spec, url, 8)).astype(np.float32).reshape(8, -1)
    fast = features(Encoder.load(dataclasses.replace(spec, precision="bf16"), url, 8))
    fast = fast.astype(np.float32).reshape(8, -1)
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.99
    assert not np.array_equal(exact, fast)


# A row does not depend on its batch-mates


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet50"])
@pytest.mark.parametrize("batch_size", [5])
def test_a_row_is_the_same_alone_in_a_full_batch_and_at_any_place(
    tmp_path, resnet_pth, name, precision, batch_size
):
    weights = resnet_pth if name == "resnet50" else None
    encoder = Encoder.load(*stored(tmp_path, name, weights, precision=precision), batch_size)
    batch = [encoder.prepare(photo) for photo in (PHOTOS * 2)[:batch_size]]

    def rows(images):
        return encoder.run(images, [str(number) for number in range(len(images))])["grid"]

    full, turned = rows(batch), rows(batch[::-1])[::-1]
    np.testing.assert_array_equal(turned, full)
    for place in (0, batch_size // 2, batch_size - 1):
        np.testing.assert_array_equal(rows([batch[place]])[0], full[place])
        np.testing.assert_array_equal(rows([batch[place]] * batch_size)[1], full[place])


@pytest.mark.parametrize("batch_size", [ROWS])
def test_threads_share_an_encoder(lite, batch_size):
    encoder = Encoder.load(*lite, batch_size=batch_size)
    assert (encoder.streams > 1) == (batch_size == ROWS and torch.get_num_threads() > 1)
    alone = features(encoder, PHOTOS[:1]), features(encoder, PHOTOS[1:2])
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda number: features(encoder, [PHOTOS[number % 2]]), range(16)))
    for number, rows in enumerate(seen):
        np.testing.assert_array_equal(rows, alone[number % 2])


# What it says of itself


def test_a_spec_travels_as_json(lite):
    spec, _ = lite
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(RequestError, match="EncoderSpec has colour, which this captionbeam does not know"):
        EncoderSpec.from_dict({**spec.to_dict(), "colour": "red"})


def test_whatever_changes_a_row_changes_the_fingerprint(lite):
    spec, _ = lite
    others = [
        dataclasses.replace(spec, name="resnet50"),
        dataclasses.replace(spec, output="pooled"),
        dataclasses.replace(spec, weights_sha256="0" * 64),
        dataclasses.replace(spec, preprocess=spec.preprocess.override(scaling="tf")),
        dataclasses.replace(spec, precision="bf16"),
        dataclasses.replace(spec, pool_padding=False),
        dataclasses.replace(spec, layers=("_blocks",)),
        dataclasses.replace(spec, config="{}"),
    ]
    assert len(others) == len(dataclasses.fields(EncoderSpec))
    assert len({each.fingerprint for each in [spec, *others]}) == 9


def test_a_fingerprint_stays_what_it_was():
    spec = EncoderSpec("inception_v3", "grid", "ab" * 32, Preprocess(299, 342, scaling="tf"), "bf16")
    assert spec.fingerprint == "ec79cd0c37a07fb76558dac923279ada"


# What it refuses


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"output": "logits"}, "efficientnet_lite0 has no logits; expected grid or pooled"),
({"image_size": 224, "resize": 200},
         "image size 224 with resize 200; expected 1 <= image size <= resize"),
({"name": "inception_v3", "image_size": 74},
         "image size 74 is too small for inception_v3; expected at least 75")],
)  # fmt: skip
def test_a_wrong_request_is_one_sentence(wrong, sentence):
    with pytest.raises(RequestError) as caught:
        resolve_encoder(**{"name": "efficientnet_lite0", **wrong})
    assert str(caught.value) == sentence


def test_a_worker_refuses_weights_that_are_not_the_specs(lite):
    spec, url = lite
    with pytest.raises(FingerprintError, match="expected 000"):
        Encoder.load(dataclasses.replace(spec, weights_sha256="0" * 64), url)


def test_pooled_is_the_mean_of_the_grid(tmp_path, lite):
    spec, url = lite
    grid = features(Encoder.load(spec, url, 8))
    pooled = features(Encoder.load(dataclasses.replace(spec, output="pooled"), url, 8))
    assert (grid.shape, pooled.shape) == ((8, 2, 2, 1280), (8, 1280))
    np.testing.assert_allclose(pooled, grid.astype(np.float32).mean((1, 2)), rtol=1e-3, atol=1e-3)


def test_every_part_of_the_preprocessing_can_be_chosen():
    spec, _ = resolve_encoder(
        "efficientnet_lite0",
        image_size=96,
        resize=128,
        interpolation="bilinear",
        channels="bgr",
        crop="resize-crop",
        decode="exact",
    )
    assert spec.preprocess == Preprocess(
        96, 128, "resize-crop", "bilinear", "bgr", "lite", decode="exact", colour="srgb"
    )
