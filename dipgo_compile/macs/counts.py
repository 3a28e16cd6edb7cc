"""Multiply-accumulates (MACs) of a denoiser and of each of its blocks.

Counted as the paper counts them for UNets: convolutions and linear layers, without the two products inside
attention; on request with them, as it counts DiT (``docs/macs.md``). Everything happens on the meta device,
so nothing is computed and no weights are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dipgo_compile.masks.checks import unknown_block

if TYPE_CHECKING:
    from dipgo_compile.mask import Reuse
    from dipgo_compile.models import Geometry
    from dipgo_compile.models.source import Model

# Linear layers reach aten as (add)mm; bmm and the fused kernels are attention's products.
COUNTED = frozenset({"aten.convolution", "aten.addmm", "aten.mm"})

Operations = Mapping[str, Mapping[str, int]]
"""MACs by module scope, ``""`` for all of the denoiser, and by aten operator."""


@dataclass(frozen=True)
class Macs:
    """MACs of one denoiser call for one sample: all of it, by block scope, and of a call that keeps no
    block.
    """

    total: int
    by_scope: Mapping[str, int] = field(hash=False)
    idle: int = 0

    @property
    def glue(self) -> int:
        """What lies in none of the scopes, given that no scope lies inside another."""
        return self.total - sum(self.by_scope.values())

    def of_call(self, kept: Iterable[str]) -> int:
        """MACs of a call that computes the ``kept`` scopes.

        It costs them and the glue around them (time embedding, first and last convolution). A call that keeps
        nothing costs ``idle``: as much as the glue where sample or timestep reach the noise prediction past
        the blocks or, under residual reuse, through them; otherwise nothing, because its noise prediction is
        the one before.
        """
        costs = [self.by_scope[scope] for scope in kept]
        return sum(costs) + self.glue if costs else self.idle


def count_macs(
    model: Model,
    geometry: Geometry,
    scopes: Iterable[str],
    reuse: Reuse = "output",
    *,
    attention: bool = False,
) -> Macs:
    """MACs of one denoiser call for one sample: ``geometry``'s batch is taken as 1.

    A scope counts all that lies in it, so an outer scope includes the inner ones. ``attention``: count also
    its two products, queries with keys and scores with values. Raises MaskError for a scope that the denoiser
    doesn't have.
    """
    from dipgo_compile.masks.reuse import idle_call_computes

    by_scope = macs_by_scope(model, geometry, scopes, attention=attention)
    counted = Macs(macs_by_scope(model, geometry, ("",), attention=attention)[""], by_scope)
    return (
        replace(counted, idle=counted.glue) if idle_call_computes(model, tuple(by_scope), reuse) else counted
    )


def macs_by_scope(
    model: Model, geometry: Geometry, scopes: Iterable[str], *, attention: bool = False
) -> dict[str, int]:
    """As ``count_macs``, the scopes alone; ``""`` is the whole denoiser."""
    operations = model.operations(geometry)
    by_scope = {}
    for scope in scopes:
        if scope not in operations:
            raise unknown_block(scope, filter(None, operations))
        by_scope[scope] = sum(
            macs for operator, macs in operations[scope].items() if attention or operator in COUNTED
        )
    return by_scope


def count_operations(model: Model, geometry: Geometry) -> Operations:
    """What a denoiser call for one sample multiplies and accumulates, attention's products included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dipgo_compile.models.source import example_inputs

    denoiser = model.on_meta()
    inputs = example_inputs(model.inputs(replace(geometry, batch=1)), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser(**model.family.arguments(inputs))
    flops, root = counter.get_flop_counts(), type(denoiser).__name__
    return {
        scope: {  # a multiply-accumulate is two operations
            str(operator): int(count) // 2
            for operator, count in flops.get(f"{root}.{scope}" if scope else root, {}).items()
        }
        for scope, _ in denoiser.named_modules()
    }
