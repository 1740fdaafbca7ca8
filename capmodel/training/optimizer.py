"""Adam, its learning rate, and its state as plain arrays."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW

from captionbeam.capmodel.training.checkpoints import Tensors
from captionbeam.schemas.errors import RequestError

BETAS = (0.9, 0.98)


def learning_rate(step: int, steps: int, peak: float, warmup: float, schedule: str = "cosine") -> float:
    """Returns the learning rate: linear up to ``peak`` over the first ``warmup`` share of ``steps``, then the schedule.

    ``cosine``: falls along half a cosine (Loshchilov and Hutter 2017, without restarts). ``constant``: stays at
    ``peak``.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def make_optimizer(model: nn.Module, rate: float, weight_decay: float = 0.0) -> AdamW:
    """Returns AdamW (fused) over all parameters.

    ``weight_decay`` is decoupled from the gradients (Loshchilov and Hutter 2019) and applies to embeddings and matrices
    only, not to biases and norms.
    """
    parts = [[value for value in model.parameters() if (value.ndim > 1) is large] for large in (True, False)]
    decays = (weight_decay, 0.0)
    groups = [
        {"params": part, "weight_decay": decay} for part, decay in zip(parts, decays, strict=True) if part
    ]
    return AdamW(groups, lr=rate, betas=BETAS, fused=True)


def parameters_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns the model's parameters as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}


def load_parameters(model: nn.Module, tensors: Tensors) -> None:
    """Sets the parameters. Raises RequestError if names or shapes differ."""
    expected = {name: tuple(value.shape) for name, value in model.named_parameters()}
    found = {name: value.shape for name, value in tensors.items()}
    if found != expected:
        odd = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise RequestError(
            f"the weights kept differ from the model's in {odd[0]!r}; expected the same names and shapes"
        )
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.from_numpy(tensors[name]))


def full_state(model: nn.Module, optimizer: AdamW) -> dict[str, np.ndarray]:
    """Returns parameters as ``model.NAME`` and Adam's state as ``adam.KEY.NAME``."""
    state = {f"model.{name}": value for name, value in parameters_of(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            state[f"adam.{key}.{name}"] = value.detach().cpu().numpy()
    return state


def load_state(model: nn.Module, optimizer: AdamW, tensors: Tensors) -> None:
    """Loads the result of ``full_state`` into a model and a new optimizer. Raises RequestError."""
    load_parameters(model, with_prefix("model.", tensors))
    moments = with_prefix("adam.", tensors)
    for name, parameter in model.named_parameters():
        keys = {key.partition(".")[0] for key in moments if key.partition(".")[2] == name}
        optimizer.state[parameter] = {
            key: torch.from_numpy(moments[f"{key}.{name}"]).to(parameter.device) for key in keys
        }


def with_prefix(prefix: str, tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns the ``tensors`` whose names begin with ``prefix``, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
