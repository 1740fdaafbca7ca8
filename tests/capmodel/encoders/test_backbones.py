"""Backbones: each gives what torchvision's own network gives there, at every size, with its weights' preprocessing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from captionbeam.capmodel.encoders.backbones import BACKBONES, get_backbone, load_network
from captionbeam.capmodel.encoders.names import ENCODERS, OUTPUTS
from captionbeam.capmodel.encoders.preprocess import scaling_values
from captionbeam.schemas.errors import RequestError
from tests.builders.model.networks import layer_output

CPU = torch.device("cpu")
# One of each family that is torchvision's.
SMALLEST = ("resnet18", "densenet121", "googlenet", "efficientnet_b0", "convnext_tiny", "vit_b_32")


def seeing(name: str, **options) -> nn.Module:
    """torchvision's network for inference, its weights and the numbers of its norms random."""
    torch.manual_seed(3)
    options = {"aux_logits": False, "init_weights": False, **options} if name == "googlenet" else options
    with torch.device("meta"):  # its own way of drawing weights takes seconds
        network = models.get_model(name, weights=None, **options).eval()
    network.to_empty(device="cpu")
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            value.zero_()
        elif key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1 or key.endswith("layer_scale"):
            value.uniform_(-0.3, 0.3)
        else:
            value.normal_(std=(2 / max(value[0].numel(), 1)) ** 0.5)
    return network


def last_linear(network: nn.Module) -> nn.Module:
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def own_answers(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What torchvision's classifier reads, and what it says."""
    read: list[Tensor] = []
    handle = last_linear(network).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.inference_mode():
        said = network(images)
    handle.remove()
    return read[0], said


def answer(name: str, output: str, state: dict[str, Tensor], images: Tensor) -> Tensor:
    """What the backbone gives of ``output``; the mean of a grid for pooled."""
    size = images.shape[-1]
    network = load_network(
        name, size, output, get_backbone(name).fit(state, size, output), True, torch.float32, CPU
    )
    with torch.inference_mode():
        row = network(images)
    return row.mean((2, 3)) if output == "pooled" and row.ndim == 4 else row


def close(seen: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(seen, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_network_gives_what_torchvisions_own_gives(name):
    """Pooled is what the classifier reads, logits what it says, batch norms folded and classifiers cut off."""
    is_vit = name.startswith("vit")
    whole = seeing(name, **({"image_size": 64} if is_vit else {}))
    images = torch.randn(2, 3, 64 if is_vit else 75, 64 if is_vit else 75)
    pooled, logits = own_answers(whole, images)
    close(answer(name, "pooled", whole.state_dict(), images), pooled)
    close(answer(name, "logits", whole.state_dict(), images), logits)
    for output, rows in (("pooled", pooled), ("logits", logits)):
        assert get_backbone(name).shape(images.shape[-1], output) == rows.shape[1:]
    grid = answer(name, "grid", whole.state_dict(), images)
    if is_vit:  # the class token is left out of the grid
        close(grid.flatten(2), layer_output(whole, "encoder", images)[:, 1:].transpose(1, 2))
    elif name == "convnext_tiny":  # its classifier's layer norm comes after the mean
        close(grid, layer_output(whole, "features", images))
    else:
        close(grid.mean((2, 3)), pooled)


def run_shape(name: str, sizes: Sequence[int], output: str) -> list[tuple[int, ...]]:
    """The shapes of rows as one network gives them, ``[H, W, C]`` or ``[C]``."""
    network = BACKBONES[name].build(sizes[0], output).eval().to("meta")
    with torch.device("meta"), torch.inference_mode():
        rows = [tuple(network(torch.empty(1, 3, size, size)).shape[1:]) for size in sizes]
    return [(*row[1:], row[0]) if len(row) == 3 else row for row in rows]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_shape_of_a_row_is_known_without_running_the_network(name):
    backbone = get_backbone(name)
    size = 7 * backbone.patch if name.startswith("vit") else 79
    assert run_shape(name, [size], "grid") == [backbone.shape(size, "grid")]


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "efficientnet_lite0"])
def test_the_presets_are_those_of_the_weights_own_transforms(name):
    published = models.get_model_weights(name)
    backbone = BACKBONES[name]
    assert backbone.default == published.DEFAULT.name
    assert set(backbone.presets) == {weights.name for weights in published}
    for weights in published:
        transforms, preset = weights.transforms(), backbone.presets[weights.name]
        assert ([preset.size], [preset.resize]) == (transforms.crop_size, transforms.resize_size)
        assert (preset.crop, preset.interpolation) == ("resize-crop", transforms.interpolation.value)
        if name not in ("inception_v3", "googlenet"):  # they scale once more inside
            mean, std = scaling_values(preset.scaling)
            np.testing.assert_allclose((mean, std), np.multiply(255, (transforms.mean, transforms.std)))


def test_a_vits_positions_are_interpolated_for_another_size_as_torchvision_does_it():
    state = {"encoder.pos_embedding": torch.randn(1, 50, 768), "class_token": torch.zeros(1, 1, 768)}
    fitted = BACKBONES["vit_b_32"].fit(dict(state), 128, "grid")
    expected = interpolate_embeddings(128, 32, dict(state))
    torch.testing.assert_close(fitted["encoder.pos_embedding"], expected["encoder.pos_embedding"])
    assert fitted["encoder.pos_embedding"].shape == (1, 17, 768)
    same = BACKBONES["vit_b_32"].fit(dict(state), 224, "grid")
    assert same["encoder.pos_embedding"] is state["encoder.pos_embedding"]


def test_densenets_published_names_of_layers_are_understood():
    backbone = BACKBONES["densenet121"]
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in backbone.build(64, "logits").state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert set(backbone.fit(old, 64, "grid")) == set(backbone.build(64, "grid").state_dict())


def test_weights_are_kept_without_what_an_output_does_not_need():
    whole = models.googlenet(weights=None, init_weights=False).state_dict()
    backbone = BACKBONES["googlenet"]
    kept = {output: backbone.fit(whole, 224, output) for output in OUTPUTS}
    assert (
        set(kept["grid"])
        == set(kept["pooled"])
        == {key for key in whole if not key.startswith(("aux1.", "aux2.", "fc."))}
    )
    assert set(kept["logits"]) - set(kept["grid"]) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        (
            "vit_b_16",
            230,
            "image size 230 is no whole number of vit_b_16's patches; expected a multiple of 16",
        )
    ],
)
def test_a_size_that_a_network_cannot_take_is_refused(name, size, sentence):
    with pytest.raises(RequestError) as caught:
        BACKBONES[name].shape(size, "grid")
    assert str(caught.value) == sentence


def test_the_guide_says_what_there_is():
    """The table of docs/encoders.md: each encoder's size, grid, bytes and weights."""
    guide = (Path(__file__).parents[3] / "docs" / "encoders.md").read_text().splitlines()
    lines = {line.split("`")[1]: line for line in guide if re.match(r"\| `[a-z]", line)}
    assert list(lines) == list(ENCODERS)
    for name, line in lines.items():
        backbone = BACKBONES[name]
        preset = backbone.presets[backbone.default]
        height, width, channels = backbone.shape(preset.size, "grid")
        assert f"| {preset.size} (of {preset.resize}, {preset.interpolation}) |" in line
        assert (
            f"| {height} x {width} x {channels} | {height * width * channels * 2 / 1024:,.0f} KiB |" in line
        )
        assert all(weights in line for weights in backbone.presets)
