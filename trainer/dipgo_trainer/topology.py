"""The topology of a real denoiser, read off its exported graph."""

from __future__ import annotations

from collections.abc import Sequence

from dipgo_compile.mask import Reuse
from dipgo_compile.models.source import Model
from dipgo_trainer.cascade import Topology


def topology_of(model: Model, blocks: Sequence[str], reuse: Reuse = "output") -> Topology:
    """Blocks in execution order, with the readers of each and its MACs. Raises ModelError, GraphError, and
    MaskError for blocks without the residual that is to be reused.
    """
    from dipgo_compile.graphs.export import export
    from dipgo_compile.graphs.partition import partition
    from dipgo_compile.macs.counts import count_macs
    from dipgo_compile.masks.reuse import check_residuals

    if reuse == "residual":
        check_residuals(model, blocks)
    geometry = model.geometry(1)
    graph = partition(export(model, geometry), blocks, model.inputs(geometry))
    macs = count_macs(model, geometry, blocks, reuse)
    return Topology(
        blocks=tuple(blocks),
        consumers=graph.consumers(reuse),
        macs=tuple(macs.by_scope[block] for block in blocks),
        glue_macs=macs.glue,
        idle_macs=macs.idle,
    )
