"""Networks as torchvision builds them, with random weights that are not degenerate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision import models


def random_network(name: str, **options: Any) -> nn.Module:
    """torchvision's ``name`` for inference, its batch norms having seen something."""
    torch.manual_seed(7)
    if name == "inception_v3":
        options = {"aux_logits": False, "init_weights": False, **options}
    network = getattr(models, name)(weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(4, 3, 107, 107))
    return network.eval()


def layer_output(network: nn.Module, layer: str, batch: torch.Tensor) -> torch.Tensor:
    """What ``layer`` gives when ``network`` sees ``batch``."""
    seen: list[torch.Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.inference_mode():
        network(batch)
    handle.remove()
    return seen[0]
