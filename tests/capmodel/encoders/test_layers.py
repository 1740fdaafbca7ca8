"""``encode --layers``: the grids of several layers of one network, side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import adaptive_avg_pool2d

from captionbeam.capmodel.encoders.backbones import get_backbone, load_network, shape_of
from captionbeam.capmodel.encoders.encoder import Encoder, EncoderSpec, resolve_encoder, store_weights
from captionbeam.schemas.errors import RequestError
from tests.builders.data.images import drawn
from tests.builders.model.networks import layer_output, random_network

CPU = torch.device("cpu")
LAYERS = ("layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def resnet():
    return random_network("resnet18")


@pytest.fixture(scope="module")
def weights(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(resnet.state_dict(), path)
    return str(path)


def test_it_is_what_those_layers_of_torchvisions_network_put_out(resnet):
    """In the order of their names; finer grids are averaged down to the coarsest."""
    images = torch.randn(2, 3, 96, 96)
    state = get_backbone("resnet18").fit(resnet.state_dict(), 96, "grid")
    for names in (LAYERS, LAYERS[::-1]):
        network = load_network("resnet18", 96, "grid", state, True, torch.float32, CPU, names)
        expected = [adaptive_avg_pool2d(layer_output(resnet, name, images), 3) for name in names]
        with torch.inference_mode():
            torch.testing.assert_close(network(images), torch.cat(expected, 1), rtol=1e-3, atol=1e-4)
    assert shape_of("resnet18", 96, "grid", LAYERS) == (3, 3, 128 + 256 + 512)
    assert shape_of("resnet18", 96, "pooled", LAYERS) == (896,)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "conv1"),
        ("densenet121", "features.denseblock2.denselayer3.conv1"),
        ("googlenet", "inception4a.branch1.conv"),
        ("inception_v3", "Mixed_6e"),
    ],
)
def test_a_layer_of_any_family_is_torchvisions_convolutions_before_a_norm_too(name, layer):
    torchvisions = random_network(name)
    images = torch.randn(2, 3, 96, 96)
    state = get_backbone(name).fit(torchvisions.state_dict(), 96, "grid")
    network = load_network(name, 96, "grid", state, True, torch.float32, CPU, (layer,))
    expected = layer_output(torchvisions, layer, images)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)
    assert shape_of(name, 96, "grid", (layer,)) == (*expected.shape[2:], expected.shape[1])


@pytest.mark.parametrize("output", ["grid", "pooled"])
def test_an_encoder_of_them_is_found_again_by_its_spec(weights, tmp_path, output):
    spec, state = resolve_encoder(
        "resnet18", weights, output=output, image_size=96, precision="fp32", layers=LAYERS
    )
    plain, _ = resolve_encoder("resnet18", weights, output=output, image_size=96, precision="fp32")
    again = EncoderSpec.from_dict(spec.to_dict())
    assert again == spec
    assert again.fingerprint == spec.fingerprint != plain.fingerprint
    assert spec.weights_sha256 == plain.weights_sha256
    url = store_weights(state, str(tmp_path))
    (rows,), (last,) = (
        Encoder.load(each, url, 4, "cpu").run([prepared(each)], ["a"])[output] for each in (again, plain)
    )
    assert rows.shape == spec.shape
    np.testing.assert_array_equal(rows[..., -512:], last)


def prepared(spec):
    return spec.preprocess.pixels(drawn(120, 96))


@pytest.mark.parametrize(
    ("name", "layers", "sentence"),
    [
        (
            "resnet18",
            ("layer3", "layer9"),
            "resnet18 has no layer 'layer9'; expected modules such as layer1, layer2, layer3, layer4",
        ),
        (
            "efficientnet_b0",
            ("features.7", "features.8.1"),
            "efficientnet_b0 cannot be cut after 'features.7' and 'features.8.1'; expected modules such as features.5, "
            "features.6, features.7, features.8",
        ),
    ],
)
def test_what_is_no_layer_is_refused(name, layers, sentence):
    with pytest.raises(RequestError) as caught:
        resolve_encoder(name, layers=layers, precision="fp32")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("name", "layers", "shape"),
    [
        ("inception_v3", ("Mixed_6e", "Mixed_7b", "Mixed_7c"), (8, 8, 4864)),
        ("densenet121", ("features.denseblock3", "relu"), (9, 9, 2048)),
        ("googlenet", ("inception4e", "inception5b"), (9, 9, 1856)),
        ("efficientnet_b0", ("features.5", "features.8"), (10, 10, 1392)),
        ("convnext_tiny", ("features.5", "features.7"), (9, 9, 1152)),
    ],
)
def test_every_family_has_them(name, layers, shape):
    assert shape_of(name, 299, "grid", layers) == shape
