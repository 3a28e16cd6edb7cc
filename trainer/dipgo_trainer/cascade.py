"""The gate cascade on tensors, and what each block's gate is worth in MACs (paper, sections 3.2 and 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dipgo_compile.mask import Keep, legalize

Consumers = Mapping[str, frozenset[str | None]]


@dataclass(frozen=True)
class Topology:
    """The blocks of one denoiser call, in execution order, who reads whom, and their MACs.

    ``consumers`` is what ``BlockGraph.consumers`` gives; None stands for the denoiser's output. ``macs``: one
    entry per block; ``glue_macs``: what every call that computes a block spends outside the blocks;
    ``idle_macs``: what a call spends that computes none (see ``Macs.of_call``).
    """

    blocks: tuple[str, ...]
    consumers: Consumers
    macs: tuple[int, ...]
    glue_macs: int
    idle_macs: int = 0

    @property
    def call_macs(self) -> int:
        """MACs of one unpruned call."""
        return sum(self.macs) + self.glue_macs

    def cascade(self, keep: Tensor) -> Tensor:
        """Booleans (calls, blocks): a block whose every consumer is reused is reused too. The first call is
        whole."""
        rows = legalize(_whole_first(keep), self.blocks, self.consumers)
        return torch.tensor(rows, dtype=torch.bool).reshape(keep.shape)

    def kept_share(self, keep: Tensor) -> float:
        """MACs of a cascaded mask over those of the unpruned calls, as in ``Mask.macs_ratio``."""
        costs = torch.tensor(self.macs, dtype=torch.float64)
        around = torch.where(keep.any(-1), self.glue_macs, self.idle_macs)
        spent = (keep.double() @ costs + around).sum().item()
        return float(spent / (len(keep) * self.call_macs))

    def weights(self) -> Tensor:
        """For each block its share of a call's blocks' MACs, and of what falls with it when it alone is
        reused."""
        count = len(self.blocks)
        alone = ~torch.eye(count, dtype=torch.bool)
        kept = self.cascade(torch.cat([torch.ones(1, count, dtype=torch.bool), alone]))[1:]
        return (~kept).float() @ torch.tensor(self.macs, dtype=torch.float32) / sum(self.macs)


def _whole_first(keep: Tensor) -> Keep:
    rows: Sequence[Sequence[bool]] = keep.tolist()
    return ((True,) * keep.shape[1], *(tuple(row) for row in rows[1:]))
