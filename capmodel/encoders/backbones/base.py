"""What a backbone is: a network of images cut off where features are, and what its weights want.

Shapes: n images; S the image size; H, W, C the grid's height, width and channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from captionbeam.capmodel.encoders.preprocess import Preprocess
from captionbeam.capmodel.encoders.weights import State, find_weights, hub_weights
from captionbeam.schemas.errors import RequestError


class Backbone(ABC):
    """One architecture, by ``name``: which outputs it has, how large they are, how it is built.

    Of the outputs ``grid`` is ``[H, W, C]``; ``pooled`` ``[C]`` is what the network's own classifier reads (the
    grid's mean in most); ``logits`` ``[1000]`` is what that classifier says.
    """

    name: str
    outputs: tuple[str, ...]

    @property
    @abstractmethod
    def presets(self) -> Mapping[str, Preprocess]:
        """The preprocessing of each published set of weights, by its name."""

    @property
    @abstractmethod
    def default(self) -> str:
        """The name of the weights that are taken where none are named; weights in a file get its preset."""

    @abstractmethod
    def shape(self, size: int, output: str) -> tuple[int, ...]:
        """Of one row: ``(H, W, C)`` or ``(C,)``. Raises RequestError for a size that the network cannot take."""

    @abstractmethod
    def build(self, size: int, output: str) -> nn.Module:
        """The network for inference: images ``[n, 3, S, S]`` to ``[n, C]``, or to a grid ``[n, C, H, W]``, of which
        whoever wants ``pooled`` takes the mean.

        Its weights are still to be loaded; it may lie on the meta device.
        """

    @abstractmethod
    def fit(self, state: State, size: int, output: str) -> State:
        """Of published weights what the network needs for ``size`` and ``output``, as it needs it."""

    def weights(self, wanted: str) -> State:
        """The weights of a published name, a path or a URL. Raises RequestError, FingerprintError."""
        return find_weights(self.name, wanted, self.presets, self.published)

    def published(self, name: str) -> State:
        """The weights of one of the ``presets``: torchvision's. Raises RequestError."""
        return hub_weights(self.name, name)

    def cut(self, network: nn.Module, layers: Sequence[str]) -> nn.Module:
        """``network``, its grid that of ``layers``. Raises RequestError where it has none to choose from."""
        raise RequestError(f"{self.name} gives its last grid alone; expected another encoder, or no --layers")

    def check_output(self, output: str) -> None:
        """Raises RequestError for an output that the network does not have."""
        if output not in self.outputs:
            raise RequestError(f"{self.name} has no {output}; expected {' or '.join(self.outputs)}")


class Tower(nn.Module):
    """Modules one after the other, under the names that weights have for them.

    ``trunk`` makes the grid ``[n, C, H, W]``; ``head``, where there is one, takes its mean ``[n, C, 1, 1]`` on.
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
