"""The side length of a network's grid for an image's side length in pixels."""

from __future__ import annotations


def inception_v3(size: int) -> int:
    """Inception v3: 8 for 299."""
    side = (size - 3) // 2 + 1  # Conv2d_1a
    side = (side - 2 - 3) // 2 + 1  # Conv2d_2a, maxpool1
    side = (side - 2 - 3) // 2 + 1  # Conv2d_4a, maxpool2
    side = (side - 3) // 2 + 1  # Mixed_6a
    return (side - 3) // 2 + 1  # Mixed_7a


def half_five_times(size: int) -> int:
    """Networks that halve a padded input five times: 7 for 224."""
    return -(-size // 32)


def densenet(size: int) -> int:
    """DenseNet, two padded halvings and three unpadded ones: 7 for 224."""
    return -(-size // 4) // 8


def googlenet(size: int) -> int:
    """GoogLeNet: 7 for 224. The last pooling window may extend beyond the edge but must start inside."""
    side = -(-size // 2)  # conv1
    for _ in range(3):  # maxpool1, maxpool2, maxpool3: 3 cells wide
        side = -(-(side - 3) // 2) + 1 if side > 2 else 1
    return -(-side // 2)  # maxpool4: 2 cells wide


def convnext(size: int) -> int:
    """ConvNeXt, 4-pixel patches and three 2 x 2 reductions that drop remainders: 7 for 224."""
    return size // 4 // 2 // 2 // 2
