"""A linear layer of a recurrence whose weights' gradient is one product over all steps, not a sum of one each.

A step's own product has as many rows as captions still run, and its result, as large as the weights, has to be
added to that of the others (in bfloat16 under autocast). Together they are one product of thousands of rows,
added up where float32 is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Rows = list[tuple[Tensor, Tensor]]


def deferred(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """``layer`` (which has no bias), for one forward pass of many steps: the same function, other gradients' order."""
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
    """Begins before all steps, so its backward pass comes after theirs; then the rows are complete."""

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
    """One step: ``values [..., I]`` to ``[..., O]``; its rows are put down for the collector."""

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
