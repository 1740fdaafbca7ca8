"""Concatenates the grids of several layers of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn.functional import adaptive_avg_pool2d

from captionbeam.schemas.errors import RequestError


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
        return torch.cat(
            [
                grid if grid.shape[2:] == side else adaptive_avg_pool2d(grid, (side[0], side[1]))
                for grid in grids
            ],
            dim=1,
        )


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
