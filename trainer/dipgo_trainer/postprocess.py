"""From scores to a mask (paper, section 3.4): the pruner is thrown away, its scores are cut at a
threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Keep
from dipgo_trainer.cascade import Topology

TOLERANCE = 0.0125
BISECTIONS = 60  # halves (0, 1) below the spacing of float64 scores


def threshold_scores(scores: Tensor, topology: Topology, ratio: float, tolerance: float = TOLERANCE) -> Keep:
    """The mask that prunes ``ratio`` of the MACs, within ``tolerance``, and keeps the highest scores.

    ``scores``: (calls, blocks), in [0, 1]. The threshold is found by bisection: the cascade is monotone, so
    raising the threshold never adds MACs. Where no threshold hits the ratio (ties, or a gate that takes a
    whole call with it), the blocks below the last threshold that prunes too much are tried one by one: by
    score, ties by call, then from the output backwards; a block that would overshoot stays reused. Raises
    MaskError, with the nearest ratio that was found, when that fails too.
    """
    scores = scores.detach().double()
    low, high = 0.0, 1.0 + 1e-9  # scores >= low: everything kept; scores >= high: the first call only
    for _ in range(BISECTIONS):
        threshold = (low + high) / 2
        keep = topology.cascade(scores >= threshold)
        pruned = 1 - topology.kept_share(keep)
        if abs(pruned - ratio) < tolerance:
            return _rows(keep)
        low, high = (threshold, high) if pruned < ratio else (low, threshold)
    return _one_by_one(scores, scores >= high, topology, ratio, tolerance)


def _one_by_one(scores: Tensor, wanted: Tensor, topology: Topology, ratio: float, tolerance: float) -> Keep:
    keep = topology.cascade(wanted)
    pruned = 1 - topology.kept_share(keep)
    while pruned > ratio:
        left = [(call, block) for call, block in (~keep).nonzero().tolist()]
        for call, block in sorted(left, key=lambda at: (-scores[at].item(), at[0], -at[1])):
            tried = keep.clone()
            tried[call, block] = True
            if not topology.cascade(tried[[0, call]])[1, block]:
                continue  # it falls again
            after = 1 - topology.kept_share(tried)
            if after > ratio - tolerance:
                keep, pruned = tried, after
                break
        else:
            break
    if abs(pruned - ratio) >= tolerance:
        calls, blocks = scores.shape
        raise MaskError(
            f"no mask of {calls} calls and {blocks} blocks prunes {ratio:.4f} of the MACs within {tolerance}",
            available=[f"{pruned:.4f} (the nearest found)"],
            mend="ask for that ratio, or for more denoising steps or finer blocks",
        )
    return _rows(keep)


def _rows(keep: Tensor) -> Keep:
    return tuple(tuple(row) for row in torch.as_tensor(keep, dtype=torch.bool).tolist())
