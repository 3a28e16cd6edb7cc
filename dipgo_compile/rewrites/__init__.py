"""Rewrites of the exported graph, before it is cut: what a backend's kernels do better in another form.

They change the graph that ``build`` exports, in place. The ``dense`` row of ``bench`` runs the exporter's
graph as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from dipgo_compile.plan import PassReport
from dipgo_compile.rewrites.attention import FuseAttention
from dipgo_compile.rewrites.base import Rewrite
from dipgo_compile.rewrites.group_norm import LowerGroupNorm
from dipgo_compile.rewrites.mask_floor import MaskFloor
from dipgo_compile.rewrites.modulated_norm import ModulatedNorm
from dipgo_compile.rewrites.split_linear import SplitLinear
from dipgo_compile.rewrites.tile_rows import TileRows
from dipgo_compile.rewrites.upsampled_conv import UpsampledConv

REWRITES: tuple[type[Rewrite], ...] = (
    FuseAttention,
    MaskFloor,
    SplitLinear,
    LowerGroupNorm,
    ModulatedNorm,
    TileRows,
    UpsampledConv,
)
NAMES = tuple(rewrite.name for rewrite in REWRITES)


def default_rewrites(backend: str, *, provider: str = "cpu") -> list[Rewrite]:
    """Those that pay with ``backend`` ("onnxruntime") and its execution provider, in order. Each can be left
    out.
    """
    return [
        rewrite()
        for rewrite in REWRITES
        if backend in rewrite.backends and (provider == "cpu" or not rewrite.cpu_only)
    ]


def apply(
    model: ir.Model,
    rewrites: Sequence[Rewrite],
    disabled: Collection[str] = (),
    blocks: Collection[str] = (),
) -> tuple[PassReport, ...]:
    """Run the rewrites on ``model``, in place, except those named in ``disabled``; report each one run.

    ``blocks``: the scopes that it will be cut into.
    """
    reports = []
    for rewrite in rewrites:
        if rewrite.name in disabled:
            continue
        before = len(model.graph)
        count = rewrite(model, blocks)
        summary = (
            f"{count} replaced, {before} nodes became {len(model.graph)}" if count else "nothing to replace"
        )
        reports.append(PassReport(rewrite.name, count > 0, summary))
    return tuple(reports)


__all__ = ["NAMES", "REWRITES", "Rewrite", "apply", "default_rewrites"]
