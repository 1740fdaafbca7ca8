"""The interface of backbones: networks cut off where features are taken, with their weights' requirements.

Shapes: n images; S the image size; H, W, C the grid's height, width and channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from captionbeam.capmodel.encoders.backbones.presets import default_torchvision_weights, torchvision_presets
from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.capmodel.encoders.weights import State, find_weights, hub_weights
from captionbeam.schemas.errors import RequestError


class Backbone(ABC):
    """One architecture, by ``name``: its outputs, their shapes, and how it is built.

    Outputs: ``grid`` is ``[H, W, C]``; ``pooled`` ``[C]`` is the input of the network's own classifier (in most
    networks the grid's mean); ``logits`` ``[1000]`` is the output of that classifier.
    """

    name: str
    outputs: tuple[str, ...]

    @cached_property
    def presets(self) -> Mapping[str, Preprocess]:
        """The preprocessing of each published set of weights, by name; torchvision's unless overridden."""
        return torchvision_presets(self.name)

    @property
    def default(self) -> str:
        """The name of the default weights; weights from a file use their preset."""
        return default_torchvision_weights(self.name)

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
        return find_weights(self.name, wanted, self.presets, self.published)

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
