"""The interface of backbones: networks cut off where features are taken, with their weights' requirements.

Shapes: n images; S the image size; H, W, C the grid's height, width and channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from captionbeam.capmodel.encoders.preprocess import Preprocess, scaling_of
from captionbeam.capmodel.encoders.weights import State, hub_weights, read_weights
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

# For these, torchvision normalises with ImageNet's mean and std, and the network converts back to [-1, 1]
# (``transform_input``). The scaling ``tf`` does both in one step.
SCALED_INSIDE = ("inception_v3", "googlenet")


class Backbone(ABC):
    """One architecture, by ``name``: its outputs, their shapes, and how it is built.

    Outputs: ``grid`` is ``[H, W, C]``; ``pooled`` ``[C]`` is the input of the network's own classifier (in most
    networks the grid's mean); ``logits`` ``[1000]`` is the output of that classifier. ``decode``, ``colour``: how
    pictures of new stores are read.
    """

    name: str
    outputs: tuple[str, ...]
    decode, colour = "scaled", "srgb"

    @property
    def config(self) -> str:
        """What determines the network besides its name."""
        return ""

    @cached_property
    def presets(self) -> Mapping[str, Preprocess]:
        """The preprocessing of each published set of weights, by name; torchvision's unless overridden."""
        from torchvision.models import get_model_weights  # slow import (seconds)

        return {each.name: _preset(self.name, each.transforms()) for each in get_model_weights(self.name)}

    @property
    def default(self) -> str:
        """The name of the default weights; weights from a file use their preset."""
        from torchvision.models import get_model_weights

        return str(get_model_weights(self.name).DEFAULT.name)

    @abstractmethod
    def shape(self, size: int, output: str) -> tuple[int, ...]:
        """Returns the shape of one row, ``(H, W, C)`` or ``(C,)``. Raises RequestError for an unsupported size."""

    @abstractmethod
    def build(self, size: int, output: str) -> nn.Module:
        """Builds the network for inference: images ``[n, 3, S, S]`` to ``[n, C]`` or to a grid ``[n, C, H, W]``.

        For ``pooled`` the caller averages a grid. Weights are not loaded yet; the network may be on the meta device.
        """

    @abstractmethod
    def fit(self, state: State, size: int, output: str) -> State:
        """Selects and converts the published weights that the network needs for ``size`` and ``output``."""

    def weights(self, wanted: str) -> State:
        """Returns the weights of a published name, a path or a URL. Raises RequestError, FingerprintError."""
        if wanted in self.presets:
            return self.published(wanted)
        looks_like_a_name = wanted.isupper() and wanted.replace("_", "").isalnum()
        if looks_like_a_name and not files.exists(wanted):
            raise RequestError(
                f"{self.name} has no weights {wanted!r}; expected {' or '.join(self.presets)}, or a file or URL"
            )
        return read_weights(wanted)

    def published(self, name: str) -> State:
        """Returns the weights of one of the ``presets``, from torchvision. Raises RequestError."""
        return hub_weights(self.name, name)

    def cut(self, network: nn.Module, layers: Sequence[str]) -> nn.Module:
        """Returns ``network`` with the grids of ``layers``. Raises RequestError if layers cannot be chosen."""
        raise RequestError(f"{self.name} gives its last grid alone; expected another encoder, or no --layers")

    def check_output(self, output: str) -> None:
        """Raises RequestError for an output that the network does not have."""
        if output not in self.outputs:
            raise RequestError(f"{self.name} has no {output}; expected {' or '.join(self.outputs)}")


class TrunkAndHead(nn.Module):
    """Sequential modules, under the names that the weights use.

    ``trunk`` computes the grid ``[n, C, H, W]``; ``head``, if there is one, takes its mean ``[n, C, 1, 1]``, which is
    computed in float32. (torchvision's ``create_feature_extractor`` gives the same bits as fast, but has no head.)
    """

    def __init__(self, trunk: Mapping[str, nn.Module], head: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._trunk, self._head = tuple(trunk), tuple(head)
        for name, module in {**trunk, **head}.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for name in self._trunk:
            x = getattr(self, name)(x)
        if self._head:
            x = x.mean((2, 3), keepdim=True, dtype=torch.float32).to(x.dtype)
        for name in self._head:
            x = getattr(self, name)(x)
        return x


def fold_batch_norm(network: nn.Module, whole: Collection[str] = ()) -> None:
    """Folds each batch norm that directly follows a convolution in a module's list of children: 15% faster.

    Convolutions named in ``whole`` are not folded, because their own output is used.

    For networks of ``ENCODERS`` only: in them, such neighbours are also consecutive in the computation (a DenseNet
    layer computes norm1, conv1, norm2, conv2, and conv1 takes norm2). Other norm classes (timm's with activation) are
    skipped.
    """
    for above, module in network.named_modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if f"{above}.{name}".lstrip(".") in whole:
                continue
            if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())


def _preset(name: str, transforms: Any) -> Preprocess:
    (size,), (resize,) = transforms.crop_size, transforms.resize_size
    scaling = "tf" if name in SCALED_INSIDE else scaling_of(transforms.mean, transforms.std)
    return Preprocess(size, resize, interpolation=transforms.interpolation.value, scaling=scaling)
