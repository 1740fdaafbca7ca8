"""A recurrent linear layer whose weight gradient is one matrix product over all steps.

Autograd would compute one product per step and add up gradients of the weights' size (in bfloat16 under autocast).
Here the rows of all steps are collected and multiplied once, with accumulation in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Rows = list[tuple[Tensor, Tensor]]


def deferred(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Returns ``layer`` (without bias) for one multi-step forward pass; only the order of gradient sums differs."""
    if not torch.is_grad_enabled():
        return layer
    kind = layer.weight.device.type
    weight = layer.weight
    if torch.is_autocast_enabled(kind):
        weight = weight.to(torch.get_autocast_dtype(kind))
    rows: Rows = []
    fixed, ticket = weight.detach(), _Collect.apply(weight, rows)
    return lambda values: _Step.apply(values, fixed, ticket, rows)


class _Collect(torch.autograd.Function):
    """Runs before all steps, so its backward pass runs after theirs, when all rows are collected."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Rows) -> Tensor:
        ctx.rows, ctx.shape = rows, weight.shape
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, ticket: Tensor) -> tuple[Tensor, None]:
        values, gradients = zip(*ctx.rows, strict=True)
        ctx.rows.clear()
        return torch.cat(gradients).T @ torch.cat(values), None


class _Step(torch.autograd.Function):
    """One step, ``values [..., I]`` to ``[..., O]``; its backward pass stores the rows for the collector."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, ticket: Tensor, rows: Rows) -> Tensor:
        cast = values.to(weight.dtype)
        ctx.save_for_backward(cast, weight)
        ctx.rows, ctx.dtype = rows, values.dtype
        return functional.linear(cast, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        values, weight = ctx.saved_tensors
        ctx.rows.append((values.flatten(0, -2), gradient.flatten(0, -2)))
        return (gradient @ weight).to(ctx.dtype), None, weight.new_zeros(()), None
