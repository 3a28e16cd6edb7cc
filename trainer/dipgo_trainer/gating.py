"""One gated tensor: ``reuse * cached + keep * computed``, and its gradient without the work that is known to
be zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gate(gates: Tensor, values: tuple[float, float], cached: Tensor, computed: Tensor) -> Tensor:
    """Mix two tensors of one shape by ``gates`` (shape (2,), columns (reuse, keep)), whose values are
    ``values``.

    Hard gates, (1, 0) and (0, 1), select instead of mixing; the gradient is that of the mixture all the same.
    """
    if values == (1.0, 0.0) or values == (0.0, 1.0):
        selected: Tensor = _Select.apply(  # type: ignore[no-untyped-call]
            gates, values[1] == 1.0, cached, computed
        )
        return selected
    return gates[0] * cached + gates[1] * computed


class _Select(torch.autograd.Function):
    """A hard gate. The tensor that isn't selected gets no gradient at all, so autograd skips what computed
    it."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, keep: bool, cached: Tensor, computed: Tensor) -> Tensor:
        ctx.keep = keep
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(cached, computed)
        return (computed if keep else cached).view_as(cached)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gates = None
        if ctx.needs_input_grad[0]:
            gates = torch.stack(
                [torch.vdot(gradient.flatten(), side.flatten()) for side in ctx.saved_tensors]
            )
        return gates, None, None if ctx.keep else gradient, gradient if ctx.keep else None
